"""Ports that are wrong where no frozen vector looks, to show that a law does: each is the reference with one fault.

What vectors and random calls notice is in `wrong_hems.py` and in the catalogue of `mutation`. Here are the faults for
which a law of its own was written: in what comes from above, in the size of the input, in what the input is left like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from hemspec_conformance.adapter import DERIVATIVES, LOSSES, Array, Call, Mode
from hemspec_conformance.adapters import numpy as reference
from hemspec_conformance.vectors import reference_answer


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


class SumsOneByOne(RightPort):
    """The mean of many positions is added up one after the other in float32."""

    def value_and_gradient(self, call: Call, mode: Mode) -> tuple[Any, Any]:
        value, gradient = super().value_and_gradient(call, mode)
        if call.reduction == "mean" and call.labels.size > 1000 and value.dtype == np.float32:
            each = np.asarray(reference.value_and_gradient(replace(call, reduction="none"), mode)[0])
            value = np.cumsum(each.ravel(), dtype=np.float32)[-1] / np.float32(each.size)
        return value, gradient


class ForgetsTheLastRows(RightPort):
    """Rows beyond the last whole block of 128 give nothing."""

    block = 128

    def value_and_gradient(self, call: Call, mode: Mode) -> tuple[Any, Any]:
        value, gradient = super().value_and_gradient(call, mode)
        rows = len(call.labels) if call.labels.ndim else 0
        if call.reduction == "none" and rows > self.block and rows % self.block:
            value, gradient = np.array(value), np.array(gradient)
            value[rows - rows % self.block :] = 0
            gradient[rows - rows % self.block :] = 0
        return value, gradient


class DropsNaNBeyondABlock(RightPort):
    """A NaN behind the first 1,024 rows is replaced by 0."""

    def value_and_gradient(self, call: Call, mode: Mode) -> tuple[Any, Any]:
        logits = call.logits
        if logits.ndim == 2 and len(logits) > 1024 and np.isnan(logits).any():
            logits = logits.copy()
            logits[1024:] = np.nan_to_num(logits[1024:])
        return super().value_and_gradient(replace(call, logits=logits), mode)


class ForgetsTheLastClasses(RightPort):
    """Classes beyond the first 100,000 are not looked at, unless one of them is the label."""

    def value_and_gradient(self, call: Call, mode: Mode) -> tuple[Any, Any]:
        value, gradient = super().value_and_gradient(call, mode)
        if call.logits.shape[-1] > 100_000 and call.labels.size:
            gradient = np.array(gradient)
            gradient[..., 100_000:] = 0
        return value, gradient


class IgnoresEveryHundred(RightPort):
    """100 is ignored like -100, where it is a class."""

    def value_and_gradient(self, call: Call, mode: Mode) -> tuple[Any, Any]:
        if call.ignore_index == -100 and call.labels.dtype.kind == "i" and call.logits.shape[call.axis] > 100:
            call = replace(call, labels=np.where(call.labels == 100, -100, call.labels))
        return super().value_and_gradient(call, mode)


class RightDerivatives(RightPort):
    """Derivatives of every kind, which the reference has not, from its gradient and that of HEM: its own has none."""

    losses = ("hem_loss", "cross_entropy_loss")
    derivatives = tuple(DERIVATIVES)

    def total(self, call: Call) -> float:
        return float(reference_answer(call)[0].sum())

    def curvature(self, call: Call, direction: Array) -> Array:
        if call.loss == "hem_loss":
            return np.zeros(call.logits.shape)
        step = 1e-4 * direction
        ahead, behind = (reference_answer(replace(call, logits=call.logits + s))[1] for s in (step, -step))
        return np.asarray((ahead - behind) / 2e-4)

    def derivative(self, kind: str, call: Call, mode: Mode, direction: Array) -> Array:
        if kind == "batched":
            return np.stack([self.gradient(call, mode, upstream) for upstream in direction])
        call, d = replace(call, logits=call.logits.astype(np.float64)), direction.astype(np.float64)
        value, g = reference_answer(call)
        if kind == "forward":
            return np.asarray((g * d).sum(axis=tuple(range(value.ndim, g.ndim))), np.float32)
        curved = self.curvature(call, d)
        if kind == "nested":
            return (2 * self.total(call) * g + curved).astype(np.float32)
        return np.asarray((2 * g * (g * d).sum() + 2 * self.total(call) * curved), np.float32)


class LosesTheValueWhenNested(RightDerivatives):
    """The value inside a gradient is a constant: only the gradient's own derivative is left."""

    def derivative(self, kind: str, call: Call, mode: Mode, direction: Array) -> Array:
        if kind == "nested":
            call = replace(call, logits=call.logits.astype(np.float64))
            return self.curvature(call, direction.astype(np.float64)).astype(np.float32)
        return super().derivative(kind, call, mode, direction)


