"""What `compile`, `fit`, `evaluate` and saving make of the losses."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import hemspec

pytest.importorskip("keras", reason="Keras is not installed")
pytest.importorskip(os.environ["KERAS_BACKEND"], reason="the backend that KERAS_BACKEND names is not installed")
import keras
from keras import ops

import hemspec_keras.losses
from hemspec.keras import (
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    HEMLoss,
    LogitAdjustedLoss,
    LogitNormLoss,
    MultiMarginLoss,
)

LOSSES: dict[str, Any] = {
    "hem": lambda **options: HEMLoss(margin=0.5, **options),
    "hem-plus": lambda **options: HEMLoss(margin=np.float32([0.5, 1.0, 2.0]), **options),
    "multi-margin": lambda **options: MultiMarginLoss(margin=(1, 2, 3), **options),
    "cross-entropy": CrossEntropyLoss,
    "focal": lambda **options: FocalLoss(gamma=1, alpha=[1.0, 2.0, 3.0], **options),
    "logit-norm": lambda **options: LogitNormLoss(temperature=0.1, **options),
    "logit-adjusted": lambda **options: LogitAdjustedLoss(class_counts=np.array([3, 2, 1]), **options),
    "dice": lambda **options: DiceLoss(smooth=1.0, batch=True, **options),
}


def data(rng: np.random.Generator, n: int = 8) -> tuple[Any, Any]:
    return rng.normal(size=(n, 4)).astype(np.float32), rng.integers(0, 3, n)


def linear(loss: Any, **options: Any) -> Any:
    """A linear model that starts at the same weights each time."""
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(1))]
    )
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss, **options)
    return model


@pytest.mark.parametrize("name", LOSSES)
def test_fit_trains_and_evaluates(rng: np.random.Generator, name: str) -> None:
    x, y = data(rng)
    model = linear(LOSSES[name](), metrics=["accuracy"])
    before = model.evaluate(x, y, verbose=0, batch_size=8, return_dict=True)
    logits = model.predict_on_batch(x)
    function = getattr(hemspec, model.loss.function_name)
    constants = {name: getattr(model.loss, name) for name in model.loss.constants}
    np.testing.assert_allclose(before["loss"], function(logits, y, **constants), rtol=1e-5)
    model.fit(x, y, verbose=0, batch_size=8, epochs=10)
    assert model.evaluate(x, y, verbose=0, batch_size=8, return_dict=True)["loss"] < before["loss"]


@pytest.mark.parametrize(
    "labels",
    [lambda y: y[:, None], lambda y: np.eye(3)[y], lambda y: y.astype(np.float64), lambda y: y.astype(np.uint8)],
)
def test_fit_takes_every_form_of_labels(rng: np.random.Generator, labels: Any) -> None:
    x, y = data(rng)
    weights = []
    for y_true in (y, labels(y)):
        model = linear(HEMLoss())
        model.fit(x, y_true, verbose=0, batch_size=8, epochs=2, shuffle=False)
        weights.append(model.get_weights()[0])
    np.testing.assert_array_equal(*weights)


def test_the_log_is_the_size_weighted_average_of_the_batches(rng: np.random.Generator) -> None:
    x, y = data(rng)
    model = linear(HEMLoss())
    logits = model.predict_on_batch(x)
    batches = [hemspec.hem_loss(logits[i : i + 5], y[i : i + 5]) for i in (0, 5)]
    logged = model.evaluate(x, y, verbose=0, batch_size=5)
    np.testing.assert_allclose(logged, (5 * batches[0] + 3 * batches[1]) / 8, rtol=1e-5)


@pytest.mark.parametrize("layer", ["embedding", "masking"])
@pytest.mark.parametrize("weighted", [False, True])
def test_fit_masks(rng: np.random.Generator, layer: str, weighted: bool) -> None:
    """Masked steps do not exist, whatever label they have."""
    tokens, y = rng.integers(1, 6, (4, 5)), rng.integers(0, 3, (4, 5))
    tokens[0, 3:] = tokens[2, 1:] = 0
    y = np.where(tokens == 0, 99, y)
    w = rng.uniform(size=(4,)).astype(np.float32)
    if layer == "embedding":
        first, x = [keras.Input((5,), dtype="int32"), keras.layers.Embedding(6, 4, mask_zero=True)], tokens
    else:
        x = np.where(tokens[..., None] == 0, 0, rng.normal(size=(4, 5, 4))).astype(np.float32)
        first = [keras.Input((5, 4)), keras.layers.Masking()]
    model = keras.Sequential([*first, keras.layers.Dense(3)])
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=HEMLoss())
    expected = hemspec.hem_loss(
        model.predict_on_batch(x), y, sample_weight=(tokens != 0) * (w[:, None] if weighted else 1.0)
    )
    sample_weight = w if weighted else None
    np.testing.assert_allclose(model.evaluate(x, y, sample_weight=sample_weight, verbose=0), expected, rtol=1e-5)
    history = model.fit(x, y, sample_weight=sample_weight, verbose=0, batch_size=4)
    np.testing.assert_allclose(history.history["loss"], [expected], rtol=1e-5)
    assert all(np.isfinite(weights).all() for weights in model.get_weights())


def test_fit_weights(rng: np.random.Generator) -> None:
    """Weight 2 is two copies, weight 0 is none; a class weight is the weight of its samples."""
    x, y = data(rng)
    class_weight = {0: 2.0, 1: 0.0, 2: 1.0}
    w = np.array([class_weight[label] for label in y])
    copies = w.astype(int)
    models = [linear(HEMLoss()) for _ in range(3)]
    models[0].fit(x, y, sample_weight=w, verbose=0, batch_size=8)
    models[1].fit(x.repeat(copies, 0), y.repeat(copies), verbose=0, batch_size=64)
    models[2].fit(x, y, class_weight=class_weight, verbose=0, batch_size=8)
    for model in models[1:]:
        np.testing.assert_allclose(model.get_weights()[0], models[0].get_weights()[0], rtol=1e-5, atol=1e-6)


@pytest.mark.finding(13)
def test_fit_with_one_weight_for_each_sequence(rng: np.random.Generator) -> None:
    x, y, w = rng.normal(size=(4, 5, 4)).astype(np.float32), rng.integers(0, 3, (4, 5)), rng.uniform(1, 2, (4, 1))
    model = sequences(HEMLoss())
    expected = hemspec.hem_loss(model.predict_on_batch(x), y, sample_weight=np.repeat(w, 5, 1))
    np.testing.assert_allclose(model.evaluate(x, y, sample_weight=w, verbose=0), expected, rtol=1e-5)
    history = model.fit(x, y, sample_weight=w, verbose=0)
    np.testing.assert_allclose(history.history["loss"], [expected], rtol=1e-5)


def sequences(loss: Any, **options: Any) -> Any:
    """A linear model of five steps."""
    model = keras.Sequential([keras.Input((5, 4)), keras.layers.Dense(3)])
    model.compile("sgd", loss=loss, **options)
    return model


@pytest.mark.finding(7)
def test_class_weight_of_sequences_is_refused(rng: np.random.Generator, backend: str) -> None:
    """Keras looks up the weight of the argmax over the steps, which is the class of nothing."""
    x, y = rng.normal(size=(4, 5, 4)).astype(np.float32), rng.integers(0, 3, (4, 5))
    weights = {0: 1.0, 1: 2.0, 2: 3.0, 3: 1.0, 4: 1.0}
    model = sequences(HEMLoss(), weighted_metrics=HEMLoss().metrics())

    def check(call: Any, *data: Any, **options: Any) -> None:
        message = r"class_weight is for one label a sample: of y_true of shape \((4|\?), 5\).*sample_weight of shape"
        with pytest.raises(ValueError, match=message):
            call(*data, class_weight=weights, **options)

    before = model.get_weights()[0]
    check(model.fit, x, y)
    check(model.train_on_batch, x, y)
    np.testing.assert_array_equal(model.get_weights()[0], before)
    model.fit(x, y, sample_weight=np.ones(4), verbose=0)  # weights of the caller's own are no class weights
    if backend == "tensorflow":
        import tensorflow as tf

        def pipeline(labels: Any) -> Any:
            return tf.data.Dataset.from_tensor_slices((x, labels)).batch(4)

        model = sequences(HEMLoss(), run_eagerly=True)
        check(model.fit, pipeline(y), shuffle=False)
        for labels in (y[..., None], np.eye(3)[y]):  # of these Keras finds the weight of each label
            expected = hemspec.hem_loss(model.predict_on_batch(x), y, sample_weight=np.vectorize(weights.get)(y))
            loss = model.fit(pipeline(labels), class_weight=weights, shuffle=False, verbose=0).history["loss"]
            np.testing.assert_allclose(loss, [expected], rtol=1e-5)


@pytest.mark.finding(7)
@pytest.mark.parametrize("labels", [lambda y: y[:, None], lambda y: np.eye(3)[y]], ids=["indices", "one-hot"])
def test_class_weight_of_samples_is_taken(rng: np.random.Generator, labels: Any) -> None:
    x, y = data(rng)
    weights = {0: 1.0, 1: 2.0, 2: 3.0}
    model = linear(HEMLoss())
    expected = hemspec.hem_loss(model.predict_on_batch(x), y, sample_weight=np.vectorize(weights.get)(y))
    loss = model.fit(x, labels(y), class_weight=weights, verbose=0).history["loss"]
    np.testing.assert_allclose(loss, [expected], rtol=1e-5)


@pytest.mark.finding(22)
def test_labels_of_another_form_in_a_later_call(rng: np.random.Generator, backend: str) -> None:
    """TensorFlow then traces one step for all forms, which knows neither; the data is not to blame."""
    x, y = data(rng)
    model = linear(HEMLoss())
    model.fit(x, y, verbose=0)
    if backend == "tensorflow":
        with pytest.raises(ValueError, match=r"y_true must have a known number of axes;.*an earlier call.*compile"):
            model.fit(x, y[:, None], verbose=0)
        model.compile("sgd", loss=model.loss)
    assert np.isfinite(model.fit(x, y[:, None], verbose=0).history["loss"]).all()
    if backend == "tensorflow":
        with pytest.raises(ValueError, match=r"whether it holds indices.*must be known;.*an earlier call.*compile"):
            model.fit(x, np.eye(3, dtype=int)[y], verbose=0)
        model.compile("sgd", loss=model.loss)
    assert np.isfinite(model.fit(x, np.eye(3, dtype=int)[y], verbose=0).history["loss"]).all()


def every_loss_at_once(**options: Any) -> Any:
    """One model with an output for each loss, whose sequences are masked and weighted: one trace for all of them."""
    losses = {name.replace(",", ""): make() for name, make in LOSSES.items()}
    inputs = keras.Input((5, 4))
    steps = keras.layers.Masking()(inputs)
    model = keras.Model(inputs, {name: keras.layers.Dense(3, name=name)(steps) for name in losses})
    model.compile("sgd", loss=losses, weighted_metrics={"hem": HEMLoss().metrics()}, **options)
    return model


@contextlib.contextmanager
def hunting(backend: str) -> Iterator[None]:
    """With the framework's own search for NaN and, but in PyTorch, infinities."""
    if backend == "tensorflow":
        import tensorflow as tf

        tf.debugging.enable_check_numerics()
        try:
            yield
        finally:
            tf.debugging.disable_check_numerics()
    elif backend == "jax":
        import jax

        with jax.debug_nans(True), jax.debug_infs(True):
            yield
    else:
        import torch

        with torch.autograd.set_detect_anomaly(True):
            yield


