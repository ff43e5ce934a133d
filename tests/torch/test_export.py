"""A model exported with its loss, by torch.export and to ONNX: the same values, and a gradient where there is one."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import hemspec.torch as ht

CLASSES = 8
CRITERIA = {
    "hem": lambda **options: ht.HEMLoss(**options),
    "hem+": lambda **options: ht.HEMLoss(margin=np.linspace(0, 2, CLASSES), **options),
    "multi margin": ht.MultiMarginLoss,
    "cross entropy": ht.CrossEntropyLoss,
    "focal": lambda **options: ht.FocalLoss(alpha=np.linspace(1, 2, CLASSES), **options),
    "logit norm": ht.LogitNormLoss,
    "logit adjusted": lambda **options: ht.LogitAdjustedLoss(class_counts=np.arange(1, CLASSES + 1), **options),
    "dice": ht.DiceLoss,
}
ANY_BATCH = {0: torch.export.Dim("N", min=2)}


class Model(torch.nn.Module):
    """A linear model with its loss."""

    def __init__(self, criterion: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.criterion = torch.nn.Linear(6, CLASSES), criterion

    def forward(self, x: Any, y: Any, w: Any) -> Any:
        if isinstance(self.criterion, ht.LinearHEMLoss):
            return self.criterion(x, self.head.weight, y, self.head.bias, w)
        return self.criterion(self.head(x), y, w)


def batch(size: int) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(size)
    x, y = torch.randn(size, 6, generator=generator), torch.randint(0, CLASSES, (size,), generator=generator)
    y[0] = -100
    return x, y, torch.rand(size, generator=generator)


def step(model: Any, arguments: tuple[Any, ...]) -> tuple[Any, list[Any]]:
    value = model(*arguments)
    return value.detach(), list(torch.autograd.grad(value, list(model.parameters())))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", ["hem", "linear hem", "multi margin", "dice"])
def test_an_exported_model_has_value_and_gradient_for_any_batch(name: str, strict: bool) -> None:
    model = Model(ht.LinearHEMLoss() if name == "linear hem" else CRITERIA[name]())
    exported = torch.export.export(model, batch(5), dynamic_shapes=(ANY_BATCH,) * 3, strict=strict)
    for size in (5, 12):
        torch.testing.assert_close(step(exported.module(), batch(size)), step(model, batch(size)))


class Loss(torch.nn.Module):
    """A loss of logits."""

    def __init__(self, criterion: Any) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(self, z: Any, y: Any, w: Any) -> Any:
        return self.criterion(z, y, w)


def to_onnx(model: Any, arguments: tuple[Any, ...]) -> Any:
    """A session that runs it, for any batch."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, arguments, dynamo=True, dynamic_shapes=(ANY_BATCH,) * 3, verbose=False)
    memory = io.BytesIO()
    program.save(memory)
    session = runtime.InferenceSession(memory.getvalue())
    names = [given.name for given in session.get_inputs()]
    return lambda *tensors: session.run(None, dict(zip(names, (t.numpy() for t in tensors), strict=True)))[0]


def test_onnx_of_a_model_with_its_loss() -> None:
    model = Model(CRITERIA["hem+"]())
    run = to_onnx(model, batch(5))
    for size in (5, 12):
        np.testing.assert_allclose(run(*batch(size)), model(*batch(size)).detach().numpy(), rtol=1e-6)


@pytest.mark.parametrize("name", ["hem", "multi margin", "cross entropy", "focal"])
def test_onnx_of_ties_infinities_nan_and_bad_labels(name: str) -> None:
    """What can be read here is not read there: a bad label is NaN."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randint(-48, 48, (24, CLASSES), generator=generator) / 16
    y, w = torch.randint(0, CLASSES, (24,), generator=generator), torch.ones(24)
    for i, bad in enumerate((torch.nan, torch.inf, -torch.inf)):
        z[2 * i, y[2 * i]] = bad
        z[2 * i + 1, (y[2 * i + 1] + 1) % CLASSES] = bad
    z[6], z[7], z[8] = torch.tensor([0.0, 3, 5, 6, 5, 1, 1, 1]), 2.0, torch.nan
    y[6], y[8], w[9] = 0, -100, 0.0
    criterion = CRITERIA[name](reduction="none")
    run = to_onnx(Loss(criterion), (z[:3], y[:3], w[:3]))
    np.testing.assert_allclose(run(z, y, w), criterion(z, y, w).numpy(), rtol=1e-5, atol=1e-6)
    y[12] = CLASSES
    assert np.isnan(run(z, y, w)[12])
