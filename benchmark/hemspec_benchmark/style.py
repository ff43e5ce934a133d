"""How the plots look: one colour and marker for each loss and framework, and text that takes the page's colour."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

T = TypeVar("T")

INK: Final = "#010203"
"""A colour no plot uses otherwise: nearly black in a PNG, the text colour of the page in an SVG."""

LOSS_STYLES: Final = {
    # Okabe and Ito's colours, which the colour-blind can tell apart, the darker ones lightened to be seen on black.
    # Cross-entropy is neutral, the HEM family warm, the others cool.
    "ce": (INK, "s"),
    "hem": ("#D55E00", "o"),
    "hem-mean": ("#E69F00", "D"),
    "hem-plus": ("#CC79A7", "^"),
    "mm": ("#2C86C4", "v"),
    "focal": ("#56B4E9", "P"),
    "logitnorm": ("#009E73", "X"),
    "la": ("#8A79D6", "<"),
    "dice": ("#8D8D8D", ">"),
    "hem-margin-1": ("#B5651D", "p"),
}
"""Each loss's colour and marker."""

BACKEND_STYLES: Final = {"torch": ("#D55E00", "o"), "keras": ("#2C86C4", "s"), "jax": ("#009E73", "^")}
"""Each framework's colour and marker."""

STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "figure.titlesize": 11.0,
    "figure.titleweight": "bold",
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
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.6,
}

CARD: Final = 4.8
"""Inches: the width of a plot that a phone shows whole, with legible text."""


def loss_style(loss: str) -> dict[str, Any]:
    """Colour and marker; losses that are not ours are ink."""
    colour, marker = LOSS_STYLES.get(loss, (INK, "*"))
    return {"color": colour, "marker": marker}


def styled(function: Callable[..., T]) -> Callable[..., T]:
    """Make the figure in our style."""

    @wraps(function)
    def wrapped(*args: Any, **options: Any) -> T:
        with mpl.rc_context(STYLE):
            return function(*args, **options)

    return wrapped


def new_figure(width: float, height: float, title: str | None = None) -> Figure:
    """An empty figure, its title at the left."""
    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title, x=0.0, ha="left")
    return figure


def percent(digits: int = 0) -> FuncFormatter:
    """Fractions as a number of percent, without the sign; the axis says %."""
    return FuncFormatter(lambda value, position: f"{100 * value:.{digits}f}".replace("-", "−"))


def svg(figure: Figure, name: str, description: str) -> str:
    """For a page: what was ink takes the text's colour; ids that nothing refers to are left out."""
    text = io.StringIO()
    # The salt makes the ids in the file differ from plot to plot, and stay the same from run to run.
    with mpl.rc_context(STYLE | {"svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    found = text.getvalue()
    found = re.sub(r"<metadata>.*?</metadata>\s*", "", found[found.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r"#([\w.-]+)", found))
    found = re.sub(r'\s+id="([\w.-]+)"', lambda match: match[0] if match[1] in used else "", found)
    found = found.replace(INK, "currentColor")
    return found.replace("<svg", f'<svg role="img" aria-label="{description}"', 1)


def png(figure: Figure) -> bytes:
    """On white."""
    data = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(data, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    return data.getvalue()


def write_pngs(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Each figure as a file named after it, for the README and for slides."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        paths[-1].write_bytes(png(figure))
    return paths
