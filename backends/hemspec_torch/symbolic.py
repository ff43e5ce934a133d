"""Calls that torch.fx traces: a loss is one call of its graph, like the operations of PyTorch, and not looked into.

`torch.fx.symbolic_trace` runs a model with stand-ins for its tensors. They follow PyTorch's protocol for objects that
want to be told of a call instead of having it done, ``__torch_function__``, so nothing here asks for torch.fx.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.overrides import handle_torch_function

from hemspec.loss_function import Diagnostics, LossFunction


def is_symbolic(value: object) -> bool:
    """Whether it is no tensor, but stands for one."""
    return not isinstance(value, Tensor) and hasattr(type(value), "__torch_function__")


def module_call(module: nn.Module, *arguments: Any) -> Tensor:
    """A call of a module of the model that is being traced, in the graph: what stands for its result."""
    tracer = arguments[0].tracer
    result: Tensor = tracer.create_proxy("call_module", tracer.path_of_module(module), arguments, {})
    return result


def recorded(
    function: LossFunction[..., Tensor] | Diagnostics[..., Tensor], method: str, args: Any, kwargs: dict[str, Any]
) -> Any:
    """What a tracer makes of a call of a loss function, or None if there is none that wants it."""
    if len(args) > 1 and isinstance(args[0], Tensor) and isinstance(args[1], Tensor):
        return None
    symbols = [value for value in (*args, *kwargs.values()) if is_symbolic(value)]
    if not symbols:
        return None
    # A graph holds numbers, lists of them and tensors.
    kwargs = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in kwargs.items()}
    if method:
        # Its code imports what it calls by name, and no import statement finds a function's attribute.
        names = (function.__module__, function.__name__, method)
        return handle_torch_function(call_by_name, symbols, *names, *args, **kwargs)
    return handle_torch_function(function, symbols, *args, **kwargs)


def call_by_name(module: str, function: str, method: str, *args: Any, **kwargs: Any) -> Any:
    """``module.function.method(...)``, for the code of a graph."""
    return getattr(getattr(importlib.import_module(module), function), method)(*args, **kwargs)
