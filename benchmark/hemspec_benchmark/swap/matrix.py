"""What is asked: the trainings, the candidates that take the place of cross-entropy, the rates and the seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

import hemspec
from hemspec_benchmark.settings import Cell
from hemspec_benchmark.tune import simplest

OPTIMIZERS: Final = ("sgd", "momentum", "adam", "adamw")
SCHEDULES: Final = ("constant", "cosine", "step", "one-cycle")
CLIPPING: Final = ("free", "clipped")
NETWORKS: Final = ("mlp", "cnn", "cnn-norm", "vit")
RATES: Final = {
    "sgd": (0.01, 0.03, 0.1, 0.3, 1.0),
    "momentum": (0.003, 0.01, 0.03, 0.1, 0.3),
    "adam": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    "adamw": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
}
"""From which the rate is chosen for cross-entropy."""

TUNING_SEEDS: Final = (90, 91, 92)
SEEDS: Final = (101, 102, 103, 104, 105)
CHECKING_SEEDS: Final = (110, 111, 112, 113, 114)
"""On which the decision table had to be right; it was not, by a little."""
NEW_SEEDS: Final = (115, 116, 117, 118, 119)
"""On which the narrowed table has to be right."""
COMPARED_SEEDS: Final = (*SEEDS, *CHECKING_SEEDS, *NEW_SEEDS)

VALIDATION: Final = "validation"
"""The variant of the cells that are scored on the validation part."""


@dataclass(frozen=True, order=True)
class Training:
    """One cell of the matrix: everything but loss, rate and seed."""

    data: str
    network: str
    optimizer: str
    schedule: str
    clipping: str

    def __str__(self) -> str:
        return " ".join(asdict(self).values())

    @classmethod
    def read(cls, text: str) -> Training:
        """The inverse of ``str``."""
        return cls(*text.split())


@dataclass(frozen=True)
class Candidate:
    """A loss in the place of cross-entropy: HEM's numerator over one of several denominators.

    The denominator is ``max(active, share * N)``, with N positions that count and `active` of them with a loss above 0;
    a share of 0 is the active mean, of 1 the mean. With `geometric` it is ``sqrt(active * N)``.
    """

    label: str
    margin: Callable[[npt.NDArray[np.int64]], Any] = lambda counts: 1.0
    """Of the numbers of training samples (of labelled pixels) of each class."""
    share: float = 0.0
    geometric: bool = False
    cross_entropy: bool = False
    checked: bool = False
    """Trained on the checking seeds too: people can have it today, and the decision table may speak of it."""


def _from_total(counts: npt.NDArray[np.int64]) -> Any:
    return hemspec.margin_from_num_samples(int(counts.sum()))


CANDIDATES: Final = {
    "ce": Candidate("CE", cross_entropy=True, checked=True),
    "hem": Candidate("HEM", _from_total, checked=True),
    "hem-mean": Candidate("HEM, mean", _from_total, share=1.0, checked=True),
    "hem-plus": Candidate("HEM+", hemspec.margins_from_class_counts, checked=True),
    "hem-margin-1": Candidate("HEM, margin 1", checked=True),
    "hem-margin-1-mean": Candidate("HEM, margin 1, mean", share=1.0, checked=True),
    "hem-share-0.1": Candidate("HEM, at least a tenth", _from_total, share=0.1),
    "hem-share-0.25": Candidate("HEM, at least a quarter", _from_total, share=0.25),
    "hem-share-0.5": Candidate("HEM, at least a half", _from_total, share=0.5),
    "hem-geometric": Candidate("HEM, geometric mean", _from_total, geometric=True),
}
"""In the order of the tables; the first is what the others are measured against."""


def described() -> dict[str, dict[str, Any]]:
    """What each name of a candidate means, as a result says it."""
    return {
        name: {"label": one.label, "share": one.share, "geometric": one.geometric, "checked": one.checked}
        for name, one in CANDIDATES.items()
    }


DIGITS: Final = tuple(Training("digits", *rest) for rest in product(NETWORKS, OPTIMIZERS, SCHEDULES, CLIPPING))
CORNERS: Final = ("momentum", "adamw"), ("constant", "cosine"), ("free",)
MNIST: Final = tuple(Training("mnist", *rest) for rest in product(NETWORKS, *CORNERS))
SCENES: Final = tuple(
    Training("scenes", "dilated", *rest) for rest in product(("momentum", "adam"), ("constant", "cosine"), ("free",))
)
MATRIX: Final = (*DIGITS, *MNIST, *SCENES)


@dataclass(frozen=True)
class Matrix:
    """What decides a result, apart from what its cell says."""

    data: ClassVar[str] = "swap"
    batch_size: int = 64
    epochs: int = 15
    mnist_epochs: int = 5
    scenes: int = 240
    test_scenes: int = 96
    scenes_batch: int = 4
    scenes_epochs: int = 36
    clip: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 0.01
    """AdamW's, PyTorch's default."""
    warm_up: float = 0.3
    """The share of the steps in which one-cycle rises, PyTorch's default."""

    def length(self, data: str) -> tuple[int, int]:
        """The size of a batch and the number of epochs."""
        return {
            "digits": (self.batch_size, self.epochs),
            "mnist": (self.batch_size, self.mnist_epochs),
            "scenes": (self.scenes_batch, self.scenes_epochs),
        }[data]

    def as_json(self) -> dict[str, Any]:
        """As it stands in a result."""
        return asdict(self)


