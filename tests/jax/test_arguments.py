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
