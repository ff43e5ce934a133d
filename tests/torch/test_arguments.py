"""What callers hand in beside logits: the right number for the right class, or an error that says what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import hemspec.torch as ht

Z = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0], [1.0, 1.5, 0.0]])
Y = torch.tensor([0, 2, 1])
PER_CLASS: list[tuple[Any, Any, str]] = [
    (ht.hem_loss, ht.HEMLoss, "margin"),
    (ht.multi_margin_loss, ht.MultiMarginLoss, "margin"),
    (ht.focal_loss, ht.FocalLoss, "alpha"),
    (ht.logit_adjusted_loss, ht.LogitAdjustedLoss, "class_counts"),
]
SHUFFLED = {2: 3, 0: 1, 1: 2}
MODULE = ht.LogitAdjustedLoss


@pytest.mark.finding(3)
@pytest.mark.parametrize("kind", ["dict", "Series"])
def test_what_has_an_index_is_put_in_the_order_of_the_classes(kind: str) -> None:
    given: Any = SHUFFLED
    if kind == "Series":
        given = pytest.importorskip("pandas").Series(SHUFFLED)
    for function, module, name in PER_CLASS:
        expected = function(Z, Y, **{name: [1, 2, 3]})
        assert function(Z, Y, **{name: given}) == module(**{name: given})(Z, Y) == expected, name
        with pytest.raises(ValueError, match=f"{name} must be given for exactly the classes.*subtract 1"):
            module(**{name: {1: 1, 2: 2, 3: 3}})
    assert ht.hem_diagnostics(Z, Y, margin=given) == ht.hem_diagnostics(Z, Y, margin=[1, 2, 3])
    head = torch.eye(3)
    assert ht.linear_hem_loss(Z, head, Y, margin=given) == ht.hem_loss(Z, Y, margin=[1, 2, 3])
    assert ht.LinearHEMLoss(margin=given)(Z, head, Y) == ht.hem_loss(Z, Y, margin=[1, 2, 3])


@pytest.mark.finding(3)
def test_a_compiler_sees_a_dict_by_class_too() -> None:
    compiled = torch.compile(lambda z: ht.hem_loss(z, Y, margin=SHUFFLED), fullgraph=True, backend="eager")
    assert compiled(Z) == ht.hem_loss(Z, Y, margin=[1, 2, 3])


@pytest.mark.finding(3)
@pytest.mark.parametrize("counts", [[0.5, 0.25, 0.25], [3.0, 2.5, 1.0]])
def test_shares_are_not_counts(counts: list[float]) -> None:
    for given in (counts, torch.tensor(counts), np.array(counts)):
        for call in (
            lambda c: ht.logit_adjusted_loss(Z, Y, class_counts=c),
            lambda c: ht.LogitAdjustedLoss(class_counts=c),
        ):
            with pytest.raises(ValueError, match=r"class_counts must be whole numbers >= 1.*shares are not counts"):
                call(given)
    mapped = torch.func.vmap(lambda c: ht.logit_adjusted_loss(Z, Y, class_counts=c))  # no value can be read
    assert mapped(torch.tensor([counts, [3.0, 2.0, 1.0]])).isnan().tolist() == [True, False]


@pytest.mark.finding(23)
def test_a_number_that_is_text() -> None:
    for module, name in ((ht.HEMLoss, "margin"), (ht.FocalLoss, "gamma"), (ht.DiceLoss, "smooth")):
        with pytest.raises(TypeError, match=rf"{name} must be a real number.* write 0.2, or convert it with float\(\)"):
            module(**{name: "2e-1"})
    with pytest.raises(TypeError, match=r"margin must be a real number.* write 0.2, or convert it with float\(\)"):
        ht.hem_loss(Z, Y, margin="2e-1")
