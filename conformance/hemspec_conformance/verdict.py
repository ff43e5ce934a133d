"""What the suite says of a backend: a record to keep (JSON), and a summary to read in a terminal."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from hemspec import SPEC_VERSION, __version__
from hemspec_conformance.adapter import LOSSES
from hemspec_conformance.session import Outcome
from hemspec_conformance.vectors import load

SCHEMA: Final = 1
STATUSES: Final = ("passed", "failed", "expected failure", "skipped", "not offered")
MESSAGES_SHOWN: Final = 20
"""For how many losses and modes a terminal gets to see a failure; the JSON has them all."""


def suite() -> dict[str, Any]:
    """Which suite this is: what may be compared and merged is of one suite."""
    manifest = (files("hemspec_conformance") / "vectors" / "manifest.json").read_bytes()
    return {
        "hemspec": __version__,
        "spec_version": SPEC_VERSION,
        "vectors": len(load()),
        "sha256": hashlib.sha256(manifest).hexdigest(),
    }


def machine() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "system": platform.system().lower(),
        "machine": platform.machine(),
    }


@dataclass(frozen=True)
class Verdict:
    """Everything that one run of the suite found out about one backend."""

    backend: str
    versions: Mapping[str, str]
    outcomes: Sequence[Outcome]
    partial: bool = False
    """Whether only a part of the plan was asked for."""
    full: bool = False
    seconds: float = 0.0
    started: str = field(default_factory=lambda: datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds"))
    machine: Mapping[str, str] = field(default_factory=machine)
    suite: Mapping[str, Any] = field(default_factory=suite)

    @property
    def counts(self) -> dict[str, int]:
        found = Counter(outcome.status for outcome in self.outcomes)
        return {status: found[status] for status in STATUSES}

    @property
    def conforms(self) -> bool:
        """Nothing failed, and something was asked."""
        return self.counts["passed"] > 0 and not self.counts["failed"]

    def to_json(self) -> str:
        """One line a check, without what is empty."""
        head = {"schema": SCHEMA, **{k: v for k, v in asdict(self).items() if k != "outcomes"}, "counts": self.counts}
        checks = ",\n  ".join(
            json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(outcome).items() if v})
            for outcome in self.outcomes
        )
        return f'{json.dumps(head, indent=1)[:-2]},\n "checks": [\n  {checks}\n ]\n}}\n'

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        data = json.loads(text)
        if data.pop("schema", None) != SCHEMA:
            raise ValueError(f"not a verdict of schema {SCHEMA}")
        data.pop("counts")
        empty = {"loss": "", "case": "", "mode": "", "dtype": ""}
        return cls(outcomes=tuple(Outcome(**{**empty, **check}) for check in data.pop("checks")), **data)


@dataclass
class Cell:
    """What came of a group of checks."""

    counts: Counter[str] = field(default_factory=Counter)
    worst: float = 0.0

    def add(self, outcome: Outcome) -> None:
        self.counts[outcome.status] += 1
        self.worst = max(self.worst, outcome.worst)

    def __str__(self) -> str:
        """The passed, and whatever else there is; nothing where nothing was asked."""
        if not self.counts:
            return "·"
        short = {"failed": "FAILED", "expected failure": "expected", "skipped": "skipped", "not offered": "not offered"}
        others = [
            word if status == "not offered" else f"{self.counts[status]} {word}"
            for status, word in short.items()
            if self.counts[status]
        ]
        return ", ".join([*([str(self.counts["passed"])] if self.counts["passed"] else []), *others])


def cells(outcomes: Iterable[Outcome], *by: str) -> dict[tuple[str, ...], Cell]:
    """Outcomes counted by some of their attributes: ``cells(outcomes, "loss", "mode", "dtype")``."""
    found: dict[tuple[str, ...], Cell] = {}
    for outcome in outcomes:
        found.setdefault(tuple(getattr(outcome, name) for name in by), Cell()).add(outcome)
    return found


def short(loss: str) -> str:
    return loss.removesuffix("_loss") or "adapter"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns, the first to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]


def summary(verdict: Verdict) -> str:
    """The verdict as text: what was asked and found by mode and loss, the failures, and one line that says it all."""
    by_loss = cells(verdict.outcomes, "mode", "loss")
    modes = list(dict.fromkeys(outcome.mode for outcome in verdict.outcomes if outcome.mode))
    worst = cells(verdict.outcomes, "loss")
    rows = [["checks passed", *map(short, LOSSES)]]
    rows += [[mode, *(str(by_loss.get((mode, loss), Cell())) for loss in LOSSES)] for mode in modes]
    absent = [loss for loss in LOSSES if worst.get((loss,), Cell()).counts["not offered"]]
    if absent:
        rows.append(["not offered", *("×" if loss in absent else "" for loss in LOSSES)])
    asked = [worst.get((loss,), Cell()) for loss in LOSSES]
    rows.append(["worst error / tolerance", *(f"{cell.worst:.2g}" if cell.counts["passed"] else "·" for cell in asked)])
    lines = ["", *table(rows), f"the adapter itself: {worst.get(('',), Cell())}", "", *failures(verdict)]
    for outcomes in by_reason(verdict).values():
        more = f" and {len(outcomes) - 1} more" if len(outcomes) > 1 else ""
        lines.append(f"expected failure {outcomes[0].id}{more}: {outcomes[0].message.splitlines()[0]}")
    for (reason,), cell in cells((o for o in verdict.outcomes if o.status == "skipped"), "message").items():
        lines.append(f"skipped {cell.counts['skipped']}: {reason}")
    if not verdict.partial and not any(outcome.kind == "bad input" for outcome in verdict.outcomes):
        lines.append("bad input was not tried: no mode has refusals")
    return "\n".join([*lines, said(verdict)]) + "\n"


def by_reason(verdict: Verdict) -> dict[str, list[Outcome]]:
    """The expected failures, by the first line of their message: the reason and the link."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in verdict.outcomes:
        if outcome.status == "expected failure":
            groups.setdefault(outcome.message.splitlines()[0], []).append(outcome)
    return groups


