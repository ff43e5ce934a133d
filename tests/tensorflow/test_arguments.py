"""What callers hand in beside logits: the right number for the right class, or an error that says what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
import tensorflow as tf

import hemspec.tensorflow as htf

Z = np.array([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0], [1.0, 1.5, 0.0]], np.float32)
Y = np.array([0, 2, 1])
PER_CLASS: list[tuple[Any, str]] = [
    (htf.hem_loss, "margin"),
    (htf.multi_margin_loss, "margin"),
    (htf.focal_loss, "alpha"),
    (htf.logit_adjusted_loss, "class_counts"),
    (htf.hem_diagnostics, "margin"),
]
SHUFFLED = {2: 3, 0: 1, 1: 2}


@pytest.mark.finding(3)
@pytest.mark.parametrize("kind", ["dict", "Series"])
def test_what_has_an_index_is_put_in_the_order_of_the_classes(kind: str) -> None:
    given: Any = SHUFFLED
    if kind == "Series":
        given = pytest.importorskip("pandas").Series(SHUFFLED)
    for function, name in PER_CLASS:
        tf.nest.assert_same_structure(function(Z, Y, **{name: given}), expected := function(Z, Y, **{name: [1, 2, 3]}))
        found = tf.nest.flatten(function(Z, Y, **{name: given}))
        np.testing.assert_array_equal(found, tf.nest.flatten(expected), name)
        with pytest.raises(ValueError, match=f"{name} must be given for exactly the classes.*subtract 1"):
            function(Z, Y, **{name: {1: 1, 2: 2, 3: 3}})


@pytest.mark.finding(3)
@pytest.mark.parametrize("counts", [[0.5, 0.25, 0.25], [3.0, 2.5, 1.0]])
def test_shares_are_not_counts(counts: list[float]) -> None:
    for given in (counts, tf.constant(counts)):
        with pytest.raises(ValueError, match=r"class_counts must be whole numbers >= 1.*shares are not counts"):
            htf.logit_adjusted_loss(Z, Y, class_counts=given)

    @tf.function  # no value can be read
    def traced(given: Any) -> Any:
        return htf.logit_adjusted_loss(Z, Y, class_counts=given)

    assert np.isnan(traced(tf.constant(counts)))
    assert np.isfinite(traced(tf.constant([3.0, 2.0, 1.0])))


@pytest.mark.finding(23)
def test_a_number_that_is_text() -> None:
    for function, name in ((htf.hem_loss, "margin"), (htf.focal_loss, "gamma"), (htf.dice_loss, "smooth")):
        with pytest.raises(TypeError, match=rf"{name} must be a real number.* write 0.2, or convert it with float\(\)"):
            function(Z, Y, **{name: "2e-1"})


@pytest.mark.finding(19)
@pytest.mark.finding(20)
@pytest.mark.finding(22)
@pytest.mark.parametrize(
    ("logits", "labels", "advice"),
    [
        ((3, 3), Y.astype(np.float32), "cast labels to an integer dtype"),
        ((3, 3), Y > 0, "cast labels to an integer dtype"),
        ((3, 3), Y[:, None], "squeeze axis 1 of labels"),
        ((3, 3), np.eye(3), "soft labels? labels that were mixed go as two calls"),
        ((2, 4, 5, 3), np.zeros((2, 1, 4, 5), np.int32), "squeeze axis 1 of labels"),
        ((2, 3, 4, 5), np.zeros((2, 4, 5), np.int32), "say axis=1"),
        ((3,), np.zeros((3, 4)), "are logits and labels swapped?"),
        ((3, 1), np.zeros((3, 4)), "are logits and labels swapped?"),
    ],
)
def test_labels_that_do_not_fit(logits: tuple[int, ...], labels: Any, advice: str) -> None:
    for loss in (htf.hem_loss, htf.focal_loss, htf.hem_loss.terms):
        with pytest.raises((TypeError, ValueError)) as refused:
            loss(tf.zeros(logits), tf.constant(labels))
        assert advice in str(refused.value)


@pytest.mark.finding(8)
@pytest.mark.parametrize("ignored", [-100, 255])
def test_class_weights_by_sample(ignored: int) -> None:
    """As the migration page has it: a label that is ignored has no weight to look up."""
    class_weights, labels = tf.constant([1.0, 2.0, 4.0]), tf.constant([0, ignored, 1])
    weights = tf.gather(class_weights, tf.clip_by_value(labels, 0, 2))
    loss = htf.cross_entropy_loss(Z, labels, sample_weight=weights, ignore_index=ignored, reduction="sum")
    expected = htf.cross_entropy_loss(Z[[0, 2, 2]], np.array([0, 1, 1]), reduction="sum")
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
