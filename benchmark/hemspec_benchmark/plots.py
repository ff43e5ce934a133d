"""The plots of the six tasks, each made from the document alone, and what all plots share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from hemspec_benchmark.statistics import (
    REFERENCE,
    Difference,
    Document,
    Estimate,
    Measure,
    details,
    differences,
    headlines,
    label,
    losses,
    means,
    measures,
)
from hemspec_benchmark.style import CARD, INK, loss_style, new_figure, percent, styled

Family = Mapping[tuple[str, str], Difference]

BLUE_TO_ORANGE: Final = colormaps["PuOr_r"]
VIRIDIS: Final = colormaps["viridis"]


@styled
def overview(document: Document, family: Family) -> Figure:
    """Every loss minus cross-entropy in every primary measure, as a coloured table of points."""
    rows = headlines(document)
    columns = [loss for loss in losses(document) if loss != REFERENCE]
    figure = new_figure(2.5 + 0.8 * max(2, len(columns)), 1.3 + 0.34 * len(rows))
    figure.suptitle("Difference to cross-entropy in percentage points", x=0.0, ha="left")
    axes = figure.add_subplot()
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(columns)), [label(document, loss) for loss in columns])
    axes.set_yticks(range(len(rows)), [measure.label for measure in rows])
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    scale = Normalize(-10.0, 10.0, clip=True)
    for row, measure in enumerate(rows):
        for column, loss in enumerate(columns):
            found = family.get((measure.name, loss))
            if not found:
                axes.text(column, row, "–", ha="center", va="center")
                continue
            points = 100 * found.estimate.mean
            # Equal steps of colour for equal factors, so that small differences show beside large ones.
            strength = np.sign(points) * 10 * np.sqrt(min(abs(points), 20.0) / 20.0)
            text = f"{points:+.1f}".replace("-", "−") + ("*" if found.significant else "")
            tile(axes, column, row, BLUE_TO_ORANGE(scale(strength)), text, bold=found.significant)
    axes.set_xlabel("* and bold: significant at 5 % after Holm's correction over the whole table", loc="left")
    return figure


@styled
def forest(document: Document, measure: Measure, family: Family) -> Figure:
    """Means with their intervals, and beside them the paired differences to cross-entropy with theirs."""
    values = means(document, measure)
    names = list(values)
    figure = new_figure(CARD, 1.15 + 0.235 * len(names), f"{measure.label[0].upper()}{measure.label[1:]}")
    left, right = figure.subplots(1, 2, sharey=True)
    for row, loss in enumerate(names):
        interval(left, row, values[loss], loss_style(loss), filled=True)
        if found := family.get((measure.name, loss)) or differences(document, measure).get(loss):
            interval(right, row, found.estimate, loss_style(loss), filled=found.significant)
    if REFERENCE in values:
        left.axvline(values[REFERENCE].mean, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    right.axvline(0.0, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    left.set_yticks(range(len(names)), [label(document, loss) for loss in names])
    left.set_ylim(len(names) - 0.5, -0.5)
    left.margins(x=0.08)
    right.margins(x=0.08)
    left.set_xlim(clipped(left.get_xlim(), 0.0, 1.0))
    gaps = [abs(found.estimate.mean) for found in differences(document, measure).values()]
    right.set_xlim(clipped(right.get_xlim(), -wide(gaps), wide(gaps)))
    for axes, text in (left, "%"), (right, "minus CE, points"):
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        percent_axis(axes.xaxis, axes.get_xlim())
        axes.set_xlabel(text)
    return figure


@styled
def attack_curves(document: Document, attack: str, title: str) -> Figure:
    """Robust accuracy over the size of the attack, and below it the difference to cross-entropy."""
    every = {
        float(measure.metric.split("/")[1]): measure
        for measure in measures(document, "robustness")
        if measure.metric.startswith(f"{attack}/")
    }
    largest = document["protocol"].get("attack", {}).get("largest", 0.5)
    sizes = sorted(size for size in every if size < largest)
    clean = next((m for m in measures(document, "robustness") if m.metric == "clean"), None)
    points = ([(0.0, clean)] if clean else []) + [(size, every[size]) for size in sizes]
    return _curves_and_differences(document, points, title, "ε: largest change of a grey value in [0, 1]")


@styled
def corruption_curves(document: Document, kind: str, unit: str) -> Figure:
    """Accuracy over the strength of a corruption, and below it the difference to cross-entropy."""
    found = measures(document, "accuracy")
    levels = [(float(m.metric.split("/")[1]), m) for m in found if m.metric.startswith(f"{kind}/")]
    levels += [(1.0 if kind == "contrast" else 0.0, m) for m in found if m.metric == "clean"]
    levels.sort(key=lambda level: level[0])
    figure = _curves_and_differences(document, levels, f"Corruption: {kind}", unit)
    if kind == "contrast":
        figure.axes[0].invert_xaxis()
    return figure


@styled
def matrices(document: Document, scenario: str, names: Sequence[str]) -> Figure | None:
    """Accuracy on each experience after each, averaged over seeds and frameworks: naive above, with replay below."""
    ways = [
        way for way in ("naive", "replay") if any(accuracy_matrices(document, f"{scenario}-{way}", n) for n in names)
    ]
    if not ways:
        return None
    figure = new_figure(CARD, 0.75 + 1.75 * len(ways), f"{scenario.capitalize()}-incremental: accuracy, %")
    grid = figure.subplots(len(ways), len(names), squeeze=False, sharex=True, sharey=True)
    for axes_row, way in zip(grid, ways, strict=True):
        for axes, loss in zip(axes_row, names, strict=True):
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
            found = accuracy_matrices(document, f"{scenario}-{way}", loss)
            axes.set_title(f"{label(document, loss)}, {way}", fontsize=9)
            if not found:
                axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center")
                continue
            mean = np.mean(found, axis=0)
            count = len(mean)
            for i in range(count):
                for j in range(i + 1):
                    tile(axes, j, i, VIRIDIS(mean[i, j]), f"{100 * mean[i, j]:.0f}", fontsize=8)
            axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5), aspect="equal")
            axes.set_xticks(range(count), [str(i + 1) for i in range(count)])
            axes.set_yticks(range(count), [str(i + 1) for i in range(count)])
    figure.supxlabel("tested on experience", fontsize=9)
    figure.supylabel("after training on experience", fontsize=9)
    return figure


def accuracy_matrices(document: Document, setting: str, loss: str) -> list[list[list[float]]]:
    """The matrices of all seeds and frameworks."""
    return [found["matrix"] for found in details(document, "continual", setting, loss) if "matrix" in found]


def tile(
    axes: Axes, x: float, y: float, colour: Sequence[float], text: str, *, bold: bool = False, **options: Any
) -> None:
    """A cell of a coloured table, with a text that can be read on it."""
    red, green, blue = colour[:3]
    axes.add_patch(Rectangle((x - 0.48, y - 0.47), 0.96, 0.94, facecolor=(red, green, blue), linewidth=0))
    ink = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "#111111"
    weight = "bold" if bold else "normal"
    axes.text(x, y, text, ha="center", va="center", color=ink, fontweight=weight, **options)


def interval(
    axes: Axes, row: float, found: Estimate, style: Mapping[str, Any], *, filled: bool, size: float = 6.0
) -> None:
    """A mean and its interval, lying; hollow where it is not significant."""
    half = found.half
    axes.errorbar(
        found.mean,
        row,
        xerr=None if half is None else half,
        color=style["color"],
        marker=style["marker"],
        markersize=size,
        markerfacecolor=style["color"] if filled else "none",
        linewidth=1.4,
    )


def line(
    axes: Axes, points: Sequence[tuple[float, Estimate]], style: Mapping[str, Any], name: str, *, band: bool
) -> None:
    """Means, joined, and optionally their intervals as a band."""
    x = [at for at, _ in points]
    axes.plot(x, [found.mean for _, found in points], label=name, markersize=4, **style)
    low = [found.low for _, found in points if found.low is not None]
    high = [found.high for _, found in points if found.high is not None]
    if band and len(low) == len(high) == len(x):
        axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)


def percent_axis(axis: Axis, limits: tuple[float, float]) -> None:
    """A few ticks in percent, with the decimals that they need."""
    axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    span = 100 * abs(limits[1] - limits[0])
    axis.set_major_formatter(percent(0 if span > 4 else 1 if span > 0.4 else 2))


def clipped(limits: tuple[float, float], low: float, high: float) -> tuple[float, float]:
    """Of the limits what lies in the range, and a little more: two seeds can have an interval of several hundred %."""
    slack = 0.03 * (high - low)
    return max(limits[0], low - slack), min(limits[1], high + slack)


def wide(gaps: Sequence[float]) -> float:
    """How far to show differences: thrice the largest of the means, and never less than 2 points."""
    return max(0.02, 3.0 * max(gaps, default=0.0))


def legend(figure: Figure, axes: Axes, columns: int = 4) -> None:
    """Below the plot, so that it hides nothing."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(columns, max(1, len(names))), columnspacing=1.2)


def _curves_and_differences(
    document: Document, points: Sequence[tuple[float, Measure]], title: str, x_label: str
) -> Figure:
    figure = new_figure(CARD, 5.0, title)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.15))
    for loss in losses(document):
        style, name = loss_style(loss), label(document, loss)
        values = [(at, found) for at, measure in points if (found := means(document, measure).get(loss))]
        line(above, values, style, name, band=False)
        to_ce = [(at, gap.estimate) for at, measure in points if (gap := differences(document, measure).get(loss))]
        line(below, to_ce, style, name, band=True)
    below.axhline(0.0, color=INK, linewidth=1.2)
    gaps = [abs(found.estimate.mean) for _, measure in points for found in differences(document, measure).values()]
    below.set_ylim(clipped(below.get_ylim(), -wide(gaps), wide(gaps)))
    above.set_ylabel("accuracy, %")
    below.set_ylabel("minus CE, points")
    below.set_xlabel(x_label)
    for axes in above, below:
        percent_axis(axes.yaxis, axes.get_ylim())
    legend(figure, above, 5)
    return figure
