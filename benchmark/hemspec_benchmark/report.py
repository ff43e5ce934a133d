"""What people read: the tables in the terminal and the page with the plots, both made from the JSON document alone."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich.table import Table

from hemspec_benchmark import plots


def rows(document: dict[str, Any], experiment: str) -> list[dict[str, Any]]:
    """The table of an experiment: for each loss its label and, by backend, what the summary says."""
    entries = {
        (entry["loss"], entry["backend"]): entry for entry in document["summary"] if entry["experiment"] == experiment
    }
    return [
        {
            "loss": loss,
            "label": document["losses"][loss]["label"],
            "entries": [entries[loss, backend] for backend in document["backends"]],
        }
        for loss in document["experiments"][experiment]["losses"]
    ]


def percent(entry: dict[str, Any]) -> str:
    """``98.52 ± 0.12``; a single seed has no standard error."""
    error = entry["standard_error"]
    return f"{100 * entry['accuracy']:.2f}" + ("" if error is None else f" ± {100 * error:.2f}")


def table(document: dict[str, Any], experiment: str) -> Table:
    """The table for the terminal."""
    result = Table(title=document["experiments"][experiment]["title"], caption=caption(document))
    result.add_column("Loss")
    for backend in document["backends"]:
        result.add_column(plots.BACKENDS[backend][0], justify="right")
        result.add_column("s", justify="right", style="dim")
    for row in rows(document, experiment):
        cells = [text for entry in row["entries"] for text in (percent(entry), f"{entry['seconds']:.1f}")]
        result.add_row(row["label"], *cells)
    return result


def caption(document: dict[str, Any]) -> str:
    """What the numbers of a table are."""
    seeds = document["seeds"]
    many = f"mean ± standard error over {seeds} seeds" if seeds > 1 else "one seed"
    return f"Test accuracy in %, {many}; s: seconds for one training (median)."


def agreement(document: dict[str, Any]) -> dict[str, Any]:
    """The largest relative differences: by loss and step, and over all; and the comparisons that fail."""
    comparisons = document["agreement"]["comparisons"]
    steps = range(1, len(document["agreement"]["tolerances"]) + 1)
    return {
        "steps": list(steps),
        "by_loss": [
            {
                "label": loss["label"],
                "differences": [
                    max(
                        (c["difference"] for c in comparisons if c["cell"]["loss"] == name and c["step"] == step),
                        default=None,
                    )
                    for step in steps
                ],
            }
            for name, loss in document["losses"].items()
        ],
        "largest": max(comparison["difference"] for comparison in comparisons),
        "failures": [comparison for comparison in comparisons if not comparison["agrees"]],
        "compared": len(comparisons),
    }


def page(document: dict[str, Any]) -> str:
    """The report: one HTML file that needs nothing else."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((files("hemspec_benchmark") / "report.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        document=document,
        agreement=agreement(document),
        rows=rows,
        percent=percent,
        caption=caption(document),
        backend_names={backend: plots.BACKENDS[backend][0] for backend in document["backends"]},
        overview=lambda *names: Markup(plots.overview(document, *names)),
        curves=lambda *names: Markup(plots.curves(document, *names)),
    )
