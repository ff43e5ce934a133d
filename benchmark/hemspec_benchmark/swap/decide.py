"""What the matrix says: how far each candidate is from cross-entropy, in how many trainings, and at worst."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from hemspec_benchmark.store import Document
from hemspec_benchmark.swap.matrix import CANDIDATES, SEEDS, Training, read_setting

WITHIN: Final = -1.0
AHEAD: Final = 1.0
BROKEN: Final = -5.0
"""Points from cross-entropy, see benchmark/PROTOCOL.md, section 10."""


@dataclass(frozen=True)
class Difference:
    """A candidate less cross-entropy in one training, the mean over the seeds, in points."""

    training: Training
    candidate: str
    points: float
    finite: bool
    """Whether all of the candidate's trainings ended in finite numbers, without one that was not on the way."""

    @property
    def broken(self) -> bool:
        """Far behind, or not finite."""
        return self.points < BROKEN or not self.finite


@dataclass(frozen=True)
class Summary:
    """A candidate over many trainings; shares of one."""

    candidate: str
    trainings: int
    within: float
    ahead: float
    broken: float
    worst: Difference


def differences(document: Document, seeds: Iterable[int] = SEEDS) -> list[Difference]:
    """For every training and candidate of which all these seeds are there, as of cross-entropy."""
    asked = set(seeds)
    found: dict[tuple[Training, str], dict[int, dict[str, Any]]] = {}
    for entry in document["cells"]:
        if entry["seed"] in asked:
            found.setdefault((read_setting(entry["setting"])[0], entry["loss"]), {})[entry["seed"]] = entry["metrics"]
    made = []
    for (training, candidate), reached in sorted(found.items()):
        base = found.get((training, "ce"), {})
        if candidate != "ce" and set(reached) == set(base) == asked:
            points = 100.0 * np.mean([reached[seed]["score"] - base[seed]["score"] for seed in asked])
            finite = all(metrics["finite"] == 1.0 for metrics in reached.values())
            made.append(Difference(training, candidate, float(points), finite))
    return made


def summaries(made: Iterable[Difference]) -> list[Summary]:
    """A summary of each candidate, in the order of the tables."""
    by_candidate: dict[str, list[Difference]] = {}
    for difference in made:
        by_candidate.setdefault(difference.candidate, []).append(difference)
    return [summary(name, by_candidate[name]) for name in CANDIDATES if name in by_candidate]


def summary(candidate: str, made: list[Difference]) -> Summary:
    """Of these differences, all the candidate's. One that is not finite is broken, however it scored."""

    def share(true: Iterable[bool]) -> float:
        return float(np.mean(list(true)))

    return Summary(
        candidate,
        len(made),
        within=share(entry.finite and entry.points > WITHIN for entry in made),
        ahead=share(entry.finite and entry.points > AHEAD for entry in made),
        broken=share(entry.broken for entry in made),
        worst=min(made, key=lambda entry: (entry.finite, entry.points)),
    )
