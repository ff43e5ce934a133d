"""The command ``hemspec-benchmark``."""

from __future__ import annotations

import shlex
import sys
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from hemspec_benchmark import datasets, report, store, tune
from hemspec_benchmark.agreement import agreement
from hemspec_benchmark.datasets import DataError, Dataset
from hemspec_benchmark.learner import BACKENDS
from hemspec_benchmark.losses import COMPARED, LOSSES
from hemspec_benchmark.readme import ReadmeError, update
from hemspec_benchmark.runner import Options, WorkerError, run
from hemspec_benchmark.settings import CIFAR, DIGITS, QUICK, TASKS, Cell, Plan, Protocol, explorations
from hemspec_benchmark.store import Store, StoreError

TaskName = Enum("TaskName", {name: name for name in TASKS}, type=str)
LossName = Enum("LossName", {name: name for name in LOSSES}, type=str)
BackendName = Enum("BackendName", {name: name for name in BACKENDS}, type=str)
Device = Enum("Device", {name: name for name in ("auto", "cpu", "gpu")}, type=str)
Part = Enum("Part", {name: name for name in tune.GRIDS}, type=str)

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
EXPLORED = 5
"""Seeds of the explorations."""
RESULT = "results.json"

Tasks = Annotated[list[TaskName] | None, typer.Option("--task", help="A task; repeat for more. [default: all]")]
Losses = Annotated[
    list[LossName] | None, typer.Option("--loss", help="A loss; repeat for more. [default: all that are compared]")
]
Backends = Annotated[
    list[BackendName] | None, typer.Option("--backend", help="A framework; repeat for more. [default: all]")
]
Output = Annotated[Path, typer.Option(help="Folder for the results.", file_okay=False)]
Seeds = Annotated[int, typer.Option(min=1, help="Trainings of each loss in each setting and framework.")]
Processes = Annotated[int, typer.Option(min=0, help="At once; 0: one a framework, or a core where there are more.")]

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
    processes: Processes = 0,
) -> None:
    """All six tasks in small, on the digits, in minutes on a CPU. Always starts anew.

    Exits with 1 when the frameworks' first losses differ by more than rounding.
    """
    plan = make_plan(QUICK, task, loss, backend, range(seeds), settings=QUICK_SETTINGS)
    with errors():
        (output / store.FILE).unlink(missing_ok=True)
        finish(plan, output, Options(processes=processes), digits=datasets.digits())


@app.command(
    name="run",
    epilog="""Examples:\n
      hemspec-benchmark run --output results/full\n
      hemspec-benchmark run --explore --output results/full      also what learning rate, length and batch norm do\n
      hemspec-benchmark run --task continual --loss ce --loss hem --backend jax --seeds 20\n
      hemspec-benchmark run --first-seed 5 --seeds 5 --output b  seeds 5 to 9, on a second machine; then merge\n
      hemspec-benchmark run --budget 60                          no cell is begun after an hour; run again to go on\n
      hemspec-benchmark run --data cifar10 --data-dir ~/data --device gpu --mixed-precision --seeds 3\n
      hemspec-benchmark run --data my.npz --epochs 30 --task accuracy --task rejection""",
)
def run_command(
    task: Tasks = None,
    loss: Losses = None,
    backend: Backends = None,
    seeds: Seeds = 10,
    first_seed: Annotated[int, typer.Option(min=0, help="Seeds are counted from here.")] = 0,
    explore: Annotated[
        bool, typer.Option("--explore", help="Also vary learning rate, length and batch norm (JAX, 5 seeds).")
    ] = False,
    data: Annotated[str, typer.Option(help="digits, cifar10, cifar100, or a file that ends in .npz.")] = "digits",
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with the CIFAR archive (python version), as downloaded or extracted.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training images. [default: 15; 200 on CIFAR]")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0, help="[default: 0.1]")] = None,
    architecture: Annotated[
        str | None, typer.Option(help="small or resnet18. [default: small for the digits, resnet18 otherwise]")
    ] = None,
    device: Annotated[
        Device | None, typer.Option(help="What to train on. [default: cpu for the digits, auto otherwise]")
    ] = None,
    mixed_precision: Annotated[bool, typer.Option("--mixed-precision", help="bfloat16 where it is safe.")] = False,
    budget: Annotated[float | None, typer.Option(min=0, help="Minutes after which no cell is begun.")] = None,
    output: Output = Path("results/run"),
    processes: Processes = 0,
) -> None:
    """The full run: as many seeds as statistics need. Goes on where an earlier run into the same folder stopped."""
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
            plan = replace(plan, explorations=explorations(plan.seeds[:EXPLORED]))
        options = Options(
            device="cpu" if device is None and chosen.name == "digits" else device.value if device else "auto",  # type: ignore[arg-type]
            processes=processes,
            budget=60 * budget if budget is not None else float("inf"),
            data_dir=data_dir,
        )
        finish(plan, output, options, digits=chosen)


