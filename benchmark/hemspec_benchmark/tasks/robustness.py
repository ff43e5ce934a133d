"""Adversarial robustness: projected gradient descent in L-infinity on the margin between logits.

The attacker never follows the training loss for the reported numbers. A margin loss has zero gradient where it is
satisfied, so an attack on it would stand still, which looks like robustness; `loss_attack` measures how much.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from hemspec_benchmark.datasets import Dataset
from hemspec_benchmark.learner import Learner, Objective
from hemspec_benchmark.network import Array
from hemspec_benchmark.settings import Attack
from hemspec_benchmark.tasks import Outcome
from hemspec_benchmark.training import Workshop

AUTOATTACK: Final = "autoattack"
"""The setting in which ours is held against another attack; with networks of JAX alone."""
STARTS: Final = 31
"""The purpose of the random numbers that the attacks start from."""


def run(workshop: Workshop, setting: str, loss: str, seed: int) -> Outcome:
    """Robust accuracy by size and kind of attack, on the first test images."""
    learner, _ = workshop.on_all_classes(loss, seed)
    attack = workshop.protocol.attack
    data = workshop.data(seed)
    if setting == AUTOATTACK:
        return against_another(learner, data, attack, seed)
    images, labels = data.test_images[: attack.images], data.test_labels[: attack.images]

    def robust(epsilon: float, steps: int, restarts: int = 1, objective: Objective = "margin") -> float:
        return pgd(learner, images, labels, epsilon, steps, restarts, seed, objective)

    measured = {"clean": float(np.mean(learner.logits(images).argmax(axis=1) == labels))}
    for epsilon in attack.epsilons:
        measured[f"fgsm/{epsilon:g}"] = fgsm(learner, images, labels, epsilon)
        measured[f"pgd/{epsilon:g}"] = robust(epsilon, attack.steps, attack.restarts)
    measured[f"pgd/{attack.largest:g}"] = robust(attack.largest, attack.steps)
    for steps in attack.steps_checked:
        measured[f"steps/{steps}"] = robust(attack.epsilon, steps)
    measured["loss_attack"] = robust(attack.epsilon, attack.steps, objective="loss")
    return Outcome(measured)


def against_another(learner: Learner, data: Dataset, attack: Attack, seed: int) -> Outcome:
    """Our attack and a library's strongest on the same images, at the size at which losses are compared."""
    from hemspec_benchmark import autoattack  # needs JAX

    images, labels = data.test_images[: attack.images_held], data.test_labels[: attack.images_held]
    ours = pgd(learner, images, labels, attack.epsilon, attack.steps, attack.restarts, seed)
    theirs = autoattack.accuracy(learner, images, labels, attack.epsilon)
    return Outcome({f"pgd/{attack.epsilon:g}": ours, f"autoattack/{attack.epsilon:g}": theirs})


def fgsm(learner: Learner, images: Array, labels: Array, epsilon: float) -> float:
    """The accuracy after one step of size epsilon up the margin's gradient (Goodfellow et al. 2015)."""
    _, gradient = learner.input_gradient(images, labels, "margin")
    moved = np.clip(images + epsilon * np.sign(gradient), 0.0, 1.0).astype(np.float32)
    return float(np.mean(learner.logits(moved).argmax(axis=1) == labels))


def pgd(
    learner: Learner,
    images: Array,
    labels: Array,
    epsilon: float,
    steps: int,
    restarts: int,
    seed: int,
    objective: Objective = "margin",
) -> float:
    """The share of images that no restart and no step got misclassified (Madry et al. 2018).

    The first restart starts at the images, the others at random places within epsilon; steps are of 2.5 epsilon / steps
    along the sign of the gradient, projected to the box and to [0, 1].
    """
    rng = np.random.default_rng((seed, STARTS))
    standing = np.ones(len(images), bool)
    lowest, highest = np.maximum(images - epsilon, 0.0), np.minimum(images + epsilon, 1.0)
    for restart in range(restarts):
        start = rng.uniform(-epsilon, epsilon, images.shape) if restart else 0.0
        moved = np.clip(images + start, lowest, highest).astype(np.float32)
        for _ in range(steps):
            logits, gradient = learner.input_gradient(moved, labels, objective)
            standing &= logits.argmax(axis=1) == labels
            moved = np.clip(moved + 2.5 * epsilon / steps * np.sign(gradient), lowest, highest).astype(np.float32)
        standing &= learner.logits(moved).argmax(axis=1) == labels
    return float(standing.mean())
