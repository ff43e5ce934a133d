"""The losses of hemspec as JAX functions, in plain array operations.

They mirror `hemspec.reference`, where the maths of each loss is written out. Common to all: ``logits`` of any shape
with a class axis, floating point; float16 and bfloat16 are computed in float32 and give a float32 loss. ``labels``
holds integer class indices. Both are NumPy or JAX arrays. The functions are pure and differentiable in the logits
alone. Where a value cannot be read (traced by ``jit`` or ``vmap``, or on an accelerator) a bad one gives a NaN loss
instead of an error.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

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
from hemspec_jax.class_axis import factor_nan
from hemspec_jax.margin import margin_values
from hemspec_jax.positions import (
    Positions,
    add_up,
    at_true_class,
    check_axis_name,
    check_class_axis_name,
    constant,
    divide,
    over_axis,
    over_classes,
    read_positions,
    rounded,
)

__all__ = [
    "cross_entropy_loss",
    "dice_loss",
    "focal_loss",
    "hem_loss",
    "logit_adjusted_loss",
    "logit_norm_loss",
    "multi_margin_loss",
]


@loss_function(divide)
def hem_loss(
    logits: Any,
    labels: Any,
    *,
    margin: Any = 1.0,
    axis: int = -1,
    sample_weight: Any = None,
    where: Any = None,
    ignore_index: int | None = -100,
    reduction: MarginReduction = "active_mean",
    axis_name: Any = None,
    class_axis_name: Any = None,
) -> tuple[Array, Array | None]:
    """HEM (high error margin) loss; HEM+ with a margin for each class.

    The mean of those errors ``max(0, z_j - z_y + margin)`` that are not below the position's mean error.
    Source: Spratling and Schütt 2025, arXiv 2501.12191; the maths is in `hemspec.reference.hem`.

    Args:
        logits: floating point, any shape with a class axis of size C >= 2.
        labels: integers in [0, C), the shape of the logits without the class axis.
        margin: >= 0, in units of a logit. A number (HEM), or shape ``(C,)``, indexed by the true class (HEM+).
        axis: the class axis of the logits.
        sample_weight: >= 0, the shape of the labels or of their first axis. Weight 2 is two copies, 0 is none. A
            constant, as the margin is: the gradient in either is 0.
        where: booleans, shaped as a sample_weight; where False a position does not exist, whatever its weight. Not one
            for each logit: a class that is no choice at a position has the logit -inf.
        ignore_index: positions with this label do not exist; None switches it off.
        reduction: ``"active_mean"`` (over the positions with a loss > 0, the paper's), ``"mean"``, ``"sum"`` or
            ``"none"`` (the shape of the labels).
        axis_name: a mapped axis (of ``vmap``, ``pmap`` or ``shard_map``), or several, to reduce over as well; not
            with ``"none"``. An average over shards is not the average of their averages. Differentiate outside the
            map, or inside a ``shard_map`` that tracks replication (``check_vma=True``, the default); inside any
            other JAX gives the gradient of the sum of all replicas' equal losses, so that ``lax.pmean`` over the axis
            gives that of the loss.
        class_axis_name: a mapped axis, or several, over whose shards the classes are spread in equal parts and in
            order, as in a class-parallel head. The logits are then one shard's; labels and margin are as without. The
            logits never leave their shard, only arrays of the labels' size do. Differentiate as with `axis_name`: each
            shard gets its slice of the gradient.

    Returns:
        The loss, float64 for float64 logits, else float32. 0, not NaN, where there is nothing to average.
        ``hem_loss.terms(...)`` gives the average's numerator and denominator.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> import jax
        >>> logits = jnp.array([[1.0, 1.5, 0.0, -3.0], [9.0, 0.0, 0.0, 0.0]])
        >>> labels = jnp.array([0, 0])
        >>> float(hem_loss(logits, labels))  # the second position is not active
        1.5
        >>> jax.grad(hem_loss)(logits, labels)[0].tolist()
        [-1.0, 1.0, 0.0, 0.0]
    """
    check_reduction(reduction, MARGIN_REDUCTIONS)
    check_axis_name(axis_name, reduction)
    check_class_axis_name(class_axis_name, axis_name)
    positions = read_positions(
        logits,
        labels,
        axis=axis,
        sample_weight=sample_weight,
        where=where,
        ignore_index=ignore_index,
        class_axis_name=class_axis_name,
    )
    values = margin_values(positions, margin, hem=True)
    return add_up(values, positions.weights, positions.valid, reduction, axis_name)


@loss_function(divide)
def multi_margin_loss(
    logits: Any,
    labels: Any,
    *,
    margin: Any = 1.0,
    axis: int = -1,
    sample_weight: Any = None,
    where: Any = None,
    ignore_index: int | None = -100,
    reduction: MarginReduction = "mean",
    axis_name: Any = None,
    class_axis_name: Any = None,
) -> tuple[Array, Array | None]:
    """Multi-class margin loss: the sum of the errors ``max(0, z_j - z_y + margin)``, divided by C.

    ``torch.nn.functional.multi_margin_loss`` with p = 1; the margin may differ by true class.

    Args:
        logits, labels, axis, sample_weight, where, ignore_index, axis_name, class_axis_name: as in `hem_loss`.
        margin: >= 0. A number, or shape ``(C,)``, indexed by the true class.
        reduction: ``"mean"``, ``"active_mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss, float64 for float64 logits, else float32; also ``multi_margin_loss.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> float(multi_margin_loss(jnp.array([[1.0, 1.5, 0.0, -3.0]]), jnp.array([0])))
        0.375
    """
    check_reduction(reduction, MARGIN_REDUCTIONS)
    check_axis_name(axis_name, reduction)
    check_class_axis_name(class_axis_name, axis_name)
    positions = read_positions(
        logits,
        labels,
        axis=axis,
        sample_weight=sample_weight,
        where=where,
        ignore_index=ignore_index,
        class_axis_name=class_axis_name,
    )
    values = margin_values(positions, margin, hem=False)
    return add_up(values, positions.weights, positions.valid, reduction, axis_name)


def spoiling(spoilt: Array, positions: Positions, *poisons: Array) -> Array:
    """A factor for what each row gives: NaN where the row is spoilt or poisoned, else 1.

    It multiplies what comes out of the exponentials, not the logits that go in: XLA on the CPU turns the exponential
    of a NaN that it knows of while compiling into arbitrary numbers (seen in jaxlib 0.10.2). The gradient is NaN in
    all classes either way, since each exponential multiplies it.
    """
    factor: Array = factor_nan(spoilt, positions.poison) * positions.poison
    for poison in poisons:
        factor = factor * poison
    return factor


def softmax_logits(positions: Positions, *poisons: Array) -> tuple[Array, Array]:
    """The logits of a loss with a softmax, their maximum subtracted, and the factor for what it gives.

    A NaN, a +inf or nothing but -inf spoils a row. The maximum goes first so that no later sum (with a log prior, say)
    rounds at the size of a common offset. Such a loss does not change with an offset, so the maximum is a constant.
    """
    largest = positions.axis.largest(jnp.max(lax.stop_gradient(positions.logits), axis=-1))
    shifted = positions.logits - jnp.expand_dims(largest, -1)
    return shifted, spoiling(~jnp.isfinite(largest), positions, *poisons)


def cross_entropy(z: Array, positions: Positions) -> Array:
    """logsumexp(z) - z_y for each position, of logits made from the positions'."""
    shifted = z - jnp.expand_dims(positions.axis.largest(jnp.max(lax.stop_gradient(z), axis=-1)), -1)
    return jnp.log(positions.axis.total(jnp.sum(jnp.exp(shifted), axis=-1))) - at_true_class(shifted, positions)


@loss_function(divide)
def cross_entropy_loss(
    logits: Any,
    labels: Any,
    *,
    axis: int = -1,
    sample_weight: Any = None,
    where: Any = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
    axis_name: Any = None,
    class_axis_name: Any = None,
) -> tuple[Array, Array | None]:
    """Cross-entropy of integer labels, softmax inside: ``logsumexp(z) - z_y``.

    ``optax.softmax_cross_entropy_with_integer_labels``, with weights, ignored positions and a reduction.

    Args:
        logits, labels, axis, sample_weight, where, ignore_index, axis_name, class_axis_name: as in `hem_loss`.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss, float64 for float64 logits, else float32; also ``cross_entropy_loss.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> round(float(cross_entropy_loss(jnp.array([[0.0, 0.0]]), jnp.array([1]))), 4)
        0.6931
    """
    check_reduction(reduction, REDUCTIONS)
    check_axis_name(axis_name, reduction)
    check_class_axis_name(class_axis_name, axis_name)
    positions = read_positions(
        logits,
        labels,
        axis=axis,
        sample_weight=sample_weight,
        where=where,
        ignore_index=ignore_index,
        class_axis_name=class_axis_name,
    )
    z, factor = softmax_logits(positions)
    values = cross_entropy(z, positions) * factor
    return add_up(values, positions.weights, positions.valid, reduction, axis_name)


@loss_function(divide)
def focal_loss(
    logits: Any,
    labels: Any,
    *,
    gamma: Any = 2.0,
    alpha: Any = None,
    axis: int = -1,
    sample_weight: Any = None,
    where: Any = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
    axis_name: Any = None,
) -> tuple[Array, Array | None]:
    """Focal loss, softmax form: ``-alpha_y (1 - p)^gamma log p`` with p the softmax probability of the true class.

    Source: Lin et al., ICCV 2017; the maths is in `hemspec.reference.focal`. Not the one-vs-rest sigmoid focal loss
    of optax, and not divided by C as MONAI's and kornia's softmax mean is.

    Args:
        logits, labels, axis, sample_weight, where, ignore_index, axis_name: as in `hem_loss`.
        gamma: focusing parameter, a number >= 0; 0 gives cross-entropy.
        alpha: None, or class weights >= 0 of shape ``(C,)``, indexed by the true class: a factor of the loss, not a
            weight of the mean.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss, float64 for float64 logits, else float32; also ``focal_loss.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> round(float(focal_loss(jnp.array([[0.0, 0.0]]), jnp.array([1]))), 4)
        0.1733
    """
    check_reduction(reduction, REDUCTIONS)
    check_axis_name(axis_name, reduction)
    positions = read_positions(
        logits, labels, axis=axis, sample_weight=sample_weight, where=where, ignore_index=ignore_index
    )
    known_gamma, poison = constant(gamma, positions, name="gamma")
    g, poisons = rounded(known_gamma, positions), [poison]
    if alpha is not None:
        a, poison = constant(alpha, positions, name="alpha", per_class=True, scalar=False)
        poisons.append(poison)
    z, factor = softmax_logits(positions, *poisons)
    minus_log_p = cross_entropy(z, positions)

    # log q, q = 1 - p, straight from the logits: exact where 1 - p would round to 0. Where infinities make q exactly
    # 0 or 1 the loss is -log p itself, 0 or +inf, and the other path to the logits is cut (zeros go in) so that no
    # inf - inf and no 0 * inf can reach them.
    masked = ~jnp.isfinite(z)  # -inf: what else there is has spoilt the row
    no_rival = jnp.all(masked | positions.true_class, axis=-1)
    certain = no_rival | jnp.any(masked & positions.true_class, axis=-1)
    inner = jnp.where(jnp.expand_dims(certain, -1), 0.0, z)
    # The true class is no rival: it counts as the smallest number there is where the largest rival is sought.
    constant_z = lax.stop_gradient(inner)
    smallest = jnp.min(constant_z, axis=-1, keepdims=True)
    largest = jnp.max(jnp.where(positions.true_class, smallest, constant_z), axis=-1, keepdims=True)
    rivals = jnp.exp(jnp.where(positions.true_class, 0.0, inner - largest))
    log_q = jnp.log(jnp.sum(jnp.where(positions.true_class, 0.0, rivals), axis=-1)) + jnp.squeeze(largest, -1)
    log_q = log_q - jnp.log(jnp.sum(jnp.exp(inner), axis=-1))
    values = jnp.where(certain, minus_log_p, jnp.exp(g * log_q) * jnp.where(certain, 0.0, minus_log_p)) * factor
    if alpha is not None:
        of_class = at_true_class(over_classes(a, positions), positions)
        # 0 times infinity: the product's gradient would be 0 times what is in front of it.
        values = values * of_class * factor_nan(~jnp.isfinite(values) & (of_class == 0), values)
    return add_up(values, positions.weights, positions.valid, reduction, axis_name)


@loss_function(divide)
def logit_norm_loss(
    logits: Any,
    labels: Any,
    *,
    temperature: Any = 0.04,
    axis: int = -1,
    sample_weight: Any = None,
    where: Any = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
    axis_name: Any = None,
) -> tuple[Array, Array | None]:
    """LogitNorm loss: cross-entropy of ``z / ((||z|| + 1e-7) * temperature)``.

    Source: Wei et al., ICML 2022; the maths is in `hemspec.reference.logit_norm`.

    Args:
        logits, labels, axis, sample_weight, where, ignore_index, axis_name: as in `hem_loss`.
        temperature: a number > 0.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss, float64 for float64 logits, else float32; also ``logit_norm_loss.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> round(float(logit_norm_loss(jnp.array([[3.0, 4.0]]), jnp.array([0]), temperature=1.0)), 4)
        0.7981
    """
    check_reduction(reduction, REDUCTIONS)
    check_axis_name(axis_name, reduction)
    positions = read_positions(
        logits, labels, axis=axis, sample_weight=sample_weight, where=where, ignore_index=ignore_index
    )
    t, poison = constant(temperature, positions, name="temperature", positive=True)
    z = positions.logits
    factor = spoiling(~jnp.all(jnp.isfinite(z), axis=-1), positions, poison)
    # Any scale gives the same quotient, so it is a constant.
    largest = jnp.max(jnp.abs(lax.stop_gradient(z)), axis=-1, keepdims=True)
    is_zero = largest == 0
    # XLA multiplies by its reciprocal, which for the largest numbers would be flushed to 0.
    scale = jnp.where(is_zero, 1.0, jnp.minimum(largest, float(np.finfo(z.dtype).max) / 8))
    unit = z / scale
    squares = jnp.sum(jnp.square(unit), axis=-1, keepdims=True)
    length = jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, squares)))
    values = cross_entropy(unit / ((length + 1e-7 / scale) * rounded(t, positions)), positions) * factor
    return add_up(values, positions.weights, positions.valid, reduction, axis_name)


