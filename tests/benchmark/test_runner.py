"""Runs that are killed, crash or run out of time: what is finished is kept, nothing stays behind, the end is the same.

Real processes, real trainings of one epoch.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hemspec_benchmark import store
from hemspec_benchmark.runner import CPU_ALONE, Options, Run, WorkerError, run
from hemspec_benchmark.settings import CIFAR, DIGITS, Cell, Plan
from hemspec_benchmark.store import FILE, Store

SHORT = replace(DIGITS, classification=replace(DIGITS.classification, epochs=1))
SETTINGS = (("accuracy", "test"), ("rejection", "far"), ("imbalance", "ratio-50"))
PLAN = Plan(SHORT, SETTINGS, ("ce", "hem"), ("torch",), (0,))


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "run", SHORT)
    yield opened
    opened.close()


def processes(mark: str) -> list[int]:
    """Those that were started with the mark in their environment, by whichever ancestor."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue  # it has just ended
    return found


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds:g} seconds"
        time.sleep(0.01)


def lines(folder: Path) -> list[str]:
    """The whole lines of the finished cells."""
    path = folder / FILE
    return path.read_text().splitlines(keepends=True) if path.exists() else []


def without_time(folder: Path) -> dict[str, Any]:
    document = store.read(folder / "results.json")
    for cell in document["cells"]:
        assert cell.pop("seconds") > 0
        cell.pop("timings")
    return document


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in Linux's /proc")
def test_a_run_that_is_killed_three_times_ends_as_one_that_is_not(tmp_path: Path) -> None:
    arguments = "train --epochs 1 --task accuracy --task imbalance --loss ce --loss hem --seeds 2 "
    arguments += "--backend torch --processes 2 --output results"
    command = [sys.executable, "-m", "hemspec_benchmark", *arguments.split()]
    cells = 4 * 2 * 2

    def start(folder: str, mark: str = "") -> subprocess.Popen[str]:
        where = tmp_path / folder
        where.mkdir(exist_ok=True)
        return subprocess.Popen(
            command,
            cwd=where,
            env={**os.environ, "HEMSPEC_TEST": mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(folder: str) -> str:
        parent = start(folder)
        output, _ = parent.communicate(timeout=300)
        assert parent.returncode == 0, output
        return output

    finish("whole")
    results = tmp_path / "killed/results"
    before: list[str] = []
    # The first at its first cell, the others some moments (no round number of cells) after they have gone on.
    for more, moment in ((1, 0.0), (3, 0.05), (4, 0.21)):
        mark = uuid.uuid4().hex
        parent = start("killed", mark)
        enough = len(before) + more

        def reached(parent: subprocess.Popen[str] = parent, enough: int = enough) -> bool:
            assert parent.poll() is None, parent.communicate()[0]
            return len(lines(results)) >= enough

        wait_for(reached, f"{enough} lines")
        time.sleep(moment)
        parent.send_signal(signal.SIGKILL)
        parent.communicate()
        wait_for(lambda mark=mark: not processes(mark), "the end of the workers", 20.0)
        now = [line for line in lines(results) if line.endswith("\n")]
        assert now[: len(before)] == before
        assert len(now) < cells
        before = now

    output = finish("killed")
    finished = lines(results)
    assert finished[: len(before)] == before
    already = sum("task" in json.loads(line) for line in before)
    assert f"{already} of {cells} cells are there already." in output
    keys = [store.cell_of(entry) for entry in map(json.loads, finished) if "task" in entry]
    assert len(keys) == len(set(keys)) == cells
    assert without_time(tmp_path / "killed/results") == without_time(tmp_path / "whole/results")


def test_a_cell_fits_its_worker_and_each_is_reported_once(kept: Store) -> None:
    seen: list[Cell] = []
    run(PLAN, kept, Options(processes=2), seen.append)
    assert sorted(seen) == sorted(PLAN.cells()) == sorted(kept.records)
    (machine,) = kept.machines
    assert machine["versions"]["torch"]
    assert machine["device"] == "cpu"
    assert all(record["device"] == "cpu" and record["metrics"] for record in kept.records.values())
    run(PLAN, kept, Options(), seen.append)
    assert len(seen) == len(PLAN.cells()), "a run that is finished was run again"


def test_without_a_budget_nothing_is_begun(kept: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)  # starting a process would fail
    run(PLAN, kept, Options(budget=0.0))
    assert not kept.records


def test_when_the_budget_ends_the_cell_at_hand_is_kept_and_the_next_is_not_begun(kept: Store) -> None:
    def spent(_: Cell) -> None:
        began.deadline = time.monotonic()

    began = Run(PLAN, kept, Options(processes=1), spent)
    began.all()
    assert list(kept.records) == [Cell("accuracy", "test", "ce", "torch", 0)]


def test_a_process_that_cannot_start_is_quoted(kept: Store) -> None:
    with pytest.raises(WorkerError, match=r"the nothing process ended with exit code 1(.|\n)*nothing_learner"):
        run(replace(PLAN, backends=("nothing",)), kept)


def test_a_process_that_fails_in_a_cell_is_quoted_and_the_others_are_ended(tmp_path: Path) -> None:
    lost = tmp_path / "lost"
    with closing(Store(tmp_path / "run", CIFAR)) as kept, pytest.raises(WorkerError) as caught:
        run(replace(PLAN, protocol=CIFAR), kept, Options(processes=2, data_dir=lost))
    assert "the torch process ended with exit code 1; it last wrote:" in str(caught.value)
    assert f"there is no directory {lost}" in str(caught.value)
    assert not kept.records


def test_what_fails_in_the_parent_ends_the_processes(kept: Store) -> None:
    def fail(cell: Cell) -> None:
        raise RuntimeError(f"cannot show {cell.loss}")

    began = Run(PLAN, kept, Options(processes=2), fail)
    with pytest.raises(RuntimeError, match="cannot show"):
        began.all()
    assert began.workers
    assert all(worker.poll() is not None for worker in began.workers)
    assert kept.records, "what was finished is kept"


def test_a_gpu_that_is_not_there_is_an_error(kept: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CPU_ALONE.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(WorkerError, match="torch sees no GPU; give --device cpu, or auto"):
        run(PLAN, kept, Options(device="gpu"))


def test_processes_stay_with_a_framework_and_then_help_where_most_is_left(kept: Store) -> None:
    plan = replace(PLAN, backends=("torch", "keras", "jax"), seeds=(0, 1))
    for cell in plan.cells():
        if (cell.backend == "torch" and cell.seed == 1) or (cell.backend == "jax" and cell.loss == "hem"):
            kept.add(cell, {}, {"metrics": {}, "details": {}})
    began = Run(plan, kept, Options(), lambda cell: None)

    def taken(backend: str | None) -> str:
        task = began.next_block(backend)
        assert task is not None
        assert len({(cell.seed, cell.loss) for cell in task[1]}) == 1, "a block shares a training"
        return task[0]

    # Blocks left: torch 2, keras 4, jax 2. Three processes begin.
    assert [taken(None) for _ in range(3)] == ["keras", "torch", "jax"]
    assert [taken("torch"), taken("torch")] == ["torch", "keras"]
    assert [taken("keras"), taken("jax"), taken("keras")] == ["keras", "jax", "keras"]
    assert began.next_block("keras") is None
