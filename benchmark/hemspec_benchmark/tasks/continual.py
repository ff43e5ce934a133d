"""Continual learning: classes come in groups, one after the other; what of the earlier ones remains?

The margins of HEM and the counts of LA are those of the whole sequence, as if its length were known.
"""

from __future__ import annotations

from typing import Final, cast

import numpy as np

from hemspec_benchmark import batches, datasets, metrics
from hemspec_benchmark.datasets import Dataset, Scenario
from hemspec_benchmark.network import Array, initial_weights
from hemspec_benchmark.tasks import Outcome
from hemspec_benchmark.training import ORDER, Batches, Record, Workshop, fit

BUFFER: Final = 42
"""The purpose of the random numbers that choose what is replayed."""


def run(workshop: Workshop, setting: str, loss: str, seed: int) -> Outcome:
    """The accuracy on each experience after each; naive fine-tuning, or replay from a small buffer."""
    scenario, _, method = setting.partition("-")
    sequence = datasets.experiences(workshop.data(seed), cast(Scenario, scenario), seed)
    recipe = workshop.protocol.continual
    heads = len(sequence) if scenario == "task" else 1
    outputs = heads * sequence[0].num_classes
    learner = workshop.learner(
        sequence[0],
        loss,
        recipe,
        counts=np.sum([data.class_counts for data in sequence], axis=0),
        classes=outputs,
        heads=heads,
    )
    shape = sequence[0].train_images.shape[1:]
    learner.start(initial_weights(workshop.protocol.architecture, shape, outputs, seed))
    rng, replay = np.random.default_rng((seed, ORDER)), np.random.default_rng((seed, BUFFER))
    buffer: list[tuple[Array, Array, Array]] = []
    matrix = []
    for index, data in enumerate(sequence):
        groups = np.full(len(data.train_labels), index)
        for _ in range(recipe.epochs):
            size = recipe.batch_size // 2 if buffer else recipe.batch_size
            parts: Batches = batches.epoch(
                data.train_images, data.train_labels, size, rng, shift=data.shift, flip=data.flip, groups=groups
            )
            if buffer:
                parts = with_replay(parts, buffer, recipe.batch_size - size, replay)
            if heads == 1:
                parts = ((images, labels, None) for images, labels, _ in parts)
            fit(learner, parts, recipe.learning_rate, Record())
        if method == "replay":
            buffer.append(kept(data, groups, workshop.protocol.replay_per_class, replay))
        matrix.append([accuracy(learner.logits(data.test_images), data, i, heads) for i, data in enumerate(sequence)])
    return Outcome(metrics.continual(matrix), {"matrix": matrix})


def accuracy(logits: Array, data: Dataset, index: int, heads: int) -> float:
    """On one experience's test images; with several heads, by its own."""
    logits = logits.reshape(len(logits), heads, -1)[:, index if heads > 1 else 0]
    return float(np.mean(logits.argmax(axis=1) == data.test_labels))


def kept(data: Dataset, groups: Array, per_class: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """What the buffer keeps of an experience: so many images of each class."""
    chosen = np.concatenate(
        [rng.permutation(np.flatnonzero(data.train_labels == c))[:per_class] for c in np.unique(data.train_labels)]
    )
    return data.train_images[chosen], data.train_labels[chosen], groups[chosen]


def with_replay(
    parts: Batches, buffer: list[tuple[Array, Array, Array]], count: int, rng: np.random.Generator
) -> Batches:
    """Fill each batch up with images of the buffer, drawn with replacement (Chaudhry et al. 2019)."""
    images, labels, groups = (np.concatenate(part) for part in zip(*buffer, strict=True))
    for new_images, new_labels, new_groups in parts:
        assert new_groups is not None
        new = new_images, new_labels, new_groups
        chosen = rng.integers(len(labels), size=(len(new[1]), count))
        old = images[chosen], labels[chosen], groups[chosen]
        mixed = [np.concatenate(pair, axis=1) for pair in zip(new, old, strict=True)]
        yield mixed[0], mixed[1], mixed[2]
