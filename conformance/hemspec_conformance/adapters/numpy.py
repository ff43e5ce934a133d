"""The reference itself: its answers in every dtype against the float64 answers that were frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import hemspec
from hemspec_conformance.adapter import LOSSES, Array, Call, Mode

name = "numpy"
spec_version = hemspec.SPEC_VERSION
losses = tuple(LOSSES)
EAGER = Mode("eager")
modes = (
    EAGER,
    Mode("eager", layout="channels_first"),
    Mode("eager", layout="channels_last"),
    Mode("eager", layout="strided", refusals=False),
)


def versions() -> Mapping[str, str]:
    return {"numpy": np.__version__}


def from_numpy(array: Array, mode: Mode) -> Array:
    return array


def to_numpy(array: Any) -> Array:
    return np.asarray(array)


def value_and_gradient(call: Call, mode: Mode) -> tuple[Any, Any]:
    loss = getattr(hemspec, call.loss)
    return (
        loss(call.logits, call.labels, **call.keywords),
        loss.gradient(call.logits, call.labels, **call.keywords),
    )


def gradient(call: Call, mode: Mode, upstream: Array) -> Array:
    """The reference has the gradient of the sum; each loss's part of it is weighted."""
    of_sum: Array = getattr(hemspec, call.loss).gradient(call.logits, call.labels, **call.keywords)
    rows = np.moveaxis(of_sum, call.axis, -1)
    weighted = rows * upstream.reshape(upstream.shape + (1,) * (rows.ndim - upstream.ndim))
    return np.moveaxis(weighted, -1, call.axis).astype(of_sum.dtype)
