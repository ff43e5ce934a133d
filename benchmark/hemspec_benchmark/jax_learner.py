"""Training in JAX: pure functions, optax, one jitted step."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import hemspec.jax
from hemspec_benchmark import network
from hemspec_benchmark.learner import Build, Objective, in_batches, median_seconds
from hemspec_benchmark.losses import LOSSES
from hemspec_benchmark.network import ARCHITECTURES, BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM, Weights

Tree = dict[str, Array]
# Float32 means float32, also where an accelerator would rather round.
PRECISION = jax.lax.Precision.HIGHEST


class Layers:
    """The layers on weights and running statistics that are given; `updated` holds the statistics after the pass."""

    def __init__(self, weights: Tree, statistics: Tree, build: Build, *, training: bool) -> None:
        self.weights, self.statistics, self.training = weights, statistics, training
        self.dtype = jnp.bfloat16 if build.mixed_precision else jnp.float32
        self.updated: Tree = {}

    def convolution(
        self, name: str, x: Array, channels: int, *, size: int = 3, stride: int = 1, bias: bool = True
    ) -> Array:
        x = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            self.weights[f"{name}/kernel"].astype(self.dtype),
            (stride, stride),
            [(size // 2, size // 2)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=PRECISION,
        )
        return x + self.weights[f"{name}/bias"].astype(self.dtype) if bias else x

    def norm(self, name: str, x: Array) -> Array:
        x = x.astype(jnp.float32)
        mean, variance = self.statistics[f"{name}/mean"], self.statistics[f"{name}/variance"]
        if self.training:
            now = {"mean": x.mean(axis=(0, 1, 2)), "variance": x.var(axis=(0, 1, 2))}
            for kind, before in ("mean", mean), ("variance", variance):
                kept = BATCH_NORM_MOMENTUM * before + (1.0 - BATCH_NORM_MOMENTUM) * now[kind]
                self.updated[f"{name}/{kind}"] = jax.lax.stop_gradient(kept)
            mean, variance = now["mean"], now["variance"]
        x = (x - mean) * jax.lax.rsqrt(variance + BATCH_NORM_EPSILON)
        return x * self.weights[f"{name}/scale"] + self.weights[f"{name}/shift"]

    def linear(self, name: str, x: Array, outputs: int) -> Array:
        kernel, bias = (self.weights[f"{name}/{kind}"].astype(self.dtype) for kind in ("kernel", "bias"))
        return jnp.matmul(x.astype(self.dtype), kernel, precision=PRECISION) + bias

    def silu(self, x: Array) -> Array:
        return jax.nn.silu(x)

    def relu(self, x: Array) -> Array:
        return jax.nn.relu(x)

    def halve(self, x: Array) -> Array:
        n, height, width, channels = x.shape
        return x.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))

    def enlarge(self, x: Array) -> Array:
        return x.repeat(2, axis=1).repeat(2, axis=2)

    def add(self, x: Array, y: Array) -> Array:
        return x + y

    def join(self, x: Array, y: Array) -> Array:
        return jnp.concatenate([x, y], axis=-1)

    def average(self, x: Array) -> Array:
        return x.mean(axis=(1, 2))

    def flatten(self, x: Array) -> Array:
        return x.reshape(len(x), -1)


def forward(weights: Tree, statistics: Tree, x: Array, build: Build, *, training: bool) -> tuple[Array, Tree]:
    """Logits, and the running statistics after the pass."""
    layers = Layers(weights, statistics, build, training=training)
    return ARCHITECTURES[build.architecture](layers, x, build.classes), layers.updated


def static(build: Build) -> Build:
    """What a compiled function depends on. The loss comes as an argument, so its constants need no compilation."""
    return Build(**{**vars(build), "loss": "", "class_counts": ()})


def loss_of(criterion: Any, logits: Array, labels: Array, build: Build) -> Array:
    """Of a batch."""
    if build.over_batch and logits.ndim == 2:
        logits, labels = logits[None], labels[None]
    value: Array = criterion(logits, labels)
    return value


@partial(jax.jit, static_argnames="build")
def loss_gradient(criterion: Any, logits: Array, labels: Array, build: Build) -> tuple[Array, Array]:
    """The loss of a batch and its gradient, alone."""
    return jax.value_and_grad(lambda z: loss_of(criterion, z, labels, build))(logits)


@partial(jax.jit, static_argnames="build", donate_argnums=0)
def train_step(
    state: tuple[Tree, Tree, Any], criterion: Any, x: Array, y: Array, groups: Array | None, rate: Array, build: Build
) -> tuple[tuple[Tree, Tree, Any], Array, Array]:
    """One step: the new state, the loss and the norm of its gradient."""
    weights, statistics, velocity = state

    def objective(weights: Tree) -> tuple[Array, Tree]:
        logits, updated = forward(weights, statistics, x, build, training=True)
        if groups is not None:
            logits = logits.reshape(len(logits), build.heads, -1)[jnp.arange(len(logits)), groups]
        return loss_of(criterion, logits, y, build), updated

    (loss, statistics), gradient = jax.value_and_grad(objective, has_aux=True)(weights)
    update, velocity = optimizer(build).update(gradient, velocity, weights)
    weights = optax.apply_updates(weights, jax.tree.map(lambda change: -rate * change, update))
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradient)))
    return (weights, statistics, velocity), loss, norm


def optimizer(build: Build) -> optax.GradientTransformation:
    """All but the rate, which is an argument of the step."""
    clip = optax.identity() if build.clip is None else optax.clip_by_global_norm(build.clip)
    step = optax.scale_by_adam() if build.optimizer == "adam" else optax.trace(build.momentum)
    return optax.chain(clip, optax.add_decayed_weights(build.weight_decay), step)


@partial(jax.jit, static_argnames="build")
def evaluate(weights: Tree, statistics: Tree, x: Array, build: Build) -> Array:
    """Logits, not training."""
    return forward(weights, statistics, x, build, training=False)[0].astype(jnp.float32)


@partial(jax.jit, static_argnames=("objective", "build"))
def attack(
    weights: Tree, statistics: Tree, criterion: Any, x: Array, y: Array, objective: Objective, build: Build
) -> tuple[Array, Array]:
    """Logits and the gradient of an attacker's objective with respect to the images."""

    def value(x: Array) -> tuple[Array, Array]:
        logits = evaluate(weights, statistics, x, build)
        return margin(logits, y) if objective == "margin" else loss_of(criterion, logits, y, build), logits

    gradient, logits = jax.grad(value, has_aux=True)(x)
    return logits, gradient


