"""In mixed precision digits are learned as well as in float32."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

pytest.importorskip("keras", reason="Keras is not installed")
pytest.importorskip(os.environ["KERAS_BACKEND"], reason="the backend that KERAS_BACKEND names is not installed")
datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
import keras

from hemspec.keras import HEMLoss

SEEDS = 4
POLICIES = ["mixed_bfloat16", *(["mixed_float16"] if os.environ["KERAS_BACKEND"] == "tensorflow" else [])]


def accuracies(policy: str) -> Any:
    """On the test digits, of small networks trained on the others, one for each seed."""
    x, y = datasets.load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(y))
    x, y = (x[order] / 16).astype(np.float32), y[order]
    drawn = rng.integers(0, 1200, 16_000)  # one long epoch, which takes less time than short ones
    reached = []

    def network() -> Any:
        return keras.Sequential([keras.Input((64,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(10)])

    keras.config.set_dtype_policy(policy)
    try:
        model = network()
        model.compile(keras.optimizers.SGD(0.05), loss=HEMLoss(), metrics=["accuracy"])
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (policy == "mixed_float16")
        for seed in range(SEEDS):  # one trace for all of them
            keras.utils.set_random_seed(seed)
            model.set_weights(network().get_weights())
            model.fit(x[drawn], y[drawn], batch_size=100, verbose=0)
            reached.append(model.evaluate(x[1200:], y[1200:], batch_size=600, verbose=0)[1])
    finally:
        keras.config.set_dtype_policy("float32")
    return np.array(reached)


@pytest.fixture(scope="module")
def in_float32() -> Any:
    return accuracies("float32")


@pytest.mark.parametrize("policy", POLICIES)
def test_digits(in_float32: Any, policy: str) -> None:
    """No further below on average than three standard errors of a difference of two means."""
    reached = accuracies(policy)
    noise = in_float32.std(ddof=1) * np.sqrt(2 / SEEDS)
    print(f"{policy}: {reached.mean():.4f}, float32: {in_float32.mean():.4f}, standard error: {noise:.4f}")
    assert in_float32.mean() > 0.85
    assert reached.mean() > in_float32.mean() - 3 * noise
