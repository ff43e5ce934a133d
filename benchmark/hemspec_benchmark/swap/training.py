"""One training of the matrix in JAX: a compiled loop over all its steps, that all losses, rates and schedules share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from jax import Array
from sklearn.metrics import confusion_matrix

import hemspec.jax
from hemspec_benchmark import batches
from hemspec_benchmark.datasets import IGNORED, Dataset
from hemspec_benchmark.metrics import segmentation
from hemspec_benchmark.settings import Cell, SplitName
from hemspec_benchmark.swap import networks
from hemspec_benchmark.swap.data import divided
from hemspec_benchmark.swap.matrix import CANDIDATES, Candidate, Matrix, Training, read_setting
from hemspec_benchmark.tasks import Outcome
from hemspec_benchmark.training import ORDER


class Loss(NamedTuple):
    """A candidate as numbers, so that one compiled program trains with any of them."""

    margin: Array
    """(C,)."""
    share: Array
    geometric: Array
    cross_entropy: Array


class Step(NamedTuple):
    """An optimizer's settings as numbers."""

    clip: Array
    """The largest global norm of a gradient; infinity where it is not clipped."""
    momentum: Array
    weight_decay: Array


def loss_of(candidate: Candidate, counts: npt.NDArray[np.int64]) -> Loss:
    """The candidate for these training samples."""
    return Loss(
        jnp.broadcast_to(jnp.asarray(candidate.margin(counts), jnp.float32), counts.shape),
        jnp.float32(candidate.share),
        jnp.asarray(candidate.geometric),
        jnp.asarray(candidate.cross_entropy),
    )


def objective(logits: Array, labels: Array, loss: Loss) -> Array:
    """The loss of a batch. It is hemspec's where hemspec has it; the denominators in between are only here."""
    numerator, active = hemspec.jax.hem_loss.terms(logits, labels, margin=loss.margin)
    counted = jnp.sum(labels != IGNORED).astype(jnp.float32)
    denominator = jnp.where(loss.geometric, jnp.sqrt(active * counted), jnp.maximum(active, loss.share * counted))
    hem = numerator / jnp.maximum(denominator, 1.0)  # below 1 only where all is 0
    return jnp.where(loss.cross_entropy, hemspec.jax.cross_entropy_loss(logits, labels), hem)


def optimizer(adaptive: bool, step: Step) -> optax.GradientTransformation:
    """All but the rate. Without momentum SGD with momentum is SGD, without decay AdamW is Adam."""
    clip = optax.clip_by_global_norm(step.clip)
    if adaptive:
        return optax.chain(clip, optax.scale_by_adam(), optax.add_decayed_weights(step.weight_decay))
    return optax.chain(clip, optax.trace(step.momentum))


@lru_cache(maxsize=8)
def rates(schedule: str, rate: float, steps: int, matrix: Matrix) -> npt.NDArray[np.float32]:
    """The learning rate of each step."""
    follow: Any = {
        "constant": optax.constant_schedule(rate),
        "cosine": optax.cosine_decay_schedule(rate, steps),
        "step": optax.piecewise_constant_schedule(rate, {steps // 2: 0.1, 3 * steps // 4: 0.1}),
        "one-cycle": optax.cosine_onecycle_schedule(steps, rate, pct_start=matrix.warm_up),
    }[schedule]
    return np.asarray(jax.vmap(follow)(jnp.arange(steps)), np.float32)


class State(NamedTuple):
    """Where a training stands."""

    variables: Any
    """The network's: its parameters, and the statistics of batch norm where it has them."""
    moments: Any
    """The optimizer's."""


@partial(jax.jit, static_argnames=("network", "adaptive"))
def train(
    network: Any, adaptive: bool, state: State, images: Array, labels: Array, order: Array, rate: Array,
    loss: Loss, step: Step,
) -> tuple[State, Array]:  # fmt: skip
    """Some steps, or all of them.

    Args:
        network: a Flax module.
        adaptive: Adam's steps, not SGD's.
        state: where to begin.
        images: all training images (N, H, W, 1).
        labels: theirs.
        order: (steps, batch), which of them.
        rate: (steps,).
        loss: what is minimised.
        step: how.

    Returns:
        The state at the end, and whether every loss on the way and every weight at the end was finite.
    """
    change = optimizer(adaptive, step)

    def value(weights: Any, statistics: Any, x: Array, y: Array) -> tuple[Array, Any]:
        logits, updated = network.apply({"params": weights, **statistics}, x, True, mutable=list(statistics))
        return objective(logits, y, loss), updated

    def one(state: Any, batch: tuple[Array, Array]) -> tuple[Any, Array]:
        weights, statistics, moments = state
        chosen, scale = batch
        (reached, statistics), gradient = jax.value_and_grad(value, has_aux=True)(
            weights, statistics, images[chosen], labels[chosen]
        )
        update, moments = change.update(gradient, moments, weights)
        weights = optax.apply_updates(weights, jax.tree.map(lambda way: -scale * way, update))
        return (weights, statistics, moments), jnp.isfinite(reached)

    statistics = {name: tree for name, tree in state.variables.items() if name != "params"}
    begun = state.variables["params"], statistics, state.moments
    (weights, statistics, moments), finite = jax.lax.scan(one, begun, (order, rate))
    whole = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(weights)]).all()
    return State({"params": weights, **statistics}, moments), finite.all() & whole


