"""The margin losses on the CPU, eagerly: in any blocks what the reference gives; when plain operations take over."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import hemspec
import hemspec.torch
from hemspec_torch import blocked

LOSSES = ("hem_loss", "multi_margin_loss")
REDUCTIONS = ("none", "sum", "mean", "active_mean")


def draw(shape: tuple[int, ...], seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    logits = rng.integers(-48, 48, shape) / 16  # ties are exact, and frequent
    return logits.astype(np.float32), rng.integers(0, shape[1], (shape[0], *shape[2:]))


def check(loss: str, logits: Any, labels: Any, *, rtol: float = 2e-6, **options: Any) -> Any:
    """Value and gradient as the reference's, the gradient scaled differently at every position for "none"."""
    z = torch.tensor(logits, requires_grad=True)
    weight = options.pop("sample_weight", None)
    value = getattr(hemspec.torch, loss)(
        z, torch.tensor(labels), sample_weight=None if weight is None else torch.tensor(weight), **options
    )
    upstream = np.linspace(0.5, 2.0, value.numel(), dtype=logits.dtype).reshape(value.shape)
    value.backward(torch.tensor(upstream))
    reference = getattr(hemspec, loss)
    given = {"axis": 1, "sample_weight": weight, **options}
    np.testing.assert_allclose(value.detach().numpy(), reference(logits, labels, **given), rtol, 2e-6)
    scale = np.expand_dims(upstream, 1) if upstream.ndim else upstream
    np.testing.assert_allclose(z.grad.numpy(), reference.gradient(logits, labels, **given) * scale, rtol, 1e-6)
    return value


def is_blocked(value: Any) -> bool:
    """The gradient comes from `blocked`, through a division or none."""
    step = value.grad_fn
    while step is not None and not step.name().startswith(("Slope", "Dot")):
        step = step.next_functions[0][0] if step.next_functions else None
    return step is not None


@pytest.mark.parametrize("small", [0, 1 << 16], ids=["mask made again", "mask kept"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(1, 7), (7, 7), (8, 7), (9, 7), (3, 64), (2, 65), (2, 7, 17), (3, 5, 2, 13)])
def test_any_blocks_give_the_reference(
    shape: tuple[int, ...], loss: str, reduction: str, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocked, "BLOCK", 64)
    monkeypatch.setattr(blocked, "SMALL", small)
    logits, labels = draw(shape)
    assert is_blocked(check(loss, logits, labels, reduction=reduction))
    rng = np.random.default_rng(1)
    weight = rng.integers(0, 3, labels.shape).astype(np.float32)
    broken, ignored = logits.copy(), labels.copy()
    ignored.flat[::3] = -100
    np.moveaxis(broken, 1, -1)[ignored == -100] = np.nan
    np.moveaxis(broken, 1, -1)[weight == 0] = np.inf
    margin = rng.integers(0, 64, shape[1]) / 32
    assert is_blocked(check(loss, broken, ignored, reduction=reduction, sample_weight=weight, margin=margin))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(3, 4096), (3, 4095), (2, 131_072)])
def test_equal_errors_stay(shape: tuple[int, ...], loss: str) -> None:
    """In float32 a plain mean of many equal errors can exceed them. A slightly larger error must not stand alone."""
    logits, labels = np.full(shape, 0.1, np.float32), np.zeros(shape[0], np.int64)
    logits[-1, -1] = np.nextafter(np.float32(0.1), np.float32(1))
    assert is_blocked(check(loss, logits, labels, reduction="none", margin=0.7, rtol=1e-5))


