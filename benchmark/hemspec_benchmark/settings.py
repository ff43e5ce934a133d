"""What decides the numbers of a run: the protocol, and the cells it consists of.

One set of hyper-parameters for all losses, chosen for cross-entropy alone on validation splits; the grids and what they
gave are in `hemspec_benchmark.tune`. Nothing is tuned for HEM, as in the paper.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, groupby
from typing import Any, ClassVar, Final, Literal

TASKS: Final[dict[str, tuple[str, ...]]] = {
    "accuracy": ("test",),
    "rejection": ("far", "near"),
    "robustness": ("pgd",),
    "imbalance": ("ratio-10", "ratio-50", "ratio-100"),
    "continual": ("class-naive", "class-replay", "task-naive", "task-replay", "domain-naive", "domain-replay"),
    "segmentation": ("scenes",),
}
"""The paper's six tasks and the settings of each."""

SplitName = Literal["test", "validation"]
OptimizerName = Literal["sgd", "adam"]


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum, or Adam; the rate follows a half cosine from epoch to epoch, or is constant.

    The rate is constant inside an epoch because the frameworks disagree on where it enters: PyTorch and optax multiply
    the velocity by it, Keras accumulates velocity already multiplied. With a constant rate the three are the same
    algorithm; where it changes, Keras's learner makes up for it.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    optimizer: OptimizerName = "sgd"
    """Adam has no use for the momentum."""
    clip: float | None = None
    """The largest global norm of a gradient; None for any."""

    def rate(self, epoch: int, epochs: int) -> float:
        """The learning rate in epoch 0, 1, ... of `epochs`."""
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))


@dataclass(frozen=True)
class Attack:
    """L-infinity attacks on a part of the test images; sizes are in grey levels of [0, 1]."""

    epsilons: tuple[float, ...] = (0.02, 0.05, 0.1, 0.15)
    epsilon: float = 0.05
    """The size at which losses are compared, and at which steps are varied."""
    largest: float = 0.5
    """A size no classifier can stand: every image can be made grey."""
    steps: int = 20
    restarts: int = 2
    steps_checked: tuple[int, ...] = (1, 5, 20, 100)
    """More steps must never help the defender; where they do, gradients are masked."""
    images: int = 180
    images_held: int = 180
    """Those on which our attack is held against another one, which takes a minute for each hundred."""


@dataclass(frozen=True)
class Protocol:
    """Everything that decides a result, apart from loss, framework and seed."""

    data: str = "digits"
    splits: Literal["fixed", "by seed"] = "fixed"
    """Whether all seeds share one test split, or each draws its own of the data that `datasets.divided` knows."""
    evaluate_on: SplitName = "test"
    architecture: str = "small"
    classification: Recipe = Recipe(epochs=15, batch_size=64, learning_rate=0.1)
    continual: Recipe = Recipe(epochs=4, batch_size=16, learning_rate=0.01, schedule="constant")
    """The epochs are those of each experience."""
    replay_per_class: int = 10
    """Images of each class seen before that the replay buffer keeps."""
    segmentation: Recipe = Recipe(epochs=9, batch_size=4, learning_rate=0.1)
    training_scenes: int = 640
    test_scenes: int = 96
    attack: Attack = Attack()
    mixed_precision: bool = False
    evaluation_batch: int = 180

    def as_json(self) -> dict[str, Any]:
        """As it stands in a result: plain lists and dictionaries."""
        fields: dict[str, Any] = _plain(asdict(self))
        return fields

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Protocol:
        """The inverse of `as_json`."""
        given = dict(fields)
        for name in "classification", "continual", "segmentation":
            given[name] = Recipe(**given[name])
        lists: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in given["attack"].items()
        }
        given["attack"] = Attack(**lists)
        return cls(**given)


DIGITS: Final = Protocol()
"""The full run on scikit-learn's digits."""

QUICK: Final = replace(
    DIGITS,
    training_scenes=96,
    test_scenes=32,
    attack=Attack(epsilons=(0.05, 0.1), steps=10, restarts=1, steps_checked=(1, 10, 40)),
)
"""The same in small: fewer scenes, a cheaper attack."""

CIFAR: Final = Protocol(
    data="cifar10",
    architecture="resnet18",
    classification=Recipe(epochs=200, batch_size=128, learning_rate=0.1, weight_decay=5e-4),
    continual=Recipe(epochs=5, batch_size=32, learning_rate=0.05, weight_decay=5e-4, schedule="constant"),
    replay_per_class=50,
    attack=Attack(epsilons=(2 / 255, 4 / 255, 8 / 255), epsilon=8 / 255, steps=20, restarts=2, images=500),
    evaluation_batch=500,
)
"""The usual recipe for ResNet-18 on CIFAR (200 epochs, batches of 128, a rate of 0.1, weight decay 5e-4)."""


@dataclass(frozen=True, order=True)
class Cell:
    """One training and what is measured on it: the smallest unit of work, of progress and of resumption."""

    task: str
    setting: str
    loss: str
    backend: str
    seed: int
    variant: str = ""
    """What is changed in the protocol, in an exploration: see `VARIANTS`. Empty in the run itself."""


class Rules(typing.Protocol):
    """What decides the results of a run, as the store keeps it: `Protocol`, the swap's `Matrix`, `Selection`."""

    @property
    def data(self) -> str:
        """What is trained on, and what kind of result it gives."""

    def as_json(self) -> dict[str, Any]:
        """Plain lists and dictionaries."""