@partial(jax.jit, static_argnames="network")
def logits(network: Any, variables: Any, images: Array) -> Array:
    """Not training."""
    found: Array = network.apply(variables, images, False)
    return found


@partial(jax.jit, static_argnames="network")
def predict(network: Any, variables: Any, images: Array) -> Array:
    """The classes with the largest logit, not training."""
    found: Array = logits(network, variables, images)
    return found.argmax(axis=-1)


@dataclass(frozen=True)
class Course:
    """A training that is ready to begin."""

    data: Dataset
    network: Any
    adaptive: bool
    step: Step
    loss: Loss
    seed: int

    @classmethod
    def of(cls, training: Training, candidate: Candidate, seed: int, evaluate_on: SplitName, matrix: Matrix) -> Course:
        """The training of the matrix with one candidate and one seed."""
        return cls.on(divided(training.data, seed, evaluate_on, matrix), training, candidate, seed, matrix)

    @classmethod
    def on(cls, data: Dataset, training: Training, candidate: Candidate, seed: int, matrix: Matrix) -> Course:
        """The same on other data."""
        step = Step(
            jnp.float32(matrix.clip if training.clipping == "clipped" else np.inf),
            jnp.float32(matrix.momentum if training.optimizer == "momentum" else 0.0),
            jnp.float32(matrix.weight_decay if training.optimizer == "adamw" else 0.0),
        )
        network = networks.build(training.network, data.num_classes)
        adaptive = training.optimizer.startswith("adam")
        return cls(data, network, adaptive, step, loss_of(candidate, data.class_counts), seed)

    def order(self, batch_size: int, epochs: int) -> npt.NDArray[np.int32]:
        """Which samples each step sees, (steps, batch): every epoch in a new order."""
        rng = np.random.default_rng((self.seed, ORDER))
        drawn = [batches.order(len(self.data.train_images), batch_size, rng) for _ in range(epochs)]
        return np.concatenate(drawn).astype(np.int32)

    def begin(self) -> State:
        """Before the first step."""
        state: State = start(self.network, self.adaptive, self.step, self.data.train_images.shape[1:], self.seed)
        return state

    def advance(self, state: State, order: npt.NDArray[np.int32], rate: npt.NDArray[np.float32]) -> tuple[State, bool]:
        """Steps, see `train`."""
        images, labels = self.data.train_images, self.data.train_labels
        state, finite = train(
            self.network, self.adaptive, state, images, labels, order, rate, self.loss, self.step
        )  # fmt: skip
        return state, bool(finite)


def run(cell: Cell, matrix: Matrix) -> Outcome:
    """Train, and score on the test part, or on the validation part where a rate is to be chosen.

    The score is the accuracy, of scenes the mean IoU.
    """
    training, rate = read_setting(cell.setting)
    course = Course.of(training, CANDIDATES[cell.loss], cell.seed, "validation" if cell.variant else "test", matrix)
    order = course.order(*matrix.length(training.data))
    scale = rates(training.schedule, rate, len(order), matrix)
    state, finite = course.advance(course.begin(), order, scale)
    data = course.data
    labels, predictions = data.test_labels, np.asarray(predict(course.network, state.variables, data.test_images))
    score = mean_iou(predictions, labels, data.num_classes) if labels.ndim > 1 else np.mean(predictions == labels)
    return Outcome({"score": float(score), "finite": float(finite)})


@partial(jax.jit, static_argnames=("network", "adaptive", "shape"))
def start(network: Any, adaptive: bool, step: Step, shape: tuple[int, ...], seed: int) -> State:
    """The state at the start, by the seed."""
    variables = network.init(jax.random.key(seed), jnp.zeros((1, *shape)), True)
    return State(variables, optimizer(adaptive, step).init(variables["params"]))


def mean_iou(predictions: npt.NDArray[Any], masks: npt.NDArray[Any], classes: int) -> float:
    """The mean over the classes of the pixels that are not ignored."""
    valid = masks != IGNORED
    return segmentation(confusion_matrix(masks[valid], predictions[valid], labels=np.arange(classes)))["miou"]
