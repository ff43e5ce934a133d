"""The decision table: what a person may read off before training, and whether it is right.

The first was made from the seeds 101 to 105 and failed on others; the narrowed one is held against new ones: see
benchmark/PROTOCOL.md, section 10 and its changes.
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


def _adam(training: Training) -> bool:
    return training.optimizer.startswith("adam") and training.data != "scenes"


def _sgd(training: Training) -> bool:
    return training.optimizer in ("sgd", "momentum")


def _small(training: Training) -> bool:
    """No transformer: with SGD none of our losses is safe in those."""
    return training.network in ("mlp", "cnn", "cnn-norm")


def _adam_falling(training: Training) -> bool:
    return _adam(training) and training.schedule != "constant"


def _adam_constant(training: Training) -> bool:
    return _adam(training) and training.schedule == "constant" and _small(training)


def _sgd_clipped(training: Training) -> bool:
    falls = training.schedule != "constant"
    return _sgd(training) and falls and training.clipping == "clipped" and _small(training)


def _sgd_free(training: Training) -> bool:
    # One-cycle without momentum goes up to rates at which a network without batch norm does not survive.
    momentum_or_slow = training.optimizer == "momentum" or training.schedule != "one-cycle"
    return _sgd(training) and momentum_or_slow and training.clipping == "free" and _small(training)


def _sgd_free_narrowed(training: Training) -> bool:
    return _sgd_free(training) and not (training.optimizer == "momentum" and training.schedule == "constant")


def _segmentation(training: Training) -> bool:
    return training.data == "scenes" and training.optimizer == "adam"


DEFAULT: Final = ("`HEMLoss()`", "hem-margin-1")
MEAN: Final = ('`HEMLoss(reduction="mean")`', "hem-margin-1-mean")

ADVICE: Final = (
    Advice(
        "Adam or AdamW, a rate that falls; an MLP or a CNN",
        *DEFAULT,
        lambda training: _adam_falling(training) and _small(training),
    ),
    Advice("Adam or AdamW, a constant rate; an MLP or a CNN", *MEAN, _adam_constant),
    Advice("SGD, a rate that falls, the gradient's norm clipped at 1; an MLP or a CNN", *DEFAULT, _sgd_clipped),
    Advice(
        "SGD, not clipped (without momentum: not one-cycle, with momentum: a rate that falls); an MLP or a CNN",
        *MEAN,
        _sgd_free_narrowed,
    ),
    Advice("Adam, segmentation", *DEFAULT, _segmentation),
)

FIRST: Final = (
    Advice("Adam or AdamW, a rate that falls", *DEFAULT, _adam_falling),
    ADVICE[1],
    ADVICE[2],
    Advice("SGD, not clipped (without momentum: not one-cycle); an MLP or a CNN", *MEAN, _sgd_free),
    ADVICE[4],
)
"""The table as it was made from the seeds 101 to 105. On the checking seeds it failed, and was narrowed."""


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


def check(made: Iterable[Difference], table: Iterable[Advice] = ADVICE) -> list[Checked]:
    """Every line, with the trainings it speaks of and those in which it is wrong."""
    everything = list(made)
    checked = []
    for advice in table:
        spoken = [entry for entry in everything if entry.candidate == advice.candidate and advice.holds(entry.training)]
        wrong = tuple(entry for entry in spoken if not entry.within)
        checked.append(Checked(advice, len(spoken), wrong))
    return checked
