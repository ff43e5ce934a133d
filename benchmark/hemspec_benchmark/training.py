"""Trains: what the tasks have in common, on top of one framework's learner."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import hemspec
from hemspec_benchmark import batches, datasets
from hemspec_benchmark.datasets import Dataset
from hemspec_benchmark.learner import Build, Learner, learner_class
from hemspec_benchmark.losses import LOSSES, Counts
from hemspec_benchmark.network import Array, initial_weights
from hemspec_benchmark.settings import Protocol, Recipe, SplitName

ORDER = 1
"""The purpose of the random numbers that order and augment the batches; 0 draws the weights."""
WATCHED = 180
"""Training images on which the share of active ones is followed."""
COMPILED = 300
"""Compiled networks that are kept; the one that was not used for longest goes first. More than one round over the
losses and settings uses, or each would be compiled again in each round."""

Batches = Iterator[tuple[Array, Array, Array | None]]


@dataclass
class Record:
    """How a training went; every list but the first has one number for each epoch."""

    step_losses: list[float] = field(default_factory=list)
    """Of the first epoch, step by step: what the agreement of the frameworks is checked on."""
    train_loss: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    active: list[float] = field(default_factory=list)
    """The share of the first training images that have an error inside HEM's margin, whatever the loss."""


def data_of(protocol: Protocol, seed: int, data_dir: Path | None = None) -> Dataset:
    """What the protocol says; the seed divides it where splits are by seed."""
    if protocol.splits == "by seed":
        return _divided(protocol.data, seed, protocol.evaluate_on)
    return _fixed(protocol.data, protocol.evaluate_on, data_dir)


# Kept: a training asks for its data several times, and whoever shares it compares by identity.
_divided = lru_cache(maxsize=4)(datasets.divided)


@lru_cache(maxsize=2)
def _fixed(name: str, evaluate_on: SplitName, data_dir: Path | None) -> Dataset:
    return datasets.digits(evaluate_on) if name == "digits" else datasets.load(name, data_dir)


class Workshop:
    """One framework under one protocol: its compiled networks, the data, and the last training on all classes."""

    def __init__(self, backend: str, protocol: Protocol, data_dir: Path | None = None) -> None:
        self.protocol, self.data_dir = protocol, data_dir
        self.make: Callable[[Build], Learner] = learner_class(backend)
        self._learners: dict[Build, Learner] = {}
        self._all_classes: tuple[Any, Learner, Record] | None = None

    def data(self, seed: int) -> Dataset:
        """What a seed trains on and is tested on."""
        return data_of(self.protocol, seed, self.data_dir)

    def validation(self, seed: int) -> Dataset | None:
        """The same with the images to choose on in the place of the test images, where there are both."""
        if self.protocol.splits == "fixed" or self.protocol.evaluate_on == "validation":
            return None
        return data_of(replace(self.protocol, evaluate_on="validation"), seed)

    def learner(
        self, data: Dataset, loss: str, recipe: Recipe, *, counts: Counts | None = None, **changes: Any
    ) -> Learner:
        """A learner for this data and loss, compiled once for all that share the code."""
        build = Build(
            architecture=self.protocol.architecture,
            image_shape=data.train_images.shape[1:],
            classes=data.num_classes,
            loss=loss,
            class_counts=LOSSES[loss].needs(data.class_counts if counts is None else counts),
            over_batch=LOSSES[loss].over_batch,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            optimizer=recipe.optimizer,
            clip=recipe.clip,
            mixed_precision=self.protocol.mixed_precision,
            evaluation_batch=min(self.protocol.evaluation_batch, len(self.data(0).test_images)),
        )
        build = replace(build, **changes)
        learner = self._learners.pop(build, None) or self.make(build)
        self._learners[build] = learner
        if len(self._learners) > COMPILED:
            self._learners.pop(next(iter(self._learners)))
        if self._all_classes and self._all_classes[1] is learner:
            self._all_classes = None  # its weights are about to be replaced
        return learner

    def train(
        self,
        data: Dataset,
        loss: str,
        seed: int,
        recipe: Recipe,
        *,
        epochs: int | None = None,
        after_epoch: Callable[[Learner, Record], None] = lambda learner, record: None,
        **changes: Any,
    ) -> tuple[Learner, Record]:
        """One training from the initial weights of the seed."""
        learner = self.learner(data, loss, recipe, **changes)
        architecture = changes.get("architecture", self.protocol.architecture)
        learner.start(initial_weights(architecture, data.train_images.shape[1:], data.num_classes, seed))
        record = Record()
        rng = np.random.default_rng((seed, ORDER))
        epochs = recipe.epochs if epochs is None else epochs
        for epoch in range(epochs):
            parts = batches.epoch(
                data.train_images, data.train_labels, recipe.batch_size, rng, shift=data.shift, flip=data.flip
            )
            fit(learner, parts, recipe.rate(epoch, epochs), record)
            after_epoch(learner, record)
        return learner, record

    def same_steps(self, data: Dataset, whole: Dataset) -> int:
        """Epochs on a part of the data that take as many steps as the recipe does on the whole of it."""
        recipe = self.protocol.classification
        if len(data.train_labels) < recipe.batch_size:
            raise datasets.DataError(
                f"{len(data.train_labels)} training images are left of {data.name}, fewer than the batch size "
                f"{recipe.batch_size}"
            )
        steps = recipe.epochs * (len(whole.train_labels) // recipe.batch_size)
        return round(steps / (len(data.train_labels) // recipe.batch_size))

    def on_all_classes(self, loss: str, seed: int) -> tuple[Learner, Record]:
        """The training that clean accuracy, far unknowns and attacks share; repeated only if it was not the last."""
        key = (loss, seed)
        if self._all_classes is None or self._all_classes[0] != key:
            data = self.data(seed)
            margin = hemspec.margin_from_num_samples(len(data.train_labels))
            images, labels = data.train_images[:WATCHED], data.train_labels[:WATCHED]

            def watch(learner: Learner, record: Record) -> None:
                predictions = learner.logits(data.test_images).argmax(axis=-1)
                record.test_accuracy.append(float(np.mean(predictions == data.test_labels)))
                logits = learner.logits(images).astype(np.float64)
                errors = hemspec.hem_loss(logits, labels, margin=margin, reduction="none")
                record.active.append(float(np.mean(~(errors <= 0))))

            learner, record = self.train(data, loss, seed, self.protocol.classification, after_epoch=watch)
            self._all_classes = key, learner, record
        return self._all_classes[1:]


def fit(learner: Learner, parts: Batches, rate: float, record: Record) -> None:
    """An epoch, and what is kept of it."""
    losses: list[Array] = []
    norms: list[Array] = []
    for images, labels, groups in parts:
        for kept, values in zip((losses, norms), learner.fit(images, labels, rate, groups), strict=True):
            kept.append(values)
    if not record.train_loss:
        record.step_losses = np.concatenate(losses).tolist()
    record.train_loss.append(float(np.concatenate(losses).mean()))
    record.gradient_norm.append(float(np.concatenate(norms).mean()))


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start
