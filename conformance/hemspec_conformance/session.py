"""Asks a backend the checks of its plan, one at a time, and says what came of each."""

from __future__ import annotations

import fnmatch
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from hemspec_conformance.adapter import ExpectedFailure
from hemspec_conformance.backend import Backend, ConformanceError, InputChangedError, NotAskedError
from hemspec_conformance.plan import Check, Kind, fuzz_plan, plan

Status = Literal["passed", "failed", "expected failure", "skipped", "not offered"]


@dataclass(frozen=True)
class Outcome:
    """What came of a check."""

    id: str
    kind: Kind
    loss: str
    case: str
    mode: str
    dtype: str
    status: Status
    worst: float = 0.0
    """The worst error seen, in units of the tolerance."""
    seconds: float = 0.0
    message: str = ""


class Session:
    """A backend and its plan. Checks are named by their place in the plan, which is the same in every process."""

    def __init__(
        self, backend: Backend, *, full: bool = False, examples: int | None = None, fuzz: int = 0, seed: int = 0
    ) -> None:
        self.backend = backend
        if fuzz:
            self.checks, self.expected = fuzz_plan(backend, fuzz, seed), []
            return
        self.checks = plan(backend, full=full, examples=examples)
        self.expected = [entry for entry in backend.expected_failures if not objection(entry, backend)]
        self.checks += [self.entry_check(entry, number) for number, entry in enumerate(backend.expected_failures, 1)]

    def entry_check(self, entry: ExpectedFailure, number: int) -> Check:
        """An expected failure has to be one: it says why and where, and matches a check."""

        def run() -> None:
            unusable = objection(entry, self.backend)
            if isinstance(unusable, ConformanceError):
                raise unusable
            if not unusable and not any(matches(entry, check) for check in self.checks):
                raise ConformanceError(f"{self.backend.name}: expected failure {entry.check!r} matches no check")

        return Check("adapter", "", f"expected_failure_{number}", "", "", run)

    def describe(self, index: int) -> str:
        """What a check asks, where its id does not say it."""
        return self.checks[index].question()

    def run(self, index: int) -> Outcome:
        """Ask one check."""
        check = self.checks[index]
        if check.not_offered or check.skip:
            return outcome(check, "not offered" if check.not_offered else "skipped", message=check.skip)
        start = time.perf_counter()
        worst, message = 0.0, ""
        try:
            with warnings.catch_warnings():
                # What hemspec's own code warns of is a fault; what the frameworks warn of is theirs.
                warnings.filterwarnings("error", module="hemspec")
                worst = check.run() or 0.0
        except NotAskedError as error:
            return outcome(check, "skipped", message=str(error))
        except InputChangedError as error:
            message = f"{self.backend.name}: {check.id}\n{error}"
        except ConformanceError as error:
            message = str(error)
        except Exception as error:
            message = f"{self.backend.name}: {check.id}\n  {said(error)}"
        seconds = time.perf_counter() - start
        entry = next((entry for entry in self.expected if matches(entry, check)), None)
        if entry is None:
            return outcome(check, "failed" if message else "passed", worst, seconds, message)
        if message:
            return outcome(check, "expected failure", worst, seconds, f"{entry.reason} ({entry.link})\n{message}")
        message = f"{self.backend.name}: {check.id}\n  passes, but is listed as an expected failure: {entry.reason}"
        return outcome(check, "failed", worst, seconds, message)


def outcome(check: Check, status: Status, worst: float = 0.0, seconds: float = 0.0, message: str = "") -> Outcome:
    return Outcome(
        check.id, check.kind, check.loss, check.case, check.mode, check.dtype, status, worst, seconds, message
    )


def said(error: Exception) -> str:
    """An exception in a line or two, with the place in the adapter's or backend's code that it came from."""
    frames: Sequence[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "hemspec_conformance" not in frame.filename] or frames
    where = f" ({ours[-1].filename}:{ours[-1].lineno})" if ours else ""
    return f"raised {type(error).__name__}: {str(error).strip() or '(no message)'}{where}"


def matches(entry: ExpectedFailure, check: Check) -> bool:
    return not check.not_offered and fnmatch.fnmatchcase(check.id, entry.check)


def objection(entry: ExpectedFailure, backend: Backend) -> str | ConformanceError:
    """Why an expected failure is not in force: it speaks of other versions or platforms, or it is not usable."""
    if not entry.reason or not entry.link:
        return ConformanceError(f"expected failure {entry.check!r} needs a reason and a link")
    if entry.platforms and sys.platform not in entry.platforms:
        return f"not on {sys.platform}"
    for package, versions in entry.versions.items():
        try:
            if not SpecifierSet(versions).contains(backend.versions[package], prereleases=True):
                return f"not with {package} {backend.versions[package]}"
        except (KeyError, InvalidSpecifier):
            return ConformanceError(
                f"expected failure {entry.check!r}: versions {{{package!r}: {versions!r}}} cannot be compared with"
                f" {dict(backend.versions)}"
            )
    return ""
