"""The pytest plugin: one test for each vector, mode and dtype, one for each bad argument and mode.

How many checks a target has at the least is written down here. A run that collects or runs fewer fails: a suite that
has lost its vectors, or stopped half-way, must not look green.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

import pytest

from hemspec_conformance.adapter import DTYPES, LOSSES, Adapter, Mode
from hemspec_conformance.adapters import TARGETS, make
from hemspec_conformance.rejections import REJECTIONS, Rejection
from hemspec_conformance.vectors import Vector, load

MINIMUM_VECTORS: Final = 412
MINIMUM_CHECKS: Final[Mapping[str, int]] = {
    "numpy": 1790,
    "torch": 4323,
    "tensorflow": 3213,
    "jax": 1604,
    "keras-tensorflow": 2400,
    "keras-jax": 830,
    "keras-torch": 1755,
}
"""The checks of spec version 1. These numbers only ever grow."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hemspec conformance")
    group.addoption("--target", choices=list(TARGETS), help="the backend to check")
    group.addoption("--full", action="store_true", help="every case in every dtype also in the modes that compile")


def pytest_configure(config: pytest.Config) -> None:
    # A warning that hemspec itself causes is a fault; what the frameworks warn of is theirs.
    config.addinivalue_line("filterwarnings", "error:::hemspec")
    target = config.getoption("--target")
    if target is None:
        return
    if len(load()) < MINIMUM_VECTORS:
        raise pytest.UsageError(f"{len(load())} vectors are left of the {MINIMUM_VECTORS} of the specification")
    if not hasattr(config, "workerinput"):  # with several workers the reports come together in their controller
        config.pluginmanager.register(Verdict(config, target), "hemspec-verdict")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    wanted = {"vector", "rejection"} & set(metafunc.fixturenames)
    if not wanted:
        return
    target, full = metafunc.config.getoption("--target"), metafunc.config.getoption("--full")
    if target is None:
        raise pytest.UsageError(f"--target is needed: one of {', '.join(TARGETS)}")
    adapter = adapter_of(target)
    if "vector" in wanted:
        checks = list(vector_checks(adapter, full))
        ids = [f"{vector.call.loss}-{vector.name}-{mode.name}-{dtype}" for vector, mode, dtype in checks]
        metafunc.parametrize(("adapter", "vector", "mode", "dtype"), [(adapter, *check) for check in checks], ids=ids)
    else:
        refusals = list(rejection_checks(adapter, full))
        ids = [f"{rejection.call.loss}-{rejection.name}-{mode.name}" for rejection, mode in refusals]
        metafunc.parametrize(("adapter", "rejection", "mode"), [(adapter, *check) for check in refusals], ids=ids)


@cache
def adapter_of(target: str) -> Adapter:
    return make(target)


def vector_checks(adapter: Adapter, full: bool) -> Iterator[tuple[Vector, Mode, str]]:
    """Every vector in the modes and dtypes that it is meant for."""
    for vector in load():
        for mode in adapter.modes:
            for dtype in DTYPES:
                possible = dtype in vector.dtypes and dtype in mode.dtypes
                if possible and (full or asked(mode, vector, dtype)):
                    yield vector, mode, dtype


def asked(mode: Mode, vector: Vector, dtype: str) -> bool:
    """Whether a usual run asks a mode for this case."""
    if mode.coverage == "core":
        return vector.core and dtype in mode.dtypes[:2]
    return mode.coverage == "all" or vector.core or dtype == mode.dtypes[0]


def rejection_checks(adapter: Adapter, full: bool) -> Iterator[tuple[Rejection, Mode]]:
    """Every bad argument in every mode that can tell."""
    for rejection in REJECTIONS:
        for mode in adapter.modes:
            if (rejection.label_form and adapter.lenient_labels) or (rejection.static and not mode.static_shapes):
                continue
            # Where a trace refuses there is nothing to compile, and HEM stands for the others in what is left.
            brief = mode.coverage == "core" and not mode.reads_values
            if not (mode.refusals or full):
                continue
            if full or not brief or (rejection.call.loss == "hem_loss" and not rejection.static):
                yield rejection, mode


class Verdict:
    """Counts what ran, and says so at the end."""

    def __init__(self, config: pytest.Config, target: str) -> None:
        self.config, self.target = config, target
        self.ran = 0
        self.worst: dict[str, float] = {}

    @property
    def partial(self) -> bool:
        """Whether the user asked for a part of the suite."""
        return bool(self.config.option.keyword or self.config.option.markexpr or self.config.option.collectonly)

    @property
    def too_few(self) -> bool:
        return not self.partial and self.ran < MINIMUM_CHECKS[self.target]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        self.ran += 1
        for name, value in report.user_properties:
            if name in LOSSES:
                self.worst[name] = max(self.worst.get(name, 0.0), float(str(value)))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.too_few and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.section(f"hemspec conformance: {self.target}")
        minimum = MINIMUM_CHECKS[self.target]
        if self.too_few:
            terminalreporter.line(
                f"FAILED: {self.ran} checks ran, fewer checks than the suite has ({minimum})", red=True
            )
        else:
            note = f"a part of at least {minimum}" if self.partial else f"at least {minimum} expected"
            terminalreporter.line(
                f"{self.ran} checks of {len(load())} vectors and {len(REJECTIONS)} bad inputs ({note})"
            )
        if self.worst:
            errors = ", ".join(f"{loss.removesuffix('_loss')} {worst:.2g}" for loss, worst in self.worst.items())
            terminalreporter.line(f"worst error in units of the tolerance: {errors}")
