"""Semantic segmentation of scenes made of real digits on patches of real photographs."""

from __future__ import annotations

from typing import Final

import numpy as np
from sklearn.metrics import confusion_matrix

import hemspec
from hemspec_benchmark import metrics, scenes
from hemspec_benchmark.tasks import Outcome
from hemspec_benchmark.training import Workshop

SHOWN: Final = 4
"""Test scenes whose predicted masks are kept, of seed 0, to be shown."""
AT_ONCE: Final = 32


def run(workshop: Workshop, setting: str, loss: str, seed: int) -> Outcome:
    """A small U-Net; one confusion matrix over all labelled pixels of the test scenes."""
    protocol = workshop.protocol
    data = scenes.scenes(workshop.data(seed), seed, protocol.training_scenes, protocol.test_scenes)
    learner, _ = workshop.train(data, loss, seed, protocol.segmentation, architecture="unet", evaluation_batch=AT_ONCE)
    predictions = learner.logits(data.test_images).argmax(axis=-1)
    labelled = data.test_labels >= 0
    confusion = confusion_matrix(data.test_labels[labelled], predictions[labelled], labels=np.arange(data.num_classes))
    pixels = int(data.class_counts.sum())
    details = {
        "confusion": confusion.tolist(),
        "num_samples": pixels,
        "margin": hemspec.margin_from_num_samples(pixels),
    }
    if seed == 0:
        details["masks"] = predictions[:SHOWN].tolist()
    return Outcome(metrics.segmentation(confusion), details)
