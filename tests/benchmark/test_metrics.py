"""Every metric against an example worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, log_loss

from hemspec_benchmark.metrics import (
    balanced,
    best_temperature,
    calibration,
    continual,
    recalls,
    rejection,
    segmentation,
)


def test_rejection_by_hand() -> None:
    # Largest logits: known 4 3 2, unknown 3.5 1. Of the six pairs 3 < 3.5 and 2 < 3.5 are wrong.
    # Ranked: 4 known, 3.5, 3 known, 2 known, 1: the precision at each known is 1, 2/3, 3/4.
    # All known are accepted from 2 on, and with them one unknown of two.
    measured = rejection([[4, 0], [0, 3], [2, 0]], [[3.5, 0], [1, 0]])
    assert measured["auroc/max_logit"] == pytest.approx(4 / 6)
    assert measured["aupr/max_logit"] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert measured["fpr95/max_logit"] == pytest.approx(0.5)
    # With the other logit at 0 the softmax ranks in the same way.
    for name in ("auroc", "aupr", "fpr95"):
        assert measured[f"{name}/max_softmax"] == measured[f"{name}/max_logit"]


def test_calibration_by_hand() -> None:
    # Probabilities 0.9 (right), 0.9 (wrong), 0.6 (right): the bins of 0.9 and of 0.6 are off by 0.8 and 0.4 images.
    logits = np.log([[0.9, 0.1], [0.1, 0.9], [0.4, 0.6]])
    measured = calibration(logits, [0, 0, 1])
    assert measured["ece"] == pytest.approx((0.8 + 0.4) / 3)
    assert measured["nll"] == pytest.approx(-np.log([0.9, 0.1, 0.6]).mean())
    assert measured == pytest.approx(calibration(3 * logits, [0, 0, 1], temperature=3.0))
    assert measured["nll"] == pytest.approx(log_loss([0, 0, 1], np.exp(logits)))
    assert calibration([[5.0, 0.0]], [0])["ece"] == pytest.approx(1 - 1 / (1 + math.exp(-5.0)))
    assert calibration([[800.0, 0.0]], [0]) == {"nll": 0.0, "ece": 0.0}, "a probability of 1 has a bin too"


def test_the_temperature_makes_probabilities_true() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2.0, size=(20_000, 4))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)  # drawn by the softmax of the logits
    for factor in 0.2, 1.0, 7.0:
        temperature = best_temperature(factor * logits, labels)
        assert temperature == pytest.approx(factor, rel=0.03)
        assert calibration(factor * logits, labels, temperature)["ece"] < 0.01


def test_logits_that_are_not_finite_have_no_calibration() -> None:
    assert all(math.isnan(value) for value in calibration([[math.inf, 0.0]], [0]).values())
    assert math.isnan(best_temperature([[math.nan, 0.0]], [0]))


def test_the_positive_class_is_the_known_one() -> None:
    known, unknown = [[9.0, 0.0]] * 3, [[1.0, 0.0]]
    assert set(rejection(known, unknown).values()) == {1.0, 0.0}
    assert rejection(known, unknown)["fpr95/max_logit"] == 0
    swapped = rejection(unknown, known)
    assert (swapped["auroc/max_logit"], swapped["fpr95/max_logit"]) == (0, 1)
    assert swapped["aupr/max_logit"] == 0.25  # the one known image comes last of four


def test_the_two_scores_differ() -> None:
    # The logits are larger for the unknown, their differences for the known.
    measured = rejection([[3, 0], [4, 0]], [[9, 9], [8, 8]])
    assert (measured["auroc/max_logit"], measured["auroc/max_softmax"]) == (0, 1)


def test_ties_count_one_half_and_fpr_is_at_95_percent() -> None:
    assert rejection([[1, 0]], [[1, 0]])["auroc/max_logit"] == 0.5
    # Of 20 known images one may be lost: the one below the unknown.
    known = [[float(i), -9.0] for i in range(1, 21)]
    assert rejection(known, [[1.5, -9.0]])["fpr95/max_logit"] == 0
    assert rejection(known, [[2.5, -9.0]])["fpr95/max_logit"] == 1


def test_softmax_is_not_rounded_to_float32() -> None:
    # 1 - 1e-9 and 1 - 1e-10 are the same number in float32.
    known, unknown = np.array([[23.0, 0.0]], np.float32), np.array([[20.7, 0.0]], np.float32)
    assert rejection(known, unknown)["auroc/max_softmax"] == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_of_a_diverged_training_have_no_ranking(bad: float) -> None:
    assert all(math.isnan(v) for v in rejection([[bad, 0]], [[1, 0]]).values())


def test_balanced_by_hand() -> None:
    # Recalls: 0: 2/3, 1: 1, 2: 0, 3: 1/2, 4: 1.
    labels, predictions = [0, 0, 0, 1, 2, 3, 3, 4], [0, 0, 1, 1, 0, 3, 4, 4]
    measured = balanced(labels, predictions, [10, 50, 30, 20, 5])
    # By training images: 1, 2 | 3, 0 | 4.
    assert measured == pytest.approx(
        {
            "balanced_accuracy": (2 / 3 + 1 + 0 + 1 / 2 + 1) / 5,
            "many": (1 + 0) / 2,
            "medium": (1 / 2 + 2 / 3) / 2,
            "few": 1,
        }
    )
    assert measured["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predictions))


def test_a_class_without_test_images_is_left_out() -> None:
    np.testing.assert_array_equal(recalls([0, 0], [0, 2], 3), [0.5, math.nan, math.nan])
    measured = balanced([0, 0], [0, 2], [3, 2, 1])
    assert (measured["balanced_accuracy"], measured["many"]) == (0.5, 0.5)
    assert math.isnan(measured["medium"])
    assert math.isnan(measured["few"])


def test_ten_classes_are_four_three_and_three() -> None:
    labels = np.arange(10)
    predictions = np.where(labels < 4, labels, 0)  # right for the four largest
    measured = balanced(labels, predictions, np.arange(10, 0, -1))
    assert (measured["many"], measured["medium"], measured["few"]) == (1, 0, 0)


def test_continual_by_hand() -> None:
    # Best before the last training: experience 0 0.9, experience 1 0.8 (its 0.95 was before it was trained on).
    measured = continual([[0.9, 0.95, 0.0], [0.7, 0.8, 0.1], [0.4, 0.9, 1.0]])
    assert measured["average_accuracy"] == pytest.approx((0.4 + 0.9 + 1.0) / 3)
    assert measured["forgetting"] == pytest.approx(((0.9 - 0.4) + (0.8 - 0.9)) / 2)


def test_one_experience_forgets_nothing_that_could_be_measured() -> None:
    measured = continual([[0.5]])
    assert measured["average_accuracy"] == 0.5
    assert math.isnan(measured["forgetting"])


@pytest.mark.parametrize("matrix", [[[1.0, 0.5]], [1.0], np.zeros((0, 0))])
def test_a_matrix_that_is_not_square(matrix: object) -> None:
    with pytest.raises(ValueError, match="matrix must be square"):
        continual(matrix)  # type: ignore[arg-type]


def test_segmentation_by_hand() -> None:
    # Class 0: 6 right of 6 + 2 + 1; class 1: 2 of 2 + 2; class 2: predicted once, never there; class 3: nowhere.
    measured = segmentation([[6, 0, 1, 0], [2, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert measured["iou/0"] == pytest.approx(6 / 9)
    assert measured["iou/1"] == pytest.approx(2 / 4)
    assert measured["iou/2"] == 0
    assert math.isnan(measured["iou/3"])
    assert measured["miou"] == pytest.approx((6 / 9 + 2 / 4 + 0) / 3)
    assert measured["pixel_accuracy"] == pytest.approx(8 / 11)


def test_no_pixels_no_segmentation() -> None:
    assert all(math.isnan(v) for v in segmentation(np.zeros((2, 2), int)).values())
