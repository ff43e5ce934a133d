"""The process that trains on a GPU: see `hemspec_benchmark.worker`."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

from hemspec_benchmark import worker
from hemspec_benchmark.settings import Protocol


def begin(backend: str, options: dict[str, Any]) -> worker.Work:
    """What trains and measures a cell in one of the two frameworks."""
    # Here, because by now what a framework may print goes to standard error.
    side = import_module(f"hemspec_benchmark.gpu.{backend}_side")
    return partial(side.run, protocol=Protocol.from_json(options["protocol"]))


if __name__ == "__main__":
    worker.main(begin, packages=("mlxtend",))
