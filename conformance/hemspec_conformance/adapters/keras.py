"""Keras 3 on the framework that KERAS_BACKEND names: its loss classes, called eagerly and inside a traced step."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

import hemspec.keras
from hemspec_conformance.adapter import DTYPES, LOSSES, Array, Call, Mode

FRAMEWORK = keras.backend.backend()
name = f"keras-{FRAMEWORK}"
spec_version = 1
losses = tuple(LOSSES)
argument_names = {"logits": "y_pred", "labels": "y_true", "ignore_index": "ignore_class"}
label_forms = ("ids", "column", "one_hot", "float")

# JAX without 64-bit mode has no float64, and compiles every operation it meets; Keras does not compile on PyTorch.
ON_JAX = FRAMEWORK == "jax"
EAGER = Mode("eager", dtypes=("float32", "float16") if ON_JAX else DTYPES, coverage="core" if ON_JAX else "all")
TRACED = Mode("traced", dtypes=("float32", "bfloat16"), reads_values=False, coverage="brief")
POLICIES = tuple(
    Mode("eager", setting=policy, dtypes=(half, "float32"), refusals=False, coverage="core")
    for policy, half in (("mixed_float16", "float16"), ("mixed_bfloat16", "bfloat16"))
)
LAYOUT = TRACED if ON_JAX else EAGER
LAYOUTS = tuple(
    Mode(LAYOUT.execution, dtypes=("float32",), layout=layout, reads_values=LAYOUT.reads_values)
    for layout in ("channels_first", "channels_last")
)
modes = (EAGER, *POLICIES, *LAYOUTS, *(() if FRAMEWORK == "torch" else (TRACED,)))

Step = Callable[[Any, Any, Any, Any], tuple[Any, Any]]
"""The value and gradient of a loss as a function of logits, labels, weight and what comes from above, if not ones."""
steps: dict[Any, Step] = {}
"""By loss, options and mode: calls that differ in their arrays alone share a trace."""


def versions() -> Mapping[str, str]:
    return {"keras": keras.__version__, FRAMEWORK: importlib.import_module(FRAMEWORK).__version__}


def value_and_gradient(call: Call, mode: Mode) -> tuple[Any, Any]:
    return step_of(call, mode)(call.logits, call.labels, call.sample_weight, None)


def gradient(call: Call, mode: Mode, upstream: Any) -> Any:
    return step_of(call, mode)(call.logits, call.labels, call.sample_weight, upstream)[1]


def step_of(call: Call, mode: Mode) -> Step:
    # Keras ignores no class unless it is told to, so that one is never left out.
    options = {k: v for k, v in call.keywords.items() if k not in ("sample_weight", "ignore_index")}
    options["ignore_class"] = call.ignore_index
    said = repr({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in options.items()})
    key = (call.loss, said, mode)
    if key not in steps:
        usual = keras.config.dtype_policy()
        keras.config.set_dtype_policy(mode.setting or usual)
        try:
            loss = getattr(hemspec.keras, LOSSES[call.loss])(**options)
        finally:
            keras.config.set_dtype_policy(usual)
        steps[key] = globals()[f"{FRAMEWORK}_step"](loss, mode.execution == "traced")
    return steps[key]


def from_numpy(array: Array, mode: Mode) -> Any:
    if FRAMEWORK == "tensorflow":
        return importlib.import_module("tensorflow").constant(array)
    if FRAMEWORK == "torch":
        return importlib.import_module("hemspec_conformance.adapters.torch").from_numpy(array, mode)
    jax = importlib.import_module("jax")
    return jax.numpy.asarray(array, jax.dtypes.canonicalize_dtype(array.dtype))


def to_numpy(array: Any) -> Array:
    if FRAMEWORK == "torch":
        back: Array = importlib.import_module("hemspec_conformance.adapters.torch").to_numpy(array)
        return back
    return np.asarray(array.numpy() if FRAMEWORK == "tensorflow" else array)


def tensorflow_step(loss: Any, traced: bool) -> Step:
    import tensorflow as tf

    def step(logits: Any, labels: Any, weight: Any, upstream: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(labels, logits, sample_weight=weight)
        return value, tape.gradient(value, logits, output_gradients=upstream)

    return tf.function(step) if traced else step


def jax_step(loss: Any, traced: bool) -> Step:
    import jax
    import jax.numpy as jnp

    def step(logits: Any, labels: Any, weight: Any, upstream: Any) -> tuple[Any, Any]:
        def total(logits: Any) -> tuple[Any, Any]:
            value = loss(labels, logits, sample_weight=weight)
            return jnp.sum(value if upstream is None else value * upstream), value

        # jax.grad would refuse integers before the loss can.
        differentiable = jnp.issubdtype(logits.dtype, jnp.floating)
        (_, value), gradient = (jax.value_and_grad(total, has_aux=True) if differentiable else total)(logits)
        return value, gradient

    return jax.jit(step) if traced else step


def torch_step(loss: Any, traced: bool) -> Step:
    import torch

    def step(logits: Any, labels: Any, weight: Any, upstream: Any) -> tuple[Any, Any]:
        if logits.is_floating_point():
            logits.requires_grad_()
        value = loss(labels, logits, sample_weight=weight)
        value.backward(torch.ones_like(value) if upstream is None else upstream)
        return value, logits.grad

    return step
