"""What is trained on a GPU, and in small where there is none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from hemspec_benchmark.arms import CONFIRMING, PRIMARY
from hemspec_benchmark.settings import Cell, Listed, Protocol
from hemspec_benchmark.swap.matrix import Training

TASK: Final = "gpu"
AT_ONCE: Final = 50
"""Seeds that are trained together in JAX."""
TRIAL: Final = replace(CONFIRMING, classification=replace(CONFIRMING.classification, epochs=1))
"""To see that all of it works: one epoch, on digits, with one rate and one seed."""


@dataclass(frozen=True)
class Course:
    """A network, how it is trained, and how often."""

    backend: str
    training: Training
    rates: tuple[float, ...]
    """All of them are shown, none is chosen."""
    seeds: tuple[int, ...]

    def cells(self) -> list[Cell]:
        """Rate by rate and loss by loss."""
        return [
            Cell(TASK, f"{self.training} {rate:g}", loss, self.backend, seed, TASK)
            for rate in self.rates
            for loss in PRIMARY
            for seed in self.seeds
        ]

    def in_small(self) -> Course:
        """For a trial."""
        return replace(self, training=replace(self.training, data="digits"), rates=self.rates[:1], seeds=self.seeds[:1])


COURSES: Final = (
    Course(
        "torch", Training("mnist", "resnet18", "momentum", "cosine", "free"), (0.03, 0.1, 0.3), tuple(range(100, 105))
    ),
    Course("torch", Training("mnist", "vit", "adamw", "cosine", "free"), (3e-4, 1e-3, 3e-3), tuple(range(100, 105))),
    Course(
        "jax", Training("digits", "cnn-norm", "momentum", "cosine", "free"), (0.03, 0.1, 0.3), tuple(range(100, 200))
    ),
)


def epochs(protocol: Protocol, training: Training) -> int:
    """As the convolutional networks of the run have; a transformer needs twice as many."""
    return protocol.classification.epochs * (2 if training.network == "vit" else 1)


def plan(protocol: Protocol = CONFIRMING) -> Listed:
    """For the runner. Trainings that are equal but for the seed go to one process."""
    courses = [course.in_small() for course in COURSES] if protocol == TRIAL else COURSES
    work = tuple(cell for course in courses for cell in course.cells())
    return Listed(work, protocol, ("torch", "jax"), "hemspec_benchmark.gpu.worker", ("setting", "loss"))
