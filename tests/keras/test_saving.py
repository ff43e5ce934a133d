"""Save, load in a fresh process, clone and export: models keep their loss and metrics, and go on training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("keras", reason="Keras is not installed")
pytest.importorskip(os.environ["KERAS_BACKEND"], reason="the backend that KERAS_BACKEND names is not installed")
import keras

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
