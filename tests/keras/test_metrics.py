"""The metrics give the reference's diagnostics of an epoch, whatever form labels, weights and masks come in."""

from __future__ import annotations

import doctest
import json
import os
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import hemspec

pytest.importorskip("keras", reason="Keras is not installed")
pytest.importorskip(os.environ["KERAS_BACKEND"], reason="the backend that KERAS_BACKEND names is not installed")
import keras
from keras import ops

import hemspec_keras.metrics
from hemspec.keras import ActiveFraction, HEMLoss, KeptErrors, MarginSatisfied

METRICS = (ActiveFraction, KeptErrors, MarginSatisfied)
MARGINS = [0.5, 1.0, 2.0]
LABEL_FORMS: dict[str, Any] = {
    "int64": lambda y: y,
    "uint8": lambda y: y.astype(np.uint8),
    "axis of size 1": lambda y: y[..., None],
    "float32": lambda y: y.astype(np.float32),
    "one-hot": lambda y: np.eye(3, dtype=np.float32)[y],
    "tensor": lambda y: ops.convert_to_tensor(y, dtype="int32"),
}


def batch(rng: np.random.Generator, n: int = 6) -> tuple[Any, Any, Any]:
    z = 1.5 * rng.normal(size=(n, 2, 3)).astype(np.float32)
    return z, rng.integers(0, 3, (n, 2)), rng.uniform(0.5, 2.0, n).astype(np.float32)


def results(metrics: Any) -> dict[str, float]:
    return {metric.name: float(metric.result()) for metric in metrics}


def close(got: dict[str, float], expected: dict[str, Any]) -> None:
    assert got.keys() == expected.keys()
    np.testing.assert_allclose(list(got.values()), [float(expected[name]) for name in got], rtol=1e-6)


@pytest.mark.parametrize("form", LABEL_FORMS)
def test_sums_over_batches(rng: np.random.Generator, form: str) -> None:
    metrics = HEMLoss(margin=MARGINS, ignore_class=2).metrics()
    batches = [batch(rng, n) for n in (5, 2)]
    for z, y, w in batches:
        for metric in metrics:
            metric.update_state(LABEL_FORMS[form](y), z, w)
    z, y, w = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    options = {"margin": MARGINS, "sample_weight": np.repeat(w[:, None], 2, 1), "ignore_index": 2}
    close(results(metrics), hemspec.hem_diagnostics(z, y, **options))
    for metric in metrics:
        metric.reset_state()
    assert set(results(metrics).values()) == {0.0}


def test_class_axis_nan_and_bad_labels(rng: np.random.Generator) -> None:
    z, y, _ = batch(rng)
    metric = MarginSatisfied(axis=1)
    metric.update_state(y, np.moveaxis(z, -1, 1))
    np.testing.assert_allclose(metric.result(), hemspec.hem_diagnostics(z, y)["margin_satisfied"], rtol=1e-6)
    z[0, 0, 0] = np.nan
    for metric in (cls() for cls in METRICS):
        metric.update_state(y, z)
        assert np.isnan(float(metric.result()))
        with pytest.raises(ValueError, match=r"y_true must lie in \[0, 3\)"):
            metric.update_state(y + 3, z)


def distribution(where: str, backend: str, request: pytest.FixtureRequest) -> Any:
    """What a model is made and trained in."""
    if where == "one device":
        return nullcontext()
    if backend == "torch":
        pytest.skip("Keras does not distribute on PyTorch")
    if backend == "jax":
        return keras.distribution.DataParallel(devices=keras.distribution.list_devices("cpu")[:2]).scope()
    return request.getfixturevalue("mirrored").scope()


@pytest.mark.parametrize("where", ["one device", "two devices"])
def test_fit_logs_them(rng: np.random.Generator, backend: str, request: pytest.FixtureRequest, where: str) -> None:
    """Masked and ignored steps do not count; `metrics` are unweighted, as Keras has it, `weighted_metrics` weighted."""
    if where == "two" and backend == "torch":
        pytest.skip("Keras does not distribute on PyTorch")
    _, y, w = batch(rng, 12)
    x = rng.normal(size=(12, 2, 4)).astype(np.float32)
    # On JAX Keras's `fit` loses the mask before metrics see it.
    x[::3, 1], y[::3, 1] = 0.0, 77 if backend != "jax" else 2
    loss = HEMLoss(margin=MARGINS, ignore_class=2)
    with distribution(where, backend, request):
        model = keras.Sequential([keras.Input((2, 4)), keras.layers.Masking(), keras.layers.Dense(3)])
        unweighted = ActiveFraction(ignore_class=2, name="unweighted")
        options = {"metrics": [unweighted], "weighted_metrics": loss.metrics()}
        compiled = backend == "tensorflow" and where == "one device"  # JAX compiles anyway
        model.compile(keras.optimizers.SGD(0.0), loss=loss, jit_compile=compiled or "auto", **options)
        log = model.fit(x, y, sample_weight=w, batch_size=4, verbose=0, epochs=2).history
        again = model.evaluate(x, y, sample_weight=w, batch_size=4, verbose=0, return_dict=True)
        z = model.predict(x, verbose=0)

    there = np.any(x != 0, -1)
    expected = hemspec.hem_diagnostics(z, y, sample_weight=w[:, None] * there, ignore_index=2, margin=MARGINS)
    expected["unweighted"] = hemspec.hem_diagnostics(z, y, sample_weight=there, ignore_index=2)["active_fraction"]
    for name, value in expected.items():
        np.testing.assert_allclose([*log[name], again[name]], 3 * [value], rtol=1e-5)


@pytest.mark.parametrize("cls", METRICS)
def test_configuration_makes_the_same_metric(cls: Any) -> None:
    metric = cls(margin=np.float32(MARGINS), axis=np.int64(1), ignore_class=2, name="mine", dtype="float16")
    config = metric.get_config()
    assert json.loads(json.dumps(config)) == config
    assert config == {"margin": MARGINS, "axis": 1, "ignore_class": 2, "name": "mine", "dtype": "float16"}
    for copy in (cls.from_config(config), keras.metrics.deserialize(keras.metrics.serialize(metric))):
        assert type(copy) is cls
        assert copy.get_config() == config


def test_what_a_loss_gives_is_its_own() -> None:
    loss = HEMLoss(margin=MARGINS, axis=1, ignore_class=2)
    assert [type(metric) for metric in loss.metrics()] == list(METRICS)
    for metric in loss.metrics():
        assert {"margin": MARGINS, "axis": 1, "ignore_class": 2}.items() <= metric.get_config().items()
    with pytest.raises(ValueError, match="margin must be finite"):
        ActiveFraction(margin=-1.0)


def test_examples_in_the_docstrings() -> None:
    runner = doctest.DocTestRunner()
    for name in hemspec_keras.metrics.__all__:
        for test in doctest.DocTestFinder(recurse=False).find(getattr(hemspec_keras.metrics, name), name):
            runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
    assert runner.tries >= len(hemspec_keras.metrics.__all__)
