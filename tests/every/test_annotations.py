"""What reads annotations at run time (fastai, pydantic, beartype, jsonargparse) finds types in every backend.

The tests of this folder are run once for each backend, beside its own: ``HEMSPEC_BACKEND=torch pytest tests/every``.
"""

from __future__ import annotations

import importlib
import inspect
import os
import typing
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def module() -> ModuleType:
    """The backend under test."""
    if "HEMSPEC_BACKEND" not in os.environ:
        pytest.skip("HEMSPEC_BACKEND names no backend")
    return importlib.import_module(f"hemspec.{os.environ['HEMSPEC_BACKEND']}")


def public(module: ModuleType) -> dict[str, Any]:
    """Every public function and class, with their methods, by name."""
    found: dict[str, Any] = {}
    for name in module.__all__:
        one = getattr(module, name)
        if not callable(one):
            continue
        found[name] = one
        for method, value in inspect.getmembers(one, inspect.isfunction):
            if value.__module__.startswith("hemspec"):
                found[f"{name}.{method}"] = value
    return found


def unresolved(module: ModuleType) -> list[str]:
    """The names whose hints or signatures hold text, or raise, with why."""
    wrong = []
    for name, one in public(module).items():
        try:
            hints = typing.get_type_hints(one)
            signature = inspect.signature(one, eval_str=True)
        except (NameError, TypeError, AttributeError) as error:
            wrong.append(f"{name}: {error!r}")
            continue
        annotations = [p.annotation for p in signature.parameters.values()] + [signature.return_annotation]
        wrong += [f"{name}: {text!r}" for text in (*annotations, *hints.values()) if isinstance(text, str)]
    return wrong


def reductions(module: ModuleType) -> dict[str, set[object]]:
    """What each loss, function or class, says its `reduction` may be."""
    found = {}
    for name in module.__all__:
        one = getattr(module, name)
        parameters = inspect.signature(one, eval_str=True).parameters if callable(one) else {}
        if name.lower().endswith("loss") and "reduction" in parameters:
            found[name] = names_in(parameters["reduction"].annotation)
    return found


def names_in(annotation: object) -> set[object]:
    """What a Literal allows, or a union of some."""
    parts = typing.get_args(annotation)
    return set().union(*map(names_in, parts)) if parts else {annotation}


@pytest.mark.finding(15)
def test_annotations_resolve(module: ModuleType) -> None:
    assert len(public(module)) > 8
    assert unresolved(module) == []


@pytest.mark.finding(15)
def test_a_reduction_is_one_of_its_names(module: ModuleType) -> None:
    found = reductions(module)
    assert len(found) >= 7
    for name, names in found.items():
        assert {"none", "sum", "mean"} <= names, name
        assert ("active_mean" in names) == ("hem" in name.lower() or "margin" in name.lower()), name
