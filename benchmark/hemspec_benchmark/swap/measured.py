"""What is measured on the networks of a replication."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from hemspec_benchmark import metrics, unknowns
from hemspec_benchmark.datasets import Dataset
from hemspec_benchmark.network import Array

Logits = Callable[[Array], Array]
"""A trained network's, of images."""


def clean_and_far(logits: Logits, data: Dataset) -> dict[str, float]:
    """Clean accuracy, and how well each kind of far unknowns is told."""
    clean = float(np.mean(logits(data.test_images).argmax(axis=1) == data.test_labels))
    return {
        "clean": clean,
        **told(logits, data, {name: make(data.test_images, 0) for name, make in unknowns.FAR.items()}),
    }


def told(logits: Logits, data: Dataset, others: Mapping[str, Array]) -> dict[str, float]:
    """The AUROC of either score, with each of the unknowns: ``auroc/max_logit/noise``."""
    tested = logits(data.test_images)
    return {
        f"{score}/{name}": value
        for name, images in others.items()
        for score, value in metrics.rejection(tested, logits(images)).items()
        if score.startswith("auroc")
    }