@pytest.mark.parametrize("small", [0, 1 << 16])
def test_the_smallest_errors_count(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean error underflows to 0, and only errors above 0 are kept."""
    monkeypatch.setattr(blocked, "SMALL", small)
    logits = np.array([[0.0, 2.0**-149, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    check("hem_loss", logits, np.array([0, 0]), margin=0.0, reduction="none")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_left_to_plain_operations(bad: float) -> None:
    logits, labels = draw((4, 5))
    logits[2, (labels[2] + 1) % 5] = bad
    z = torch.tensor(logits, requires_grad=True)
    assert not is_blocked(hemspec.torch.hem_loss(z, torch.tensor(labels)))


@pytest.mark.parametrize("small", [0, 1 << 16])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes(dtype: str, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "SMALL", small)
    logits, labels = draw((6, 9))
    z = torch.tensor(logits).to(getattr(torch, dtype)).requires_grad_()
    value = hemspec.torch.hem_loss(z, torch.tensor(labels), reduction="sum")
    value.backward()
    assert is_blocked(value)
    assert value.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    assert z.grad.dtype == z.dtype
    expected = hemspec.hem_loss.gradient(logits, labels, reduction="sum")
    np.testing.assert_allclose(z.grad.double().numpy(), expected, 2.0**-8)


@pytest.mark.parametrize("small", [0, 1 << 16])
def test_a_second_derivative_and_a_second_backward(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Piecewise linear: the gradient of the gradient's norm comes through what the logits come from alone."""
    monkeypatch.setattr(blocked, "SMALL", small)
    logits, labels = draw((6, 9))
    x = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    value = hemspec.torch.hem_loss(x**2, torch.tensor(labels), reduction="none")
    upstream = torch.ones_like(value, requires_grad=True)
    (first,) = torch.autograd.grad(value, x, upstream, create_graph=True)
    second, in_upstream = torch.autograd.grad((first**2).sum(), (x, upstream), retain_graph=True)
    slope = hemspec.hem_loss.gradient(logits.astype(np.float64) ** 2, labels, reduction="none")
    np.testing.assert_allclose(first.detach(), slope * 2 * logits, 1e-12, 1e-12)
    np.testing.assert_allclose(second, 2 * (slope * 2) ** 2 * logits, 1e-12, 1e-12)
    np.testing.assert_allclose(in_upstream, 2 * ((slope * 2 * logits) ** 2).sum(1), 1e-12, 1e-12)
    again = torch.autograd.grad(value, x, torch.ones_like(value), retain_graph=True)[0]
    assert torch.equal(first, again)


def test_logits_changed_in_between_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "SMALL", 0)
    logits, labels = draw((6, 9))
    z = torch.tensor(logits, requires_grad=True) * 1.0
    value = hemspec.torch.hem_loss(z, torch.tensor(labels))
    z.add_(1.0)
    with pytest.raises(RuntimeError, match="inplace"):
        value.backward()


def test_labels_changed_in_between_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "SMALL", 0)
    logits, labels = draw((6, 9))
    target = torch.tensor(labels)
    value = hemspec.torch.hem_loss(torch.tensor(logits, requires_grad=True), target)
    target.zero_()
    with pytest.raises(RuntimeError, match="inplace"):
        value.backward()


def test_no_gradient_is_asked_for() -> None:
    logits, labels = draw((6, 9))
    assert not hemspec.torch.hem_loss(torch.tensor(logits), torch.tensor(labels)).requires_grad
    with torch.no_grad():
        assert not hemspec.torch.hem_loss(torch.tensor(logits, requires_grad=True), torch.tensor(labels)).requires_grad


def test_scratch_memory_outlives_what_is_set_around_a_call() -> None:
    """It is made once in each thread, so under the first call's settings, whatever those of the next one are."""
    logits, labels = draw((64, 1100))  # more than one with a kept mask
    blocked.scratch.kept.clear()
    with torch.inference_mode(), torch.device("meta"):
        hemspec.torch.hem_loss(torch.from_numpy(logits), torch.from_numpy(labels))
    assert blocked.scratch.kept
    assert is_blocked(check("hem_loss", logits, labels))
    with ThreadPoolExecutor(4) as pool:  # threads that shared the memory would spoil each other's answers
        list(pool.map(lambda seed: check("hem_loss", *draw((64, 1100), seed)), range(24)))
