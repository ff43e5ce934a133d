"""The losses of hemspec as TensorFlow functions, in plain operations but for the margin losses (see `margin`).

They mirror `hemspec.reference`, where the maths of each loss is written out. Common to all: logits and labels are
tensors, variables or NumPy arrays; the logits are floating point; float16 and bfloat16 are computed in float32 and give
a float32 loss. They run eagerly, in a `tf.function` and under XLA (``jit_compile=True``), also where a trace does not
know the sizes, also in graphs and sessions of TensorFlow 1. Only the logits have a gradient: of a variable among the
weights or constants it is None. Where a value cannot be read without a synchronisation (traced, on an accelerator) a
bad one gives a NaN loss instead of an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from hemspec.arguments import (
    MARGIN_REDUCTIONS,
    REDUCTIONS,
    MarginReduction,
    Reduction,
    check_flag,
    check_reduction,
    log_prior,
)
from hemspec.loss_function import loss_function
from hemspec_tensorflow.margin import kept_mean
from hemspec_tensorflow.positions import (
    Positions,
    Targets,
    add_up,
    at_true_class,
    constant,
    divide,
    in_compute,
    keep,
    nan_where,
    read_or_poison,
    read_positions,
    read_targets,
)
from hemspec_tensorflow.sums import blocked_sum, compiled_by_xla

__all__ = [
    "cross_entropy_loss",
    "dice_loss",
    "focal_loss",
    "hem_loss",
    "logit_adjusted_loss",
    "logit_norm_loss",
    "multi_margin_loss",
]


def spoil(z: tf.Tensor, spoilt: tf.Tensor, *poisons: tf.Tensor | None) -> tf.Tensor:
    """The logits, with every row NaN that is spoilt or poisoned: so is its gradient then."""
    factor = nan_where(spoilt, z.dtype)
    for poison in poisons:
        factor = factor if poison is None else factor * poison
    return z * factor[..., tf.newaxis]


def of_true_class(z: tf.Tensor, positions: Positions) -> tf.Tensor:
    """z_y of each position. A masked sum rather than a gather: its gradient is dense."""
    return tf.reduce_sum(keep(positions.true_class, z), -1)


def margin_terms(
    logits: Any, labels: Any, margin: Any, reduction: str, *, hem: bool, **options: Any
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Numerator and denominator of HEM, or of the multi-class margin loss."""
    check_reduction(reduction, MARGIN_REDUCTIONS)
    targets = read_targets(logits, labels, **options)
    margins, poison = constant(margin, targets, name="margin", per_class=True)
    margins = at_true_class(margins, targets)
    values = kept_mean(targets.logits, targets.labels, margins, targets.factor, hem=hem)
    return add_up_weighted(values if poison is None else values * poison, targets, reduction)


