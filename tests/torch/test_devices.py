"""Devices without float64, such as Apple's MPS: nothing there is float64 unless the logits are."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import hemspec.torch as ht
from hemspec_torch.positions import place

pytestmark = pytest.mark.finding(9)


def refuse(where: Any, *given: Any) -> None:
    for one in given:
        if isinstance(one, (list, tuple)):
            refuse(where, *one)
        elif isinstance(one, torch.Tensor) and one.dtype == torch.float64 and one.device.type == "meta":
            raise TypeError(f"the device has no float64: {where}")


class NoFloat64(TorchDispatchMode):
    """The meta device as one without float64, as MPS is: not one operator gives or takes such a tensor there."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        refuse(function, *args, result)
        return result


class NoFloat64Asked(TorchFunctionMode):
    """The same for what Python calls, where a conversion may be refused before it becomes an operator."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        refuse(function, *args, result)
        return result


C = 3
VECTORS = {
    "list": lambda v: v,
    "array": np.array,
    "float64 on the host": lambda v: torch.tensor(v, dtype=torch.float64),
    "float32 on the device": lambda v: torch.tensor(v).to("meta"),
    "bfloat16 on the device": lambda v: torch.tensor(v, dtype=torch.bfloat16).to("meta"),
    "integers on the device": lambda v: torch.tensor(v).long().to("meta"),
}
LOSSES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "hem": (ht.hem_loss, ht.HEMLoss, {"margin": 0.5}),
    "hem+": (ht.hem_loss, ht.HEMLoss, {"margin": [1.0, 2.0, 3.0]}),
    "linear hem": (ht.linear_hem_loss, ht.LinearHEMLoss, {"margin": 0.5}),
    "linear hem+": (ht.linear_hem_loss, ht.LinearHEMLoss, {"margin": [1.0, 2.0, 3.0]}),
    "multi margin": (ht.multi_margin_loss, ht.MultiMarginLoss, {"margin": [1.0, 2.0, 3.0]}),
    "cross entropy": (ht.cross_entropy_loss, ht.CrossEntropyLoss, {}),
    "focal": (ht.focal_loss, ht.FocalLoss, {"gamma": 1.5, "alpha": [1.0, 2.0, 3.0]}),
    "logit norm": (ht.logit_norm_loss, ht.LogitNormLoss, {"temperature": 0.5}),
    "logit adjusted": (ht.logit_adjusted_loss, ht.LogitAdjustedLoss, {"class_counts": [5, 3, 2], "temperature": 0.5}),
    "dice": (ht.dice_loss, ht.DiceLoss, {"smooth": 1.0}),
    "dice of the batch": (ht.dice_loss, ht.DiceLoss, {"batch": True}),
}
each = pytest.mark.parametrize("name", LOSSES)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def batch(name: str, dtype: Any = torch.float32, shape: tuple[int, ...] = (6,), labels: Any = torch.int64) -> list[Any]:
    """Logits and labels, or features, head and labels."""
    logits = torch.randn(shape[0], C, *shape[1:]) if shape else torch.randn(C)
    if name.startswith("linear"):
        head = torch.nn.Parameter(torch.randn(C, 4, dtype=dtype, device="meta"))
        features = torch.randn(*shape, 4).to("meta", dtype).requires_grad_()
        return [features, head, torch.ones(shape, dtype=labels).to("meta")]
    return [logits.to("meta", dtype).requires_grad_(), torch.ones(shape, dtype=labels).to("meta")]


def weights(shape: tuple[int, ...]) -> list[Any]:
    on_device = [torch.ones(shape).to("meta", dtype) for dtype in (*DTYPES, torch.int64, torch.bool)]
    return [None, *on_device, torch.ones(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.bfloat16)]


def ask(function: Any, given: list[Any], **options: Any) -> None:
    with NoFloat64():
        value = function(*given, **options)
        assert value.dtype == torch.float32
        assert value.device.type == "meta"
        value.sum().backward()
    assert given[0].grad.dtype == given[0].dtype


def test_the_modes_refuse() -> None:
    with NoFloat64(), pytest.raises(TypeError, match="no float64"):
        torch.ones((), dtype=torch.float64, device="meta")
    with NoFloat64(), pytest.raises(TypeError, match="no float64"):
        torch.ones(3, device="meta").double()
    with NoFloat64Asked(), pytest.raises(TypeError, match="no float64"):
        torch.ones(3, dtype=torch.float64).to("meta")


@each
@pytest.mark.parametrize("shape", [(), (6,), (2, 3, 4)])
def test_no_loss_makes_float64(name: str, shape: tuple[int, ...]) -> None:
    function, module, options = LOSSES[name]
    dtypes, labels = itertools.cycle(DTYPES), itertools.cycle((torch.int64, torch.int32, torch.uint8))
    for reduction, weight in zip(itertools.cycle(module.reductions), weights(shape), strict=False):
        given = batch(name, next(dtypes), shape, next(labels))
        ask(function, given, sample_weight=weight, reduction=reduction, ignore_index=0, **options)
    with NoFloat64(), NoFloat64Asked():
        function.terms(*batch(name, shape=shape), reduction="mean", **options)


@each
@pytest.mark.parametrize("moved", [False, True])
def test_no_module_makes_float64(name: str, moved: bool) -> None:
    _, module, options = LOSSES[name]
    with NoFloat64(), NoFloat64Asked():
        criterion = module(reduction="mean", **options)
        if moved:
            criterion.to("meta").half().float()
    for _ in range(2):  # the second time with the copies of the first
        ask(criterion, batch(name))
        criterion(*batch(name))
    with NoFloat64(), NoFloat64Asked():
        criterion.terms(*batch(name))
        if name.startswith("hem"):
            criterion.diagnostics(*batch(name))


@pytest.mark.parametrize("kind", VECTORS)
@pytest.mark.parametrize("name", ["hem+", "linear hem+", "multi margin", "focal", "logit adjusted"])
def test_vectors_wherever_they_are(name: str, kind: str) -> None:
    function, _, options = LOSSES[name]
    given = {key: VECTORS[kind](value) if isinstance(value, list) else value for key, value in options.items()}
    ask(function, batch(name), **given)


@pytest.mark.parametrize("name", ["hem", "focal", "logit norm", "logit adjusted", "dice"])
def test_numbers_as_tensors(name: str) -> None:
    function, _, options = LOSSES[name]
    scalar = next(key for key, value in options.items() if isinstance(value, float))
    for value in (np.float64(0.5), torch.tensor(0.5, dtype=torch.float64), torch.tensor(0.5, device="meta")):
        ask(function, batch(name), **{**options, scalar: value})


@pytest.mark.parametrize("margin", [0.5, [1.0, 2.0, 3.0], torch.tensor([1.0, 2.0, 3.0], device="meta")])
def test_diagnostics(margin: Any) -> None:
    with NoFloat64(), NoFloat64Asked():
        figures = ht.hem_diagnostics(*batch("hem"), margin=margin, sample_weight=torch.ones(6, dtype=torch.float64))
    assert {value.dtype for value in figures.values()} == {torch.float32}


@pytest.mark.parametrize("name", ["hem+", "logit adjusted"])
def test_no_compiled_loss_makes_float64(name: str) -> None:
    function, _, options = LOSSES[name]
    found = []

    def look(graph: Any, inputs: Any) -> Any:
        for node in graph.graph.nodes:
            if isinstance(node.meta.get("example_value"), torch.Tensor):
                found.append(node.meta["example_value"])
        return graph.forward

    torch.compile(lambda *given: function(*given, **options), fullgraph=True, backend=look)(*batch(name))
    assert found
    refuse("compiled", *found)


def test_the_host_casts() -> None:
    """Either way: the device's side of a move never has the other's dtype."""
    with NoFloat64(), NoFloat64Asked():
        there = place(torch.ones(2, dtype=torch.float64), torch.device("meta"), torch.float32)
        assert (there.device.type, there.dtype) == ("meta", torch.float32)
    with NoFloat64(), NoFloat64Asked(), pytest.raises(NotImplementedError, match="meta"):
        place(torch.ones(2, device="meta"), torch.device("cpu"), torch.float64)


def test_the_digits_that_the_host_has() -> None:
    """0.1 is rounded once, whatever the logits' dtype; the log prior is float64 before it is."""
    logits = torch.randn(6, C, generator=torch.Generator().manual_seed(0))
    target, counts = torch.tensor([0, 1, 2, 0, 1, 2]), [123_456_789, 1_000, 3]
    for vector in (counts, np.array(counts), torch.tensor(counts), torch.tensor(counts, dtype=torch.float64)):
        exact = ht.logit_adjusted_loss(logits.double(), target, class_counts=vector, temperature=0.1)
        prior = np.log(np.array(counts) / sum(counts))
        by_hand = torch.nn.functional.cross_entropy(logits.double() + 0.1 * torch.from_numpy(prior), target)
        torch.testing.assert_close(exact, by_hand, rtol=1e-14, atol=0)
        rounded = ht.logit_adjusted_loss(logits, target, class_counts=vector, temperature=0.1)
        torch.testing.assert_close(rounded.double(), exact, rtol=3e-7, atol=0)


def test_a_list_of_margins_is_float64_also_compiled() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64)
    loss = torch.compile(lambda z, y: ht.hem_loss(z, y, margin=[0.1, 0.1, 0.1]), fullgraph=True, backend="aot_eager")
    assert loss(logits, torch.tensor([0])).item() == pytest.approx((1.1 + 2.1) / 2, abs=1e-14)


@pytest.mark.parametrize("name", LOSSES)
def test_a_default_device_is_no_reason(name: str) -> None:
    """Constants are read on the host, also where factories make their tensors somewhere else."""
    function, module, options = LOSSES[name]
    given = [t.detach() for t in batch(name)]
    with torch.device("meta"), NoFloat64():
        function(*given, **options)
        module(**options)(*given)
