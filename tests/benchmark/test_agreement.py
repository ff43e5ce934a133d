"""The frameworks' agreement: rounding passes, mistakes do not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import hemspec
from hemspec.reference import hem as reference
from hemspec_benchmark import batches, datasets
from hemspec_benchmark.agreement import Agreement, Comparison, agreement, compare, describe, outcomes, reference_losses
from hemspec_benchmark.network import forward, initial_weights
from hemspec_benchmark.settings import DIGITS
from hemspec_benchmark.training import ORDER

Document = dict[str, Any]


def cells(document: Document, loss: str, backend: str, task: str = "accuracy") -> list[Document]:
    return [c for c in document["cells"] if (c["task"], c["loss"], c["backend"]) == (task, loss, backend)]


@pytest.fixture(scope="module")
def references(untouched: Document) -> dict[tuple[str, int], float]:
    return reference_losses(untouched)


def test_equal_losses_agree(untouched: Document) -> None:
    found = agreement(untouched)
    assert found.agrees
    assert found.checked
    assert len(found.judged) == 9 * 10 * 3
    assert {len(entry.values) for entry in found.judged if entry.step == 1} == {4}
    assert [(one.backend, one.against, len(one.singles)) for one in found.equivalences] == [
        ("torch", "jax", 16 * 9 * 10),
        ("keras", "jax", 16 * 9 * 10),
    ]
    assert all(one.answer.word == "holds" for one in found.equivalences)
    assert found.largest is not None
    assert found.largest < 1e-5
    step, drift = found.drift
    assert step == 19
    assert drift.keys() == untouched["losses"].keys()
    assert "The frameworks agree. First 3 steps: 270 comparisons, 0 beyond rounding" in found.summary()


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("doctor", [lambda loss: loss * 1.001, lambda loss: None])
def test_one_wrong_loss_is_found_and_named(
    synthetic: Document,
    references: dict[tuple[str, int], float],
    step: int,
    doctor: Callable[[float], float | None],
) -> None:
    steps = cells(synthetic, "hem-mean", "jax")[-1]["details"]["step_losses"]
    steps[step - 1] = doctor(steps[step - 1])
    (failure,) = [entry for entry in compare(synthetic, references) if not entry.agrees]
    assert (failure.loss, failure.seed, failure.step) == ("hem-mean", 9, step)
    for part in ("HEM, mean", "seed 9", f"step {step}", "PyTorch", "Keras", "JAX", "tolerance"):
        assert part in str(failure)
    assert ("NumPy" in str(failure)) == (step == 1)


def test_later_steps_are_not_judged() -> None:
    entry = Comparison("ce", 0, 4, {"torch": 1.0, "jax": 2.0})
    assert entry.agrees
    assert entry.difference == 0.5


def test_two_zeros_agree_and_what_is_not_finite_does_not() -> None:
    assert Comparison("hem", 0, 1, {"torch": 0.0, "jax": 0.0}).agrees
    assert not Comparison("hem", 0, 1, {"torch": math.inf, "jax": math.inf}).agrees


def test_a_single_framework_is_compared_with_the_reference_only(make: Callable[..., Document]) -> None:
    document = make(seeds=2, losses=["ce", "hem"], backends=["jax"], extras=False)
    found = agreement(document)
    assert {entry.step for entry in found.comparisons} == {1}
    assert found.agrees
    assert not found.equivalences


def test_other_data_has_no_reference(synthetic: Document) -> None:
    assert reference_losses({**synthetic, "data": "cifar10"}) == {}


def inverted_hem(logits: Any, labels: Any, margin: float) -> float:
    """HEM with the threshold the wrong way round: it keeps the errors that are below the mean."""
    errors = reference.margin_errors(np.asarray(logits, float), labels, np.full(len(labels), margin))
    kept = (errors > 0) & ~reference.kept_errors(errors)
    losses = np.where(kept.any(axis=1), (errors * kept).sum(axis=1) / np.maximum(kept.sum(axis=1), 1), 0.0)
    return float(losses[losses > 0].mean())


def test_hem_with_an_inverted_threshold_is_visible(synthetic: Document) -> None:
    data = datasets.digits()
    recipe = DIGITS.classification
    margin = hemspec.margin_from_num_samples(len(data.train_labels))
    for cell in cells(synthetic, "hem", "keras"):
        rng = np.random.default_rng((cell["seed"], ORDER))
        images, labels, _ = next(
            batches.epoch(data.train_images, data.train_labels, recipe.batch_size, rng, shift=data.shift, chunk=1)
        )
        weights = initial_weights(DIGITS.architecture, images.shape[2:], 10, cell["seed"])
        logits = forward(DIGITS.architecture, weights, images[0], training=True)
        cell["details"]["step_losses"][0] = inverted_hem(logits, labels[0], margin)
    found = agreement(synthetic)
    assert not found.agrees
    assert {(entry.loss, entry.seed, entry.step) for entry in found.failures} == {
        ("hem", seed, 1) for seed in range(10)
    }
    assert "The frameworks disagree." in found.summary()
    assert found.summary().count("HEM, seed") == 10
    # Not by a little: it stands out from rounding by four orders of magnitude.
    assert min(entry.difference for entry in found.failures) > 0.1


def test_a_final_result_that_differs_is_visible(synthetic: Document) -> None:
    for cell in cells(synthetic, "hem", "keras", "segmentation"):
        cell["metrics"]["miou"] -= 0.1
    found = agreement(synthetic)
    assert not found.failures
    assert not found.agrees
    (outcome,) = found.differing
    assert (outcome.loss, outcome.measure.name) == ("hem", "miou")
    (keras,) = [one for one in found.equivalences if one.backend == "keras"]
    largest = keras.largest["hem"]
    assert (largest.measure.name, largest.difference) == ("miou", pytest.approx(-0.1, abs=0.05))
    assert "HEM, mean IoU: PyTorch" in describe(synthetic, outcome)


def test_equal_results_do_not_differ(synthetic: Document) -> None:
    for cell in synthetic["cells"]:
        cell["metrics"] = dict.fromkeys(cell["metrics"], 0.5)
    assert all(not outcome.differs for outcome in outcomes(synthetic))
    assert all(one.answer.word == "holds" for one in agreement(synthetic).equivalences)


def test_a_single_seed_has_nothing_that_differs(make: Callable[..., Document]) -> None:
    found = outcomes(make(seeds=1, losses=["ce", "hem"], backends=["torch", "jax"], extras=False))
    assert all(not outcome.differs for outcome in found)


@pytest.mark.parametrize("points", [2.0, -2.0])
def test_results_that_are_off_everywhere_are_not_equivalent(synthetic: Document, points: float) -> None:
    for cell in synthetic["cells"]:
        if cell["backend"] == "torch":
            cell["metrics"] = {name: value + points / 100 for name, value in cell["metrics"].items()}
    found = {one.backend: one for one in agreement(synthetic).equivalences}
    assert {name: one.answer.word for name, one in found.items()} == {"torch": "does not hold", "keras": "holds"}
    assert "PyTorch less JAX" in str(found["torch"])
    assert "not shown to be equivalent within 1 point" in str(found["torch"])


def test_nothing_compared_is_not_agreement() -> None:
    assert not Agreement([], []).checked
    assert "not compared" in Agreement([], []).summary()
