"""The six claims at a glance."""

from __future__ import annotations

from typing import Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hemspec_benchmark.arms import Arm
from hemspec_benchmark.composites import COMPOSITES, Results
from hemspec_benchmark.statistics import estimate
from hemspec_benchmark.style import INK, LOSS_STYLES, new_figure, styled
from hemspec_benchmark.verdicts import FIRST, MARGINS, decide

SHOWN: Final[dict[Arm, tuple[str, str, str]]] = {
    "paper": ("at the rate of cross-entropy: decides", "o", LOSS_STYLES["hem"][0]),
    "best rate": ("each at its own best rate", "D", LOSS_STYLES["hem-mean"][0]),
    "clipped": ("gradients clipped at 1", "v", LOSS_STYLES["mm"][0]),
    "adam": ("Adam", "s", LOSS_STYLES["logitnorm"][0]),
}
"""How each arm is called, its marker and its colour."""


@styled
def overview(results: Results) -> Figure:
    """HEM less cross-entropy in each composite, in every arm; the verdict beside it."""
    figure = new_figure(9.6, 5.2, "HEM less cross-entropy, points: mean and 95 % interval over seeds")
    axes = figure.subplots()
    verdicts = decide(results, FIRST, "paper")
    for row, (composite, verdict) in enumerate(zip(COMPOSITES.values(), verdicts, strict=True)):
        margin = 100.0 * MARGINS[composite.name]
        axes.fill_between([-margin, margin], row - 0.42, row + 0.42, color=INK, alpha=0.08, linewidth=0)
        for place, (arm, (name, marker, colour)) in zip(
            np.linspace(-0.24, 0.24, len(SHOWN)), SHOWN.items(), strict=True
        ):
            found = estimate(results.difference(arm, composite, "hem", "ce"))
            if found is None or found.low is None or found.high is None:
                continue
            ends = [[100.0 * (found.mean - found.low)], [100.0 * (found.high - found.mean)]]
            axes.errorbar(
                100.0 * found.mean,
                row + place,
                xerr=ends,
                marker=marker,
                color=colour,
                markersize=7 if arm == "paper" else 4.5,
                linewidth=2.4 if arm == "paper" else 1.2,
                label=name if row == 0 else None,
            )
        axes.text(1.02, row, verdict.word, transform=axes.get_yaxis_transform(), va="center", fontweight="bold")
    axes.axvline(0.0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(COMPOSITES)), [composite.label.replace(", ", ",\n") for composite in COMPOSITES.values()])
    axes.set(ylim=(len(COMPOSITES) - 0.5, -0.5))
    axes.grid(visible=False, axis="y")
    shaded = Patch(color=INK, alpha=0.08, label="no difference that matters")
    handles, _ = axes.get_legend_handles_labels()
    figure.legend(handles=[*handles, shaded], loc="outside lower left", ncols=3)
    return figure
