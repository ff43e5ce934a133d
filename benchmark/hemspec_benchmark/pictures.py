"""Pictures of the data with what the networks of seed 0 made of it. The data is made again, which takes the digits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from hemspec_benchmark import unknowns
from hemspec_benchmark.scenes import scenes
from hemspec_benchmark.settings import Protocol
from hemspec_benchmark.statistics import Document, label
from hemspec_benchmark.style import CARD, INK, new_figure, styled
from hemspec_benchmark.training import data_of

GOOD: Final = INK
BAD: Final = "#D55E00"

DIGIT_COLOURS: Final = "#E69F00 #56B4E9 #009E73 #F0E442 #0072B2 #D55E00 #CC79A7 #FFFFFF #8A79D6 #A6D854"
CLASS_COLOURS: Final = ListedColormap(["#262626", *re.findall(r"\S+", DIGIT_COLOURS)])
"""Background, then the digits 0 to 9."""


def available(document: Document) -> bool:
    """Whether the images can be made again."""
    return bool(document["data"] == "digits")


@styled
def predictions(document: Document, names: Sequence[str]) -> Figure | None:
    """The first test images, and what each loss's network takes them for."""
    found = {name: entry["logits"] for name in names if (entry := samples(document, "accuracy", "test", name))}
    if not found:
        return None
    data = data_of(Protocol.from_json(document["protocol"]), 0)
    count, columns = min(len(logits) for logits in found.values()), 6
    rows = -(-count // columns)
    figure = new_figure(CARD, 0.7 + rows * (0.72 + 0.17 * len(found)), "Predictions on test images")
    grid = figure.subplots(rows, columns, squeeze=False)
    for index, axes in enumerate(grid.ravel()):
        blank(axes)
        if index >= count:
            axes.set_visible(False)
            continue
        axes.imshow(data.test_images[index, :, :, 0], cmap="gray", vmin=0, vmax=1)
        for line, (name, logits) in enumerate(found.items()):
            guess = int(np.argmax(logits[index]))
            right = guess == data.test_labels[index]
            text = f"{label(document, name)} {guess}{'' if right else ' ✗'}"
            below(axes, line, text, GOOD if right else BAD, bold=not right)
    return figure


@styled
def rejected(document: Document, name: str) -> Figure | None:
    """Known and unknown images, the largest logit of each, and whether it is accepted."""
    found = samples(document, "rejection", "far", name)
    if not found:
        return None
    data = data_of(Protocol.from_json(document["protocol"]), 0)
    images = {"known": data.test_images} | {kind: make(data.test_images, 0) for kind, make in unknowns.FAR.items()}
    kinds = [kind for kind in images if kind in found]
    shown, threshold = 6, found.get("threshold")
    title = f"{label(document, name)}: largest logit" + (
        "" if threshold is None else f"; accepted from {threshold:.1f}"
    )
    figure = new_figure(CARD, 0.5 + 1.0 * len(kinds), title)
    for kind, row in zip(kinds, figure.subplots(len(kinds), shown, squeeze=False), strict=True):
        for index, axes in enumerate(row):
            blank(axes)
            if index >= len(found[kind]):
                axes.set_visible(False)
                continue
            axes.imshow(images[kind][index, :, :, 0], cmap="gray", vmin=0, vmax=1)
            score = float(np.max(found[kind][index]))
            accepted = threshold is None or score >= threshold
            wrong = threshold is not None and accepted != (kind == "known")
            word = "" if threshold is None else "\naccepted" if accepted else "\nrejected"
            text = f"{score:.1f}{word}".replace("-", "−")
            axes.set_xlabel(text, fontsize=8, color=BAD if wrong else GOOD, labelpad=2)
            if wrong:
                axes.xaxis.label.set_fontweight("bold")
        row[0].set_ylabel(kind, fontsize=9)
    return figure


@styled
def masks(document: Document, names: Sequence[str]) -> Figure | None:
    """Test scenes, their true masks, and the masks that each loss's network predicts."""
    found = {name: entry for name in names if (entry := samples(document, "segmentation", "scenes", name, key="masks"))}
    if not found:
        return None
    protocol = Protocol.from_json(document["protocol"])
    data = scenes(data_of(protocol, 0), 0, 1, protocol.test_scenes)
    count = min(3, *(len(entry) for entry in found.values()))
    rows = {"scene": data.test_images[:count, :, :, 0], "truth": data.test_labels[:count]}
    rows |= {label(document, name): np.asarray(entry[:count]) for name, entry in found.items()}
    figure = new_figure(CARD, 0.9 + 0.95 * count * 5 / max(5, len(rows)), "Segmentation of test scenes")
    grid = figure.subplots(count, len(rows), squeeze=False)
    for column, (name, images) in enumerate(rows.items()):
        grid[0][column].set_title(name, fontsize=8, loc="center")
        for axes, image in zip(grid[:, column], images, strict=True):
            blank(axes)
            if name == "scene":
                axes.imshow(image, cmap="gray", vmin=0, vmax=1)
            else:
                ignored = np.ma.masked_less(np.asarray(image), 0)
                axes.imshow(ignored, cmap=CLASS_COLOURS, vmin=-0.5, vmax=10.5, interpolation="nearest")
    for digit in range(10):
        grid[0][0].scatter(
            [], [], marker="s", s=40, color=CLASS_COLOURS(digit + 1), edgecolor="#808080", label=str(digit)
        )
    figure.legend(loc="outside lower center", ncols=10, handletextpad=0.0, columnspacing=0.6)
    return figure


def samples(document: Document, task: str, setting: str, loss: str, key: str = "samples") -> Any:
    """What the first cell that has any kept of seed 0."""
    for cell in document["cells"]:
        if (cell["task"], cell["setting"], cell["loss"]) == (task, setting, loss) and cell["details"].get(key):
            return cell["details"][key]
    return None


def blank(axes: Axes) -> None:
    """An image needs no axes."""
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def below(axes: Axes, line: int, text: str, colour: str, *, bold: bool) -> None:
    """A line of text under an image."""
    axes.annotate(
        text,
        (0.5, 0.0),
        xycoords="axes fraction",
        xytext=(0, -4 - 10 * line),
        textcoords="offset points",
        ha="center",
        va="top",
        fontsize=8,
        color=colour,
        fontweight="bold" if bold else "normal",
    )
