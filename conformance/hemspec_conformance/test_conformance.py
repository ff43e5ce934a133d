"""A test for each check of a backend's plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

import pytest

from hemspec_conformance.plugin import PROPERTY, worker_of


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    checks = worker_of(metafunc.config).opening.checks
    metafunc.parametrize("index", range(len(checks)), ids=[check.id for check in checks])


def test_check(index: int, pytestconfig: pytest.Config, record_property: Callable[[str, object], None]) -> None:
    worker = worker_of(pytestconfig)
    outcome = worker.run(index)
    said = {
        "backend": worker.opening.name,
        "versions": worker.opening.versions,
        "checks": len(worker.opening.checks),
        "outcome": asdict(outcome),
    }
    record_property(PROPERTY, json.dumps(said))
    if outcome.status == "failed":
        pytest.fail(outcome.message, pytrace=False)
    if outcome.status == "expected failure":
        pytest.xfail(outcome.message)
    if outcome.status in ("skipped", "not offered"):
        pytest.skip(outcome.message or outcome.status)