def margin(logits: Array, labels: Array) -> Array:
    """The largest other logit minus the true one, summed."""
    true = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    others = jnp.where(true, -jnp.inf, logits).max(axis=-1)
    return jnp.sum(others - jnp.where(true, logits, 0.0).sum(axis=-1))


def device() -> str:
    """What trains: the name of a GPU, or ``"cpu"``."""
    first = jax.devices()[0]
    return "cpu" if first.platform == "cpu" else first.device_kind


class Learner:
    """See `hemspec_benchmark.learner.Learner`."""

    def __init__(self, build: Build) -> None:
        self.build, self.compiled = build, static(build)
        self.criterion = LOSSES[build.loss].build(hemspec.jax, build.counts)

    def start(self, weights: Weights) -> None:
        placed = {name: jnp.array(array) for name, array in weights.items()}
        statistics = {}
        for name, array in weights.items():
            layer, _, kind = name.rpartition("/")
            if kind == "scale":
                statistics[f"{layer}/mean"] = jnp.zeros(len(array))
                statistics[f"{layer}/variance"] = jnp.ones(len(array))
        self.state = (placed, statistics, optimizer(self.build).init(placed))

    def fit(
        self, images: network.Array, labels: network.Array, rate: float, groups: network.Array | None = None
    ) -> tuple[network.Array, network.Array]:
        losses, norms = [], []
        scale = jnp.float32(rate)
        for step in range(len(images)):
            heads = None if groups is None else groups[step]
            self.state, loss, norm = train_step(
                self.state, self.criterion, images[step], labels[step], heads, scale, self.compiled
            )
            losses.append(loss)
            norms.append(norm)
        return np.asarray(jnp.stack(losses)), np.asarray(jnp.stack(norms))

    def logits(self, images: network.Array) -> network.Array:
        weights, statistics, _ = self.state
        return in_batches(
            lambda x: (evaluate(weights, statistics, x, self.compiled),), self.build.evaluation_batch, images
        )[0]

    def input_gradient(
        self, images: network.Array, labels: network.Array, objective: Objective
    ) -> tuple[network.Array, network.Array]:
        weights, statistics, _ = self.state
        logits, gradient = in_batches(
            lambda x, y: attack(weights, statistics, self.criterion, x, y, objective, self.compiled),
            self.build.evaluation_batch,
            images,
            labels,
        )
        return logits, gradient

    def loss_seconds(self, logits: network.Array, labels: network.Array) -> float:
        z, y = jnp.asarray(logits), jnp.asarray(labels)
        return median_seconds(lambda: np.asarray(loss_gradient(self.criterion, z, y, self.compiled)[1]))
