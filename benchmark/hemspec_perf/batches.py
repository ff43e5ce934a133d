"""The input of a line, and what the NumPy reference says of it.

A block of rows is made and repeated until the batch is full. A mean over repeated rows is the mean over the block, so
the reference needs to see the block alone, and the whole input that is timed is checked, value and gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, Final

import numpy as np

import hemspec
from hemspec_perf.plan import Line

STEP: Final = 64
"""Logits are multiples of 1 / STEP below 4: exact in every dtype, and so are sums of errors in float32."""
BLOCK: Final = 2**21
"""Entries that the reference has to look at."""
IGNORED: Final = -100
REFERENCE: Final[dict[str, Any]] = {
    "hem": hemspec.hem_loss,
    "mm": hemspec.multi_margin_loss,
    "ce": hemspec.cross_entropy_loss,
}


class WrongAnswerError(ValueError):
    """A candidate does not compute the loss whose name it has."""


@dataclass(frozen=True)
class Batch:
    """A block of rows, class axis last, and how often it is repeated along the first axis."""

    logits: Any
    labels: Any
    weights: Any
    margins: Any
    times: int

    def keywords(self, variant: str) -> dict[str, Any]:
        """A variant's arguments, beside logits and labels."""
        if variant == "margins":
            return {"margin": self.margins}
        return {"sample_weight": self.weights} if variant == "sample_weight" else {}

    def labels_for(self, variant: str) -> Any:
        """The labels; under ``ignore_index`` every fifth is ignored."""
        if variant != "ignore_index":
            return self.labels
        ignored = np.arange(self.labels.size).reshape(self.labels.shape) % 5 == 0
        return np.where(ignored, IGNORED, self.labels)


def make_batch(line: Line) -> Batch:
    """Random, the same in every run. No error lies so close to the mean error that rounding could decide."""
    return _batch(line.sizes)


def expected(line: Line, loss: str, variant: str) -> tuple[float, Any]:
    """The reference's value and gradient of the block."""
    return _expected(line.sizes, loss, variant)


@lru_cache(maxsize=1)
def _batch(sizes: tuple[int, ...]) -> Batch:
    rows, classes, *spatial = sizes
    per_row = classes * prod(spatial)
    block = max(n for n in range(1, rows + 1) if rows % n == 0 and (n == 1 or n * per_row <= BLOCK))
    rng = np.random.default_rng(0)
    shape = (block, *spatial)
    units = np.clip(np.rint(STEP * rng.normal(size=(*shape, classes))), 1 - 4 * STEP, 4 * STEP - 1).astype(np.int64)
    labels = rng.integers(classes, size=shape)
    # In these units the errors are integers and their mean is a multiple of 1 / C. Where the mean is nearly an
    # integer, a few errors are made one unit larger.
    slack = classes // 500
    true = np.take_along_axis(units, labels[..., None], -1)
    rivals = np.arange(classes) != labels[..., None]
    errors = np.where(rivals, np.maximum(0, units - true + STEP), 0)
    rest = errors.sum(-1) % classes
    close = np.minimum(rest, classes - rest) <= slack
    larger = (errors > 0) & (np.cumsum(errors > 0, -1) <= 2 * slack + 1) & (units < 4 * STEP - 1)
    units += larger & close[..., None]
    weights = rng.integers(0, 4, size=shape) / 2
    margins = rng.integers(STEP // 2, 2 * STEP, size=classes) / STEP
    return Batch(
        (units / STEP).astype(np.float32), labels, weights.astype(np.float32), margins.astype(np.float32), rows // block
    )


@lru_cache(maxsize=32)
def _expected(sizes: tuple[int, ...], loss: str, variant: str) -> tuple[float, Any]:
    batch = _batch(sizes)
    labels, keywords = batch.labels_for(variant), batch.keywords(variant)
    value = REFERENCE[loss](batch.logits, labels, **keywords)
    gradient = REFERENCE[loss].gradient(batch.logits, labels, **keywords)
    return float(value), gradient


def check(
    line: Line, loss: str, variant: str, dtype: str, value: float, gradient: Any, name: str, *, rounds: bool = False
) -> None:
    """Compare with the reference; `gradient` is the block's, class axis last, already times `batch.times`.

    Args:
        rounds: a loss that is computed in the logits' own dtype, half precision too, as the frameworks' are. Their
            log p is above -16, and is rounded before its exponential becomes a gradient.

    Raises:
        WrongAnswerError: what differs, and by how much.
    """
    batch = make_batch(line)
    true_value, true_gradient = expected(line, loss, variant)
    # A half's gradient is rounded once; the authors' 1e-6 in two denominators make 2e-6.
    relative = {"float32": 2e-5, "float16": 1e-3, "bfloat16": 8e-3}[dtype]
    close = 2e-5
    if rounds and dtype != "float32":
        close, relative = {"float16": (2.0**-10, 2.0**-7), "bfloat16": (2.0**-7, 2.0**-4)}[dtype]
    value_gap = abs(value - true_value)
    if not value_gap <= close * max(1.0, abs(true_value)):
        raise WrongAnswerError(f"{name} gives {value:.7g}, the reference {true_value:.7g}")
    absolute = 1e-7 * float(np.abs(true_gradient).max())
    if dtype == "float16":
        # Its smallest steps.
        absolute += batch.times * 2.0**-24
    # At the true class a loop over the other C - 1 is as good an answer as any.
    labels = batch.labels_for(variant)
    true_class = np.arange(true_gradient.shape[-1]) == labels[..., None]
    bound = np.where(true_class, max(relative, true_gradient.shape[-1] * 2.0**-24), relative)
    gaps = np.abs(np.asarray(gradient, np.float64) - true_gradient)
    far = ~(gaps <= absolute + bound * np.abs(true_gradient))
    if far.any():
        raise WrongAnswerError(f"{name}: {far.sum()} of {far.size} entries of its gradient are not the reference's")
