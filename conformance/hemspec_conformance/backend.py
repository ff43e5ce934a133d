"""A backend under test: its adapter, read and checked once, and asked in NumPy's terms."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hemspec_conformance.adapter import DTYPES, LOSSES, Array, Call, ExpectedFailure, Mode

REQUIRED = ("name", "spec_version", "losses", "modes", "versions", "from_numpy", "to_numpy", "value_and_gradient")


class ConformanceError(AssertionError):
    """A backend differs from the specification. The message says where and by how much."""


class InputChangedError(ConformanceError):
    """A call wrote to what it was given."""


class NotAskedError(Exception):
    """A question cannot be put to the framework; the message says why. The check counts as skipped."""


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

    @property
    def derivatives(self) -> Collection[str]:
        """Which derivatives beyond the gradient the adapter says it offers."""
        return tuple(getattr(self.adapter, "derivatives", ()))

    def answer(self, call: Call, mode: Mode) -> Result:
        """Evaluate a call of NumPy arrays. Lets the backend's own exceptions through."""
        with self.handed_over(call, mode) as (given, _):
            value, gradient = self.adapter.value_and_gradient(given, mode)
            return Result(self.numpy(value, "value"), self.numpy(gradient, "gradient"))

    def gradient(self, call: Call, mode: Mode, upstream: Array) -> Array:
        """The gradient of the loss weighted by `upstream`."""
        with self.handed_over(call, mode, upstream=upstream) as (given, upstream):
            return self.numpy(self.adapter.gradient(given, mode, upstream), "gradient")

    def derivative(self, kind: str, call: Call, mode: Mode, direction: Array) -> Array:
        """One of the derivatives that the adapter offers."""
        with self.handed_over(call, mode, direction=direction) as (given, direction):
            return self.numpy(self.adapter.derivative(kind, given, mode, direction), f"{kind} derivative")

    @contextlib.contextmanager
    def handed_over(self, call: Call, mode: Mode, **more: Array) -> Iterator[tuple[Call, Any]]:
        """The call with the framework's own arrays, and one more array. All have to come back as they were.

        An exception of the port is no excuse. What it changed is restored, because others ask about the same arrays.
        """
        ours = {"logits": call.logits, "labels": call.labels, "sample_weight": call.sample_weight, **more}
        ours = {name: array for name, array in ours.items() if array is not None}
        theirs = {name: self.adapter.from_numpy(array, mode) for name, array in ours.items()}
        arrived = {name: self.numpy(array, name).copy() for name, array in theirs.items()}
        ours |= {name: value for name, value in call.constants.items() if isinstance(value, np.ndarray)}
        originals = {name: array.copy() for name, array in ours.items()}
        arrays = {name: theirs[name] for name in ("logits", "labels", "sample_weight") if name in theirs}
        try:
            yield replace(call, **arrays), theirs[next(iter(more))] if more else None
        finally:
            changed = [name for name, array in originals.items() if not identical(ours[name], array)]
            for name in changed:
                ours[name][...] = originals[name]
            changed += [name for name, array in theirs.items() if not self.is_still(array, arrived[name])]
            if changed:
                names = ", ".join(dict.fromkeys(changed))
                raise InputChangedError(
                    f"  what is handed in has to come back bit for bit, but the call wrote to {names}"
                )

    def is_still(self, array: Any, arrived: Array) -> bool:
        """Whether an array of the framework holds what it held; one that cannot be read any more does not."""
        try:
            return identical(self.numpy(array, "array"), arrived)
        except Exception:
            return False

    def numpy(self, array: Any, what: str) -> Array:
        converted = self.adapter.to_numpy(array)
        if not isinstance(converted, np.ndarray | np.generic):
            raise TypeError(f"to_numpy must return a NumPy array; for the {what} it returned {type(converted)}")
        return np.asarray(converted)


def identical(a: Array, b: Array) -> bool:
    """Whether two arrays are the same bit for bit."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def unknown_loss(name: str) -> str:
    """What to say of a loss that the specification does not have."""
    close = difflib.get_close_matches(name, LOSSES, n=1, cutoff=0.0)
    return f"{name!r} is no loss of the specification; did you mean {close[0]!r}? It has {', '.join(LOSSES)}"
