"""Runs a plan: a process for each framework, more where there are cores for them; results are kept as they come."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Literal

from hemspec_benchmark.settings import Cell, Runnable
from hemspec_benchmark.store import Store

DeviceName = Literal["cpu", "gpu", "auto"]

ENVIRONMENT: Final = {
    # One thread each: arrays this small do not keep two busy, and sums are taken in one order.
    "OMP_NUM_THREADS": "1",
    "NPROC": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    # Frameworks share an accelerator's memory.
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
}
CPU_ALONE: Final = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}


class WorkerError(RuntimeError):
    """A framework's process failed."""


@dataclass(frozen=True)
class Options:
    """How a plan is run; none of it changes a result on the CPU."""

    device: DeviceName = "cpu"
    processes: int = 0
    """At once; 0 means one for each framework, or for each core where there are more."""
    budget: float = float("inf")
    """Seconds after which no cell is begun."""
    data_dir: Path | None = None


def run(
    plan: Runnable,
    store: Store,
    options: Options = Options(),
    on_cell: Callable[[Cell], None] = lambda cell: None,
) -> None:
    """Train every cell that the store lacks; `on_cell` is called after each, from several threads.

    Raises:
        WorkerError: a process failed; with the end of what it wrote to standard error. The others are ended too.
    """
    Run(plan, store, options, on_cell).all()


class Run:
    """The cells to do, the processes that do them."""

    def __init__(self, plan: Runnable, store: Store, options: Options, on_cell: Callable[[Cell], None]) -> None:
        self.plan, self.store, self.options, self.on_cell = plan, store, options, on_cell
        self.deadline = time.monotonic() + options.budget
        self.lock = threading.Lock()
        self.workers: list[subprocess.Popen[str]] = []
        self.busy: dict[str, int] = dict.fromkeys(plan.backends, 0)
        self.pending: dict[str, deque[list[Cell]]] = {}
        for backend in plan.backends:
            cells = [cell for cell in plan.cells() if cell.backend == backend and cell not in store.records]
            # A block shares its training: see `Plan.cells`.
            blocks = groupby(cells, key=self.plan.shared)
            self.pending[backend] = deque(list(block) for _, block in blocks)

    def all(self) -> None:
        """Until nothing is left, or the budget is."""
        cores = len(os.sched_getaffinity(0)) if self.options.device == "cpu" else 1
        number = self.options.processes or max(len(self.plan.backends), cores)
        with ThreadPoolExecutor(number) as pool:
            try:
                done, _ = wait([pool.submit(self.slot) for _ in range(number)], return_when=FIRST_EXCEPTION)
                for slot in done:
                    slot.result()
            except BaseException:
                self.deadline = 0.0
                for worker in self.workers:
                    worker.kill()
                raise

    def next_block(self, backend: str | None) -> tuple[str, list[Cell]] | None:
        """Stay with a framework while it has work; then help where most is left for each process."""
        with self.lock:
            if time.monotonic() >= self.deadline:
                return None
            if backend is None or not self.pending[backend]:
                waiting = [name for name in self.plan.backends if self.pending[name]]
                if not waiting:
                    return None
                if backend is not None:
                    self.busy[backend] -= 1
                backend = max(waiting, key=lambda name: len(self.pending[name]) / (1 + self.busy[name]))
                self.busy[backend] += 1
            return backend, self.pending[backend].popleft()

    def slot(self) -> None:
        """One process after the other, of whichever framework has work."""
        task = self.next_block(None)
        while task is not None:
            backend, _ = task
            task = self.follow(backend, task)

    def follow(self, backend: str, task: tuple[str, list[Cell]] | None) -> tuple[str, list[Cell]] | None:
        """Give a process of this framework blocks while there are any of it; the first block of another is returned."""
        with tempfile.TemporaryFile("w+", errors="replace") as errors:
            given = {
                "protocol": self.plan.protocol.as_json(),
                "data_dir": str(self.options.data_dir or ""),
            }
            only_cpu = CPU_ALONE if self.options.device == "cpu" else {}
            worker = subprocess.Popen(
                [sys.executable, "-m", self.plan.worker, backend, json.dumps(given)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **ENVIRONMENT, **only_cpu},
            )
            self.workers.append(worker)
            assert worker.stdin is not None
            assert worker.stdout is not None
            try:
                machine = json.loads(worker.stdout.readline())["machine"]
                if self.options.device == "gpu" and machine["device"] == "cpu":
                    raise WorkerError(f"{backend} sees no GPU; give --device cpu, or auto to take what there is")
                while task is not None and task[0] == backend:
                    self.block(worker, machine, task[1])
                    task = self.next_block(backend)
            except (ValueError, BrokenPipeError):  # no more lines: the process has ended
                code = worker.wait()  # the traceback is written after the pipe is closed
                errors.seek(0)
                tail = "".join(errors.readlines()[-25:])
                raise WorkerError(
                    f"the {backend} process ended with exit code {code}; it last wrote:\n{tail}"
                ) from None
            finally:
                worker.kill()  # idle, or of no use any more
                worker.wait()
                worker.stdin.close()
                worker.stdout.close()
        return task

    def block(self, worker: subprocess.Popen[str], machine: dict[str, Any], cells: list[Cell]) -> None:
        """Hand out cells one by one, so that a budget is kept and a resumed run goes on in the middle."""
        assert worker.stdin is not None
        assert worker.stdout is not None
        for cell in cells:
            if time.monotonic() >= self.deadline:
                return
            worker.stdin.write(json.dumps(asdict(cell)) + "\n")
            worker.stdin.flush()
            record = json.loads(worker.stdout.readline())
            with self.lock:
                self.store.add(cell, machine, record)
            self.on_cell(cell)
