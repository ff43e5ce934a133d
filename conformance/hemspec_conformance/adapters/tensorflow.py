"""TensorFlow: eager, tf.function, tf.function without static sizes, and tf.function under XLA."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

import hemspec.tensorflow
from hemspec_conformance.adapter import Call, Mode, Result

EAGER = Mode("eager")
GRAPH = Mode("graph", reads_values=False, coverage="first dtype")
UNKNOWN = Mode("graph-unknown-sizes", reads_values=False, static_shapes=False, coverage="core")
XLA = Mode("xla", reads_values=False, coverage="first dtype")


class TensorFlowAdapter:
    name = "tensorflow"
    modes = (EAGER, GRAPH, UNKNOWN, XLA)
    argument_names: Mapping[str, str] = {}
    lenient_labels = False

    def __init__(self) -> None:
        self.traced: dict[Any, Callable[..., Any]] = {}

    def versions(self) -> Mapping[str, str]:
        return {"tensorflow": tf.__version__}

    def run(self, call: Call, mode: Mode) -> Result:
        arrays = [tf.constant(call.logits), tf.constant(call.labels)]
        if call.sample_weight is not None:
            arrays.append(tf.constant(call.sample_weight))
        # In a graph the vectors are arguments, so their values are unknown while tracing; numbers are closed over.
        vectors = {k: tf.constant(v) for k, v in call.constants.items() if isinstance(v, np.ndarray)}
        numbers = {k: v for k, v in call.constants.items() if k not in vectors}
        fixed = {"axis": call.axis, "ignore_index": call.ignore_index, "reduction": call.reduction, **numbers}
        if mode is EAGER:
            value, gradient = evaluate(call.loss, fixed, arrays, vectors)
        else:
            value, gradient = self.graph(call.loss, fixed, arrays, vectors, mode)(arrays, vectors)
        return Result(value.numpy(), gradient.numpy())

    def graph(
        self, loss: str, fixed: dict[str, Any], arrays: list[Any], vectors: dict[str, Any], mode: Mode
    ) -> Callable[..., Any]:
        """A traced function; calls that differ in values alone share it, and in sizes where those are unknown."""

        def specification(tensor: Any) -> Any:
            shape = [None] * tensor.shape.rank if mode is UNKNOWN else tensor.shape
            return tf.TensorSpec(shape, tensor.dtype)

        signature = [
            [specification(tensor) for tensor in arrays],
            {name: specification(vector) for name, vector in vectors.items()},
        ]
        key = (mode.name, loss, repr(fixed), repr(signature))
        if key not in self.traced:
            self.traced[key] = tf.function(
                lambda arrays, vectors: evaluate(loss, fixed, arrays, vectors),
                input_signature=signature,
                jit_compile=mode is XLA,
            )
        return self.traced[key]


def evaluate(loss: str, fixed: dict[str, Any], arrays: list[Any], vectors: dict[str, Any]) -> tuple[Any, Any]:
    logits, labels, *weight = arrays
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = getattr(hemspec.tensorflow, loss)(
            logits, labels, sample_weight=weight[0] if weight else None, **fixed, **vectors
        )
        total = tf.reduce_sum(value)
    return value, tape.gradient(total, logits)


def make(target: str) -> TensorFlowAdapter:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return TensorFlowAdapter()
