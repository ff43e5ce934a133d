"""A step of several devices is the step of one on the whole batch: ``tf.distribute``, ``keras.distribution``."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest

import hemspec

pytest.importorskip("keras", reason="Keras is not installed")
pytest.importorskip(os.environ["KERAS_BACKEND"], reason="the backend that KERAS_BACKEND names is not installed")
if os.environ["KERAS_BACKEND"] == "torch":
    pytest.skip("Keras distributes on TensorFlow and JAX; see test_torch_processes.py", allow_module_level=True)
import keras

from hemspec.keras import (
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    HEMLoss,
    LogitAdjustedLoss,
    LogitNormLoss,
    MultiMarginLoss,
    accumulate_gradients,
)

BACKEND = keras.backend.backend()
CLASSES, IGNORED = 4, 2
LOSSES: dict[str, Any] = {
    "hem": HEMLoss(margin=[0.5, 1.0, 2.0, 1.5], ignore_class=IGNORED),
    "hem_sum": HEMLoss(ignore_class=IGNORED, reduction="sum"),
    "multi_margin": MultiMarginLoss(margin=0.5, ignore_class=IGNORED),
    "cross_entropy": CrossEntropyLoss(ignore_class=IGNORED, reduction="sum_over_batch_size"),
    "focal": FocalLoss(gamma=1, alpha=[1.0, 2.0, 3.0, 0.5], ignore_class=IGNORED),
    "logit_norm": LogitNormLoss(temperature=0.5, ignore_class=IGNORED, reduction="mean_with_sample_weight"),
    "logit_adjusted": LogitAdjustedLoss(class_counts=[4, 3, 2, 1], ignore_class=IGNORED),
    "dice": DiceLoss(smooth=0.5, ignore_class=IGNORED),
    "dice_batch": DiceLoss(batch=True, ignore_class=IGNORED),
}
"""One model has an output for each: it is tracing that takes the time."""


def data_parallel() -> Any:
    return keras.distribution.DataParallel(devices=keras.distribution.list_devices("cpu")[:2])


def classes_sharded() -> Any:
    """Two devices for the batch, times two that have half of the classes each."""
    mesh = keras.distribution.DeviceMesh((2, 2), ["batch", "model"], keras.distribution.list_devices("cpu")[:4])
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*kernel"] = (None, "model")
    layout[".*bias"] = ("model",)
    return keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")


DISTRIBUTIONS: dict[str, Any] = {"data parallel": data_parallel, "classes sharded": classes_sharded}
if BACKEND == "tensorflow":
    DISTRIBUTIONS = {"mirrored": None}
# The sizes of JAX's shards are equal: Keras refuses a batch that does not divide.
SIZES = {"uneven": 13, "a replica without samples": 9} if BACKEND == "tensorflow" else {}
CASES = [*SIZES, "weights", "a replica with nothing active", "a replica with nothing valid", "a replica of weight 0"]


def model_of(losses: dict[str, Any], **options: Any) -> Any:
    inputs = keras.Input((2, 4))
    seen = keras.layers.Masking()(inputs)
    kernel = keras.initializers.RandomNormal(seed=1, stddev=1.0)
    outputs = {name: keras.layers.Dense(CLASSES, kernel_initializer=kernel, name=name)(seen) for name in losses}
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(1.0), loss=losses, **options)
    return model


@pytest.fixture(scope="module")
def alone() -> tuple[Any, Any]:
    """The model on one device, where `fit` also does two steps at a time; and the weights it starts from."""
    model = model_of(LOSSES, steps_per_execution=2)
    return model, model.get_weights()


@pytest.fixture(scope="module", params=DISTRIBUTIONS)
def distribution(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("mirrored") if BACKEND == "tensorflow" else DISTRIBUTIONS[request.param]()


@pytest.fixture(scope="module")
def shared(distribution: Any) -> tuple[Any, Any]:
    """The model on several, and what `fit` has to be called in."""
    with distribution.scope():
        return model_of(LOSSES), distribution.scope if BACKEND == "jax" else nullcontext


def example(rng: np.random.Generator, case: str, alone: Any) -> tuple[Any, Any, Any]:
    n = SIZES.get(case, 8)
    x, labels = rng.normal(size=(n, 2, 4)).astype(np.float32), rng.integers(0, CLASSES, (n, 2))
    x[1, 1] = 0.0  # masked
    weight = rng.uniform(0.5, 2.0, n).astype(np.float32)
    second = np.arange(n) >= n // 2  # half of the batch, the second replica's
    if case.endswith("valid"):
        labels[second] = IGNORED
    if case.endswith("weight 0"):
        weight[second] = 0
    y = dict.fromkeys(LOSSES, labels)
    if case.endswith("active"):
        x[second] *= 100
        scores = alone.predict(x, verbose=0)
        y = {name: np.where(second[:, None], z.argmax(-1), labels) for name, z in scores.items()}
    return x, y, weight


@pytest.mark.parametrize("case", CASES)
def test_fit(rng: np.random.Generator, alone: Any, shared: Any, case: str) -> None:
    (single, start), (several, scope) = alone, shared
    single.set_weights(start)
    x, y, weight = example(rng, case, single)

    def fit(model: Any, scope: Any) -> tuple[Any, Any]:
        inside: AbstractContextManager[Any] = scope()
        with inside:
            model.set_weights(start)
            log = model.fit(x, y, sample_weight=weight, batch_size=8, shuffle=False, verbose=0).history
            steps = [after - before for before, after in zip(start, model.get_weights(), strict=True)]
        return steps, [log[f"{name}_loss"][0] for name in LOSSES]

    (expected, expected_log), (steps, log) = fit(single, nullcontext), fit(several, scope)
    assert all(np.abs(step).max() > 1e-3 for step in expected)
    np.testing.assert_allclose(log, expected_log, rtol=1e-5)
    for step, right in zip(steps, expected, strict=True):
        np.testing.assert_allclose(step, right, rtol=1e-5, atol=1e-6)


def test_micro_batches(rng: np.random.Generator, distribution: Any) -> None:
    """On several devices they are parts of each device's part."""
    n = 13 if BACKEND == "tensorflow" else 16  # uneven where that can be
    x, y = rng.normal(size=(n, 4)).astype(np.float32), rng.integers(0, CLASSES, n)
    x[4:8] *= 10  # the second device has larger errors, of other positions
    loss = HEMLoss(ignore_class=IGNORED)

    def model() -> Any:
        kernel = keras.initializers.RandomNormal(seed=1, stddev=1.0)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(CLASSES, kernel_initializer=kernel)])
        model.compile(keras.optimizers.SGD(1.0), loss=loss)
        return model

    def fit(model: Any) -> tuple[Any, Any]:
        log = model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
        return log.history["loss"], model.get_weights()

    expected, right = fit(model())
    with distribution.scope():
        log, weights = fit(accumulate_gradients(model(), 2))
    np.testing.assert_allclose(log, expected, rtol=1e-5)
    for got, wanted in zip(weights, right, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="elsewhere a loop sees the whole batch")
