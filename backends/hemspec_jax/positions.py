"""From a call's arguments to masked positions, and from a loss per position to the reduced answer, in JAX.

What every loss shares: checking, ignored and unweighted positions, reading or poisoning bad values, reductions.

Reading: whatever can be read (a NumPy array, a concrete array on the CPU, also inside a trace) is read into NumPy and
stays there for as long as it is compared, so that a bad value is an error and no label wraps on its way to 32 bits.

Poison: a value that cannot be read (traced, or on an accelerator) cannot raise, so a bad one turns its loss into NaN
instead. What a row gives is *multiplied* by a factor of 1 or NaN: that way the gradient of such a position is NaN in
every class as well, which `jnp.where` would not give. Neither NaN nor an infinity is there unless the input is bad.

Nothing here promotes a dtype or a rank implicitly, so the losses run under JAX's strictest settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array, lax

from hemspec.arguments import (
    are_counts,
    check_axis,
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
from hemspec_jax.class_axis import ClassAxis, factor_nan

Known: TypeAlias = npt.NDArray[Any] | Array
"""NumPy where the values can be read, JAX where they cannot."""


class Targets(NamedTuple):
    """Of the labels' shape, without gradient."""

    labels: Array  # int32, 0 where not valid or bad
    weights: Array  # compute dtype, 0 where not valid, NaN where bad
    valid: Array  # bool
    poison: Array  # compute dtype: 1, or NaN where the label or the weight is bad


@dataclass(frozen=True, eq=False)
class Positions:
    """Only `given` and `logits` carry a gradient. What is not derived but `given` has the shape of the labels."""

    given: Array  # the logits as they came
    axis: ClassAxis
    labels: Array  # int32, 0 where not valid or bad
    weights: Array  # compute dtype, 0 where not valid, NaN where bad
    valid: Array  # bool
    poison: Array  # compute dtype: 1, or NaN where the label or the weight is bad

    @property
    def dtype(self) -> Any:
        """The compute dtype."""
        return self.weights.dtype

    @property
    def classes(self) -> int:
        """C, that of all shards."""
        return self.axis.whole(self.given.shape)[self.axis.dim]

    @cached_property
    def logits(self) -> Array:
        """Class axis last, in the compute dtype, zero where not valid."""
        logits = jnp.moveaxis(self.given, self.axis.dim, -1)
        return jnp.where(jnp.expand_dims(self.valid, -1), logits, 0.0).astype(self.dtype)

    @cached_property
    def true_class(self) -> Array:
        """One-hot labels as a mask, class axis last."""
        classes = self.given.shape[self.axis.dim]
        return jax.nn.one_hot(self.axis.local(self.labels, classes), classes, dtype=jnp.bool_)


def check_array(value: object, *, name: str, optional: bool = False) -> None:
    if not isinstance(value, Array | np.ndarray | np.generic):
        kind = "a jax.Array or NumPy array" + (" or None" if optional else "")
        raise TypeError(f"{name} must be {kind}; got {type(value).__name__}")


def check_axis_name(axis_name: object, reduction: str) -> None:
    """Sums over a mapped axis exist where there is a sum."""
    if axis_name is not None and reduction == "none":
        raise ValueError(f"axis_name must be None with reduction 'none', which sums nothing up; got {axis_name!r}")


def check_class_axis_name(class_axis_name: Any, axis_name: Any) -> None:
    """A mapped axis splits the batch or the classes."""
    both = axis_names(class_axis_name) & axis_names(axis_name)
    if both:
        raise ValueError(
            f"class_axis_name must be another axis than axis_name; got {class_axis_name!r} and {axis_name!r}"
        )


def axis_names(name: Any) -> set[Any]:
    return set(name) if isinstance(name, tuple | list) else set() if name is None else {name}


