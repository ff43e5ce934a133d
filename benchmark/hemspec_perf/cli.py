"""The command ``hemspec-perf``."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from hemspec_benchmark.style import png, svg
from hemspec_perf import document as documents
from hemspec_perf import plan, plots, runner
from hemspec_perf.summary import summary
from hemspec_perf.tables import table

FrameworkName = Enum("FrameworkName", {name: name for name in plan.FRAMEWORKS}, type=str)  # type: ignore[misc]
EXECUTIONS = tuple(dict.fromkeys(name for names in plan.FRAMEWORKS.values() for name in names))
ExecutionName = Enum("ExecutionName", {name: name for name in EXECUTIONS}, type=str)  # type: ignore[misc]
LossName = Enum("LossName", {name: name for name in ("hem", "mm")}, type=str)  # type: ignore[misc]
DtypeName = Enum("DtypeName", {name: name for name in plan.SIZES}, type=str)  # type: ignore[misc]

console = Console(width=None if sys.stdout.isatty() else 140)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.command(
    epilog="""Examples:\n
      hemspec-perf                                              everything on the CPU, minutes\n
      hemspec-perf --quick --framework torch                    less than a minute\n
      hemspec-perf --framework jax --shape 4096x1000 --loss hem --repeats 100\n
      hemspec-perf --gpu                                        PyTorch's and JAX's CUDA lines, under 8 minutes\n
      hemspec-perf --read results/perf/results.json             tables and plots again, nothing is measured"""
)
def main(
    framework: Annotated[
        list[FrameworkName] | None,
        typer.Option(
            "--framework",
            metavar="FRAMEWORK",
            show_default="all",
            help=f"{', '.join(plan.FRAMEWORKS)}; repeat for more.",
        ),
    ] = None,
    execution: Annotated[
        list[ExecutionName] | None,
        typer.Option(
            "--execution", metavar="EXECUTION", show_default="all", help=f"{', '.join(EXECUTIONS)}; repeat for more."
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--shape",
            metavar="NxC",
            show_default=", ".join(plan.CPU_SHAPES),
            help="Batch x classes (x spatial axes); repeat.",
        ),
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(
            "--head",
            metavar="NxDxC",
            show_default=", ".join(plan.HEADS),
            help="Batch x features x classes of a linear head; repeat.",
        ),
    ] = None,
    loss: Annotated[
        list[LossName] | None,
        typer.Option("--loss", metavar="LOSS", show_default="both", help="hem, mm; CE is always measured."),
    ] = None,
    dtype: Annotated[
        list[DtypeName] | None,
        typer.Option(
            "--dtype", metavar="DTYPE", show_default="float32", help="float32, float16, bfloat16; repeat for more."
        ),
    ] = None,
    variants: Annotated[
        bool | None, typer.Option(help="Also half precisions, ignored positions, weights and vector margins.")
    ] = None,
    repeats: Annotated[int | None, typer.Option(min=5, show_default="30", help="Rounds, at most.")] = None,
    limit: Annotated[
        float | None, typer.Option(min=1, show_default=f"none; {plan.GPU_LIMIT:g} with --gpu", help="Seconds for all.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Cores for each framework.")] = 2,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small shapes, eager or jitted, few rounds: a minute.")
    ] = False,
    gpu: Annotated[bool, typer.Option("--gpu", help="The lines for a CUDA device instead of the CPU's.")] = False,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="For results.json, summary.md and the plots.", file_okay=False)
    ] = Path("results/perf"),
    read: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Show this result instead of measuring.", dir_okay=False)
    ] = None,
) -> None:
    """Speed and memory of the margin losses beside the framework's own, in turns, each checked before it is timed."""
    try:
        if read is not None:
            document = documents.read(read)
            for found in document["tables"]:
                console.print(table(found))
        else:
            cores = len(os.sched_getaffinity(0))
            if threads > cores:
                raise plan.PlanError(f"--threads is {threads}, but this process may use {cores} cores")
            lines = choose(
                names(framework), names(execution), shape, head, names(dtype), variants=variants, quick=quick, gpu=gpu
            )
            options = runner.Options(
                threads,
                repeats or (8 if quick else 30),
                budget=0.5 if quick else 1.5,
                losses=tuple(names(loss)) or plan.LOSSES,
                limit=limit or (plan.GPU_LIMIT if gpu else None),
            )
            document = measure(lines, options)
            documents.write(document, output / "results.json")
        draw(document, output)
    except (plan.PlanError, runner.WorkerError, documents.DocumentError) as error:
        console.print(f"[bold red]Failed:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    if read is None and not any(found.get("results") for found in document["tables"]):
        console.print("[bold red]Failed:[/] nothing was measured; the tables say why", highlight=False)
        raise typer.Exit(1)


def names(chosen: list[Any] | None) -> list[str]:
    return [entry.value for entry in chosen or []]


def choose(
    frameworks: list[str],
    executions: list[str],
    shapes: list[str] | None,
    heads: list[str] | None,
    dtypes: list[str],
    *,
    variants: bool | None,
    quick: bool,
    gpu: bool,
) -> list[plan.Line]:
    """The lines that were asked for.

    Raises:
        PlanError: what of it cannot be measured.
    """
    head_dtypes = dtypes or ["bfloat16" if gpu else "float32"]
    standard: tuple[str, ...]
    grown: tuple[str, ...]
    of_variants: tuple[str, ...]
    if gpu:
        frameworks = frameworks or ["torch", "jax"]
        if unknown := set(frameworks) - {"torch", "jax"}:
            raise plan.PlanError(f"--gpu measures torch and jax, not {', '.join(sorted(unknown))}")
        standard, grown, of_variants = plan.GPU_SHAPES, (), plan.GPU_VARIANTS
    elif quick:
        standard, grown, of_variants = plan.QUICK_SHAPES, (), ()
        executions = executions or ["eager", "jit", "function", "fit"]
    else:
        standard, grown, of_variants = plan.CPU_SHAPES, plan.GROWTH, plan.VARIANT_SHAPES
    if shapes:
        standard, grown, of_variants = tuple(shapes), (), tuple(shapes) if variants else ()
    elif heads:
        standard, grown, of_variants = (), (), ()
    elif variants is not None:
        of_variants = (of_variants or standard[:1]) if variants else ()
    of_heads = heads or (() if shapes or quick else plan.GPU_HEADS if gpu else plan.HEADS)
    found = []
    for framework in frameworks or plan.FRAMEWORKS:
        for execution in plan.FRAMEWORKS[framework]:
            if executions and execution not in executions:
                continue
            usual = ["float32"]
            if gpu:
                usual = ["bfloat16"] if execution == "compile" else ["bfloat16", "float32"]
                if not (shapes or heads):
                    standard = plan.GPU_COMPILED if execution == "compile" else plan.GPU_SHAPES
            more = () if execution == "fit" else grown
            few = of_variants if execution != "compile" or variants else ()
            found += plan.make_plan(
                [framework],
                [execution],
                [*standard, *more],
                device="cuda" if gpu else "cpu",
                dtypes=dtypes or usual,
                variant_shapes=few,
                heads=of_heads,
                head_dtypes=head_dtypes,
            )
    if not found:
        raise plan.PlanError(f"--framework {', '.join(frameworks)} has no execution {', '.join(executions)}")
    return found


def measure(lines: list[plan.Line], options: runner.Options) -> documents.Document:
    """Run, and show each table as it comes."""
    tables: list[Any] = []

    def on_table(found: dict[str, Any]) -> None:
        tables.append(found)
        console.print(table(found))
        if not console.is_terminal:
            sys.stdout.flush()

    with console.status(f"{len(lines)} tables ..."):
        machines = runner.run(lines, options, on_table)
    return documents.new(shlex.join(["hemspec-perf", *sys.argv[1:]]), asdict(options), machines, tables)


def draw(document: documents.Document, output: Path) -> None:
    """The plots as PNG and SVG, and the summary."""
    figures = plots.figures(document)
    output.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        (output / f"{name}.png").write_bytes(png(figure))
        (output / f"{name}.svg").write_text(svg(figure, name, f"Time and memory, {name}"), encoding="utf-8")
    (output / "summary.md").write_text(summary(document), encoding="utf-8")
    console.print(
        f"summary.md, {len(figures)} plots, and results.json after a measurement, in {output}", soft_wrap=True
    )
