"""Deciding a question by paired differences: superiority, non-inferiority, equivalence, and how many seeds would do.

The rules are those of benchmark/PROTOCOL.md, section 6, fixed before the data they are for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
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


def against(question: Question, found: Paired) -> float:
    """The two-sided p of the opposite: worse, worse by more than the margin, further apart than the margin."""
    if question.kind == "better":
        one_sided = found.below(0.0)
    elif question.kind == "no worse":
        one_sided = found.below(-question.margin)
    else:
        one_sided = min(found.beyond(question.margin), found.below(-question.margin))
    return min(1.0, 2.0 * one_sided)


@dataclass(frozen=True)
class Answer:
    """What became of a question that was asked of one difference, or of several that all have to agree."""

    question: Question
    found: tuple[Paired, ...]
    corrected: float
    """The largest p of all differences, after Holm's correction over the family."""

    @property
    def decisive(self) -> Paired:
        """The difference with the largest p: the one that speaks least for the claim."""
        return max(self.found, key=lambda one: (one.mean <= 0.0, p_value(self.question, one)))

    @property
    def word(self) -> Word:
        """By the rules of the protocol."""
        question, directed = self.question, self.question.kind == "better"
        if self.corrected < ALPHA and not (directed and any(one.mean <= 0.0 for one in self.found)):
            enough = not directed or all(one.mean >= question.at_least for one in self.found)
            return "holds" if enough else "open"
        # Each of several could speak against it: their number is corrected for.
        alone = len(self.found) == 1
        opposite = min(against(question, one) for one in self.found) * len(self.found)
        if (self.corrected if directed and alone else opposite) < ALPHA:
            return "does not hold"
        low, high = self.decisive.interval
        if directed and alone and -question.margin < low and high < question.margin:
            return "equivalent"
        return "open"


def answers(asked: Sequence[tuple[Question, Paired | Sequence[Paired]]]) -> list[Answer]:
    """A family: all its questions, corrected together."""
    all_found = [(found,) if isinstance(found, Paired) else tuple(found) for _, found in asked]
    questions = [question for question, _ in asked]
    largest = [
        max(p_value(question, one) for one in found) for question, found in zip(questions, all_found, strict=True)
    ]
    return [Answer(*one) for one in zip(questions, all_found, holm(largest), strict=True)]


# How many seeds


def seeds_to_decide(answer: Answer, tests: int) -> int | None:
    """The fewest seeds of a new run that decides with a chance of 80 % if mean and spread are those that were seen.

    Where several differences have to agree, as many as the slowest of them needs.

    Args:
        answer: an open one.
        tests: of its family; each is asked at 5 % by their number, which is what Holm's correction asks at most.

    Returns:
        None where more than `MOST_SEEDS` are needed.
    """
    needed = [_seeds_for(answer.question, one, tests, alone=len(answer.found) == 1) for one in answer.found]
    return None if None in needed else max(one for one in needed if one is not None)


def _seeds_for(question: Question, found: Paired, tests: int, *, alone: bool) -> int | None:
    spread, mean = float(np.std(found.values, ddof=1)), found.mean
    if spread == 0.0:
        return 2
    chances: list[Callable[[int], float]] = []
    if question.kind == "better":
        chances = [lambda n: _chance_of_significance(abs(mean) / spread, n, ALPHA / tests)]
        if alone:  # only then "equivalent" is an answer
            chances += [lambda n: _chance_within(mean / spread, question.margin / spread, n, ALPHA)]
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
