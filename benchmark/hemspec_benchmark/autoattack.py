"""Our attack held against a well-kept library's strongest: AutoAttack of the Adversarial Robustness Toolbox.

Source: Croce, Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks,
ICML 2020. Two kinds of projected gradient descent that choose their own steps (on cross-entropy, and on the difference
of logits relative to their spread), DeepFool, and a search by random squares that needs no gradient.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final, Literal

import jax
import jax.numpy as jnp
import numpy as np
from art.attacks.evasion import AutoAttack, AutoProjectedGradientDescent, DeepFool, SquareAttack
from art.estimators.classification.classifier import ClassGradientsMixin, ClassifierMixin
from art.estimators.estimator import BaseEstimator, LossGradientsMixin, NeuralNetworkMixin
from jax import Array

from hemspec_benchmark import network
from hemspec_benchmark.jax_learner import Learner, evaluate

Objective = Literal["cross-entropy", "logits ratio"]

ITERATIONS: Final = 100
RESTARTS: Final = 5
QUERIES: Final = 5000
"""Of the search by squares. The library's own numbers but for one restart of that search instead of five."""


def accuracy(learner: Any, images: network.Array, labels: network.Array, epsilon: float) -> float:
    """The share of images (N, H, W, c) that none of the attacks within epsilon got misclassified.

    The learner is JAX's; labels are (N,).
    """
    classes = learner.build.classes
    one, other = (Estimator(learner, images.shape[1:], objective) for objective in ("cross-entropy", "logits ratio"))
    options: dict[str, Any] = {"norm": np.inf, "eps": epsilon}
    descent = partial(
        AutoProjectedGradientDescent,
        eps_step=2 * epsilon,
        max_iter=ITERATIONS,
        nb_random_init=RESTARTS,
        batch_size=len(images),
        verbose=False,
        **options,
    )
    attacks = [
        descent(estimator=one),
        descent(estimator=other),
        DeepFool(
            classifier=one, max_iter=ITERATIONS, epsilon=1e-3, nb_grads=classes, batch_size=len(images), verbose=False
        ),
        SquareAttack(
            estimator=one, max_iter=QUERIES, p_init=0.8, nb_restarts=1, batch_size=len(images), verbose=False, **options
        ),
    ]
    with np.errstate(divide="ignore", invalid="ignore"):  # an image without a gradient is not moved
        moved = AutoAttack(
            estimator=one, attacks=attacks, eps_step=2 * epsilon, batch_size=len(images), **options
        ).generate(images, np.eye(classes, dtype=np.float32)[labels])
    assert np.abs(moved - images).max() <= epsilon + 1e-5
    assert moved.min() >= 0.0
    assert moved.max() <= 1.0
    # What the library moved, seen by the network as everything else sees it.
    return float(np.mean(learner.logits(moved.astype(np.float32)).argmax(axis=1) == labels))


class Estimator(ClassGradientsMixin, ClassifierMixin, LossGradientsMixin, NeuralNetworkMixin, BaseEstimator):  # type: ignore[misc]
    """A trained network as the library asks for it, attacked by one objective."""

    estimator_params = BaseEstimator.estimator_params

    def __init__(self, learner: Learner, shape: network.Shape, objective: Objective) -> None:
        super().__init__(model=learner, clip_values=(0.0, 1.0), channels_first=False)
        self.learner, self.objective = learner, objective
        self.nb_classes, self._shape = learner.build.classes, shape

    @property
    def input_shape(self) -> network.Shape:
        """(H, W, c)."""
        return self._shape

    def predict(self, x: network.Array, batch_size: int = 0, **options: Any) -> network.Array:
        """Logits (N, C)."""
        return self.learner.logits(np.asarray(x, np.float32))

    def loss_gradient(self, x: network.Array, y: network.Array, **options: Any) -> network.Array:
        """Of the objective, with respect to the images."""
        return self._by_block(lambda images, labels: _gradient(self._state, images, labels, *self._static), x, y)

    def compute_loss(
        self, x: network.Array, y: network.Array, reduction: str = "none", **options: Any
    ) -> network.Array:
        """The objective of each image."""
        logits = jnp.asarray(self.predict(x))
        values = np.asarray(objective_of(logits, jnp.asarray(y).argmax(axis=1), self.objective))
        return values if reduction == "none" else np.asarray(values.mean())

    def class_gradient(self, x: network.Array, label: Any = None, **options: Any) -> network.Array:
        """Of the logits: (N, C, H, W, c), or (N, 1, H, W, c) of one class or of one for each image."""
        classes = range(self.nb_classes) if label is None else [label]
        found = []
        for one in classes:
            chosen = np.eye(self.nb_classes, dtype=np.float32)[np.broadcast_to(one, len(x))]
            gradient = partial(_logit_gradient, self._state, build=self.learner.compiled)
            found.append(self._by_block(gradient, x, chosen))
        return np.stack(found, axis=1)

    def fit(self, *arguments: Any, **options: Any) -> None:
        """A trained network is attacked, not trained."""
        raise NotImplementedError

    def get_activations(self, *arguments: Any, **options: Any) -> Any:
        """No attack here looks inside."""
        raise NotImplementedError

    @property
    def _state(self) -> tuple[Any, Any]:
        return self.learner.state[:2]

    @property
    def _static(self) -> tuple[Any, Objective]:
        return self.learner.compiled, self.objective

    def _by_block(self, function: Any, x: network.Array, y: network.Array) -> network.Array:
        """Blocks of one size: the attacks ask for fewer and fewer images, and each size would be compiled."""
        size = self.learner.build.evaluation_batch
        rows = -len(x) % size
        images, labels = (np.concatenate([part, np.repeat(part[:1], rows, axis=0)]) for part in (x, y))
        parts = [
            np.asarray(function(images[at : at + size].astype(np.float32), labels[at : at + size]))
            for at in range(0, len(images), size)
        ]
        return np.concatenate(parts)[: len(x)]


def objective_of(logits: Array, labels: Array, objective: Objective) -> Array:
    """What an attacker raises, image by image.

    The ratio is the largest other logit minus the true one, divided by the distance of the largest from the third
    largest, so that the scale of the logits does not matter.
    """
    true = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    own = jnp.where(true, logits, 0.0).sum(axis=-1)
    if objective == "cross-entropy":
        return jax.nn.logsumexp(logits, axis=-1) - own
    ranked = jnp.sort(logits, axis=-1)
    return (jnp.where(true, -jnp.inf, logits).max(axis=-1) - own) / (ranked[:, -1] - ranked[:, -3] + 1e-12)


@partial(jax.jit, static_argnames=("build", "objective"))
def _gradient(state: Any, x: Array, y: Array, build: Any, objective: Objective) -> Array:
    def total(x: Array) -> Array:
        return objective_of(evaluate(*state, x, build), y.argmax(axis=1), objective).sum()

    gradient: Array = jax.grad(total)(x)
    return gradient


@partial(jax.jit, static_argnames="build")
def _logit_gradient(state: Any, x: Array, chosen: Array, build: Any) -> Array:
    gradient: Array = jax.grad(lambda x: jnp.sum(chosen * evaluate(*state, x, build)))(x)
    return gradient
