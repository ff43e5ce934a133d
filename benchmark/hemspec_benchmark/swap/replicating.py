"""The trainings of `hemspec_benchmark.swap.replication`, in JAX."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
from sklearn.model_selection import train_test_split

from hemspec_benchmark import datasets, metrics
from hemspec_benchmark.datasets import Dataset
from hemspec_benchmark.network import Array
from hemspec_benchmark.settings import Cell
from hemspec_benchmark.swap.data import divided
from hemspec_benchmark.swap.matrix import CANDIDATES, Matrix, Training, read_setting
from hemspec_benchmark.swap.measured import clean_and_far, told
from hemspec_benchmark.swap.replication import (
    FEW,
    FEW_BATCH,
    FEW_EPOCHS,
    PRETRAINED,
    PRETRAINING_RATE,
    RARE,
    TABLE_BATCH,
    TABLE_EPOCHS,
)
from hemspec_benchmark.swap.training import Course, State, logits, rates
from hemspec_benchmark.tasks import Outcome

MATRIX = Matrix()


def run(cell: Cell) -> Outcome:
    """A transformer, a network that is fine-tuned, or rows of numbers."""
    kind, setting = cell.setting.split(maxsplit=1)
    training, rate = read_setting(setting)
    train = {"transformer": transformer, "fine-tuning": fine_tuned, "table": rows}[kind]
    return train(training, rate, cell.loss, cell.seed)


def trained(course: Course, training: Training, rate: float, batch_size: int, epochs: int, start: State) -> State:
    """From a state to the end."""
    order = course.order(batch_size, epochs)
    return course.advance(start, order, rates(training.schedule, rate, len(order), MATRIX))[0]


def transformer(training: Training, rate: float, loss: str, seed: int) -> Outcome:
    """Clean accuracy and far unknowns with all classes, near unknowns with a fifth of them held out."""
    whole = divided(training.data, seed, "test", MATRIX)
    known, held_out = datasets.hold_out(whole, seed)
    measured: dict[str, float] = {}
    for data in whole, known:
        course = Course.on(data, training, CANDIDATES[loss], seed, MATRIX)
        state = trained(course, training, rate, *MATRIX.length(training.data), course.begin())
        reached = partial(logits_of, course, state)
        measured |= clean_and_far(reached, data) if data is whole else told(reached, data, {"near": held_out})
    return Outcome(measured)


def fine_tuned(training: Training, rate: float, loss: str, seed: int) -> Outcome:
    """Clean accuracy after going on with a few digits from where cross-entropy ended on MNIST."""
    whole = divided(training.data, seed, "test", MATRIX)
    images, _, labels, _ = train_test_split(
        whole.train_images, whole.train_labels, train_size=FEW, stratify=whole.train_labels, random_state=seed
    )
    data = replace(whole, train_images=images, train_labels=labels)
    course = Course.on(data, training, CANDIDATES[loss], seed, MATRIX)
    # The weights and the statistics of the other training, and an optimizer that begins anew.
    start = course.begin()._replace(variables=pretrained(seed).variables)
    state = trained(course, training, rate, FEW_BATCH, FEW_EPOCHS, start)
    return Outcome(
        {"clean": float(np.mean(logits_of(course, state, data.test_images).argmax(axis=1) == data.test_labels))}
    )


def rows(training: Training, rate: float, loss: str, seed: int) -> Outcome:
    """Clean accuracy, and balanced accuracy after as many steps on a long tail."""
    whole = datasets.divided(training.data, seed)
    rare = datasets.long_tail(whole, RARE, seed)
    steps = TABLE_EPOCHS * (len(whole.train_labels) // TABLE_BATCH)
    measured = {}
    for data in whole, rare:
        epochs = max(1, round(steps / (len(data.train_labels) // TABLE_BATCH)))
        course = Course.on(data, training, CANDIDATES[loss], seed, MATRIX)
        state = trained(course, training, rate, TABLE_BATCH, epochs, course.begin())
        predictions = logits_of(course, state, data.test_images).argmax(axis=1)
        if data is whole:
            measured["clean"] = float(np.mean(predictions == data.test_labels))
        else:
            measured |= metrics.balanced(data.test_labels, predictions, data.class_counts)
    return Outcome(measured)


@lru_cache(maxsize=2)
def pretrained(seed: int) -> State:
    """With cross-entropy on MNIST, reduced to the size of the digits."""
    course = on_mnist(seed)
    return trained(course, PRETRAINED, PRETRAINING_RATE, *MATRIX.length("mnist"), course.begin())


def on_mnist(seed: int) -> Course:
    """The training to go on from."""
    return Course.on(as_digits(datasets.divided("mnist", seed)), PRETRAINED, CANDIDATES["ce"], seed, MATRIX)


def as_digits(data: Dataset) -> Dataset:
    """The inner 24 x 24 pixels, in which all ink lies, averaged to 8 x 8."""

    def reduced(images: Array) -> Array:
        inner = images[:, 2:26, 2:26]
        averaged: Array = inner.reshape(-1, 8, 3, 8, 3, 1).mean(axis=(2, 4))
        return averaged

    return replace(data, train_images=reduced(data.train_images), test_images=reduced(data.test_images))


def logits_of(course: Course, state: State, images: Array) -> Array:
    """Of a trained network, not training."""
    return np.asarray(logits(course.network, state.variables, images))
