"""Choosing a model: what early stopping, plateau schedules and searches do when they follow HEM's own value.

Fixed in benchmark/PROTOCOL.md, section 10. Every training is followed epoch by epoch; which epoch a rule takes is
worked out afterwards, from the curves. Only a rate that waits for a plateau changes the training itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from hemspec_benchmark.settings import Cell
from hemspec_benchmark.statistics import Estimate, estimate
from hemspec_benchmark.store import Document, StoreError
from hemspec_benchmark.swap.matrix import CANDIDATES, Candidate, Matrix, Training, read_setting

TRAININGS: Final = {
    Training("digits", "cnn", "momentum", "cosine", "free"): 0.1,
    Training("digits", "cnn", "adamw", "constant", "free"): 0.003,
}
"""With the rates that the matrix chose for cross-entropy."""


def _constant(margin: float, counts: npt.NDArray[np.int64]) -> float:
    return margin


LOSSES: Final = {name: CANDIDATES[name] for name in ("ce", "hem", "hem-mean")}
MARGINS: Final = {
    f"hem-margin-{margin:g}": Candidate(f"HEM, margin {margin:g}", partial(_constant, margin))
    for margin in (0.03, 0.1, 0.3, 1.0, 3.0)
}
"""What a search chooses from."""

MONITORS: Final = {"loss": min, "mean": min, "accuracy": max}
"""What a rule follows on the validation part, and which end of it is good: the loss as it is trained with, the loss
with a plain mean, the accuracy."""
FOLLOWED: Final = "followed"
"""A training at its own schedule; otherwise `plateau` and what its rate follows."""
SEEDS: Final = tuple(range(120, 130))


@dataclass(frozen=True)
class Selection:
    """What decides a result, apart from what its cell says."""

    epochs: int = 40
    patience: int = 5
    """Epochs without a better value before a training stops, or its rate falls."""
    factor: float = 0.1
    """By which the rate falls: PyTorch's and Keras's default."""
    matrix: Matrix = field(default_factory=Matrix)
    data: ClassVar[str] = "selection"

    def as_json(self) -> dict[str, Any]:
        """As it stands in a result."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Selection:
        """The inverse of `as_json`."""
        return cls(**{**fields, "matrix": Matrix(**fields["matrix"])})


@dataclass(frozen=True)
class SelectionPlan:
    """What to run, for `hemspec_benchmark.runner.run`."""

    protocol: Selection = Selection()
    seeds: tuple[int, ...] = SEEDS
    backends: tuple[str, ...] = field(default=("jax",))
    worker: ClassVar[str] = "hemspec_benchmark.swap.worker"

    def cells(self) -> list[Cell]:
        """Seed by seed."""
        asked = [(FOLLOWED, loss) for loss in (*LOSSES, *MARGINS)]
        asked += [(f"plateau-{monitor}", loss) for loss in LOSSES for monitor in MONITORS]
        return [
            Cell("selection", f"{training} {rate:g} {how}", loss, "jax", seed)
            for seed in self.seeds
            for training, rate in TRAININGS.items()
            for how, loss in asked
        ]

    @staticmethod
    def shared(cell: Cell) -> tuple[object, ...]:
        """Equal for cells that should go to one process."""
        return (cell.seed, read(cell.setting)[0])


def read(setting: str) -> tuple[Training, float, str]:
    """The training, its rate and how it is run."""
    which, how = setting.rsplit(maxsplit=1)
    return *read_setting(which), how


def candidate(name: str) -> Candidate:
    """A loss, or one of the margins."""
    return LOSSES.get(name) or MARGINS[name]


def described() -> dict[str, dict[str, Any]]:
    """What each name means, as a result says it."""
    return {name: {"label": one.label} for name, one in (LOSSES | MARGINS).items()}


# Rules


def best(values: Sequence[float | None], monitor: str) -> int:
    """The epoch with the best value, the first of several; what is not finite is none."""
    finite = [(value, epoch) for epoch, value in enumerate(values) if value is not None and math.isfinite(value)]
    if not finite:
        return len(values) - 1
    wanted = MONITORS[monitor](value for value, _ in finite)
    return next(epoch for value, epoch in finite if value == wanted)


def stopped(values: Sequence[float | None], monitor: str, patience: int) -> int:
    """The epoch after which early stopping ends a training: `patience` epochs have passed without a better value."""
    for epoch in range(len(values)):
        if epoch - best(values[: epoch + 1], monitor) >= patience:
            return epoch
    return len(values) - 1


STOPPING, CHECKPOINT, PLATEAU, SEARCH = (
    "early stopping", "best checkpoint", "rate that falls on a plateau", "search for the margin"
)  # fmt: skip
RULES: Final = (STOPPING, CHECKPOINT, PLATEAU, SEARCH)


@dataclass(frozen=True)
class Selected:
    """The test accuracy under a rule less that of cross-entropy under the same, over the seeds."""

    training: Training
    rule: str
    monitor: str
    loss: str
    difference: Estimate


class Curves:
    """The trainings of a document, by epoch.

    Raises:
        StoreError: some are missing; without them nothing is said.
    """

    def __init__(self, document: Document) -> None:
        self.patience = int(document["protocol"]["patience"])
        self.details: dict[tuple[str, str, int], Mapping[str, Sequence[float]]] = {
            (entry["setting"], entry["loss"], entry["seed"]): entry["details"] for entry in document["cells"]
        }
        cells = SelectionPlan().cells()
        if lacking := sum((cell.setting, cell.loss, cell.seed) not in self.details for cell in cells):
            raise StoreError(
                f"{lacking} of {len(cells)} trainings are missing; without them nothing is said of any. Run the same "
                "command again to go on"
            )

    def of(self, training: Training, loss: str, seed: int, how: str = FOLLOWED) -> Mapping[str, Sequence[float]]:
        """`MONITORS` and ``test``, the accuracy on the test part, epoch by epoch."""
        return self.details[f"{training} {TRAININGS[training]:g} {how}", loss, seed]

    def margin(self, training: Training, monitor: str, seed: int) -> str:
        """The margin that a search takes: whose training ends best by the monitor."""
        ends = {name: self.of(training, name, seed)[monitor][-1] for name in MARGINS}
        return list(ends)[best(list(ends.values()), monitor)]

    def accuracy(self, training: Training, rule: str, monitor: str, loss: str, seed: int) -> float:
        """On the test part, of the network that a rule takes. Cross-entropy has no margin to search for."""
        curves, epoch = self.of(training, loss, seed), -1
        if rule == PLATEAU:
            curves = self.of(training, loss, seed, f"plateau-{monitor}")
        elif rule == STOPPING:
            epoch = stopped(curves[monitor], monitor, self.patience)
        elif rule == CHECKPOINT:
            epoch = best(curves[monitor], monitor)
        elif loss != "ce":
            curves = self.of(training, self.margin(training, monitor, seed), seed)
        return curves["test"][epoch]


def selected(curves: Curves) -> list[Selected]:
    """Every rule and monitor, for HEM and HEM with a mean; a search is for HEM alone."""
    made = []
    for training, rule, monitor, loss in product(TRAININGS, RULES, MONITORS, ("hem", "hem-mean")):
        if (rule, loss) != (SEARCH, "hem-mean"):
            pairs = [[curves.accuracy(training, rule, monitor, name, seed) for name in (loss, "ce")] for seed in SEEDS]
            difference = estimate(own - other for own, other in pairs)
            assert difference is not None
            made.append(Selected(training, rule, monitor, loss, difference))
    return made