@app.command(
    epilog="""Example:\n
      hemspec-benchmark merge a/results.json b/results.json --output both.json"""
)
def merge(
    results: Annotated[list[Path], typer.Argument(help="Results of one protocol, .json or .json.gz.")],
    output: Annotated[Path, typer.Option(help="Where to write them together.", dir_okay=False)],
) -> None:
    """Put results of several machines together."""
    with errors():
        merged, twice = store.merge([(str(path), store.read(path)) for path in results])
        store.write(merged, output)
    cells = len(merged["cells"]) + len(merged["explorations"])
    console.print(f"{cells} cells in {output}" + (f"; {twice} were there twice, the first was kept" if twice else ""))


@app.command(
    name="report",
    epilog="""Examples:\n
      hemspec-benchmark report results/full/results.json --output results/full\n
      hemspec-benchmark report benchmark/results/full.json.gz --readme README.md           writes its tables\n
      hemspec-benchmark report benchmark/results/full.json.gz --readme README.md --check   are they up to date?""",
)
def report_command(
    result: Annotated[Path, typer.Argument(help="A result, .json or .json.gz.")],
    output: Annotated[Path | None, typer.Option(help="Folder for the page and the pictures.", file_okay=False)] = None,
    readme: Annotated[Path | None, typer.Option(help="A file with tables between markers.", dir_okay=False)] = None,
    check: Annotated[bool, typer.Option("--check", help="Compare the tables instead of writing them.")] = False,
) -> None:
    """Make the page, the pictures and the README's tables again from a result: every number comes from it."""
    with errors():
        document = store.read(result)
        if readme is not None:
            update(readme, report.markdown(document), check=check)
            console.print(f"The tables in {readme} are {'as' if check else 'now'} measured.")
        if output is not None:
            write_report(document, output)


@app.command(name="tune")
def tune_command(
    part: Annotated[
        list[Part] | None, typer.Option("--part", help="Which recipe; repeat for more. [default: all]")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings at each point of a grid.")] = 3,
    backend: Annotated[BackendName, typer.Option(help="The framework to search with.")] = SEARCHED_WITH,
) -> None:
    """How the hyper-parameters were chosen: grids for cross-entropy on validation splits (minutes)."""
    for name in [entry.value for entry in part] if part else tune.GRIDS:
        task, _, metric = tune.MEASURES[name]  # type: ignore[index]
        table = Table(title=f"CE, {task}: {metric} on the validation split", caption="mean ± standard error over seeds")
        for column in ("epochs", "learning rate", "%"):
            table.add_column(column, justify="right")
        points = []
        with console.status("training ..."):
            for point in tune.search(name, seeds, backend.value):  # type: ignore[arg-type]
                points.append(point)
                value = f"{100 * point.value:.2f} ± {100 * point.standard_error:.2f}"
                table.add_row(str(point.recipe.epochs), f"{point.recipe.learning_rate:g}", value)
        chosen = tune.choose(points).recipe
        console.print(table)
        console.print(f"The rule takes {chosen.epochs} epochs at a rate of {chosen.learning_rate:g}.")


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
    data = datasets.load(name, data_dir)
    protocol = DIGITS if name == "digits" else replace(CIFAR, data=name)
    if architecture:
        protocol = replace(protocol, architecture=architecture)
    recipe = protocol.classification
    recipe = replace(recipe, epochs=epochs or recipe.epochs, learning_rate=learning_rate or recipe.learning_rate)
    protocol = replace(protocol, classification=recipe, mixed_precision=mixed_precision)
    if len(data.train_labels) < recipe.batch_size:
        raise DataError(
            f"{name} has {len(data.train_labels)} training images, fewer than a batch of {recipe.batch_size}"
        )
    return data, protocol


def finish(plan: Plan, output: Path, options: Options, *, digits: Dataset) -> None:
    """Run, write the result and the report, and say whether the frameworks agree."""
    kept = Store(output, plan.protocol)
    try:
        run_with_progress(plan, kept, options)
    finally:
        document = store.document(
            plan.protocol,
            kept,
            command=shlex.join(["hemspec-benchmark", *sys.argv[1:]]),
            planned=plan.cells(),
            class_counts=digits.class_counts,
        )
        kept.close()
        store.write(document, output / RESULT)
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


def write_report(document: store.Document, output: Path) -> None:
    """The page, and its pictures as files."""
    output.mkdir(parents=True, exist_ok=True)
    page = output / "report.html"
    page.write_text(report.page(document), encoding="utf-8")
    pictures = report.write_pngs(document, output / "pictures")
    console.print(f"The report: {page}; {len(pictures)} pictures in {output / 'pictures'}", soft_wrap=True)


def run_with_progress(plan: Plan, kept: Store, options: Options) -> None:
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
