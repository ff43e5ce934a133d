"""Training in Keras on TensorFlow: a functional model, compiled with the loss, in a custom loop.

A custom loop instead of `fit` because `fit` costs 8 ms a step here, three times what the network does: an epoch is one
traced function. The loss and the optimiser are Keras's way: `model.compile`, `model.compute_loss`, `optimizer.apply`.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

import hemspec.keras
from hemspec_benchmark.learner import Build, Objective, in_batches, median_seconds
from hemspec_benchmark.losses import LOSSES
from hemspec_benchmark.network import ARCHITECTURES, BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM, Array, Weights


class Layers:
    """Keras's layers by name, applied as a functional model is built."""

    def __init__(self, *, mixed_precision: bool) -> None:
        self.dtype = "mixed_bfloat16" if mixed_precision else "float32"

    def convolution(
        self, name: str, x: Any, channels: int, *, size: int = 3, stride: int = 1, bias: bool = True
    ) -> Any:
        if stride > 1 and size > 1:  # Keras's "same" pads on one side alone where the stride leaves a choice
            x = keras.layers.ZeroPadding2D(size // 2)(x)
        padding = "valid" if stride > 1 else "same"
        layer = keras.layers.Conv2D(channels, size, stride, padding, use_bias=bias, name=_safe(name), dtype=self.dtype)
        return layer(x)

    def norm(self, name: str, x: Any) -> Any:
        return keras.layers.BatchNormalization(
            epsilon=BATCH_NORM_EPSILON, momentum=BATCH_NORM_MOMENTUM, name=_safe(name)
        )(x)

    def linear(self, name: str, x: Any, outputs: int) -> Any:
        return keras.layers.Dense(outputs, name=_safe(name), dtype=self.dtype)(x)

    def silu(self, x: Any) -> Any:
        return keras.layers.Activation("silu")(x)

    def relu(self, x: Any) -> Any:
        return keras.layers.Activation("relu")(x)

    def halve(self, x: Any) -> Any:
        return keras.layers.AveragePooling2D(2)(x)

    def enlarge(self, x: Any) -> Any:
        return keras.layers.UpSampling2D(2)(x)

    def add(self, x: Any, y: Any) -> Any:
        return keras.layers.Add()([x, y])

    def join(self, x: Any, y: Any) -> Any:
        return keras.layers.Concatenate()([x, y])

    def average(self, x: Any) -> Any:
        return keras.layers.GlobalAveragePooling2D()(x)

    def flatten(self, x: Any) -> Any:
        return keras.layers.Flatten()(x)


def device() -> str:
    """What trains: the name of a GPU, or ``"cpu"``."""
    found = tf.config.list_physical_devices("GPU")
    return str(tf.config.experimental.get_device_details(found[0]).get("device_name", "gpu")) if found else "cpu"


class Learner:
    """See `hemspec_benchmark.learner.Learner`."""

    def __init__(self, build: Build) -> None:
        self.build = build
        # Float32 means float32, also where an accelerator would rather round.
        tf.config.experimental.enable_tensor_float_32_execution(False)
        images = keras.Input(build.image_shape)
        logits = ARCHITECTURES[build.architecture](Layers(mixed_precision=build.mixed_precision), images, build.classes)
        self.model = keras.Model(images, logits)
        self.optimizer = (
            keras.optimizers.Adam(1.0, epsilon=1e-8)
            if build.optimizer == "adam"
            else keras.optimizers.SGD(1.0, momentum=build.momentum)
        )
        self.model.compile(self.optimizer, LOSSES[build.loss].build(hemspec.keras, build.counts, ignore_class=-100))
        self.optimizer.build(self.model.trainable_variables)
        self.over_batch = build.over_batch and len(logits.shape) == 2
        self.epoch = tf.function(self._epoch, reduce_retracing=True)
        self.evaluate = tf.function(lambda x: tf.cast(self.model(x, training=False), tf.float32))
        self.attack = tf.function(self._attack)
        self.gradient = tf.function(self._gradient)

    def start(self, weights: Weights) -> None:
        given = {_safe(name): array for name, array in weights.items()}
        for layer in self.model.layers:
            for variable in layer.weights:
                start = _START.get(variable.name)
                if start is None:
                    variable.assign(given[f"{layer.name}/{_KINDS[variable.name]}"])
                else:
                    variable.assign(tf.fill(variable.shape, start))
        for variable in self.optimizer.variables:
            variable.assign(tf.zeros_like(variable))
        self.rate = 1.0

    def fit(self, images: Array, labels: Array, rate: float, groups: Array | None = None) -> tuple[Array, Array]:
        # Keras's velocity is already multiplied by the rate, PyTorch's and optax's is not: it is rescaled with the
        # rate, so that the three go on as the same algorithm. (Without it the second epoch's losses differed by 2 %.)
        for velocity in self.optimizer.momentums if self.build.optimizer == "sgd" else ():
            velocity.assign(velocity * (rate / self.rate))
        self.optimizer.learning_rate = self.rate = rate
        losses, norms = self.epoch(
            tf.constant(images), tf.constant(labels), None if groups is None else tf.constant(groups)
        )
        return losses.numpy(), norms.numpy()

    def logits(self, images: Array) -> Array:
        return in_batches(lambda x: (self.evaluate(tf.constant(x)),), self.build.evaluation_batch, images)[0]

    def input_gradient(self, images: Array, labels: Array, objective: Objective) -> tuple[Array, Array]:
        logits, gradient = in_batches(
            lambda x, y: self.attack(tf.constant(x), tf.constant(y), objective),
            self.build.evaluation_batch,
            images,
            labels,
        )
        return logits, gradient

    def loss_seconds(self, logits: Array, labels: Array) -> float:
        z, y = tf.constant(logits), tf.constant(labels)
        return median_seconds(lambda: self.gradient(z, y).numpy())

    def _epoch(self, images: Any, labels: Any, groups: Any) -> tuple[Any, Any]:
        steps = tf.shape(images)[0]
        losses, norms = tf.TensorArray(tf.float32, steps), tf.TensorArray(tf.float32, steps)
        for step in tf.range(steps):
            with tf.GradientTape() as tape:
                logits = self.model(images[step], training=True)
                if groups is not None:
                    logits = tf.reshape(logits, (-1, self.build.heads, self.build.classes // self.build.heads))
                    logits = tf.gather(logits, groups[step], batch_dims=1)
                y = labels[step]
                if self.over_batch:
                    y, logits = y[None], logits[None]
                loss = self.model.compute_loss(y=y, y_pred=logits)
            variables = self.model.trainable_variables
            gradients = tape.gradient(loss, [variable.value for variable in variables])
            norms = norms.write(step, tf.linalg.global_norm(gradients))
            if self.build.clip is not None:
                gradients, _ = tf.clip_by_global_norm(gradients, self.build.clip)
            if self.build.weight_decay:  # Keras's own is decoupled from the velocity; PyTorch's SGD adds it here
                gradients = [
                    gradient + self.build.weight_decay * variable.value
                    for gradient, variable in zip(gradients, variables, strict=True)
                ]
            self.optimizer.apply(gradients, variables)
            losses = losses.write(step, loss)
        return losses.stack(), norms.stack()

    def _attack(self, images: Any, labels: Any, objective: Objective) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = tf.cast(self.model(images, training=False), tf.float32)
            value = margin(logits, labels) if objective == "margin" else self._loss(logits, labels)
        return logits, tape.gradient(value, images)

    def _gradient(self, logits: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = self._loss(logits, labels)
        return tape.gradient(value, logits)

    def _loss(self, logits: Any, labels: Any) -> Any:
        return self.model.loss(*((labels[None], logits[None]) if self.over_batch else (labels, logits)))


_KINDS = {"kernel": "kernel", "bias": "bias", "gamma": "scale", "beta": "shift"}
_START = {"moving_mean": 0.0, "moving_variance": 1.0}


def _safe(name: str) -> str:
    """Keras's names of layers have no spaces."""
    return name.replace(" ", "_")


def margin(logits: Any, labels: Any) -> Any:
    """The largest other logit minus the true one, summed."""
    true = tf.one_hot(labels, logits.shape[-1], on_value=True, off_value=False)
    others = tf.reduce_max(tf.where(true, -np.inf, logits), axis=-1)
    return tf.reduce_sum(others - tf.reduce_sum(tf.where(true, logits, 0.0), axis=-1))
