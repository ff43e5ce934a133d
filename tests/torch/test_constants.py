"""Weights and hyper-parameters are constants: who asks for their gradient is told, instead of getting none."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

import hemspec.torch as ht

pytestmark = pytest.mark.finding(6)

C, N = 3, 4
VECTOR, NUMBER = torch.tensor([1.0, 2.0, 3.0]), torch.tensor(0.5)
LOSSES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "hem": (ht.hem_loss, ht.HEMLoss, {"margin": VECTOR}),
    "hem of a number": (ht.hem_loss, ht.HEMLoss, {"margin": NUMBER}),
    "linear hem": (ht.linear_hem_loss, ht.LinearHEMLoss, {"margin": VECTOR}),
    "multi margin": (ht.multi_margin_loss, ht.MultiMarginLoss, {"margin": VECTOR}),
    "cross entropy": (ht.cross_entropy_loss, ht.CrossEntropyLoss, {}),
    "focal": (ht.focal_loss, ht.FocalLoss, {"gamma": NUMBER, "alpha": VECTOR}),
    "logit norm": (ht.logit_norm_loss, ht.LogitNormLoss, {"temperature": NUMBER}),
    "logit adjusted": (ht.logit_adjusted_loss, ht.LogitAdjustedLoss, {"class_counts": VECTOR, "temperature": NUMBER}),
    "dice": (ht.dice_loss, ht.DiceLoss, {"smooth": NUMBER}),
}
ARGUMENTS = [(name, argument) for name in LOSSES for argument in ("sample_weight", *LOSSES[name][2])]
each = pytest.mark.parametrize(("name", "argument"), ARGUMENTS)


def arguments(name: str) -> tuple[list[Any], dict[str, Any]]:
    logits, target = torch.randn(N, C, requires_grad=True), torch.tensor([0, 1, 2, -100])
    given = [logits, torch.eye(C), target] if name == "linear hem" else [logits, target]
    return given, {"sample_weight": torch.ones(N), **LOSSES[name][2]}


@each
def test_a_gradient_that_is_wanted_is_refused(name: str, argument: str) -> None:
    function, module, _ = LOSSES[name]
    given, options = arguments(name)
    learned = options[argument].clone().requires_grad_()
    message = f"{argument} must not require a gradient.*Call its detach"
    options[argument] = learned
    for call in (function, function.terms):
        for grad_of_logits in (True, False):
            inputs = [given[0].detach().requires_grad_(grad_of_logits), *given[1:]]
            with pytest.raises(ValueError, match=message):
                call(*inputs, reduction="mean", **options)
    if argument != "sample_weight":
        with pytest.raises(ValueError, match=message), torch.no_grad():
            module(**LOSSES[name][2] | {argument: torch.nn.Parameter(learned.detach())})
        criterion = module(**LOSSES[name][2])
        criterion.register_parameter(f"{argument}_", torch.nn.Parameter(learned.detach()))
        setattr(criterion, argument, criterion.get_parameter(f"{argument}_") * 1)
        with pytest.raises(ValueError, match=message):
            criterion(*given)
    else:
        with pytest.raises(ValueError, match="multiply the loss of reduction='none' with it"):
            module(**LOSSES[name][2])(*given, sample_weight=learned)
    # Nobody asks for a gradient here, nor of what is detached.
    with torch.no_grad():
        expected = function(*given, **{**options, argument: learned.detach()})
        assert torch.equal(function(*given, **options), expected)
    function(*given, **{**options, argument: learned.detach()}).backward()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # forward mode's own use
@each
def test_transformations_are_told_too(name: str, argument: str) -> None:
    function, _, _ = LOSSES[name]
    given, options = arguments(name)
    given = [t.detach() for t in given]

    def loss(value: Any) -> Any:
        return function(*given, **{**options, argument: value})

    for transformation in (torch.func.grad, torch.func.jacfwd):
        with pytest.raises(ValueError, match=f"{argument} must not require a gradient"):
            transformation(loss)(options[argument])


def test_compiled() -> None:
    (logits, target), options = arguments("hem")
    compiled = torch.compile(lambda w: ht.hem_loss(logits, target, sample_weight=w), backend="eager")
    with pytest.raises(ValueError, match="sample_weight must not require a gradient"):
        compiled(options["sample_weight"].requires_grad_())


def test_diagnostics_have_no_gradient_to_lose() -> None:
    (logits, target), options = arguments("hem")
    given = {name: value.clone().requires_grad_() for name, value in options.items()}
    figures = ht.hem_diagnostics(logits, target, **given)
    torch.testing.assert_close(figures, ht.hem_diagnostics(logits, target, **options), rtol=0, atol=0)


def test_the_way_that_is_advised() -> None:
    (logits, target), options = arguments("hem")
    weight = options["sample_weight"].requires_grad_()
    (ht.hem_loss(logits, target, reduction="none") * weight).sum().backward()
    assert torch.equal(weight.grad, ht.hem_loss(logits.detach(), target, reduction="none"))
