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
from typing import TypeAlias

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import record

from hemspec_tensorflow.positions import last_size
from hemspec_tensorflow.sums import RUN, blocked_sum, compiled_by_xla

ValuesAndGradient: TypeAlias = "tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]"

LONGEST_PRODUCT = 1 << 12
"""So many classes may be added up by a product with ones."""
SAFE_TREE = 1 << 16
"""So many where the sum is TensorFlow's own: a tree with leaves of 1,024 terms."""


def kept_mean(
    z: tf.Tensor, labels: tf.Tensor, margins: tf.Tensor, weights: tf.Tensor | None, *, hem: bool
) -> tf.Tensor:
    """The sum of the kept errors, divided by their number (HEM) or by C, times the weight, for each position.

    Args:
        z: logits, class axis last.
        labels: in [0, C), the other axes of `z`.
        margins: a number, or one for each position, in the compute dtype.
        weights: one for each position. 0 gives a value and a gradient of 0 whatever the logits hold, NaN gives NaN.
        hem: keep the errors that are not below their mean, instead of all that are positive.
    """
    shape = tf.shape(labels)
    if labels.shape.rank != 1:
        z, labels = tf.reshape(z, [-1, last_size(z)]), tf.reshape(labels, [-1])
    margins = tf.reshape(margins, [-1, 1]) if margins.shape.rank else margins
    weights = None if weights is None else tf.reshape(weights, [-1, 1])
    form = made_again if compiled_by_xla() else in_place

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def values(z: tf.Tensor) -> ValuesAndGradient:
        # Piecewise linear: the gradient is constant in the logits, so no tape has to watch what follows. A graph may
        # be rewritten by what drops this gradient (`tf.vectorized_map`): there that of its operations is right too.
        values, gradient = form(tf.stop_gradient(z) if tf.executing_eagerly() else z, labels, margins, weights, hem)
        return values, lambda upstream: gradient(tied(upstream, z))

    return tf.reshape(values(z), shape)


