"""Superiority, non-inferiority and equivalence against other libraries; what the words mean; how many seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW, ttost_paired

from hemspec_benchmark.inference import Answer, Paired, Question, answers, p_value, seeds_to_decide

BETTER, NO_WORSE, ALIKE = (Question("", kind, 0.02) for kind in ("better", "no worse", "alike"))


def differences(mean: float, spread: float = 0.01, n: int = 12, seed: int = 0, **options: float) -> Paired:
    """With exactly this mean and standard deviation."""
    values = np.random.default_rng(seed).normal(size=n)
    values = (values - values.mean()) / values.std(ddof=1)
    return Paired(tuple(mean + spread * values), **options)


@pytest.mark.parametrize("mean", [-0.03, -0.01, 0.0, 0.004, 0.03])
def test_tests_are_other_libraries(mean: float) -> None:
    found = differences(mean)
    values = np.array(found.values)
    assert p_value(BETTER, found) == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue)
    assert p_value(NO_WORSE, found) == pytest.approx(
        min(1.0, 2 * stats.ttest_1samp(values, -0.02, alternative="greater").pvalue)
    )
    alike = ttost_paired(values, np.zeros_like(values), -0.02, 0.02)[0]
    assert p_value(ALIKE, found) == pytest.approx(min(1.0, 2 * alike))
    assert found.interval == pytest.approx(DescrStatsW(values).tconfint_mean())


def test_overlapping_splits_widen_the_interval() -> None:
    """Nadeau and Bengio: the variance of the mean is (1/n + test/training) s^2."""
    usual, corrected = differences(0.01), differences(0.01, overlap=0.3 / 0.6)
    assert corrected.error == pytest.approx(0.01 * np.sqrt(1 / 12 + 0.5))
    assert corrected.error / usual.error == pytest.approx(np.sqrt(1 + 12 * 0.5))


def test_no_spread_is_asked_as_the_sign_test_has_it() -> None:
    assert p_value(BETTER, Paired((0.01,) * 8)) == 2 * 0.5**8
    assert p_value(BETTER, Paired((0.0,) * 8)) == 1.0
    assert p_value(NO_WORSE, Paired((0.0,) * 8)) == 2 * 0.5**8


@pytest.mark.parametrize(
    ("question", "mean", "spread", "word"),
    [
        (BETTER, 0.03, 0.01, "holds"),
        (BETTER, -0.03, 0.01, "does not hold"),
        (BETTER, 0.001, 0.01, "equivalent"),
        (BETTER, 0.001, 0.1, "open"),
        (BETTER, 0.01, 0.1, "open"),
        (NO_WORSE, 0.0, 0.01, "holds"),
        (NO_WORSE, -0.01, 0.01, "holds"),  # significantly worse, and less than the margin
        (NO_WORSE, -0.02, 0.01, "open"),
        (NO_WORSE, -0.03, 0.01, "does not hold"),
        (ALIKE, 0.01, 0.01, "holds"),
        (ALIKE, 0.02, 0.01, "open"),
        (ALIKE, 0.0, 0.1, "open"),
        (ALIKE, -0.05, 0.01, "does not hold"),
        (ALIKE, 0.05, 0.01, "does not hold"),
    ],
)
def test_words(question: Question, mean: float, spread: float, word: str) -> None:
    (answer,) = answers([(question, differences(mean, spread))])
    assert answer.word == word


def test_much_better_asks_for_its_size_too() -> None:
    much = Question("", "better", 0.02, at_least=0.05)
    assert [answers([(much, differences(mean))])[0].word for mean in (0.06, 0.03, -0.03)] == [
        "holds",
        "open",
        "does not hold",
    ]


@pytest.mark.parametrize(
    ("means", "word"),
    [
        ((0.03, 0.04, 0.05), "holds"),
        ((0.03, 0.04, 0.001), "open"),  # one of them is not decided
        ((0.03, 0.04, -0.03), "does not hold"),  # one of them is the other way
    ],
)
def test_several_have_to_agree(means: tuple[float, ...], word: str) -> None:
    parts = [differences(mean, seed=seed) for seed, mean in enumerate(means)]
    (answer,) = answers([(BETTER, parts)])
    assert answer.word == word
    assert answer.decisive is min(parts, key=lambda one: one.mean)
    if word == "open":
        # "Equivalent" is no answer there, so the smallest difference has to become significant.
        needed, alone = seeds_to_decide(answer, tests=1), seeds_to_decide(answers([(BETTER, parts[2])])[0], tests=1)
        assert needed is not None
        assert alone is not None
        assert needed > 100 > alone


def test_what_is_worse_before_the_correction_alone_can_be_equivalent() -> None:
    slightly_worse = differences(-0.007)
    assert p_value(BETTER, slightly_worse) < 0.05
    assert Answer(BETTER, (slightly_worse,), corrected=0.2).word == "equivalent"


def test_a_family_is_corrected_together() -> None:
    """Holm by hand: the smallest p times three, the next times two, never falling."""
    asked = [(BETTER, differences(mean)) for mean in (0.009, 0.0065, 0.02)]
    alone = [p_value(*one) for one in asked]
    found = [answer.corrected for answer in answers(asked)]
    order = np.argsort(alone)
    by_hand, least = [0.0] * 3, 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (3 - rank) * alone[place]))
        by_hand[place] = least
    assert found == pytest.approx(by_hand)


def test_the_seeds_that_would_decide_are_those_of_a_power_calculation() -> None:
    open_ = Answer(BETTER, (differences(0.06, 0.1),), corrected=0.2)
    needed = seeds_to_decide(open_, tests=6)
    usual = TTestPower().solve_power(effect_size=0.6, power=0.8, alpha=0.05 / 6)
    assert needed == int(np.ceil(usual))
    # Not inferior: the effect is the distance to the margin.
    worse = Answer(NO_WORSE, (differences(-0.01, 0.03),), corrected=0.2)
    assert seeds_to_decide(worse, tests=1) == int(np.ceil(TTestPower().solve_power(1 / 3, power=0.8, alpha=0.05)))


@pytest.mark.parametrize(("question", "mean"), [(ALIKE, 0.004), (BETTER, 0.0)])
def test_so_many_seeds_do_decide(question: Question, mean: float) -> None:
    """Drawn anew: eight of ten runs of that size are decided, and not of half of it."""
    spread = 0.03
    needed = seeds_to_decide(Answer(question, (differences(mean, spread),), corrected=1.0), tests=1)
    assert needed is not None

    def decided(n: int) -> float:
        rng = np.random.default_rng(1)
        drawn = [Paired(tuple(rng.normal(mean, spread, n))) for _ in range(400)]
        words = [Answer(question, (one,), p_value(question, one)).word for one in drawn]
        return float(np.mean([word in ("holds", "equivalent") for word in words]))

    assert 0.74 < decided(needed) < 0.9
    assert decided(needed // 2) < 0.6


def test_what_no_number_of_seeds_decides() -> None:
    assert seeds_to_decide(Answer(NO_WORSE, (differences(-0.02, 0.05),), corrected=1.0), tests=1) is None
    assert seeds_to_decide(Answer(BETTER, (Paired((0.0, 0.0, 0.0)),), corrected=1.0), tests=1) == 2
