"""A result that nobody measured, for the tests of what reads results: random numbers, plausible in size and shape.

Its command says that it is synthetic, and so does every page made from it.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemspec_benchmark import agreement
from hemspec_benchmark.corruptions import CORRUPTIONS
from hemspec_benchmark.learner import BACKENDS
from hemspec_benchmark.losses import COMPARED, LOSSES
from hemspec_benchmark.settings import DIGITS, TASKS

sys.path.insert(0, str(Path(__file__).parent))  # for the modules beside the tests

Document = dict[str, Any]

SKILL = {"ce": 0.0, "hem": 0.010, "hem-mean": 0.004, "hem-plus": 0.012, "mm": -0.02}
"""How much better than cross-entropy a loss is made to be, on the whole."""


def build_synthetic(
    *, seeds: int = 10, losses: Iterable[str] = COMPARED, backends: Iterable[str] = tuple(BACKENDS), extras: bool = True
) -> Document:
    """All six tasks; `extras` are the pictures' data and explorations."""
    losses, backends = list(losses), list(backends)
    document: Document = {
        "schema": 2,
        "data": "digits",
        "command": "synthetic: nothing here was measured",
        "protocol": DIGITS.as_json(),
        "losses": {
            name: {"label": LOSSES[name].label, "function": LOSSES[name].function_name, "arguments": {}}
            for name in losses
        },
        "machines": [{"processor": "synthetic", "cpus": 2, "platform": "none", "device": "cpu"}],
        "versions": {"hemspec": "0", "python": "3", "numpy": "2", "torch": "2"},
        "cells": [],
    }
    for task, settings in TASKS.items():
        for setting in settings:
            for loss in losses:
                for seed in range(seeds):
                    made = [_cell(task, setting, loss, backend, seed, extras) for backend in backends]
                    document["cells"] += made
    references = agreement.reference_losses(document)
    for cell in document["cells"]:
        if steps := cell["details"].get("step_losses"):
            drift = _rng(cell["backend"], cell["seed"]).normal(size=len(steps)) * 3e-8
            scale = references[cell["loss"], cell["seed"]]
            cell["details"]["step_losses"] = [
                scale * float(value) * (1 + d * 1.5 ** min(step, 25))
                for step, (value, d) in enumerate(zip(steps, drift, strict=True))
            ]
    if extras:
        document["explorations"] = [
            _exploration(task, setting, loss, seed, variant)
            for variants, task, setting in (
                (
                    [
                        "learning rate 0.01",
                        "learning rate 0.03",
                        "learning rate 0.1",
                        "learning rate 0.3",
                        "learning rate 1",
                    ],
                    "accuracy",
                    "test",
                ),
                (["epochs 5", "epochs 15", "epochs 45"], "accuracy", "test"),
                (["without batch norm"], "accuracy", "test"),
                (
                    ["continual learning rate 0.01", "continual learning rate 0.1", "continual learning rate 1"],
                    "continual",
                    "class-naive",
                ),
                (
                    ["continual learning rate 0.01", "continual learning rate 0.1", "continual learning rate 1"],
                    "continual",
                    "domain-naive",
                ),
            )
            for variant in variants
            for loss in ("ce", "hem", "hem-mean", "hem-margin-1", "mm")
            for seed in range(3)
        ]
    return document


def _rng(*key: object) -> np.random.Generator:
    return np.random.default_rng([ord(letter) for letter in repr(key)])


def _cell(task: str, setting: str, loss: str, backend: str, seed: int, extras: bool) -> Document:
    # Most of a seed's luck is shared by losses and frameworks, as when weights and batches are the same.
    shared, loss_own, own = (
        _rng(task, setting, seed),
        _rng(task, setting, loss, seed),
        _rng(task, setting, loss, backend, seed),
    )
    skill = SKILL.get(loss, float(_rng(loss).normal(scale=0.01)))

    def about(value: float, spread: float, gain: float = 1.0) -> float:
        noise = shared.normal() * spread + loss_own.normal() * 0.5 * spread + own.normal() * 0.1 * spread
        return float(np.clip(value + gain * skill + noise, 0.0, 1.0))

    metrics, details = globals()[f"_{task}"](setting, loss, backend, seed, about, extras)
    return {
        "task": task, "setting": setting, "loss": loss, "backend": backend, "seed": seed, "device": "cpu",
        "seconds": 1.5 + float(own.random()), "metrics": metrics, "details": details,
    }  # fmt: skip


def _accuracy(setting: str, loss: str, backend: str, seed: int, about: Any, extras: bool) -> tuple[Any, Any]:
    levels = {
        f"{name}/{strength:g}": about(0.95 - 0.15 * i, 0.01, 2.0)
        for name, strengths in CORRUPTIONS.items()
        for i, strength in enumerate(strengths)
    }
    epochs = np.arange(DIGITS.classification.epochs)
    active = 0.9 * np.exp(-epochs / (2 if loss == "ce" else 3)) + 0.02
    details = {
        "step_losses": (np.exp(-np.arange(19) / 8)).tolist(),
        "train_loss": [abs(about(2.0 * value, 0.02)) for value in np.exp(-epochs / 3) + 0.03],
        "test_accuracy": [about(value, 0.005) for value in 0.985 - 0.6 * np.exp(-epochs / 2)],
        "active": [about(value, 0.01) for value in active],
        "gradient_norm": None
        if backend == "keras"
        else [abs(about(value, 0.02)) for value in (2.0 * np.exp(-epochs / 6) if loss == "hem" else active)],
    }
    if seed == 0 and extras:
        details["samples"] = {"logits": _rng(loss).normal(scale=4, size=(24, 10)).tolist()}
    return {"clean": about(0.985, 0.003, 0.1), "corrupted": float(np.mean(list(levels.values()))), **levels}, details


