"""What a framework has to offer to the tasks, and which it is."""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np

from hemspec_benchmark.losses import Counts
from hemspec_benchmark.network import Array, Shape, Weights
from hemspec_benchmark.settings import OptimizerName

BACKENDS: Final = {"torch": "PyTorch", "keras": "Keras", "jax": "JAX"}
"""The frameworks, each by the name of its learner's module and as people write it."""

Objective = Literal["margin", "loss"]


@dataclass(frozen=True)
class Build:
    """What decides the code that a framework compiles; trainings that differ in seeds and data alone share it."""

    architecture: str
    image_shape: Shape
    classes: int
    """Outputs of the network: the classes of all heads together."""
    loss: str
    class_counts: tuple[int, ...]
    """What the loss's constants are made of."""
    over_batch: bool = False
    """The loss sees samples with one label each, (N, C), as the positions of one image."""
    heads: int = 1
    """The outputs are so many classifiers side by side; each sample belongs to one (task-incremental learning)."""
    momentum: float = 0.9
    weight_decay: float = 0.0
    """L2, as PyTorch's SGD has it: added to the gradient of every weight."""
    optimizer: OptimizerName = "sgd"
    """Adam's constants are 0.9, 0.999 and 1e-8 everywhere."""
    clip: float | None = None
    """The largest global norm of the loss's gradient, before weight decay is added; None for any."""
    mixed_precision: bool = False
    """Convolutions and linear layers in bfloat16; weights, batch norm and the loss in float32."""
    evaluation_batch: int = 180
    """Images evaluated at once. Fixed, since compiled frameworks compile once for each shape."""

    @property
    def counts(self) -> Counts:
        """The class counts as the losses take them."""
        return np.asarray(self.class_counts)


class Learner(Protocol):
    """A network in training. Images (N, H, W, channels), labels (N,) or (N, H, W), NumPy on both sides."""

    def __init__(self, build: Build) -> None: ...

    def start(self, weights: Weights) -> None:
        """Begin anew, from these weights: moments 0, running statistics 0 and 1."""

    def fit(self, images: Array, labels: Array, rate: float, groups: Array | None = None) -> tuple[Array, Array]:
        """A step for each of the S batches (S, B, ...): their losses and the norms of their gradients, (S,).

        The norms are those before clipping.

        `groups` (S, B) names each sample's head; the loss sees the logits of that head alone.
        """

    def logits(self, images: Array) -> Array:
        """Evaluated, not training; (N, C) or (N, H, W, C), float32."""

    def input_gradient(self, images: Array, labels: Array, objective: Objective) -> tuple[Array, Array]:
        """Logits and the gradient of an attacker's objective with respect to the images, evaluated, not training.

        ``"margin"`` is the largest other logit minus the true one, summed over the images; ``"loss"`` is the loss that
        was trained with.
        """

    def loss_seconds(self, logits: Array, labels: Array) -> float:
        """What the loss of a batch and its gradient take, without the network: see `median_seconds`."""


def median_seconds(call: Callable[[], object], times: int = 20) -> float:
    """Of so many calls, each of which waits for its result; after one that may compile."""
    call()
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def learner_class(backend: str) -> Any:
    """The `Learner` of a framework; imports the framework."""
    return importlib.import_module(f"hemspec_benchmark.{backend}_learner").Learner


def in_batches(function: Callable[..., tuple[Array, ...]], size: int, *arrays: Array) -> tuple[Array, ...]:
    """Apply a function to batches of always the same size, the last one filled up with its first image."""
    results = []
    for start in range(0, len(arrays[0]), size):
        parts = [array[start : start + size] for array in arrays]
        count = len(parts[0])
        filled = [np.concatenate([part, np.repeat(part[:1], size - count, axis=0)]) for part in parts]
        results.append([np.asarray(result)[:count] for result in function(*filled)])
    return tuple(np.concatenate(parts) for parts in zip(*results, strict=True))
