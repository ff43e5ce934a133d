"""In a training loop: micro-batches that add up to the batch, with weights and a GradScaler, and half precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import hemspec.torch as ht

CLASSES = 5
CRITERIA = {
    "hem": (ht.HEMLoss, {}),
    "hem+": (ht.HEMLoss, {"margin": [1.0, 2.0, 0.5, 1.0, 0.0]}),
    "linear hem": (ht.LinearHEMLoss, {"chunk_rows": 4}),
    "multi margin": (ht.MultiMarginLoss, {}),
    "cross entropy": (ht.CrossEntropyLoss, {}),
    "focal": (ht.FocalLoss, {"alpha": [1.0, 2.0, 0.5, 1.0, 1.0]}),
    "logit norm": (ht.LogitNormLoss, {"temperature": 0.5}),
    "logit adjusted": (ht.LogitAdjustedLoss, {"class_counts": [5, 3, 2, 1, 1]}),
    "dice": (ht.DiceLoss, {"smooth": 0.5}),
}
CASES = [
    (name, reduction)
    for name, (criterion, _) in CRITERIA.items()
    for reduction in criterion.reductions
    if reduction != "none"
]
MICRO = (slice(0, 7), slice(7, 8), slice(8, 12), slice(12, 20))
"""Uneven micro-batches, of which the third has nothing valid and the last nothing active."""


class Network(torch.nn.Module):
    """Two layers; what a loss is given of them."""

    def __init__(self, dtype: Any, inputs: int = 6, classes: int = CLASSES, width: int = 8) -> None:
        super().__init__()
        self.body = torch.nn.Linear(inputs, width, dtype=dtype)
        self.head = torch.nn.Linear(width, classes, dtype=dtype)

    def forward(self, x: Any) -> Any:
        return self.head(torch.relu(self.body(x)))

    def given(self, criterion: Any, x: Any, y: Any, w: Any) -> tuple[Any, ...]:
        if isinstance(criterion, ht.LinearHEMLoss):
            return torch.relu(self.body(x)), self.head.weight, y, self.head.bias, w
        return self(x), y, w


def batch(model: Network, dtype: Any) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 6, generator=generator, dtype=torch.float64).to(dtype)
    y, w = torch.randint(0, CLASSES, (20,), generator=generator), torch.rand(20, generator=generator).to(dtype)
    y[2], y[MICRO[2]], w[4] = -100, -100, 0.0
    with torch.no_grad():
        y[MICRO[3]] = model(x[MICRO[3]]).argmax(-1)
    return x, y, w


@pytest.mark.parametrize("scaled", [False, True], ids=["", "GradScaler"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "reduction"), CASES)
def test_micro_batches_give_the_gradient_of_the_batch(name: str, reduction: str, dtype: Any, scaled: bool) -> None:
    torch.manual_seed(0)
    model = Network(dtype)
    kind, options = CRITERIA[name]
    if "hem" in name and name != "hem+":
        options = options | {"margin": 1e-3}  # small enough for the last to be inactive
    criterion = kind(reduction=reduction, **options)
    x, y, w = batch(model, dtype)
    expected = criterion(*model.given(criterion, x, y, w))
    gradients = torch.autograd.grad(expected, list(model.parameters()))

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=scaled)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before = [p.detach().clone() for p in model.parameters()]
    value, total = torch.zeros((), dtype=dtype), torch.zeros((), dtype=dtype)
    for rows in MICRO:
        given = model.given(criterion, x[rows], y[rows], w[rows])
        numerator, denominator = (criterion(*given), None) if reduction == "sum" else criterion.terms(*given)
        scaler.scale(numerator).backward()
        value = value + numerator.detach()
        total = total + (denominator if denominator is not None else 0)
    scaler.unscale_(optimizer)
    for p in model.parameters():
        p.grad /= total + (total == 0)
    scaler.step(optimizer)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(value / (total + (total == 0)), expected.detach(), rtol=16 * eps, atol=0)
    for p, old, gradient in zip(model.parameters(), before, gradients, strict=True):
        size = float(gradient.abs().max())
        torch.testing.assert_close(p.grad, gradient, rtol=0, atol=16 * eps * size)
        torch.testing.assert_close(p.detach(), old - 0.5 * gradient, rtol=16 * eps, atol=16 * eps * size)


def test_averages_of_micro_batches_would_not() -> None:
    torch.manual_seed(0)
    model = Network(torch.float64)
    x, y, w = batch(model, torch.float64)
    averages = [ht.hem_loss(model(x[rows]), y[rows], margin=1e-3, sample_weight=w[rows]) for rows in MICRO]
    whole = ht.hem_loss(model(x), y, margin=1e-3, sample_weight=w)
    assert averages[-1] == averages[-2] == 0
    assert abs(sum(averages) / len(MICRO) - whole) > 0.1 * whole


SEEDS = 5


def accuracy(seed: int, dtype: Any, digits: tuple[Any, ...]) -> float:
    """Of a network trained with HEM, under autocast unless in float32; float16 with a GradScaler."""
    x, y, x_test, y_test = digits
    torch.manual_seed(seed)
    model = Network(torch.float32, 64, 10, 64)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
    criterion = ht.HEMLoss()
    for _ in range(15):
        for rows in torch.randperm(len(x)).split(100):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                logits = model(x[rows])
                assert logits.dtype == dtype
                loss = criterion(logits, y[rows])
            assert loss.dtype == torch.float32
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    with torch.no_grad():
        return float((model(x_test).argmax(-1) == y_test).double().mean())


def test_half_precision_reaches_the_accuracy_of_float32() -> None:
    """Means over seeds differ by no more than float32's own seeds make likely: four standard errors of a difference."""
    datasets = pytest.importorskip("sklearn.datasets")
    numbers, labels = datasets.load_digits(return_X_y=True)
    x, y = torch.tensor(numbers / 16, dtype=torch.float32), torch.tensor(labels)
    digits = (x[:1200], y[:1200], x[1200:], y[1200:])
    found = {
        dtype: np.array([accuracy(seed, dtype, digits) for seed in range(SEEDS)])
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    }
    full = found[torch.float32]
    assert full.mean() > 0.9
    noise = full.std(ddof=1) * np.sqrt(2 / SEEDS)
    for dtype in (torch.bfloat16, torch.float16):
        assert abs(found[dtype].mean() - full.mean()) <= 4 * noise, found
