"""PyTorch: functions and modules, eager, compiled and mapped, and under what PyTorch can be set to."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import distributions
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import hemspec.torch
from hemspec_conformance.adapter import DERIVATIVES, LOSSES, Array, Call, Mode
from hemspec_torch import selection

name = "torch"
spec_version = 1
losses = tuple(LOSSES)
argument_names = {"logits": "input", "labels": "target"}
derivatives = tuple(DERIVATIVES)

NO_CUDA = "" if torch.cuda.is_available() else "PyTorch finds no CUDA device"
NO_TRITON = "" if importlib.util.find_spec("triton") else "Triton is not installed"
if any(found.version.startswith("3.2.") for found in distributions(name="triton")):
    NO_TRITON = "the interpreter of Triton 3.2 crashes"  # PyTorch 2.6 comes with it
if NO_CUDA:
    # Triton decides when it is imported, by `torch._dynamo` below among others. On a GPU its kernels are compiled.
    os.environ["TRITON_INTERPRET"] = "1"
else:
    NO_TRITON = "the kernels run on the CUDA device"
EAGER = Mode("eager")
MODULE = Mode("module")
GRAPH = Mode("graph", dtypes=("float32", "float64", "bfloat16"), reads_values=False, coverage="brief")
"""torch.compile(fullgraph=True) up to the graph that Dynamo captures, run as it is: a third of a second a case."""
HUNTED = Mode("eager", setting="detect_anomaly", dtypes=("float32",), finite_only=True, refusals=False, coverage="core")
"""With ``torch.autograd.detect_anomaly``, and with every operation's result looked at, forward ones included."""
COMPILED = Mode("compile", dtypes=("float32",), reads_values=False, refusals=False, coverage="core")
"""All of torch.compile(fullgraph=True), the code that Inductor generates included: several seconds a case."""
DYNAMIC = Mode(
    "compile",
    setting="dynamic",
    dtypes=("bfloat16", "float32", "float16", "float64"),  # float32 is asked of the other
    reads_values=False,
    coverage="core",
)
INTERPRETED = Mode(
    "eager",
    setting="triton_interpreter",
    dtypes=("float32", "bfloat16", "float16", "float64"),
    reads_values=False,
    coverage="first dtype",
    losses=("hem_loss", "multi_margin_loss"),
    skip=NO_TRITON,
)
"""The kernels for a GPU, run on the CPU by Triton's interpreter: milliseconds for each program."""
TILED = replace(INTERPRETED, setting="triton_small_tiles", dtypes=("float32",), coverage="brief")
"""The same, with no tile resident and 256 classes in each: what rows are otherwise given from 16,385 classes on."""
LINEAR = Mode("linear", refusals=False, losses=("hem_loss",), infinities=False)
"""The loss of a linear head whose logits are the vector's, in chunks of two positions."""
VMAP = Mode("vmap", reads_values=False, per_example=True)
modes = (
    EAGER,
    Mode("eager", layout="channels_last"),
    Mode("eager", layout="strided"),
    Mode("eager", setting="autocast_bfloat16", refusals=False),
    Mode("eager", setting="autocast_float16", refusals=False),
    Mode("eager", setting="deterministic", refusals=False),
    Mode("eager", device="cuda", reads_values=False, skip=NO_CUDA),
    HUNTED,
    INTERPRETED,
    TILED,
    MODULE,
    LINEAR,
    VMAP,
    GRAPH,
    COMPILED,
    DYNAMIC,
    replace(LINEAR, device="cuda", reads_values=False, skip=NO_CUDA),
    Mode("compile", device="cuda", reads_values=False, refusals=False, coverage="core", skip=NO_CUDA),
)

torch.set_num_threads(1)
# The compiled functions below are closures over one code object, and Dynamo counts compilations by code object.
for limit in ("recompile_limit", "accumulated_recompile_limit"):
    # Before PyTorch 2.7 it was called after the cache.
    known = hasattr(torch._dynamo.config, limit)
    setattr(torch._dynamo.config, limit if known else limit.replace("recompile", "cache_size"), 100_000)

compiled: dict[Any, Callable[..., Tensor]] = {}


def versions() -> Mapping[str, str]:
    return {"torch": torch.__version__, **({} if NO_CUDA else {"device": torch.cuda.get_device_name()})}


