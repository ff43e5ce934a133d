"""The training loop in JAX: flax's nnx modules, optax, one jitted step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.metrics import accuracy_score

import hemspec.jax
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

PACKAGES = ("jax", "flax", "optax")


class Block(nnx.Module):
    """Convolution, batch norm if asked for, SiLU."""

    def __init__(self, before: int, after: int, *, batch_norm: bool, rngs: nnx.Rngs) -> None:
        self.convolution = nnx.Conv(before, after, (3, 3), rngs=rngs)
        self.norm = (
            # The fast variance, E[x^2] - E[x]^2, would cancel digits that the other frameworks keep.
            nnx.BatchNorm(
                after, epsilon=BATCH_NORM_EPSILON, momentum=BATCH_NORM_MOMENTUM, use_fast_variance=False, rngs=rngs
            )
            if batch_norm
            else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.convolution(x)
        if self.norm is not None:
            x = self.norm(x)
        return nnx.silu(x)


class Network(nnx.Module):
    """The network with these weights."""

    def __init__(self, weights: Weights) -> None:
        rngs = nnx.Rngs(0)  # flax asks for it; every weight is replaced
        self.blocks = nnx.List()
        for layer in weights["convolutions"]:
            before, after = layer["kernel"].shape[2:]
            block = Block(before, after, batch_norm=layer["scale"] is not None, rngs=rngs)
            block.convolution.kernel[...] = jnp.asarray(layer["kernel"])
            block.convolution.bias[...] = jnp.asarray(layer["bias"])
            if block.norm is not None:
                block.norm.scale[...] = jnp.asarray(layer["scale"])
                block.norm.bias[...] = jnp.asarray(layer["shift"])
            self.blocks.append(block)
        self.linear = nnx.Linear(*weights["kernel"].shape, rngs=rngs)
        self.linear.kernel[...] = jnp.asarray(weights["kernel"])
        self.linear.bias[...] = jnp.asarray(weights["bias"])

    def __call__(self, x: jax.Array) -> jax.Array:
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in POOL_AFTER:
                x = nnx.avg_pool(x, (2, 2), (2, 2))
        return self.linear(x.reshape(len(x), -1))


build_network = Network


@nnx.jit
def _logits(network: Network, images: jax.Array) -> jax.Array:
    return network(images)


def predict(network: Network, images: Images) -> Array:
    """The logits of images (N, 8, 8, 1), evaluated (not training)."""
    network.eval()
    return np.asarray(_logits(network, images))


def trainings(
    loss: str, seeds: list[int], *, batch_norm: bool, split: Split, settings: HyperParameters
) -> Iterator[Training]:
    """Train with one loss, once for each seed."""
    criterion = LOSSES[loss].build(hemspec.jax, split.class_counts)

    @nnx.jit
    def step(network: Network, optimizer: nnx.Optimizer[Any], x: jax.Array, y: jax.Array) -> jax.Array:
        value, gradients = nnx.value_and_grad(lambda network: criterion(network(x), y))(network)
        optimizer.update(network, gradients)
        return value

    steps = len(split.train_labels) // settings.batch_size
    rates = jnp.asarray([settings.rate(epoch) for epoch in range(settings.epochs)])
    sgd = optax.sgd(lambda count: rates[count // steps], momentum=settings.momentum)
    for seed in seeds:
        images, labels = training_batches(split, seed, settings)
        network = build_network(initial_weights(seed, batch_norm=batch_norm))
        optimizer = nnx.Optimizer(network, sgd, wrt=nnx.Param)
        training = Training(seed)
        for epoch_images, epoch_labels in zip(images, labels, strict=True):
            network.train()
            losses = [step(network, optimizer, x, y) for x, y in zip(epoch_images, epoch_labels, strict=True)]
            predictions = predict(network, split.test_images).argmax(axis=1)
            training.epoch(np.asarray(losses), accuracy_score(split.test_labels, predictions))
        yield training
