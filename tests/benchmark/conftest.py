"""A run that nobody trained, for the tests of what comes after training."""

from __future__ import annotations

import pytest

from hemspec_benchmark.losses import LOSSES
from hemspec_benchmark.runner import Result, Run
from hemspec_benchmark.settings import BACKENDS, Cell, Experiment, HyperParameters, Job
from hemspec_benchmark.statistics import reference_losses
from hemspec_benchmark.training import Training


@pytest.fixture(scope="session")
def job() -> Job:
    """All losses and backends, two seeds, two epochs."""
    experiments = {
        "batch-norm": Experiment("With batch norm", True, tuple(LOSSES)),
        "no-batch-norm": Experiment("Without batch norm", False, ("ce", "hem", "hem-mean")),
    }
    return Job(HyperParameters(epochs=2), experiments, BACKENDS, seeds=2)


@pytest.fixture(scope="session")
def references(job: Job) -> dict[Cell, float]:
    """The first loss of each cell."""
    return reference_losses(job)


@pytest.fixture
def untrained(references: dict[Cell, float]) -> Run:
    """Results that agree: the first loss is the reference's, the others are made up."""
    results = [
        Result(
            backend,
            cell,
            Training(
                cell.seed,
                step_losses=[loss, 2.0, 1.5],
                train_loss=[1.0, 0.5],
                test_accuracy=[0.5, 0.9 + 0.02 * cell.seed],
                seconds=1.0 + cell.seed,
            ),
        )
        for cell, loss in references.items()
        for backend in BACKENDS
    ]
    return Run(results, {"torch": "2", "keras": "3", "jax": "0"})
