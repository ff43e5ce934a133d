"""What this and earlier versions pickled loads, and gives what it gave then."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax", reason="JAX is not installed")

import hemspec.jax

VERSIONS = sorted(path.parent for path in Path(__file__).parents[1].glob("fixtures/*/expected.json"))
LOSSES = [
    pytest.param(version, name, id=f"{version.name} {name}")
    for version in VERSIONS
    for name in json.loads((version / "expected.json").read_text())["jax"]
]


def test_there_are_fixtures() -> None:
    assert {"0.1.0"} <= {version.name for version in VERSIONS}


@pytest.mark.parametrize(("version", "name"), LOSSES)
def test_loads(version: Path, name: str) -> None:
    expected = json.loads((version / "expected.json").read_text())
    loss = pickle.loads((version / f"{name}.jax.pickle").read_bytes())
    assert type(loss) is getattr(hemspec.jax, name)
    for option, value in expected["jax"][name]["options"].items():
        np.testing.assert_array_equal(getattr(loss, option), value)
    logits, features, head = (np.array(expected[part], np.float32) for part in ("logits", "features", "head"))
    labels, weights = np.array(expected["labels"]), np.array(expected["weights"], np.float32)
    inputs: list[Any] = [features, head.T, labels] if name == "LinearHEMLoss" else [logits, labels]
    value = loss(*inputs, sample_weight=weights)
    np.testing.assert_allclose(float(value), expected["jax"][name]["value"], rtol=1e-6)
