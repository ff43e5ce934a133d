"""Deciding a question by paired differences: superiority, non-inferiority, equivalence, and how many seeds would do.

The rules are those of benchmark/PROTOCOL.md, section 6, fixed before the data they are for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from hemspec_benchmark.statistics import ALPHA, holm

Kind = Literal["better", "no worse", "alike"]
Word = Literal["holds", "does not hold", "equivalent", "open"]

POWER: Final = 0.8
MOST_SEEDS: Final = 1000
"""Beyond which nobody asks."""


@dataclass(frozen=True)
class Question:
    """What is asked of a difference."""

    text: str
    kind: Kind
    margin: float
    """What may be lost ("no worse"), or what makes no difference ("alike", and an undecided "better")."""
    at_least: float = 0.0
    """What a claim of "much better" asks for beside significance."""


@dataclass(frozen=True)
class Paired:
    """Differences over seeds, one from each, and Student's t about them.

    Args:
        values: (n,), at least two.
        overlap: test samples by training samples of a split, where all splits come from the same data; 0 for the usual
            test. The variance of the mean is then multiplied by 1 + n x overlap (Nadeau and Bengio, Machine Learning
            52, 2003).
    """

    values: tuple[float, ...]
    overlap: float = 0.0

    @property
    def count(self) -> int:
        """Seeds."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Of the differences."""
        return float(np.mean(self.values))

    @property
    def error(self) -> float:
        """The mean's standard error."""
        return float(np.std(self.values, ddof=1) * np.sqrt(1.0 / self.count + self.overlap))

    @property
    def interval(self) -> tuple[float, float]:
        """At 95 %."""
        half = float(stats.t.ppf(1.0 - ALPHA / 2.0, self.count - 1)) * self.error
        return self.mean - half, self.mean + half

    def beyond(self, value: float) -> float:
        """The one-sided p of the hypothesis that the true mean is at most `value`."""
        if self.error == 0.0:  # no spread: as the sign test has it
            return 0.5**self.count if self.mean > value else 1.0
        return float(stats.t.sf((self.mean - value) / self.error, self.count - 1))

    def below(self, value: float) -> float:
        """The one-sided p of the hypothesis that the true mean is at least `value`."""
        return Paired(tuple(-one for one in self.values), self.overlap).beyond(-value)


def p_value(question: Question, found: Paired) -> float:
    """Of the question's own test, all as two-sided ones, so that the 95 % interval decides."""
    if question.kind == "better":
        one_sided = min(found.beyond(0.0), found.below(0.0))
    elif question.kind == "no worse":
        one_sided = found.beyond(-question.margin)
    else:
        one_sided = max(found.beyond(-question.margin), found.below(question.margin))
    return min(1.0, 2.0 * one_sided)


@dataclass(frozen=True)
class Answer:
    """What became of a question."""

    question: Question
    found: Paired
    corrected: float
    """Its p after Holm's correction over its family."""

    @property
    def word(self) -> Word:
        """By the rules of the protocol."""
        question, (low, high) = self.question, self.found.interval
        if self.corrected < ALPHA and (question.kind != "better" or self.found.mean > 0.0):
            enough = question.kind != "better" or self.found.mean >= question.at_least
            return "holds" if enough else "open"
        against = {
            "better": self.corrected < ALPHA,
            "no worse": high < -question.margin,
            "alike": low > question.margin or high < -question.margin,
        }
        if against[question.kind]:
            return "does not hold"
        if question.kind == "better" and -question.margin < low and high < question.margin:
            return "equivalent"
        return "open"


def answers(asked: Sequence[tuple[Question, Paired]]) -> list[Answer]:
    """A family: all its questions, corrected together."""
    corrected = holm([p_value(question, found) for question, found in asked])
    return [Answer(question, found, p) for (question, found), p in zip(asked, corrected, strict=True)]


# How many seeds


def seeds_to_decide(answer: Answer, tests: int) -> int | None:
    """The fewest seeds of a new run that decides with a chance of 80 % if mean and spread are those that were seen.

    Args:
        answer: an open one.
        tests: of its family; each is asked at 5 % by their number, which is what Holm's correction asks at most.

    Returns:
        None where more than `MOST_SEEDS` are needed.
    """
    spread = float(np.std(answer.found.values, ddof=1))
    if spread == 0.0:
        return 2
    question, mean = answer.question, answer.found.mean
    chances: list[Callable[[int], float]] = []
    if question.kind == "better":
        chances = [
            lambda n: _chance_of_significance(abs(mean) / spread, n, ALPHA / tests),
            lambda n: _chance_within(mean / spread, question.margin / spread, n, ALPHA),
        ]
    elif question.kind == "no worse":
        chances = [lambda n: _chance_of_significance(abs(mean + question.margin) / spread, n, ALPHA / tests)]
    else:
        away = max(0.0, abs(mean) - question.margin) / spread
        chances = [
            lambda n: _chance_within(mean / spread, question.margin / spread, n, ALPHA / tests),
            lambda n: _chance_of_significance(away, n, ALPHA),
        ]
    # The chances grow with n.
    numbers = range(2, MOST_SEEDS + 1)
    first = bisect_left(numbers, True, key=lambda n: any(chance(n) >= POWER for chance in chances))
    return numbers[first] if first < len(numbers) else None


def _chance_of_significance(effect: float, n: int, alpha: float) -> float:
    """That a two-sided t-test of n differences finds a mean of `effect` standard deviations, on its own side."""
    return float(stats.nct.sf(stats.t.ppf(1.0 - alpha / 2.0, n - 1), n - 1, effect * np.sqrt(n)))


def _chance_within(effect: float, margin: float, n: int, alpha: float) -> float:
    """That the interval at 1 - alpha of n differences lies inside the margin, all in standard deviations."""
    if abs(effect) >= margin:
        return 0.0
    critical = stats.t.ppf(1.0 - alpha / 2.0, n - 1)
    above = stats.nct.sf(critical, n - 1, (effect + margin) * np.sqrt(n))
    below = stats.nct.sf(critical, n - 1, (margin - effect) * np.sqrt(n))
    return float(max(0.0, above + below - 1.0))


def composite(parts: Iterable[npt.ArrayLike]) -> npt.NDArray[np.float64]:
    """The mean over parts, seed by seed."""
    return np.mean(np.stack([np.asarray(part, dtype=float) for part in parts]), axis=0)  # type: ignore[no-any-return]
