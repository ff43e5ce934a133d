"""The order of a run: first the rates for cross-entropy, then every candidate at them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hemspec_benchmark.settings import Cell
from hemspec_benchmark.swap.matrix import (
    COMPARED_SEEDS,
    MATRIX,
    Matrix,
    SwapPlan,
    Training,
    choose_rates,
)


def plans(
    records: Mapping[Cell, dict[str, Any]], matrix: Matrix, trainings: tuple[Training, ...]
) -> Iterator[SwapPlan]:
    """What to run, one after the other: the second plan follows from the records of the first.

    There is no second one where the first was not finished when it is asked for.
    """
    tuning = SwapPlan(matrix, trainings)
    yield tuning
    if all(cell in records for cell in tuning.cells()):
        rates = choose_rates(trainings, records)
        yield SwapPlan(matrix, trainings, seeds=COMPARED_SEEDS, rates=rates)


def part(number: int, of: int) -> tuple[Training, ...]:
    """Every `of`-th training of the matrix, beginning with the `number`-th; the parts together are all."""
    return MATRIX[number - 1 :: of]
