"""How the TensorFlow tests call a loss: eagerly, traced, under XLA, with and without sizes known while tracing."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

TRACED_MODES = ("graph", "xla", "graph, sizes unknown", "xla, sizes unknown")


class CannotBeRead(logging.Handler):
    """Fails the test in which AutoGraph warns that it cannot transform a function: it does so once in a process.

    Else everybody's first `tf.function` with a loss begins with that warning.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if "AutoGraph could not transform" in record.getMessage():
            raise AssertionError(record.getMessage())


logging.getLogger("tensorflow").addHandler(CannotBeRead())


@pytest.fixture(params=TRACED_MODES)
def traced_mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def evaluate() -> Callable[..., Any]:
    """``evaluate(loss, mode, logits, labels, reductions, sample_weight=...)``: a value and a gradient per reduction.

    Gradients are those of the sum of the values. All reductions go into one trace, which is what takes the time.
    """
    tf = pytest.importorskip("tensorflow")

    def evaluate(
        loss: Any, mode: str, logits: Any, labels: Any, reductions: Any, *, sample_weight: Any = None, **options: Any
    ) -> list[tuple[Any, Any]]:
        def all_reductions(logits: Any, labels: Any, sample_weight: Any = None) -> Any:
            results = []
            for reduction in reductions:
                with tf.GradientTape() as tape:
                    tape.watch(logits)
                    value = loss(logits, labels, sample_weight=sample_weight, reduction=reduction, **options)
                gradient = tape.gradient(value, logits)
                assert isinstance(gradient, tf.Tensor)  # dense, not tf.IndexedSlices
                results.append((value, gradient))
            return results

        arguments = [tf.constant(x) for x in (logits, labels, sample_weight) if x is not None]
        function = all_reductions
        if mode != "eager":
            unknown = mode.endswith("unknown")
            signature = [tf.TensorSpec([None] * len(x.shape) if unknown else x.shape, x.dtype) for x in arguments]
            function = tf.function(all_reductions, input_signature=signature, jit_compile=mode.startswith("xla"))
        return [(value.numpy(), gradient.numpy()) for value, gradient in function(*arguments)]

    return evaluate


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20250122)