@dataclass(frozen=True)
class SwapPlan:
    """What to run, for `hemspec_benchmark.runner.run`: the rates first, then the candidates at the chosen rate."""

    protocol: Matrix
    trainings: tuple[Training, ...] = MATRIX
    seeds: tuple[int, ...] = SEEDS
    rates: dict[Training, float] | None = None
    """The chosen rates; None where they are what is asked for."""
    backends: tuple[str, ...] = field(default=("jax",))
    worker: ClassVar[str] = "hemspec_benchmark.swap.worker"

    def cells(self) -> list[Cell]:
        """Training by training, so that those that share a compiled program come one after the other."""
        if self.rates is None:
            return [
                cell(training, "ce", rate, seed)
                for training in self.trainings
                for rate in RATES[training.optimizer]
                for seed in TUNING_SEEDS
            ]
        return [
            cell(training, name, self.rates[training], seed)
            for training in self.trainings
            for seed in self.seeds
            for name in candidates_of(training, seed)
        ]

    @staticmethod
    def shared(cell: Cell) -> tuple[object, ...]:
        """Equal for cells that should go to one process: they share a compiled program."""
        return (read_setting(cell.setting)[0], None if cell.variant else cell.seed)


def candidates_of(training: Training, seed: int) -> list[str]:
    """Those that a training of the matrix has with a seed; with a checking seed fewer, and none for scenes.

    The new seeds serve the narrowed decision table, which says nothing of transformers.
    """
    if seed in NEW_SEEDS:
        left_out = training.data == "scenes" or training.network == "vit"
        return [] if left_out else ["ce", "hem-margin-1", "hem-margin-1-mean"]
    checking = seed in CHECKING_SEEDS
    if checking and training.data == "scenes":
        return []
    return [name for name, candidate in CANDIDATES.items() if candidate.checked or not checking]


def cell(training: Training, candidate: str, rate: float, seed: int) -> Cell:
    """One training run, as the store has it; those that choose a rate are explorations, scored on another part."""
    return Cell("swap", f"{training} {rate:g}", candidate, "jax", seed, VALIDATION if seed in TUNING_SEEDS else "")


def read_setting(setting: str) -> tuple[Training, float]:
    """The training and the rate of a cell's setting."""
    training, rate = setting.rsplit(maxsplit=1)
    return Training.read(training), float(rate)


def choose_rates(trainings: Iterable[Training], records: Mapping[Cell, dict[str, Any]]) -> dict[Training, float]:
    """For each training the rate for cross-entropy, by the rule of `tune.simplest` on the validation part."""

    def reached(training: Training, rate: float) -> tuple[float, float]:
        scores = [records[cell(training, "ce", rate, seed)]["metrics"]["score"] for seed in TUNING_SEEDS]
        return float(np.mean(scores)), float(np.std(scores, ddof=1) / np.sqrt(len(scores)))

    return {
        training: simplest({rate: reached(training, rate) for rate in RATES[training.optimizer]})
        for training in trainings
    }