@loss_function(divide)
def logit_adjusted_loss(
    logits: Any,
    labels: Any,
    *,
    class_counts: Any,
    temperature: Any = 1.0,
    axis: int = -1,
    sample_weight: Any = None,
    where: Any = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
    axis_name: Any = None,
) -> tuple[Array, Array | None]:
    """Logit-adjusted cross-entropy: cross-entropy of ``z + temperature * log(prior)``. Predict from the raw logits.

    Source: Menon et al., ICLR 2021; the maths is in `hemspec.reference.logit_adjusted`.

    Args:
        logits, labels, axis, sample_weight, where, ignore_index, axis_name: as in `hem_loss`.
        class_counts: training samples per class, shape ``(C,)``: whole numbers >= 1, within rounding; the priors are
            their shares. A Series, dict or Counter is put in the order of the classes.
        temperature: a number > 0.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss, float64 for float64 logits, else float32; also ``logit_adjusted_loss.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> loss = logit_adjusted_loss(jnp.array([[0.0, 0.0]]), jnp.array([1]), class_counts=[3, 1])
        >>> round(float(loss), 4)  # -log(1/4)
        1.3863
    """
    check_reduction(reduction, REDUCTIONS)
    check_axis_name(axis_name, reduction)
    positions = read_positions(
        logits, labels, axis=axis, sample_weight=sample_weight, where=where, ignore_index=ignore_index
    )
    t, poison_t = constant(temperature, positions, name="temperature", positive=True)
    counts, poison_c = constant(class_counts, positions, name="class_counts", per_class=True, scalar=False, counts=True)
    # In float64 as far as the two can be read.
    log_pi = jnp.log(counts) - jnp.log(jnp.sum(counts)) if isinstance(counts, Array) else log_prior(counts)
    if isinstance(t, Array) or isinstance(log_pi, Array):
        t, log_pi = rounded(t, positions), rounded(log_pi, positions)
    z, factor = softmax_logits(positions, poison_t, poison_c)
    values = cross_entropy(z + over_classes(t * log_pi, positions), positions) * factor
    return add_up(values, positions.weights, positions.valid, reduction, axis_name)