def error_counts(z: tf.Tensor, labels: tf.Tensor, margins: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """For each position how many errors HEM keeps, and how many are positive; NaN where an error is.

    Arguments as in `kept_mean`. Not for every step of a training, so in one form.
    """
    shape, dtype = tf.shape(labels), margins.dtype
    z, labels = tf.reshape(tf.stop_gradient(z), [-1, last_size(z)]), tf.reshape(labels, [-1])
    margins = tf.reshape(margins, [-1, 1]) if margins.shape.rank else margins
    z_y = true_logits(z, labels, dtype)
    errors = errors_of(z, z_y, margins, labels)
    is_kept, _ = not_below_the_mean(
        lambda after: errors_of(z, nan_from(z_y, after), margins, labels), tf.cast(last_size(z), dtype)
    )
    total = add_up_classes(errors)

    def count(mask: tf.Tensor) -> tf.Tensor:
        return tf.reshape(nan_from(add_up_classes(tf.cast(mask, dtype)), total), shape)

    return count(is_kept(errors)), count(is_positive(errors))


def tied(upstream: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
    """What comes from above, on a path to the logits along which the gradient is 0.

    Without a path TensorFlow says None for the second derivative, and `tf.hessians` fails. Where no tape is left that
    could ask for it, there is none.
    """
    if tf.executing_eagerly() and not record.could_possibly_record():
        return upstream
    return upstream + tf.cast(zeros_from(z[:, :1]), upstream.dtype)


@tf.custom_gradient  # type: ignore[untyped-decorator]
def zeros_from(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Zeros that depend on x, as do all their derivatives."""
    return tf.zeros_like(x), lambda upstream: zeros_from(x)


def is_true_class(z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """One-hot labels as a mask: a quarter of the size of the logits, and made again rather than kept."""
    return tf.one_hot(labels, last_size(z), on_value=True, off_value=False, dtype=tf.bool)


def true_logits(z: tf.Tensor, labels: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """z_y, of shape (N, 1) as everything that is one number for each position."""
    return tf.cast(tf.expand_dims(tf.gather(z, labels, axis=1, batch_dims=1), 1), dtype)


def errors_of(z: tf.Tensor, z_y: tf.Tensor, margins: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """e of shape (N, C), NaN where something is NaN, but for the true class.

    max(d, -m) + m is max(0, d + m) to the last bit, and the graph optimiser cannot turn it into
    max(0, (z_j + m) - z_y), which rounds at the size of the logits. The other way round XLA would lose a NaN.
    """
    errors = tf.maximum(tf.cast(z, margins.dtype) - z_y, -margins) + margins
    return tf.where(is_true_class(z, labels), tf.constant(0.0, margins.dtype), errors)


def nan_from(numbers: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """The numbers, NaN also where the others are."""
    return tf.where(tf.math.is_nan(other), other, numbers)


def weighted(numbers: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
    """Times the weight. A weight of 0 is stronger than NaN."""
    return numbers if weights is None else tf.math.multiply_no_nan(numbers, weights)


def shortfall_of(errors: tf.Tensor, largest: tf.Tensor) -> tf.Tensor:
    """M - e, 0 also between infinities."""
    return tf.where(tf.equal(errors, largest), tf.constant(0.0, errors.dtype), largest - errors)


def has_fewer(x: tf.Tensor, classes: int) -> bool:
    size = x.shape[-1]
    return size is not None and size < classes


def is_safe_mean(classes: int | None) -> bool:
    """Whether the float32 mean of errors cannot round to more than the largest of them.

    A sum is off by a factor of 1 + n eps at most, n the terms one adds up in a row: all of a product, else a few runs.
    The mean of C errors, 0 at the true class, is at most (C - 1) / C of the largest.
    """
    if classes is None:
        return False
    in_a_row = classes if classes <= LONGEST_PRODUCT else 16 * RUN
    return in_a_row * classes < 1 << 24


def in_place(
    z: tf.Tensor, labels: tf.Tensor, margins: tf.Tensor, weights: tf.Tensor | None, hem: bool
) -> ValuesAndGradient:
    """One buffer for all, a pass for each operation."""
    dtype, classes = margins.dtype, last_size(z)
    x = errors_of(z, true_logits(z, labels, dtype), margins, labels)
    if hem:
        # The largest number below the mean error: what exceeds it is kept. (For 0 as an integer NumPy 1 takes float64.)
        below = tf.minimum(mean_error(x) * np.nextafter(*np.array([1, 0], dtype.as_numpy_dtype)), dtype.max)
        below = below if tf.executing_eagerly() else tf.stop_gradient(below)
        x = tf.nn.relu(x - below)
    total = tf.reduce_sum(x, -1, keepdims=True)
    # Only what has been added up can be written over.
    with tf.control_dependencies([total]):
        kept = tf.sign(x)
    count = tf.reduce_sum(kept, -1, keepdims=True)
    if hem:
        share = tf.math.reciprocal_no_nan(count)
        values = below + weighted(share, total)
    else:
        share = nan_from(1 / tf.cast(classes, dtype), total)
        values = weighted(share, total)

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        slope, multiply = share * upstream, tf.multiply
        if weights is not None:  # 0 at weight 0, whatever is in `kept` there
            slope, multiply = weighted(slope, weights), tf.math.multiply_no_nan
        with tf.control_dependencies([count]):
            at_rivals = multiply(kept, slope)
        return tf.cast(tf.where(is_true_class(z, labels), -multiply(count, slope), at_rivals), z.dtype)

    return weighted(values, weights), gradient


def mean_error(errors: tf.Tensor) -> tf.Tensor:
    """With many classes by distances from the largest, since that cannot come out above the largest."""
    if has_fewer(errors, SAFE_TREE):
        return tf.reduce_mean(errors, -1, keepdims=True)
    largest = tf.reduce_max(errors, -1, keepdims=True)
    mean = largest - tf.reduce_mean(shortfall_of(errors, largest), -1, keepdims=True)
    return tf.where(tf.math.is_inf(largest), largest, mean)


def made_again(
    z: tf.Tensor, labels: tf.Tensor, margins: tf.Tensor, weights: tf.Tensor | None, hem: bool
) -> ValuesAndGradient:
    """Nothing of the size of the logits but the gradient."""
    dtype = margins.dtype
    classes, zero = tf.cast(last_size(z), dtype), tf.constant(0.0, dtype)
    z_y = true_logits(z, labels, dtype)

    def errors(after: tf.Tensor) -> tf.Tensor:
        """From the logits, NaN where the other is: of no effect, but XLA cannot share them with what came before it."""
        return errors_of(z, nan_from(z_y, after), margins, labels)

    is_kept, first = not_below_the_mean(errors, classes) if hem else (is_positive, zero)
    e = errors(first)
    total = nan_from(add_up_classes(tf.where(is_kept(e), e, zero)), first)
    count = add_up_classes(tf.cast(is_kept(errors(total)), dtype))
    share = nan_from(1 / (tf.maximum(count, 1) if hem else classes), total)

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        slope = weighted(share * upstream, weights)
        at_rivals = tf.where(is_kept(errors(slope)), slope, nan_from(zero, slope))
        return tf.cast(tf.where(is_true_class(z, labels), -count * slope, at_rivals), z.dtype)

    return weighted(total * share, weights), gradient


def is_positive(errors: tf.Tensor) -> tf.Tensor:
    """Or NaN."""
    return tf.not_equal(errors, 0)


def not_below_the_mean(
    errors: Callable[[tf.Tensor], tf.Tensor], classes: tf.Tensor
) -> tuple[Callable[[tf.Tensor], tf.Tensor], tf.Tensor]:
    """Which errors are kept, and a sum that is NaN where an error is. No division, which XLA would make a product."""
    zero = tf.constant(0.0, classes.dtype)
    e = errors(zero)
    if is_safe_mean(e.shape[-1]):
        total = add_up_classes(e)
        return lambda e: (classes * e >= total) & is_positive(e), total
    largest = tf.reduce_max(e, -1, keepdims=True)  # loses a NaN under XLA
    shortfall = add_up_classes(shortfall_of(errors(largest), largest))

    def is_kept(e: tf.Tensor) -> tf.Tensor:
        high = classes * (largest - e) <= shortfall
        return tf.where(tf.math.is_inf(largest), tf.equal(e, largest), high) & is_positive(e)

    return is_kept, shortfall


def add_up_classes(x: tf.Tensor) -> tf.Tensor:
    """On a CPU, XLA is fastest at a product with ones, of not too many.

    An accelerator may round the factors of a product: nothing of that kind where one could run this.
    """
    classes = x.shape[-1]
    if has_fewer(x, LONGEST_PRODUCT + 1) and on_cpus():
        return tf.matmul(x, tf.ones((classes, 1), x.dtype))
    return blocked_sum(x, 1)[:, tf.newaxis]


def on_cpus() -> bool:
    """Whether there is nothing else that could run this."""
    return all(device.device_type == "CPU" for device in tf.config.list_logical_devices())
