"""How the hyper-parameters were chosen: cross-entropy alone, on a validation split of the training images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hemspec_benchmark.runner import run
from hemspec_benchmark.settings import Experiment, HyperParameters, Job
from hemspec_benchmark.statistics import Summary, summarise

GRID: Final = [
    HyperParameters(epochs=epochs, learning_rate=rate) for epochs in (10, 15, 20) for rate in (0.03, 0.1, 0.3, 1.0)
]


def search(seeds: int) -> Iterator[tuple[HyperParameters, Summary]]:
    """Train the network with batch norm in PyTorch at each point of the grid."""
    for settings in GRID:
        experiment = Experiment("validation", batch_norm=True, losses=("ce",))
        job = Job(settings, {"validation": experiment}, ("torch",), seeds, evaluate_on="validation")
        yield settings, summarise(run(job).results)
