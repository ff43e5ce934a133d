"""The process that trains the matrix: see `hemspec_benchmark.worker`."""

from __future__ import annotations

from functools import partial
from typing import Any

from hemspec_benchmark import worker
from hemspec_benchmark.swap.matrix import Matrix


def begin(backend: str, options: dict[str, Any]) -> worker.Work:
    """What trains and measures a cell; there is one framework, JAX."""
    # Here, because by now what JAX may print goes to standard error.
    from hemspec_benchmark.swap.training import run

    return partial(run, matrix=Matrix(**options["protocol"]))


if __name__ == "__main__":
    worker.main(begin, packages=("flax", "mlxtend"))
