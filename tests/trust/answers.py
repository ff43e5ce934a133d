"""What backends answer, in a process of its own: ``python answers.py THREADS FUZZ BACKEND...``, one object of JSON.

`hashes`: for every loss, eager and compiled, the bytes of value and gradient, twice over. `failures`: what random calls
and the calls in `found` find, if FUZZ is 1. Run twice it shows whether a process answers as another does.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from found import FOUND

from hemspec_conformance.adapter import LOSSES, Call, Mode
from hemspec_conformance.backend import Backend, Result
from hemspec_conformance.fuzz import fault_of
from hemspec_conformance.inputs import Input
from hemspec_conformance.session import Session

CONSTANTS: dict[str, dict[str, Any]] = {"logit_adjusted_loss": {"class_counts": np.arange(1.0, 1001.0)}}
EVERY = tuple(LOSSES)
REPEATED = {
    "numpy": {"eager": EVERY},
    "torch": {"eager": EVERY, "compile": ("hem_loss",)},
    "tensorflow": {"eager": EVERY, "xla": ("hem_loss",)},
    "jax": {"jit-strict": EVERY},
    "keras-torch": {"eager": EVERY},
    "keras-tensorflow": {"eager": EVERY},
    "keras-jax": {"traced": ("hem_loss",)},
}
"""What is hashed: the losses, by mode. Compiling one takes seconds."""
FUZZED = {
    "numpy": (700, ("eager",)),
    "torch": (500, ("eager", "eager-strided", "module", "linear", "vmap")),
    "tensorflow": (200, ("eager",)),
    "jax": (70, ("jit-strict",)),
    "keras-torch": (300, ("eager", "eager-mixed_float16")),
    "keras-tensorflow": (150, ("eager", "eager-mixed_float16")),
    "keras-jax": (35, ("traced",)),
}
"""How many calls, in which modes: those that answer in milliseconds. `nox -s fuzz` asks the others too."""


def use_threads(framework: str, threads: int) -> None:
    """After the adapter, which asks for one."""
    if framework == "torch":
        import torch

        torch.set_num_threads(threads)
    elif framework == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def hashes(backend: Backend) -> Iterator[tuple[str, list[str]]]:
    """Of 400 positions and 1,000 classes: enough for several threads."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0.0, 2.0, (400, 1000)).astype(np.float32)
    labels, weight = rng.integers(0, 1000, 400), rng.uniform(0.5, 2.0, 400).astype(np.float32)
    modes = {mode.name: mode for mode in backend.modes}
    for name, losses in REPEATED[backend.name].items():
        for loss in losses:
            call = Call(loss, logits, labels, weight, constants=CONSTANTS.get(loss, {}))
            twice = [backend.answer(call, modes[name]) for _ in range(2)]
            yield f"{backend.name} {loss} {name}", [fingerprint(answer) for answer in twice]


def fingerprint(answer: Result) -> str:
    return hashlib.sha256(answer.value.tobytes() + np.ascontiguousarray(answer.gradient).tobytes()).hexdigest()


def failures(backend: Backend) -> Iterator[str]:
    """What random calls find, and those that have found something before."""
    inputs, names = FUZZED[backend.name]
    asked = [mode for mode in backend.modes if mode.name in names]
    session = Session(Backend.of(Some(backend.adapter, asked)), fuzz=inputs, seed=20250122)
    assert len(session.checks) == inputs
    for index in range(inputs):
        outcome = session.run(index)
        if outcome.status != "passed":
            yield outcome.message
    for case, mode in itertools.product(FOUND, asked):
        call = replace(case.call, logits=case.call.logits.astype(mode.dtypes[0]))
        if mode.per_example or (mode.losses and call.loss not in mode.losses):
            continue
        if fault := fault_of(backend, mode, Input(call)):
            yield f"{backend.name}: {case.name}, mode {mode.name}\n  {fault}"


def main(threads: int, fuzz: bool, names: list[str]) -> None:
    said: dict[str, Any] = {"hashes": {}, "failures": []}
    for name in names:
        backend = Backend.load(f"hemspec_conformance.adapters.{name.split('-')[0]}")
        if name == names[0]:
            use_threads(name, threads)
        said["hashes"] |= dict(hashes(backend))
        said["failures"] += list(failures(backend)) if fuzz else []
    print(json.dumps(said))


class Some:
    """An adapter with some of its modes."""

    def __init__(self, adapter: Any, modes: list[Mode]) -> None:
        self.adapter, self.modes = adapter, modes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.adapter, name)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(int(sys.argv[1]), sys.argv[2] == "1", sys.argv[3:])
