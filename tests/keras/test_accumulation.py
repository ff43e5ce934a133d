"""Micro-batches give the gradient of the whole batch."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import hemspec

pytest.importorskip("keras", reason="Keras is not installed")
pytest.importorskip(os.environ["KERAS_BACKEND"], reason="the backend that KERAS_BACKEND names is not installed")
import keras
from keras import ops

import hemspec.keras
from hemspec.keras import CrossEntropyLoss, DiceLoss, HEMLoss, accumulate_gradients

FUNCTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "HEMLoss": ("hem_loss", {"margin": [0.5, 1.0, 2.0]}),
    "MultiMarginLoss": ("multi_margin_loss", {"margin": 0.5}),
    "CrossEntropyLoss": ("cross_entropy_loss", {}),
    "FocalLoss": ("focal_loss", {"gamma": 1.0, "alpha": [1.0, 2.0, 3.0]}),
    "LogitNormLoss": ("logit_norm_loss", {"temperature": 0.5}),
    "LogitAdjustedLoss": ("logit_adjusted_loss", {"class_counts": [3, 2, 1]}),
    "DiceLoss": ("dice_loss", {"smooth": 0.5}),
}


def terms_and_gradient(loss: Any, y: Any, z: Any, w: Any) -> tuple[Any, Any, Any]:
    """Numerator, denominator, and the gradient of the numerator, in NumPy."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        variable = tf.Variable(z)
        with tf.GradientTape() as tape:
            numerator, denominator = loss.terms(y, variable, w)
        gradient = tape.gradient(numerator, variable)
    elif backend == "jax":
        import jax

        differentiate = jax.jit(jax.value_and_grad(lambda z: loss.terms(y, z, w), has_aux=True))
        (numerator, denominator), gradient = differentiate(z)
    else:
        import torch

        variable = torch.tensor(z, requires_grad=True)
        numerator, denominator = loss.terms(y, variable, w)
        numerator.backward()
        numerator, gradient = numerator.detach(), variable.grad
    return float(numerator), float(denominator), ops.convert_to_numpy(gradient)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_terms_of_micro_batches(rng: np.random.Generator, name: str) -> None:
    function, constants = FUNCTIONS[name]
    z, y = rng.normal(size=(8, 2, 3)).astype(np.float32), rng.integers(0, 3, (8, 2))
    w = rng.uniform(0.5, 2.0, (8, 2)).astype(np.float32)
    z[5:, :, :], y[5:] = np.eye(3, dtype=np.float32)[1] * 9, 1  # inactive under HEM
    for reduction in ("mean", "active_mean") if "margin" in constants else ("mean",):
        loss = getattr(hemspec.keras, name)(reduction=reduction, ignore_class=2, **constants)
        parts = [terms_and_gradient(loss, y[i : i + 4], z[i : i + 4], w[i : i + 4]) for i in (0, 4)]
        numerator, denominator = (sum(part[i] for part in parts) for i in (0, 1))
        reference = getattr(hemspec, function)
        options = {"sample_weight": w, "ignore_index": 2, "reduction": reduction, **constants}
        np.testing.assert_allclose(numerator / denominator, reference(z, y, **options), rtol=1e-5)
        gradient = np.concatenate([part[2] for part in parts]) / denominator
        np.testing.assert_allclose(gradient, reference.gradient(z, y, **options), rtol=1e-4, atol=1e-7)


def model_with(loss: Any, *layers: Any, **options: Any) -> Any:
    dense = keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(1), **options)
    model = keras.Sequential([keras.Input((2, 4)), *layers, dense])
    model.compile(keras.optimizers.SGD(1.0), loss=loss, metrics=["accuracy"])
    return model


@pytest.mark.parametrize(
    "loss",
    [
        HEMLoss(margin=[0.5, 1.0, 2.0], ignore_class=2),
        CrossEntropyLoss(ignore_class=2, reduction="sum_over_batch_size"),
        HEMLoss(reduction="sum"),
    ],
    ids=["active mean", "batch size", "sum"],
)
def test_fit_in_micro_batches(rng: np.random.Generator, loss: Any) -> None:
    """Of different sizes, with weights, masks and ignored positions."""
    x, y = rng.normal(size=(14, 2, 4)).astype(np.float32), rng.integers(0, 3, (14, 2))
    x[::4, 1], w = 0.0, rng.uniform(0.5, 2.0, 14).astype(np.float32)
    models = [model_with(loss, keras.layers.Masking()) for _ in range(2)]
    logs = []
    for model in (models[0], accumulate_gradients(models[1], 3)):
        fit = model.fit(x, y, sample_weight=w, batch_size=7, shuffle=False, verbose=0)
        logs.append([fit.history[name] for name in ("loss", "accuracy")])
    np.testing.assert_allclose(logs[1], logs[0], rtol=1e-5)
    for weights, expected in zip(*(model.get_weights() for model in models[::-1]), strict=True):
        np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-6)


def test_fit_in_micro_batches_of_float16(rng: np.random.Generator) -> None:
    """Keras scales the loss; gradients are rounded, and the first steps left out where they overflow."""
    x, y = rng.normal(size=(8, 2, 4)).astype(np.float32), rng.integers(0, 3, (8, 2))
    keras.config.set_dtype_policy("mixed_float16")
    try:
        models = [model_with(HEMLoss()), accumulate_gradients(model_with(HEMLoss()), 3)]
    finally:
        keras.config.set_dtype_policy("float32")
    before = models[0].get_weights()[0]
    for model in models:
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    whole, parts = (model.get_weights()[0] - before for model in models)
    assert np.abs(whole).max() > 0.1
    np.testing.assert_allclose(parts, whole, atol=2e-3)


def test_batches_in_which_nothing_counts(rng: np.random.Generator) -> None:
    model = accumulate_gradients(model_with(HEMLoss(ignore_class=2)), 2)
    before = model.get_weights()
    log = model.fit(rng.normal(size=(4, 2, 4)), np.full((4, 2), 2), batch_size=4, verbose=0)
    assert log.history["loss"] == [0.0]
    np.testing.assert_array_equal(model.get_weights()[0], before[0])


def test_what_cannot_be_accumulated() -> None:
    model = model_with(HEMLoss())
    for steps, error in ((0, ValueError), (2.0, TypeError)):
        with pytest.raises(error, match="steps must be"):
            accumulate_gradients(model, steps)
    with pytest.raises(TypeError, match=r"must be a keras\.Model; got str"):
        accumulate_gradients("model", 2)
    for loss in ("mse", HEMLoss(reduction=None)):
        with pytest.raises(ValueError, match="compiled with a loss of hemspec"):
            accumulate_gradients(model_with(loss), 2)
    with pytest.raises(ValueError, match="all of a batch at once"):
        accumulate_gradients(model_with(DiceLoss(batch=True)), 2)
    x, y = np.zeros((4, 2, 4)), np.zeros((4, 2), int)
    regularized = accumulate_gradients(model_with(HEMLoss(), kernel_regularizer="l2"), 2)
    with pytest.raises(ValueError, match="no losses of its own"):
        regularized.fit(x, y, verbose=0)
    accumulate_gradients(model, 2).compile("sgd", loss=CrossEntropyLoss())
    with pytest.raises(ValueError, match="call accumulate_gradients again"):
        model.fit(x, y, verbose=0)
