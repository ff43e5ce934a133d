"""The reference of a linear head: the loss of its product, and a gradient that is the finite differences'."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import hemspec

DEPTH, CLASSES = 3, 5


def draw(*shape: int) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    return {
        "features": rng.normal(size=(*shape, DEPTH)),
        "weight": rng.normal(size=(CLASSES, DEPTH)) * 2,
        "labels": rng.integers(0, CLASSES, shape),
        "bias": rng.normal(size=CLASSES),
        "sample_weight": rng.random(shape),
    }


@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "active_mean"])
def test_gradients_are_finite_differences(reduction: str) -> None:
    given = draw(2, 3)
    given["labels"][0, 1], given["sample_weight"][1, 1] = -100, 0.0
    options = {"margin": [1.0, 0.5, 2.0, 0.0, 1.5], "reduction": reduction}
    found = hemspec.linear_hem_loss.gradient(**given, **options)
    step = 1e-6
    for name in ("features", "weight", "bias"):
        numeric = np.zeros_like(given[name])
        for index in np.ndindex(numeric.shape):
            ends = []
            for sign in (1, -1):
                nudged = given[name].copy()
                nudged[index] += sign * step
                ends.append(np.sum(hemspec.linear_hem_loss(**{**given, name: nudged}, **options)))
            numeric[index] = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(getattr(found, name), numeric, rtol=0, atol=3e-8)


def test_it_is_the_loss_of_the_product() -> None:
    given = draw(4)
    logits = given["features"] @ given["weight"].T + given["bias"]
    weighted = {"sample_weight": given["sample_weight"]}
    assert hemspec.linear_hem_loss(**given) == hemspec.hem_loss(logits, given["labels"], **weighted)
    assert hemspec.linear_hem_loss.terms(**given) == hemspec.hem_loss.terms(logits, given["labels"], **weighted)


def test_what_does_not_exist_gives_exactly_nothing() -> None:
    given = draw(4)
    without = {name: array[1:] if len(array) == 4 else array for name, array in given.items()}
    given["features"][0], given["labels"][0] = np.nan, -100
    expected, found = hemspec.linear_hem_loss.gradient(**without), hemspec.linear_hem_loss.gradient(**given)
    assert not found.features[0].any()
    for ours, theirs in zip(found, (expected.features, expected.weight, expected.bias), strict=True):
        np.testing.assert_allclose(ours[1:] if ours is found.features else ours, theirs, rtol=1e-14)


def test_dtypes() -> None:
    given = {name: array if name == "labels" else array.astype(np.float16) for name, array in draw(4).items()}
    assert hemspec.linear_hem_loss(**given).dtype == np.float32
    assert {array.dtype for array in hemspec.linear_hem_loss.gradient(**given)} == {np.dtype(np.float16)}


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"features": np.zeros((4, DEPTH), int)}, TypeError, "features must be floating point"),
        ({"features": np.float64(1)}, ValueError, "features must have a feature axis"),
        ({"weight": np.zeros((CLASSES, 2))}, ValueError, r"weight must have shape \(C, D\) with D = 3.*got \(5, 2\)"),
        ({"weight": np.zeros((1, DEPTH))}, ValueError, r"weight must have .* at least 2 classes; got \(1, 3\)"),
        (
            {"weight": np.zeros((CLASSES, DEPTH), np.float32)},
            TypeError,
            "weight must have the dtype of features, float64",
        ),
        ({"bias": np.zeros(4)}, ValueError, r"bias must have shape \(5,\); got \(4,\)"),
        ({"labels": np.zeros(3, int)}, ValueError, r"labels must have the shape of the logits.*expected \(4,\)"),
        ({"labels": np.array([0, 1, 5, 0])}, ValueError, r"labels must lie in \[0, 5\).*got 5 at index 2"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, Any], error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        hemspec.linear_hem_loss(**{**draw(4), **change})