@loss_function(divide)
def dice_loss(
    logits: Any,
    labels: Any,
    *,
    smooth: Any = 0.0,
    batch: bool = False,
    axis: int = -1,
    sample_weight: Any = None,
    where: Any = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
    axis_name: Any = None,
) -> tuple[Array, Array | None]:
    """Soft Dice loss over the classes present in each image, softmax inside.

    The maths is in `hemspec.reference.dice`. Libraries disagree on absent classes, smoothing and axes: compare values
    before swapping one for another. segmentation-models-pytorch counts an absent class as 0 in a mean over all C, MONAI
    keeps the loss it has by itself; the macro form of kornia 0.9 has our values.

    Args:
        logits, labels, axis, where, ignore_index: as in `hem_loss`; the first axis of the labels counts images.
        smooth: a number >= 0, added once to numerator and denominator; that of optax and of
            segmentation-models-pytorch is half of it (2 here for their 1).
        batch: treat the whole batch as one image, over all of `axis_name` too.
        sample_weight: as in `hem_loss`, but weights act inside an image only: one weight for a whole image changes
            nothing at ``smooth=0``, and images are averaged unweighted.
        reduction: ``"mean"`` or ``"sum"`` over the images that have a valid position, or ``"none"``, of shape ``(N,)``
            (a scalar for ``batch=True`` and for logits with a class axis only).
        axis_name: as in `hem_loss`. Shards hold different images, or with ``batch=True`` parts of the one.

    Returns:
        The loss, float64 for float64 logits, else float32; also ``dice_loss.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> float(dice_loss(jnp.zeros((1, 2, 2)), jnp.array([[0, 1]])))
        0.5
    """
    check_reduction(reduction, REDUCTIONS)
    check_axis_name(axis_name, reduction)
    check_flag(batch, name="batch")
    positions = read_positions(
        logits, labels, axis=axis, sample_weight=sample_weight, where=where, ignore_index=ignore_index
    )
    known_smooth, poison = constant(smooth, positions, name="smooth")
    s = rounded(known_smooth, positions)
    shape, inside = labels.shape[:1], labels.shape[1:]
    if batch:
        shape, inside = (), labels.shape

    def per_image(rows: Array) -> Array:
        total = jnp.sum(rows.reshape(math.prod(shape), math.prod(inside), rows.shape[-1]), axis=1)
        return over_axis(total, axis_name) if batch else total

    z, factor = softmax_logits(positions, poison)
    exponentials = jnp.exp(z)  # no jax.nn.softmax, which would seek the largest again, from -inf on
    p = exponentials / jnp.sum(exponentials, axis=-1, keepdims=True) * jnp.expand_dims(factor, -1)
    w = jnp.expand_dims(positions.weights, -1)
    true = positions.true_class.astype(p.dtype)
    predicted, present, overlap = per_image(w * p), per_image(w * true), per_image(w * p * true)
    counted = (present > 0) | jnp.isnan(present)
    union = jnp.where(counted, predicted + present + s, 1.0)
    ratio = jnp.where(counted, (2 * overlap + s) / union, 0.0)
    has_positions = jnp.any(counted, axis=-1)
    classes_present = jnp.maximum(jnp.sum(counted, axis=-1, dtype=p.dtype), 1.0)
    values = 1.0 - jnp.sum(ratio, axis=-1) / classes_present
    weights = has_positions.astype(p.dtype)
    return add_up(
        values.reshape(shape),
        weights.reshape(shape),
        has_positions.reshape(shape),
        reduction,
        None if batch else axis_name,
    )
