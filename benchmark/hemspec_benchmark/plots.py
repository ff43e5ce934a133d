"""The plots of the report, as SVG to put into a page: text and axes take the colour of the page's text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

BACKENDS: Final = {
    # Colours that can be told apart by the colour-blind, on white and on black; different lines, because the curves
    # coincide: the later ones leave gaps through which the earlier ones show.
    "torch": ("PyTorch", "#e4663a", {"linestyle": "solid", "linewidth": 3.0}),
    "keras": ("Keras", "#3d8fd1", {"linestyle": (0, (5, 2)), "linewidth": 2.0}),
    "jax": ("JAX", "#2aa876", {"linestyle": (0, (1, 2)), "linewidth": 2.0}),
}
"""Each backend's name, colour and line."""

INK: Final = "#010203"
"""A colour no plot uses otherwise; it becomes the page's text colour."""

STYLE: Final = {
    "svg.fonttype": "none",
    "font.size": 10.0,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "axes.grid": True,
    "legend.frameon": False,
}


def overview(document: dict[str, Any], experiment: str) -> str:
    """Test accuracy of each loss in each framework: every seed, the mean and its standard error."""
    losses = document["experiments"][experiment]["losses"]
    backends = document["backends"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 0.9 + 0.42 * len(losses)), layout="constrained")
        axes = figure.add_subplot()
        for position, backend in enumerate(backends):
            name, colour, _ = BACKENDS[backend]
            offset = 0.22 * (position - (len(backends) - 1) / 2)
            for row, loss in enumerate(losses):
                accuracies = [cell["test_accuracy"][-1] for cell in _cells(document, experiment, loss, backend)]
                axes.plot(accuracies, [row + offset] * len(accuracies), ".", color=colour, alpha=0.35, markersize=4)
                (entry,) = (
                    entry
                    for entry in document["summary"]
                    if (entry["experiment"], entry["loss"], entry["backend"]) == (experiment, loss, backend)
                )
                axes.errorbar(
                    entry["accuracy"],
                    row + offset,
                    xerr=entry["standard_error"],
                    fmt="o",
                    color=colour,
                    markersize=5,
                    label=name if row == 0 else None,
                )
        axes.set_yticks(range(len(losses)), [document["losses"][loss]["label"] for loss in losses])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("test accuracy")
        figure.legend(loc="outside upper center", ncols=len(backends))
        return _svg(figure, f"overview-{experiment}")


def curves(document: dict[str, Any], experiment: str, loss: str) -> str:
    """Training loss and test accuracy by epoch: the mean over seeds, and each seed faintly."""
    accuracies = [
        value for cell in document["cells"] if cell["experiment"] == experiment for value in cell["test_accuracy"]
    ]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 2.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for backend in document["backends"]:
            cells = _cells(document, experiment, loss, backend)
            _mean_and_seeds(left, backend, [cell["train_loss"] for cell in cells])
            _mean_and_seeds(right, backend, [cell["test_accuracy"] for cell in cells])
        left.set(xlabel="epoch", title="training loss")
        # A training that diverges leaves the plot rather than flattening the others.
        losses = np.concatenate([line.get_ydata() for line in left.lines])
        losses = losses[np.isfinite(losses)]
        highest = 1.5 * np.quantile(losses, 0.95) if losses.size else 1.0
        left.set_ylim(0.0, min(left.get_ylim()[1], highest) or 1.0)
        right.set(xlabel="epoch", title="test accuracy")
        # One scale for all losses, without the first epochs' climb.
        right.set_ylim(min(0.95, float(np.quantile(accuracies, 0.1))), 1.0)
        right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(document["backends"]))
        return _svg(figure, f"curves-{experiment}-{loss}")


def _cells(document: dict[str, Any], experiment: str, loss: str, backend: str) -> list[dict[str, Any]]:
    return [
        cell
        for cell in document["cells"]
        if (cell["experiment"], cell["loss"], cell["backend"]) == (experiment, loss, backend)
    ]


def _mean_and_seeds(axes: Axes, backend: str, curves: Sequence[Sequence[float | None]]) -> None:
    name, colour, line = BACKENDS[backend]
    values = np.array(curves, dtype=float)  # in the JSON file a loss that is not a number is null
    epochs = np.arange(1, values.shape[1] + 1)
    marker = "." if len(epochs) == 1 else None
    for curve in values:
        axes.plot(epochs, curve, color=colour, alpha=0.25, linewidth=0.7, zorder=1)
    axes.plot(epochs, values.mean(axis=0), color=colour, label=name, marker=marker, **line)


def _svg(figure: Figure, name: str) -> str:
    text = io.StringIO()
    # The salt makes the ids in the file differ from plot to plot, and stay the same from run to run.
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")
