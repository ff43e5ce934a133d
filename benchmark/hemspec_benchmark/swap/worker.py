"""The process that trains the matrix, follows trainings and replicates: see `hemspec_benchmark.worker`."""

from __future__ import annotations

from functools import partial
from typing import Any

from hemspec_benchmark import worker
from hemspec_benchmark.swap.matrix import Matrix
from hemspec_benchmark.swap.selection import Selection


def begin(backend: str, options: dict[str, Any]) -> worker.Work:
    """What trains and measures a cell; there is one framework, JAX."""
    # Here, because by now what JAX may print goes to standard error.
    from hemspec_benchmark.swap import following, replicating, training

    protocol = options["protocol"]
    if "architecture" in protocol:  # that of the six tasks
        return replicating.run
    if "matrix" in protocol:
        return partial(following.run, protocol=Selection.from_json(protocol))
    return partial(training.run, matrix=Matrix(**protocol))


if __name__ == "__main__":
    worker.main(begin, packages=("flax", "mlxtend", "river"))
