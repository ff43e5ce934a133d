"""The reference against what was worked out by hand, against finite differences, and against other people's code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import hemspec

INF = np.inf
# logits, margin, HEM, MM; the true class is 0: the specification's table.
BY_HAND = [
    ([0, 0, 0], 1.0, 1.0, 2 / 3),
    ([2, 1, 0], 1.0, 0.0, 0.0),
    ([1, 1.5, 0, -3], 1.0, 1.5, 0.375),
    ([0, 2, 1, 0.2], 1.0, 2.5, 1.55),
    ([0, 2, 1, 0.2, -INF, -INF], 1.0, 31 / 15, 31 / 30),
    ([0, 1, 1, 1, -9], 0.0, 1.0, 0.6),
    ([0, 3, 5, 6, 5, 1, 1], 0.0, 4.75, 3.0),
]


@pytest.mark.parametrize(("z", "margin", "hem", "mm"), BY_HAND)
def test_worked_by_hand(z: list[float], margin: float, hem: float, mm: float) -> None:
    logits, labels = np.array([z], float), np.array([0])
    assert hemspec.hem_loss(logits, labels, margin=margin) == hem
    assert hemspec.multi_margin_loss(logits, labels, margin=margin) == mm


def test_the_kept_sets_worked_by_hand() -> None:
    for z, margin, kept in [
        ([0, 0, 0], 1.0, {1, 2}),
        ([2, 1, 0], 1.0, set()),
        ([1, 1.5, 0, -3], 1.0, {1}),
        ([0, 2, 1, 0.2], 1.0, {1, 2}),
        ([0, 2, 1, 0.2, -INF, -INF], 1.0, {1, 2, 3}),
        ([0, 1, 1, 1, -9], 0.0, {1, 2, 3}),
        ([0, 3, 5, 6, 5, 1, 1], 0.0, {1, 2, 3, 4}),
    ]:
        slope = hemspec.hem_loss.gradient(np.array([z], float), np.array([0]), margin=margin)[0]
        assert set(np.flatnonzero(slope > 0)) == kept
        assert slope[0] == (-1.0 if kept else 0.0)
        assert all(slope[j] == 1 / len(kept) for j in kept)


@pytest.mark.parametrize(
    ("reduction", "plain", "weighted"), [("active_mean", 5 / 3, 1.5), ("mean", 1.25, 1.125), ("sum", 5.0, 4.5)]
)
def test_a_batch_worked_by_hand(reduction: str, plain: float, weighted: float) -> None:
    z = np.array([[0, 0, 0, -INF], [2, 1, 0, -INF], [1, 1.5, 0, -3], [0, 2, 1, 0.2]])
    y = np.zeros(4, int)
    assert hemspec.hem_loss(z, y, reduction="none").tolist() == [1.0, 0.0, 1.5, 2.5]
    assert hemspec.hem_loss(z, y, reduction=reduction) == pytest.approx(plain, abs=1e-15)
    w = [2, 1, 0, 1]
    assert hemspec.hem_loss(z, y, reduction=reduction, sample_weight=w) == pytest.approx(weighted, abs=1e-15)
    if reduction != "sum":
        numerator, denominator = hemspec.hem_loss.terms(z, y, reduction=reduction, sample_weight=w)
        assert numerator == 4.5
        assert numerator / denominator == pytest.approx(weighted, abs=1e-15)


LOSSES: list[tuple[Any, dict[str, Any]]] = [
    (hemspec.hem_loss, {"margin": 1.03}),
    (hemspec.hem_loss, {"margin": [0.5, 2.03, 1.1, 0.3, 4.0]}),
    (hemspec.multi_margin_loss, {"margin": 1.03}),
    (hemspec.cross_entropy_loss, {}),
    (hemspec.focal_loss, {"gamma": 0.0}),
    (hemspec.focal_loss, {"gamma": 0.5, "alpha": [1, 2, 3, 0.5, 1]}),
    (hemspec.focal_loss, {"gamma": 2.0}),
    (hemspec.logit_norm_loss, {"temperature": 0.3}),
    (hemspec.logit_adjusted_loss, {"class_counts": [1, 20, 3, 4, 5], "temperature": 1.5}),
    (hemspec.dice_loss, {}),
    (hemspec.dice_loss, {"batch": True, "smooth": 1.0}),
]


@pytest.mark.parametrize(("loss", "constants"), LOSSES)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "active_mean"])
def test_gradients_are_finite_differences(loss: Any, constants: dict[str, Any], reduction: str) -> None:
    if reduction == "active_mean" and loss not in (hemspec.hem_loss, hemspec.multi_margin_loss):
        pytest.skip("every position of this loss is active")
    rng = np.random.default_rng(3)
    z, y, w = rng.normal(size=(2, 5, 3)) * 2, rng.integers(0, 5, (2, 3)), rng.random((2, 3))
    y[0, 1], w[1, 1] = -100, 0.0
    options = {"axis": 1, "sample_weight": w, "reduction": reduction, **constants}
    step = 1e-6
    numeric = np.zeros_like(z)
    for index in np.ndindex(z.shape):
        nudge = np.zeros_like(z)
        nudge[index] = step
        numeric[index] = np.sum(loss(z + nudge, y, **options) - loss(z - nudge, y, **options)) / (2 * step)
    np.testing.assert_allclose(loss.gradient(z, y, **options), numeric, rtol=0, atol=3e-8)


def test_gradients_at_kinks_follow_the_convention() -> None:
    z, y = np.array([[1.0, 0.0, 2.0, 0.5]]), np.array([0])  # the error of class 1 is exactly 0
    assert hemspec.multi_margin_loss.gradient(z, y).tolist() == [[-0.5, 0.0, 0.25, 0.25]]
    # HEM: errors (0, 0, 2, 0.5), mean 0.625, K = {2}; at the tie below both errors equal to the mean stay.
    assert hemspec.hem_loss.gradient(z, y).tolist() == [[-1.0, 0.0, 1.0, 0.0]]
    tie = np.array([[0.0, 3, 5, 6, 5, 1, 1]])
    assert hemspec.hem_loss.gradient(tie, y, margin=0.0).tolist() == [[-1.0, 0.25, 0.25, 0.25, 0.25, 0.0, 0.0]]
    satisfied = np.array([[2.0, 1.0, 0.0]])  # everything exactly at the margin
    assert not hemspec.hem_loss.gradient(satisfied, y).any()


def test_gradient_at_zero_logits_of_logit_norm_and_at_certainty_of_focal() -> None:
    z, y = np.zeros((1, 4)), np.array([1])
    expected = (np.full(4, 0.25) - np.eye(4)[1]) / (1e-7 * 0.04)
    np.testing.assert_allclose(hemspec.logit_norm_loss.gradient(z, y)[0], expected, rtol=1e-14)
    for gamma in (0.0, 0.3, 1.0, 2.0):
        assert not hemspec.focal_loss.gradient(np.array([[0.0, -INF]]), np.array([0]), gamma=gamma).any()
        slope = hemspec.focal_loss.gradient(np.array([[800.0, 0.0]]), np.array([0]), gamma=gamma)
        assert np.isfinite(slope).all()


def test_against_scipy() -> None:
    special = pytest.importorskip("scipy.special")
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(50, 7)) * 3, rng.integers(0, 7, 50)
    log_p = special.log_softmax(z, axis=1)[np.arange(50), y]
    np.testing.assert_allclose(hemspec.cross_entropy_loss(z, y, reduction="none"), -log_p, rtol=1e-13)
    focal = -((1 - np.exp(log_p)) ** 1.7) * log_p
    np.testing.assert_allclose(hemspec.focal_loss(z, y, gamma=1.7, reduction="none"), focal, rtol=1e-12)
    counts = np.array([900, 400, 100, 50, 20, 10, 5.0])
    adjusted = special.log_softmax(z + np.log(counts / counts.sum()), axis=1)[np.arange(50), y]
    ours = hemspec.logit_adjusted_loss(z, y, class_counts=counts, reduction="none")
    np.testing.assert_allclose(ours, -adjusted, rtol=1e-13)
    unit = z / (np.linalg.norm(z, axis=1, keepdims=True) + 1e-7) / 0.04
    normed = special.log_softmax(unit, axis=1)[np.arange(50), y]
    np.testing.assert_allclose(hemspec.logit_norm_loss(z, y, reduction="none"), -normed, rtol=1e-12, atol=1e-13)


def test_hem_and_mm_are_related_as_the_specification_says() -> None:
    rng = np.random.default_rng(1)
    for classes in (2, 3, 10, 101):
        z, y = rng.normal(size=(200, classes)), rng.integers(0, classes, 200)
        hem = hemspec.hem_loss(z, y, reduction="none")
        mm = hemspec.multi_margin_loss(z, y, reduction="none") * classes / (classes - 1)
        assert (hem >= mm - 1e-12).all()
        if classes == 2:
            np.testing.assert_allclose(hem, mm, rtol=1e-14)


def test_dtypes_of_the_answer() -> None:
    y = np.array([1, 0])
    for dtype, expected in ((np.float16, np.float32), (np.float32, np.float32), (np.float64, np.float64)):
        z = np.array([[0.5, 1.0], [2.0, 0.25]], dtype)
        assert hemspec.hem_loss(z, y).dtype == expected
        assert hemspec.hem_loss.gradient(z, y).dtype == dtype
        assert hemspec.hem_loss(z, y, reduction="none").dtype == expected


def test_terms_belong_to_averages() -> None:
    with pytest.raises(ValueError, match=r"reduction must be 'mean' or 'active_mean'; got 'sum'"):
        hemspec.hem_loss.terms([[0.0, 1.0]], [0], reduction="sum")


def test_margins() -> None:
    assert hemspec.margin_from_num_samples(2000) == 1.0
    assert hemspec.margin_from_num_samples(2**40) == pytest.approx((2000 / 2**40) ** 0.5)
    counts = np.full(10, 5000, np.int32)
    np.testing.assert_allclose(hemspec.margins_from_class_counts(counts), hemspec.margin_from_num_samples(50_000))
    # 10 * 300,000,000 does not fit into int32.
    big = hemspec.margins_from_class_counts(np.full(10, 300_000_000, np.int32))
    np.testing.assert_allclose(big, (2000 / 3e9) ** 0.5)
    balanced = hemspec.hem_loss([[0.0, 1.0, 2.0]], [1], margin=hemspec.margins_from_class_counts([700, 700, 700]))
    assert balanced == hemspec.hem_loss([[0.0, 1.0, 2.0]], [1], margin=hemspec.margin_from_num_samples(2100))
    for bad in (0, -5, np.nan, np.inf):
        with pytest.raises(ValueError, match="num_samples must be finite and > 0"):
            hemspec.margin_from_num_samples(bad)
        with pytest.raises(ValueError, match=r"class_counts must be finite and > 0; got .* at index 1"):
            hemspec.margins_from_class_counts([3, bad])
    with pytest.raises(TypeError, match="num_samples must be a number; got 'many'"):
        hemspec.margin_from_num_samples("many")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"class_counts must have shape \(C,\) with C >= 2; got shape \(1,\)"):
        hemspec.margins_from_class_counts([3])
    with pytest.raises(ValueError, match="class_counts"):  # a table is not one count for each class
        hemspec.margins_from_class_counts(np.ones((2, 2)))
