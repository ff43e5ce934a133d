"""What reads annotations at run time (fastai, pydantic, beartype, jsonargparse) finds types in every backend."""

from __future__ import annotations

import inspect
import typing
from types import ModuleType
from typing import Any


def public(module: ModuleType) -> dict[str, Any]:
    """Every public function and class, with their methods, by name."""
    found: dict[str, Any] = {}
    for name in module.__all__:
        one = getattr(module, name)
        if not callable(one):
            continue
        found[name] = one
        for method, value in inspect.getmembers(one, inspect.isfunction):
            if value.__module__.startswith("hemspec"):
                found[f"{name}.{method}"] = value
    return found


def unresolved(module: ModuleType) -> list[str]:
    """The names whose hints or signatures hold text, or raise, with why."""
    wrong = []
    for name, one in public(module).items():
        try:
            hints = typing.get_type_hints(one)
            signature = inspect.signature(one, eval_str=True)
        except (NameError, TypeError, AttributeError) as error:
            wrong.append(f"{name}: {error!r}")
            continue
        annotations = [p.annotation for p in signature.parameters.values()] + [signature.return_annotation]
        wrong += [f"{name}: {text!r}" for text in (*annotations, *hints.values()) if isinstance(text, str)]
    return wrong
