"""Trainings as people write them."""

from __future__ import annotations

from typing import Final

from hemspec_benchmark.swap.matrix import Training

WORDS: Final = {
    "mlp": "MLP",
    "cnn": "CNN",
    "cnn-norm": "CNN with batch norm",
    "vit": "transformer",
    "small": "the run's CNN",
    "resnet18": "ResNet-18",
    "dilated": "dilated CNN",
    "sgd": "SGD",
    "momentum": "SGD with momentum",
    "adam": "Adam",
    "adamw": "AdamW",
    "mnist": "MNIST",
    "constant": "constant rate",
}


def words(training: Training, *fields: str) -> str:
    """Some of its fields, commas between."""
    values: list[str] = [getattr(training, field) for field in fields]
    return ", ".join(WORDS.get(value, value) for value in values)


def named(training: Training) -> str:
    """All of it; that gradients are not clipped goes without saying."""
    clipped = ", clipped" if training.clipping == "clipped" else ""
    return words(training, "data", "network", "optimizer", "schedule") + clipped
