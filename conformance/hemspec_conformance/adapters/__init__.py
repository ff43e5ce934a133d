"""The backends that hemspec itself ships, by the name of their target."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Final, cast

from hemspec_conformance.adapter import Adapter

TARGETS: Final[Mapping[str, str]] = {
    "numpy": "hemspec_conformance.adapters.numpy",
    "torch": "hemspec_conformance.adapters.torch",
    "tensorflow": "hemspec_conformance.adapters.tensorflow",
    "jax": "hemspec_conformance.adapters.jax",
    "keras-tensorflow": "hemspec_conformance.adapters.keras",
    "keras-jax": "hemspec_conformance.adapters.keras",
    "keras-torch": "hemspec_conformance.adapters.keras",
}
"""Each module's ``make(target)`` gives the adapter. It imports its framework, so one process takes one target."""


def make(target: str) -> Adapter:
    """The adapter of a target."""
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}; got {target!r}")
    return cast("Adapter", importlib.import_module(TARGETS[target]).make(target))
