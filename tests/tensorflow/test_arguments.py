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