@pytest.mark.finding(10)
def test_hunters_of_nan_find_nothing(rng: np.random.Generator, backend: str) -> None:
    """Of finite input no loss makes a NaN or an infinity on its way, masked and weighted neither."""
    # JAX compiles each operation for itself here: one loss, the other backends one of each way of weighting.
    losses = {name: LOSSES[name]() for name in (["hem-plus"] if backend == "jax" else ["hem-plus", "dice"])}
    inputs = keras.Input((5, 4))
    steps = keras.layers.Masking()(inputs)
    model = keras.Model(inputs, {name: keras.layers.Dense(3, name=name)(steps) for name in losses})
    x, y, w = (
        rng.normal(size=(4, 5, 4)).astype(np.float32),
        rng.integers(0, 3, (4, 5)),
        np.float32([[0], [1], [2], [1]]),
    )
    x[1, 3:] = 0.0
    metrics = {"hem-plus": losses["hem-plus"].metrics()}
    with hunting(backend):
        model.compile("sgd", loss=losses, weighted_metrics=metrics, run_eagerly=True)
        given = [dict.fromkeys(losses, values) for values in (y, w)]
        logs = model.train_on_batch(x, given[0], sample_weight=given[1], return_dict=True)
    assert all(np.isfinite(value) for value in logs.values())