def failures(verdict: Verdict) -> list[str]:
    """The first failure of each loss in each mode, and how many more there are like it."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in verdict.outcomes:
        if outcome.status == "failed":
            groups.setdefault((outcome.loss, outcome.mode), []).append(outcome)
    lines = []
    for (loss, mode), outcomes in list(groups.items())[:MESSAGES_SHOWN]:
        lines.append(f"FAILED {outcomes[0].message}")
        if len(outcomes) > 1:
            lines.append(f"  ... and {len(outcomes) - 1} more of {short(loss)}{f' in mode {mode}' if mode else ''}")
    hidden = sum(len(outcomes) for outcomes in list(groups.values())[MESSAGES_SHOWN:])
    return [*lines, f"... and {hidden} failures of other losses and modes; --json keeps them all"] if hidden else lines


def said(verdict: Verdict) -> str:
    """The verdict in a line."""
    versions = ", ".join(f"{package} {version}" for package, version in verdict.versions.items())
    counts = ", ".join(
        f"{number} {status if number == 1 else status.replace('failure', 'failures')}"
        for status, number in verdict.counts.items()
        if number
    )
    if verdict.conforms:
        word = "passes the part that was asked" if verdict.partial else "conforms"
    else:
        word = "DOES NOT CONFORM" if verdict.counts["failed"] else "was asked nothing"
    return (
        f"{verdict.backend} ({versions}) {word}, specification {verdict.suite['spec_version']}:"
        f" {counts} in {verdict.seconds:.0f} s"
    )


def read(paths: Iterable[Path]) -> list[Verdict]:
    """Verdicts from their files; all of one suite."""
    verdicts = [Verdict.from_json(path.read_text("utf-8")) for path in paths]
    suites = {json.dumps(verdict.suite) for verdict in verdicts}
    if len(suites) > 1:
        raise ValueError(f"verdicts of different suites cannot be merged: {'; '.join(sorted(suites))}")
    return verdicts


def markdown(verdicts: Sequence[Verdict]) -> str:
    """All backends in one table: checks passed, by loss; – for a loss that is not offered."""
    rows = [["backend", *map(short, LOSSES), "bad input", "laws", "modes", "expected to fail", "failed", "skipped"]]
    for verdict in verdicts:
        by_loss, by_kind = cells(verdict.outcomes, "kind", "loss"), cells(verdict.outcomes, "kind")
        counted = [*(("vector", loss) for loss in LOSSES), ("bad input",), ("law",)]
        found = [(by_loss if len(key) > 1 else by_kind).get(key, Cell()).counts for key in counted]
        modes = {outcome.mode for outcome in verdict.outcomes if outcome.mode and outcome.status == "passed"}
        others = [verdict.counts[status] for status in ("expected failure", "failed", "skipped")]
        passed = ["–" if counts["not offered"] else counts["passed"] for counts in found]
        rows.append([verdict.backend, *map(str, [*passed, len(modes), *others])])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join(lines) + "\n"