def from_numpy(array: Array, mode: Mode) -> Tensor:
    """Keeps gaps in memory, which is what the strided layout is about."""
    if array.dtype.name == "bfloat16":
        tensor = torch.from_numpy(np.asarray(array.view(np.int16))).view(torch.bfloat16)
    else:
        tensor = torch.from_numpy(np.asarray(array))
    return tensor.to(mode.device)


def to_numpy(tensor: Tensor) -> Array:
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def value_and_gradient(call: Call, mode: Mode) -> tuple[Tensor, Tensor]:
    return backward(call, mode, None)


def gradient(call: Call, mode: Mode, upstream: Tensor) -> Tensor:
    return backward(call, mode, upstream)[1]


def backward(call: Call, mode: Mode, upstream: Tensor | None) -> tuple[Tensor, Tensor]:
    """The loss, and the gradient of its sum or of the sum that is weighted by `upstream`."""
    logits = call.logits
    if mode.per_example:
        return per_example(call, mode, upstream)
    if mode.execution == "linear" and call.loss in mode.losses:
        return of_linear_head(call, upstream)
    if logits.is_floating_point():
        logits.requires_grad_()
    with setting(mode.setting):
        value = loss_of(call, mode)(in_torch_order(logits, call, mode), call.labels, call.sample_weight)
        value.backward(torch.ones_like(value) if upstream is None else upstream)  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    return value, logits.grad


def function_of_logits(call: Call, mode: Mode) -> Callable[[Tensor], Tensor]:
    loss = loss_of(call, mode)
    return lambda logits: loss(in_torch_order(logits, call, mode), call.labels, call.sample_weight)


def derivative(kind: str, call: Call, mode: Mode, direction: Tensor) -> Tensor:
    """Reverse mode by autograd with create_graph, as a gradient penalty has it; forward mode by torch.func."""
    loss = function_of_logits(call, mode)
    if kind.startswith("forward"):
        slope = torch.func.grad(lambda logits: loss(logits).sum() ** 2)
        function = loss if kind == "forward" else slope
        along: Tensor = torch.func.jvp(function, (call.logits,), (direction,))[1]
        return along
    logits = call.logits.requires_grad_()
    value = loss(logits)
    if kind == "batched":
        (batched,) = torch.autograd.grad(value, logits, direction, is_grads_batched=True)
        return cast("Tensor", batched)
    total = value.sum()
    inner = torch.autograd.grad(total if kind == "nested" else total**2, logits, create_graph=True)[0]
    outer = (inner * direction).sum() + (total**2 if kind == "nested" else 0)
    return cast("Tensor", torch.autograd.grad(outer, logits)[0])


def in_torch_order(logits: Tensor, call: Call, mode: Mode) -> Tensor:
    """PyTorch has the classes behind the batch. Moved there they are strided; as given means contiguous."""
    moved = logits.movedim(call.axis, 1 if logits.ndim > 1 else 0)
    return moved.contiguous() if mode.layout == "as_given" else moved


def loss_of(call: Call, mode: Mode) -> Callable[..., Tensor]:
    """The loss as a function of logits, labels and weight."""
    options = {name: value for name, value in call.keywords.items() if name not in ("axis", "sample_weight")}
    if mode is MODULE:
        criterion: Callable[..., Tensor] = getattr(hemspec.torch, LOSSES[call.loss])(**options)
        return criterion
    loss = getattr(hemspec.torch, call.loss)
    if mode.execution in ("graph", "compile"):
        return compile_loss(loss, call, mode, options)
    return lambda logits, labels, weight: loss(logits, labels, sample_weight=weight, **options)


def compile_loss(loss: Any, call: Call, mode: Mode, options: dict[str, Any]) -> Callable[..., Tensor]:
    """torch.compile without graph breaks. Calls that differ in shapes and vectors alone share their code."""
    vectors = {k: from_numpy(v, mode) for k, v in options.items() if isinstance(v, np.ndarray)}
    fixed = {k: v for k, v in options.items() if k not in vectors}
    key = (mode.name, call.loss, call.sample_weight is None, repr(fixed), *vectors)
    if mode.setting != "dynamic":
        key = (*key, call.logits.dtype, call.logits.shape)
    if key not in compiled:

        def function(logits: Tensor, labels: Tensor, weight: Tensor | None, vectors: dict[str, Tensor]) -> Tensor:
            value: Tensor = loss(logits, labels, sample_weight=weight, **fixed, **vectors)
            return value

        backend = "eager" if mode is GRAPH else "inductor"
        compiled[key] = torch.compile(function, fullgraph=True, dynamic=mode.setting == "dynamic", backend=backend)
    return lambda logits, labels, weight: compiled[key](logits, labels, weight, vectors)