class Runnable(typing.Protocol):
    """What the runner runs: `Plan`, `Listed`, and those of `hemspec_benchmark.swap`."""

    @property
    def worker(self) -> str:
        """The module that a framework's process runs."""

    @property
    def protocol(self) -> Rules:
        """What decides the results."""

    @property
    def backends(self) -> tuple[str, ...]:
        """The frameworks of the cells."""

    def cells(self) -> list[Cell]:
        """In the order of work."""

    def shared(self, cell: Cell) -> tuple[object, ...]:
        """Equal for cells that follow each other and should go to one process."""


def _rate(recipe: str, rate: float) -> Any:
    return lambda protocol: replace(protocol, **{recipe: replace(getattr(protocol, recipe), learning_rate=rate)})


def _epochs(recipe: str, epochs: int) -> Any:
    return lambda protocol: replace(protocol, **{recipe: replace(getattr(protocol, recipe), epochs=epochs)})


RATES: Final = (0.01, 0.03, 0.1, 0.3, 1.0)
VARIANTS: Final[dict[str, Any]] = (
    {f"learning rate {rate:g}": _rate("classification", rate) for rate in RATES}
    | {f"epochs {epochs}": _epochs("classification", epochs) for epochs in (5, 15, 45)}
    | {"without batch norm": lambda protocol: replace(protocol, architecture="small-without-norm")}
    | {f"continual learning rate {rate:g}": _rate("continual", rate) for rate in RATES}
    | {f"continual epochs {epochs}": _epochs("continual", epochs) for epochs in (1, 4, 16)}
    | {f"segmentation learning rate {rate:g}": _rate("segmentation", rate) for rate in RATES}
    | {f"segmentation epochs {epochs}": _epochs("segmentation", epochs) for epochs in (3, 9, 27)}
)
"""Explorations: one thing changed, to find out why losses differ. Never part of the comparison itself."""


WAYS: Final = ("sgd", "clipped", "adam")
"""How the arms of the comparison train: the first word of their variants, see `hemspec_benchmark.arms`."""


def is_compared(variant: str) -> bool:
    """Whether a cell is part of the comparison, and not there to explore or to choose by."""
    return not variant or variant.split()[0] in WAYS


@dataclass(frozen=True)
class Plan:
    """What to run."""

    protocol: Protocol
    settings: tuple[tuple[str, str], ...]
    """(task, setting), of `TASKS`."""
    losses: tuple[str, ...]
    backends: tuple[str, ...]
    seeds: tuple[int, ...]
    explorations: tuple[Cell, ...] = field(default=())
    worker: ClassVar[str] = "hemspec_benchmark.worker"
    """The module that a framework's process runs."""

    def cells(self) -> list[Cell]:
        """In the order of work: seed by seed, so that a run that is cut short has whole seeds.

        The settings of one loss and seed come one after the other, because three of them share a training.
        """
        grid = [
            Cell(task, setting, loss, backend, seed)
            for seed in self.seeds
            for loss in self.losses
            for task, setting in ordered(self.settings)
            for backend in self.backends
        ]
        return [*grid, *self.explorations]

    @staticmethod
    def shared(cell: Cell) -> tuple[object, ...]:
        """Equal for cells that should go to one process: they share a training."""
        return (cell.seed, cell.loss, bool(cell.variant))


@dataclass(frozen=True)
class Listed:
    """Cells to work off, in the order they have."""

    work: tuple[Cell, ...]
    protocol: Protocol
    backends: tuple[str, ...]
    worker: str
    together: tuple[str, ...] = ("seed", "loss", "variant")
    """Fields of a cell; where they are equal, cells that follow each other go to one process."""

    def cells(self) -> list[Cell]:
        """In the order of work."""
        return list(self.work)

    def shared(self, cell: Cell) -> tuple[object, ...]:
        """The fields that are named."""
        return tuple(getattr(cell, name) for name in self.together)

    def part(self, number: int, of: int) -> Listed:
        """Every `of`-th block of what goes together, beginning with the `number`-th; the parts together are all."""
        blocks = [tuple(block) for _, block in groupby(self.work, key=self.shared)]
        return replace(self, work=tuple(chain.from_iterable(blocks[number - 1 :: of])))


def ordered(settings: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Settings that share the training on all classes first: see `hemspec_benchmark.tasks`."""
    shared = [("accuracy", "test"), ("rejection", "far"), ("robustness", "pgd")]
    every = shared + [(task, name) for task, names in TASKS.items() for name in names if (task, name) not in shared]
    return [entry for entry in every if entry in set(settings)]


def explorations(seeds: Iterable[int], backend: str = "jax") -> tuple[Cell, ...]:
    """Learning rate and length, for clean accuracy, forgetting and segmentation; batch norm for the first."""
    measured = {
        "continual": (("continual", "class-naive"), ("continual", "class-replay")),
        "segmentation": (("segmentation", "scenes"),),
    }
    return tuple(
        Cell(task, setting, loss, backend, seed, variant)
        for seed in seeds
        for loss in ("ce", "hem", "hem-mean", "hem-margin-1", "mm")
        for variant in VARIANTS
        for task, setting in measured.get(variant.split()[0], (("accuracy", "test"),))
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value
