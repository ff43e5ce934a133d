"""Ports that are wrong where no frozen vector looks, to show that a law does: each is the reference with one fault.

What vectors and random calls notice is in `wrong_hems.py` and in the catalogue of `mutation`. Here are the faults for
which a law of its own was written: in what comes from above, in the size of the input, in what the input is left like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hemspec_conformance.adapter import LOSSES, Array, Call, Mode
from hemspec_conformance.adapters import numpy as reference


class RightPort:
    """The reference: the control, which has to pass everything."""

    spec_version = 1
    losses = tuple(LOSSES)
    modes: Sequence[Mode] = (Mode("eager", dtypes=("float32",)),)

    @property
    def name(self) -> str:
        return type(self).__name__

    def versions(self) -> Mapping[str, str]:
        return {"numpy": np.__version__}

    def from_numpy(self, array: Array, mode: Mode) -> Array:
        return array

    def to_numpy(self, array: Any) -> Array:
        return np.asarray(array)

    def value_and_gradient(self, call: Call, mode: Mode) -> tuple[Any, Any]:
        return reference.value_and_gradient(call, mode)

    def gradient(self, call: Call, mode: Mode, upstream: Array) -> Array:
        return reference.gradient(call, mode, upstream)


class IgnoresWhatComesFromAbove(RightPort):
    """A backward pass of its own that returns the gradient of the sum, whatever is handed down to it."""

    def gradient(self, call: Call, mode: Mode, upstream: Array) -> Array:
        return reference.gradient(call, mode, np.ones_like(upstream))


class TakesTheFirstForAll(RightPort):
    """Under "none" it takes the first incoming gradient for that of every position."""

    def gradient(self, call: Call, mode: Mode, upstream: Array) -> Array:
        return reference.gradient(call, mode, np.broadcast_to(upstream.ravel()[:1].reshape(()), upstream.shape))


class TakesTheSizeOfWhatComes(RightPort):
    """The sign of the incoming gradient is lost."""

    def gradient(self, call: Call, mode: Mode, upstream: Array) -> Array:
        return reference.gradient(call, mode, np.abs(upstream))


class ShiftsLogitsInPlace(RightPort):
    """The maximum is subtracted from the caller's own logits, which changes no loss but LogitNorm's."""

    losses = tuple(loss for loss in LOSSES if loss != "logit_norm_loss")

    def value_and_gradient(self, call: Call, mode: Mode) -> tuple[Any, Any]:
        answer = super().value_and_gradient(call, mode)
        call.logits[...] = np.where(np.isfinite(call.logits), call.logits + 1, call.logits)
        return answer


class FillsIgnoredLabelsInPlace(RightPort):
    """Ignored labels become 0 in the caller's own array."""

    def value_and_gradient(self, call: Call, mode: Mode) -> tuple[Any, Any]:
        answer = super().value_and_gradient(call, mode)
        call.labels[...] = np.where(call.labels == call.ignore_index, 0, call.labels)
        return answer


class NormalizesWeightsInPlace(RightPort):
    """The caller's weights are scaled."""

    def value_and_gradient(self, call: Call, mode: Mode) -> tuple[Any, Any]:
        answer = super().value_and_gradient(call, mode)
        if call.sample_weight is not None:
            call.sample_weight[...] = call.sample_weight / 2
        return answer


class CastsLabelsTo32Bits(RightPort):
    """2**32 is class 0, and 2**32 - 100 is ignored."""

    def value_and_gradient(self, call: Call, mode: Mode) -> tuple[Any, Any]:
        labels = call.labels.astype(np.int32) if call.labels.dtype in ("int64", "uint64") else call.labels
        return super().value_and_gradient(replace(call, labels=labels), mode)


class ComparesSizesOfLabels(RightPort):
    """100 is ignored like -100, where it is no class."""

    def value_and_gradient(self, call: Call, mode: Mode) -> tuple[Any, Any]:
        if type(call.ignore_index) is int and call.labels.dtype.kind == "i":
            no_class = (call.labels < 0) | (call.labels >= call.logits.shape[call.axis % call.logits.ndim])
            taken = no_class & (np.abs(call.labels) == abs(call.ignore_index))
            call = replace(call, labels=np.where(taken, call.ignore_index, call.labels))
        return super().value_and_gradient(call, mode)


@dataclass(frozen=True)
class Killed:
    """A wrong port, and the one check, or pattern of checks, that notices it."""

    port: Callable[[], RightPort]
    by: str
    finding: int
    losses: Sequence[str] = ("cross_entropy_loss",)
    """Asked about these, to be quick."""


WRONG_PORTS: Sequence[Killed] = (
    Killed(IgnoresWhatComesFromAbove, "law_incoming_gradient", 25),
    Killed(TakesTheFirstForAll, "law_incoming_gradient", 25),
    Killed(TakesTheSizeOfWhatComes, "law_incoming_gradient", 25, ("dice_loss",)),
    Killed(CastsLabelsTo32Bits, "bad_labels_*2_to_the_*", 28),
    Killed(ComparesSizesOfLabels, "bad_labels_*100", 29),
)

OVERWRITE: Mapping[str, Callable[[], RightPort]] = {
    "logits": ShiftsLogitsInPlace,
    "labels": FillsIgnoredLabelsInPlace,
    "sample_weight": NormalizesWeightsInPlace,
}
"""What is written to, and a port that does. Each question sees whether its arrays come back, so many checks fail."""
