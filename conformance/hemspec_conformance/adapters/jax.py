"""JAX: functions and dataclasses, op by op and under jit, with 64-bit numbers off and on.

Always under strict dtype promotion and with rank promotion an error: a loss that promotes silently fails here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hemspec.jax
from hemspec_conformance.adapter import LOSSES, Call, Mode, Result

NARROW = ("float32", "bfloat16", "float16")
EAGER = Mode("eager", NARROW, coverage="core")
CLASS = Mode("class", NARROW, coverage="core")
JIT = Mode("jit", NARROW, reads_values=False, coverage="first dtype")
JIT_X64 = Mode(
    "jit-x64", ("float64", "float32", "bfloat16"), reads_values=False, refusals=False, coverage="first dtype"
)


class JaxAdapter:
    name = "jax"
    modes = (EAGER, CLASS, JIT, JIT_X64)
    argument_names: Mapping[str, str] = {}
    lenient_labels = False

    def versions(self) -> Mapping[str, str]:
        return {"jax": jax.__version__, "device": jax.devices()[0].platform}

    def run(self, call: Call, mode: Mode) -> Result:
        with (
            jax.enable_x64(mode is JIT_X64),
            jax.numpy_dtype_promotion("strict"),
            jax.numpy_rank_promotion("raise"),
        ):
            return self.evaluate(call, mode)

    def evaluate(self, call: Call, mode: Mode) -> Result:
        options = {"axis": call.axis, "ignore_index": call.ignore_index, "reduction": call.reduction}
        jitted = mode in (JIT, JIT_X64)
        # Under jit the vectors are arguments, so their values are unknown while tracing; numbers are closed over.
        vectors = {k: v for k, v in call.constants.items() if isinstance(v, np.ndarray)}
        numbers = {k: v for k, v in call.constants.items() if k not in vectors}

        def total(logits: Any, labels: Any, weight: Any, vectors: Mapping[str, Any]) -> tuple[Any, Any]:
            value = self.loss(call.loss, mode, {**options, **numbers, **vectors})(logits, labels, sample_weight=weight)
            return jnp.sum(value), value

        evaluate: Callable[..., Any] = jax.value_and_grad(total, has_aux=True)
        logits = jnp.asarray(call.logits)
        if not jnp.issubdtype(logits.dtype, jnp.floating):  # jax.grad would refuse them before the loss can
            evaluate = total
        arguments: list[Any] = [logits, call.labels, call.sample_weight, vectors]
        if jitted:
            evaluate = jax.jit(evaluate)
            # Told explicitly, because NumPy's 64-bit arrays are not what a user of 32-bit JAX hands over.
            narrow = lambda array: jnp.asarray(array, jax.dtypes.canonicalize_dtype(array.dtype))  # noqa: E731
            arguments = jax.tree.map(narrow, arguments)
        (_, value), gradient = evaluate(*arguments)
        return Result(np.asarray(value), np.asarray(gradient))

    def loss(self, name: str, mode: Mode, options: dict[str, Any]) -> Callable[..., Any]:
        if mode is CLASS:
            instance: Callable[..., Any] = getattr(hemspec.jax, LOSSES[name])(**options)
            return instance
        function = getattr(hemspec.jax, name)
        return lambda *arguments, **weights: function(*arguments, **weights, **options)


def make(target: str) -> JaxAdapter:
    return JaxAdapter()