def per_example(call: Call, mode: Mode, upstream: Tensor | None) -> tuple[Tensor, Tensor]:
    """torch.func: the value and gradient of one example, mapped over the batch."""
    loss = loss_of(call, mode)

    def one(logits: Tensor, labels: Tensor, weight: Tensor | None, upstream: Tensor | None) -> tuple[Tensor, Tensor]:
        # The example keeps a batch axis of 1, so that the class axis stays where it is.
        batch = in_torch_order(logits.unsqueeze(0), call, mode)
        value = loss(batch, labels.unsqueeze(0), None if weight is None else weight.unsqueeze(0))
        value = value.squeeze(0) if value.ndim else value
        return (value if upstream is None else value * upstream).sum(), value

    arrays = (call.logits, call.labels, call.sample_weight, upstream)
    axes = tuple(0 if array is not None and array.ndim else None for array in arrays)
    gradient, (_, value) = torch.func.vmap(torch.func.grad_and_value(one, has_aux=True), axes)(*arrays)
    return value.sum() if call.reduction == "sum" else value, gradient


def of_linear_head(call: Call, upstream: Tensor | None) -> tuple[Tensor, Tensor]:
    """Logits as a product with an identity, which is exact: of the features, or of the head where it is smaller.

    Their gradient is then that of the other factor.
    """
    logits = call.logits.movedim(call.axis, -1).contiguous()
    options = {name: value for name, value in call.keywords.items() if name not in ("axis", "sample_weight")}
    *shape, classes = logits.shape
    rows = logits.reshape(call.labels.numel(), classes)
    if len(rows) < classes and torch.isfinite(rows).all():
        features = torch.eye(len(rows), dtype=rows.dtype, device=rows.device).reshape(*shape, len(rows))
        factor = head = rows.t().contiguous().requires_grad_()
    else:
        factor = features = logits.requires_grad_()
        head = torch.eye(classes, dtype=rows.dtype, device=rows.device)
    value = hemspec.torch.linear_hem_loss(
        features, head, call.labels, sample_weight=call.sample_weight, chunk_rows=2, **options
    )
    value.backward(torch.ones_like(value) if upstream is None else upstream)  # type: ignore[no-untyped-call]
    assert factor.grad is not None
    gradient = factor.grad if factor is features else factor.grad.t().reshape(logits.shape)
    return value, gradient.movedim(-1, call.axis)


@contextlib.contextmanager
def setting(name: str) -> Iterator[None]:
    """What PyTorch is set to while the loss and its gradient are computed."""
    if name.startswith("autocast_"):
        with torch.autocast("cpu", dtype=getattr(torch, name.removeprefix("autocast_"))):
            yield
    elif name == "deterministic":
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)
    elif name == HUNTED.setting:
        with warnings.catch_warnings(), Finite():  # type: ignore[no-untyped-call]
            warnings.simplefilter("ignore", UserWarning)  # that it is for debugging
            with torch.autograd.detect_anomaly(check_nan=True):
                yield
    elif name.startswith("triton_"):
        with interpreted(small_tiles=name == TILED.setting):
            yield
    else:
        yield


class Finite(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Stops at the first operation that gives a NaN or an infinity.

    Memory that nobody has written yet may hold any, and so may a view of it.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(() if "empty" in func.name() or func.is_view else result):
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise FloatingPointError(f"{func.name()} gave {tensor}")
        return result


@contextlib.contextmanager
def interpreted(*, small_tiles: bool) -> Iterator[None]:
    """The kernels, in Triton's interpreter."""
    from hemspec_torch import fused

    usual = fused.RESIDENT, fused.CHUNK
    selection.INTERPRETED = True
    try:
        if small_tiles:
            fused.RESIDENT, fused.CHUNK = 16, 1024
            fused.plan.cache_clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the interpreter computes in NumPy: inf - inf warns
            yield
    finally:
        selection.INTERPRETED = False
        fused.RESIDENT, fused.CHUNK = usual
        if small_tiles:
            fused.plan.cache_clear()
