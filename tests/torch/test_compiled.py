"""Compiled and captured: model and loss in one graph for batches of every size, and nothing that waits for a device."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import hemspec.torch as ht
from hemspec_torch import fused, linear, selection

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's, by its own compiler
CLASSES = 5
CRITERIA = {
    "hem": ht.HEMLoss(),
    "hem+, none": ht.HEMLoss(margin=[1.0, 2.0, 0.5, 1.0, 0.0], reduction="none"),
    "linear hem": ht.LinearHEMLoss(),
    "multi margin": ht.MultiMarginLoss(),
    "cross entropy": ht.CrossEntropyLoss(),
    "focal": ht.FocalLoss(gamma=1.5, alpha=[1.0, 2.0, 0.5, 1.0, 1.0]),
    "logit norm": ht.LogitNormLoss(),
    "logit adjusted": ht.LogitAdjustedLoss(class_counts=[5, 3, 2, 1, 1]),
    "dice": ht.DiceLoss(),
}
each = pytest.mark.parametrize("name", CRITERIA)
CUDA = torch.cuda.is_available()


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


def batch(size: int, device: str = "cpu") -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(size)
    x, y = torch.randn(size, 6, generator=generator), torch.randint(0, CLASSES, (size,), generator=generator)
    y[0] = -100
    return x.to(device), y.to(device), torch.rand(size, generator=generator).to(device)


def step(model: Any, arguments: tuple[Any, ...], parameters: Any) -> tuple[Any, list[Any]]:
    """Value and gradients."""
    value = model(*arguments)
    return value.detach(), list(torch.autograd.grad(value.sum(), list(parameters)))


@each
def test_one_graph_of_model_and_loss_for_batches_of_every_size(name: str) -> None:
    torch._dynamo.reset()
    model, graphs = Model(CRITERIA[name]), []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=count)
    for size in (8, 7, 23, 40):
        found = step(compiled, batch(size), model.parameters())
        torch.testing.assert_close(found, step(model, batch(size), model.parameters()))
    assert len(graphs) == 1


def test_one_graph_of_diagnostics_for_batches_of_every_size() -> None:
    graphs = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    criterion = ht.HEMLoss(margin=[1.0, 2.0, 0.5, 1.0, 0.0, 1.0])
    compiled = torch.compile(criterion.diagnostics, fullgraph=True, dynamic=True, backend=count)
    for size in (8, 7, 23, 40):
        torch.testing.assert_close(compiled(*batch(size)), criterion.diagnostics(*batch(size)))
    assert len(graphs) == 1


class OneDevice(TorchDispatchMode):
    """Fails on an operation that another device has a part in: a copy from the CPU would wait for it."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        seen = {leaf.device.type for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)}
        assert seen <= {"meta"}, f"{function} on {seen}"
        return out


def on_meta(criterion: Any) -> None:
    """Forward, backward and diagnostics on a device of which nothing can be read: what would wait fails."""
    model = Model(copy.deepcopy(criterion)).to("meta")
    x, y, w = (t.to("meta") for t in batch(7))
    with OneDevice():
        value = model(x, y, w)
        assert value.requires_grad
        value.sum().backward()
        if isinstance(criterion, ht.HEMLoss):
            model.criterion.diagnostics(model.head(x), y, w)
    assert model.head.weight.grad.device.type == "meta"


@each
def test_nothing_waits_for_a_device_in_plain_operations(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "cast_as_linear", lambda *factors: list(factors))  # autocast knows no meta
    on_meta(CRITERIA[name])


@pytest.mark.parametrize("name", ["hem", "hem+, none", "multi margin"])
def test_nothing_waits_for_a_device_around_the_kernels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[str] = []

    class Kernel:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: Any) -> Callable[..., None]:
            return lambda **arguments: launched.append(self.name)

    monkeypatch.setattr(fused.kernels, "forward", Kernel("forward"))
    monkeypatch.setattr(fused.kernels, "backward", Kernel("backward"))
    monkeypatch.setattr(selection, "gpu_of", lambda tensor: 0)
    monkeypatch.setattr(selection, "kernels", lambda device: fused)
    # Whoever watches operations is shown plain ones; this watcher wants those around the kernels.
    monkeypatch.setattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)
    on_meta(CRITERIA[name])
    assert launched == ["forward", "backward"]


@pytest.mark.parametrize("wait", [lambda t: t.sum().item(), lambda t: t[t > 0], lambda t: torch.ones(2).to("meta") + t])
def test_what_waits_would_be_seen(wait: Any) -> None:
    with OneDevice(), pytest.raises((AssertionError, NotImplementedError, RuntimeError)):
        wait(torch.zeros(2, device="meta"))


@pytest.mark.skipif(not CUDA, reason="PyTorch finds no CUDA device to capture a graph on")
@each
def test_cuda_graph_of_a_step(name: str) -> None:
    """Captured once with one batch, replayed with another."""
    model = Model(copy.deepcopy(CRITERIA[name])).cuda()
    given = batch(16, "cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(model, given, model.parameters())
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step(model, given, model.parameters())
    torch.manual_seed(1)
    other = (torch.randn_like(given[0]), given[1].roll(3), given[2].flip(0))
    for tensor, new in zip(given, other, strict=True):
        tensor.copy_(new)
    graph.replay()
    torch.testing.assert_close(found, step(model, other, model.parameters()))
