"""Clean accuracy, accuracy on corrupted images, calibration, and how the training went."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

import numpy as np
from sklearn.metrics import accuracy_score

from hemspec_benchmark import metrics
from hemspec_benchmark.corruptions import CORRUPTIONS, corrupt
from hemspec_benchmark.tasks import Outcome
from hemspec_benchmark.training import Workshop

SHOWN: Final = 24
"""Test images whose logits are kept, of seed 0, to be shown."""


def run(workshop: Workshop, setting: str, loss: str, seed: int) -> Outcome:
    """On the test images; every corruption at three strengths, and their mean.

    Calibration is measured as it is and, where there are images to choose on, with the temperature that suits those.
    """
    learner, record = workshop.on_all_classes(loss, seed)
    data = workshop.data(seed)

    logits = learner.logits(data.test_images)
    clean = accuracy_score(data.test_labels, logits.argmax(axis=1))
    corrupted = {}
    for name, strengths in CORRUPTIONS.items():
        for strength in strengths:
            # The same corrupted images for all trainings: the seed is of the corruption.
            predictions = learner.logits(corrupt(data.test_images, name, strength, seed=0)).argmax(axis=1)
            corrupted[f"{name}/{strength:g}"] = accuracy_score(data.test_labels, predictions)
    measured = {"clean": clean, "corrupted": float(np.mean(list(corrupted.values()))), **corrupted}
    calibration = metrics.calibration(logits, data.test_labels)
    if choosing := workshop.validation(seed):
        temperature = metrics.best_temperature(learner.logits(choosing.test_images), choosing.test_labels)
        scaled = metrics.calibration(logits, data.test_labels, temperature)
        calibration |= {"temperature": temperature} | {f"{name}/scaled": value for name, value in scaled.items()}
    measured |= {name: value for name, value in calibration.items() if name.startswith("ece")}
    # What is no fraction is not measured in points.
    details = asdict(record) | {
        "calibration": {name: calibration[name] for name in calibration if name not in measured},
    }
    if seed == 0:
        details["samples"] = {"logits": logits[:SHOWN].tolist()}
    batch = workshop.protocol.classification.batch_size
    timings = {"loss_milliseconds": 1000.0 * learner.loss_seconds(logits[:batch], data.test_labels[:batch])}
    return Outcome(measured, details, timings)
