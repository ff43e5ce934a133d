"""Runs a job: one process for each framework, their reports collected as they come."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any, Final

from hemspec_benchmark.settings import Cell, Job
from hemspec_benchmark.training import Training

PROCESSES: Final = min(2, os.cpu_count() or 1)
SLOWEST_FIRST: Final = ("keras", "jax", "torch")
"""Measured; with fewer processes than frameworks, starting the longest first ends soonest."""

ENVIRONMENT: Final = {
    # One thread each: arrays this small do not keep two busy, and sums are taken in one order.
    "OMP_NUM_THREADS": "1",
    "NPROC": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    # The CPU, also where there is an accelerator: agreement is checked to float32 accuracy, which TF32 does not have.
    "CUDA_VISIBLE_DEVICES": "-1",
    "JAX_PLATFORMS": "cpu",
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


class WorkerError(RuntimeError):
    """A framework's process failed."""


@dataclass(frozen=True)
class Result:
    """One cell, trained in one framework."""

    backend: str
    cell: Cell
    training: Training


@dataclass
class Run:
    """What the workers reported."""

    results: list[Result] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)


def run(job: Job, on_result: Callable[[Result], None] = lambda result: None) -> Run:
    """Train every cell in every framework; `on_result` is called after each, from several threads.

    Raises:
        WorkerError: a process failed; with the end of what it wrote to standard error. The others are ended too.
    """
    outcome = Run()
    workers: list[subprocess.Popen[str]] = []

    def follow(backend: str) -> None:
        with tempfile.TemporaryFile("w+", errors="replace") as errors:
            worker = subprocess.Popen(
                [sys.executable, "-m", "hemspec_benchmark.worker", backend, job.to_json()],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **ENVIRONMENT},
            )
            workers.append(worker)
            assert worker.stdout is not None
            done = 0
            with worker:
                for line in worker.stdout:
                    message: dict[str, Any] = json.loads(line)
                    outcome.versions.update(message.get("versions", {}))
                    if "cell" in message:
                        result = Result(backend, Cell(**message["cell"]), Training(**message["training"]))
                        outcome.results.append(result)
                        on_result(result)
                        done += 1
            expected = len(job.cells())
            if worker.returncode != 0 or done != expected:
                errors.seek(0)
                tail = "".join(errors.readlines()[-25:])
                raise WorkerError(
                    f"the {backend} process ended with exit code {worker.returncode} "
                    f"after {done} of {expected} trainings; it last wrote:\n{tail}"
                )

    backends = sorted(job.backends, key=SLOWEST_FIRST.index)
    with ThreadPoolExecutor(PROCESSES) as pool:
        try:
            for followed in as_completed([pool.submit(follow, backend) for backend in backends]):
                followed.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.kill()
            raise
    # In the order of the job, not of arrival.
    cells = job.cells()
    outcome.results.sort(key=lambda result: (cells.index(result.cell), job.backends.index(result.backend)))
    return outcome
