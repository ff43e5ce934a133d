"""TensorFlow: eager, tf.function with and without static sizes, under XLA, and mapped over examples."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

import hemspec.tensorflow
from hemspec_conformance.adapter import DERIVATIVES, LOSSES, Array, Call, Mode

name = "tensorflow"
spec_version = 1
losses = tuple(LOSSES)
derivatives = tuple(DERIVATIVES)

NO_GPU = "" if tf.config.list_physical_devices("GPU") else "TensorFlow finds no GPU"
EAGER = Mode("eager")
GRAPH = Mode("graph", dtypes=("float32", "float64", "bfloat16"), reads_values=False, coverage="brief")
UNKNOWN = Mode("graph", setting="unknown_sizes", reads_values=False, static_shapes=False, coverage="core")
XLA = Mode("xla", dtypes=("float32", "bfloat16"), reads_values=False, coverage="brief")
HUNTED = Mode("eager", setting="check_numerics", dtypes=("float32",), finite_only=True, refusals=False, coverage="core")
"""With ``tf.debugging.enable_check_numerics``, which stops at the first NaN or infinity."""
VMAP = Mode("vmap", dtypes=("float32",), reads_values=False, per_example=True, coverage="brief")
modes = (
    EAGER,
    Mode("eager", layout="channels_first"),
    Mode("eager", layout="channels_last"),
    Mode("eager", device="gpu", reads_values=False, skip=NO_GPU),
    HUNTED,
    VMAP,
    GRAPH,
    UNKNOWN,
    XLA,
)

tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)

traced: dict[Any, Callable[..., Any]] = {}


def versions() -> Mapping[str, str]:
    return {"tensorflow": tf.__version__}


def from_numpy(array: Array, mode: Mode) -> Any:
    with tf.device(mode.device):
        return tf.constant(array)


def to_numpy(tensor: Any) -> Array:
    array: Array = tensor.numpy()
    return array


def value_and_gradient(call: Call, mode: Mode) -> tuple[Any, Any]:
    return weighted(call, mode, None)


def gradient(call: Call, mode: Mode, upstream: Any) -> Any:
    return weighted(call, mode, upstream)[1]


def weighted(call: Call, mode: Mode, upstream: Any) -> tuple[Any, Any]:
    """The loss, and the gradient of its sum or of the sum that is weighted by `upstream`."""
    given = {"logits": call.logits, "labels": call.labels, "sample_weight": call.sample_weight, "upstream": upstream}
    arrays = {name: array for name, array in given.items() if array is not None}
    # In a graph the vectors are arguments, so their values are unknown while tracing; numbers are closed over.
    vectors = {k: tf.constant(v) for k, v in call.constants.items() if isinstance(v, np.ndarray)}
    fixed = {k: v for k, v in call.keywords.items() if k != "sample_weight" and k not in vectors}
    function = evaluate if mode.execution == "eager" else graph(call.loss, fixed, arrays, vectors, mode)
    with hunting() if mode is HUNTED else contextlib.nullcontext():
        value, gradient = function(call.loss, fixed, arrays, vectors)
    return tf.reduce_sum(value) if mode.per_example and call.reduction == "sum" else value, gradient


@contextlib.contextmanager
def hunting() -> Iterator[None]:
    tf.debugging.enable_check_numerics()
    try:
        yield
    finally:
        tf.debugging.disable_check_numerics()


def graph(
    loss: str, fixed: dict[str, Any], arrays: dict[str, Any], vectors: dict[str, Any], mode: Mode
) -> Callable[..., Any]:
    """A traced function; calls that differ in values alone share it, and in sizes where those are unknown."""

    def specification(tensor: Any) -> Any:
        return tf.TensorSpec([None] * tensor.shape.rank if mode is UNKNOWN else tensor.shape, tensor.dtype)

    signature = [{name: specification(tensor) for name, tensor in given.items()} for given in (arrays, vectors)]
    key = (mode.name, loss, repr(fixed), repr(signature))
    if key not in traced:
        body = per_example if mode.per_example else evaluate
        traced[key] = tf.function(
            lambda arrays, vectors: body(loss, fixed, arrays, vectors),
            input_signature=signature,
            jit_compile=mode is XLA,
        )
    return lambda loss, fixed, arrays, vectors: traced[key](arrays, vectors)


def evaluate(loss: str, fixed: dict[str, Any], arrays: dict[str, Any], vectors: dict[str, Any]) -> tuple[Any, Any]:
    logits = arrays["logits"]
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = getattr(hemspec.tensorflow, loss)(
            logits, arrays["labels"], sample_weight=arrays.get("sample_weight"), **fixed, **vectors
        )
    return value, tape.gradient(value, logits, output_gradients=arrays.get("upstream"))


def per_example(loss: str, fixed: dict[str, Any], arrays: dict[str, Any], vectors: dict[str, Any]) -> tuple[Any, Any]:
    """tf.vectorized_map over the batch; an example keeps a batch axis of 1, so that its class axis stays in place."""
    shared = {name: array for name, array in arrays.items() if not array.shape.rank}  # a scalar from above

    def one(example: dict[str, Any]) -> tuple[Any, Any]:
        batch = {name: array[tf.newaxis] for name, array in example.items()}
        value, gradient = evaluate(loss, fixed, {**batch, **shared}, vectors)
        return value[0] if value.shape.rank else value, gradient[0]

    examples = {name: array for name, array in arrays.items() if name not in shared}
    mapped: tuple[Any, Any] = tf.vectorized_map(one, examples, fallback_to_while_loop=False)
    return mapped


def derivative(kind: str, call: Call, mode: Mode, direction: Any) -> Any:
    """Reverse mode by nested tapes, forward mode by an accumulator."""

    def loss() -> Any:
        return getattr(hemspec.tensorflow, call.loss)(call.logits, call.labels, **call.keywords)

    def slope(power: int) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(call.logits)
            total = tf.reduce_sum(loss()) ** power
        return total, tape.gradient(total, call.logits)

    if kind == "batched":
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(call.logits)
            value = loss()
        return tf.vectorized_map(lambda upstream: tape.gradient(value, call.logits, upstream), direction)
    if kind in ("forward", "forward_over_reverse"):
        with tf.autodiff.ForwardAccumulator(call.logits, direction) as accumulator:
            value = loss() if kind == "forward" else slope(2)[1]
        return accumulator.jvp(value)
    with tf.GradientTape() as tape:
        tape.watch(call.logits)
        total, inner = slope(1 if kind == "nested" else 2)
        outer = tf.reduce_sum(inner * direction) + (total**2 if kind == "nested" else 0.0)
    return tape.gradient(outer, call.logits)
