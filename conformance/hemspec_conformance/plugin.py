"""The suite under pytest, a test for each check:

``pytest -p hemspec_conformance.plugin --pyargs hemspec_conformance --backend my_package.adapter``

pytest loads this module where it is asked to and nowhere else: whoever installs a loss has tests of their own, and
perhaps an option ``--backend`` too.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hemspec_conformance.session import Outcome
    from hemspec_conformance.verdict import Verdict
    from hemspec_conformance.workers import Worker

PROPERTY = "hemspec"
"""The user property that carries an outcome from pytest-xdist's workers to their controller."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hemspec conformance")
    group.addoption(
        "--backend", dest="hemspec_backend", metavar="MODULE", help="the module of the adapter of the backend to check"
    )
    group.addoption(
        "--backend-full", action="store_true", help="every case in every dtype also in the modes that compile"
    )
    group.addoption(
        "--backend-timeout",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="for one check (default: %(default)g)",
    )
    group.addoption("--backend-json", metavar="FILE", help="write the verdict to this file")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("hemspec_backend", None) is None or hasattr(config, "workerinput"):
        return
    config.pluginmanager.register(Reporter(config), "hemspec-verdict")


def worker_of(config: pytest.Config) -> Worker:
    """The process that runs the checks; one for each of pytest's."""
    from hemspec_conformance.backend import AdapterError
    from hemspec_conformance.workers import Request, Worker

    module = config.getoption("hemspec_backend", None)
    if module is None:
        command = "pytest -p hemspec_conformance.plugin --pyargs hemspec_conformance --backend my_package.adapter"
        raise pytest.UsageError(f"these tests need the module of an adapter: {command}")
    worker: Worker | None = getattr(config, "_hemspec_worker", None)
    if worker is None:
        request = Request(module, full=config.getoption("--backend-full"))
        try:
            worker = Worker(request, config.getoption("--backend-timeout"))
        except AdapterError as error:
            raise pytest.UsageError(str(error)) from error
        config._hemspec_worker = worker  # type: ignore[attr-defined]
        config.add_cleanup(worker.stop)
    return worker


class Reporter:
    """Gathers the outcomes, and says the verdict at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.start = time.perf_counter()
        self.opening: dict[str, Any] = {}
        self.outcomes: list[Outcome] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        from hemspec_conformance.session import Outcome

        if report.when == "call":
            for name, value in report.user_properties:
                if name == PROPERTY:
                    said = json.loads(str(value))
                    self.outcomes.append(Outcome(**said.pop("outcome")))
                    self.opening = said

    @property
    def partial(self) -> bool:
        """Whether the user asked for a part of the suite."""
        options = self.config.option
        return bool(options.keyword or options.markexpr or options.collectonly or getattr(options, "maxfail", 0))

    def missing(self) -> int:
        """Checks of the plan that never ran, though nobody asked for fewer."""
        return 0 if self.partial else self.opening.get("checks", 0) - len(self.outcomes)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.missing() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self.outcomes:
            return
        from pathlib import Path

        from hemspec_conformance.verdict import summary

        verdict = self.verdict()
        terminalreporter.section(f"hemspec conformance: {verdict.backend}")
        terminalreporter.write(summary(verdict))
        if self.missing():
            terminalreporter.line(f"FAILED: {self.missing()} of {self.opening['checks']} checks did not run", red=True)
        if path := self.config.getoption("--backend-json"):
            Path(path).write_text(verdict.to_json(), "utf-8")

    def verdict(self) -> Verdict:
        from hemspec_conformance.verdict import Verdict

        return Verdict(
            self.opening["backend"],
            self.opening["versions"],
            self.outcomes,
            partial=self.partial,
            full=self.config.getoption("--backend-full"),
            seconds=round(time.perf_counter() - self.start, 1),
        )
