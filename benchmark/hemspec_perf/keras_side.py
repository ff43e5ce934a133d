"""Keras: the step that `fit` runs, on any of its backends.

The model's weights are the logits themselves, so that a step is hardly more than the loss, its gradient and one pass
of plain SGD. Ratios are of whole steps: what `fit` needs besides counts for both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from hemspec_keras import losses as ours
from hemspec_perf.batches import make_batch
from hemspec_perf.plan import Line
from hemspec_perf.side import MissingError, Steps

LOSSES: dict[tuple[str, str], Callable[[], Any]] = {
    ("hem", "ours"): ours.HEMLoss,
    ("mm", "ours"): ours.MultiMarginLoss,
    ("ce", "framework"): lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
}
STANDING: float = 1e-9
"""A learning rate at which the logits stay where they are."""


class Logits(keras.layers.Layer):  # type: ignore[misc]  # Keras ships no types
    """Its weights, whatever it is given."""

    def __init__(self, start: Any) -> None:
        super().__init__()
        self.logits = self.add_weight(shape=start.shape, name="logits")
        self.logits.assign(start)

    def call(self, _: Any) -> Any:
        return keras.ops.convert_to_tensor(self.logits)

    def compute_output_shape(self, _: Any) -> Any:
        return self.logits.shape


class Side:
    """See `hemspec_perf.side`."""

    def __init__(self, line: Line) -> None:
        if line.device != "cpu":
            raise MissingError("Keras is measured on the CPU alone")
        self.line, self.batch = line, make_batch(line)
        self.start = np.tile(self.batch.logits, (self.batch.times, *[1] * (self.batch.logits.ndim - 1)))
        labels = np.tile(self.batch.labels, (self.batch.times, *[1] * (self.batch.labels.ndim - 1)))
        self.labels = keras.ops.convert_to_tensor(labels.astype(np.int32))
        self.inputs = keras.ops.zeros((len(labels), 1))
        self.models: dict[str, Any] = {}

    def steps(self, candidate: str, loss: str, writer: str, variant: str, dtype: str) -> Steps:
        model = keras.Sequential([Logits(self.start)])
        model.compile(keras.optimizers.SGD(STANDING), LOSSES[loss, writer]())
        self.models[candidate] = model
        return Steps(
            lambda: model.test_on_batch(self.inputs, self.labels),
            lambda: model.train_on_batch(self.inputs, self.labels),
        )

    def copy(self) -> Callable[[], Any]:
        target = np.empty_like(self.start)
        return lambda: np.copyto(target, self.start)

    def wait(self, result: Any) -> None:
        """A step's loss is a number, read from the framework."""

    def answer(self, candidate: str, steps: Steps) -> tuple[float, Any]:
        """The gradient is how far a large step of SGD goes, from logits of 0 shifted back."""
        model = self.models[candidate]
        rate = float(2 ** round(np.log2(self.batch.labels.size * self.batch.times * self.line.sizes[1])))
        model.optimizer.learning_rate = rate
        value = float(steps.both())
        moved = self.start.astype(np.float64) - np.asarray(keras.ops.convert_to_numpy(model.weights[0]))
        model.optimizer.learning_rate = STANDING
        model.layers[0].logits.assign(self.start)
        gradient = (moved / rate).reshape(self.batch.times, *self.batch.logits.shape).sum(0)
        return value, gradient

    def peak(self, step: Callable[[], Any]) -> int:
        raise MissingError("a step holds the optimizer's memory too: see the framework's own lines")


def set_threads(threads: int) -> None:
    """Its backends take the environment's."""


def versions() -> dict[str, str]:
    return {"keras": keras.__version__, keras.backend.backend(): "as installed"}
