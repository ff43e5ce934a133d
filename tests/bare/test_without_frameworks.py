"""Installed with NumPy alone: the reference works, and each facade says what to install."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest

import hemspec

EXTRAS = {"torch": "torch", "tensorflow": "tensorflow", "jax": "jax", "keras": "keras"}


@pytest.mark.parametrize("name", EXTRAS)
def test_a_missing_framework_names_the_extra(name: str) -> None:
    if importlib.util.find_spec(EXTRAS[name]) is not None:
        pytest.skip(f"{name} is installed here")
    with pytest.raises(ImportError) as caught:
        importlib.import_module(f"hemspec.{name}")
    assert f'pip install "hemspec[{name}' in str(caught.value)


def test_the_reference_works() -> None:
    assert hemspec.hem_loss([[1.0, 1.5, 0.0, -3.0]], [0]) == 1.5


def test_it_is_the_installed_package() -> None:
    assert Path(hemspec.__file__).parent.parent != Path(__file__).resolve().parents[2]
