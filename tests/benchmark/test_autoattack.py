"""The other attack sees the network that we see, and is no weaker than ours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("art")

from hemspec_benchmark import autoattack
from hemspec_benchmark.autoattack import Estimator, objective_of
from hemspec_benchmark.settings import DIGITS, Attack
from hemspec_benchmark.tasks import robustness
from hemspec_benchmark.training import Workshop


@pytest.fixture(scope="module")
def trained() -> Any:
    protocol = replace(
        DIGITS,
        splits="by seed",
        classification=replace(DIGITS.classification, epochs=3),
        evaluation_batch=30,
        attack=Attack(images_held=30),
    )
    workshop = Workshop("jax", protocol)
    return workshop, workshop.on_all_classes("hem", 1)[0], workshop.data(1)


def test_what_an_attacker_raises_by_hand() -> None:
    logits, labels = np.array([[3.0, 1.0, 0.0], [1.0, 4.0, 2.0]]), np.array([0, 2])
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[[0, 1], labels]
    np.testing.assert_allclose(objective_of(logits, labels, "cross-entropy"), expected, rtol=1e-6)
    # (1 - 3) / (3 - 0) and (4 - 2) / (4 - 1)
    np.testing.assert_allclose(objective_of(logits, labels, "logits ratio"), [-2 / 3, 2 / 3], rtol=1e-6)


@pytest.mark.parametrize("objective", ["cross-entropy", "logits ratio"])
def test_gradients_are_those_of_the_network(trained: Any, objective: Any) -> None:
    _, learner, data = trained
    images, labels = data.test_images[:7], np.eye(10, dtype=np.float32)[data.test_labels[:7]]
    estimator = Estimator(learner, images.shape[1:], objective)
    step = 1e-3 * np.random.default_rng(0).normal(size=images.shape).astype(np.float32)
    ahead, behind = (estimator.compute_loss(images + way * step, labels) for way in (1, -1))
    slope = (estimator.loss_gradient(images, labels) * step).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(ahead - behind, 2 * slope, rtol=0.05, atol=1e-4)
    every, third = estimator.class_gradient(images), estimator.class_gradient(images, label=3)
    assert (every.shape, third.shape) == ((7, 10, 8, 8, 1), (7, 1, 8, 8, 1))
    np.testing.assert_array_equal(every[:, 3:4], third)
    logits = [estimator.predict(images + way * step)[:, 3] for way in (1, -1)]
    np.testing.assert_allclose(
        logits[0] - logits[1], 2 * (third[:, 0] * step).sum(axis=(1, 2, 3)), rtol=0.05, atol=1e-4
    )


def test_it_is_no_weaker_than_ours(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop, _, data = trained
    monkeypatch.setattr(autoattack, "ITERATIONS", 10)
    monkeypatch.setattr(autoattack, "QUERIES", 30)
    measured = robustness.run(workshop, "autoattack", "hem", 1).metrics
    assert set(measured) == {"pgd/0.05", "autoattack/0.05"}
    learner, _ = workshop.on_all_classes("hem", 1)
    images, labels = data.test_images[:30], data.test_labels[:30]
    clean = float(np.mean(learner.logits(images).argmax(axis=1) == labels))
    assert measured["autoattack/0.05"] <= measured["pgd/0.05"] + 1 / 30
    assert measured["autoattack/0.05"] < clean
    assert autoattack.accuracy(learner, images, labels, 0.5) == 0.0, "every image can be made grey"
