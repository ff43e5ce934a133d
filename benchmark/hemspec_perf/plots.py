"""Time and memory against the number of classes and of rows, both axes logarithmic: linear growth has slope 1."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from hemspec_benchmark.style import INK, new_figure, styled
from hemspec_perf.document import Document, label, line_of
from hemspec_perf.plan import Line

STYLES: Final = {
    "hem": ("#D55E00", "o", "-"),
    "plain-hem": ("#D55E00", "o", ":"),
    "authors-hem": ("#CC79A7", "^", ":"),
    "mm": ("#2C86C4", "v", "-"),
    "plain-mm": ("#2C86C4", "v", ":"),
    "framework-mm": ("#56B4E9", "P", "--"),
    "ce": (INK, "s", "-"),
    "ce-eager": (INK, "s", "--"),
    "ce-compiled": (INK, "D", "--"),
    "liger-ce": ("#009E73", "X", "--"),
}
"""Colour, marker and line: plain versions are dotted."""


def growing(document: Document, axis: int) -> list[tuple[Line, dict[str, Any]]]:
    """Tables of N x C that differ in one of the two, and have the commonest other one; smallest first."""
    found = [(line_of(table), table) for table in document["tables"] if "results" in table]
    found = [(line, table) for line, table in found if len(line.sizes) == 2 and not line.variants and not line.depth]
    others = Counter(line.sizes[1 - axis] for line in {line.shape: line for line, _ in found}.values())
    if not others or max(others.values()) < 2:
        return []
    fixed = max(others, key=lambda size: (others[size], size))
    return sorted((pair for pair in found if pair[0].sizes[1 - axis] == fixed), key=lambda pair: pair[0].sizes[axis])


@styled
def growth(document: Document, framework: str, execution: str, device: str, dtype: str) -> Figure | None:
    """Above the time, below the memory, of a step; left against C, right against N. None where nothing grows."""
    key = (framework, execution, device, dtype)
    columns = []
    for axis, name, other in ((1, "classes C", "N"), (0, "rows N", "C")):
        one = [t for t in document["tables"] if _key(line_of(t)) == key]
        points = growing({"tables": one}, axis)
        if points:
            columns.append((axis, f"{name}, at {other} = {points[0][0].sizes[1 - axis]:,}", points))
    if not columns:
        return None
    figure = new_figure(
        max(7.4, 4.6 * len(columns)), 6.4, f"{framework} {execution}, {device}, {dtype}: forward + backward"
    )
    grid = figure.subplots(2, len(columns), squeeze=False, sharex="col", sharey="row")
    names = [
        name for name in STYLES if any(name in table["results"] for _, _, points in columns for _, table in points)
    ]
    for (time_axes, memory_axes), (axis, title, points) in zip(grid.T, columns, strict=True):
        for name in names:
            _draw(time_axes, points, axis, name, lambda result: 1e3 * result["both"]["median"])
            _draw(memory_axes, points, axis, name, lambda result: result["memory"].get("bytes", 0) / 2**20 or None)
        _slope(time_axes)
        sizes = [line.sizes[axis] for line, _ in points]
        for axes in time_axes, memory_axes:
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if axes is memory_axes else (1.0,)))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        if not memory_axes.lines:
            memory_axes.set_yscale("linear")
            memory_axes.set_yticks([])
            memory_axes.text(0.5, 0.5, "memory not known here", transform=memory_axes.transAxes, ha="center")
        memory_axes.set_xlabel(title)
    grid[0, 0].set_ylabel("time, ms (bars: quartiles)")
    grid[1, 0].set_ylabel("peak extra memory, MiB")
    labels = [axes.get_legend_handles_labels() for axes in grid[0]]
    entries = {text: handle for found, texts in labels for handle, text in zip(found, texts, strict=True)}
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=min(5, len(entries)))
    return figure


def _key(line: Line) -> tuple[str, str, str, str]:
    return (line.framework, line.execution, line.device, line.dtype)


def figures(document: Document) -> dict[str, Figure]:
    """By file name."""
    keys = dict.fromkeys(_key(line_of(table)) for table in document["tables"])
    drawn = {"-".join(key): growth(document, *key) for key in keys}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _draw(axes: Axes, points: list[tuple[Line, dict[str, Any]]], axis: int, name: str, measured: Any) -> None:
    colour, marker, line_style = STYLES[name]
    found = [(line.sizes[axis], table["results"].get(name)) for line, table in points]
    known = [(x, result, measured(result)) for x, result in found if result is not None]
    known = [point for point in known if point[2] is not None]
    if not known:
        return
    x, y = [at for at, _, _ in known], [value for _, _, value in known]
    style: dict[str, Any] = {"color": colour, "linestyle": line_style}
    axes.plot(x, y, marker=marker, markersize=4, label=label(name), **style)
    if axes.get_subplotspec().is_first_row():  # type: ignore[union-attr]
        low, high = ([1e3 * result["both"][end] for _, result, _ in known] for end in ("low", "high"))
        axes.vlines(x, low, high, color=colour, linewidth=3, alpha=0.35)


def _slope(axes: Axes) -> None:
    """Through the lowest of the largest: what grows linearly is parallel to it."""
    if not axes.lines:
        return
    drawn = [(np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)) for line in axes.lines]
    lines = [(x[0], x[-1], y[-1]) for x, y in drawn]
    first, last = min(line[0] for line in lines), max(line[1] for line in lines)
    end = min(line[2] for line in lines if line[1] == last) * 0.6
    axes.plot([first, last], [end * first / last, end], color=INK, alpha=0.3, linewidth=4, label="linear")
