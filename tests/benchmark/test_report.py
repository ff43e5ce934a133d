"""The JSON holds everything, the page needs nothing else."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hemspec_benchmark import document, report
from hemspec_benchmark.runner import Run
from hemspec_benchmark.settings import Cell, Job
from hemspec_benchmark.statistics import compare

Build = Callable[[Run], dict[str, Any]]


@pytest.fixture
def build(job: Job, references: dict[Cell, float]) -> Build:
    return lambda run: document.build(
        job, run, compare(run.results, references), command="hemspec-benchmark quick", seconds=1.0
    )


def test_the_json_is_complete(build: Build, untrained: Run, tmp_path: Path) -> None:
    document.write(build(untrained), tmp_path / "quick.json")
    result = json.loads((tmp_path / "quick.json").read_text())
    keys = {(cell["experiment"], cell["loss"], cell["backend"], cell["seed"]) for cell in result["cells"]}
    assert len(keys) == len(result["cells"]) == (9 + 3) * 3 * 2
    for cell in result["cells"]:
        assert len(cell["train_loss"]) == len(cell["test_accuracy"]) == result["hyper_parameters"]["epochs"]
        assert len(cell["step_losses"]) == 3
        assert cell["seconds"] > 0
    assert {"torch", "keras", "jax", "numpy", "hemspec", "python"} <= set(result["versions"])
    assert result["command"] == "hemspec-benchmark quick"
    assert {"platform", "processor", "cpus"} == set(result["machine"])
    assert len(result["losses"]["hem-plus"]["arguments"]["margin"]) == 10
    assert len(result["summary"]) == (9 + 3) * 3
    assert len(result["agreement"]["comparisons"]) == (9 + 3) * 2 * 3


def test_a_loss_that_diverged_is_null(build: Build, untrained: Run, tmp_path: Path) -> None:
    untrained.results[0].training.train_loss[-1] = math.nan
    document.write(build(untrained), tmp_path / "quick.json")
    assert json.loads((tmp_path / "quick.json").read_text())["cells"][0]["train_loss"][-1] is None


def test_the_page(build: Build, untrained: Run) -> None:
    page = report.page(build(untrained))

    # It is self-contained ...
    references = re.findall(r"""(?:src|href|srcset|data)\s*=\s*["']([^"']*)""", page)
    references += re.findall(r"""url\(\s*["']?([^"')]*)""", page)
    assert [target for target in references if not target.startswith(("#", "data:"))] == []
    assert "@import" not in page
    assert "<script" not in page

    # ... shows every loss, a number and the verdict ...
    assert page.count("<svg") == 2 + 9 + 3
    for label in ("CE", "HEM", "HEM, mean", "HEM+", "MM", "Focal", "LogitNorm", "LA", "Dice"):
        assert f"<h3>{label}</h3>" in page
    assert "The frameworks agree" in page
    assert "91.00 ± 1.00" in page

    # ... and knows phones and the dark.
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_the_page_shows_a_disagreement_and_what_diverged(build: Build, untrained: Run) -> None:
    for result in untrained.results:
        if result.cell.loss == "ce":
            result.training.step_losses[0] = math.nan
            result.training.train_loss = [math.nan, math.inf] if result.cell.seed else [math.nan, math.nan]
        if result.cell.loss == "mm":
            result.training.train_loss = [1.0, 1e24]
    page = report.page(build(untrained))
    assert "The frameworks disagree" in page
    assert "The frameworks agree" not in page


def test_the_table(build: Build, untrained: Run) -> None:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(report.table(build(untrained), "batch-norm"))
    text = capture.get()
    for part in ("PyTorch", "Keras", "JAX", "LogitNorm", "91.00 ± 1.00"):
        assert part in text
