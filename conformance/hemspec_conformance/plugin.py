"""The pytest plugin: one test for each vector, mode and dtype, one for each bad argument and mode.

The number of tests is worked out from the manifest beforehand. A run that collects fewer, or runs fewer, fails: a
suite that has lost its vectors must not look green.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from hemspec_conformance.adapter import DTYPES, Adapter, Mode
from hemspec_conformance.adapters import TARGETS, make
from hemspec_conformance.rejections import REJECTIONS, Rejection
from hemspec_conformance.vectors import Vector, load

MINIMUM = {"vectors": 390, "rejections": 169}
"""What spec version 1 has. Grows with new vectors; less than this is a broken suite."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hemspec conformance")
    group.addoption("--target", choices=sorted(TARGETS), help="the backend to check")
    group.addoption("--full", action="store_true", help="every case in every dtype also in the modes that compile")


@cache
def adapter_of(target: str) -> Adapter:
    return make(target)


def checks(adapter: Adapter, full: bool) -> Iterator[tuple[Vector, Mode, str]]:
    """Every vector in the modes and dtypes that it is meant for."""
    for vector in load():
        for mode in adapter.modes:
            for dtype in DTYPES:
                if dtype not in vector.dtypes or dtype not in mode.dtypes:
                    continue
                if full or asked(mode, vector, dtype):
                    yield vector, mode, dtype


def asked(mode: Mode, vector: Vector, dtype: str) -> bool:
    """Whether a usual run asks a mode for this case."""
    if mode.coverage == "core":
        return vector.core and dtype in ("float32", "bfloat16")
    return mode.coverage == "all" or vector.core or dtype == mode.dtypes[0]


def rejection_checks(adapter: Adapter, full: bool) -> Iterator[tuple[Rejection, Mode]]:
    for rejection in REJECTIONS:
        for mode in adapter.modes:
            if rejection.label_form and adapter.lenient_labels:
                continue
            if rejection.static and not mode.static_shapes:
                continue
            # What is refused while tracing is refused before a C++ compiler could start; HEM stands for the others.
            if full or mode.coverage != "core" or (rejection.call.loss == "hem_loss" and not rejection.static):
                yield rejection, mode


def pytest_configure(config: pytest.Config) -> None:
    config.stash[COUNTS] = Counter()


COUNTS = pytest.StashKey[Counter[str]]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    wanted = {"vector", "rejection"} & set(metafunc.fixturenames)
    if not wanted:
        return
    target = metafunc.config.getoption("--target")
    if target is None:
        raise pytest.UsageError(f"--target is needed: one of {', '.join(TARGETS)}")
    adapter = adapter_of(target)
    parameters: list[Any]
    if "vector" in wanted:
        found = list(checks(adapter, metafunc.config.getoption("--full")))
        parameters = [(adapter, *check) for check in found]
        ids = [f"{v.call.loss}-{v.name}-{mode.name}-{dtype}" for v, mode, dtype in found]
        metafunc.parametrize(("adapter", "vector", "mode", "dtype"), parameters, ids=ids)
    else:
        bad = list(rejection_checks(adapter, metafunc.config.getoption("--full")))
        parameters = [(adapter, *check) for check in bad]
        ids = [f"{r.call.loss}-{r.name}-{mode.name}" for r, mode in bad]
        metafunc.parametrize(("adapter", "rejection", "mode"), parameters, ids=ids)
