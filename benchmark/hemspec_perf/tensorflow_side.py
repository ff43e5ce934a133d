"""TensorFlow, tf.function with and without XLA, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from hemspec_perf.batches import make_batch
from hemspec_perf.plan import Line
from hemspec_perf.resident import peak_extra
from hemspec_perf.side import MissingError, Steps
from hemspec_tensorflow import functional as ours


def plain_errors(logits: Any, labels: Any) -> Any:
    """e, margin 1."""
    true = tf.gather(logits, labels, batch_dims=len(labels.shape))[..., None]
    rivals = tf.one_hot(labels, logits.shape[-1], on_value=False, off_value=True)
    return tf.where(rivals, tf.nn.relu(logits - true + 1.0), 0.0)


def plain_hem(logits: Any, labels: Any) -> Any:
    """The specification's formula, as it stands."""
    errors = plain_errors(tf.cast(logits, tf.float32), labels)
    constant = tf.stop_gradient(errors)
    shortfall = tf.reduce_max(constant, -1, keepdims=True) - constant
    high = errors.shape[-1] * shortfall <= tf.reduce_sum(shortfall, -1, keepdims=True)
    kept = tf.cast((constant > 0) & high, tf.float32)
    values = tf.reduce_sum(kept * errors, -1) / tf.maximum(tf.reduce_sum(kept, -1), 1.0)
    return tf.reduce_sum(values) / tf.maximum(tf.reduce_sum(tf.cast(values > 0, tf.float32)), 1.0)


def plain_mm(logits: Any, labels: Any) -> Any:
    """The errors' mean over all classes."""
    return tf.reduce_mean(plain_errors(tf.cast(logits, tf.float32), labels))


def cross_entropy(logits: Any, labels: Any) -> Any:
    """TensorFlow's."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


LOSSES: dict[tuple[str, str], Callable[..., Any]] = {
    ("hem", "ours"): ours.hem_loss,
    ("mm", "ours"): ours.multi_margin_loss,
    ("hem", "plain"): plain_hem,
    ("mm", "plain"): plain_mm,
    ("ce", "framework"): cross_entropy,
}


class Side:
    """See `hemspec_perf.side`."""

    def __init__(self, line: Line) -> None:
        if line.device != "cpu":
            raise MissingError("TensorFlow is measured on the CPU alone")
        self.line, self.batch = line, make_batch(line)
        self.kept: dict[str, Any] = {}

    def repeated(self, array: Any) -> Any:
        block = tf.convert_to_tensor(array)
        return tf.tile(block, (self.batch.times, *[1] * (len(block.shape) - 1)))

    def logits(self, dtype: str) -> Any:
        if dtype not in self.kept:
            self.kept[dtype] = tf.cast(self.repeated(self.batch.logits), dtype)
        return self.kept[dtype]

    def steps(self, candidate: str, loss: str, writer: str, variant: str, dtype: str) -> Steps:
        function, logits = LOSSES[loss, writer], self.logits(dtype)
        labels = self.repeated(self.batch.labels_for(variant).astype(np.int32))
        keywords = {
            name: self.repeated(value) if name == "sample_weight" else tf.convert_to_tensor(value)
            for name, value in self.batch.keywords(variant).items()
        }
        xla = self.line.execution == "xla"

        @tf.function(jit_compile=xla)  # type: ignore[untyped-decorator]
        def forward(logits: Any, labels: Any, keywords: Any) -> Any:
            return function(logits, labels, **keywords)

        @tf.function(jit_compile=xla)  # type: ignore[untyped-decorator]
        def both(logits: Any, labels: Any, keywords: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(logits)
                value = function(logits, labels, **keywords)
            return value, tape.gradient(value, logits)

        return Steps(lambda: forward(logits, labels, keywords), lambda: both(logits, labels, keywords))

    def copy(self) -> Callable[[], Any]:
        logits = self.logits(self.line.dtype)
        negative = tf.function(tf.negative)
        return lambda: negative(logits)

    def wait(self, result: Any) -> None:
        """On the CPU a call returns when it is done."""

    def answer(self, candidate: str, steps: Steps) -> tuple[float, Any]:
        value, gradient = steps.both()
        blocks = tf.reshape(tf.cast(gradient, tf.float32), (self.batch.times, *self.batch.logits.shape))
        return float(value), tf.reduce_sum(blocks, 0).numpy()

    def peak(self, step: Callable[[], Any]) -> int:
        return peak_extra(step)


def set_threads(threads: int) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(threads)


def versions() -> dict[str, str]:
    return {"tensorflow": tf.__version__}
