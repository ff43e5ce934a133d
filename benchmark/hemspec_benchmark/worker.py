"""One framework's process: ``python -m hemspec_benchmark.worker torch OPTIONS``, the options as JSON.

Reads cells from standard input, a line of JSON each, and writes a line to standard output when a cell is finished.
Frameworks are never in one process together: their thread pools would compete and their versions of shared libraries
might clash.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import queue
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hemspec
from hemspec_benchmark import tasks
from hemspec_benchmark.arms import varied
from hemspec_benchmark.settings import Cell, Protocol
from hemspec_benchmark.store import plain
from hemspec_benchmark.tasks import Outcome
from hemspec_benchmark.training import Clock, Workshop

PACKAGES = {"torch": ("torch",), "keras": ("keras", "tensorflow"), "jax": ("jax", "optax")}


def machine(backend: str, packages: Iterable[str] = ()) -> dict[str, Any]:
    """Where the numbers come from; `packages` are those that this worker uses beside its framework's."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "device": importlib.import_module(f"hemspec_benchmark.{backend}_learner").device(),
        "versions": {
            "hemspec": hemspec.__version__,
            "spec": str(hemspec.SPEC_VERSION),
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "scikit-learn", "scipy", *packages)},
            **{name: importlib.import_module(name).__version__ for name in PACKAGES[backend]},
        },
    }


Work = Callable[[Cell], Outcome]


def begin(backend: str, options: dict[str, Any]) -> Work:
    """What trains and measures a cell of the paper's six tasks."""
    protocol = Protocol.from_json(options["protocol"])
    data_dir = Path(options["data_dir"]) if options["data_dir"] else None
    workshops: dict[str, Workshop] = {}

    def do(cell: Cell) -> Outcome:
        if cell.variant not in workshops:
            workshops[cell.variant] = Workshop(backend, varied(protocol, cell.variant), data_dir)
        return tasks.run(workshops[cell.variant], cell)

    return do


def work(backend: str, do: Work, cells: Any, report: Any, packages: Iterable[str] = ()) -> None:
    """Train the cells as they come, a report after each."""
    here = machine(backend, packages)
    report({"machine": here})
    for fields in iter(cells.get, None):
        cell, clock = Cell(**fields), Clock()
        outcome = do(cell)
        report({"device": here["device"], "seconds": round(clock.seconds, 3), **plain(asdict(outcome))})


def main(begin: Callable[[str, dict[str, Any]], Work] = begin, packages: Iterable[str] = ()) -> None:
    """Keep the real standard output for the reports: what a framework prints goes to standard error."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as reports:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        cells: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def listen() -> None:
            for line in sys.stdin:
                cells.put(json.loads(line))
            os._exit(0)  # the parent has gone, or needs us no more

        def report(message: dict[str, Any]) -> None:
            print(json.dumps(message, allow_nan=False), file=reports, flush=True)

        threading.Thread(target=listen, daemon=True).start()
        work(sys.argv[1], begin(sys.argv[1], json.loads(sys.argv[2])), cells, report, packages)


def _processor() -> str:
    """The model of the processor; `platform.processor` does not know it on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main(packages=("mlxtend", "adversarial-robustness-toolbox"))
