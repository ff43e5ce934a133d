"""The matrix at a glance: where the swap costs nothing, and where it breaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hemspec_benchmark.plots import tile
from hemspec_benchmark.style import INK, new_figure, styled
from hemspec_benchmark.swap.decide import Difference, worst
from hemspec_benchmark.swap.matrix import CLIPPING, MATRIX, OPTIMIZERS, SCHEDULES, Training
from hemspec_benchmark.swap.words import WORDS

DATA_NAMES: Final = {"digits": "digits", "mnist": "MNIST", "scenes": "segmentation"}

SAFE: Final = (0.60, 0.78, 0.91)
BEHIND: Final = (0.99, 0.82, 0.52)
BROKEN: Final = (0.78, 0.28, 0.05)


@dataclass(frozen=True)
class Column:
    """What all tiles of a column share."""

    data: str
    clipping: str
    schedule: str

    def holds(self, training: Training) -> bool:
        """Whether a training is one of this column."""
        return (self.data, self.clipping, self.schedule) == (training.data, training.clipping, training.schedule)


def columns() -> list[Column]:
    """Those of the matrix: digits unclipped, digits clipped, MNIST, scenes."""
    asked = [Column(data, clipping, schedule) for data in DATA_NAMES for clipping in CLIPPING for schedule in SCHEDULES]
    return [column for column in asked if any(column.holds(training) for training in MATRIX)]


@styled
def overview(made: Sequence[Difference], panels: Mapping[str, str]) -> Figure:
    """A panel for each candidate, with its title: optimizers by schedules, in each tile the worst of the networks."""
    shown = columns()
    figure = new_figure(
        10.2,
        0.95 + 1.75 * len(panels),
        "Cross-entropy replaced, nothing else changed: points of accuracy (of mean IoU), the worst of four networks",
    )
    rows = zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True)
    for number, (axes, (name, title)) in enumerate(rows):
        panel(axes, [entry for entry in made if entry.candidate == name], shown, headed=number == 0)
        axes.set_title(title, pad=38 if number == 0 else 6, fontweight="bold")
    legend = {"less than 1 behind, or ahead": SAFE, "1 to 5 behind": BEHIND, "broken": BROKEN}
    patches = [Patch(color=colour, label=text) for text, colour in legend.items()]
    figure.legend(handles=patches, loc="outside lower left", ncols=len(patches))
    return figure


def panel(axes: Axes, made: Sequence[Difference], shown: Sequence[Column], *, headed: bool) -> None:
    """A candidate's tiles; groups of columns stand apart."""
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    groups = [(column.data, column.clipping) for column in shown]
    places, place = [], 0.0
    for number, group in enumerate(groups):
        place += 0.25 if number and group != groups[number - 1] else 0.0
        places.append(place + number)
    for row, optimizer in enumerate(OPTIMIZERS):
        for x, column in zip(places, shown, strict=True):
            found = [entry for entry in made if column.holds(entry.training) and entry.training.optimizer == optimizer]
            if found:
                lowest = worst(found)
                colour = SAFE if lowest.within else BROKEN if lowest.broken else BEHIND
                tile(axes, x, row, colour, points(lowest), bold=lowest.broken, fontsize=9)
    axes.set_yticks(range(len(OPTIMIZERS)), [WORDS[name] for name in OPTIMIZERS])
    axes.set(xlim=(-0.55, places[-1] + 0.55), ylim=(len(OPTIMIZERS) - 0.5, -0.5))
    axes.set_xticks([])
    if headed:
        axes.xaxis.tick_top()
        axes.set_xticks(places, [column.schedule for column in shown], fontsize=9)
        for group in dict.fromkeys(groups):
            inside = [x for x, other in zip(places, groups, strict=True) if other == group]
            data, clipping = group
            text = DATA_NAMES[data] + (
                f", {'clipped at 1' if clipping == 'clipped' else 'not clipped'}" if data == "digits" else ""
            )
            axes.text(sum(inside) / len(inside), -1.18, text, ha="center", va="bottom", color=INK, fontsize=9.5)


def points(found: Difference) -> str:
    """Short enough for a tile."""
    if not found.finite:
        return "NaN"
    text = f"{found.points:+.0f}" if abs(found.points) >= 9.95 else f"{found.points:+.1f}"
    return text.replace("-", "−")
