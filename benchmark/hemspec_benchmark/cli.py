"""The command ``hemspec-benchmark``."""

from __future__ import annotations

import shlex
import sys
import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from hemspec_benchmark import document, report, statistics, tune
from hemspec_benchmark.losses import LOSSES
from hemspec_benchmark.plots import BACKENDS as NAMES
from hemspec_benchmark.runner import Result, Run, WorkerError, run
from hemspec_benchmark.settings import BACKENDS, Experiment, HyperParameters, Job

LossName = Enum("LossName", {name: name for name in LOSSES}, type=str)
BackendName = Enum("BackendName", {name: name for name in BACKENDS}, type=str)

DEFAULTS = HyperParameters()
SEEDS = 4
RESULTS = Path("results")
ALL = "[dim]\\[default: all][/dim]"
WITHOUT_BATCH_NORM = ("ce", "hem", "hem-mean")
"""The losses of the second experiment: HEM's two reductions, and what they are measured against."""

console = Console()
app = typer.Typer(
    help="Train the same network with every loss in every framework, and check that the frameworks agree.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.command(
    epilog="""Examples:\n
      hemspec-benchmark quick\n
      hemspec-benchmark quick --loss ce --loss hem --backend torch --seeds 10\n
      hemspec-benchmark quick --epochs 2 --seeds 1 --output /tmp/look"""
)
def quick(
    loss: Annotated[
        list[LossName] | None, typer.Option(help="A loss to train with; repeat for more. [default: all]")
    ] = None,
    backend: Annotated[
        list[BackendName] | None, typer.Option(help="A framework; repeat for more. [default: all]")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each loss in each framework.")] = SEEDS,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = DEFAULTS.epochs,
    output: Annotated[Path, typer.Option(help="Folder for quick.json and quick.html.", file_okay=False)] = Path(
        "results"
    ),
) -> None:
    """The digits, in a few minutes on a CPU.

    Writes a table to the terminal, and every number and a page with the plots to the output folder.
    Exits with 1 when the frameworks' first losses differ by more than rounding.
    """
    chosen = [name for name in LOSSES if not loss or name in {entry.value for entry in loss}]
    experiments = {
        "batch-norm": Experiment("With batch norm", batch_norm=True, losses=tuple(chosen)),
        "no-batch-norm": Experiment(
            "Without batch norm", batch_norm=False, losses=tuple(name for name in WITHOUT_BATCH_NORM if name in chosen)
        ),
    }
    job = Job(
        hyper_parameters=HyperParameters(epochs=epochs),
        experiments={name: experiment for name, experiment in experiments.items() if experiment.losses},
        backends=tuple(name for name in BACKENDS if not backend or name in {entry.value for entry in backend}),
        seeds=seeds,
    )
    output.mkdir(parents=True, exist_ok=True)  # find out now, not after minutes of training
    start = time.perf_counter()
    try:
        outcome = run_with_progress(job)
    except WorkerError as error:
        console.print(f"[bold red]Failed:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None

    comparisons = statistics.compare(outcome.results, statistics.reference_losses(job))
    result = document.build(
        job,
        outcome,
        comparisons,
        command=shlex.join(["hemspec-benchmark", *sys.argv[1:]]),
        seconds=time.perf_counter() - start,
    )
    document.write(result, output / "quick.json")
    (output / "quick.html").write_text(report.page(result), encoding="utf-8")
    for name in job.experiments:
        console.print(report.table(result, name))
    console.print(f"Every number: {output / 'quick.json'}; plots: {output / 'quick.html'}", soft_wrap=True)

    failures = [comparison for comparison in comparisons if not comparison.agrees]
    if failures:
        console.print(
            f"[bold red]The frameworks disagree[/] in {len(failures)} of {len(comparisons)} comparisons of the losses "
            f"of the first {len(statistics.TOLERANCES)} steps:"
        )
        for failure in failures:
            console.print(f"  {failure}", highlight=False, soft_wrap=True)
        raise typer.Exit(1)
    largest = max(comparison.difference for comparison in comparisons)
    console.print(
        f"[green]The frameworks agree[/] on the first {len(statistics.TOLERANCES)} steps: "
        f"{len(comparisons)} comparisons, largest relative difference {largest:.1e}."
    )


def run_with_progress(job: Job) -> Run:
    """Run the job behind a progress bar; without a terminal, with a line now and then."""
    total = len(job.cells())
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        everything = progress.add_task("all trainings", total=total * len(job.backends))
        tasks = {backend: progress.add_task(NAMES[backend][0], total=total) for backend in job.backends}

        def on_result(result: Result) -> None:
            progress.advance(everything)
            progress.advance(tasks[result.backend])
            if not console.is_terminal and result.cell.seed == job.seeds - 1:
                name, label = NAMES[result.backend][0], LOSSES[result.cell.loss].label
                console.print(f"{name}: {label}, {job.experiments[result.cell.experiment].title.lower()}: done")

        return run(job, on_result)


@app.command(name="tune")
def tune_command(seeds: Annotated[int, typer.Option(min=1, help="Trainings at each point of the grid.")] = 3) -> None:
    """How the hyper-parameters were chosen: a grid for cross-entropy on a validation split (PyTorch, two minutes)."""
    table = Table(title="CE, accuracy on the validation split", caption="mean ± standard error over seeds")
    for column in ("epochs", "learning rate", "accuracy in %"):
        table.add_column(column, justify="right")
    with console.status("training ...") as status:
        for point, summary in tune.search(seeds):
            accuracy = report.percent({"accuracy": summary.accuracy, "standard_error": summary.standard_error})
            table.add_row(str(point.epochs), str(point.learning_rate), accuracy)
            status.update(f"{len(table.rows)} of {len(tune.GRID)} done")
    console.print(table)