def read(value: Any) -> Known:
    """The values in NumPy, where they can be had without a synchronisation; else the array as it is."""
    if isinstance(value, Array) and (
        isinstance(value, jax.core.Tracer)
        or not value.is_fully_addressable
        or any(device.platform != "cpu" for device in value.devices())
    ):
        return value
    array = np.asarray(value)
    # NumPy's own functions do not know the narrow types (bfloat16, int4). float64 holds them exactly.
    return array.astype(np.float64) if array.dtype.kind == "V" else array


def cast(value: Known, dtype: Any) -> Known:
    with np.errstate(over="ignore"):
        return value.astype(dtype)


def per_position(value: Any, dtype: Any, shape: Sequence[int]) -> Known:
    """A weight or a mask for every position, given one for every position or for every entry of the first axis."""
    known = cast(read(value), dtype)
    known = known.reshape(known.shape + (1,) * (len(shape) - known.ndim))
    return jnp.broadcast_to(known, tuple(shape)) if isinstance(known, Array) else np.broadcast_to(known, shape)


def read_positions(
    logits: Any,
    labels: Any,
    *,
    axis: int,
    sample_weight: Any,
    where: Any,
    ignore_index: int | None,
    class_axis_name: Any = None,
) -> Positions:
    """Check the arguments every loss takes, and mask what does not exist."""
    check_array(logits, name="logits")
    check_array(labels, name="labels")
    shape = logits.shape
    if class_axis_name is not None:
        shape = ClassAxis(check_axis(axis, len(shape)), class_axis_name).whole(shape)
    class_axis = check_logits(shape, logits.dtype.name, axis)
    check_labels(labels.shape, labels.dtype.name, shape, class_axis)
    logits = jnp.asarray(logits)
    targets = targets_for(
        labels, shape[class_axis], logits.dtype, sample_weight=sample_weight, where=where, ignore_index=ignore_index
    )
    return Positions(logits, ClassAxis(class_axis, class_axis_name), *targets)


def targets_for(
    labels: Any, classes: int, dtype: Any, *, sample_weight: Any, where: Any, ignore_index: int | None
) -> Targets:
    """Which positions exist, what they are and what they weigh, of labels for logits of a dtype."""
    ignore_index = check_ignore_index(ignore_index)
    shape = labels.shape
    compute = jnp.float64 if dtype == jnp.float64 else jnp.float32

    # Compared in their own dtype, as mathematical integers: a number that it cannot hold equals and bounds no label.
    label_dtype, labels = labels.dtype.name, read(labels)
    exists: Known = np.ones((), np.bool_)
    if ignore_index is not None and representable(ignore_index, label_dtype):
        exists = labels != np.asarray(ignore_index).astype(labels.dtype)
    bad_label = labels < 0
    if representable(classes, label_dtype):
        bad_label = bad_label | (labels >= np.asarray(classes).astype(labels.dtype))
    if where is not None:
        check_array(where, name="where", optional=True)
        if where.dtype != np.bool_:
            raise TypeError(f"where must be boolean; got {where.dtype.name} (weights go into sample_weight)")
        if len(where.shape) > len(shape):
            raise ValueError(
                f"where must have the shape of the labels, {tuple(shape)}, or of their first axis; got {where.shape},"
                " one for each logit. A class that is no choice at a position has the logit -inf there:"
                " give jnp.where(where, logits, -jnp.inf) as logits"
            )
        check_weight(where.shape, "bool", shape, name="where")
        exists = exists & per_position(where, np.bool_, shape)

    weights: Known = np.ones((), compute)
    bad_weight: Known = np.zeros((), np.bool_)
    if sample_weight is not None:
        check_array(sample_weight, name="sample_weight", optional=True)
        check_weight(sample_weight.shape, sample_weight.dtype.name, shape)
        weights = per_position(sample_weight, compute, shape)
        if not isinstance(weights, Array) and not isinstance(exists, Array):
            check_weight_values(weights, exists)
        is_finite = jnp.isfinite(weights) if isinstance(weights, Array) else np.isfinite(weights)
        bad_weight = exists & ((weights < 0) | ~is_finite)
    valid = exists & ((weights > 0) | bad_weight)
    if not isinstance(labels, Array) and not isinstance(valid, Array):
        check_label_values(labels, valid, classes)

    valid = jnp.broadcast_to(valid, shape)
    one = jnp.ones((), compute)
    return Targets(
        labels=jnp.where(valid & ~bad_label, jnp.asarray(cast(labels, np.int32)), 0),
        weights=lax.stop_gradient(jnp.where(valid, weights, 0.0) * factor_nan(bad_weight, one)),
        valid=valid,
        poison=factor_nan(valid & (bad_label | bad_weight), one),
    )


