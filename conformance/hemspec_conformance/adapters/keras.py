"""Keras 3 on the framework that the target names: its loss classes, called eagerly and inside a traced step."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hemspec_conformance.adapter import DTYPES, LOSSES, Call, Mode, Result


class KerasAdapter:
    argument_names: Mapping[str, str] = {"logits": "y_pred", "labels": "y_true", "ignore_index": "ignore_class"}
    lenient_labels = True

    def __init__(self, framework: str) -> None:
        os.environ["KERAS_BACKEND"] = framework
        import keras

        if keras.backend.backend() != framework:
            raise RuntimeError(f"Keras runs on {keras.backend.backend()} in this process already, not on {framework}")
        self.name = f"keras-{framework}"
        self.framework = framework
        # JAX without 64-bit mode has no float64; Keras does not compile on PyTorch.
        dtypes: Sequence[str] = ("float32", "bfloat16", "float16") if framework == "jax" else DTYPES
        self.eager = Mode("eager", dtypes, coverage="core" if framework == "jax" else "all")
        self.traced = Mode("traced", dtypes, reads_values=False, coverage="first dtype")
        self.modes = (self.eager,) if framework == "torch" else (self.eager, self.traced)

    def versions(self) -> Mapping[str, str]:
        import importlib

        import keras

        return {"keras": keras.__version__, self.framework: importlib.import_module(self.framework).__version__}

    def run(self, call: Call, mode: Mode) -> Result:
        import hemspec.keras

        loss = getattr(hemspec.keras, LOSSES[call.loss])(
            axis=call.axis, ignore_class=call.ignore_index, reduction=call.reduction, **call.constants
        )
        steps = {"tensorflow": tensorflow_step, "jax": jax_step, "torch": torch_step}
        return steps[self.framework](loss, call, mode is self.traced)


def tensorflow_step(loss: Any, call: Call, traced: bool) -> Result:
    import tensorflow as tf

    def step(logits: Any, labels: Any, weight: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(labels, logits, sample_weight=weight)
        return value, tape.gradient(value, logits)

    weight = None if call.sample_weight is None else tf.constant(call.sample_weight)
    value, gradient = (tf.function(step) if traced else step)(
        tf.constant(call.logits), tf.constant(call.labels), weight
    )
    return Result(value.numpy(), gradient.numpy())


def jax_step(loss: Any, call: Call, traced: bool) -> Result:
    import jax
    import jax.numpy as jnp

    def total(logits: Any, labels: Any, weight: Any) -> tuple[Any, Any]:
        value = loss(labels, logits, sample_weight=weight)
        return jnp.sum(value), value

    def narrow(array: Any) -> Any:
        return jnp.asarray(array, jax.dtypes.canonicalize_dtype(array.dtype))

    step: Any = jax.value_and_grad(total, has_aux=True)
    if not jnp.issubdtype(call.logits.dtype, jnp.floating):  # jax.grad would refuse them before the loss can
        step = total
    arguments = jax.tree.map(narrow, (call.logits, call.labels, call.sample_weight))
    (_, value), gradient = (jax.jit(step) if traced else step)(*arguments)
    return Result(np.asarray(value), np.asarray(gradient))


def torch_step(loss: Any, call: Call, traced: bool) -> Result:
    from hemspec_conformance.adapters.torch import to_array, to_tensor

    logits = to_tensor(call.logits)
    if logits.is_floating_point():
        logits.requires_grad_()
    weight = None if call.sample_weight is None else to_tensor(call.sample_weight)
    value = loss(to_tensor(call.labels), logits, sample_weight=weight)
    value.sum().backward()
    assert logits.grad is not None
    return Result(to_array(value), to_array(logits.grad))


def make(target: str) -> KerasAdapter:
    return KerasAdapter(target.removeprefix("keras-"))
