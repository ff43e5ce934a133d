"""The plots of how trainings go: number by epoch, and what changes when the protocol does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hemspec_benchmark.explorations import Exploration
from hemspec_benchmark.plots import clipped, legend, line, percent_axis
from hemspec_benchmark.statistics import Document, by_epoch, label
from hemspec_benchmark.style import CARD, loss_style, new_figure, styled

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
def exploration(document: Document, found: Exploration) -> Figure:
    """A measure over the values of what was changed, the run's own among them."""
    figure = new_figure(CARD, 3.4, f"{found.title}, by {found.dimension}")
    axes = figure.add_subplot()
    names, values = list(found.estimates), found.values
    for place, loss in enumerate(names):
        points = found.estimates[loss]
        shown = [value for value in values if value in points]
        # Side by side, so that the intervals do not hide each other.
        shift = 0.09 * (place - (len(names) - 1) / 2)
        axes.errorbar(
            [values.index(value) + shift for value in shown],
            [points[value].mean for value in shown],
            yerr=[points[value].half or 0.0 for value in shown],
            label=label(document, loss),
            linestyle="none" if found.dimension == "network" else "-",
            linewidth=1.0,
            markersize=5,
            **loss_style(loss),
        )
    names_of_values = [f"{value}\n(in the run)" if value == found.standard else value for value in values]
    axes.set_xticks(range(len(values)), values if found.dimension == "network" else names_of_values)
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_xlabel(found.dimension)
    axes.set_ylabel("%")
    means = [entry.mean for points in found.estimates.values() for entry in points.values()]
    # Three seeds have wide intervals: they may leave the plot, the means may not.
    room = 0.25 * (max(means) - min(means)) + 0.01
    axes.set_ylim(max(min(means) - room, -0.02), min(max(means) + room, 1.02))
    percent_axis(axes.yaxis, axes.get_ylim())
    axes.grid(axis="x", visible=False)
    legend(figure, axes, 5)
    return figure


def exploration_name(found: Exploration) -> str:
    """What the figure of a measure and a thing that was changed is called."""
    return f"exploration-{found.measure.name}-{found.dimension}".replace(" ", "-")
