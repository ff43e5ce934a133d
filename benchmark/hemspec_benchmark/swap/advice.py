"""The decision table: what a person may read off before training, and whether it is right.

It was made from the seeds 101 to 105. Whether it is right is asked on others: see benchmark/PROTOCOL.md, section 10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from hemspec_benchmark.swap.decide import Difference
from hemspec_benchmark.swap.matrix import Training


@dataclass(frozen=True)
class Advice:
    """A line: in these trainings this candidate is safe, within a point of cross-entropy."""

    where: str
    take: str
    """What to write, in Markdown."""
    candidate: str
    holds: Callable[[Training], bool]


SMALL: Final = ("mlp", "cnn", "cnn-norm")
"""Networks that are no transformers: with SGD none of our losses is safe in those."""


def _adam_falling(training: Training) -> bool:
    return _adam(training) and training.schedule != "constant"


def _adam_constant(training: Training) -> bool:
    return _adam(training) and training.schedule == "constant" and training.network in SMALL


def _sgd_clipped(training: Training) -> bool:
    falls = training.schedule != "constant"
    return not _adam(training) and falls and training.clipping == "clipped" and training.network in SMALL


def _sgd_free(training: Training) -> bool:
    # One-cycle without momentum goes up to rates at which a network without batch norm does not survive.
    momentum_or_slow = training.optimizer == "momentum" or training.schedule != "one-cycle"
    free = training.clipping == "free" and training.network in SMALL
    return not _adam(training) and momentum_or_slow and free


def _segmentation(training: Training) -> bool:
    return training.data == "scenes" and training.optimizer == "adam"


def _adam(training: Training) -> bool:
    return training.optimizer.startswith("adam") and training.data != "scenes"


ADVICE: Final = (
    Advice("Adam or AdamW, a rate that falls", "`HEMLoss()`", "hem-margin-1", _adam_falling),
    Advice(
        "Adam or AdamW, a constant rate; an MLP or a CNN",
        '`HEMLoss(reduction="mean")`',
        "hem-margin-1-mean",
        _adam_constant,
    ),
    Advice(
        "SGD, a rate that falls, the gradient's norm clipped at 1; an MLP or a CNN",
        "`HEMLoss()`",
        "hem-margin-1",
        _sgd_clipped,
    ),
    Advice(
        "SGD, not clipped (without momentum: not one-cycle); an MLP or a CNN",
        '`HEMLoss(reduction="mean")`',
        "hem-margin-1-mean",
        _sgd_free,
    ),
    Advice("Adam, segmentation", "`HEMLoss()`", "hem-margin-1", _segmentation),
)


@dataclass(frozen=True)
class Checked:
    """A line held against differences to cross-entropy."""

    advice: Advice
    trainings: int
    wrong: tuple[Difference, ...]

    @property
    def right(self) -> int:
        """In how many trainings the candidate was safe."""
        return self.trainings - len(self.wrong)


def check(made: Iterable[Difference]) -> list[Checked]:
    """Every line, with the trainings it speaks of and those in which it is wrong."""
    everything = list(made)
    checked = []
    for advice in ADVICE:
        spoken = [entry for entry in everything if entry.candidate == advice.candidate and advice.holds(entry.training)]
        wrong = tuple(entry for entry in spoken if not entry.within)
        checked.append(Checked(advice, len(spoken), wrong))
    return checked
