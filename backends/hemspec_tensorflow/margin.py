"""HEM and multi-class margin loss with their gradient written out, in few passes over the logits.

Left to differentiate plain operations, TensorFlow keeps several tensors of the size of the logits, and fetching their
memory takes more time than arithmetic. Two forms of the same sums and the same gradient avoid that:

- `in_place`, wherever operations run one by one: one whose operand nobody else needs writes over it. So errors, kept
  errors and their mask follow each other in one buffer, and the mask becomes the gradient.
- `made_again`, under XLA, which fuses what leads from the logits to a sum into that sum, unless two sums share it: then
  it stores it. So each sum starts from the logits again, and what it does depends on the sum before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

from hemspec_tensorflow.positions import keep, last_size

ValuesAndGradient: TypeAlias = "tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]"

SAFE_MEAN = 1 << 12
"""In float32 the mean of fewer classes, one of them 0, cannot round to more than the largest, in any summation order.

A sum of C terms is off by a factor of 1 + C eps at most, and such a mean is at most (C - 1) / C of the largest.
"""
SAFE_TREE = 1 << 16
"""So many where the sum is known to be TensorFlow's own: a tree with leaves of 1,024 terms."""


def kept_mean(z: tf.Tensor, labels: tf.Tensor, margins: tf.Tensor, valid: tf.Tensor | None, *, hem: bool) -> tf.Tensor:
    """The sum of the kept errors, divided by their number (HEM) or by C, for each position.

    Args:
        z: logits, class axis last.
        labels: in [0, C), the other axes of `z`.
        margins: a number, or one for each position, in the compute dtype.
        valid: whether a position exists, else its value and gradient are 0; None for all.
        hem: keep the errors that are not below their mean, instead of all that are positive.
    """
    shape = tf.shape(labels)
    if labels.shape.rank != 1:
        z, labels = tf.reshape(z, [-1, last_size(z)]), tf.reshape(labels, [-1])
        valid = None if valid is None else tf.reshape(valid, [-1])
    margins = tf.reshape(margins, [-1, 1])
    form = made_again if compiled_by_xla() else in_place

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def values(z: tf.Tensor) -> ValuesAndGradient:
        # Piecewise linear: the gradient is constant in the logits, so no tape has to watch what follows.
        return form(tf.stop_gradient(z), labels, margins, valid, hem)

    result = values(z)
    return result if shape.shape == [1] else tf.reshape(result, shape)


def compiled_by_xla() -> bool:
    """Whether what is being traced is for XLA, as far as tracing can know."""
    if tf.executing_eagerly():
        return False
    return bool(GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()) or tf.config.optimizer.get_jit())


