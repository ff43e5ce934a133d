"""One framework's process: ``python -m hemspec_benchmark.worker torch JOB``, the job as JSON.

Trains the job's cells and writes one JSON line after each to standard output. Frameworks are never in one process
together: their thread pools would compete and their versions of shared libraries might clash.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from dataclasses import asdict
from itertools import groupby
from typing import Any

from hemspec_benchmark.data import load_split
from hemspec_benchmark.settings import Cell, Job


def work(backend: str, job: Job, report: Any) -> None:
    """Train all cells of the job in this framework, a report after each."""
    loop = importlib.import_module(f"hemspec_benchmark.{backend}_loop")
    report({"versions": {name: importlib.import_module(name).__version__ for name in loop.PACKAGES}})
    split = load_split(job.evaluate_on)
    for (experiment, loss), cells in groupby(job.cells(), key=lambda cell: (cell.experiment, cell.loss)):
        trainings = loop.trainings(
            loss,
            [cell.seed for cell in cells],
            batch_norm=job.experiments[experiment].batch_norm,
            split=split,
            settings=job.hyper_parameters,
        )
        for training in trainings:
            report({"cell": asdict(Cell(experiment, loss, training.seed)), "training": asdict(training)})


def main() -> None:
    """Keep the real standard output for the reports: what a framework prints goes to standard error."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as reports:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

        def report(message: dict[str, Any]) -> None:
            print(json.dumps(message), file=reports, flush=True)

        work(sys.argv[1], Job.from_json(sys.argv[2]), report)


if __name__ == "__main__":
    main()
