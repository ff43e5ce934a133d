"""The margin losses compiled: what the reference gives, on both sides of every choice, and no mask that is stored."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch._inductor.utils import run_and_get_code

import hemspec
import hemspec.torch
from hemspec_torch.blocked import SAFE_MEAN
from hemspec_torch.traced import MANY

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's, by its own compiler
LOSSES = ("hem_loss", "multi_margin_loss")


def compiled(loss: str, **options: Any) -> Any:
    torch._dynamo.reset()
    function = getattr(hemspec.torch, loss)

    def call(z: Any, y: Any, margin: Any = 1.0, weight: Any = None) -> Any:
        return function(z, y, margin=margin, sample_weight=weight, **options)

    return torch.compile(call, fullgraph=True, dynamic=True)


def broken(shape: tuple[int, ...], seed: int = 0) -> tuple[Any, Any]:
    """Logits with exact ties, labels with ignored ones among them, and a position for each kind of infinity and NaN."""
    rng = np.random.default_rng(seed)
    logits = (rng.integers(-48, 48, shape) / 16).astype(np.float32)
    labels = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    rows, flat = np.moveaxis(logits, 1, -1).reshape(-1, shape[1]), labels.reshape(-1)
    for i, (bad, at_true) in enumerate((b, t) for b in (np.nan, np.inf, -np.inf) for t in (True, False)):
        if i < len(rows):
            rows[i, (flat[i] + (not at_true)) % shape[1]] = bad
    if len(rows) > 9:
        rows[8], flat[8] = np.nan, -100
        rows[9] = rows[9].max() - 1  # all errors are equal
    return np.moveaxis(rows.reshape(*labels.shape, shape[1]), -1, 1).copy(), flat.reshape(labels.shape)


def check(function: Any, loss: str, logits: Any, labels: Any, margin: Any = 1.0, weight: Any = None) -> None:
    """Value and gradient as the reference's, the gradient scaled differently at every position."""
    z = torch.tensor(logits, requires_grad=True)
    tensors = [torch.tensor(array) if isinstance(array, np.ndarray) else array for array in (margin, weight)]
    value = function(z, torch.tensor(labels), *tensors)
    upstream = np.linspace(0.5, 2.0, value.numel(), dtype=logits.dtype).reshape(value.shape)
    value.backward(torch.tensor(upstream))
    reference = getattr(hemspec, loss)
    given = {"axis": 1, "margin": margin, "sample_weight": weight, "reduction": "none"}
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(value.detach().numpy(), reference(logits, labels, **given), 1e-5, 2e-6)
        expected = reference.gradient(logits, labels, **given) * np.expand_dims(upstream, 1)
    np.testing.assert_allclose(z.grad.numpy(), expected, 1e-5, 1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_rows_on_both_sides_of_every_choice(loss: str) -> None:
    """Few or many classes, with and without a rest of a vector, one row, and sums in either form."""
    function = compiled(loss, reduction="none")
    for classes in (10, 16, MANY - 1, MANY, MANY + 1, 1000, SAFE_MEAN - 1, SAFE_MEAN, SAFE_MEAN + 1):
        logits, labels = broken((12, classes), seed=classes)
        check(function, loss, logits, labels)
    check(function, loss, *broken((1, 131_072)))
    logits, labels = np.full((3, 32_768), 0.1, np.float32), np.array([0, 5, 9])
    logits[-1, -1] = np.nextafter(np.float32(0.1), np.float32(1))  # must not stand alone
    check(function, loss, logits, labels, 0.7)


@pytest.mark.parametrize(
    ("loss", "shape"), [("hem_loss", (12, 70)), ("hem_loss", (2, 21, 3, 7)), ("multi_margin_loss", (2, 70, 3, 7))]
)
def test_weights_margins_and_pixels(loss: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    logits, labels = broken(shape)
    weight = rng.integers(0, 3, labels.shape).astype(np.float32)
    margin = rng.integers(0, 64, shape[1]) / 32
    check(compiled(loss, reduction="none"), loss, logits, labels, margin, weight)


@pytest.mark.parametrize("shape", [(32, 1000), (32, 5000), (2, 21, 16, 16)], ids=["mean", "distances", "pixels"])
def test_no_mask_and_no_errors_are_stored(shape: tuple[int, ...]) -> None:
    """Neither between the passes over the classes nor for backward: the gradient is the only array of its size."""
    torch._dynamo.reset()
    function = torch.compile(lambda z, y: hemspec.torch.hem_loss(z, y), fullgraph=True, dynamic=False)
    z = torch.randn(shape, requires_grad=True)
    y = torch.zeros((shape[0], *shape[2:]), dtype=torch.int64)
    _, codes = run_and_get_code(lambda: function(z, y).backward())
    size = z.numel()
    found = []
    for allocated, dtype in re.findall(r"= empty_strided_cpu\(\(([^)]*)\), \([^)]*\), torch\.(\w+)\)", "".join(codes)):
        if np.prod([int(number) for number in allocated.split(",") if number.strip()]) >= size:
            found.append(dtype)
    assert found == ["float32"]


@pytest.mark.parametrize("loss", LOSSES)
def test_mapped_inside_a_compiled_function(loss: str) -> None:
    """Gradients of single examples, as plain operations give them."""
    torch._dynamo.reset()
    logits, labels = torch.randn(6, 5), torch.arange(6) % 5
    function = getattr(hemspec.torch, loss)

    def one(z: Any, y: Any) -> Any:
        return function(z.unsqueeze(0), y.unsqueeze(0), reduction="sum")

    gradients = torch.func.vmap(torch.func.grad(one))
    found = torch.compile(gradients, fullgraph=True, backend="aot_eager")(logits, labels)
    torch.testing.assert_close(found, gradients(logits, labels))