def add_up_weighted(values: tf.Tensor, targets: Targets, reduction: str) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Numerator and denominator of values that are weighted already, 0 where a position does not exist."""
    if reduction == "none":
        return values, None
    numerator = blocked_sum(values)
    if reduction == "sum":
        return numerator, None
    counts = values if reduction == "active_mean" else targets.factor
    if counts is None:  # all of them
        return numerator, tf.cast(tf.size(values), values.dtype)
    counts = tf.not_equal(counts, 0)  # a NaN counts
    return numerator, blocked_sum(
        tf.cast(counts, values.dtype) if targets.weights is None else keep(counts, targets.weights)
    )


@loss_function(divide)
def hem_loss(
    logits: Any,
    labels: Any,
    *,
    margin: Any = 1.0,
    axis: int = -1,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    reduction: MarginReduction = "active_mean",
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """HEM (high error margin) loss; HEM+ with a margin for each class.

    The mean of those errors ``max(0, z_j - z_y + margin)`` that are not below the position's mean error.
    Source: Spratling and Schütt 2025, arXiv 2501.12191; the maths is in `hemspec.reference.hem`.

    Args:
        logits: floating point, any shape with a class axis of size C >= 2.
        labels: class indices in [0, C), integers, the shape of the logits without the class axis.
        margin: >= 0, in units of a logit. A number (HEM), or shape ``(C,)``, indexed by the true class (HEM+). It
            cannot be learned: the gradient of a variable given here, or as weights, is None.
        axis: the class axis of the logits.
        sample_weight: >= 0, the shape of the labels or of their first axis. Weight 2 is two copies, 0 is none.
        ignore_index: positions with this label do not exist; None switches it off.
        reduction: ``"active_mean"`` (over the positions with a loss > 0, the paper's), ``"mean"``, ``"sum"`` or
            ``"none"`` (the shape of the labels).

    Returns:
        The loss, float64 for float64 logits, else float32. 0, not NaN, where there is nothing to average.
        ``hem_loss.terms(...)`` gives the average's numerator and denominator: under ``tf.distribute`` sum each over
        the replicas before dividing, since this average is not the average of the replicas'.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> logits = tf.Variable([[1.0, 1.5, 0.0, -3.0], [9.0, 0.0, 0.0, 0.0]])
        >>> with tf.GradientTape() as tape:
        ...     loss = hem_loss(logits, [0, 0])  # the second position is not active
        >>> float(loss)
        1.5
        >>> tape.gradient(loss, logits)[0].numpy().tolist()
        [-1.0, 1.0, 0.0, 0.0]
    """
    options = {"axis": axis, "sample_weight": sample_weight, "ignore_index": ignore_index}
    return margin_terms(logits, labels, margin, reduction, hem=True, **options)


@loss_function(divide)
def multi_margin_loss(
    logits: Any,
    labels: Any,
    *,
    margin: Any = 1.0,
    axis: int = -1,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    reduction: MarginReduction = "mean",
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Multi-class margin loss: the sum of the errors ``max(0, z_j - z_y + margin)``, divided by C.

    Args:
        logits, labels, axis, sample_weight, ignore_index: as in `hem_loss`.
        margin: >= 0. A number, or shape ``(C,)``, indexed by the true class.
        reduction: ``"mean"``, ``"active_mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss, float64 for float64 logits, else float32; also ``multi_margin_loss.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> float(multi_margin_loss([[1.0, 1.5, 0.0, -3.0]], [0]))
        0.375
    """
    options = {"axis": axis, "sample_weight": sample_weight, "ignore_index": ignore_index}
    return margin_terms(logits, labels, margin, reduction, hem=False, **options)


def softmax_logits(positions: Positions, *poisons: tf.Tensor | None) -> tf.Tensor:
    """The logits of a loss with a softmax, their maximum subtracted: a NaN, a +inf or nothing but -inf spoils a row.

    The maximum goes first so that no later sum (with a log prior, say) rounds at the size of a common offset. Such a
    loss does not change with an offset, so the maximum is a constant.
    """
    z = positions.logits
    largest = tf.stop_gradient(tf.reduce_max(z, -1))
    spoilt = tf.reduce_any(tf.math.is_nan(z), -1) | tf.math.is_inf(largest)
    return spoil(z - largest[..., tf.newaxis], spoilt, positions.poison, *poisons)


def cross_entropy(z: tf.Tensor, positions: Positions) -> tf.Tensor:
    """logsumexp(z) - z_y for each position. XLA would add up all classes of TensorFlow's own one by one."""
    if compiled_by_xla():
        return log_sum_exp(z) - of_true_class(z, positions)
    return -of_true_class(tf.nn.log_softmax(z), positions)


def softmax(z: tf.Tensor) -> tf.Tensor:
    """Of logits whose largest is 0. XLA would add up all classes of TensorFlow's own one by one."""
    if compiled_by_xla():
        terms = tf.exp(z)
        return terms / blocked_sum(terms, terms.shape.rank - 1)[..., tf.newaxis]
    return tf.nn.softmax(z)


def log_sum_exp(z: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
    """Of the classes in the mask (one at least, and finite), with no infinity on the way to it."""
    among = z if mask is None else keep(mask, z, z.dtype.min)
    largest = tf.stop_gradient(tf.reduce_max(among, -1))
    terms = z - largest[..., tf.newaxis]
    terms = tf.exp(terms) if mask is None else keep(mask, tf.exp(keep(mask, terms)))
    return tf.math.log(blocked_sum(terms, terms.shape.rank - 1)) + largest


@loss_function(divide)
def cross_entropy_loss(
    logits: Any,
    labels: Any,
    *,
    axis: int = -1,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Cross-entropy of integer labels, softmax inside: ``logsumexp(z) - z_y``.

    `tf.nn.sparse_softmax_cross_entropy_with_logits` with weights, ignored positions and reductions; half-precision
    logits give a float32 loss.

    Args:
        logits, labels, axis, sample_weight, ignore_index: as in `hem_loss`.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss, float64 for float64 logits, else float32; also ``cross_entropy_loss.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> round(float(cross_entropy_loss([[0.0, 0.0]], [1])), 4)
        0.6931
    """
    check_reduction(reduction, REDUCTIONS)
    positions = read_positions(logits, labels, axis=axis, sample_weight=sample_weight, ignore_index=ignore_index)
    values = cross_entropy(softmax_logits(positions), positions)
    return add_up(values, positions.weights, positions.valid, reduction)


@loss_function(divide)
def focal_loss(
    logits: Any,
    labels: Any,
    *,
    gamma: Any = 2.0,
    alpha: Any = None,
    axis: int = -1,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Focal loss, softmax form: ``-alpha_y (1 - p)^gamma log p`` with p the softmax probability of the true class.

    Source: Lin et al., ICCV 2017; the maths is in `hemspec.reference.focal`. Not the one-vs-rest sigmoid focal loss
    of `keras.losses.BinaryFocalCrossentropy`, and not divided by C as MONAI's and kornia's softmax mean is.

    Args:
        logits, labels, axis, sample_weight, ignore_index: as in `hem_loss`.
        gamma: focusing parameter, a number >= 0; 0 gives cross-entropy.
        alpha: None, or class weights >= 0 of shape ``(C,)``, indexed by the true class: a factor of the loss, not a
            weight of the mean.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss, float64 for float64 logits, else float32; also ``focal_loss.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> round(float(focal_loss([[0.0, 0.0]], [1])), 4)
        0.1733
    """
    check_reduction(reduction, REDUCTIONS)
    positions = read_positions(logits, labels, axis=axis, sample_weight=sample_weight, ignore_index=ignore_index)
    g, poison = constant(gamma, positions, name="gamma")
    poisons = [poison]
    if alpha is not None:
        a, poison = constant(alpha, positions, name="alpha", per_class=True, scalar=False)
        poisons.append(poison)
    z = softmax_logits(positions, *poisons)
    minus_log_p = cross_entropy(z, positions)

    # log q, q = 1 - p, straight from the logits: exact where 1 - p would round to 0. Where infinities make q exactly
    # 0 or 1 it is a constant, and the path to the logits is cut (zeros go in) so that no inf - inf can reach them.
    true_class = positions.true_class
    masked = tf.math.is_inf(z)
    no_rival = tf.reduce_all(masked | true_class, -1)
    certain = no_rival | tf.reduce_any(masked & true_class, -1)
    inner = keep(~certain[..., tf.newaxis], z)
    log_q = log_sum_exp(inner, ~true_class) - log_sum_exp(inner)
    certain_q_to_g = keep(~(no_rival & (g > 0)), tf.ones_like(log_q))
    values = tf.where(certain, certain_q_to_g, tf.exp(g * log_q)) * minus_log_p
    if alpha is not None:
        factor = at_true_class(a, positions)
        # 0 times infinity: the product's gradient would be 0 times what is in front of it.
        values = values * factor * nan_where(tf.math.is_inf(values) & tf.equal(factor, 0), factor.dtype)
    return add_up(values, positions.weights, positions.valid, reduction)


@loss_function(divide)
def logit_norm_loss(
    logits: Any,
    labels: Any,
    *,
    temperature: Any = 0.04,
    axis: int = -1,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """LogitNorm loss: cross-entropy of ``z / ((||z|| + 1e-7) * temperature)``.

    Source: Wei et al., ICML 2022; the maths is in `hemspec.reference.logit_norm`.

    Args:
        logits, labels, axis, sample_weight, ignore_index: as in `hem_loss`.
        temperature: a number > 0.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss, float64 for float64 logits, else float32; also ``logit_norm_loss.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> round(float(logit_norm_loss([[3.0, 4.0]], [0], temperature=1.0)), 4)
        0.7981
    """
    check_reduction(reduction, REDUCTIONS)
    positions = read_positions(logits, labels, axis=axis, sample_weight=sample_weight, ignore_index=ignore_index)
    t, poison = constant(temperature, positions, name="temperature", positive=True)
    z = positions.logits
    spoilt = tf.reduce_any(tf.math.is_nan(z) | tf.math.is_inf(z), -1)
    z = spoil(z, spoilt, positions.poison, poison)
    # Any scale gives the same quotient, so it is a constant.
    largest = tf.stop_gradient(tf.reduce_max(tf.abs(z), -1, keepdims=True))
    not_zero = tf.not_equal(largest, 0)
    scale = keep(not_zero, largest, 1.0)
    unit = z / scale
    squares = blocked_sum(tf.square(unit), unit.shape.rank - 1)[..., tf.newaxis]
    length = keep(not_zero, tf.sqrt(keep(not_zero, squares, 1.0)))
    values = cross_entropy(unit / ((length + 1e-7 / scale) * t), positions)
    return add_up(values, positions.weights, positions.valid, reduction)


@loss_function(divide)
def logit_adjusted_loss(
    logits: Any,
    labels: Any,
    *,
    class_counts: Any,
    temperature: Any = 1.0,
    axis: int = -1,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Logit-adjusted cross-entropy: cross-entropy of ``z + temperature * log(prior)``. Predict from the raw logits.

    Source: Menon et al., ICLR 2021; the maths is in `hemspec.reference.logit_adjusted`.

    Args:
        logits, labels, axis, sample_weight, ignore_index: as in `hem_loss`.
        class_counts: training samples per class, shape ``(C,)``: whole numbers >= 1, within rounding; the priors are
            their shares. A Series, dict or Counter is put in the order of the classes.
        temperature: a number > 0.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss, float64 for float64 logits, else float32; also ``logit_adjusted_loss.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> round(float(logit_adjusted_loss([[0.0, 0.0]], [1], class_counts=[3, 1])), 4)  # -log(1/4)
        1.3863
    """
    check_reduction(reduction, REDUCTIONS)
    positions = read_positions(logits, labels, axis=axis, sample_weight=sample_weight, ignore_index=ignore_index)
    t, poison_t = read_or_poison(temperature, positions, name="temperature", positive=True)
    counts, poison_c = read_or_poison(
        class_counts, positions, name="class_counts", per_class=True, scalar=False, counts=True
    )
    prior = log_prior(counts) if isinstance(counts, np.ndarray) else tf.math.log(counts / blocked_sum(counts))
    # In float64 where both have been read.
    shift = t * prior if type(t) is type(prior) else in_compute(t, positions) * in_compute(prior, positions)
    z = softmax_logits(positions, poison_t, poison_c) + in_compute(shift, positions)
    return add_up(cross_entropy(z, positions), positions.weights, positions.valid, reduction)


@loss_function(divide)
def dice_loss(
    logits: Any,
    labels: Any,
    *,
    smooth: Any = 0.0,
    batch: bool = False,
    axis: int = -1,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Soft Dice loss over the classes present in each image, softmax inside.

    The maths is in `hemspec.reference.dice`. Libraries disagree on absent classes, smoothing and axes: compare values
    before swapping one for another. segmentation-models-pytorch counts an absent class as 0 in a mean over all C, MONAI
    keeps the loss it has by itself; the macro form of kornia 0.9 has our values.

    Args:
        logits, labels, axis, ignore_index: as in `hem_loss`; the first axis of the labels counts images.
        smooth: a number >= 0, added once to numerator and denominator; that of optax and of
            segmentation-models-pytorch is half of it (2 here for their 1).
        batch: treat the whole batch as one image.
        sample_weight: as in `hem_loss`, but weights act inside an image only: one weight for a whole image changes
            nothing at ``smooth=0``, and images are averaged unweighted.
        reduction: ``"mean"`` or ``"sum"`` over the images that have a valid position, or ``"none"``, of shape ``(N,)``
            (a scalar for ``batch=True`` and for logits with a class axis only).

    Returns:
        The loss, float64 for float64 logits, else float32; also ``dice_loss.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> float(dice_loss([[[0.0, 0.0], [0.0, 0.0]]], [[0, 1]]))
        0.5
    """
    options = {"axis": axis, "sample_weight": sample_weight, "ignore_index": ignore_index}
    return dice_terms(logits, labels, smooth, batch, reduction, **options)


def dice_terms(
    logits: Any,
    labels: Any,
    smooth: Any,
    batch: bool,
    reduction: str,
    *,
    over_parts: Callable[[list[tf.Tensor]], list[tf.Tensor]] = lambda sums: sums,
    **options: Any,
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Numerator and denominator of Dice. `over_parts` adds up what other replicas hold of the images."""
    check_reduction(reduction, REDUCTIONS)
    check_flag(batch, name="batch")
    positions = read_positions(logits, labels, **options)
    s, poison = constant(smooth, positions, name="smooth")

    def per_image(rows: tf.Tensor) -> tf.Tensor:
        return blocked_sum(rows, 0 if batch else 1, rows.shape.rank - 1)

    z = softmax_logits(positions, poison)
    # XLA's exp in float32 turns NaN into numbers.
    p = spoil(softmax(z), tf.reduce_any(tf.math.is_nan(z), -1))
    w = positions.weights[..., tf.newaxis]
    true = tf.cast(positions.true_class, p.dtype)
    predicted, present, overlap = over_parts([per_image(w * p), per_image(w * true), per_image(w * p * true)])
    counted = (present > 0) | tf.math.is_nan(present)
    union = keep(counted, predicted + present + s, 1.0)
    ratio = keep(counted, (2 * overlap + s) / union)
    has_positions = tf.reduce_any(counted, -1)
    classes_present = tf.reduce_sum(tf.cast(counted, p.dtype), -1)
    values = 1 - tf.math.divide_no_nan(blocked_sum(ratio, ratio.shape.rank - 1), classes_present)
    return add_up(values, tf.cast(has_positions, p.dtype), has_positions, reduction)
