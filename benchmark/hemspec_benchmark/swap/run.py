"""Runs the matrix: first the rates for cross-entropy, then every candidate at them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hemspec_benchmark.settings import Cell
from hemspec_benchmark.store import SCHEMA, Document, Store, separate
from hemspec_benchmark.swap.matrix import (
    CHECKING_SEEDS,
    MATRIX,
    SEEDS,
    Matrix,
    SwapPlan,
    Training,
    choose_rates,
)

Doing = Callable[[SwapPlan], None]


def run(kept: Store, matrix: Matrix, trainings: tuple[Training, ...], do: Doing) -> SwapPlan:
    """Both halves; `do` runs a plan until nothing is left or its budget is.

    Returns:
        The last plan that was begun: the one of the rates, if that was not finished.
    """
    tuning = SwapPlan(matrix, trainings)
    do(tuning)
    if any(cell not in kept.records for cell in tuning.cells()):
        return tuning
    rates = choose_rates(trainings, kept.records)
    swaps = SwapPlan(matrix, trainings, seeds=(*SEEDS, *CHECKING_SEEDS), rates=rates)
    do(swaps)
    return swaps


def part(number: int, of: int) -> tuple[Training, ...]:
    """Every `of`-th training of the matrix, beginning with the `number`-th; the parts together are all."""
    return MATRIX[number - 1 :: of]


def document(kept: Store, matrix: Matrix, planned: Iterable[Cell], command: str) -> Document:
    """Everything there is to know about a run, the trainings that chose the rates apart."""
    return {
        "schema": SCHEMA,
        "data": "swap",
        "command": command,
        "protocol": matrix.as_json(),
        "losses": {},
        "machines": kept.machines,
        "missing": sum(cell not in kept.records for cell in planned),
        **separate([kept.records[cell] for cell in sorted(kept.records)]),
    }
