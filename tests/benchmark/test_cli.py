"""The command line: help, bad arguments, and failing loudly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hemspec_benchmark import cli
from hemspec_benchmark.runner import Run, WorkerError
from hemspec_benchmark.settings import Job

runner = CliRunner(env={"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"})


def test_the_parent_imports_no_framework() -> None:
    code = "import sys, hemspec_benchmark.cli; print({'torch', 'tensorflow', 'keras', 'jax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_help_has_examples() -> None:
    result = runner.invoke(cli.app, ["quick", "--help"])
    assert result.exit_code == 0
    assert "hemspec-benchmark quick --loss ce --loss hem" in result.output
    for option in ("--loss", "--backend", "--seeds", "--epochs", "--output"):
        assert option in result.output


@pytest.mark.parametrize(
    ("option", "value"), [("--loss", "hinge"), ("--backend", "mxnet"), ("--seeds", "0"), ("--epochs", "many")]
)
def test_bad_arguments_are_named(option: str, value: str) -> None:
    result = runner.invoke(cli.app, ["quick", option, value])
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.output


def test_a_good_run_writes_its_results(
    job: Job, untrained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Job] = []

    def run(job: Job, on_result: object) -> Run:
        asked.append(job)
        return Run([result for result in untrained.results if result.cell in job.cells()], untrained.versions)

    monkeypatch.setattr(cli, "run", run)
    result = runner.invoke(
        cli.app, ["quick", "--loss", "hem", "--loss", "ce", "--seeds", "2", "--epochs", "2", "--output", str(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    assert "The frameworks agree" in result.output
    assert asked[0].experiments["batch-norm"].losses == ("ce", "hem")
    assert asked[0].hyper_parameters.epochs == 2
    assert set(json.loads((tmp_path / "quick.json").read_text())["losses"]) == {"ce", "hem"}
    assert (tmp_path / "quick.html").read_text().startswith("<!doctype html>")


def test_a_disagreement_fails_and_says_where(untrained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doctored = next(result for result in untrained.results if result.backend == "keras" and result.cell.loss == "la")
    doctored.training.step_losses[1] = 2.01
    monkeypatch.setattr(cli, "run", lambda job, on_result: untrained)
    result = runner.invoke(cli.app, ["quick", "--seeds", "2", "--epochs", "2", "--output", str(tmp_path)])
    assert result.exit_code == 1
    assert "The frameworks disagree" in result.output
    assert "LA, batch-norm, seed 0, step 2: torch 2, keras 2.01, jax 2; relative difference 5.0e-03" in result.output
    assert (tmp_path / "quick.json").exists()  # to look into it


def test_a_crash_fails_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(job: Job, on_result: object) -> Run:
        raise WorkerError("the jax process ended with exit code 1 [sic]")

    monkeypatch.setattr(cli, "run", run)
    result = runner.invoke(cli.app, ["quick", "--output", str(tmp_path)])
    assert result.exit_code == 1
    assert "the jax process ended with exit code 1 [sic]" in result.output
