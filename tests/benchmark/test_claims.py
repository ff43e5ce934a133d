"""The rule that turns differences into verdicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hemspec_benchmark import claims
from hemspec_benchmark.claims import CLAIMS, Claim, judge, verdicts
from hemspec_benchmark.statistics import HEADLINES, Difference, Estimate

Document = dict[str, Any]
MEASURES = {measure.name: measure for measure in HEADLINES}
ROBUST, REJECTS, CLEAN, ALIKE, MUCH = CLAIMS[1], CLAIMS[0], CLAIMS[5], CLAIMS[6], CLAIMS[7]


def corrected(claim: Claim, *found: tuple[float, float, float] | None) -> dict[tuple[str, str, str], Difference]:
    """For each measure of the claim: mean, half of the interval, corrected p."""
    return {
        (name, "hem", claim.against): Difference(
            MEASURES[name], "hem", claim.against, Estimate(mean, mean - half, mean + half, p, 10), corrected=p
        )
        for name, (mean, half, p) in ((n, f) for n, f in zip(claim.measures, found, strict=False) if f)
    }


def verdict(claim: Claim, *found: tuple[float, float, float] | None) -> str:
    return judge(claim, "hem", corrected(claim, *found)).text


BETTER, WORSE, NEITHER = (0.03, 0.01, 0.001), (-0.03, 0.01, 0.001), (0.03, 0.04, 0.2)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([BETTER, BETTER, BETTER], "holds"),
        ([BETTER, BETTER, NEITHER], "holds"),
        ([BETTER, BETTER, None], "holds"),
        ([BETTER, NEITHER, NEITHER], "undecided"),  # one of three is not enough
        ([BETTER, BETTER, WORSE], "mixed"),
        ([WORSE, WORSE, NEITHER], "does not hold"),
        ([WORSE, NEITHER, NEITHER], "undecided"),
        ([NEITHER, NEITHER, NEITHER], "undecided"),
        ([None, None, None], "not measured"),
    ],
)
def test_several_measures(found: list[tuple[float, float, float] | None], expected: str) -> None:
    assert verdict(REJECTS, *found) == expected


def test_one_measure() -> None:
    assert [verdict(ROBUST, found) for found in (BETTER, WORSE, NEITHER)] == ["holds", "does not hold", "undecided"]


def test_worse_is_the_opposite_of_better() -> None:
    claim = CLAIMS[9]
    assert claim.relation == "worse"
    assert verdict(claim, WORSE, WORSE, NEITHER) == "holds"
    assert verdict(claim, BETTER, BETTER, BETTER) == "does not hold"


def test_much_is_more_than_significant() -> None:
    large = (0.08, 0.01, 0.001)
    assert verdict(MUCH, *[large] * 6) == "holds"
    assert verdict(MUCH, *[BETTER] * 6) == "undecided"
    assert verdict(MUCH, *[WORSE] * 6) == "does not hold"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ((0.0, 0.01, 1.0), "holds"),
        ((0.01, 0.005, 0.001), "holds"),  # significant, and still alike
        ((0.0, 0.05, 1.0), "undecided"),  # not significant, but not known to be alike
        ((0.05, 0.01, 0.001), "does not hold"),
        ((-0.05, 0.01, 0.001), "does not hold"),
    ],
)
def test_alike_is_shown_by_an_interval(found: tuple[float, float, float], expected: str) -> None:
    assert verdict(ALIKE, found, found, found) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ((-0.002, 0.004, 0.9), "holds"),
        ((0.03, 0.01, 0.001), "holds"),
        ((-0.002, 0.03, 0.9), "undecided"),  # few seeds do not make it insignificant
        ((-0.004, 0.001, 0.001), "does not hold"),  # little, but significant
    ],
)
def test_clean_accuracy_may_lose_an_insignificant_bit(found: tuple[float, float, float], expected: str) -> None:
    assert verdict(CLEAN, found) == expected


def test_a_single_seed_decides_nothing() -> None:
    lone = {
        (name, "hem", claim.against): Difference(
            MEASURES[name], "hem", claim.against, Estimate(0.1, None, None, None, 1)
        )
        for claim in CLAIMS
        for name in claim.measures
    }
    assert {judge(claim, "hem", lone).text for claim in CLAIMS} == {"undecided"}


def test_the_claims_name_measures_that_exist() -> None:
    assert {name for claim in CLAIMS for name in claim.measures} == set(MEASURES)
    assert set(claims.EVERYTHING) == set(MEASURES)


def test_every_variant_gets_a_verdict(untouched: Document) -> None:
    rows = verdicts(untouched)
    assert len(rows) == len(CLAIMS)
    for row in rows:
        assert list(row) == ["hem", "hem-mean", "hem-plus"]
        assert all(len(entry.evidence) == len(entry.claim.measures) for entry in row.values())


def test_comparisons_with_other_losses_are_a_family_of_their_own(untouched: Document) -> None:
    tests = claims.comparisons(untouched)
    others = [entry for (_, _, against), entry in tests.items() if against != "ce"]
    # LogitNorm 3 + 6 + 1, LA 3 + 3 + 1, Dice all: each against three variants.
    assert len(others) == 3 * (10 + 7 + len(HEADLINES))
    assert all(entry.corrected is not None for entry in others)


def test_planted_effects_are_found(synthetic: Document) -> None:
    for cell in synthetic["cells"]:
        if cell["loss"] == "hem" and cell["task"] == "segmentation":
            cell["metrics"]["miou"] += 0.1
        if cell["loss"] == "hem" and cell["task"] == "robustness":
            cell["metrics"]["pgd/0.05"] -= 0.2
    rows = {row["hem"].claim.text: row["hem"].text for row in verdicts(synthetic)}
    assert rows["HEM is better at semantic segmentation than cross-entropy"] == "holds"
    assert rows["LogitNorm is much worse than HEM at semantic segmentation"] == "holds"
    assert rows["HEM is more robust to adversarial attacks than cross-entropy"] == "does not hold"


def test_without_the_other_loss_a_claim_is_not_measured(make: Callable[..., Document]) -> None:
    rows = verdicts(make(seeds=2, losses=["ce", "hem"], backends=["torch"], extras=False))
    texts = {row["hem"].claim.text: row["hem"].text for row in rows}
    assert texts["Dice is worse than HEM throughout"] == "not measured"
    assert all(list(row) == ["hem"] for row in rows)
