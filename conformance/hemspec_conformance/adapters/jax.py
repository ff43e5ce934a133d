"""JAX: functions and dataclasses, op by op, under jit and mapped, with 64-bit numbers off and on.

Strict dtype promotion with rank promotion an error is the setting of most modes: a loss that promotes silently fails
there. Op by op, the promotion is JAX's usual one.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np

import hemspec.jax
from hemspec_conformance.adapter import DERIVATIVES, LOSSES, Array, Call, Mode

name = "jax"
spec_version = 1
losses = tuple(LOSSES)
derivatives = tuple(DERIVATIVES)

enable_x64: Any = vars(jax if "enable_x64" in vars(jax) else jax.experimental)["enable_x64"]  # until JAX 0.8
NARROW = ("float32", "bfloat16", "float16")
NO_GPU = "" if jax.default_backend() in ("gpu", "cuda") else "JAX finds no GPU"
EAGER = Mode("eager", dtypes=("float32",), coverage="core")
CLASS = Mode("class", dtypes=NARROW, setting="strict", reads_values=False, refusals=False, coverage="core")
JIT = Mode("jit", dtypes=NARROW, setting="strict", reads_values=False, coverage="first dtype")
X64 = Mode(
    "jit",
    setting="x64_strict",
    dtypes=("float64", "float32"),
    reads_values=False,
    refusals=False,
    coverage="core",
)
VMAP = Mode("vmap", dtypes=("float32",), setting="strict", reads_values=False, per_example=True, coverage="brief")
LINEAR = Mode(
    "linear",
    dtypes=("float32", "bfloat16"),
    setting="strict",
    reads_values=False,
    refusals=False,
    losses=("hem_loss",),
    infinities=False,
    coverage="brief",
)
"""The loss of a linear head whose logits are the vector's, in chunks of two positions."""
LAYOUTS = tuple(
    Mode("jit", dtypes=("float32",), layout=layout, setting="strict", reads_values=False)
    for layout in ("channels_first", "channels_last")
)
modes = (
    EAGER,
    CLASS,
    VMAP,
    Mode("jit", dtypes=NARROW, device="gpu", setting="strict", reads_values=False, coverage="first dtype", skip=NO_GPU),
    LINEAR,
    *LAYOUTS,
    X64,
    JIT,
)


def versions() -> Mapping[str, str]:
    return {"jax": jax.__version__, **({} if NO_GPU else {"device": jax.devices()[0].device_kind})}


def from_numpy(array: Array, mode: Mode) -> Any:
    # Told explicitly, because NumPy's 64-bit arrays are not what a user of 32-bit JAX hands over.
    with enable_x64("x64" in mode.setting):
        return jax.device_put(
            jnp.asarray(array, jax.dtypes.canonicalize_dtype(array.dtype)), jax.devices(mode.device)[0]
        )


def to_numpy(array: Any) -> Array:
    return np.asarray(array)


def value_and_gradient(call: Call, mode: Mode) -> tuple[Any, Any]:
    return weighted(call, mode, None)


def gradient(call: Call, mode: Mode, upstream: Any) -> Any:
    return weighted(call, mode, upstream)[1]


def weighted(call: Call, mode: Mode, upstream: Any) -> tuple[Any, Any]:
    """The loss, and the gradient of its sum or of the sum that is weighted by `upstream`."""
    with configured(mode):
        # Under jit the vectors are arguments, so their values are unknown while tracing; numbers are closed over.
        vectors = {k: v for k, v in call.constants.items() if isinstance(v, np.ndarray)}
        fixed = {k: v for k, v in call.keywords.items() if k != "sample_weight" and k not in vectors}
        if mode.execution == "linear" and call.loss in mode.losses:
            return of_linear_head(call, vectors, Options(fixed), upstream)
        differentiable = jnp.issubdtype(call.logits.dtype, jnp.floating)
        evaluate = evaluation(call.loss, mode, differentiable, Options(fixed))
        (_, value), gradient = evaluate(call.logits, call.labels, call.sample_weight, vectors, upstream)
        return jnp.sum(value) if mode.per_example and call.reduction == "sum" else value, gradient


@contextlib.contextmanager
def configured(mode: Mode) -> Iterator[None]:
    """What JAX is set to while the loss and its gradient are computed."""
    strict = "strict" in mode.setting
    with (
        enable_x64("x64" in mode.setting),
        jax.numpy_dtype_promotion("strict" if strict else "standard"),
        jax.numpy_rank_promotion("raise" if strict else "allow"),
    ):
        yield


