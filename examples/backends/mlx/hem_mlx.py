"""HEM, multi-class margin and cross-entropy for MLX.

    >>> logits = mx.array([[1.0, 1.5, 0.0, -3.0], [9.0, 0.0, 0.0, 0.0]])
    >>> hem_loss(logits, mx.array([0, 0])).item()
    1.5
    >>> mx.grad(hem_loss)(logits, mx.array([0, 0]))[0].tolist()
    [-1.0, 1.0, 0.0, 0.0]

A port of hemspec's specification, not of its code: only the checks of the arguments are hemspec's. All arguments are
those of `hemspec.hem_loss`: logits with a class axis, integer labels, and ``axis``, ``sample_weight``,
``ignore_index`` and ``reduction``. Half-precision logits are computed in float32 and give a float32 loss.

MLX is lazy: to look at a label is to wait for it, and under ``mx.compile`` and ``mx.vmap`` it cannot be done at all.
So shapes and dtypes are checked, and a bad label or weight makes the loss NaN. A margin is a number, or anything that
NumPy reads, and is checked.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from hemspec import arguments as check

NAN = float("nan")
BLOCK = 256


class Positions(NamedTuple):
    """The arguments after checking: one row of logits for each label, zeros where a position does not exist."""

    z: mx.array  # class axis last, in the compute dtype; the only part with a gradient
    true: mx.array  # one-hot labels, as a mask
    weights: mx.array  # 0 where a position does not exist
    poison: mx.array  # 1, or NaN where the label or the weight is bad. It multiplies, and so reaches the gradient.


def dtype_name(array: mx.array) -> str:
    return str(array.dtype).rpartition(".")[-1]


def read(
    logits: mx.array, labels: mx.array, *, axis: int = -1, sample_weight: Any = None, ignore_index: int | None = -100
) -> Positions:
    axis = check.check_logits(logits.shape, dtype_name(logits), axis)
    check.check_labels(labels.shape, dtype_name(labels), logits.shape, axis)
    ignore_index = check.check_ignore_index(ignore_index)
    exists = mx.ones(labels.shape, mx.bool_)
    if ignore_index is not None and check.representable(ignore_index, dtype_name(labels)):
        exists = labels != ignore_index
    dtype = logits.dtype if logits.dtype == mx.float64 else mx.float32
    weights = mx.ones(labels.shape, dtype)
    if sample_weight is not None:
        check.check_weight(sample_weight.shape, dtype_name(sample_weight), labels.shape)
        trailing = (1,) * (labels.ndim - sample_weight.ndim)
        weights = mx.broadcast_to(sample_weight.astype(dtype).reshape(*sample_weight.shape, *trailing), labels.shape)
    bad_weight = exists & ~((weights >= 0) & (weights < float("inf")))
    valid = exists & ((weights > 0) | bad_weight)

    classes = logits.shape[axis]
    labels = labels.astype(mx.int64)  # after the comparison above: -100 in 64 bits is more than one uint64
    bad_label = (labels < 0) | (labels >= classes)
    return Positions(
        mx.where(valid[..., None], mx.moveaxis(logits, axis, -1), 0.0).astype(dtype),
        mx.where(valid, labels, 0)[..., None] == mx.arange(classes),
        mx.where(valid, weights, 0.0),
        mx.where(valid & (bad_label | bad_weight), NAN, mx.ones((), dtype)),
    )


def reduce(values: mx.array, p: Positions, reduction: str) -> mx.array:
    """Weights, then the reduction. 0/0 is 0."""
    exists = p.weights != 0
    weighted = mx.where(exists, p.weights * values, 0.0)
    if reduction == "none":
        return weighted
    if reduction == "sum":
        return total(weighted)
    counted = exists & ((values > 0) | mx.isnan(values)) if reduction == "active_mean" else exists
    denominator = total(mx.where(counted, p.weights, 0.0))
    return total(weighted) / mx.where(denominator == 0, 1.0, denominator)


def over_classes(rows: mx.array) -> mx.array:
    """The sum over the last axis, block by block: mx.sum adds one number after the other (ml-explore/mlx issue 483)."""
    if rows.shape[-1] <= BLOCK:
        return mx.sum(rows, axis=-1)
    padded = mx.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, -rows.shape[-1] % BLOCK)])
    return over_classes(mx.sum(mx.unflatten(padded, -1, (-1, BLOCK)), axis=-1))


def total(values: mx.array) -> mx.array:
    """The sum over all positions, which may be a million: block by block as well."""
    return over_classes(mx.flatten(values))


def to_classes(column: mx.array, classes: int) -> mx.array:
    """One number for all classes, block by block, so that its gradient is added up like that as well."""
    block = min(classes, BLOCK)
    blocks = mx.repeat(column[..., None, None], -(-classes // block), axis=-2)
    return mx.flatten(mx.repeat(blocks, block, axis=-1), -2)[..., :classes]


def exp(x: mx.array) -> mx.array:
    """On the CPU MLX computes the exp of a float64 in float32 (ml-explore/mlx issue 3047), but not its power."""
    return mx.power(mx.array(math.e, x.dtype), x) if x.dtype == mx.float64 else mx.exp(x)


def at_true_class(rows: mx.array, p: Positions) -> mx.array:
    return mx.sum(mx.where(p.true, rows, 0.0), axis=-1)


def margin_differences(p: Positions, margin: Any) -> mx.array:
    """(z_j - z_y) + m for the rivals j, 0 for y itself. A row with a NaN is NaN throughout, and so is its gradient."""
    margins = check.read_constant(margin, name="margin")
    classes = p.z.shape[-1]
    check.check_per_class(margins.shape, classes, name="margin", scalar=True)
    m = at_true_class(mx.array(np.broadcast_to(margins, (classes,)), p.z.dtype), p)[..., None]
    differences = mx.where(p.true, 0.0, (p.z - to_classes(at_true_class(p.z, p), classes)) + m)
    spoilt = mx.any(mx.isnan(differences), axis=-1)
    return differences * mx.where(spoilt, NAN, p.poison)[..., None]


def hem_loss(
    logits: mx.array, labels: mx.array, *, margin: Any = 1.0, reduction: str = "active_mean", **options: Any
) -> mx.array:
    """High error margin loss: the mean of those errors max(0, z_j - z_y + m) that are not below the mean error.

    With a vector of margins, one for each true class, it is HEM+.
    """
    check.check_reduction(reduction, check.MARGIN_REDUCTIONS)
    p = read(logits, labels, **options)
    differences = margin_differences(p, margin)
    errors = mx.maximum(mx.stop_gradient(differences), 0.0)  # the threshold has no gradient
    largest = mx.max(errors, axis=-1, keepdims=True)
    # C * (M - e_j) <= sum of (M - e_k) says e_j >= mean(e), without a mean that rounding could put above them all.
    shortfall = largest - errors
    high = errors.shape[-1] * shortfall <= mx.sum(shortfall, axis=-1, keepdims=True)
    high = mx.where(mx.isinf(largest), errors == largest, high)
    kept = (high & (errors > 0)) | mx.isnan(errors)
    size = mx.maximum(mx.sum(kept, axis=-1), 1).astype(errors.dtype)
    return reduce(over_classes(mx.where(kept, differences, 0.0)) / size, p, reduction)


def multi_margin_loss(
    logits: mx.array, labels: mx.array, *, margin: Any = 1.0, reduction: str = "mean", **options: Any
) -> mx.array:
    """Multi-class margin loss: the errors max(0, z_j - z_y + m) of the rivals, added up and divided by C."""
    check.check_reduction(reduction, check.MARGIN_REDUCTIONS)
    p = read(logits, labels, **options)
    differences = margin_differences(p, margin)
    # Not mx.maximum: at a kink the gradient is 0.
    errors = mx.where((differences > 0) | mx.isnan(differences), differences, 0.0)
    return reduce(over_classes(errors) / errors.shape[-1], p, reduction)


def cross_entropy_loss(logits: mx.array, labels: mx.array, *, reduction: str = "mean", **options: Any) -> mx.array:
    """Cross-entropy of integer labels, softmax inside: logsumexp(z) - z_y."""
    check.check_reduction(reduction, check.REDUCTIONS)
    p = read(logits, labels, **options)
    shifted = p.z - mx.stop_gradient(mx.max(p.z, axis=-1, keepdims=True))
    values = mx.log(over_classes(exp(shifted))) - at_true_class(shifted, p)
    return reduce(values * p.poison, p, reduction)
