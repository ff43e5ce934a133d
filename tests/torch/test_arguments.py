"""What callers hand in beside logits: the right number for the right class, or an error that says what to do."""

from __future__ import annotations

import inspect
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


@pytest.mark.finding(19)
@pytest.mark.finding(20)
@pytest.mark.parametrize(
    ("logits", "target", "advice"),
    [
        ((3, 3), Y.float(), "cast target to an integer dtype, target.long()"),
        ((3, 3), Y > 0, "cast target to an integer dtype, target.long()"),
        ((3, 3), Y[:, None].float(), "squeeze axis 1 of target, and cast target to an integer dtype"),
        ((3, 3), torch.eye(3), "soft target? labels that were mixed go as two calls"),
        ((2, 3, 4, 5), torch.zeros(2, 1, 4, 5, dtype=torch.uint8), "squeeze axis 1 of target"),
        ((2, 4, 5, 3), torch.zeros(2, 4, 5, dtype=torch.int64), "input.movedim(-1, 1)"),
        ((2, 5, 3), torch.zeros(2, 5, dtype=torch.int64), "input.movedim(-1, 1)"),
        ((3,), torch.zeros(3, 4), "are logits and labels swapped?"),
        ((3, 3), torch.tensor([1, 2, 3]), "labels count from 0"),
        ((3, 3), torch.tensor([1, 2, 255]), "say ignore_index=255"),
    ],
    ids=str,
)
def test_a_target_that_does_not_fit(logits: tuple[int, ...], target: Any, advice: str) -> None:
    for loss in (ht.hem_loss, ht.cross_entropy_loss, ht.dice_loss, ht.HEMLoss(), ht.hem_loss.terms):
        with pytest.raises((TypeError, ValueError)) as refused:
            loss(torch.zeros(logits), target)
        assert advice in str(refused.value)


@pytest.mark.finding(20)
def test_a_compiler_gives_the_same_advice() -> None:
    compiled = torch.compile(lambda z, y: ht.hem_loss(z, y), backend="eager", dynamic=True, fullgraph=True)
    with pytest.raises(Exception, match=r"input\.movedim\(-1, 1\)"):
        compiled(torch.zeros(2, 5, 3), torch.zeros(2, 5, dtype=torch.int64))


@pytest.mark.finding(23)
def test_keywords_of_cross_entropy() -> None:
    """A configuration of nn.CrossEntropyLoss with the class's name replaced."""
    neutral = {"weight": None, "size_average": None, "reduce": None, "label_smoothing": 0.0}
    for module in (ht.HEMLoss, ht.LinearHEMLoss, ht.MultiMarginLoss, ht.CrossEntropyLoss, ht.FocalLoss, ht.DiceLoss):
        assert repr(module(**neutral, ignore_index=255)) == repr(module(ignore_index=255))
        for name, value, advice in (
            ("weight", torch.ones(3), r"class_weights\[labels.clip\(0, C - 1\)\]"),
            ("label_smoothing", 0.1, "leave label smoothing at 0"),
            ("size_average", False, "reduction='sum'"),
            ("reduce", False, "reduction='none'"),
        ):
            with pytest.raises(TypeError, match=f"{module.__name__} has no {name}: .*{advice}"):
                module(**{name: value})
    assert ht.MultiMarginLoss(p=1, weight=None).margin == 1.0
    with pytest.raises(TypeError, match="unexpected keyword argument 'marign'"):
        ht.HEMLoss(marign=1.0)
    assert list(inspect.signature(ht.DiceLoss).parameters)[:2] == ["smooth", "batch"]


class Own(ht.HEMLoss):
    """A class of a user's, with a keyword of that name."""

    def __init__(self, weight: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.weight = weight


@pytest.mark.finding(23)
def test_a_derived_class_keeps_its_keywords() -> None:
    assert Own(weight=3, margin=2.0).weight == 3
    assert Own(label_smoothing=0.0).margin == 1.0


@pytest.mark.finding(8)
@pytest.mark.parametrize("ignored", [-100, 255])
def test_class_weights_by_sample(ignored: int) -> None:
    """As the migration page has it: a label that is ignored has no weight to look up."""
    class_weights = torch.tensor([1.0, 2.0, 4.0])
    target = torch.tensor([0, ignored, 1])
    loss = ht.CrossEntropyLoss(ignore_index=ignored)(Z, target, class_weights[target.clip(0, 2)])
    expected = torch.nn.functional.cross_entropy(Z, target, weight=class_weights, ignore_index=ignored)
    torch.testing.assert_close(loss, expected)
