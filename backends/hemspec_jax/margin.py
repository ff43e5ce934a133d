"""HEM and multi-class margin loss in passes over the logits that keep nothing of their size.

HEM has three: the sum of all errors, the sum and number of the kept ones, the gradient. The multi-class margin loss has
two, since it keeps every error. Of plain operations XLA makes arrays of errors and of masks instead.

The derivative is a sum of ``weights * dz``. Its transpose is one pass that makes the weights again and writes the
gradient, just as in a backward pass written by hand (`jax.custom_vjp`, no faster), and there is forward mode too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from hemspec_jax.class_axis import ClassAxis, look_up
from hemspec_jax.positions import Positions, constant, rounded

Pair: TypeAlias = tuple[Array, Array]

BLOCKS: Final = range(16, 8, -1)
"""Into how many blocks classes are cut. LLVM unrolls the loop over them. At 20 it gave up for half precisions, at 25
for float32, and was several times slower (jaxlib 0.10.2). Fewer leave more sums to write and read again."""
UNCUT: Final = 24
"""So many classes are added up in one unrolled loop."""


def margin_values(positions: Positions, margin: Any, *, hem: bool) -> Array:
    """The loss of each position, HEM or the multi-class margin loss; any number where a position does not exist."""
    values: Array = kept_mean(*operands(positions, margin), hem, positions.axis)
    return values


def error_counts(positions: Positions, margin: Any) -> Pair:
    """For each position how many errors HEM keeps, and how many are positive; NaN where the loss is."""
    kept, positive = kept_and_positive(*operands(positions, margin), positions.axis)
    return kept, positive


def operands(positions: Positions, margin: Any) -> tuple[Array, Array, Array, Array]:
    """Logits as they came, and of their shape without the class axis: labels, margins, and a factor.

    The factor is 1, NaN to spoil a position, 0 for one that does not exist.
    """
    margins, poison = constant(margin, positions, name="margin", per_class=True)
    m, labels = rounded(margins, positions), positions.labels
    m = look_up(m, labels) if m.ndim else jnp.broadcast_to(m, labels.shape)
    return positions.given, labels, m, jnp.where(positions.valid, positions.poison * poison, 0.0)


@partial(jax.jit, static_argnums=(4, 5))  # so that it does not go operation by operation outside of jit
def kept_mean(z: Array, labels: Array, margins: Array, factor: Array, hem: bool, axis: ClassAxis) -> Array:
    """For each position the sum of its kept errors, divided by their number (HEM) or by C. See `operands`."""
    return statistics(z, labels, margins, factor, hem, axis).values


@partial(jax.jit, static_argnums=4)
def kept_and_positive(z: Array, labels: Array, margins: Array, factor: Array, axis: ClassAxis) -> tuple[Array, ...]:
    z = lax.stop_gradient(z)
    found = [statistics(z, labels, margins, factor, hem, axis) for hem in (True, False)]
    return tuple(jnp.where(jnp.isnan(kind.slope), kind.slope, kind.number) for kind in found)


class Rows(NamedTuple):
    """What errors are made of, beside the logits, for each position."""

    labels: Array  # into the classes at hand
    z_y: Array
    margins: Array


class Statistics(NamedTuple):
    """What loss and gradient are made of, for each position. Only the values are differentiable."""

    values: Array
    slope: Array  # the gradient at a kept error
    number: Array  # of the kept errors
    z_y: Array
    bar: Array  # see find_dropped


@partial(jax.custom_jvp, nondiff_argnums=(4, 5))
def statistics(z: Array, labels: Array, margins: Array, factor: Array, hem: bool, axis: ClassAxis) -> Statistics:
    labels = axis.local(labels, z.shape[axis.dim])
    rows = Rows(labels, axis.at(z, labels).astype(margins.dtype), margins)
    bar = jnp.full_like(margins, np.finfo(margins.dtype).tiny)
    sum_unit, unit = units(axis.whole(z.shape)[axis.dim], hem)
    if hem:
        constants = map(lax.stop_gradient, (z, rows, bar))
        mean = by_platform(mean_error, *constants, unit=sum_unit, axis=axis)
        bar = jnp.maximum(bar, mean)
    total, count = by_platform(kept_sums, z, rows, bar, unit=unit, axis=axis)
    size = jnp.maximum(count, 1.0) if hem else jnp.full_like(count, axis.whole(z.shape)[axis.dim])
    seen = mean if hem else total  # the mean is needed for longer than the total
    factor = jnp.where(factor == 0, 0.0, jnp.where(jnp.isnan(seen), seen, factor))
    return Statistics(total / (size * unit) * factor, factor / size, count, rows.z_y, bar)


@statistics.defjvp
def tangents(
    hem: bool, axis: ClassAxis, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Statistics, Statistics]:
    """The weights of `dz` are constants. The values are not: who differentiates this again gets their gradient."""
    found = statistics(*primals, hem, axis)
    z, labels, margins, _ = map(lax.stop_gradient, primals)
    _, slope, number, z_y, bar = map(lax.stop_gradient, found)
    rows = Rows(axis.local(labels, z.shape[axis.dim]), z_y, margins)
    _, dropped = find_dropped(z, rows, bar, units(axis.whole(z.shape)[axis.dim], hem)[1], axis)
    weights = jnp.where(dropped, 0.0, jnp.ones((), slope.dtype))
    weights = jnp.where(axis.holds(z, rows.labels), -jnp.expand_dims(number, axis.dim), weights)
    moved = slope * axis.total(jnp.sum(weights * tangents[0].astype(weights.dtype), axis.dim))
    return found, Statistics(moved, *(jnp.zeros_like(constant) for constant in found[1:]))


def units(classes: int, hem: bool) -> tuple[float, float]:
    """What errors are multiplied with where all are added up, and where the kept ones are. See `find_dropped`."""
    unit = power_of_two(classes)
    return unit, classes * unit if hem else unit


def power_of_two(classes: int) -> float:
    """Errors times this, at most 1 / C, are added up without overflow and with the same roundings."""
    return math.ldexp(1.0, -(classes - 1).bit_length())


def find_dropped(z: Array, rows: Rows, bar: Array, unit: float, axis: ClassAxis) -> Pair:
    """The errors times `unit`, and which of them are below the bar or at the true class. A NaN never is.

    The bar is a number above 0. For the mean it is the sum of the errors, the unit C times what it was in the sum:
    without a division, by which XLA means a product with 1 / C, no tie is lost.
    """
    labels, z_y, margins = rows
    differences = z.astype(z_y.dtype) - jnp.expand_dims(z_y, axis.dim)
    errors = (differences + jnp.expand_dims(margins, axis.dim)) * unit
    return errors, (errors < jnp.expand_dims(bar, axis.dim)) | axis.holds(z, labels)


def kept_sums(z: Array, rows: Rows, bar: Array, *, unit: float, axis: ClassAxis, adder: Adder) -> Pair:
    """The sum of the errors that are not dropped, times `unit`, and their number."""
    errors, dropped = find_dropped(z, rows, bar, unit, axis)
    kept = jnp.where(dropped, 0.0, errors), jnp.where(dropped, 0.0, jnp.ones((), errors.dtype))
    total, count = adder.sums(kept, axis.dim)
    return axis.total(total), axis.total(count)


def mean_error(z: Array, rows: Rows, positive: Array, *, unit: float, axis: ClassAxis, adder: Adder) -> Array:
    """The bar of errors that are not below the mean error.

    It must not round to more than the largest error, or nothing would be kept. An error is 0, so their sum is at most
    (C - 1) / C of C times the largest, and a sum of depth d rounds by less than d * eps / 2.
    """
    classes, here = axis.whole(z.shape)[axis.dim], z.shape[axis.dim]
    depth = adder.depth(here) + axis.shards
    if classes * depth * np.finfo(positive.dtype).eps < 2:
        return kept_sums(z, rows, positive, unit=unit, axis=axis, adder=adder)[0]
    errors, dropped = find_dropped(z, rows, positive, unit, axis)
    errors = jnp.where(dropped, 0.0, errors)
    largest = axis.largest(jnp.max(errors, axis.dim))
    shortfall, total = map(axis.total, adder.sums((jnp.expand_dims(largest, axis.dim) - errors, errors), axis.dim))
    return jnp.where(~jnp.isfinite(total), total, classes * largest - shortfall)


class Adder(NamedTuple):
    """A way to add up two arrays at once along an axis, and the most additions that a term goes through."""

    sums: Callable[[Pair, int], Pair]
    depth: Callable[[int], int]


def by_platform(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call `function` with the `Adder` of the platform for which it is compiled."""
    cpu, default = (partial(function, adder=adder, **options) for adder in (BLOCKWISE, PLAIN))
    return lax.platform_dependent(*args, cpu=cpu, default=default)


