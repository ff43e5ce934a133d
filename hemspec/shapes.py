"""Shapes as a framework knows them while tracing, and how messages show them."""

from __future__ import annotations

import operator
from collections.abc import Sequence

Shape = Sequence[int | None]
"""Dimensions; None for one that is not known."""


def show(shape: Shape) -> str:
    """A shape the way the message prints it: ``(4, 10)``, ``(?, 10)``."""
    inner = ", ".join(show_size(size, "?") for size in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"


def show_size(size: int | None, unknown: str) -> str:
    """One dimension. A tracing compiler may hold a symbol for it: operator.index makes that a number again."""
    return unknown if size is None else str(operator.index(size))


def without(shape: Shape, axis: int) -> tuple[int | None, ...]:
    """The shape with one axis less."""
    return (*shape[:axis], *shape[axis + 1 :])


def agree(a: Shape, b: Shape) -> bool:
    """Whether two shapes can be equal, an unknown dimension matching anything."""
    return len(a) == len(b) and all(m is None or n is None or m == n for m, n in zip(a, b, strict=True))
