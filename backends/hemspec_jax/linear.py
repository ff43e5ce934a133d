"""HEM of a linear head whose logits are never all there at once.

The threshold of a position needs all of its classes, so the rows are cut into chunks, not the classes. Forward computes
the logits of a chunk and keeps of each logit one bit, whether its error is kept: the gradient in the logits is one
number for each row where the bit is set, another at the true class, and 0 elsewhere. Backward writes the gradient of a
chunk from its bits and multiplies it with the kernel, then that of all rows and a few classes and multiplies it with
the features. So there are three products, as without chunks, and each entry of a result is a single sum.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from hemspec.advice import OF_A_HEAD
from hemspec.arguments import (
    MARGIN_REDUCTIONS,
    MarginReduction,
    check_head,
    check_labels,
    check_reduction,
    read_chunk_rows,
)
from hemspec.loss_function import loss_function
from hemspec_jax.class_axis import ClassAxis, known_sharding, look_up
from hemspec_jax.positions import (
    add_up,
    cast,
    check_array,
    check_axis_name,
    check_class_axis_name,
    constant_for,
    divide,
    targets_for,
)

__all__ = ["linear_hem_loss"]


@loss_function(divide)
def linear_hem_loss(
    features: Any,
    kernel: Any,
    labels: Any,
    *,
    bias: Any = None,
    margin: Any = 1.0,
    sample_weight: Any = None,
    where: Any = None,
    ignore_index: int | None = -100,
    reduction: MarginReduction = "active_mean",
    axis_name: Any = None,
    class_axis_name: Any = None,
    chunk_rows: int | None = None,
) -> tuple[Array, Array | None]:
    """HEM loss of a linear head, ``hem_loss(features @ kernel + bias, labels)``, in little memory.

    The logits are computed a chunk of positions at a time and not kept; from forward to backward there is one bit for
    each. Differentiable in features, kernel and bias, in reverse mode, once.

    float16 and bfloat16: the logits are float32, not rounded to the dtype of the factors as ``features @ kernel`` is.
    The gradient in the logits is rounded to the dtype of the factors, as without chunks, and so is each result.

    Args:
        features: floating point, shape ``(..., D)``.
        kernel: of the head, shape ``(D, C)``, C >= 2: as Flax's ``Dense`` has it, the transpose of an embedding.
        labels: integers in [0, C), shape ``(...)``.
        bias: of the head, shape ``(C,)``, or None.
        margin, sample_weight, where, ignore_index, reduction, axis_name: as in `hem_loss`. The features of a position
            that does not exist are not looked at.
        class_axis_name: as in `hem_loss`. Kernel and bias are then one shard's of the classes, the features of all.
            With several devices use ``shard_map``: from arrays that are merely sharded under ``jit`` a compiler gathers
            features to cut them into chunks (logits never), and types with a sharding are refused.
        chunk_rows: positions in a chunk. None: a thirty-second of them, within 32 to 256 MB of float32 logits.

    Returns:
        The loss, float64 for float64 features, else float32. 0, not NaN, where there is nothing to average. Also
        ``linear_hem_loss.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> features, kernel = jnp.array([[1.0, 0.5]]), jnp.array([[1.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
        >>> float(linear_hem_loss(features, kernel, jnp.array([0])))  # the logits are 1, 1.5 and 0
        1.5
        >>> jax.grad(linear_hem_loss, argnums=1)(features, kernel, jnp.array([0])).tolist()
        [[-1.0, 1.0, 0.0], [-0.5, 0.5, 0.0]]
    """
    check_reduction(reduction, MARGIN_REDUCTIONS)
    check_axis_name(axis_name, reduction)
    check_class_axis_name(class_axis_name, axis_name)
    check_array(features, name="features")
    check_array(kernel, name="kernel")
    check_array(labels, name="labels")
    if bias is not None:
        check_array(bias, name="bias", optional=True)
    check_not_sharded(features=features, kernel=kernel, bias=bias, labels=labels)
    class_axis = ClassAxis(1, class_axis_name)
    of_kernel = class_axis.whole(kernel.shape)
    check_head(
        (features.shape, features.dtype.name),
        (of_kernel, kernel.dtype.name),
        None if bias is None else (ClassAxis(0, class_axis_name).whole(bias.shape), bias.dtype.name),
        class_axis=1,
        names=("features", "kernel", "bias"),
    )
    classes, shape = of_kernel[1], (*features.shape[:-1], of_kernel[1])
    check_labels(labels.shape, labels.dtype.name, shape, len(shape) - 1, logits_name=OF_A_HEAD)
    rows = read_chunk_rows(chunk_rows, labels.size, kernel.shape[1])
    x, kernel = jnp.asarray(features), jnp.asarray(kernel)
    targets = targets_for(labels, classes, x.dtype, sample_weight=sample_weight, where=where, ignore_index=ignore_index)
    compute = targets.weights.dtype
    margins, poison = constant_for(margin, classes, compute, name="margin", per_class=True)
    margins = look_up(jnp.broadcast_to(jnp.asarray(cast(margins, compute)), (classes,)), targets.labels)
    x = jnp.where(jnp.expand_dims(targets.valid, -1), x, jnp.zeros((), x.dtype))
    rest = [array.reshape(-1) for array in (targets.labels, margins, targets.poison * poison, targets.valid)]
    bias = None if bias is None else jnp.asarray(bias)
    arguments = varying_alike(x.reshape(labels.size, x.shape[-1]), kernel, bias, *rest)
    values = class_axis.total(head_values(rows, class_axis, *arguments))
    return add_up(values.reshape(labels.shape), targets.weights, targets.valid, reduction, axis_name)


def check_not_sharded(**arrays: Any) -> None:
    """Of an array whose type says that its rows or classes are apart no chunk can be cut."""
    for name, array in arrays.items():
        sharding = known_sharding(array) if isinstance(array, Array) else None
        if sharding is not None:
            raise ValueError(
                f"{name} must be whole, or a shard inside jax.shard_map (with axis_name or class_axis_name);"
                f" got one sharded as {sharding.spec}"
            )


def varying_axes(array: Array) -> frozenset[Any]:
    """The mapped axes over which an array in a `shard_map` may differ."""
    kind: Any = jax.typeof(array)
    if hasattr(kind, "manual_axis_type"):
        return frozenset(kind.manual_axis_type.varying)
    return frozenset(getattr(kind, "vma", ()))  # until JAX 0.9


def varying_alike(*arrays: Array | None) -> list[Any]:
    """Of a type that varies over the same mapped axes: JAX demands of a gradient of ours the type of its argument.

    What all shards share is made to differ, by a cast whose own gradient adds up over the shards.
    """
    axes = [frozenset() if array is None else varying_axes(array) for array in arrays]
    every: frozenset[Any] = frozenset().union(*axes)

    def cast_to(array: Array | None, own: frozenset[Any]) -> Array | None:
        if array is None or own == every:
            return array
        missing, library = tuple(every - own), vars(lax)
        varying = functools.partial(library["pcast"], to="varying") if "pcast" in library else library["pvary"]
        widened: Array = varying(array, missing)
        return widened

    return [cast_to(array, own) for array, own in zip(arrays, axes, strict=True)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def head_values(
    rows: int,
    axis: ClassAxis,
    x: Array,
    kernel: Array,
    bias: Array | None,
    labels: Array,
    margins: Array,
    factor: Array,
    valid: Array,
) -> Array:
    """The loss of each position, NaN where `factor` is; of a shard of the classes, its part of the loss.

    `valid`: which ones have a gradient.
    """
    values: Array = measure(x, kernel, bias, labels, margins, factor, rows=rows, axis=axis, keep=False)[0]
    return values


def forward(
    rows: int,
    axis: ClassAxis,
    x: Array,
    kernel: Array,
    bias: Array | None,
    labels: Array,
    margins: Array,
    factor: Array,
    valid: Array,
) -> tuple[Array, Any]:
    values, count, bits = measure(x, kernel, bias, labels, margins, factor, rows=rows, axis=axis, keep=True)
    return values, (x, kernel, bias, labels, valid, axis.total(values), count, bits)


def backward(rows: int, axis: ClassAxis, kept: Any, upstream: Array) -> tuple[Array | None, ...]:
    x, kernel, bias, labels, valid, values, count, bits = kept
    labels = axis.local(labels, kernel.shape[1])
    found = differentiate(x, kernel, bias, labels, valid, values, count, bits, upstream, rows=rows)
    return *found, None, None, None, None


head_values.defvjp(forward, backward)


def in_chunks(array: Array, rows: int) -> Array:
    """Cut along the first axis, the last chunk filled up with zeros."""
    chunks = -(-len(array) // rows)
    filled = jnp.pad(array, [(0, chunks * rows - len(array))] + [(0, 0)] * (array.ndim - 1))
    return filled.reshape(chunks, rows, *array.shape[1:])


def joined(chunks: Array, positions: int) -> Array:
    return chunks.reshape(chunks.shape[0] * chunks.shape[1], *chunks.shape[2:])[:positions]


@functools.partial(jax.jit, static_argnames=("rows", "axis", "keep"))
def measure(
    x: Array,
    kernel: Array,
    bias: Array | None,
    labels: Array,
    margins: Array,
    factor: Array,
    *,
    rows: int,
    axis: ClassAxis,
    keep: bool,
) -> tuple[Array, Array, Array]:
    """The loss of each position, how many errors are kept, and which, as bits if they are to be kept.

    Loss and bits are of the classes here, the number is of all.
    """
    classes, compute = kernel.shape[1], factor.dtype
    width = -(-classes // 8)

    def one(chunk: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, y, m = chunk
        z = jnp.matmul(x, kernel, preferred_element_type=compute)
        z = z if bias is None else z + jnp.expand_dims(bias.astype(compute), 0)
        y = axis.local(y, classes)
        errors = (z - jnp.expand_dims(axis.at(z, y), -1)) + jnp.expand_dims(m, -1)
        errors = jnp.where(axis.holds(z, y), 0.0, jnp.maximum(errors, 0.0))
        kept = kept_errors(errors, axis)
        count = axis.total(jnp.sum(kept, axis=-1, dtype=compute))
        total = jnp.sum(jnp.where(kept, errors, 0.0), axis=-1)
        if not keep:
            return total, count, jnp.zeros((rows, 0), jnp.uint8)
        # Bit k of byte b is class k * width + b: neighbours in memory stay neighbours.
        planes = jnp.pad(kept, ((0, 0), (0, 8 * width - classes))).reshape(rows, 8, width).astype(jnp.uint8)
        return total, count, jnp.sum(planes << shifts(), axis=1, dtype=jnp.uint8)

    found = lax.map(one, (in_chunks(x, rows), in_chunks(labels, rows), in_chunks(margins, rows)))
    total, count, bits = (joined(chunks, len(x)) for chunks in found)
    return total / jnp.maximum(count, 1.0) * factor, count, bits


def kept_errors(errors: Array, axis: ClassAxis) -> Array:
    """K as a mask: the errors that are not below the mean error. A NaN is never lost."""
    largest = jnp.expand_dims(axis.largest(jnp.max(errors, axis=-1)), -1)
    shortfall = largest - errors
    total = jnp.expand_dims(axis.total(jnp.sum(shortfall, axis=-1)), -1)
    high = axis.whole(errors.shape)[axis.dim] * shortfall <= total
    high = jnp.where(~jnp.isfinite(largest), errors == largest, high)
    return (high & (errors > 0)) | jnp.isnan(errors)


def shifts() -> Array:
    return jnp.arange(8, dtype=jnp.uint8).reshape(1, 8, 1)


@functools.partial(jax.jit, static_argnames=("rows",))
def differentiate(
    x: Array,
    kernel: Array,
    bias: Array | None,
    labels: Array,
    valid: Array,
    values: Array,
    count: Array,
    bits: Array,
    upstream: Array,
    *,
    rows: int,
) -> tuple[Array, Array, Array | None]:
    """The gradient in features, kernel and bias."""
    (positions, width), (depth, classes) = bits.shape, kernel.shape
    # Multiplied with: a NaN reaches every class.
    slope = jnp.where(jnp.isnan(values), values, upstream)
    share = jnp.where(valid, slope / jnp.maximum(count, 1.0), 0.0).astype(x.dtype)
    true = jnp.where(valid, jnp.where(count > 0, -slope, slope * 0.0), 0.0).astype(x.dtype)

    def gradient(set_bits: Array, columns: Array, y: Array, share: Array, true: Array) -> Array:
        """In the logits: the true class has no bit."""
        at_true = jnp.expand_dims(columns, 0) == jnp.expand_dims(y, -1)
        return jnp.where(at_true, jnp.expand_dims(true, -1), set_bits.astype(x.dtype) * jnp.expand_dims(share, -1))

    def of_rows(chunk: tuple[Array, Array, Array, Array]) -> Array:
        bits, *constants = chunk
        planes = (jnp.expand_dims(bits, 1) >> shifts()) & jnp.ones((), jnp.uint8)
        set_bits = planes.reshape(rows, 8 * width)[:, :classes]
        g = gradient(set_bits, jnp.arange(classes, dtype=labels.dtype), *constants)
        return jnp.matmul(g, kernel.T, preferred_element_type=x.dtype)

    of_x = joined(lax.map(of_rows, tuple(in_chunks(array, rows) for array in (bits, labels, share, true))), positions)

    # Columns of one plane at a time; the last ones of a plane overlap those before.
    step = min(width, max(1, rows * classes // max(1, positions)))
    blocks = -(-width // step)

    def of_columns(i: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        i = jnp.asarray(i)  # JAX counts in Python where it does not compile
        plane, start = i // blocks, jnp.minimum(i % blocks * step, width - step)
        set_bits = (lax.dynamic_slice_in_dim(bits, start, step, 1) >> plane.astype(jnp.uint8)) & jnp.ones((), jnp.uint8)
        first = plane * width + start
        columns = (first + jnp.arange(step, dtype=first.dtype)).astype(labels.dtype)
        g = gradient(set_bits, columns, labels, share, true)
        of_kernel = jnp.matmul(x.T, g, preferred_element_type=x.dtype)
        of_bias = jnp.sum(g, axis=0, dtype=values.dtype)
        return (
            lax.dynamic_update_slice_in_dim(found[0], of_kernel, first, 1),
            lax.dynamic_update_slice_in_dim(found[1], of_bias, first, 0),
        )

    # An integer 0 that varies over a mapped axis as the bits do: so has to do what the loop begins with.
    zero = jnp.sum(bits, dtype=bits.dtype) * jnp.zeros((), bits.dtype)
    empty = jnp.full((depth, 8 * width), zero.astype(x.dtype)), jnp.full(8 * width, zero.astype(values.dtype))
    of_kernel, of_bias = lax.fori_loop(0, 8 * blocks, of_columns, empty)
    return of_x, of_kernel[:, :classes], None if bias is None else of_bias[:classes].astype(bias.dtype)
