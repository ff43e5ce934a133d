"""Save, load in a fresh process, clone and export: models keep their loss and metrics, and go on training."""

from __future__ import annotations

import copy
import inspect
import json
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("keras", reason="Keras is not installed")
pytest.importorskip(os.environ["KERAS_BACKEND"], reason="the backend that KERAS_BACKEND names is not installed")
import keras

import hemspec.keras
from hemspec.keras import HEMLoss

FRESH = """
import json, sys
import keras, numpy as np
import hemspec.keras  # which registers the names, and is all there is to do

folder = sys.argv[1]
data = dict(np.load(f"{folder}/data.npz"))
model = keras.saving.load_model(f"{folder}/model.keras")
before = model.evaluate(**data, verbose=0, return_dict=True)
model.fit(**data, verbose=0, batch_size=8)
after = model.evaluate(**data, verbose=0, return_dict=True)
print(json.dumps([model.loss.get_config(), before, after]))
"""


@pytest.fixture
def trained(rng: np.random.Generator) -> tuple[Any, dict[str, Any]]:
    loss = HEMLoss(margin=[1.0, 2.0, 0.5], ignore_class=2, reduction="mean", name="mine")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(keras.optimizers.Adam(0.1), loss=loss, weighted_metrics=loss.metrics())
    data = {
        "x": rng.normal(size=(8, 4)).astype(np.float32),
        "y": rng.integers(0, 3, 8),
        "sample_weight": rng.uniform(0.5, 2.0, 8).astype(np.float32),
    }
    model.fit(**data, verbose=0, batch_size=8)
    return model, data


def close(got: dict[str, float], expected: dict[str, float]) -> None:
    assert set(expected) == {"loss", "active_fraction", "kept_errors", "margin_satisfied"}
    assert got.keys() == expected.keys()
    np.testing.assert_allclose(list(got.values()), list(expected.values()), rtol=1e-5)


@pytest.mark.skipif(os.environ["KERAS_BACKEND"] != "torch", reason="one start is enough; see also test_fixtures.py")
def test_a_fresh_process_loads_a_model_and_trains_on(trained: Any, tmp_path: Path) -> None:
    model, data = trained
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", **data)
    child = subprocess.run([sys.executable, "-c", FRESH, str(tmp_path)], check=True, capture_output=True, text=True)
    config, before, after = json.loads(child.stdout.splitlines()[-1])
    assert config == model.loss.get_config()
    close(before, model.evaluate(**data, verbose=0, return_dict=True))
    model.fit(**data, verbose=0, batch_size=8)
    close(after, model.evaluate(**data, verbose=0, return_dict=True))
    assert after["loss"] != before["loss"]


def test_clone(trained: Any) -> None:
    model, data = trained
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    metrics = [type(metric).from_config(metric.get_config()) for metric in model.loss.metrics()]
    clone.compile(loss=HEMLoss.from_config(model.loss.get_config()), weighted_metrics=metrics)
    close(clone.evaluate(**data, verbose=0, return_dict=True), model.evaluate(**data, verbose=0, return_dict=True))


@pytest.mark.skipif(os.environ["KERAS_BACKEND"] != "tensorflow", reason="other backends export by way of TensorFlow")
def test_export(trained: Any, tmp_path: Path) -> None:
    """What is exported is the network: it needs no hemspec."""
    import tensorflow as tf

    model, data = trained
    model.export(tmp_path / "model", verbose=False)
    exported = tf.saved_model.load(tmp_path / "model")
    np.testing.assert_allclose(exported.serve(data["x"]), model.predict(data["x"], verbose=0), rtol=1e-5)


LOSSES = {
    "HEMLoss": {"margin": [1.0, 2.0, 0.5]},
    "MultiMarginLoss": {"margin": [1.0, 2.0, 0.5]},
    "CrossEntropyLoss": {},
    "FocalLoss": {"gamma": 1.0, "alpha": [1.0, 2.0, 3.0]},
    "LogitNormLoss": {"temperature": 0.1},
    "LogitAdjustedLoss": {"class_counts": [3.0, 2.0, 1.0], "temperature": 0.5},
    "DiceLoss": {"smooth": 1.0, "batch": True},
}
METRICS = ["ActiveFraction", "KeptErrors", "MarginSatisfied"]


def snake(name: str) -> str:
    return keras.src.utils.naming.to_snake_case(name)


def test_all_are_here() -> None:
    classes = {name for name in hemspec.keras.__all__ if inspect.isclass(getattr(hemspec.keras, name))}
    assert classes == {*LOSSES, *METRICS}


