"""One number for each claim: what it is made of, and its value for each arm, loss and seed.

Fixed in benchmark/PROTOCOL.md, section 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, Final, Literal

import numpy as np

from hemspec_benchmark import arms, unknowns
from hemspec_benchmark.arms import Arm
from hemspec_benchmark.settings import Cell
from hemspec_benchmark.store import Document, cell_of
from hemspec_benchmark.tune import Part

Score = Literal["max_logit", "max_softmax"]
SCORES: Final[tuple[Score, Score]] = ("max_logit", "max_softmax")

Number = tuple[str, str, str]
"""A task, a setting and a metric, in which ``{score}`` stands for the score."""


@dataclass(frozen=True)
class Composite:
    """The mean over groups of numbers, of the mean over each group."""

    name: str
    label: str
    part: Part
    groups: tuple[tuple[Number, ...], ...]


def _each(part: Part, metric: str, task: str) -> tuple[tuple[Number, ...], ...]:
    return tuple(((task, setting, metric),) for entry, setting in arms.SETTINGS[part] if entry == task)


LEFT: Final = 0.02
"""What our attack may leave more than AutoAttack. Beyond it the claim is decided on what AutoAttack leaves."""

NEAR: Final[Number] = ("rejection", "near", "auroc/{score}/digits")
FAR: Final[tuple[Number, ...]] = tuple(("rejection", "far", f"auroc/{{score}}/{kind}") for kind in unknowns.FAR)

COMPOSITES: Final = {
    made.name: made
    for made in (
        Composite("rejection", "unknown classes, AUROC", "classification", ((NEAR,), FAR)),
        Composite(
            "attack",
            "accuracy under attack",
            "classification",
            tuple((("robustness", "pgd", f"pgd/{size:g}"),) for size in arms.CONFIRMING.attack.epsilons),
        ),
        Composite(
            "imbalance",
            "imbalanced data, balanced accuracy",
            "classification",
            _each("classification", "balanced_accuracy", "imbalance"),
        ),
        Composite(
            "continual",
            "continual learning, average accuracy",
            "continual",
            _each("continual", "average_accuracy", "continual"),
        ),
        Composite("segmentation", "segmentation, mean IoU", "segmentation", ((("segmentation", "scenes", "miou"),),)),
        Composite("clean", "clean accuracy", "classification", ((("accuracy", "test", "clean"),),)),
    )
}
"""In the order of the claims."""


class Results:
    """A document of the run, as the analysis asks it."""

    def __init__(self, document: Document) -> None:
        self.records: dict[Cell, Mapping[str, Any]] = {
            cell_of(entry): entry for entry in [*document["cells"], *document["explorations"]]
        }
        # Asked for again and again.
        self.trained_as = cache(partial(arms.trained_as, self.records))
        self.score = cache(self._score)
        self.by_seed = cache(self._by_seed)

    @cached_property
    def missing(self) -> int:
        """How many cells of the run are not there; all of the comparison, where the rates cannot be chosen yet."""
        lacking = sum(cell not in self.records for cell in arms.tuning())
        return lacking or sum(cell not in self.records for cell in arms.compared(self.records))

    def number(self, arm: Arm, part: Part, loss: str, which: Number, score: Score, seed: int) -> float | None:
        """One number of one seed; None where the training is not there.

        One that did not end in finite numbers counts: without logits to rank by, its unknowns are told by chance.
        """
        task, setting, metric = which
        name, text = self.trained_as(arm, part, loss)
        record = self.records.get(Cell(task, setting, name, "jax", seed, text))
        if record is None:
            return None
        value = record["metrics"][metric.format(score=score)]
        return float(value) if value is not None else 0.5 if task == "rejection" else 0.0

    def _score(self, arm: Arm, loss: str) -> Score:
        """Whichever tells unknowns better that no test has, on images to choose on; at a tie the largest logit."""
        name, text = self.trained_as(arm, "classification", loss)

        def reached(score: Score) -> float:
            found = [
                self.records[Cell("rejection", "far", name, "jax", seed, arms.TUNING + text)]["metrics"][
                    f"auroc/{score}/{kind}"
                ]
                for seed in arms.TUNINGS["sgd"]["classification"].seeds
                for kind in unknowns.CHOOSING
            ]
            return float(np.mean([0.5 if value is None else value for value in found]))

        return max(SCORES, key=reached)

    @cached_property
    def left(self) -> dict[tuple[str, int], float]:
        """By how much our attack leaves more than AutoAttack does, for each loss and seed that it was held against."""
        size = f"{arms.CONFIRMING.attack.epsilon:g}"
        found = {cell: self.records[cell]["metrics"] for cell in arms.attacked(self.records)}
        return {(cell.loss, cell.seed): m[f"pgd/{size}"] - m[f"autoattack/{size}"] for cell, m in found.items()}

    def _by_seed(self, arm: Arm, composite: Composite, loss: str, score: Score | None = None) -> dict[int, float]:
        """The composite of every seed that has all of its numbers."""
        chosen = score or (self.score(arm, loss) if composite.name == "rejection" else SCORES[0])
        found = {}
        for seed in arms.seeds_of(arm, composite.part, loss):
            groups = [
                [self.number(arm, composite.part, loss, which, chosen, seed) for which in group]
                for group in composite.groups
            ]
            whole = [[value for value in group if value is not None] for group in groups]
            if whole == groups:
                found[seed] = float(np.mean([np.mean(group) for group in whole]))
        if composite.name == "attack" and arm == "paper" and max(self.left.values()) > LEFT:
            # One of the sizes, of which the composite is the mean, with what the stronger attack leaves.
            return {
                seed: value - max(0.0, self.left[loss, seed]) / len(composite.groups)
                for seed, value in found.items()
                if (loss, seed) in self.left
            }
        return found

    def difference(
        self, arm: Arm, composite: Composite, loss: str, against: str, score: Score | None = None
    ) -> tuple[float, ...]:
        """A loss less another, seed by seed, of the seeds that both have."""
        own, other = (self.by_seed(arm, composite, name, score) for name in (loss, against))
        return tuple(own[seed] - other[seed] for seed in sorted(own.keys() & other.keys()))
