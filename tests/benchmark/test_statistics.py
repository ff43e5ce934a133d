"""Agreement, means and standard errors."""

from __future__ import annotations

import math

import pytest

from hemspec_benchmark.runner import Result, Run
from hemspec_benchmark.settings import Cell, Job
from hemspec_benchmark.statistics import Comparison, compare, summarise
from hemspec_benchmark.training import Training


def test_equal_losses_agree(job: Job, untrained: Run, references: dict[Cell, float]) -> None:
    comparisons = compare(untrained.results, references)
    assert len(comparisons) == 3 * len(job.cells())
    assert all(comparison.agrees for comparison in comparisons)


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("doctor", [lambda loss: loss * 1.001, lambda loss: math.nan])
def test_one_wrong_loss_is_found_and_named(
    untrained: Run, references: dict[Cell, float], step: int, doctor: object
) -> None:
    wrong = untrained.results[-1]
    wrong.training.step_losses[step - 1] = doctor(wrong.training.step_losses[step - 1])
    (failure,) = [entry for entry in compare(untrained.results, references) if not entry.agrees]
    assert (failure.cell, failure.step) == (wrong.cell, step)
    message = str(failure)
    for part in ("HEM, mean", "no-batch-norm", "seed 1", f"step {step}", "torch", "keras", "jax", "tolerance"):
        assert part in message
    assert ("NumPy" in message) == (step == 1)


def test_a_single_framework_is_compared_with_the_reference_only(untrained: Run, references: dict[Cell, float]) -> None:
    alone = [result for result in untrained.results if result.backend == "jax"]
    assert {entry.step for entry in compare(alone, references)} == {1}


def test_two_zeros_agree() -> None:
    assert Comparison(Cell("batch-norm", "hem", 0), 1, {"torch": 0.0, "jax": 0.0}).agrees


def test_summary() -> None:
    def result(accuracy: float, seconds: float) -> Result:
        return Result("jax", Cell("x", "ce", 0), Training(0, test_accuracy=[0.0, accuracy], seconds=seconds))

    summary = summarise([result(0.9, 9.0), result(0.8, 1.0), result(0.7, 2.0)])
    assert summary.accuracy == pytest.approx(0.8)
    assert summary.standard_error == pytest.approx(0.1 / math.sqrt(3))
    assert summary.seconds == 2.0
    assert summarise([result(0.9, 1.0)]).standard_error is None
