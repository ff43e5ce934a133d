"""The plots of how trainings go: number by epoch, and what changes when the protocol does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hemspec_benchmark.plots import clipped, legend, line, percent_axis
from hemspec_benchmark.statistics import HEADLINES, Document, by_epoch, estimate, label
from hemspec_benchmark.style import CARD, loss_style, new_figure, styled

Cells = Sequence[Mapping[str, Any]]

DYNAMICS: Final = {
    "train_loss": ("training loss", "loss"),
    "active": ("training images with an error inside HEM's margin", "%"),
    "gradient_norm": ("norm of the gradient", "mean over the epoch"),
    "test_accuracy": ("test accuracy", "%"),
}
"""What the details keep of each epoch: titles and units."""


@styled
def dynamics(document: Document, curve: str, names: Sequence[str]) -> Figure | None:
    """One number by epoch: the mean over seeds (frameworks averaged) and its 95 % interval."""
    title, unit = DYNAMICS[curve]
    found = {loss: by_epoch(document, curve, loss) for loss in names}
    found = {loss: points for loss, points in found.items() if points}
    if not found:
        return None
    figure = new_figure(CARD, 3.2, f"{title[0].upper()}{title[1:]}")
    axes = figure.add_subplot()
    for loss, points in found.items():
        line(axes, points, loss_style(loss), label(document, loss), band=True)
    axes.set_xlabel("epoch")
    axes.set_ylabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if curve in ("train_loss", "gradient_norm"):
        positive = [entry.mean for points in found.values() for _, entry in points if entry.mean > 0]
        if positive:
            axes.set_yscale("log")
            axes.set_ylim(min(positive) / 3, max(positive) * 3)
    else:
        axes.set_ylim(clipped(axes.get_ylim(), 0.0, 1.0))
        percent_axis(axes.yaxis, axes.get_ylim())
    legend(figure, axes)
    return figure


@styled
def exploration(document: Document, title: str, cells: Cells, dimension: str, values: Sequence[str]) -> Figure:
    """The first primary metric of a setting, when one thing in the protocol changes: `values`, the x axis."""
    names = list(dict.fromkeys(cell["loss"] for cell in cells))
    metric = "clean" if cells[0]["task"] == "accuracy" else "average_accuracy"
    figure = new_figure(CARD, 3.4, title)
    axes = figure.add_subplot()
    for place, loss in enumerate(names):
        points = []
        for position, value in enumerate(values):
            sample = [c["metrics"].get(metric) for c in cells if c["loss"] == loss and c["value"] == value]
            if found := estimate(number for number in sample if number is not None):
                # Side by side, so that the intervals do not hide each other.
                points.append((position + 0.09 * (place - (len(names) - 1) / 2), found))
        axes.errorbar(
            [at for at, _ in points],
            [found.mean for _, found in points],
            yerr=[found.half or 0.0 for _, found in points],
            label=label(document, loss),
            linestyle="none" if dimension == "network" else "-",
            linewidth=1.0,
            markersize=5,
            **loss_style(loss),
        )
    axes.set_xticks(range(len(values)), list(values))
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_xlabel(dimension)
    axes.set_ylabel("accuracy, %")
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.02), min(high, 1.02))
    percent_axis(axes.yaxis, axes.get_ylim())
    axes.grid(axis="x", visible=False)
    legend(figure, axes, 5)
    return figure


def explorations(document: Document) -> dict[str, Figure]:
    """One figure for each setting and thing that was changed, by name."""
    figures = {}
    for (task, setting, dimension), cells in grouped(document).items():
        values = sorted({cell["value"] for cell in cells}, key=_order)
        what = next((m.label for m in HEADLINES if (m.task, m.setting) == (task, setting)), f"{task}, {setting}")
        name = f"exploration-{setting}-{dimension}".replace(" ", "-")
        figures[name] = exploration(document, f"{what[0].upper()}{what[1:]}, by {dimension}", cells, dimension, values)
    return figures


def grouped(document: Document) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """The explorations by task, setting and what was changed, each with its `value`.

    ``"epochs 5"`` changes the epochs, to 5. What has no number changes the network; the run itself stands beside it.
    """
    found = document.get("explorations", [])
    result: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for cell in found:
        dimension, _, value = cell["variant"].removeprefix("continual ").rpartition(" ")
        if not _is_number(value):
            dimension, value = "network", cell["variant"]
        result.setdefault((cell["task"], cell["setting"], dimension), []).append({**cell, "value": value})
    for (task, setting, dimension), cells in result.items():
        if dimension == "network":
            same = {(cell["loss"], cell["backend"], cell["seed"]) for cell in cells}
            cells += [
                {**cell, "value": "as in the run"}
                for cell in document["cells"]
                if (cell["task"], cell["setting"]) == (task, setting)
                and (cell["loss"], cell["backend"], cell["seed"]) in same
            ]
    return result


def _order(value: str) -> tuple[float, str]:
    return (float(value), value) if _is_number(value) else (float("inf") if value != "as in the run" else 0.0, value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
