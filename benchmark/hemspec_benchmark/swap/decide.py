"""What the matrix says: how far each candidate is from cross-entropy, in how many trainings, and at worst."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from hemspec_benchmark.store import Document
from hemspec_benchmark.swap.matrix import (
    CANDIDATES,
    COMPARED_SEEDS,
    MATRIX,
    SEEDS,
    Training,
    candidates_of,
    read_setting,
)

WITHIN: Final = -1.0
AHEAD: Final = 1.0
BROKEN: Final = -5.0
"""Points from cross-entropy, see benchmark/PROTOCOL.md, section 10."""

DEFAULTS: Final = ("hem-margin-1", "hem-margin-1-mean", "hem", "hem-mean")
"""On trial for the bare `HEMLoss()`, which is the first: a margin that can be had without knowing the data, and not."""
BETWEEN: Final = ("hem-share-0.1", "hem-share-0.25", "hem-share-0.5", "hem-geometric")
"""Denominators between the mean and the active mean, each with HEM's margin."""


@dataclass(frozen=True)
class Difference:
    """A candidate less another loss in one training, the mean over the seeds, in points."""

    training: Training
    candidate: str
    points: float
    finite: bool
    """Whether all of the candidate's trainings ended in finite numbers, without one that was not on the way."""

    @property
    def within(self) -> bool:
        """Not more than a point behind."""
        return self.finite and self.points > WITHIN

    @property
    def ahead(self) -> bool:
        """By more than a point."""
        return self.finite and self.points > AHEAD

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


def missing(document: Document) -> int:
    """How many trainings of the whole matrix a document lacks. Nothing is said of the matrix while there are any."""
    there = {(read_setting(entry["setting"])[0], entry["loss"], entry["seed"]) for entry in document["cells"]}
    return sum(
        (training, candidate, seed) not in there
        for training in MATRIX
        for seed in COMPARED_SEEDS
        for candidate in candidates_of(training, seed)
    )


def differences(document: Document, seeds: Iterable[int] = SEEDS) -> list[Difference]:
    """To cross-entropy, for every training and candidate of which all these seeds are there, as of cross-entropy."""
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
            # Rounded, so that a difference of exactly a point is one on every machine.
            made.append(Difference(training, candidate, round(float(points), 9), finite))
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
        within=share(entry.within for entry in made),
        ahead=share(entry.ahead for entry in made),
        broken=share(entry.broken for entry in made),
        worst=worst(made),
    )


def worst(made: Iterable[Difference]) -> Difference:
    """The one furthest behind; one that is not finite is behind all that are."""
    return min(made, key=lambda entry: (entry.finite, entry.points))


def best_default(made: Iterable[Difference]) -> list[Summary]:
    """Those on trial, the one with the smallest loss at worst first.

    A tie, within a point of the best, keeps what is: the bare `HEMLoss()` comes first then.
    """
    found = [entry for entry in summaries(made) if entry.candidate in DEFAULTS]
    found.sort(key=lambda entry: (not entry.worst.finite, -entry.worst.points))
    now = next(entry for entry in found if entry.candidate == DEFAULTS[0])
    if (now.worst.finite, now.worst.points) >= (found[0].worst.finite, found[0].worst.points + WITHIN):
        found.insert(0, found.pop(found.index(now)))
    return found


def to_the_better(made: Iterable[Difference]) -> list[Difference]:
    """Each denominator in between, less the better of the active mean and the mean in the same training."""
    found = {(entry.training, entry.candidate): entry for entry in made}
    compared = []
    for (training, candidate), entry in found.items():
        if candidate in BETWEEN:
            ends = found[training, "hem"], found[training, "hem-mean"]
            better = max(ends, key=lambda end: (end.finite, end.points))
            compared.append(Difference(training, candidate, entry.points - better.points, entry.finite))
    return compared
