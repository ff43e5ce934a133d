"""The input of a line with a linear head, and what the NumPy reference says of it.

The features of a row are four ones among zeros, the head holds multiples of 1 / 64: so the logits are multiples of
1 / 64 below 4 as those of the other lines, exact in every dtype whichever way they are added up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

from hemspec_perf.batches import BLOCK, REFERENCE, STEP, WrongAnswerError
from hemspec_perf.plan import Line

ONES: Final = 4


@dataclass(frozen=True)
class Head:
    """A block of rows, how often it is repeated, and the head."""

    features: Any
    weight: Any  # (C, D)
    labels: Any
    times: int


def make_head(line: Line) -> Head:
    """Random, the same in every run. No error lies so close to the mean error that rounding could decide."""
    return _head(line.sizes[0], line.depth, line.sizes[1])


@lru_cache(maxsize=1)
def _head(rows: int, depth: int, classes: int) -> Head:
    block = max(n for n in range(1, rows + 1) if rows % n == 0 and (n == 1 or n * classes <= BLOCK))
    rng = np.random.default_rng(0)
    weight = rng.integers(1 - STEP, STEP, size=(classes, depth))
    features: list[Any] = []
    labels: list[int] = []
    while len(features) < block:
        chosen = rng.permutation(depth)[:ONES]
        units, label = weight[:, chosen].sum(1), int(rng.integers(classes))
        errors = np.maximum(0, units - units[label] + STEP)
        errors[label] = 0
        rest = int(errors.sum()) % classes  # of their mean, in these units, times C
        if min(rest, classes - rest) > classes // 500:
            features.append(np.isin(np.arange(depth), chosen))
            labels.append(label)
    return Head(
        np.array(features, np.float32), (weight / STEP).astype(np.float32), np.array(labels), times=rows // block
    )


@lru_cache(maxsize=2)
def expected(line: Line, loss: str) -> tuple[float, Any, Any]:
    """The reference's value, and the gradient in the block's features and in the head."""
    head = make_head(line)
    logits = head.features @ head.weight.T
    slopes = REFERENCE[loss].gradient(logits, head.labels)
    return float(REFERENCE[loss](logits, head.labels)), slopes @ head.weight, slopes.T @ head.features


def check(line: Line, loss: str, dtype: str, value: float, gradients: tuple[Any, Any], name: str) -> None:
    """Compare with the reference: the value, the gradient in the block's features, and in the head, ``(C, D)``.

    Raises:
        WrongAnswerError: what differs, and by how much.
    """
    true_value, *true_gradients = expected(line, loss)
    half = dtype != "float32"
    if not abs(value - true_value) <= (1e-2 if half else 2e-5) * max(1.0, abs(true_value)):
        raise WrongAnswerError(f"{name} gives {value:.7g}, the reference {true_value:.7g}")
    for what, found, true in zip(("features", "head"), gradients, true_gradients, strict=True):
        # Roundings of sums over thousands of terms, measured by the largest of them.
        gap = np.abs(np.asarray(found, np.float64) - true).max() / np.abs(true).max()
        if not gap <= (3e-2 if half else 2e-4):
            raise WrongAnswerError(f"{name}: the gradient of the {what} is off by {gap:.2g} of its largest entry")
