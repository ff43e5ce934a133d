"""How far from the reference an answer may be. Written down once, for each loss and dtype; never loosened to pass.

An answer is computed in float32 (float64 for float64 logits) and, for a gradient, rounded to the logits' dtype::

    |got - expected| <= steps * eps(compute) * max(1, largest |expected|)  +  eps(output) * |expected| + tiny(output)

The last two terms are the rounding of the result itself. `steps` counts the roundings a careful implementation makes:
a margin loss subtracts, adds and divides; LogitNorm divides by a temperature of 0.04, which magnifies the rounding of
the normalised logits 25 times before the softmax sees it. The roundings of a sum over C classes are as good as random
and grow with about sqrt(C): `steps` is at least that. They are not random in a plain loop over thousands of equal
numbers, which drifts by C of them; where a framework's own sum is such a loop, a port has to add up in blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

STEPS: Final[Mapping[str, float]] = {
    "hem_loss": 16,
    "multi_margin_loss": 16,
    "cross_entropy_loss": 16,
    "focal_loss": 32,
    "logit_norm_loss": 256,
    "logit_adjusted_loss": 16,
    "dice_loss": 16,
}

EPS: Final[Mapping[str, float]] = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
"""The distance from 1 to the next number."""

TINY: Final[Mapping[str, float]] = {
    "float16": 2.0**-24,
    "bfloat16": 2.0**-126,
    "float32": 2.0**-126,
    "float64": 2.0**-1022,
}
"""The smallest number kept: float16 has subnormals everywhere, the others may be flushed to zero."""


def tolerance(loss: str, classes: int, compute: str, output: str, expected: np.ndarray) -> np.ndarray:
    """The allowed distance for each element of `expected`."""
    steps = max(STEPS[loss], classes**0.5)
    size = np.where(np.isfinite(expected), np.abs(expected), 0.0)
    scale = max(1.0, float(size.max(initial=0.0)))
    return np.asarray(steps * EPS[compute] * scale + EPS[output] * size + TINY[output])
