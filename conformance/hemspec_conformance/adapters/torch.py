"""PyTorch: functions and modules, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

import hemspec.torch
from hemspec_conformance.adapter import LOSSES, Array, Call, Mode, Result

EAGER = Mode("eager")
MODULE = Mode("module")
GRAPH = Mode("graph", reads_values=False, coverage="first dtype")
"""torch.compile(fullgraph=True) up to the graph that Dynamo captures, run as it is: a third of a second a case."""
COMPILED = Mode("compile", ("float32", "bfloat16", "float16", "float64"), reads_values=False, coverage="core")
"""All of torch.compile(fullgraph=True), the code that Inductor generates included: several seconds a case."""


def to_tensor(array: Array) -> Tensor:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    return torch.from_numpy(np.ascontiguousarray(array)).reshape(array.shape)


def to_array(tensor: Tensor) -> Array:
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.float().numpy().astype(ml_dtypes.bfloat16)
    return tensor.numpy()


class TorchAdapter:
    name = "torch"
    modes = (EAGER, MODULE, GRAPH, COMPILED)
    argument_names: Mapping[str, str] = {"logits": "input", "labels": "target"}
    lenient_labels = False

    def __init__(self) -> None:
        self.compiled: dict[Any, Callable[..., Tensor]] = {}

    def versions(self) -> Mapping[str, str]:
        return {"torch": torch.__version__}

    def run(self, call: Call, mode: Mode) -> Result:
        class_axis = 1 if call.logits.ndim > 1 else 0
        logits = to_tensor(np.moveaxis(call.logits, call.axis, class_axis))
        if logits.is_floating_point():
            logits.requires_grad_()
        labels = to_tensor(call.labels)
        weight = None if call.sample_weight is None else to_tensor(call.sample_weight)
        options: dict[str, Any] = {"ignore_index": call.ignore_index, "reduction": call.reduction}
        if mode is MODULE:
            criterion = getattr(hemspec.torch, LOSSES[call.loss])(**options, **call.constants)
            value = criterion(logits, labels, weight)
        elif mode is EAGER:
            value = getattr(hemspec.torch, call.loss)(logits, labels, sample_weight=weight, **options, **call.constants)
        else:
            backend = "eager" if mode is GRAPH else "inductor"
            value = self.run_compiled(backend, call, logits, labels, weight, options)
        value.sum().backward()
        assert logits.grad is not None
        return Result(to_array(value), np.moveaxis(to_array(logits.grad), class_axis, call.axis))

    def run_compiled(
        self, backend: str, call: Call, logits: Tensor, labels: Tensor, weight: Tensor | None, options: dict[str, Any]
    ) -> Tensor:
        """torch.compile without graph breaks. Calls that differ in shapes and vectors alone share their code."""
        vectors = {k: torch.from_numpy(v) for k, v in call.constants.items() if isinstance(v, np.ndarray)}
        fixed = {**options, **{k: v for k, v in call.constants.items() if k not in vectors}}
        key = (
            backend,
            call.loss,
            call.logits.dtype.name,
            call.logits.ndim,
            weight is None,
            *sorted(map(repr, fixed.items())),
            *vectors,
        )
        if key not in self.compiled:
            loss = getattr(hemspec.torch, call.loss)

            def function(logits: Tensor, labels: Tensor, weight: Tensor | None, vectors: dict[str, Tensor]) -> Tensor:
                value: Tensor = loss(logits, labels, sample_weight=weight, **fixed, **vectors)
                return value

            self.compiled[key] = torch.compile(function, fullgraph=True, dynamic=backend == "inductor", backend=backend)
        return self.compiled[key](logits, labels, weight, vectors)


def make(target: str) -> TorchAdapter:
    torch.set_num_threads(1)
    # The compiled functions below are closures over one code object, and Dynamo counts compilations by code object.
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 100_000
    return TorchAdapter()
