"""The paper's six tasks, each once for all frameworks: a module for each, with a function `run`."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from hemspec_benchmark.settings import Cell
from hemspec_benchmark.training import Workshop


@dataclass(frozen=True)
class Outcome:
    """What was measured: numbers by name, fractions of one, and what else the report shows."""

    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    """What is not the same when it is done again."""


def run(workshop: Workshop, cell: Cell) -> Outcome:
    """Train and measure one cell."""
    task = import_module(f"hemspec_benchmark.tasks.{cell.task}")
    outcome: Outcome = task.run(workshop, cell.setting, cell.loss, cell.seed)
    return outcome
