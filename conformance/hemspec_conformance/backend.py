"""A backend under test: its adapter, read and checked once, and asked in NumPy's terms."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hemspec_conformance.adapter import DTYPES, LOSSES, Array, Call, ExpectedFailure, Mode

REQUIRED = ("name", "spec_version", "losses", "modes", "versions", "from_numpy", "to_numpy", "value_and_gradient")


class AdapterError(Exception):
    """The adapter cannot be used at all. The message says what it lacks."""


@dataclass(frozen=True)
class Result:
    """What came back: the value, and the gradient of its sum in the logits."""

    value: Array
    gradient: Array


@dataclass(frozen=True)
class Backend:
    """What an adapter says, with defaults for what it may leave out."""

    adapter: Any
    name: str
    spec_version: int
    losses: Collection[str]
    modes: Sequence[Mode]
    versions: Mapping[str, str]
    argument_names: Mapping[str, str]
    label_forms: Collection[str]
    expected_failures: Sequence[ExpectedFailure]

    @classmethod
    def of(cls, adapter: Any) -> Backend:
        """Read an adapter: a module or any object with the attributes of `hemspec_conformance.adapter.Adapter`."""
        missing = [name for name in REQUIRED if not hasattr(adapter, name)]
        if missing:
            raise AdapterError(f"the adapter lacks {', '.join(missing)}; it needs {', '.join(REQUIRED)}")
        modes = tuple(adapter.modes)
        names = [mode.name for mode in modes]
        if not modes or len(set(names)) < len(names):
            raise AdapterError(f"modes must be one or more, each of its own name; got {names}")
        unknown = {dtype for mode in modes for dtype in mode.dtypes} - set(DTYPES)
        if unknown:
            raise AdapterError(f"the dtypes of a mode must be among {', '.join(DTYPES)}; got {sorted(unknown)}")
        return cls(
            adapter,
            adapter.name,
            adapter.spec_version,
            tuple(adapter.losses),
            modes,
            dict(adapter.versions()),
            dict(getattr(adapter, "argument_names", {})),
            tuple(getattr(adapter, "label_forms", ("ids",))),
            tuple(getattr(adapter, "expected_failures", ())),
        )

    @classmethod
    def load(cls, module: str) -> Backend:
        """Import an adapter by its module's name; the current folder is searched too."""
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        try:
            adapter = importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise AdapterError(f"cannot import {module!r}: {error}") from error
        except Exception as error:
            raise AdapterError(f"importing {module!r} raised {type(error).__name__}: {error}") from error
        return cls.of(adapter)

    def answer(self, call: Call, mode: Mode) -> Result:
        """Evaluate a call of NumPy arrays. Lets the backend's own exceptions through."""

        def native(array: Any) -> Any:
            return None if array is None else self.adapter.from_numpy(array, mode)

        given = replace(
            call,
            logits=native(call.logits),
            labels=native(call.labels),
            sample_weight=native(call.sample_weight),
        )
        value, gradient = self.adapter.value_and_gradient(given, mode)
        return Result(self.numpy(value, "value"), self.numpy(gradient, "gradient"))

    def numpy(self, array: Any, what: str) -> Array:
        converted = self.adapter.to_numpy(array)
        if not isinstance(converted, np.ndarray | np.generic):
            raise TypeError(f"to_numpy must return a NumPy array; for the {what} it returned {type(converted)}")
        return np.asarray(converted)


def unknown_loss(name: str) -> str:
    """What to say of a loss that the specification does not have."""
    close = difflib.get_close_matches(name, LOSSES, n=1, cutoff=0.0)
    return f"{name!r} is no loss of the specification; did you mean {close[0]!r}? It has {', '.join(LOSSES)}"