def constant(
    value: Any,
    positions: Positions,
    *,
    name: str,
    scalar: bool = True,
    per_class: bool = False,
    positive: bool = False,
    counts: bool = False,
) -> tuple[Known, Array]:
    """A hyper-parameter of a loss of logits, see `constant_for`."""
    classes, dtype = positions.classes, positions.dtype
    return constant_for(
        value, classes, dtype, name=name, scalar=scalar, per_class=per_class, positive=positive, counts=counts
    )


def constant_for(
    value: Any,
    classes: int,
    dtype: Any,
    *,
    name: str,
    scalar: bool = True,
    per_class: bool = False,
    positive: bool = False,
    counts: bool = False,
) -> tuple[Known, Array]:
    """A hyper-parameter without gradient, and its poison: 1, or NaN if a value is bad.

    One number (if `scalar`) or a vector with one entry for each class (if `per_class`), which may be `counts`. In
    float64 where it can be read, in `dtype`, the compute dtype, where it cannot.
    """
    one = jnp.ones((), dtype)
    known = read(value) if isinstance(value, Array) else value
    if isinstance(known, Array):
        check_constant_dtype(known.dtype.name, name)
    else:
        known = read_constant(known, name=name, positive=positive, counts=counts)
    if per_class:
        check_per_class(known.shape, classes, name=name, scalar=scalar)
    else:
        check_number(known.shape, name=name)
    if not isinstance(known, Array):
        return known, one
    known = lax.stop_gradient(known.astype(dtype))
    good = jnp.isfinite(known) & (known > 0 if positive or counts else known >= 0)
    if counts:
        good = good & are_counts(known, jnp.round(known))
    return known, factor_nan(~jnp.all(good), one)


def rounded(value: Known, positions: Positions) -> Array:
    """A constant in the compute dtype."""
    return jnp.asarray(cast(value, positions.dtype))


def over_classes(vector: Known, positions: Positions) -> Array:
    """A constant (a number or a vector over classes) for every logit, in the compute dtype."""
    return jnp.broadcast_to(rounded(vector, positions), positions.logits.shape)


def at_true_class(rows: Array, positions: Positions) -> Array:
    """What each row holds at its true class: a masked sum, whose gradient needs no scatter."""
    return positions.axis.total(jnp.sum(jnp.where(positions.true_class, rows, 0.0), axis=-1))


def over_axis(total: Array, axis_name: Any) -> Array:
    """The total over a mapped axis, where one is named."""
    return total if axis_name is None else lax.psum(total, axis_name)  # type: ignore[no-untyped-call]


def add_up(
    values: Array, weights: Array, counts: Array, reduction: str, axis_name: Any = None
) -> tuple[Array, Array | None]:
    """Numerator and denominator of a reduction, over a mapped axis too. Elements that do not count add exactly 0."""
    weighted = jnp.where(counts, weights * values, 0.0)
    if reduction == "none":
        return weighted, None
    numerator = over_axis(jnp.sum(weighted), axis_name)
    if reduction == "sum":
        return numerator, None
    if reduction == "active_mean":
        counts = counts & ((values > 0) | jnp.isnan(values))
    return numerator, over_axis(jnp.sum(jnp.where(counts, weights, 0.0)), axis_name)


def divide(numerator: Array, denominator: Array) -> Array:
    """The quotient, with 0/0 = 0."""
    empty = denominator == 0
    return jnp.where(empty, 0.0, numerator / jnp.where(empty, 1.0, denominator))
