"""The run that the protocol fixes: what it consists of, and how its rates are chosen."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hemspec_benchmark import arms
from hemspec_benchmark.arms import (
    CONFIRMING,
    LOGIT_NORMS,
    LOSSES,
    SETTINGS,
    TUNING,
    choose,
    plans,
    varied,
)
from hemspec_benchmark.settings import QUICK, VARIANTS, Cell, is_compared
from hemspec_benchmark.store import separate
from hemspec_benchmark.tune import Part


def tuned(best: dict[str, float], ahead: str = "") -> dict[Cell, Any]:
    """Records of all that chooses: each loss reaches most at its own rate, 0.1 by default; one is ahead."""
    rng = np.random.default_rng(0)

    def reached(cell: Cell) -> float:
        way, rate = cell.variant.removeprefix(TUNING).split()
        wanted = 0.001 if way == "adam" else best.get(cell.loss, 0.1)
        far = abs(np.log10(float(rate)) - np.log10(wanted))
        return 0.8 + 0.1 * (cell.loss == ahead) - 0.1 * far + 1e-4 * rng.random()

    names = ("clean", "average_accuracy", "miou")
    return {cell: {"metrics": dict.fromkeys(names, reached(cell))} for cell in arms.tuning()}


def test_what_is_tuned() -> None:
    cells = arms.tuning()
    assert len(set(cells)) == len(cells)
    assert {cell.seed for cell in cells} == {90, 91, 92, 93, 94}
    by_sgd = Counter((cell.task, cell.loss) for cell in cells if cell.variant.startswith("tuning sgd"))
    assert by_sgd["accuracy", "hem"] == by_sgd["rejection", "hem"] == 5 * 6
    assert by_sgd["continual", "logitnorm-0.2"] == 5 * 6 * 5
    assert by_sgd["segmentation", "dice-batch"] == 2 * 4
    assert {cell.loss for cell in cells if cell.variant.startswith("tuning adam")} == {"ce"}


def test_what_is_compared_is_what_the_protocol_says() -> None:
    best = {"hem": 0.03, "logitnorm-0.1": 0.3, "logitnorm": 0.003, "logitnorm-0.2": 0.003}
    cells = arms.compared(tuned(best, ahead="logitnorm-0.1"))
    assert len(set(cells)) == len(cells)
    compared = [cell for cell in cells if is_compared(cell.variant)]
    assert {cell.seed for cell in compared} == set(range(100, 130))
    assert ("continual", "class-naive") not in {(cell.task, cell.setting) for cell in compared}
    count = Counter((cell.task, cell.setting, cell.loss, cell.variant) for cell in compared if cell.backend == "jax")
    # The arm "paper": all at the rate of CE. "Best rate" is the same where a loss has the same.
    assert count["robustness", "pgd", "mm", "sgd 0.1"] == 30
    assert count["segmentation", "scenes", "hem-plus", "sgd 0.1"] == 30
    assert count["segmentation", "scenes", "mm", "sgd 0.1"] == 8
    assert count["accuracy", "test", "hem", "sgd 0.03"] == 15
    assert count["segmentation", "scenes", "hem", "sgd 0.03"] == 8
    # LogitNorm at the best of three temperatures.
    assert count["accuracy", "test", "logitnorm", "sgd 0.1"] == 30
    assert count["accuracy", "test", "logitnorm-0.1", "sgd 0.3"] == 15
    for way in "clipped 0.1", "adam 0.001":
        assert count["imbalance", "ratio-50", "hem-mean", way] == 15
        assert count["imbalance", "ratio-50", "mm", way] == 0
    for loss in "hem-images", "hem-margin-1":
        assert count["segmentation", "scenes", loss, "sgd 0.1"] == 8
    held = {(cell.loss, cell.seed) for cell in compared if cell.setting == "autoattack"}
    assert held == {(loss, seed) for loss in ("ce", "hem", "hem-mean") for seed in range(100, 105)}
    others = {(cell.backend, cell.variant, cell.seed) for cell in compared if cell.backend != "jax"}
    assert others == {(backend, "sgd 0.1", seed) for backend in ("torch", "keras") for seed in (100, 101)}
    # Every arm has trainings to choose a score by, in all five seeds.
    beside = [cell for cell in cells if not is_compared(cell.variant)]
    scores = {(cell.loss, cell.variant) for cell in beside if cell.variant.startswith(TUNING)}
    assert {("hem", "tuning sgd 0.03"), ("hem", "tuning clipped 0.1"), ("ce", "tuning adam 0.001")} <= scores
    on_mnist = Counter((cell.setting, cell.loss, cell.variant) for cell in beside if cell.variant.startswith("mnist"))
    assert set(on_mnist.values()) == {10}
    assert len(on_mnist) == 3 * 3 * 3


def test_what_the_losses_are() -> None:
    assert "dice-batch" in LOSSES
    assert "dice" not in LOSSES
    assert not {*LOGIT_NORMS[1:]} & {*LOSSES}


def test_the_rates_come_first() -> None:
    first, *rest = plans({})
    assert (len(first.cells()), rest) == (len(arms.tuning()), [])
    records = tuned({})
    first, second = plans(records)
    assert set(second.cells()) & set(first.cells()), "what chose the rates chooses the scores too"
    assert second.cells() == arms.compared(records)
    blocks = [second.shared(cell) for cell in second.cells()[:7]]
    assert len(set(blocks)) == 1, "the settings of one loss and seed share a training"


@pytest.mark.parametrize("part", SETTINGS)
def test_of_the_rates_within_a_standard_error_the_lowest_is_taken(part: Part) -> None:
    records = tuned({})
    assert choose(records, part, ("ce",), "sgd") == ("ce", 0.1)
    # Behind the best by less than its spread.
    for cell, record in records.items():
        if cell.loss == "ce" and cell.variant in ("tuning sgd 0.03", "tuning sgd 0.1"):
            spread = (0.02 if cell.seed % 2 else -0.02) + 0.005 if cell.variant.endswith("0.1") else 0.0
            record["metrics"] = dict.fromkeys(record["metrics"], 0.9 + spread)
    assert choose(records, part, ("ce",), "sgd") == ("ce", 0.03)


def test_a_measure_without_a_number_is_never_chosen() -> None:
    records = tuned({})
    for cell, record in records.items():
        if cell.variant == "tuning sgd 0.1":
            record["metrics"] = dict.fromkeys(record["metrics"])
    assert choose(records, "classification", ("hem",), "sgd")[1] != 0.1


def test_a_variant_says_how_it_is_trained() -> None:
    plain, clipped = varied(CONFIRMING, "sgd 0.3"), varied(CONFIRMING, "clipped 0.1")
    assert plain == replace(
        CONFIRMING,
        **{part: replace(getattr(CONFIRMING, part), learning_rate=0.3) for part in SETTINGS},
    )
    assert {getattr(clipped, part).clip for part in SETTINGS} == {1.0}
    adam = varied(CONFIRMING, "tuning adam 0.001")
    assert (adam.evaluate_on, adam.continual.optimizer, adam.continual.learning_rate) == ("validation", "adam", 0.001)
    assert varied(QUICK, "") is QUICK
    on_mnist = varied(CONFIRMING, "mnist sgd 0.3")
    assert on_mnist == replace(plain, data="mnist", classification=replace(plain.classification, epochs=5))
    name = next(iter(VARIANTS))
    assert varied(QUICK, name) == VARIANTS[name](QUICK)


def test_what_chooses_stands_beside_the_comparison() -> None:
    given = [
        {"variant": text}
        for text in ("", "sgd 0.1", "adam 0.001", "tuning sgd 0.1", "mnist sgd 0.1", "validation", *VARIANTS)
    ]
    found = separate(given)
    assert [entry["variant"] for entry in found["cells"]] == ["", "sgd 0.1", "adam 0.001"]
    assert len(found["explorations"]) == 3 + len(VARIANTS)


def test_the_parts_together_are_all() -> None:
    records = tuned({})
    whole = [cell for plan in plans(records) for cell in plan.cells()]
    parts = [[cell for plan in plans(records, number, 3) for cell in plan.cells()] for number in (1, 2, 3)]
    assert sorted(cell for one in parts for cell in one) == sorted(whole)
    assert max(map(len, parts)) < 0.4 * len(whole)
