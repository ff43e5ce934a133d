"""HEM, multi-class margin and cross-entropy for autograd, which differentiates NumPy code.

    >>> import numpy as np
    >>> from autograd import grad
    >>> logits, labels = np.array([[1.0, 1.5, 0.0, -3.0], [9.0, 0.0, 0.0, 0.0]]), np.array([0, 0])
    >>> float(hem_loss(logits, labels))
    1.5
    >>> grad(hem_loss)(logits, labels)[0].tolist()
    [-1.0, 1.0, 0.0, 0.0]

A port of hemspec's specification, not of its code: only the checks of the arguments are hemspec's. All arguments are
those of `hemspec.hem_loss`: logits with a class axis, integer labels, and ``axis``, ``sample_weight``,
``ignore_index`` and ``reduction``. float16 logits are computed in float32 and give a float32 loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd.tracer import getval, isbox

from hemspec import arguments as check


@dataclass(frozen=True)
class Positions:
    """The arguments after checking: one row of logits for each label, zeros where a position does not exist."""

    z: Any  # class axis last, in the compute dtype; the only part with a gradient
    labels: np.ndarray
    true: np.ndarray  # one-hot labels, as a mask
    weights: np.ndarray  # 0 where a position does not exist


def constant(x: Any) -> Any:
    """The number without its history: autograd differentiates what it sees, and cannot see this."""
    while isbox(x):
        x = getval(x)
    return x


def read(
    logits: Any, labels: Any, *, axis: int = -1, sample_weight: Any = None, ignore_index: int | None = -100
) -> Positions:
    axis = check.check_logits(logits.shape, logits.dtype.name, axis)
    labels = np.asarray(labels)
    check.check_labels(labels.shape, labels.dtype.name, logits.shape, axis)
    ignore_index = check.check_ignore_index(ignore_index)
    # NumPy compares an array with a Python integer as numbers, so no uint8 label equals -100.
    exists = np.ones(labels.shape, bool) if ignore_index is None else np.asarray(labels != ignore_index)
    weights = np.ones(labels.shape)
    if sample_weight is not None:
        given = np.asarray(sample_weight)
        check.check_weight(given.shape, given.dtype.name, labels.shape)
        trailing = (1,) * (labels.ndim - given.ndim)
        weights = np.broadcast_to(given.astype(float).reshape(given.shape + trailing), labels.shape)
        check.check_weight_values(weights, exists)
    valid = exists & (weights > 0)
    classes = logits.shape[axis]
    check.check_label_values(labels, valid, classes)

    dtype = np.float64 if logits.dtype == np.float64 else np.float32
    # Cast first: autograd computes gradients in float64, and it is a cast that takes them back to the logits' dtype.
    z = anp.where(valid[..., None], anp.moveaxis(logits.astype(dtype), axis, -1), 0.0)
    labels = np.where(valid, labels, 0)
    return Positions(z, labels, labels[..., None] == np.arange(classes), np.where(valid, weights, 0.0).astype(dtype))


def reduce(values: Any, p: Positions, reduction: str) -> Any:
    """Weights, then the reduction. 0/0 is 0."""
    weighted = anp.where(p.weights > 0, p.weights * values, 0.0)
    if reduction == "none":
        return weighted
    counted = p.weights
    if reduction == "active_mean":
        plain = constant(values)
        counted = counted[(plain > 0) | np.isnan(plain)]
    return anp.sum(weighted) / (1.0 if reduction == "sum" else float(counted.sum()) or 1.0)


def at_true_class(rows: Any, p: Positions) -> Any:
    return anp.sum(anp.where(p.true, rows, 0.0), axis=-1, keepdims=True)


def margin_differences(p: Positions, margin: Any) -> Any:
    """(z_j - z_y) + m for the rivals j, 0 for y itself. A row with a NaN is NaN throughout, and so is its gradient."""
    margins = check.read_constant(margin, name="margin")
    classes = p.z.shape[-1]
    check.check_per_class(margins.shape, classes, name="margin", scalar=True)
    m = np.broadcast_to(margins, (classes,))[p.labels][..., None].astype(p.z.dtype)
    differences = anp.where(p.true, 0.0, (p.z - at_true_class(p.z, p)) + m)
    spoilt = np.isnan(constant(differences)).any(axis=-1, keepdims=True)
    return differences * np.where(spoilt, np.nan, 1.0).astype(p.z.dtype)


@np.errstate(invalid="ignore")
def hem_loss(logits: Any, labels: Any, *, margin: Any = 1.0, reduction: str = "active_mean", **options: Any) -> Any:
    """High error margin loss: the mean of those errors max(0, z_j - z_y + m) that are not below the mean error.

    With a vector of margins, one for each true class, it is HEM+.
    """
    check.check_reduction(reduction, check.MARGIN_REDUCTIONS)
    p = read(logits, labels, **options)
    differences = margin_differences(p, margin)
    errors = np.maximum(constant(differences), 0.0)  # the threshold has no gradient
    largest = errors.max(axis=-1, keepdims=True)
    # C * (M - e_j) <= sum of (M - e_k) says e_j >= mean(e), without a mean that rounding could put above them all.
    shortfall = largest - errors
    high = errors.shape[-1] * shortfall <= shortfall.sum(axis=-1, keepdims=True)
    high = np.where(np.isinf(largest), errors == largest, high)
    kept = (high & (errors > 0)) | np.isnan(errors)
    size = np.maximum(kept.sum(axis=-1), 1).astype(errors.dtype)
    return reduce(anp.sum(anp.where(kept, differences, 0.0), axis=-1) / size, p, reduction)


@np.errstate(invalid="ignore")
def multi_margin_loss(logits: Any, labels: Any, *, margin: Any = 1.0, reduction: str = "mean", **options: Any) -> Any:
    """Multi-class margin loss: the errors max(0, z_j - z_y + m) of the rivals, added up and divided by C."""
    check.check_reduction(reduction, check.MARGIN_REDUCTIONS)
    p = read(logits, labels, **options)
    differences = margin_differences(p, margin)
    plain = constant(differences)
    # Not anp.maximum, which shares the gradient out at a kink: there it is 0.
    errors = anp.where((plain > 0) | np.isnan(plain), differences, 0.0)
    return reduce(anp.sum(errors, axis=-1) / errors.shape[-1], p, reduction)


@np.errstate(invalid="ignore", divide="ignore")
def cross_entropy_loss(logits: Any, labels: Any, *, reduction: str = "mean", **options: Any) -> Any:
    """Cross-entropy of integer labels, softmax inside: logsumexp(z) - z_y."""
    check.check_reduction(reduction, check.REDUCTIONS)
    p = read(logits, labels, **options)
    shifted = p.z - constant(p.z).max(axis=-1, keepdims=True)
    values = anp.log(anp.sum(anp.exp(shifted), axis=-1)) - at_true_class(shifted, p)[..., 0]
    return reduce(values, p, reduction)
