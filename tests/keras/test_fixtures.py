"""Models that this and earlier versions saved load by their registered names, and go on where they stopped."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("keras", reason="Keras is not installed")
pytest.importorskip(os.environ["KERAS_BACKEND"], reason="the backend that KERAS_BACKEND names is not installed")
import keras

import hemspec.keras  # which registers the names

VERSIONS = sorted(path.parent for path in Path(__file__).parents[1].glob("fixtures/*/expected.json"))
MODELS = [
    pytest.param(version, name, id=f"{version.name} {name}")
    for version in VERSIONS
    for name in json.loads((version / "expected.json").read_text())["keras"]
]


PARTS: dict[str, Any] = {"features": np.float32, "labels": np.int64, "weights": np.float32}
"""The inputs, and of what dtype they were."""


def test_there_are_fixtures() -> None:
    assert {"0.1.0"} <= {version.name for version in VERSIONS}


def is_part_of(old: Any, new: Any) -> bool:
    """A later version may have more options."""
    return old.items() <= new.items()


@pytest.mark.parametrize(("version", "name"), MODELS)
def test_loads(version: Path, name: str) -> None:
    """Saved on TensorFlow, loaded on every backend."""
    expected = json.loads((version / "expected.json").read_text())
    x, y, w = (np.array(expected[part], dtype) for part, dtype in PARTS.items())
    saved = expected["keras"][name]

    model = keras.saving.load_model(version / f"{name}.keras")
    logits = model(x)
    assert type(model.loss).__name__ == name
    assert is_part_of(saved["config"], model.loss.get_config())
    np.testing.assert_allclose(keras.ops.convert_to_numpy(logits), saved["predictions"], rtol=1e-5, atol=1e-6)
    loss = float(keras.ops.convert_to_numpy(model.loss(y, logits, w)))
    np.testing.assert_allclose(loss, saved["evaluated"]["loss"], rtol=1e-5)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)
def test_goes_on(version: Path) -> None:
    """With its metrics, and with the optimizer where it was."""
    expected = json.loads((version / "expected.json").read_text())
    x, y, w = (np.array(expected[part], dtype) for part, dtype in PARTS.items())
    data, saved = {"x": x, "y": y, "sample_weight": w, "batch_size": 8, "verbose": 0}, expected["keras"]["HEMLoss"]
    model = keras.saving.load_model(version / "HEMLoss.keras")
    evaluated = model.evaluate(**data, return_dict=True)
    assert evaluated.keys() == saved["evaluated"].keys()
    for figure, value in saved["evaluated"].items():
        np.testing.assert_allclose(evaluated[figure], value, rtol=1e-5, err_msg=figure)
    model.fit(**data)
    trained = keras.ops.convert_to_numpy(model(x))
    np.testing.assert_allclose(trained, saved["trained"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("version", "name"), MODELS)
def test_configurations(version: Path, name: str) -> None:
    """Loss and metrics are made from what was written, alone."""
    saved = json.loads((version / "expected.json").read_text())["keras"][name]
    loss = getattr(hemspec.keras, name)(**saved["config"])
    assert is_part_of(saved["config"], loss.get_config())
    for config in saved["metrics"]:
        class_name = "".join(word.title() for word in config["name"].split("_"))
        assert is_part_of(config, getattr(hemspec.keras, class_name)(**config).get_config())
