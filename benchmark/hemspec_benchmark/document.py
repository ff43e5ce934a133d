"""The result of a run as one JSON document: every raw number, and how to get it again."""

from __future__ import annotations

import json
import math
import os
import platform
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import hemspec
from hemspec_benchmark import statistics
from hemspec_benchmark.data import SHIFT, load_split
from hemspec_benchmark.losses import LOSSES
from hemspec_benchmark.runner import Run
from hemspec_benchmark.settings import Job
from hemspec_benchmark.statistics import Comparison

Document = dict[str, Any]


def build(job: Job, run: Run, comparisons: list[Comparison], *, command: str, seconds: float) -> Document:
    """Everything there is to know about a run."""
    split = load_split(job.evaluate_on)
    losses = {loss for experiment in job.experiments.values() for loss in experiment.losses}
    return {
        "task": "digits",
        "command": command,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": seconds,
        "machine": {"platform": platform.platform(), "processor": _processor(), "cpus": os.cpu_count()},
        "versions": {
            "hemspec": hemspec.__version__,
            "spec": hemspec.SPEC_VERSION,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scikit-learn": version("scikit-learn"),
            **run.versions,
        },
        "data": {
            "train_images": len(split.train_labels),
            "test_images": len(split.test_labels),
            "class_counts": split.class_counts.tolist(),
            "largest_shift": SHIFT,
        },
        "hyper_parameters": asdict(job.hyper_parameters),
        "backends": list(job.backends),
        "seeds": job.seeds,
        "experiments": {name: asdict(experiment) for name, experiment in job.experiments.items()},
        "losses": {
            name: {
                "label": loss.label,
                "function": loss.function_name,
                "arguments": {key: _plain(value) for key, value in loss.arguments(split.class_counts).items()},
            }
            for name, loss in LOSSES.items()
            if name in losses
        },
        "agreement": {
            "tolerances": list(statistics.TOLERANCES),
            "comparisons": [
                {
                    **asdict(comparison),
                    "difference": comparison.difference,
                    "agrees": comparison.agrees,
                }
                for comparison in comparisons
            ],
        },
        "summary": [
            {
                "experiment": name,
                "loss": loss,
                "backend": backend,
                **asdict(
                    statistics.summarise(
                        [
                            result
                            for result in run.results
                            if (result.cell.experiment, result.cell.loss, result.backend) == (name, loss, backend)
                        ]
                    )
                ),
            }
            for name, experiment in job.experiments.items()
            for loss in experiment.losses
            for backend in job.backends
        ],
        "cells": [
            {**asdict(result.cell), "backend": result.backend, **_measured(asdict(result.training))}
            for result in run.results
        ],
    }


def write(document: Document, path: Path) -> None:
    """As strict JSON, which knows neither NaN nor infinity: a loss that diverged is null."""
    path.write_text(json.dumps(_finite(document), indent=1, allow_nan=False), encoding="utf-8")


def _measured(training: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in training.items() if key != "seed"}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return value


def _processor() -> str:
    """The model of the processor; `platform.processor` does not know it on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
