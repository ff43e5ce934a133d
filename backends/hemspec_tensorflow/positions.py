"""From a call's arguments to masked positions, and from a loss per position to the reduced answer, in TensorFlow.

What every loss shares: checking, ignored and unweighted positions, reading or poisoning bad values, reductions.

Poison: a value that cannot be read without a synchronisation (in a `tf.function`, on an accelerator) cannot raise, so
a bad one turns its loss into NaN instead. Logits are *multiplied* by a factor of 1 or NaN: that way the gradient of
such a position is NaN in every class as well, which `tf.where` would not give. Sizes a trace does not know are
compared when the graph runs, and a mismatch is poison too.

NaN needs care here. Comparisons are never negated, since the graph optimiser turns not(a <= b) into a > b; no NaN is
looked for with `tf.reduce_max`, which drops it under XLA; nor is one multiplied into a mask cast to numbers, since XLA
turns cast(mask) * x into a selection and 0 * NaN into 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hemspec.arguments import (
    check_constant_dtype,
    check_ignore_index,
    check_label_values,
    check_labels,
    check_logits,
    check_number,
    check_per_class,
    check_weight,
    check_weight_values,
    read_constant,
    representable,
)


class Positions(NamedTuple):
    """Every tensor but `logits` has the shape of the labels and carries no gradient."""

    logits: tf.Tensor  # class axis last, in the compute dtype, zero where not valid
    labels: tf.Tensor  # int64, in [0, C) everywhere
    weights: tf.Tensor  # compute dtype, 0 where not valid, NaN where bad
    valid: tf.Tensor  # bool
    poison: tf.Tensor  # 1, or NaN where the label, the weight or a size is bad

    @property
    def classes(self) -> Any:
        """C, a tensor where a trace does not know it."""
        return last_size(self.logits)

    @property
    def true_class(self) -> tf.Tensor:
        """One-hot labels as a mask, the shape of the logits."""
        return self.labels[..., tf.newaxis] == tf.range(tf.cast(self.classes, tf.int64))


def to_tensor(value: Any, name: str) -> tf.Tensor:
    """Whatever TensorFlow takes for a tensor, as one."""
    try:
        return tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a tensor or an array; got {type(value).__name__}") from error


def read(tensor: tf.Tensor) -> npt.NDArray[Any] | None:
    """The values, where they can be had without a synchronisation; None on an accelerator or while tracing."""
    if tf.is_symbolic_tensor(tensor) or "CPU" not in tensor.device:
        return None
    return np.asarray(tensor.numpy())


def static_shape(tensor: tf.Tensor, name: str) -> tuple[int | None, ...]:
    """The sizes as a trace knows them, None for the others. It must know how many there are."""
    if tensor.shape.rank is None:
        raise ValueError(f"{name} must have a known number of axes; tf.ensure_shape can set it")
    return tuple(tensor.shape.as_list())


def with_rank(tensor: tf.Tensor, rank: int) -> tf.Tensor:
    """Give a tensor of unknown rank (from `tf.py_function`, say) the rank it must have; checked as the graph runs."""
    return tf.ensure_shape(tensor, [None] * rank) if tensor.shape.rank is None else tensor


def last_size(tensor: tf.Tensor) -> Any:
    """The size of the last axis: a number, or a tensor where a trace does not know it."""
    size = tensor.shape[-1]
    return tf.shape(tensor)[-1] if size is None else size


def keep(mask: tf.Tensor, tensor: tf.Tensor, otherwise: float = 0.0) -> tf.Tensor:
    """The tensor where the mask holds, elsewhere a number."""
    return tf.where(mask, tensor, tf.constant(otherwise, tensor.dtype))


def nan_where(bad: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """The factor that poisons: NaN, and 1 where not bad."""
    return tf.where(bad, tf.constant(float("nan"), dtype), tf.constant(1.0, dtype))


def not_finite_or_negative(numbers: tf.Tensor, *, positive: bool = False) -> tf.Tensor:
    """What a weight or a hyper-parameter must not be; with `positive` it must not be 0 either."""
    return tf.math.is_nan(numbers) | tf.math.is_inf(numbers) | (numbers <= 0 if positive else numbers < 0)


def read_positions(logits: Any, labels: Any, *, axis: int, sample_weight: Any, ignore_index: int | None) -> Positions:
    """Check the arguments every loss takes, and mask what does not exist."""
    logits, labels = to_tensor(logits, "logits"), to_tensor(labels, "labels")
    if labels.shape.rank is not None:
        logits = with_rank(logits, labels.shape.rank + 1)
    logits_shape = static_shape(logits, "logits")
    class_axis = check_logits(logits_shape, logits.dtype.name, axis)
    labels = with_rank(labels, len(logits_shape) - 1)
    labels_shape = static_shape(labels, "labels")
    check_labels(labels_shape, labels.dtype.name, logits_shape, class_axis)
    ignore_index = check_ignore_index(ignore_index)
    compute = tf.float64 if logits.dtype == tf.float64 else tf.float32

    if class_axis != len(logits_shape) - 1:
        others = [i for i in range(len(logits_shape)) if i != class_axis]
        logits = tf.transpose(logits, [*others, class_axis])
    # Sizes that tracing could not compare. A mismatch concerns every position, also those that broadcasting made up.
    mismatch = tf.constant(False)
    if None in (*logits_shape, *labels_shape):
        mismatch = tf.reduce_any(tf.shape(labels) != tf.shape(logits)[:-1]) | (tf.shape(logits)[-1] < 2)

    wide_labels = tf.cast(labels, tf.int64)
    exists = tf.ones_like(wide_labels, tf.bool)
    if ignore_index is not None and representable(ignore_index, labels.dtype.name):
        # A uint64 beyond int64 wraps around, here on both sides.
        exists = wide_labels != tf.constant(np.array(ignore_index).astype(np.int64))
    if sample_weight is None:
        weights = tf.cast(exists, compute)
        bad_weight = mismatch & exists
    else:
        sample_weight = with_rank(to_tensor(sample_weight, "sample_weight"), len(labels_shape))
        weight_shape = static_shape(sample_weight, "sample_weight")
        check_weight(weight_shape, sample_weight.dtype.name, labels_shape)
        weights = tf.stop_gradient(tf.cast(sample_weight, compute))
        if None in (*weight_shape, *labels_shape):
            mismatch |= tf.reduce_any(tf.shape(weights) != tf.shape(labels)[: len(weight_shape)])
        for _ in labels_shape[len(weight_shape) :]:
            weights = weights[..., tf.newaxis]
        weights = tf.broadcast_to(weights, tf.shape(labels))
        bad_weight = exists & not_finite_or_negative(weights)
        readable_weights, readable_exists = read(weights), read(exists)
        if readable_weights is not None and readable_exists is not None:
            check_weight_values(readable_weights, readable_exists)
        weights = keep(exists, weights)
    bad_weight |= mismatch
    valid = (exists & (weights > 0)) | bad_weight

    classes = last_size(logits)
    readable_labels, readable_valid = read(labels), read(valid)
    if readable_labels is not None and readable_valid is not None:
        check_label_values(readable_labels, readable_valid, classes)
    bad_label = (wide_labels < 0) | (wide_labels >= tf.cast(classes, tf.int64))
    return Positions(
        logits=tf.cast(keep(valid[..., tf.newaxis], logits), compute),
        labels=tf.where(valid & ~bad_label, wide_labels, tf.constant(0, tf.int64)),
        weights=tf.where(bad_weight, tf.constant(float("nan"), compute), weights),
        valid=valid,
        poison=nan_where(valid & (bad_label | bad_weight), compute),
    )


def constant(
    value: Any,
    positions: Positions,
    *,
    name: str,
    scalar: bool = True,
    per_class: bool = False,
    positive: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """A hyper-parameter as a tensor without gradient, in float64, and its poison: 1, or NaN if a value is bad.

    One number (if `scalar`) or a vector with one entry for each class (if `per_class`).
    """
    if not tf.is_tensor(value):
        value = read_constant(value, name=name, positive=positive)
    value = tf.convert_to_tensor(value)
    check_constant_dtype(value.dtype.name, name)
    shape, classes = static_shape(value, name), positions.logits.shape[-1]
    if per_class:
        check_per_class(shape, classes, name=name, scalar=scalar)
    else:
        check_number(shape, name=name)
    readable = read(value)
    if readable is not None:
        read_constant(readable, name=name, positive=positive)
    value = tf.stop_gradient(tf.cast(value, tf.float64))
    bad = tf.reduce_any(not_finite_or_negative(value, positive=positive))
    if shape and None in (*shape, classes):
        bad |= tf.shape(value)[0] != positions.classes
    return value, nan_where(bad, positions.logits.dtype)


def at_true_class(vector: tf.Tensor, positions: Positions) -> tf.Tensor:
    """A constant (a number or a vector over classes) at each position's true class, in the compute dtype."""
    vector = tf.cast(vector, positions.logits.dtype)
    return tf.gather(vector, positions.labels) if vector.shape.rank else vector


def add_up(
    values: tf.Tensor, weights: tf.Tensor, counts: tf.Tensor, reduction: str
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Numerator and denominator of a reduction. Elements that do not count add exactly 0."""
    weighted = keep(counts, weights * values)
    if reduction == "none":
        return weighted, None
    if reduction == "sum":
        return tf.reduce_sum(weighted), None
    if reduction == "active_mean":
        counts = counts & ((values > 0) | tf.math.is_nan(values))
    return tf.reduce_sum(weighted), tf.reduce_sum(keep(counts, weights))


def divide(numerator: tf.Tensor, denominator: tf.Tensor) -> tf.Tensor:
    """The quotient, with 0/0 = 0; a NaN stays one, which `tf.math.divide_no_nan` would not grant."""
    return numerator / tf.where(denominator == 0, tf.ones_like(denominator), denominator)
