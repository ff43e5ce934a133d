"""Starts the frameworks' processes, one after the other, and keeps what they tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Final

from hemspec_perf.plan import LOSSES, Line

CPU_ALONE: Final = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
GPU_MEMORY: Final = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
"""What one candidate gave back is whole again for the next: the largest logits have 17 GB."""


class WorkerError(RuntimeError):
    """A framework's process failed."""


@dataclass(frozen=True)
class Options:
    """How it is measured."""

    threads: int = 2
    repeats: int = 30
    budget: float = 3.0
    """Seconds of measuring for each table, compilation apart."""
    losses: tuple[str, ...] = LOSSES
    limit: float | None = None
    """Seconds for all tables, of which each gets an even share of what is left. Its candidates are made ready in
    turn until that is used up, and a table for which nothing is left is skipped."""


def environment(framework: str, options: Options, device: str) -> dict[str, str]:
    """Of a process: as many threads as asked for, whatever the caller has set."""
    threads = str(options.threads)
    variables = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TF_NUM_INTRAOP_THREADS": threads,
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    name, _, backend = framework.partition("-")
    if name == "keras":
        variables["KERAS_BACKEND"] = backend
    return {**os.environ, **variables, **(CPU_ALONE if device == "cpu" else GPU_MEMORY)}


def run(lines: Sequence[Line], options: Options, on_table: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """Measure all lines; `on_table` is called with each as it comes. Returns the machines, as each process saw them.

    Raises:
        WorkerError: a process failed; with the end of what it wrote to standard error.
    """
    machines = []
    begin, waiting = time.monotonic(), len(lines)
    for (framework, device), group in groupby(lines, key=lambda line: (line.framework, line.device)):
        own = list(group)
        left = None if options.limit is None else begin + options.limit - time.monotonic()
        task = {
            "limit": None if left is None else max(1.0, left) * len(own) / waiting,
            "framework": framework,
            "threads": options.threads,
            "repeats": options.repeats,
            "budget": options.budget,
            "losses": options.losses,
            "lines": [asdict(line) for line in own],
        }
        waiting -= len(own)
        command = [sys.executable, "-m", "hemspec_perf.worker"]
        with tempfile.TemporaryFile("w+") as errors:
            worker = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment(framework, options, device),
            )
            assert worker.stdin is not None
            assert worker.stdout is not None
            try:
                worker.stdin.write(json.dumps(task))
                worker.stdin.close()
                for text in worker.stdout:
                    message = json.loads(text)
                    if "machine" in message:
                        machines.append({"framework": framework, **message["machine"]})
                    else:
                        on_table(message)
            except BaseException:
                worker.kill()
                raise
            finally:
                worker.stdout.close()
                code = worker.wait()
            if code:
                errors.seek(0)
                end = "\n".join(errors.read().strip().splitlines()[-8:])
                raise WorkerError(f"the process of {framework} ended with {code}:\n{end}")
    return machines
