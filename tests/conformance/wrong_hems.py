"""HEM ports that are wrong in the ways ports are wrong, to show that the conformance suite notices each of them.

Every one still trains. Each differs from `RightHEM` in the one method or switch its docstring names; the first three
kinds have been seen in public code.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hemspec_conformance.adapter import Array, Call, Mode


class RightHEM:
    """HEM in NumPy, written apart from the reference: the control, which has to pass everything."""

    spec_version = 1
    losses = ("hem_loss",)
    modes = (Mode("eager"),)
    class_axis_is_wrong = False
    margin_of_competing_class = False
    counts_ignored = False
    swallows_nan = False

    @property
    def name(self) -> str:
        return type(self).__name__

    def versions(self) -> Mapping[str, str]:
        return {"numpy": np.__version__}

    def threshold_met(self, errors: Array) -> Array:
        """Which errors are not below the mean error: shape (P, C)."""
        largest = errors.max(axis=1, keepdims=True)
        short = largest - errors
        met = errors.shape[1] * short <= short.sum(axis=1, keepdims=True)
        return np.where(np.isinf(largest), errors == largest, met)

    def errors(self, z: Array, y: Array, margins: Array) -> Array:
        e = np.maximum(0.0, z - z[np.arange(len(z)), y][:, None] + margins)
        e[np.arange(len(z)), y] = 0.0
        return e

    def slopes(self, errors: Array, kept: Array, y: Array) -> Array:
        """The gradient of each position's loss in its logits."""
        slopes = kept / np.maximum(kept.sum(axis=1, keepdims=True), 1)
        slopes[np.arange(len(y)), y] -= slopes.sum(axis=1)
        return slopes

    def active(self, values: Array) -> Array:
        return (values > 0) | np.isnan(values)

    def from_numpy(self, array: Array, mode: Mode) -> Array:
        return array

    def to_numpy(self, array: Array) -> Array:
        return array

    def value_and_gradient(self, call: Call, mode: Mode) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            return self.evaluate(call)

    def evaluate(self, call: Call) -> tuple[Array, Array]:
        dtype = call.logits.dtype
        compute = np.float64 if dtype == np.float64 else np.float32
        axis = call.axis % call.logits.ndim
        moved = np.moveaxis(call.logits, axis, -1)
        if self.class_axis_is_wrong and call.logits.ndim > 2:
            moved = np.moveaxis(call.logits, -1 if axis == 1 else 1, -1)
            if moved.shape[-1] != call.logits.shape[axis]:  # sizes differ: a port would crash, which is noticed too
                raise ValueError("the labels do not fit")
        classes = moved.shape[-1]
        z = moved.reshape(-1, classes).astype(np.float64)
        labels = call.labels.ravel().astype(np.int64)
        ignored = np.zeros(labels.shape, bool)
        if call.ignore_index is not None:
            ignored = labels == call.ignore_index
        w = np.ones(labels.shape)
        if call.sample_weight is not None:
            given = call.sample_weight.astype(np.float64)
            given = given.reshape(given.shape + (1,) * (call.labels.ndim - given.ndim))
            w = np.broadcast_to(given, call.labels.shape).ravel().copy()
        if self.counts_ignored:
            w[ignored & np.isnan(w)] = 1.0
        else:
            w[ignored] = 0.0
        absent = ignored | (w == 0)
        z[absent] = 0.0
        y = np.where(absent, 0, labels)

        margin = np.broadcast_to(np.asarray(call.constants.get("margin", 1.0), float), (classes,))
        errors = self.errors(z, y, margin[None, :] if self.margin_of_competing_class else margin[y][:, None])
        kept = self.threshold_met(errors) & (errors > 0)
        if not self.swallows_nan:
            kept |= np.isnan(errors)
        size = np.maximum(kept.sum(axis=1), 1)
        values = np.where(kept, errors, 0.0).sum(axis=1) / size
        values[ignored] = 0.0
        slopes = self.slopes(errors, kept, y)
        if not self.swallows_nan:
            slopes[np.isnan(values)] = np.nan

        weighted = np.where(w > 0, w * values, 0.0)
        counted = w > 0
        if call.reduction == "active_mean":
            counted &= self.active(values)
        denominator = w[counted].sum() if call.reduction in ("mean", "active_mean") else 1.0
        share = w / denominator if denominator else np.zeros_like(w)
        gradient = share[:, None] * slopes
        gradient[absent] = 0.0
        if call.reduction == "none":
            value = weighted.reshape(call.labels.shape)
        else:
            value = np.asarray(weighted.sum() / denominator if denominator else 0.0)
        gradient = np.moveaxis(gradient.reshape(moved.shape), -1, axis).reshape(call.logits.shape)
        return value.astype(compute), gradient.astype(dtype)


class MeanOverNonZeroErrors(RightHEM):
    """The threshold averages the positive errors alone instead of all C."""

    def threshold_met(self, errors: Array) -> Array:
        positive = errors > 0
        mean = errors.sum(axis=1, keepdims=True) / np.maximum(positive.sum(axis=1, keepdims=True), 1)
        return np.where(np.isinf(mean), errors == np.inf, errors >= mean)


class GreaterForGreaterEqual(RightHEM):
    """An error equal to the mean error is dropped."""

    def threshold_met(self, errors: Array) -> Array:
        largest = errors.max(axis=1, keepdims=True)
        short = largest - errors
        met = errors.shape[1] * short < short.sum(axis=1, keepdims=True)
        return np.where(np.isinf(largest), errors == largest, met)


class GradientThroughThreshold(RightHEM):
    """Right value, wrong gradient: the mean error is subtracted and its detached copy added back."""

    def slopes(self, errors: Array, kept: Array, y: Array) -> Array:
        positive = (errors > 0) / errors.shape[1]
        slopes = kept / np.maximum(kept.sum(axis=1, keepdims=True), 1) - positive * kept.any(axis=1, keepdims=True)
        slopes[np.arange(len(y)), y] -= slopes.sum(axis=1)
        return slopes


class TargetColumnLeftIn(RightHEM):
    """The error of the true class with itself, which is the margin, is not removed."""

    def errors(self, z: Array, y: Array, margins: Array) -> Array:
        return np.maximum(0.0, z - z[np.arange(len(z)), y][:, None] + margins)


class AllPositionsInActiveMean(RightHEM):
    """The active mean divides by every valid position."""

    def active(self, values: Array) -> Array:
        return np.ones_like(values, bool)


class MarginOfCompetingClass(RightHEM):
    """Margins are indexed by the competing class instead of the true one."""

    margin_of_competing_class = True


class WrongAxis(RightHEM):
    """Classes are looked for along another axis when there are several."""

    class_axis_is_wrong = True


class IgnoredPositionsCounted(RightHEM):
    """Ignored positions cost nothing, but the mean still divides by them."""

    counts_ignored = True


class NaNSwallowed(RightHEM):
    """A NaN error is not kept, so a broken position costs 0 and nobody sees it."""

    swallows_nan = True


WRONG_HEMS = (
    MeanOverNonZeroErrors,
    GreaterForGreaterEqual,
    GradientThroughThreshold,
    TargetColumnLeftIn,
    AllPositionsInActiveMean,
    MarginOfCompetingClass,
    WrongAxis,
    IgnoredPositionsCounted,
    NaNSwallowed,
)