def sums(pair: Pair, axis: int) -> Pair:
    return jnp.sum(pair[0], axis), jnp.sum(pair[1], axis)


def blockwise_sums(pair: Pair, axis: int) -> Pair:
    """Sums for a CPU: of blocks in one vectorised loop that makes the terms as well, then of these sums.

    XLA would write the terms down first, for it computes single sums in a library. It does not do so with pairs.

    Arrays may be sharded over the classes, which tracing does not see. So the first cut is into what every such
    sharding keeps apart, and the last sum is a plain one, which XLA makes an all-reduce. Cuts across a device's border
    and pairs of sums would have it gather the terms.
    """
    shards = number_of_shards(pair[0].shape[axis])
    if shards == 1:
        return sums_of_blocks(pair, axis)

    def cut(terms: Array) -> Array:
        return terms.reshape(*terms.shape[:axis], shards, terms.shape[axis] // shards, *terms.shape[axis + 1 :])

    return sums(sums_of_blocks((cut(pair[0]), cut(pair[1])), axis + 1), axis)


def number_of_shards(classes: int) -> int:
    """A multiple of every number of shards that these devices could have of so many classes."""
    return math.gcd(classes, jax.device_count())


def sums_of_blocks(pair: Pair, axis: int) -> Pair:
    classes = pair[0].shape[axis]
    if classes <= UNCUT:
        return together(pair, axis)
    blocks = number_of_blocks(classes)
    width = classes // blocks

    def cut(terms: Array) -> Array:
        terms = lax.slice_in_dim(terms, 0, blocks * width, axis=axis)
        return terms.reshape(*terms.shape[:axis], blocks, width, *terms.shape[axis + 1 :])

    def rest(terms: Array) -> Array:
        return lax.slice_in_dim(terms, blocks * width, classes, axis=axis)

    found = sums_of_blocks(together((cut(pair[0]), cut(pair[1])), axis), axis)
    if blocks * width == classes:
        return found
    over = together((rest(pair[0]), rest(pair[1])), axis)
    return found[0] + over[0], found[1] + over[1]


def together(pair: Pair, axis: int) -> Pair:
    """Both sums by one reduction, which stays one."""
    first, second = pair
    zero = jnp.zeros((), first.dtype)
    # JAX drops custom rules inside `scan` and `cond` when it differentiates them twice, and then differentiates this
    # reduction, which it can only if both arrays have a tangent. So the second depends on the first, in name: no
    # compiler computes what is chosen where False holds.
    second = jnp.where(np.False_, first, second)
    first, second = lax.reduce(
        (first, second), (zero, zero), lambda one, two: (one[0] + two[0], one[1] + two[1]), (axis,)
    )
    first, second = lax.optimization_barrier((first, second))  # type: ignore[no-untyped-call]
    return first, second


def number_of_blocks(classes: int) -> int:
    """As many as leave the fewest classes over."""
    return min(BLOCKS, key=lambda blocks: classes % blocks)


def blockwise_depth(classes: int) -> int:
    shards = number_of_shards(classes)
    return shards + depth_of_blocks(classes // shards)


def depth_of_blocks(classes: int) -> int:
    if classes <= UNCUT:
        return classes
    blocks = number_of_blocks(classes)
    width = classes // blocks
    return max(blocks + depth_of_blocks(width), classes % blocks) + 1


BLOCKWISE: Final = Adder(blockwise_sums, blockwise_depth)
PLAIN: Final = Adder(sums, lambda classes: classes)
