"""The plots of the frameworks' agreement: how far the losses part step by step, and the results at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hemspec_benchmark.agreement import TOLERANCES, Agreement, Comparison, Outcome
from hemspec_benchmark.learner import BACKENDS
from hemspec_benchmark.plots import clipped, interval, legend, percent_axis
from hemspec_benchmark.statistics import Document, label, losses
from hemspec_benchmark.style import BACKEND_STYLES, CARD, INK, loss_style, new_figure, styled

FLOOR: Final = 1e-8
"""Where a difference of 0 is drawn; float32 resolves 6e-8, and documents keep seven digits."""


@styled
def trajectory(document: Document, comparisons: Sequence[Comparison]) -> Figure | None:
    """The largest relative difference between frameworks over seeds, step by step in the first epoch."""
    worst: dict[str, dict[int, float]] = {}
    for entry in comparisons:
        steps = worst.setdefault(entry.loss, {})
        steps[entry.step] = max(steps.get(entry.step, FLOOR), entry.difference)
    if not worst:
        return None
    figure = new_figure(CARD, 4.2, "Largest relative difference of the losses")
    axes = figure.add_subplot()
    for loss in (name for name in losses(document) if name in worst):
        # What is not finite is drawn at the top: it is not a small difference.
        steps = {step: min(value, 10.0) for step, value in sorted(worst[loss].items())}
        axes.plot(list(steps), list(steps.values()), label=label(document, loss), markersize=4, **loss_style(loss))
    last = len(TOLERANCES)
    axes.stairs(TOLERANCES, [step + 0.5 for step in range(last + 1)], color=INK, linewidth=2, baseline=None)
    axes.annotate(
        "tolerance", (last + 0.5, TOLERANCES[-1]), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9
    )
    axes.set_yscale("log")
    axes.set_ylim(bottom=FLOOR / 2)
    axes.set_xlim(left=0.4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step of the first epoch")
    axes.set_ylabel("relative difference (bottom: none)")
    legend(figure, axes, 5)
    return figure


@styled
def final(document: Document, agreement: Agreement, name: str) -> Figure | None:
    """One primary measure of every loss in every framework."""
    found: list[Outcome] = [outcome for outcome in agreement.outcomes if outcome.measure.name == name]
    if not found:
        return None
    title = found[0].measure.label
    figure = new_figure(CARD, 1.4 + 0.36 * len(found), f"{title[0].upper()}{title[1:]}")
    axes = figure.add_subplot()
    backends = list(dict.fromkeys(backend for outcome in found for backend in outcome.estimates))
    for row, outcome in enumerate(found):
        for place, backend in enumerate(backends):
            if backend in outcome.estimates:
                colour, marker = BACKEND_STYLES.get(backend, (INK, "o"))
                height = row + 0.22 * (place - (len(backends) - 1) / 2)
                style = {"color": colour, "marker": marker}
                interval(axes, height, outcome.estimates[backend], style, filled=True, size=4.5)
    for backend in backends:
        colour, marker = BACKEND_STYLES.get(backend, (INK, "o"))
        axes.plot([], [], color=colour, marker=marker, linestyle="-", label=BACKENDS.get(backend, backend))
    names = [label(document, outcome.loss) + (" ✗" if outcome.differs else "") for outcome in found]
    axes.set_yticks(range(len(found)), names)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(clipped(axes.get_xlim(), 0.0, 1.0))
    percent_axis(axes.xaxis, axes.get_xlim())
    axes.set_xlabel("%")
    legend(figure, axes)
    return figure


@styled
def between(document: Document, agreement: Agreement) -> Figure | None:
    """Every paired difference between two frameworks at the end, as points: a picture of all of them."""
    found = [
        (outcome, entry)
        for outcome in agreement.outcomes
        for entry in outcome.differences.values()
        if entry.estimate.p is not None
    ]
    if not found:
        return None
    names = [name for name in losses(document) if any(outcome.loss == name for outcome, _ in found)]
    figure = new_figure(CARD, 1.3 + 0.28 * len(names), "Between frameworks, all primary measures")
    axes = figure.add_subplot()
    for row, name in enumerate(names):
        style = loss_style(name)
        mine = [entry for outcome, entry in found if outcome.loss == name]
        spread = [row + 0.5 * (index / max(1, len(mine) - 1) - 0.5) for index in range(len(mine))]
        for filled in (False, True):
            chosen = [(e.estimate.mean, at) for e, at in zip(mine, spread, strict=True) if e.significant == filled]
            if chosen:
                face = style["color"] if filled else "none"
                x, y = zip(*chosen, strict=True)
                axes.scatter(x, y, s=18, marker=style["marker"], edgecolor=style["color"], facecolor=face)
    widest = max((abs(entry.estimate.mean) for _, entry in found if math.isfinite(entry.estimate.mean)), default=0.0)
    limit = max(0.01, 1.1 * widest)
    axes.set_xlim(-limit, limit)
    axes.axvline(0.0, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(names)), [label(document, name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    percent_axis(axes.xaxis, axes.get_xlim())
    axes.set_xlabel("one framework minus another, points (filled: significant)")
    return figure
