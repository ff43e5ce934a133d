"""What callers hand in beside logits: the right number for the right class, or an error that says what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")
import jax.numpy as jnp

import hemspec.jax as hj

Z = np.array([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0], [1.0, 1.5, 0.0]], np.float32)
Y = np.array([0, 2, 1])
PER_CLASS: list[tuple[Any, Any, str]] = [
    (hj.hem_loss, hj.HEMLoss, "margin"),
    (hj.multi_margin_loss, hj.MultiMarginLoss, "margin"),
    (hj.focal_loss, hj.FocalLoss, "alpha"),
    (hj.logit_adjusted_loss, hj.LogitAdjustedLoss, "class_counts"),
]
SHUFFLED = {2: 3, 0: 1, 1: 2}


@pytest.mark.finding(3)
@pytest.mark.parametrize("kind", ["dict", "Series"])
def test_what_has_an_index_is_put_in_the_order_of_the_classes(kind: str) -> None:
    given: Any = SHUFFLED
    if kind == "Series":
        given = pytest.importorskip("pandas").Series(SHUFFLED)
    for function, loss, name in PER_CLASS:
        expected = function(Z, Y, **{name: [1, 2, 3]})
        assert function(Z, Y, **{name: given}) == loss(**{name: given})(Z, Y) == expected, name
        with pytest.raises(ValueError, match=f"{name} must be given for exactly the classes.*subtract 1"):
            loss(**{name: {1: 1, 2: 2, 3: 3}})
    assert hj.hem_diagnostics(Z, Y, margin=given) == hj.hem_diagnostics(Z, Y, margin=[1, 2, 3])
    head = np.eye(3, dtype=np.float32)
    assert hj.linear_hem_loss(Z, head, Y, margin=given) == hj.hem_loss(Z, Y, margin=[1, 2, 3])
    assert hj.LinearHEMLoss(margin=given)(Z, head, Y) == hj.hem_loss(Z, Y, margin=[1, 2, 3])


@pytest.mark.finding(3)
@pytest.mark.parametrize("counts", [[0.5, 0.25, 0.25], [3.0, 2.5, 1.0]])
def test_shares_are_not_counts(counts: list[float]) -> None:
    def call(c: Any) -> Any:
        return hj.logit_adjusted_loss(Z, Y, class_counts=c)

    for given in (counts, jnp.array(counts)):
        for refuses in (call, lambda c: hj.LogitAdjustedLoss(class_counts=c)):
            with pytest.raises(ValueError, match=r"class_counts must be whole numbers >= 1.*shares are not counts"):
                refuses(given)
    mapped = jax.vmap(call)  # no value can be read
    assert np.isnan(mapped(jnp.array([counts, [3.0, 2.0, 1.0]]))).tolist() == [True, False]


@pytest.mark.finding(23)
def test_a_number_that_is_text() -> None:
    for loss, name in ((hj.HEMLoss, "margin"), (hj.FocalLoss, "gamma"), (hj.DiceLoss, "smooth")):
        with pytest.raises(TypeError, match=rf"{name} must be a real number.* write 0.2, or convert it with float\(\)"):
            loss(**{name: "2e-1"})
    with pytest.raises(TypeError, match=r"margin must be a real number.* write 0.2, or convert it with float\(\)"):
        hj.hem_loss(Z, Y, margin="2e-1")


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
    for loss in (hj.hem_loss, jax.jit(hj.hem_loss), hj.focal_loss, hj.HEMLoss(), hj.hem_loss.terms):
        with pytest.raises((TypeError, ValueError)) as refused:
            loss(jnp.zeros(logits), jnp.asarray(labels))
        assert advice in str(refused.value)


@pytest.mark.finding(8)
@pytest.mark.parametrize("ignored", [-100, 255])
def test_class_weights_by_sample(ignored: int) -> None:
    """As the migration page has it: a label that is ignored has no weight to look up."""
    class_weights, labels = jnp.array([1.0, 2.0, 4.0]), jnp.array([0, ignored, 1])
    loss = hj.cross_entropy_loss(
        Z, labels, sample_weight=class_weights[labels.clip(0, 2)], ignore_index=ignored, reduction="sum"
    )
    expected = hj.cross_entropy_loss(Z[[0, 2, 2]], np.array([0, 1, 1]), reduction="sum")
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
