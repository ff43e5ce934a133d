"""How the hyper-parameters were chosen: for cross-entropy alone, on validation splits of the training data.

The rule, fixed before the search: of the points within a standard error of the best, the fewest epochs, and of those
the lowest learning rate. Batch sizes (64, 16 and 4) and a momentum of 0.9 are customary values and were not searched;
nor were weight decay, which is not used on the digits, and the size of the replay buffer.

Measured on 2026-11-23 with ``hemspec-benchmark tune`` (JAX; validation measure in %, mean and standard error):

    classification, clean accuracy, 5 seeds      rate 0.03      rate 0.1       rate 0.3       rate 1
      10 epochs                                  94.66 ± 0.64   97.35 ± 0.38   97.72 ± 0.25   97.20 ± 0.23
      15 epochs                                  96.56 ± 0.65   98.31 ± 0.18   97.99 ± 0.30   97.88 ± 0.19
      20 epochs                                  97.51 ± 0.35   98.41 ± 0.22   98.36 ± 0.23   98.47 ± 0.27

    continual, average accuracy over the six     rate 0.01      rate 0.03      rate 0.1       rate 0.3
    settings, 3 seeds
       2 epochs of each experience               75.95 ± 1.24   76.83 ± 0.22   73.35 ± 1.62   69.83 ± 0.80
       4 epochs                                  78.01 ± 0.31   78.40 ± 0.77   76.73 ± 0.91   73.69 ± 1.03
       8 epochs (left out for its cost)          79.71 ± 0.36   79.31 ± 0.30   78.38 ± 0.90   74.76 ± 1.09

    segmentation, mIoU, 3 seeds                  rate 0.03      rate 0.1       rate 0.3
       4 epochs                                  24.46 ± 4.05   34.58 ± 8.47   23.88 ± 2.62
       6 epochs                                  34.40 ± 6.37   48.04 ± 7.91   38.78 ± 3.81
       9 epochs                                  48.65 ± 4.60   59.67 ± 5.32   55.42 ± 5.43

So classification takes 15 epochs at 0.1, continual learning 4 at 0.01 and segmentation 9 at 0.1. More epochs would
still help the last two; the full run has 270 trainings of each setting and has to end.

The widths of the U-Net were chosen with cross-entropy too: 8, 16 and 32 channels with two convolutions at each
resolution reached a validation mIoU of 22.1 ± 6.2 in 9 epochs (batches of 8).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from statistics import mean, stdev
from typing import Final, Literal, TypeVar

from hemspec_benchmark import tasks
from hemspec_benchmark.settings import DIGITS, TASKS, Cell, Protocol, Recipe
from hemspec_benchmark.training import Workshop

Key = TypeVar("Key", float, tuple[int, float], tuple[float, int])
Part = Literal["classification", "continual", "segmentation"]

GRIDS: Final[dict[Part, tuple[tuple[int, ...], tuple[float, ...]]]] = {
    "classification": ((10, 15, 20), (0.03, 0.1, 0.3, 1.0)),
    "continual": ((2, 4), (0.01, 0.03, 0.1, 0.3)),
    "segmentation": ((4, 6, 9), (0.03, 0.1, 0.3)),
}
"""Epochs and learning rates of each recipe."""

MEASURES: Final[dict[Part, tuple[str, tuple[str, ...], str]]] = {
    "classification": ("accuracy", TASKS["accuracy"], "clean"),
    "continual": ("continual", TASKS["continual"], "average_accuracy"),
    "segmentation": ("segmentation", TASKS["segmentation"], "miou"),
}
"""What each recipe is chosen by: a task, the settings that are averaged over, a metric."""


@dataclass(frozen=True)
class Point:
    """A point of a grid, and what cross-entropy reached there: the mean over seeds and its standard error."""

    recipe: Recipe
    value: float
    standard_error: float


def search(part: Part, seeds: int, backend: str = "jax", protocol: Protocol = DIGITS) -> Iterator[Point]:
    """Train with cross-entropy at each point of a grid, in one framework."""
    task, settings, metric = MEASURES[part]
    for epochs, rate in product(*GRIDS[part]):
        recipe = replace(getattr(protocol, part), epochs=epochs, learning_rate=rate)
        workshop = Workshop(backend, replace(protocol, evaluate_on="validation", **{part: recipe}))
        values = [
            mean(tasks.run(workshop, Cell(task, name, "ce", backend, seed)).metrics[metric] for name in settings)
            for seed in range(seeds)
        ]
        yield Point(recipe, mean(values), stdev(values) / seeds**0.5 if seeds > 1 else 0.0)


def choose(points: list[Point]) -> Point:
    """The point that the rule takes."""
    by_cost = {(point.recipe.epochs, point.recipe.learning_rate): point for point in points}
    return by_cost[simplest({cost: (point.value, point.standard_error) for cost, point in by_cost.items()})]


def simplest(reached: Mapping[Key, tuple[float, float]]) -> Key:
    """The rule: of the points within a standard error of the best, the smallest.

    Args:
        reached: for each point what was measured there, more being better: the mean and its standard error.
    """
    best, error = max(reached.values(), key=lambda measured: measured[0])
    return min(point for point, (value, _) in reached.items() if value >= best - error)
