"""A run that nobody trained: results whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hemspec_benchmark import arms, store, unknowns
from hemspec_benchmark.arms import LOSSES, TUNING
from hemspec_benchmark.settings import Cell
from hemspec_benchmark.swap import replication

EFFECTS = {
    # Points above cross-entropy, by task.
    "rejection": {"hem": 4.0, "logitnorm": 4.1, "la": -3.0, "hem-mean": 1.0},
    "robustness": {"hem": -5.0},
    "imbalance": {"hem": 0.2, "la": 6.0},
    "continual": {"hem": 0.5, "logitnorm": -9.0},
    "segmentation": {"hem": 5.0, "logitnorm": -20.0},
    "accuracy": {"hem": -0.1},
}
NOISE = {"continual": 6.0}
"""Of a seed, in points; 1 otherwise."""


def of(cell: Cell) -> float:
    """What a training reached: 80 %, its effect, what the seed does to every loss, and noise of its own."""
    loss = "logitnorm" if cell.loss.startswith("logitnorm") else cell.loss
    effect = EFFECTS[cell.task].get(loss, -2.0 if loss == "dice-batch" else 0.0)
    if cell.variant.startswith(("clipped", "adam")) and cell.task == "rejection":
        effect = 0.0
    shared = np.random.default_rng((cell.seed, 1)).normal()
    place = LOSSES.index(loss) if loss in LOSSES else len(LOSSES)  # what is trained beside the arms
    own = np.random.default_rng((cell.seed, len(cell.setting), place, 3)).normal()
    return float(0.8 + (effect + 3.0 * shared + NOISE.get(cell.task, 1.0) * own) / 100)


def metrics(cell: Cell) -> dict[str, float | None]:
    """The numbers that the composites ask for."""
    value = of(cell)
    if cell.task == "rejection":
        kinds = ("digits",) if cell.setting == "near" else unknowns.FAR
        kinds = unknowns.CHOOSING if cell.variant.startswith(TUNING) else kinds
        # By the largest softmax cross-entropy tells unknowns better, HEM does not.
        better = 0.03 if cell.loss == "ce" else -0.03
        return {
            f"auroc/{score}/{kind}": value + (better if score == "max_softmax" else 0.0)
            for kind in kinds
            for score in ("max_logit", "max_softmax")
        }
    if cell.setting == "autoattack":
        return {"pgd/0.05": value, "autoattack/0.05": value - (0.015 if cell.loss == "hem" else 0.0)}
    if cell.task == "robustness":
        return {f"pgd/{size:g}": value - size for size in arms.CONFIRMING.attack.epsilons}
    if cell.task == "accuracy":
        return {"clean": value, "corrupted": value - 0.3, "ece": 0.02, "ece/scaled": 0.01}
    return {
        {"imbalance": "balanced_accuracy", "continual": "average_accuracy", "segmentation": "miou"}[cell.task]: value
    }


DETAILS = {
    "active": [0.5, 0.01],
    "gradient_norm": [4.0, None],
    "calibration": {"nll": 0.09, "nll/scaled": 0.08, "temperature": 1.5},
}
"""Of clean accuracy; the last gradient was not finite."""


def invented_run() -> dict[str, Any]:
    """The whole run. Everybody's best rate is that of cross-entropy."""
    records: dict[Cell, Any] = {}
    for cell in arms.tuning():
        far = abs(np.log10(float(cell.variant.split()[-1])) - (-3 if "adam" in cell.variant else -1))
        records[cell] = {
            "metrics": metrics(cell)
            if cell.task == "rejection"
            else {name: value - 0.2 * far for name, value in metrics(cell).items() if value is not None}
        }
    for cell in arms.compared(records):
        details = DETAILS if cell.task == "accuracy" else {}
        timings = {"loss_milliseconds": 0.05}
        records.setdefault(cell, {"metrics": metrics(cell), "details": details, "timings": timings})
    for cell in replication.cells():
        records[cell] = {"metrics": {"clean": of(replace(cell, task="accuracy"))}}
    entries = [{**vars(cell), **record} for cell, record in records.items()]
    return {"schema": 2, "data": "digits", **store.separate(entries)}
