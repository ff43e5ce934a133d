"""What became of the paper's claims: two families, each corrected together, and what weakens a decision.

Fixed in benchmark/PROTOCOL.md, sections 5, 6 and 11.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from hemspec_benchmark.arms import LOSSES, Arm
from hemspec_benchmark.composites import COMPOSITES, SCORES, Results
from hemspec_benchmark.inference import Answer, Paired, Question, Word, answers, seeds_to_decide

MARGINS: Final = dict.fromkeys(COMPOSITES, 0.02) | {"clean": 0.01}
MUCH: Final = 0.05
OVERLAP: Final = 0.3 / 0.6
"""Test images by training images, of splits of the same images."""
OTHERS: Final = tuple(name for name in LOSSES if not name.startswith("hem"))


@dataclass(frozen=True)
class Comparison:
    """A composite of one loss less that of another."""

    composite: str
    loss: str = "hem"
    against: str = "ce"


@dataclass(frozen=True)
class Claim:
    """A question, and the differences that have to answer it."""

    question: Question
    comparisons: tuple[Comparison, ...]


def _hem_against_ce(name: str, text: str) -> Claim:
    kind = "no worse" if name == "clean" else "better"
    return Claim(Question(text, kind, MARGINS[name]), (Comparison(name),))  # type: ignore[arg-type]


FIRST: Final = (
    _hem_against_ce("rejection", "HEM rejects unknown classes better than cross-entropy"),
    _hem_against_ce("attack", "HEM withstands attacks better than cross-entropy"),
    _hem_against_ce("imbalance", "HEM learns better from imbalanced data than cross-entropy"),
    _hem_against_ce("continual", "HEM is better at continual learning than cross-entropy"),
    _hem_against_ce("segmentation", "HEM is better at segmentation than cross-entropy"),
    _hem_against_ce("clean", "HEM loses no more than a bit on clean images"),
)
"""HEM against cross-entropy, everybody at the rate of cross-entropy."""


def _better(text: str, *comparisons: Comparison, at_least: float = 0.0) -> Claim:
    return Claim(Question(text, "better", MARGINS[comparisons[0].composite], at_least), comparisons)


def _against_all(text: str, composite: str) -> Claim:
    return _better(text, *(Comparison(composite, against=name) for name in OTHERS))


SECOND: Final = (
    Claim(
        Question("LogitNorm and HEM are alike at rejecting unknown classes", "alike", 0.02),
        (Comparison("rejection", against="logitnorm"),),
    ),
    _better(
        "LogitNorm is much worse than HEM at continual learning",
        Comparison("continual", against="logitnorm"),
        at_least=MUCH,
    ),
    _better(
        "LogitNorm is much worse than HEM at segmentation",
        Comparison("segmentation", against="logitnorm"),
        at_least=MUCH,
    ),
    _better("LA is better than HEM on imbalanced data", Comparison("imbalance", loss="la", against="hem")),
    _better("LA is worse than HEM at rejecting unknown classes", Comparison("rejection", against="la")),
    _better("LA is worse than HEM at segmentation", Comparison("segmentation", against="la")),
    _better(
        "Dice is worse than HEM in each of the six",
        *(Comparison(name, against="dice-batch") for name in COMPOSITES),
    ),
    _against_all("HEM is better than every other loss at rejecting unknown classes", "rejection"),
    _against_all("HEM is better than every other loss at continual learning", "continual"),
    _against_all("HEM is better than every other loss at segmentation", "segmentation"),
)
"""Claims about other losses, each at its own best rate."""

REPLACES: Final = "HEM can replace cross-entropy in general: it is no worse in any of the six"


@dataclass(frozen=True)
class Verdict:
    """A claim, its answer, and what the protocol wants said beside it."""

    claim: Claim
    answer: Answer
    needed: int | None
    """Of an open claim, the seeds that would decide it; None beyond what anybody runs, and for a decided one."""
    turned: Word | None
    """What it would be with the corrected variance of overlapping splits, where that is another word."""
    otherwise: dict[str, Word] = field(default_factory=dict)
    """By each score for unknowns, and in other arms, uncorrected: where the decision may hang on them."""

    @property
    def word(self) -> Word:
        """The decision."""
        return self.answer.word


def paired(results: Results, claim: Claim, arm: Arm, overlap: float = 0.0, score: str | None = None) -> list[Paired]:
    """The differences of a claim in an arm."""
    return [
        Paired(results.difference(arm, COMPOSITES[one.composite], one.loss, one.against, score), overlap)  # type: ignore[arg-type]
        for one in claim.comparisons
    ]


def decide(results: Results, family: Sequence[Claim], arm: Arm) -> list[Verdict]:
    """A family of claims, corrected together."""
    found = answers([(claim.question, paired(results, claim, arm)) for claim in family])
    wider = answers([(claim.question, paired(results, claim, arm, OVERLAP)) for claim in family])
    return [
        Verdict(
            claim,
            answer,
            seeds_to_decide(answer, len(family)) if answer.word == "open" else None,
            other.word if other.word != answer.word else None,
            beside(results, claim) if arm == "paper" else {},
        )
        for claim, answer, other in zip(family, found, wider, strict=True)
    ]


def beside(results: Results, claim: Claim) -> dict[str, Word]:
    """A claim against cross-entropy by each score, and in the arms that take other steps; uncorrected."""
    asked: dict[str, list[Paired]] = {}
    if claim.comparisons[0].composite == "rejection":
        asked |= {score.replace("max_", "largest "): paired(results, claim, "paper", score=score) for score in SCORES}
    others: tuple[Arm, Arm] = ("clipped", "adam")
    asked |= {arm: paired(results, claim, arm) for arm in others}
    return {name: answers([(claim.question, found)])[0].word for name, found in asked.items()}


def replaces(results: Results, arm: Arm = "paper") -> tuple[Word, dict[str, Answer]]:
    """Whether HEM can replace cross-entropy in general: no worse in any composite, each at 5 % without correction."""
    found = {}
    for name, margin in MARGINS.items():
        claim = Claim(Question(COMPOSITES[name].label, "no worse", margin), (Comparison(name),))
        (found[name],) = answers([(claim.question, paired(results, claim, arm))])
    words = [answer.word for answer in found.values()]
    if "does not hold" in words:
        return "does not hold", found
    return ("open" if "open" in words else "holds"), found