def _rejection(setting: str, loss: str, backend: str, seed: int, about: Any, extras: bool) -> tuple[Any, Any]:
    kinds = ("digits",) if setting == "near" else ("photographs", "noise")
    level = {"digits": 0.93, "photographs": 0.62, "noise": 0.45}
    metrics = {
        f"{metric}/{score}/{kind}": about(1 - level[kind] if metric == "fpr95" else level[kind], 0.03)
        for kind in kinds
        for score in ("max_logit", "max_softmax")
        for metric in ("auroc", "aupr", "fpr95")
    }
    if setting == "near":
        return metrics, {"held_out": [str(2 * seed % 10), str((2 * seed + 1) % 10)]}
    details = {}
    if seed == 0 and extras:
        rng = _rng(loss)
        details["samples"] = {
            "known": (rng.normal(size=(12, 10)) + 8 * np.eye(10)[np.arange(12) % 10]).tolist(),
            "photographs": (2 * rng.normal(size=(12, 10))).tolist(),
            "noise": (3 * rng.normal(size=(12, 10))).tolist(),
            "threshold": 5.0,
        }
    return metrics, details


def _robustness(setting: str, loss: str, backend: str, seed: int, about: Any, extras: bool) -> tuple[Any, Any]:
    metrics = {"clean": about(0.985, 0.003, 0.1)}
    for epsilon in DIGITS.attack.epsilons:
        robust = about(1 / (1 + np.exp(30 * (epsilon - 0.08))), 0.02, 2.0)
        metrics |= {f"fgsm/{epsilon:g}": min(1.0, robust + 0.05), f"pgd/{epsilon:g}": robust}
    metrics["pgd/0.5"] = 0.0
    base = metrics["pgd/0.05"]
    metrics |= {f"steps/{steps}": min(1.0, base + 0.05 / steps) for steps in DIGITS.attack.steps_checked}
    return metrics | {"loss_attack": min(1.0, base + (0.1 if "hem" in loss or loss == "mm" else 0.005))}, {}


def _imbalance(setting: str, loss: str, backend: str, seed: int, about: Any, extras: bool) -> tuple[Any, Any]:
    level = {"ratio-10": 0.96, "ratio-50": 0.89, "ratio-100": 0.84}[setting]
    parts = {"many": about(0.985, 0.01), "medium": about(level, 0.01), "few": about(level - 0.12, 0.02)}
    counts = [120, 90, 70, 50, 30, 20, 15, 10, 5, 3]
    balanced = float(np.average(list(parts.values()), weights=(4, 3, 3)))
    return {"balanced_accuracy": balanced, **parts}, {"class_counts": counts, "recall": [level] * 10}


def _continual(setting: str, loss: str, backend: str, seed: int, about: Any, extras: bool) -> tuple[Any, Any]:
    worse = -0.08 if loss in ("hem", "hem-plus") else 0.0
    decay = {"class-naive": 0.2, "class-replay": 0.85, "task-naive": 0.93, "task-replay": 0.97}.get(setting, 0.8)
    matrix = [[0.0 if i < j else about(decay ** (i - j) + worse * (i > j), 0.02) for j in range(5)] for i in range(5)]
    forgetting = float(np.mean([max(row[j] for row in matrix[j:4]) - matrix[4][j] for j in range(4)]))
    return {"average_accuracy": float(np.mean(matrix[-1])), "forgetting": forgetting}, {"matrix": matrix}


def _segmentation(setting: str, loss: str, backend: str, seed: int, about: Any, extras: bool) -> tuple[Any, Any]:
    classes = [about(0.97 if c == 0 else 0.7, 0.02) for c in range(11)]
    metrics = {"miou": float(np.mean(classes)), "pixel_accuracy": about(0.96, 0.005, 0.2)}
    details = {"confusion": np.eye(11, dtype=int).tolist(), "num_samples": 64_000, "margin": 0.18}
    if seed == 0 and extras:
        details["masks"] = _rng(loss).integers(0, 11, size=(4, 24, 24)).tolist()
    return metrics | {f"iou/{c}": value for c, value in enumerate(classes)}, details


def _exploration(task: str, setting: str, loss: str, seed: int, variant: str) -> Document:
    level = float(_rng(task, setting, loss, variant).uniform(0.4, 1.0))
    metric = "clean" if task == "accuracy" else "average_accuracy"
    value = float(np.clip(level + 0.01 * _rng(task, setting, loss, variant, seed).normal(), 0, 1))
    cell = {"task": task, "setting": setting, "loss": loss, "backend": "torch", "seed": seed, "variant": variant}
    return cell | {"device": "cpu", "seconds": 1.0, "metrics": {metric: value}, "details": {}}


@pytest.fixture(scope="session")
def untouched() -> Document:
    """A whole result. Do not change it."""
    return build_synthetic()


@pytest.fixture
def synthetic(untouched: Document) -> Document:
    """A whole result, to change."""
    return copy.deepcopy(untouched)


@pytest.fixture(scope="session")
def make() -> Callable[..., Document]:
    """Results of other sizes."""
    return build_synthetic
