"""The training loop in Keras on TensorFlow: `compile`, `fit` and callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import hemspec.keras
from hemspec_benchmark.data import Images, Split, training_batches
from hemspec_benchmark.losses import LOSSES
from hemspec_benchmark.network import (
    BATCH_NORM_EPSILON,
    BATCH_NORM_MOMENTUM,
    POOL_AFTER,
    Array,
    Weights,
    initial_weights,
)
from hemspec_benchmark.settings import HyperParameters
from hemspec_benchmark.training import Training

PACKAGES = ("keras", "tensorflow")


def build_network(weights: Weights) -> keras.Model:
    """The network with these weights."""
    network = keras.Sequential([keras.Input((8, 8, 1))])
    for index, layer in enumerate(weights["convolutions"]):
        network.add(keras.layers.Conv2D(layer["kernel"].shape[-1], 3, padding="same"))
        if layer["scale"] is not None:
            network.add(keras.layers.BatchNormalization(epsilon=BATCH_NORM_EPSILON, momentum=BATCH_NORM_MOMENTUM))
        network.add(keras.layers.Activation("silu"))
        if index in POOL_AFTER:
            network.add(keras.layers.AveragePooling2D(2))
    network.add(keras.layers.Flatten())
    network.add(keras.layers.Dense(weights["kernel"].shape[1]))
    set_weights(network, weights)
    return network


def set_weights(network: keras.Model, weights: Weights) -> None:
    """Put the network back to these weights; the running statistics to 0 and 1."""
    arrays: list[Array] = []
    for layer in weights["convolutions"]:
        arrays += [layer["kernel"], layer["bias"]]
        if layer["scale"] is not None:
            arrays += [layer["scale"], layer["shift"], np.zeros_like(layer["shift"]), np.ones_like(layer["scale"])]
    network.set_weights([*arrays, weights["kernel"], weights["bias"]])


def predict(network: keras.Model, images: Images) -> Array:
    """The logits of images (N, 8, 8, 1), evaluated (not training)."""
    return network.predict_on_batch(images)


class Schedule(keras.callbacks.Callback):
    """Set the learning rate at the start of each epoch.

    As `LearningRateScheduler` does, but Keras's velocity is already multiplied by the rate, PyTorch's and optax's is
    not: the velocity is rescaled with the rate, so that the three go on as the same algorithm. (Without it the training
    loss of the second epoch differed by 2 %.)
    """

    def __init__(self, rate: Callable[[int], float]) -> None:
        super().__init__()
        self.rate = rate

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        optimizer = self.model.optimizer
        change = self.rate(epoch) / float(optimizer.learning_rate)
        optimizer.learning_rate = self.rate(epoch)
        for velocity in optimizer.momentums:
            velocity.assign(velocity * change)


class Recorder(keras.callbacks.Callback):
    """Note each step's own loss.

    `fit` reports a running mean over the epoch; with the metrics reset before every batch it is the batch's own.
    """

    def __init__(self, training: Training) -> None:
        super().__init__()
        self.training = training
        self.losses: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.model.reset_metrics()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.append(logs["loss"])

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.training.epoch(self.losses, logs["val_accuracy"])
        self.losses = []


def trainings(
    loss: str, seeds: list[int], *, batch_norm: bool, split: Split, settings: HyperParameters
) -> Iterator[Training]:
    """Train with one loss, once for each seed."""
    network = build_network(initial_weights(seeds[0], batch_norm=batch_norm))
    optimizer = keras.optimizers.SGD(settings.learning_rate, momentum=settings.momentum)
    network.compile(
        optimizer=optimizer, loss=LOSSES[loss].build(hemspec.keras, split.class_counts), metrics=["accuracy"]
    )
    optimizer.build(network.trainable_variables)
    fresh = [np.array(variable) for variable in optimizer.variables]
    for seed in seeds:
        keras.utils.set_random_seed(seed)  # nothing below draws; a safeguard
        # A new model for each seed would be traced anew; the old one is put back to the start instead.
        set_weights(network, initial_weights(seed, batch_norm=batch_norm))
        for variable, value in zip(optimizer.variables, fresh, strict=True):
            variable.assign(value)
        images, labels = training_batches(split, seed, settings)
        epochs, steps = labels.shape[:2]
        # One data set with the batches of all epochs, of which `fit` takes `steps` an epoch: each epoch has its own.
        batches = tf.data.Dataset.from_tensor_slices(
            (images.reshape(-1, *images.shape[2:]), labels.reshape(-1, labels.shape[2]))
        )
        training = Training(seed)
        network.fit(
            batches,
            epochs=epochs,
            steps_per_epoch=steps,
            validation_data=(split.test_images, split.test_labels),
            validation_batch_size=len(split.test_labels),
            callbacks=[
                Schedule(settings.rate),
                Recorder(training),
            ],
            shuffle=False,
            verbose=0,
        )
        yield training
