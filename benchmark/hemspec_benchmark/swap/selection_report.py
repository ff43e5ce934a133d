"""What people read of choosing a model: the table, and a picture of what is followed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from hemspec_benchmark.findings import gap
from hemspec_benchmark.readme import table as markdown
from hemspec_benchmark.store import Document
from hemspec_benchmark.style import CARD, INK, loss_style, new_figure, percent, styled
from hemspec_benchmark.swap.matrix import Training
from hemspec_benchmark.swap.selection import LOSSES, SEEDS, TRAININGS, Curves, Selected, selected
from hemspec_benchmark.swap.words import words

PICTURE: Final = "selection"
MONITOR_NAMES: Final = {
    "loss": "its own value",
    "mean": 'its value with `reduction="mean"`',
    "accuracy": "the accuracy",
}


def named(training: Training) -> str:
    """A training as the head of a column."""
    return words(training, "optimizer", "schedule")


def lines(document: Document) -> tuple[list[str], list[list[str]]]:
    """The head and the rows: a rule and what it follows, against trainings and losses."""
    found = selected(Curves(document))
    columns = [(training, loss) for training in TRAININGS for loss in ("hem", "hem-mean")]
    rows: dict[tuple[str, str], dict[tuple[Training, str], Selected]] = {}
    for entry in found:
        rows.setdefault((entry.rule, entry.monitor), {})[entry.training, entry.loss] = entry
    head = ["rule", "follows", *(f"{named(training)}: {LOSSES[loss].label}" for training, loss in columns)]
    return head, [
        [rule, MONITOR_NAMES[monitor], *(gap(row[column].difference) if column in row else "–" for column in columns)]
        for (rule, monitor), row in rows.items()
    ]


def tables(document: Document) -> dict[str, str]:
    """In Markdown, by name."""
    return {PICTURE: markdown(*lines(document))}


def table(document: Document) -> Table:
    """The same for the terminal."""
    head, rows = lines(document)
    made = Table(
        title="Test accuracy less that of cross-entropy under the same rule, points ± half of the 95 % interval"
    )
    for column in head:
        made.add_column(column)
    for row in rows:
        made.add_row(*row)
    return made


def figures(document: Document, names: Collection[str] | None = None) -> dict[str, Figure]:
    """By name, all or those named."""
    return {} if names is not None and PICTURE not in names else {PICTURE: curves(Curves(document))}


@styled
def curves(found: Curves) -> Figure:
    """HEM on the validation part, epoch by epoch: its own value, its plain mean, and the accuracy."""
    figure = new_figure(2 * CARD, 4.6, "HEM on validation data: its value and its accuracy, mean of ten seeds")
    axes = figure.subplots(2, len(TRAININGS), sharex=True, sharey="row")
    own, mean = loss_style("hem")["color"], loss_style("hem-mean")["color"]
    for column, training in enumerate(TRAININGS):
        each = [found.of(training, "hem", seed) for seed in SEEDS]
        averaged = {name: np.mean([one[name] for one in each], axis=0) for name in ("loss", "mean", "accuracy")}
        epochs = np.arange(1, 1 + len(averaged["loss"]))
        above, below = axes[:, column]
        above.plot(epochs, averaged["loss"], color=own, label="over active samples, as in training")
        above.plot(epochs, averaged["mean"], color=mean, linestyle="--", label="over all samples")
        below.plot(epochs, averaged["accuracy"], color=INK)
        below.yaxis.set_major_formatter(percent())
        below.set_xlabel("epoch")
        above.set_title(named(training))
    axes[0, 0].set(ylabel="value", ylim=(0, None))
    axes[0, 0].legend(loc="upper right")
    axes[1, 0].set_ylabel("accuracy, %")
    return figure
