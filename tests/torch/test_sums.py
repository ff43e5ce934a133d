"""Sums over positions and classes keep their digits at any length, in any layout, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import hemspec
import hemspec.torch as ht
from hemspec_conformance.tolerances import tolerance

pytestmark = pytest.mark.finding(2)

LOSSES: dict[str, dict[str, Any]] = {
    "hem_loss": {},
    "multi_margin_loss": {},
    "cross_entropy_loss": {},
    "focal_loss": {},
    "logit_norm_loss": {"temperature": 0.5},
    "logit_adjusted_loss": {"class_counts": [2, 1]},
    "dice_loss": {},
}
POSITIONS = 1 << 19
ROW = np.array([0.3, 0.55], np.float32)
LAYOUTS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "rows": lambda: (torch.tensor(ROW).expand(POSITIONS, 2).contiguous(), (POSITIONS,)),
    "image": lambda: (torch.tensor(ROW)[None, :, None].expand(1, 2, POSITIONS).contiguous(), (1, POSITIONS)),
    "image, classes last": lambda: (
        torch.tensor(ROW).expand(1, POSITIONS, 2).contiguous().movedim(-1, 1),
        (1, POSITIONS),
    ),
    "images": lambda: (
        torch.tensor(ROW)[None, :, None].expand(64, 2, POSITIONS // 64).contiguous(),
        (64, POSITIONS // 64),
    ),
}


def check(found: Any, expected: Any, name: str, classes: int = 2) -> None:
    found, expected = found.detach().numpy(), np.asarray(expected)
    error = np.abs(found - expected)
    assert (error <= tolerance(name, classes, "float32", "float32", expected)).all(), (name, error.max(), expected)


def loss_and_slopes(loss: Callable[..., Any], z: Any, *given: Any, **options: Any) -> tuple[Any, Any]:
    leaf = z.detach().requires_grad_()
    value = loss(leaf, *given, **options)
    return value, torch.autograd.grad(value.sum(), leaf)[0]


def all_alike(loss: Callable[..., Any], name: str, layout: str, reductions: list[str]) -> None:
    """Equal numbers round in the same direction again and again; weights of 0.1 are no exact ones."""
    z, shape = LAYOUTS[layout]()
    y, weight = torch.zeros(shape, dtype=torch.int64), torch.full(shape, 0.1)
    one = getattr(hemspec, name)(
        ROW[None].astype(np.float64), np.zeros(1, int), reduction="none", **LOSSES[name]
    ).item()
    for reduction in reductions:
        value = loss(z, y, sample_weight=weight, reduction=reduction, **LOSSES[name])
        expected = one if reduction == "mean" else one * POSITIONS * np.float64(np.float32(0.1))
        check(value, expected, name)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", LOSSES)
def test_positions_that_are_all_alike(name: str, layout: str) -> None:
    # An average of images that are all alike says nothing of their sum.
    all_alike(getattr(ht, name), name, layout, ["mean"] if name == "dice_loss" else ["mean", "sum"])


@pytest.mark.parametrize("name", LOSSES)
def test_one_position_beside_very_many(name: str) -> None:
    """One of weight 3, and many that together weigh a tenth of it: none is lost. The answer is that of two."""
    if name == "dice_loss":
        pytest.skip("its average is over images")
    z = torch.tensor(ROW).repeat(POSITIONS + 1, 1)
    z[0] = torch.tensor([2.0, -1.0])
    y, weight = torch.zeros(POSITIONS + 1, dtype=torch.int64), torch.full((POSITIONS + 1,), 3e-7)
    y[0], weight[0] = 1, 3.0
    two = z[:2].double().numpy(), y[:2].numpy()
    weights = np.array([3.0, POSITIONS * weight[1].double().item()])
    for reduction in ("mean", "sum"):
        found = getattr(ht, name)(z, y, sample_weight=weight, reduction=reduction, **LOSSES[name])
        check(found, getattr(hemspec, name)(*two, sample_weight=weights, reduction=reduction, **LOSSES[name]), name)


def many_classes(loss: Callable[..., Any], name: str) -> None:
    """A large logit beside others that weigh as much together, value and gradient."""
    classes = 1 << 17
    z = torch.full((2, classes), -float(np.log(classes)))
    z[:, 5] = 0.0
    y = torch.tensor([5, 7])
    options = {"class_counts": np.arange(1, classes + 1)} if name == "logit_adjusted_loss" else LOSSES[name]
    found = loss_and_slopes(loss, z, y, reduction="none", **options)
    given, plain = (z.double().numpy(), y.numpy()), getattr(hemspec, name)
    for got, function in zip(found, (plain, plain.gradient), strict=True):
        check(got, function(*given, reduction="none", **options), name, classes)


@pytest.mark.parametrize("name", LOSSES)
def test_many_classes(name: str) -> None:
    many_classes(getattr(ht, name), name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Inductor's own
@pytest.mark.parametrize("name", ["hem_loss", "cross_entropy_loss", "dice_loss"])
def test_compiled(name: str) -> None:
    """Inductor adds up in loops of its own, some of them one by one: here the weights."""
    torch._dynamo.reset()
    all_alike(torch.compile(getattr(ht, name), fullgraph=True), name, "image, classes last", ["mean"])