@pytest.mark.finding(22)
@pytest.mark.parametrize("name", ["hem_loss", "dice_loss"])
def test_a_function_instead_of_the_class(rng: np.random.Generator, backend: str, name: str) -> None:
    """Keras calls it as (y_true, y_pred): the message says so, and what to write."""
    x, y = data(rng)
    function = getattr(importlib.import_module(f"hemspec.{backend}"), name)
    for labels in (y, y[:, None], np.eye(3)[y]):
        with pytest.raises((TypeError, ValueError), match=r"Keras passes \(y_true, y_pred\), so give.* hemspec\.keras"):
            linear(function).fit(x, labels, verbose=0)


@pytest.mark.finding(21)
def test_labels_that_count_from_one(rng: np.random.Generator, backend: str) -> None:
    """What the documentation says to do about a loss of NaN: either names the label."""
    x, y = data(rng)
    model = linear(HEMLoss())
    if backend != "torch":  # which Keras runs eagerly by default
        assert np.isnan(model.fit(x, y + 1, verbose=0).history["loss"]).all()
    message = r"y_true must lie in \[0, 3\) at every valid position; got 3 at index \d \(labels count from 0: if yours"
    with pytest.raises(ValueError, match=message):
        model.loss(y + 1, model.predict(x, verbose=0))
    model.compile("sgd", loss=model.loss, run_eagerly=True)
    with pytest.raises(ValueError, match=message):
        model.fit(x, y + 1, verbose=0)


