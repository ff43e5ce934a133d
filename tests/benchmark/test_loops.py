"""The three training loops, each in a process of its own: the parent imports no framework."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from hemspec_benchmark.data import load_split
from hemspec_benchmark.network import forward, initial_weights
from hemspec_benchmark.runner import ENVIRONMENT, Run, WorkerError, run
from hemspec_benchmark.settings import BACKENDS, Experiment, HyperParameters, Job
from hemspec_benchmark.statistics import compare, reference_losses

NEEDED = {"torch": ("torch",), "keras": ("keras", "tensorflow"), "jax": ("jax", "flax", "optax")}
INSTALLED = tuple(name for name in BACKENDS if all(find_spec(package) for package in NEEDED[name]))


def need(backend: str) -> None:
    if backend not in INSTALLED:
        pytest.skip(f"needs {' and '.join(NEEDED[backend])}")


def tiny(losses: tuple[str, ...], backends: tuple[str, ...]) -> Job:
    return Job(HyperParameters(epochs=1), {"batch-norm": Experiment("With", True, losses)}, backends, seeds=1)


@pytest.fixture(scope="module")
def tiny_run() -> Run:
    """One epoch of two losses in every framework that is installed."""
    return run(tiny(("ce", "hem"), INSTALLED))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tiny_training_runs(backend: str, tiny_run: Run) -> None:
    need(backend)
    trainings = [result.training for result in tiny_run.results if result.backend == backend]
    assert len(trainings) == 2
    for training in trainings:
        assert len(training.step_losses) == 19
        assert np.mean(training.step_losses[-3:]) < np.mean(training.step_losses[:3])
        assert training.train_loss == [pytest.approx(np.mean(training.step_losses))]
        assert 0.2 < training.test_accuracy[0] <= 1.0
        assert training.seconds > 0
    assert set(NEEDED[backend]) <= set(tiny_run.versions)


def test_the_frameworks_agree(tiny_run: Run) -> None:
    if not INSTALLED:
        pytest.skip("needs a framework")
    comparisons = compare(tiny_run.results, reference_losses(tiny(("ce", "hem"), INSTALLED)))
    assert [str(comparison) for comparison in comparisons if not comparison.agrees] == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_network_is_the_numpy_network(backend: str) -> None:
    """Evaluated at the initial weights; what it computes while training is checked by the first step's losses."""
    need(backend)
    code = f"""
import json, sys
from hemspec_benchmark import {backend}_loop as loop
from hemspec_benchmark.data import load_split
from hemspec_benchmark.network import initial_weights
images = load_split("test").test_images[:5]
logits = [
    loop.predict(loop.build_network(initial_weights(3, batch_norm=batch_norm)), images).tolist()
    for batch_norm in (True, False)
]
print(json.dumps(logits))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **ENVIRONMENT}, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    images = load_split("test").test_images[:5]
    for batch_norm, logits in zip((True, False), json.loads(done.stdout.splitlines()[-1]), strict=True):
        expected = forward(initial_weights(3, batch_norm=batch_norm), images, training=False)
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_a_crashing_worker_says_what_it_last_wrote() -> None:
    need("torch")
    with pytest.raises(WorkerError, match=r"(?s)torch process ended with exit code 1 after 0 of 1.*KeyError: 'nope'"):
        run(tiny(("nope",), ("torch",)))