def is_true_class(z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """One-hot labels as a mask: a quarter of the size of the logits, and made again rather than kept."""
    return tf.one_hot(labels, last_size(z), on_value=True, off_value=False, dtype=tf.bool)


def true_logits(z: tf.Tensor, labels: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """z_y, of shape (N, 1)."""
    return tf.cast(tf.gather(z, labels, axis=1, batch_dims=1), dtype)[:, tf.newaxis]


def errors_of(z: tf.Tensor, z_y: tf.Tensor, margins: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """e of shape (N, C), NaN where something is NaN, but for the true class.

    max(d, -m) + m is max(0, d + m) to the last bit, and the graph optimiser cannot turn it into max(0, (z_j + m) - z_y),
    which rounds at the size of the logits.
    """
    errors = tf.maximum(tf.cast(z, margins.dtype) - z_y, -margins) + margins
    return tf.where(is_true_class(z, labels), tf.constant(0.0, margins.dtype), errors)


def nan_from(numbers: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """The numbers, NaN also where the others are."""
    return tf.where(tf.math.is_nan(other), other, numbers)


def shortfall_of(errors: tf.Tensor, largest: tf.Tensor) -> tf.Tensor:
    """M - e, 0 also between infinities."""
    return tf.where(errors == largest, tf.constant(0.0, errors.dtype), largest - errors)


def is_fewer(classes: Any, bound: int) -> bool:
    return isinstance(classes, int) and classes < bound


def in_place(
    z: tf.Tensor, labels: tf.Tensor, margins: tf.Tensor, valid: tf.Tensor | None, hem: bool
) -> ValuesAndGradient:
    """One buffer for all, a pass for each operation."""
    dtype, classes = margins.dtype, last_size(z)
    x = errors_of(z, true_logits(z, labels, dtype), margins, labels)
    if hem:
        # The largest number below the mean error: what exceeds it is kept.
        below = tf.minimum(mean_error(x) * np.nextafter(dtype.as_numpy_dtype(1), 0), dtype.max)
        x = tf.nn.relu(x - below)
    total = tf.reduce_sum(x, -1)
    with tf.control_dependencies([total]):
        kept = tf.sign(x)
    count = tf.reduce_sum(kept, -1)
    if hem:
        share = tf.math.reciprocal_no_nan(count)
        values = below[:, 0] + total * share
    else:
        share = nan_from(tf.constant(1.0, dtype) / tf.cast(classes, dtype), total)
        values = total * share

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        slope, multiply = share * upstream, tf.multiply
        if valid is not None:  # whatever the logits hold
            slope, multiply = keep(valid, slope), tf.math.multiply_no_nan
        at_true_class = -multiply(count, slope)[:, tf.newaxis]
        at_rivals = multiply(kept, slope[:, tf.newaxis])
        return tf.cast(tf.where(is_true_class(z, labels), at_true_class, at_rivals), z.dtype)

    return values if valid is None else keep(valid, values), gradient


def mean_error(errors: tf.Tensor) -> tf.Tensor:
    """Of shape (N, 1). With many classes by distances from the largest: that cannot come out above the largest."""
    classes = last_size(errors)
    if is_fewer(classes, SAFE_TREE):
        return tf.reduce_mean(errors, -1, keepdims=True)
    largest = tf.reduce_max(errors, -1, keepdims=True)
    mean = largest - tf.reduce_mean(shortfall_of(errors, largest), -1, keepdims=True)
    return tf.where(tf.math.is_inf(largest), largest, mean)


def made_again(
    z: tf.Tensor, labels: tf.Tensor, margins: tf.Tensor, valid: tf.Tensor | None, hem: bool
) -> ValuesAndGradient:
    """Nothing of the size of the logits but the gradient. `nan_from` keeps XLA from sharing what sums have alike."""
    dtype, classes = margins.dtype, last_size(z)
    c, zero = tf.cast(classes, dtype), tf.constant(0.0, dtype)
    z_y = true_logits(z, labels, dtype)
    errors = errors_of(z, z_y, margins, labels)
    kept: Callable[[tf.Tensor], tf.Tensor] = lambda e: e > 0  # noqa: E731
    first = zero
    if hem and is_fewer(classes, SAFE_MEAN):
        first = add_up_classes(errors)
        kept = lambda e: (c * e >= first) & (e > 0)  # noqa: E731
    elif hem:
        largest = tf.reduce_max(errors, -1, keepdims=True)  # drops a NaN, which the next sum finds
        z_y = nan_from(z_y, largest)
        first = add_up_classes(shortfall_of(errors_of(z, z_y, margins, labels), largest))
        kept = lambda e: (
            (e > 0)
            & tf.where(  # noqa: E731
                tf.math.is_inf(largest), e == largest, c * (largest - e) <= first
            )
        )
    if hem:
        z_y = nan_from(z_y, first)
        errors = errors_of(z, z_y, margins, labels)
        errors = tf.where(kept(errors), errors, zero)
    total = nan_from(add_up_classes(errors), first)
    z_y = nan_from(z_y, total)
    count = add_up_classes(tf.cast(kept(errors_of(z, z_y, margins, labels)), dtype))
    share = nan_from(1 / tf.maximum(count, 1) if hem else 1 / c, total)
    values = (total * share)[:, 0]

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        slope = share * upstream[:, tf.newaxis]
        if valid is not None:
            slope = keep(valid[:, tf.newaxis], slope)
        errors = errors_of(z, nan_from(z_y, slope), margins, labels)
        at_rivals = tf.where(kept(errors), slope, nan_from(zero, slope))
        return tf.cast(tf.where(is_true_class(z, labels), -count * slope, at_rivals), z.dtype)

    return values if valid is None else keep(valid, values), gradient


def add_up_classes(x: tf.Tensor) -> tf.Tensor:
    """Of shape (N, 1). On a CPU XLA is much faster at a product with ones, and adds up what it does not store.

    An accelerator may round the factors of a product: nothing of that kind where one could run this.
    """
    if all(device.device_type == "CPU" for device in tf.config.list_logical_devices()):
        return tf.matmul(x, tf.ones((last_size(x), 1), x.dtype))
    return tf.reduce_sum(x, -1, keepdims=True)
