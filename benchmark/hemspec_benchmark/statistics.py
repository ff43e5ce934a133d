"""From the results to what is said about them: the agreement of the frameworks, means and standard errors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev
from typing import Final

from hemspec_benchmark.data import load_split, training_batches
from hemspec_benchmark.losses import LOSSES
from hemspec_benchmark.network import forward, initial_weights
from hemspec_benchmark.runner import Result
from hemspec_benchmark.settings import Cell, Job

TOLERANCES: Final = (1e-5, 1e-4, 1e-4)
"""Largest relative difference between the losses of the first, second and third step.

Float32 has 6e-8; a network adds up rounding, and each update multiplies it. Measured: up to 5e-7 at the first step and
5e-6 at the third. A mistake in a loss, a gradient, a layer or an optimiser shows as 1e-3 or more. Later steps are not
compared: training amplifies rounding, and the margin losses take discrete decisions.
"""


@dataclass(frozen=True)
class Comparison:
    """The loss of one step of one cell, as each framework computed it; at the first step also the NumPy reference."""

    cell: Cell
    step: int
    values: dict[str, float]

    @property
    def difference(self) -> float:
        """Between the smallest and the largest, relative to the largest; infinite if any is not finite."""
        values = list(self.values.values())
        if not all(map(math.isfinite, values)):
            return math.inf
        scale = max(map(abs, values))
        return (max(values) - min(values)) / scale if scale > 0 else 0.0

    @property
    def agrees(self) -> bool:
        """Whether the difference is rounding."""
        return self.difference <= self.tolerance

    @property
    def tolerance(self) -> float:
        """What counts as rounding at this step."""
        return TOLERANCES[self.step - 1]

    def __str__(self) -> str:
        values = ", ".join(f"{name} {value:.9g}" for name, value in self.values.items())
        cell = self.cell
        return (
            f"{LOSSES[cell.loss].label}, {cell.experiment}, seed {cell.seed}, step {self.step}: {values}; "
            f"relative difference {self.difference:.1e}, tolerance {self.tolerance:.0e}"
        )


def reference_losses(job: Job) -> dict[Cell, float]:
    """The first step's loss of each cell from the NumPy network and the NumPy loss."""
    split = load_split(job.evaluate_on)
    losses = {}
    for seed in range(job.seeds):
        images, labels = training_batches(split, seed, job.hyper_parameters)
        for name, experiment in job.experiments.items():
            weights = initial_weights(seed, batch_norm=experiment.batch_norm)
            logits = forward(weights, images[0, 0], training=True)
            for loss in experiment.losses:
                reference = LOSSES[loss].reference(split.class_counts)
                losses[Cell(name, loss, seed)] = float(reference(logits, labels[0, 0]))
    return losses


def compare(results: Iterable[Result], references: dict[Cell, float]) -> list[Comparison]:
    """Put the losses of the first steps side by side."""
    values: dict[tuple[Cell, int], dict[str, float]] = {(cell, 1): {"NumPy": loss} for cell, loss in references.items()}
    for result in results:
        for step, loss in enumerate(result.training.step_losses[: len(TOLERANCES)], start=1):
            values.setdefault((result.cell, step), {})[result.backend] = loss
    return [Comparison(cell, step, given) for (cell, step), given in values.items() if len(given) > 1]


@dataclass(frozen=True)
class Summary:
    """One entry of the table. The standard error is over seeds: the split, and so the test set, is always the same."""

    accuracy: float
    standard_error: float | None
    seconds: float
    """The median, so that with three seeds or more the one that includes the compilation does not count."""


def summarise(results: Sequence[Result]) -> Summary:
    """Mean, standard error and time over the seeds of one loss in one framework."""
    accuracies = [result.training.test_accuracy[-1] for result in results]
    return Summary(
        accuracy=mean(accuracies),
        standard_error=stdev(accuracies) / math.sqrt(len(accuracies)) if len(accuracies) > 1 else None,
        seconds=median(result.training.seconds for result in results),
    )