def test_fit_with_several_outputs(rng: np.random.Generator) -> None:
    x, y = data(rng)
    inputs = keras.Input((4,))
    outputs = {"a": keras.layers.Dense(3, name="a")(inputs), "b": keras.layers.Dense(3, name="b")(inputs)}
    model = keras.Model(inputs, outputs)
    model.compile(loss={"a": HEMLoss(), "b": DiceLoss()}, loss_weights={"a": 1.0, "b": 0.5})
    logits = model.predict_on_batch(x)
    logs = model.evaluate(x, {"a": y, "b": np.eye(3)[y]}, batch_size=8, verbose=0, return_dict=True)
    a, b = hemspec.hem_loss(logits["a"], y), hemspec.dice_loss(logits["b"], y)
    np.testing.assert_allclose([logs["a_loss"], logs["b_loss"], logs["loss"]], [a, b, a + 0.5 * b], rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_fit_in_mixed_precision(rng: np.random.Generator, policy: str) -> None:
    """Class ids above 256 survive, and so do gradients under the loss scaling of float16."""
    classes = np.array([1, 257, 258, 299])
    x = np.eye(4, dtype=np.float32)
    keras.config.set_dtype_policy(policy)
    try:
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(300, kernel_initializer="zeros")])
        model.compile(optimizer=keras.optimizers.SGD(1.0), loss=HEMLoss(), metrics=["accuracy"])
        for y in (classes, classes.astype(np.float32)):
            assert model.evaluate(x, y, verbose=0)[0] == 1.0
        model.fit(x, classes, epochs=6, batch_size=4, verbose=0)
        assert keras.backend.standardize_dtype(model(x).dtype) == policy.removeprefix("mixed_")
        loss, accuracy = model.evaluate(x, classes, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
    assert accuracy == 1.0
    assert loss < 1.0


@pytest.mark.parametrize("name", LOSSES)
def test_configuration_makes_the_same_loss(rng: np.random.Generator, name: str) -> None:
    loss = LOSSES[name](
        ignore_class=np.int64(1), reduction="mean_with_sample_weight", axis=1, name="mine", dtype="float16"
    )
    config = loss.get_config()
    assert json.loads(json.dumps(config)) == config
    assert {"axis": 1, "ignore_class": 1, "name": "mine", "dtype": "float16"}.items() <= config.items()
    assert type(loss).from_config(config).get_config() == config
    x, y = rng.normal(size=(5, 3)).astype(np.float32), rng.integers(0, 3, 5)
    for copy in (
        keras.losses.deserialize(keras.losses.serialize(loss)),
        keras.losses.get(keras.losses.serialize(loss)),
        keras.losses.get(loss),
    ):
        assert type(copy) is type(loss)
        assert copy.get_config() == config
        assert float(copy(y, x)) == float(loss(y, x))


@pytest.mark.parametrize("reduction", [None, "none", "sum", "mean", "sum_over_batch_size", "active_mean"])
def test_a_reduction_keeps_its_name(reduction: str | None) -> None:
    loss = HEMLoss(reduction=reduction)
    assert loss.reduction == HEMLoss.from_config(loss.get_config()).reduction == reduction
    assert loss.name == "hem_loss"


def test_examples_in_the_docstrings() -> None:
    runner, classes = doctest.DocTestRunner(), hemspec_keras.losses.__all__
    for name in classes:
        for test in doctest.DocTestFinder(recurse=False).find(getattr(hemspec_keras.losses, name), name):
            runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
    assert runner.tries >= len(classes)


@pytest.mark.parametrize("bad", ["too large", "fraction", "soft"])
def test_fit_on_bad_labels(rng: np.random.Generator, backend: str, bad: str) -> None:
    """Where `fit` traces nothing can be read and the loss is NaN; eagerly it is an error that shows the label."""
    x, y = data(rng)
    third = np.arange(8) == 3
    labels = {"too large": np.where(third, 9, y), "fraction": np.where(third, 0.5, y), "soft": 0.9 * np.eye(3)[y]}[bad]
    if backend != "torch":  # which Keras runs eagerly by default
        model = linear(HEMLoss())
        assert np.isnan(model.fit(x, labels, verbose=0, batch_size=8).history["loss"]).all()
    with pytest.raises(ValueError, match="y_true must"):
        linear(HEMLoss(), run_eagerly=True).fit(x, labels, verbose=0)


@pytest.mark.skipif(os.environ["KERAS_BACKEND"] != "tensorflow", reason="a compiler that Keras does not use by default")
def test_fit_under_xla(rng: np.random.Generator) -> None:
    x, y = data(rng)
    losses = [linear(HEMLoss(), jit_compile=jit).fit(x, y, verbose=0).history["loss"] for jit in (False, True)]
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_custom_training_averages_over_micro_batches(rng: np.random.Generator) -> None:
    x, y = data(rng)
    loss, logits = HEMLoss(), 3 * x[:, :3]
    terms = [loss.terms(y[i : i + 2], logits[i : i + 2]) for i in range(0, 8, 2)]
    numerator, denominator = (sum(float(term) for term in side) for side in zip(*terms, strict=True))
    np.testing.assert_allclose(numerator / denominator, float(loss(y, ops.convert_to_tensor(logits))), rtol=1e-6)
