"""Other networks, which replicate and decide nothing."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("flax")
pytest.importorskip("mlxtend")

from hemspec_benchmark import datasets, unknowns
from hemspec_benchmark.settings import Cell, is_compared
from hemspec_benchmark.swap import replicating, replication
from hemspec_benchmark.swap.matrix import Matrix


def test_what_is_replicated() -> None:
    cells = replication.cells()
    assert set(Counter((cell.setting, cell.loss) for cell in cells).values()) == {10}
    assert Counter(cell.setting.split()[0] for cell in cells) == {
        "transformer": 2 * 30,
        "fine-tuning": 3 * 30,
        "table": 3 * 30,
    }
    assert not any(is_compared(cell.variant) for cell in cells)


def test_a_transformer_is_measured_on_near_and_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicating, "MATRIX", Matrix(epochs=4))
    (setting, *_) = {cell.setting: None for cell in replication.cells()}
    measured = replicating.run(Cell("replication", setting, "hem", "jax", 1, "replication")).metrics
    kinds = ("near", *unknowns.FAR)
    assert set(measured) == {"clean", *(f"auroc/{s}/{kind}" for s in ("max_logit", "max_softmax") for kind in kinds)}
    assert measured["clean"] > 0.5
    assert all(0.0 <= value <= 1.0 for value in measured.values())


def test_mnist_is_reduced_to_the_size_of_digits() -> None:
    large = datasets.divided("mnist", 1)
    small = replicating.as_digits(large)
    assert small.train_images.shape == (len(large.train_images), 8, 8, 1)
    ink = large.train_images[:, 2:26, 2:26].sum() / large.train_images.sum()
    assert ink > 0.99, "hardly anything is cut off"
    np.testing.assert_allclose(9 * small.train_images.sum(), large.train_images[:, 2:26, 2:26].sum(), rtol=1e-4)


def test_going_on_from_another_training_is_ahead_of_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred digits for one epoch: what was learned on MNIST is still there."""
    monkeypatch.setattr(replicating, "FEW_EPOCHS", 1)
    setting = next(cell.setting for cell in replication.cells() if cell.setting.startswith("fine-tuning"))
    cell = Cell("replication", setting, "ce", "jax", 1, "replication")
    tuned = replicating.run(cell).metrics["clean"]
    monkeypatch.setattr(replicating, "pretrained", lambda seed: replicating.on_mnist(seed).begin())
    assert tuned > replicating.run(cell).metrics["clean"] + 0.1


def test_rows_of_numbers_are_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("river")
    monkeypatch.setattr(replicating, "TABLE_EPOCHS", 5)
    data = datasets.divided("segments", 1)
    assert (data.num_classes, data.train_images.shape[1:]) == (7, (1, 18, 1))
    np.testing.assert_allclose(data.train_images.mean(axis=0), 0.0, atol=1e-4)
    assert abs(data.test_images.mean()) < 0.1, "standardised by the training rows, not by their own"
    setting = next(cell.setting for cell in replication.cells() if cell.setting.startswith("table"))
    measured = replicating.run(Cell("replication", setting, "hem", "jax", 1, "replication")).metrics
    assert measured["clean"] > 0.7
    assert set(measured) == {"clean", "balanced_accuracy", "many", "medium", "few"}