@pytest.mark.finding(18)
@pytest.mark.parametrize("spelling", [str, snake], ids=["class", "function"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_by_name(name: str, spelling: Any) -> None:
    cls, config = getattr(hemspec.keras, name), LOSSES[name]
    spelled = spelling(name)
    for loss in (
        keras.losses.get({"class_name": spelled, "config": config}),
        keras.losses.deserialize({"class_name": spelled, "config": config}),
    ):
        assert type(loss) is cls
        assert config.items() <= loss.get_config().items()
    if name == "LogitAdjustedLoss":
        with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'class_counts'"):
            keras.losses.get(spelled)
    else:
        assert keras.losses.get(spelled).get_config() == keras.losses.get(cls).get_config() == cls().get_config()


@pytest.mark.finding(18)
def test_metrics_by_name() -> None:
    for name in METRICS:
        for spelled in (name, snake(name)):
            assert type(keras.metrics.get(spelled)) is getattr(hemspec.keras, name)
            metric = keras.metrics.get({"class_name": spelled, "config": {"margin": 0.5}})
            assert metric.get_config()["margin"] == 0.5


@pytest.mark.finding(18)
def test_training_by_name(rng: np.random.Generator) -> None:
    """The active mean, as of the class: the name of a function would otherwise get Keras's average."""
    x, y = rng.normal(size=(8, 4)).astype(np.float32), rng.integers(0, 3, 8)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", loss="hem_loss", weighted_metrics=["active_fraction"])
    z, logs = model.predict_on_batch(x), model.evaluate(x, y, verbose=0, return_dict=True)
    np.testing.assert_allclose(logs["loss"], hemspec.hem_loss(z, y), rtol=1e-5)
    np.testing.assert_allclose(logs["active_fraction"], hemspec.hem_diagnostics(z, y)["active_fraction"], rtol=1e-5)


@pytest.mark.finding(18)
def test_names_of_others_stay_theirs() -> None:
    """Those of Keras, and those under which somebody saved a class of their own."""
    assert type(keras.losses.get("Dice")) is keras.losses.Dice
    assert keras.losses.get("dice") is keras.losses.dice
    ours = {spelled for name in (*LOSSES, *METRICS) for spelled in (name, snake(name))}
    for table in (keras.src.losses.ALL_OBJECTS_DICT, keras.src.metrics.ALL_OBJECTS_DICT):
        assert {name for name, value in table.items() if not value.__module__.startswith("keras.")} <= ours

    class FocalLoss(keras.losses.Loss):  # type: ignore[misc]
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return y_pred

    saved = {"class_name": "FocalLoss", "config": {"name": "theirs"}}
    assert type(keras.losses.deserialize(saved, custom_objects={"FocalLoss": FocalLoss})) is FocalLoss
    with keras.saving.custom_object_scope({"FocalLoss": FocalLoss}):
        assert type(keras.losses.get(saved)) is FocalLoss
    written = {**saved, "module": None, "registered_name": "FocalLoss"}
    assert type(keras.saving.deserialize_keras_object(written, {"FocalLoss": FocalLoss})) is FocalLoss


@pytest.mark.finding(4)
def test_hyper_parameters_are_configuration(rng: np.random.Generator, tmp_path: Path) -> None:
    """What the constructor said holds through training, averaging, loading and copying; it is no weight."""
    x, y = rng.normal(size=(8, 4)).astype(np.float32), rng.integers(0, 3, 8)

    def linear(loss: Any) -> Any:
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        model.compile(keras.optimizers.SGD(0.1, weight_decay=0.1, use_ema=True, ema_overwrite_frequency=1), loss=loss)
        return model

    model, other = linear(HEMLoss(margin=[1.0, 2.0, 0.5])), linear(HEMLoss(margin=[7.0, 8.0, 9.0]))
    said = model.loss.get_config()
    model.fit(x, y, verbose=0)
    model.save_weights(tmp_path / "of.weights.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an optimizer that has not begun yet
        other.load_weights(tmp_path / "of.weights.h5", skip_mismatch=True)
    model.save(tmp_path / "model.keras")
    assert len(model.get_weights()) == 2
    assert other.loss.margin == [7.0, 8.0, 9.0]
    assert model.loss.get_config() == keras.saving.load_model(tmp_path / "model.keras").loss.get_config() == said

    for name, options in LOSSES.items():
        loss = getattr(hemspec.keras, name)(**options)
        for copied in (
            copy.deepcopy(loss),
            pickle.loads(pickle.dumps(loss)),
            type(loss).from_config(loss.get_config()),
        ):
            assert copied.get_config() == loss.get_config()
            assert options.items() <= copied.get_config().items()
    for metric in model.loss.metrics():
        assert type(metric).from_config(metric.get_config()).margin == metric.margin == model.loss.margin
        assert [variable.name for variable in metric.variables] == ["numerator", "denominator"]
