"""Means, intervals, paired differences, Holm's correction; and what happens where there is nothing to compute with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from scipy import stats

from hemspec_benchmark import statistics
from hemspec_benchmark.statistics import HEADLINES, difference, estimate, family, holm, means, pair, pool

Document = dict[str, Any]
CLEAN = HEADLINES[0]


def document(values: dict[tuple[str, str], list[float | None]], metric: str = "clean") -> Document:
    """By loss and framework, a value for each seed."""
    return {
        "data": "digits",
        "protocol": {},
        "losses": {loss: {"label": loss} for loss, _ in values},
        "cells": [
            {
                "task": "accuracy",
                "setting": "test",
                "loss": loss,
                "backend": backend,
                "seed": seed,
                "metrics": {metric: value},
                "details": {},
            }
            for (loss, backend), given in values.items()
            for seed, value in enumerate(given)
        ],
    }


def test_an_estimate_is_students() -> None:
    values = [0.9, 0.92, 0.95, 0.91]
    found = estimate(values)
    assert found is not None
    low, high = stats.t.interval(0.95, 3, loc=found.mean, scale=stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((sum(values) / 4, low, high))
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue)
    assert found.half == pytest.approx((high - low) / 2)


def test_a_single_value_has_neither_interval_nor_test() -> None:
    found = estimate([0.9])
    assert found is not None
    assert (found.mean, found.low, found.high, found.half, found.p) == (0.9, None, None, None, None)
    assert estimate([]) is None


@pytest.mark.parametrize(
    ("values", "p"), [([0.0] * 10, 1.0), ([0.1] * 2, 0.5), ([-0.1] * 10, 2**-9), ([0.3, 0.1 + 0.2], 0.5)]
)
def test_values_that_are_all_the_same_get_a_sign_test(values: list[float], p: float) -> None:
    found = estimate(values)
    assert found is not None
    assert found.low == found.high == (found.mean if len(values) >= 6 else None)
    assert found.p == p


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_never_averaged(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        estimate([0.9, value])


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_frameworks_are_not_replicates() -> None:
    """Three frameworks with the same numbers say no more than one."""
    numbers = [0.90, 0.92, 0.95]
    one = means(document({("ce", "torch"): numbers}), CLEAN)["ce"]
    three = means(document({("ce", name): numbers for name in ("torch", "keras", "jax")}), CLEAN)["ce"]
    assert three.count == one.count == 3
    assert (three.low, three.high) == pytest.approx((one.low, one.high))
    assert pool({"torch": {0: 1.0, 1: 2.0}, "jax": {0: 3.0}}) == {0: 2.0, 1: 2.0}


def test_pairs_have_seed_and_framework_in_common() -> None:
    first = {"torch": {0: 0.9, 1: 0.8, 2: 0.7}, "jax": {0: 0.5, 3: 0.1}, "keras": {0: 0.9}}
    second = {"torch": {0: 0.8, 1: 0.5}, "jax": {0: 0.1}}
    assert pair(first, second) == pytest.approx({0: 0.25, 1: 0.3})


def test_a_difference_is_paired_by_seed() -> None:
    made = document({("ce", "jax"): [0.5, 0.7, 0.9], ("hem", "jax"): [0.51, 0.72, 0.91]})
    found = difference(made, CLEAN, "hem")
    assert found is not None
    assert found.estimate.mean == pytest.approx(0.04 / 3)
    assert found.estimate.half == pytest.approx(stats.sem([0.01, 0.02, 0.01]) * stats.t.ppf(0.975, 2))
    assert found.estimate.p is not None
    assert found.estimate.p < 0.1  # unpaired it would be hopeless


def test_a_null_is_left_out_with_its_pair_and_said() -> None:
    made = document({("ce", "jax"): [0.5, 0.7, 0.9], ("hem", "jax"): [0.6, None, 0.9]})
    found = difference(made, CLEAN, "hem")
    assert found is not None
    assert found.estimate.count == 2
    assert any("HEM" in text.upper() and "seed 1: clean" in text for text in statistics.missing(made))


def test_no_pair_is_no_difference() -> None:
    made = document({("ce", "jax"): [None, 0.7], ("hem", "jax"): [0.6, None], ("mm", "torch"): [0.5, 0.5]})
    assert difference(made, CLEAN, "hem") is None
    assert difference(made, CLEAN, "mm") is None
    assert difference(made, CLEAN, "la") is None
    assert family(made) == {}


def test_the_family_is_every_headline_and_every_loss(untouched: Document) -> None:
    tests = family(untouched)
    assert len(tests) == len(HEADLINES) * (len(untouched["losses"]) - 1)
    raw = [entry.estimate.p for entry in tests.values()]
    assert [entry.corrected for entry in tests.values()] == pytest.approx(holm([p for p in raw if p is not None]))
    assert all(entry.corrected >= entry.estimate.p for entry in tests.values())  # type: ignore[operator]


def test_with_one_seed_nothing_is_significant(make: Callable[..., Document]) -> None:
    tests = family(make(seeds=1, losses=["ce", "hem"], backends=["torch", "jax"], extras=False))
    assert len(tests) == len(HEADLINES)
    assert all(entry.corrected is None and entry.direction == 0 for entry in tests.values())


def test_less_may_be_better() -> None:
    made = document({("ce", "jax"): [0.5] * 10, ("hem", "jax"): [0.4] * 10}, metric="fpr95/x")
    (measure,) = statistics.measures(made, "accuracy")
    found = difference(made, measure, "hem")
    assert found is not None
    (corrected,) = statistics.correct([found])
    assert (corrected.gain, corrected.direction) == (pytest.approx(0.1), 1)


def test_other_data_has_other_primary_measures() -> None:
    primary = {m.name: m for m in statistics.primary({"data": "cifar10", "protocol": {"attack": {"epsilon": 8 / 255}}})}
    assert primary["pgd"].metric == "pgd/0.0313725"
    assert primary["near"].metric == "auroc/max_logit/classes"
    assert primary["clean"] == CLEAN


def test_the_measures_are_those_of_the_tasks(untouched: Document) -> None:
    assert statistics.headlines(untouched) == list(HEADLINES)
    assert CLEAN in statistics.measures(untouched, "accuracy")
    (noise,) = [m for m in statistics.measures(untouched, "rejection") if m.metric == "fpr95/max_logit/noise"]
    assert not noise.higher_is_better


def test_what_is_missing_is_said(synthetic: Document) -> None:
    assert statistics.missing(synthetic) == []
    synthetic["cells"] = [
        cell
        for cell in synthetic["cells"]
        if cell["task"] != "segmentation"
        and not (
            cell["setting"] == "near" and cell["backend"] == "keras" and cell["loss"] == "hem" and cell["seed"] > 6
        )
        and not (cell["setting"] == "pgd" and cell["loss"] in ("mm", "dice"))
    ]
    assert statistics.missing(synthetic) == [
        "Unknown-class rejection, near: not run: HEM (Keras, seed 7-9)",
        "Adversarial robustness, pgd: not run: MM, Dice (all frameworks, every seed)",
        "Semantic segmentation, scenes: not run",
    ]


def test_curves_leave_nulls_out(synthetic: Document) -> None:
    for cell in synthetic["cells"]:
        if cell["task"] == "accuracy" and cell["loss"] == "hem":
            cell["details"]["train_loss"][-1] = None
    points = statistics.by_epoch(synthetic, "train_loss", "hem")
    assert [epoch for epoch, _ in points] == list(range(1, 15))
    assert all(found.count == 10 for _, found in points)