def derivative(kind: str, call: Call, mode: Mode, direction: Any) -> Any:
    def loss(logits: Any) -> Any:
        return getattr(hemspec.jax, call.loss)(logits, call.labels, **call.keywords)

    def total(logits: Any) -> Any:
        return jnp.sum(loss(logits))

    def nested(logits: Any) -> Any:
        value, slope = jax.value_and_grad(total)(logits)
        return value**2 + jnp.sum(slope * direction)

    slope_of_square = jax.grad(lambda logits: total(logits) ** 2)
    with configured(mode):
        if kind == "batched":
            _, backward = jax.vjp(loss, call.logits)
            return jax.vmap(backward)(direction)[0]
        if kind == "nested":
            return jax.grad(nested)(call.logits)
        if kind == "second":
            return jax.grad(lambda logits: jnp.sum(slope_of_square(logits) * direction))(call.logits)
        return jax.jvp(loss if kind == "forward" else slope_of_square, (call.logits,), (direction,))[1]


class Options(dict[str, Any]):
    """Arguments that are fixed while tracing, compared by what they say (so that NaN is NaN)."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(repr(self))

    def __eq__(self, other: object) -> bool:
        return repr(self) == repr(other)


@functools.cache
def evaluation(loss: str, mode: Mode, differentiable: bool, fixed: Options) -> Callable[..., Any]:
    """``(sum, value), gradient`` as a function of the arrays. Calls that differ in those alone share their trace."""

    def total(logits: Any, labels: Any, weight: Any, vectors: Mapping[str, Any], upstream: Any) -> tuple[Any, Any]:
        if mode.execution == "class":
            value = getattr(hemspec.jax, LOSSES[loss])(**fixed, **vectors)(logits, labels, sample_weight=weight)
        else:
            value = getattr(hemspec.jax, loss)(logits, labels, sample_weight=weight, **fixed, **vectors)
        return weighted_sum(value, upstream), value

    # jax.grad would refuse integers before the loss can.
    evaluate: Callable[..., Any] = jax.value_and_grad(total, has_aux=True) if differentiable else total
    if mode.per_example:
        evaluate = of_each(evaluate)
    return evaluate if mode.reads_values else jax.jit(evaluate)


def weighted_sum(value: Any, upstream: Any) -> Any:
    return jnp.sum(value if upstream is None else value * upstream)


def of_linear_head(call: Call, vectors: Mapping[str, Any], fixed: Options, upstream: Any) -> tuple[Any, Any]:
    """Logits as a product with an identity, which is exact: of the features, or of the head where it is smaller.

    Their gradient is then that of the other factor.
    """
    logits = jnp.moveaxis(call.logits, call.axis, -1)
    *shape, classes = logits.shape
    rows = logits.reshape(call.labels.size, classes)
    if len(rows) < classes and bool(jnp.isfinite(rows).all()):
        features = jnp.eye(len(rows), dtype=rows.dtype).reshape(*shape, len(rows))
        value, gradient = linear_evaluation(1, fixed)(
            features, rows, call.labels, call.sample_weight, vectors, upstream
        )
    else:
        kernel = jnp.eye(classes, dtype=rows.dtype)
        value, gradient = linear_evaluation(0, fixed)(
            logits, kernel, call.labels, call.sample_weight, vectors, upstream
        )
    return value, jnp.moveaxis(gradient.reshape(logits.shape), -1, call.axis)


@functools.cache
def linear_evaluation(factor: int, fixed: Options) -> Callable[..., Any]:
    """``value, gradient`` in one of the factors, as a function of the arrays."""
    options = {name: value for name, value in fixed.items() if name != "axis"}

    def total(
        features: Any, kernel: Any, labels: Any, weight: Any, vectors: Mapping[str, Any], upstream: Any
    ) -> tuple[Any, Any]:
        value = hemspec.jax.linear_hem_loss(
            features, kernel, labels, sample_weight=weight, chunk_rows=2, **options, **vectors
        )
        return weighted_sum(value, upstream), value

    def evaluate(*arrays: Any) -> tuple[Any, Any]:
        (_, value), gradient = jax.value_and_grad(total, argnums=factor, has_aux=True)(*arrays)
        return value, gradient

    return jax.jit(evaluate)


def of_each(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    """The evaluation, mapped over the examples.

    Each gets a batch axis of 1, so that the class axis stays where it is.
    """

    def mapped(logits: Any, labels: Any, weight: Any, vectors: Mapping[str, Any], upstream: Any) -> Any:
        def one(example: Any) -> Any:
            logits, labels, weight, *own = jax.tree.map(lambda array: array[None], example)
            (total, value), gradient = evaluate(logits, labels, weight, vectors, own[0] if own else upstream)
            return (total, value[0] if value.ndim else value), gradient[0]

        by_example = upstream is not None and upstream.ndim
        return jax.vmap(one)((logits, labels, weight, *([upstream] if by_example else [])))

    return mapped
