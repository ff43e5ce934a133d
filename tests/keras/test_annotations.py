"""Annotations resolve at run time; see tests/annotations.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

module = pytest.importorskip("hemspec.keras", exc_type=ImportError)

spec = importlib.util.spec_from_file_location("annotations_of", Path(__file__).parents[1] / "annotations.py")
assert spec is not None
assert spec.loader is not None
annotations = importlib.util.module_from_spec(spec)
spec.loader.exec_module(annotations)


@pytest.mark.finding(15)
def test_annotations_resolve() -> None:
    assert len(annotations.public(module)) > 8
    assert annotations.unresolved(module) == []


@pytest.mark.finding(15)
def test_a_reduction_is_one_of_its_names() -> None:
    found = annotations.reductions(module)
    assert len(found) >= 7
    for name, names in found.items():
        assert {"none", "sum", "mean"} <= names, name
        assert ("active_mean" in names) == ("hem" in name.lower() or "margin" in name.lower()), name
