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


ADVICE: Final[tuple[Advice, ...]] = ()


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