@pytest.mark.parametrize("reduction", ["active_mean", "sum"])
def test_custom_loop(rng: np.random.Generator, mirrored: Any, reduction: str) -> None:
    """Each replica's loss is its share of the whole one: values and gradients add up."""
    import tensorflow as tf

    z, y = rng.normal(size=(6, 5)).astype(np.float32), rng.integers(0, 5, 6)
    z[range(3, 6), y[3:]] = 9.0  # the second has nothing active
    strategy, loss = mirrored, HEMLoss(reduction=reduction)

    def of_replica(array: Any) -> Any:
        def rows(context: Any) -> Any:
            return tf.constant(array[3 * context.replica_id_in_sync_group :][:3])

        return strategy.experimental_distribute_values_from_function(rows)

    def on_replica(z: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = loss(y, z)
        return value, tape.gradient(value, z)

    step = tf.function(lambda *arguments: strategy.run(on_replica, args=arguments))
    values, gradients = (strategy.experimental_local_results(side) for side in step(of_replica(z), of_replica(y)))
    expected = hemspec.hem_loss(z, y, reduction=reduction)
    np.testing.assert_allclose(sum(values), expected, rtol=1e-6)
    np.testing.assert_allclose(tf.concat(gradients, 0), hemspec.hem_loss.gradient(z, y, reduction=reduction), rtol=1e-6)
    with strategy.scope():  # where nothing is divided
        np.testing.assert_allclose(loss(y, z), expected, rtol=1e-6)