class HasNoSlopeOfTheSquare(RightDerivatives):
    """A gradient of a gradient of f ** 2 leaves out 2 g (g . d), as if the gradient were a constant."""

    def derivative(self, kind: str, call: Call, mode: Mode, direction: Array) -> Array:
        if kind == "second":
            call, d = replace(call, logits=call.logits.astype(np.float64)), direction.astype(np.float64)
            return (2 * self.total(call) * self.curvature(call, d)).astype(np.float32)
        return super().derivative(kind, call, mode, direction)


class ForwardIsBackward(RightDerivatives):
    """The forward derivative has the wrong sign."""

    def derivative(self, kind: str, call: Call, mode: Mode, direction: Array) -> Array:
        right = super().derivative(kind, call, mode, direction)
        return -right if kind == "forward" else right


class ForwardOverReverseIsNothing(RightDerivatives):
    """Forward mode does not reach into the backward pass."""

    def derivative(self, kind: str, call: Call, mode: Mode, direction: Array) -> Array:
        right = super().derivative(kind, call, mode, direction)
        return np.zeros_like(right) if kind == "forward_over_reverse" else right


class BatchIsItsFirst(RightDerivatives):
    """Of several incoming gradients each gets the answer to the first."""

    def derivative(self, kind: str, call: Call, mode: Mode, direction: Array) -> Array:
        right = super().derivative(kind, call, mode, direction)
        return np.broadcast_to(right[:1], right.shape) if kind == "batched" else right


class DividesByZeroOnTheWay(RightPort):
    """Its answers are right, but it divides by 0 on the way and puts the result aside."""

    modes = (RightPort.modes[0], Mode("eager", setting="raises", dtypes=("float32",), finite_only=True, refusals=False))

    def value_and_gradient(self, call: Call, mode: Mode) -> tuple[Any, Any]:
        answer = super().value_and_gradient(call, mode)
        with np.errstate(divide="raise" if mode.setting else "ignore"):
            np.where(call.labels >= 0, 0.0, np.float64(1.0) / np.zeros(call.labels.shape))
        return answer


@dataclass(frozen=True)
class Killed:
    """A wrong port, and the one check, or pattern of checks, that notices it."""

    port: Callable[[], RightPort]
    by: str
    finding: pytest.MarkDecorator
    losses: Sequence[str] = ("cross_entropy_loss",)
    """Asked about these, to be quick."""


WRONG_PORTS: Sequence[Killed] = (
    Killed(IgnoresWhatComesFromAbove, "law_incoming_gradient", pytest.mark.finding(25)),
    Killed(TakesTheFirstForAll, "law_incoming_gradient", pytest.mark.finding(25)),
    Killed(TakesTheSizeOfWhatComes, "law_incoming_gradient", pytest.mark.finding(25), ("dice_loss",)),
    Killed(ForgetsTheLastRows, "law_rows", pytest.mark.finding(27)),
    Killed(DropsNaNBeyondABlock, "law_rows", pytest.mark.finding(27)),
    Killed(ForgetsTheLastClasses, "law_classes", pytest.mark.finding(27)),
    Killed(SumsOneByOne, "law_sums", pytest.mark.finding(27)),
    Killed(IgnoresEveryHundred, "law_label_100", pytest.mark.finding(29)),
    Killed(LosesTheValueWhenNested, "law_nested", pytest.mark.finding(30), ("hem_loss",)),
    Killed(HasNoSlopeOfTheSquare, "law_second", pytest.mark.finding(30)),
    Killed(ForwardIsBackward, "law_forward", pytest.mark.finding(30)),
    Killed(ForwardOverReverseIsNothing, "law_forward_over_reverse", pytest.mark.finding(30)),
    Killed(BatchIsItsFirst, "law_batched", pytest.mark.finding(30)),
    Killed(CastsLabelsTo32Bits, "bad_labels_*2_to_the_*", pytest.mark.finding(28)),
    Killed(ComparesSizesOfLabels, "bad_labels_*100", pytest.mark.finding(29)),
)

OVERWRITE: Mapping[str, Callable[[], RightPort]] = {
    "logits": ShiftsLogitsInPlace,
    "labels": FillsIgnoredLabelsInPlace,
    "sample_weight": NormalizesWeightsInPlace,
}
"""What is written to, and a port that does. Each question sees whether its arrays come back, so many checks fail."""
