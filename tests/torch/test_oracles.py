"""PyTorch's own losses as oracles: where ours is defined as theirs is, values and gradients are equal."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F

import hemspec.torch as ht


def value_and_gradient(loss: Any, logits: Any) -> tuple[Any, Any]:
    logits = logits.clone().requires_grad_()
    value = loss(logits)
    value.sum().backward()
    return value.detach(), logits.grad


@pytest.fixture
def batch() -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 7, 3, generator=generator, dtype=torch.float64) * 3
    return logits, torch.randint(0, 7, (64, 3), generator=generator)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_cross_entropy(batch: tuple[Any, Any], reduction: str) -> None:
    logits, target = batch
    target[::5] = -100
    ours = value_and_gradient(lambda z: ht.cross_entropy_loss(z, target, reduction=reduction), logits)
    theirs = value_and_gradient(lambda z: F.cross_entropy(z, target, reduction=reduction), logits)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("margin", [0.0, 1.0, 2.5])
def test_multi_margin(batch: tuple[Any, Any], reduction: str, margin: float) -> None:
    logits, target = batch[0][..., 0], batch[1][..., 0]
    ours = value_and_gradient(lambda z: ht.multi_margin_loss(z, target, margin=margin, reduction=reduction), logits)
    theirs = value_and_gradient(lambda z: F.multi_margin_loss(z, target, margin=margin, reduction=reduction), logits)
    torch.testing.assert_close(ours, theirs)


def test_hem_of_two_classes_is_twice_their_multi_margin(batch: tuple[Any, Any]) -> None:
    logits, target = batch[0][:, :2, 0], batch[1][:, 0] % 2
    ours = value_and_gradient(lambda z: ht.hem_loss(z, target, reduction="mean"), logits)
    theirs = value_and_gradient(lambda z: 2 * F.multi_margin_loss(z, target), logits)
    torch.testing.assert_close(ours, theirs)


def test_logit_adjusted_is_cross_entropy_of_shifted_logits(batch: tuple[Any, Any]) -> None:
    logits, target = batch
    counts = torch.tensor([500.0, 200, 100, 50, 20, 10, 5], dtype=torch.float64)
    shift = (counts / counts.sum()).log()[None, :, None]
    ours = value_and_gradient(lambda z: ht.logit_adjusted_loss(z, target, class_counts=counts), logits)
    theirs = value_and_gradient(lambda z: F.cross_entropy(z + shift, target), logits)
    torch.testing.assert_close(ours, theirs)


def test_gradients_are_those_of_finite_differences(batch: tuple[Any, Any]) -> None:
    logits, target = batch[0][:4], batch[1][:4]
    for loss, options in [
        (ht.hem_loss, {"margin": 1.03}),
        (ht.multi_margin_loss, {"margin": 1.03}),
        (ht.cross_entropy_loss, {}),
        (ht.focal_loss, {"gamma": 0.7}),
        (ht.logit_norm_loss, {"temperature": 0.5}),
        (ht.dice_loss, {"smooth": 0.1}),
    ]:
        z = logits.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda z, f=loss, o=options: f(z, target, **o), (z,))
