"""What a run consists of: the hyper-parameters, the two experiments and the cells to train."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Final, Literal

BACKENDS: Final = ("torch", "keras", "jax")

SplitName = Literal["test", "validation"]


@dataclass(frozen=True)
class HyperParameters:
    """One set for all losses, chosen for cross-entropy alone on a validation split: see `hemspec_benchmark.tune`.

    SGD with momentum, the rate following a half cosine from epoch to epoch. The rate is constant inside an epoch
    because the frameworks disagree on where it enters: PyTorch and optax multiply the velocity by it, Keras
    accumulates velocity already multiplied. With a constant rate the three are the same algorithm; where it changes
    the Keras loop makes up for it.
    """

    epochs: int = 15
    batch_size: int = 64
    learning_rate: float = 0.3
    momentum: float = 0.9

    def rate(self, epoch: int) -> float:
        """The learning rate in epoch 0, 1, ..."""
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * epoch / self.epochs))


@dataclass(frozen=True)
class Experiment:
    """One network, trained with several losses."""

    title: str
    batch_norm: bool
    losses: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One training: the smallest unit of work, and of progress."""

    experiment: str
    loss: str
    seed: int


@dataclass(frozen=True)
class Job:
    """Everything that decides the result of a run."""

    hyper_parameters: HyperParameters
    experiments: dict[str, Experiment]
    backends: tuple[str, ...]
    seeds: int
    evaluate_on: SplitName = "test"

    def cells(self) -> list[Cell]:
        """The cells of each backend. Seeds come last, so that a backend compiles once for each loss."""
        return [
            Cell(name, loss, seed)
            for name, experiment in self.experiments.items()
            for loss in experiment.losses
            for seed in range(self.seeds)
        ]

    def to_json(self) -> str:
        """For the workers, which are other processes."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The inverse of `to_json`."""
        fields = json.loads(text)
        fields["hyper_parameters"] = HyperParameters(**fields["hyper_parameters"])
        fields["experiments"] = {name: Experiment(**given) for name, given in fields["experiments"].items()}
        return cls(**fields)
