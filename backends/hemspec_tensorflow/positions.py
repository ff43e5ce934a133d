"""From a call's arguments to masked positions, and from a loss per position to the reduced answer, in TensorFlow.

What every loss shares: checking, ignored and unweighted positions, reading or poisoning bad values, reductions.

Poison: a value that cannot be read without a synchronisation (in a `tf.function`, on an accelerator) cannot raise, so
a bad one turns its loss into NaN instead. Logits are *multiplied* by a factor of 1 or NaN: that way the gradient of
such a position is NaN in every class as well, which `tf.where` would not give. Sizes a trace does not know are
compared when the graph runs, and a mismatch is poison too.

In a graph of TensorFlow 1 `==` asks whether two tensors are the same object: hence `tf.equal`.

NaN needs care here. It is made where it is needed, by a root, since tools that hunt for NaN stop at a constant that is
one. Comparisons are never negated, since the graph optimiser turns not(a <= b) into a > b; no NaN is
looked for with `tf.reduce_max`, which drops it under XLA; nor is one multiplied into a mask cast to numbers, since XLA
turns cast(mask) * x into a selection and 0 * NaN into 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hemspec.arguments import (
    are_counts,
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
from hemspec_tensorflow.sums import blocked_sum

NO_TENSORS = {
    "RaggedTensor": "pass .flat_values of logits and labels alike, or .to_tensor(...) with labels filled up by -100",
    "SparseTensor": "tf.sparse.to_dense makes it a tensor",
    "KerasTensor": "call the loss in a layer's call(), or give the class of hemspec.keras to compile(loss=...)",
}
"""What looks like a tensor, and what to do with it."""


class Targets(NamedTuple):
    """A checked call. Labels, weights and the rest have the shape of the labels and carry no gradient."""

    logits: tf.Tensor  # class axis last, otherwise as they came
    labels: tf.Tensor  # int32 or int64, in [0, C) everywhere
    weights: tf.Tensor | None  # of the caller, 0 where ignored, NaN where bad; None for no weights
    factor: tf.Tensor | None  # 0 where not valid, NaN where something is bad, else the weight or 1; None for all 1

    @property
    def classes(self) -> Any:
        """C, a tensor where a trace does not know it."""
        return last_size(self.logits)

    @property
    def compute(self) -> tf.DType:
        return tf.float64 if self.logits.dtype == tf.float64 else tf.float32


class Positions(NamedTuple):
    """Targets with everything filled in, and nothing left in the logits of what does not exist."""

    logits: tf.Tensor  # class axis last, in the compute dtype, zero where not valid
    labels: tf.Tensor
    weights: tf.Tensor
    valid: tf.Tensor
    poison: tf.Tensor

    @property
    def classes(self) -> Any:
        """C, a tensor where a trace does not know it."""
        return last_size(self.logits)

    @property
    def compute(self) -> tf.DType:
        return self.logits.dtype

    @property
    def true_class(self) -> tf.Tensor:
        """One-hot labels as a mask, the shape of the logits."""
        return tf.equal(self.labels[..., tf.newaxis], tf.range(tf.cast(self.classes, self.labels.dtype)))


def to_tensor(value: Any, name: str) -> tf.Tensor:
    """Whatever TensorFlow takes for a tensor, as one."""
    try:
        return tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        kind = type(value).__name__
        hint = next((f": {advice}" for known, advice in NO_TENSORS.items() if known in kind), "")
        raise TypeError(f"{name} must be a tensor or an array; got {kind}{hint}") from error


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
    return tf.sqrt(tf.where(bad, tf.constant(-1.0, dtype), tf.constant(1.0, dtype)))


def not_finite_or_negative(numbers: tf.Tensor, *, positive: bool = False) -> tf.Tensor:
    """What a weight or a hyper-parameter must not be; with `positive` it must not be 0 either."""
    return tf.math.is_nan(numbers) | tf.math.is_inf(numbers) | (numbers <= 0 if positive else numbers < 0)


def not_counts(numbers: tf.Tensor) -> tf.Tensor:
    """Which class counts are shares, or halves. Not the negation of `are_counts`: see above about NaN."""
    is_count = are_counts(numbers, tf.round(numbers))
    return tf.where(is_count, False, True)


def read_targets(logits: Any, labels: Any, *, axis: int, sample_weight: Any, ignore_index: int | None) -> Targets:
    """Check the arguments every loss takes. What can be seen to be as usual costs no operation."""
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
    mismatch = None
    if None in (*logits_shape, *labels_shape):
        mismatch = tf.reduce_any(tf.not_equal(tf.shape(labels), tf.shape(logits)[:-1])) | (tf.shape(logits)[-1] < 2)

    indices = labels if labels.dtype in (tf.int32, tf.int64) else tf.cast(labels, tf.int64)
    exists = None
    if ignore_index is not None and representable(ignore_index, labels.dtype.name):
        # A uint64 beyond int64 wraps around, here on both sides.
        exists = tf.not_equal(indices, tf.constant(np.array(ignore_index).astype(indices.dtype.as_numpy_dtype)))
        readable = read(exists)
        if readable is not None and readable.all():
            exists = None
    weights, bad = None, mismatch
    if sample_weight is not None:
        if isinstance(sample_weight, np.ndarray) and sample_weight.dtype == np.float64:
            sample_weight = sample_weight.astype(compute.as_numpy_dtype)  # a device may have no float64
        sample_weight = with_rank(to_tensor(sample_weight, "sample_weight"), len(labels_shape))
        weight_shape = static_shape(sample_weight, "sample_weight")
        check_weight(weight_shape, sample_weight.dtype.name, labels_shape)
        weights = tf.stop_gradient(tf.cast(sample_weight, compute))
        if None in (*weight_shape, *labels_shape):
            expected = tf.shape(labels)[: len(weight_shape)]
            bad = either(bad, tf.reduce_any(tf.not_equal(tf.shape(weights), expected)))
        for _ in labels_shape[len(weight_shape) :]:
            weights = weights[..., tf.newaxis]
        weights = tf.broadcast_to(weights, tf.shape(labels))
        if exists is not None:
            weights = keep(exists, weights)
        readable = read(weights)
        if readable is not None:
            check_weight_values(readable, np.ones_like(readable, np.bool_))
        else:
            bad = either(bad, not_finite_or_negative(weights))
            weights *= nan_where(bad, compute)
        exists = tf.not_equal(weights, 0)

    classes, factor = last_size(logits), weights
    readable, readable_exists = read(labels), np.asarray(True) if exists is None else read(exists)
    if readable is not None and readable_exists is not None:
        check_label_values(readable, np.broadcast_to(readable_exists, readable.shape), classes)
        inside = indices if exists is None else tf.where(exists, indices, tf.constant(0, indices.dtype))
        if factor is None and exists is not None:
            factor = tf.cast(exists, compute)
    else:
        inside = tf.clip_by_value(indices, 0, tf.cast(classes, indices.dtype) - 1)
        outside = tf.not_equal(inside, indices)
        poison = nan_where(either(outside if exists is None else outside & exists, bad), compute)
        if weights is not None:  # 0 already where nothing exists
            factor = weights * poison
        else:
            factor = poison if exists is None else keep(either(exists, bad), poison)
    return Targets(logits, inside, weights, factor)


def either(mask: tf.Tensor | None, other: tf.Tensor | None) -> Any:
    """Where one of two masks holds; None for one that holds nowhere."""
    return other if mask is None else mask if other is None else mask | other


def read_positions(logits: Any, labels: Any, *, axis: int, sample_weight: Any, ignore_index: int | None) -> Positions:
    """Check the arguments every loss takes, and mask what does not exist."""
    targets = read_targets(logits, labels, axis=axis, sample_weight=sample_weight, ignore_index=ignore_index)
    factor = tf.ones_like(targets.labels, targets.compute) if targets.factor is None else targets.factor
    valid, poison = tf.not_equal(factor, 0), nan_where(tf.math.is_nan(factor), targets.compute)
    weights = tf.cast(valid, targets.compute) if targets.weights is None else targets.weights
    logits = tf.cast(keep(valid[..., tf.newaxis], targets.logits), targets.compute)
    return Positions(logits, targets.labels, weights, valid, poison)


def constant(value: Any, like: Targets | Positions, **kind: Any) -> tuple[tf.Tensor, tf.Tensor | None]:
    """A hyper-parameter in the compute dtype, without gradient, and its poison, as in `read_or_poison`.

    Other dtypes end here: a device may have no float64.
    """
    value, poison = read_or_poison(value, like, **kind)
    return in_compute(value, like), poison


def in_compute(value: npt.NDArray[np.float64] | tf.Tensor, like: Targets | Positions) -> tf.Tensor:
    """A constant as a tensor in the compute dtype."""
    return tf.constant(value, like.compute) if isinstance(value, np.ndarray) else value


def read_or_poison(
    value: Any,
    like: Targets | Positions,
    *,
    name: str,
    scalar: bool = True,
    per_class: bool = False,
    positive: bool = False,
    counts: bool = False,
) -> tuple[npt.NDArray[np.float64] | tf.Tensor, tf.Tensor | None]:
    """A hyper-parameter in NumPy's float64 and no poison; or where it cannot be read a tensor, and 1, or NaN if bad.

    One number (if `scalar`) or a vector with one entry for each class (if `per_class`), which may be `counts`.
    """
    readable = None if tf.is_tensor(value) else read_constant(value, name=name, positive=positive, counts=counts)
    if readable is None:
        value = tf.convert_to_tensor(value)
        check_constant_dtype(value.dtype.name, name)
        readable = read(value)
    if readable is not None:
        value = read_constant(readable, name=name, positive=positive, counts=counts)
    shape = static_shape(value, name) if readable is None else value.shape
    classes = like.logits.shape[-1]
    if per_class:
        check_per_class(shape, classes, name=name, scalar=scalar)
    else:
        check_number(shape, name=name)
    bad = None
    if readable is None:
        value = tf.stop_gradient(tf.cast(value, like.compute))
        bad = not_finite_or_negative(value, positive=positive or counts)
        if counts:
            bad |= not_counts(value)
        bad = tf.reduce_any(bad)
    if shape and None in (*shape, classes):
        bad = either(bad, tf.not_equal(tf.shape(value)[0] if shape[0] is None else shape[0], like.classes))
    return value, None if bad is None else nan_where(bad, like.compute)


def at_true_class(vector: tf.Tensor, like: Targets | Positions) -> tf.Tensor:
    """A constant, a number or a vector over classes, at each position's true class."""
    return tf.gather(vector, like.labels) if vector.shape.rank else vector


def add_up(
    values: tf.Tensor, weights: tf.Tensor, counts: tf.Tensor, reduction: str
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Numerator and denominator of a reduction. Elements that do not count add exactly 0."""
    weighted = keep(counts, weights * values)
    if reduction == "none":
        return weighted, None
    return blocked_sum(weighted), None if reduction == "sum" else blocked_sum(keep(counts, weights))


def divide(numerator: tf.Tensor, denominator: tf.Tensor) -> tf.Tensor:
    """The quotient, with 0/0 = 0; a NaN stays one, which `tf.math.divide_no_nan` would not grant."""
    return numerator / tf.where(tf.equal(denominator, 0), tf.ones_like(denominator), denominator)
