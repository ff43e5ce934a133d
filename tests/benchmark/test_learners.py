"""The learner of each framework against the NumPy network, and against each other.

Each framework gets a process of its own, which does all the cases below at once; the parent imports none.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from hemspec_benchmark.learner import BACKENDS, Build
from hemspec_benchmark.losses import LOSSES
from hemspec_benchmark.network import Array, Weights, forward, initial_weights
from hemspec_benchmark.runner import CPU_ALONE, ENVIRONMENT

NEEDED = {"torch": ("torch",), "keras": ("keras", "tensorflow"), "jax": ("jax", "optax")}
INSTALLED = tuple(name for name in BACKENDS if all(find_spec(package) for package in NEEDED[name]))

CHILD = """
import pickle, sys
from hemspec_benchmark.learner import learner_class
with open(sys.argv[2], "rb") as file:
    cases = pickle.load(file)
results = {}
for name, (build, calls) in cases.items():
    learner = learner_class(sys.argv[1])(build)
    results[name] = [getattr(learner, method)(*arguments) for method, *arguments in calls]
with open(sys.argv[3], "wb") as file:
    pickle.dump(results, file)
"""

Case = tuple[Build, list[Any]]

IMAGE = (8, 8, 1)
RATE = 0.1
DECAY = 0.1
"""Large, so that a framework that applies it differently is noticed."""


def weights_of(architecture: str, shape: tuple[int, ...], classes: int) -> Weights:
    """Initial weights with biases, scales and shifts that are not 0 and 1, so that one that is lost is noticed."""
    rng = np.random.default_rng(5)
    weights = initial_weights(architecture, shape, classes, 2)
    return {
        name: array + 0.2 * rng.standard_normal(array.shape, np.float32) if array.ndim == 1 else array
        for name, array in weights.items()
    }


def images_of(*shape: int) -> Array:
    return np.random.default_rng(3).random(shape, dtype=np.float32)


def labels_of(classes: int, *shape: int) -> Array:
    return np.random.default_rng(4).integers(classes, size=shape, dtype=np.int32)


def build_of(architecture: str, shape: tuple[int, ...], classes: int, loss: str = "ce", **changes: Any) -> Build:
    counts = np.arange(10, 10 * classes + 1, 10)
    options = {"evaluation_batch": 4, "class_counts": LOSSES[loss].needs(counts), **changes}
    return Build(architecture, shape, classes, loss, **options)


# Inputs and expected values are made here, once, from the same arrays.
X, Y = images_of(4, 16, *IMAGE), labels_of(10, 4, 16)
GROUPS = np.random.default_rng(6).integers(3, size=(4, 16))
SCENES, MASKS = images_of(3, 4, *IMAGE), labels_of(3, 3, 4, 8, 8)
MASKS[..., :2, :] = -100
MASKS[1, 2] = -100  # a whole image
PHOTOGRAPHS = images_of(1, 4, 10, 10, 3)
"""10 pixels halve to 5, 3 and 2: where a stride of 2 leaves a choice of padding."""

SMALL, WITHOUT_NORM = weights_of("small", IMAGE, 10), weights_of("small-without-norm", IMAGE, 10)
HEADS = weights_of("small", IMAGE, 12)
UNET, RESNET = weights_of("unet", IMAGE, 3), weights_of("resnet18", (10, 10, 3), 10)

CHANGED_RATE = [("fit", X[:2], Y[:2], RATE), ("fit", X[2:], Y[2:], RATE / 4)]
"""The rate is changed after two steps, as between epochs."""

PREDICT = ("logits", X[0, :5])
"""More than a batch, so the second is filled up."""
ATTACKS = [("input_gradient", X[0, :5], Y[0, :5], "margin"), ("input_gradient", X[0, :4], Y[0, :4], "loss")]
"""The loss is a mean over the images of a batch, so of one batch alone."""

TIMED = ("loss_seconds", np.random.default_rng(7).normal(size=(16, 10)).astype(np.float32), Y[0])

CASES: dict[str, Case] = {
    "small": (build_of("small", IMAGE, 10), [("start", SMALL), PREDICT, *ATTACKS, *CHANGED_RATE, PREDICT]),
    "twice": (
        build_of("small", IMAGE, 10, "hem"),
        2 * [("start", SMALL), PREDICT, *CHANGED_RATE, PREDICT],
    ),
    "hem-plus": (build_of("small", IMAGE, 10, "hem-plus"), [("start", SMALL), *CHANGED_RATE]),
    "decay": (build_of("small", IMAGE, 10, weight_decay=DECAY), [("start", SMALL), *CHANGED_RATE]),
    # Not with batch norm: a bias before it has no gradient but rounding, of which Adam makes steps as large as any.
    "adam": (
        build_of("small-without-norm", IMAGE, 10, optimizer="adam", weight_decay=DECAY),
        [("start", WITHOUT_NORM), ("fit", X[:2], Y[:2], 0.01), ("fit", X[2:], Y[2:], 0.003), PREDICT],
    ),
    "clipped": (build_of("small", IMAGE, 10, clip=0.1), [("start", SMALL), *CHANGED_RATE]),
    "hardly clipped": (build_of("small", IMAGE, 10, clip=1e6), [("start", SMALL), *CHANGED_RATE]),
    "without norm": (
        build_of("small-without-norm", IMAGE, 10, "hem-mean"),
        [("start", WITHOUT_NORM), PREDICT, *ATTACKS, *CHANGED_RATE, TIMED],
    ),
    "dice": (
        build_of("small", IMAGE, 10, "dice-batch", over_batch=True),
        [("start", SMALL), PREDICT, *ATTACKS, *CHANGED_RATE, TIMED],
    ),
    "heads": (
        build_of("small", IMAGE, 12, heads=3),
        [("start", HEADS), ("fit", X[:3], Y[:3] % 4, RATE, GROUPS[:3])],
    ),
    "heads hem": (
        build_of("small", IMAGE, 12, "hem", heads=3),
        [("start", HEADS), ("fit", X[:3], Y[:3] % 4, RATE, GROUPS[:3])],
    ),
    "unet ce": (build_of("unet", IMAGE, 3), [("start", UNET), ("logits", SCENES[0]), ("fit", SCENES, MASKS, RATE)]),
    "unet hem": (build_of("unet", IMAGE, 3, "hem"), [("start", UNET), ("fit", SCENES, MASKS, RATE)]),
    "resnet18": (
        build_of("resnet18", (10, 10, 3), 10, weight_decay=5e-4),
        [("start", RESNET), ("logits", PHOTOGRAPHS[0]), ("fit", PHOTOGRAPHS, Y[:1, :4], RATE)],
    ),
    "mixed": (
        build_of("small", IMAGE, 10, mixed_precision=True),
        [("start", SMALL), PREDICT, *CHANGED_RATE, ATTACKS[0]],
    ),
}

Results = dict[str, dict[str, list[Any]]]


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, list[Any]]]:
    """What a framework's learner returned: a list for each case, one entry for each call."""
    # Under pytest-xdist every process asks; the first trains, the others wait and read.
    common = tmp_path_factory.getbasetemp()
    common = common.parent if "PYTEST_XDIST_WORKER" in os.environ else common
    cache: dict[str, dict[str, list[Any]]] = {}

    def results(backend: str) -> dict[str, list[Any]]:
        if backend not in INSTALLED:
            pytest.skip(f"needs {' and '.join(NEEDED[backend])}")
        if backend not in cache:
            given, taken = common / "learner-cases.pickle", common / f"learner-{backend}.pickle"
            with (common / f"learner-{backend}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not taken.exists():
                    given = common / f"cases-{backend}.pickle"
                    given.write_bytes(pickle.dumps(CASES))
                    done = subprocess.run(
                        [sys.executable, "-c", CHILD, backend, str(given), str(taken)],
                        capture_output=True,
                        text=True,
                        env={**os.environ, **ENVIRONMENT, **CPU_ALONE},
                        check=False,
                    )
                    assert done.returncode == 0, done.stderr[-3000:]
            cache[backend] = pickle.loads(taken.read_bytes())
        return cache[backend]

    return results


def called(results: dict[str, list[Any]], case: str, method: str) -> list[Any]:
    """What the calls of one method returned."""
    return [value for (name, *_), value in zip(CASES[case][1], results[case], strict=True) if name == method]


def losses(results: dict[str, list[Any]], case: str) -> Array:
    return np.concatenate([values for values, _ in called(results, case, "fit")])


def numpy_loss(case: str) -> float:
    """The first step's: the NumPy network in training mode and the reference's loss."""
    build, calls = CASES[case]
    weights = calls[0][1]
    images, labels, _, *groups = next(arguments for method, *arguments in calls if method == "fit")
    logits = forward(build.architecture, weights, images[0], training=True)
    if groups:
        logits = logits.reshape(len(logits), build.heads, -1)[np.arange(len(logits)), groups[0][0]]
    return float(LOSSES[build.loss].reference(build.counts)(logits, labels[0]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["small", "without norm", "unet ce", "resnet18"])
def test_the_network_is_the_numpy_network(backend: str, case: str, of: Any) -> None:
    build, calls = CASES[case]
    expected = forward(build.architecture, calls[0][1], calls[1][1], training=False)
    found = called(of(backend), case, "logits")[0]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", [name for name in CASES if name != "mixed"])
def test_the_first_loss_is_the_references(backend: str, case: str, of: Any) -> None:
    assert losses(of(backend), case)[0] == pytest.approx(numpy_loss(case), rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gradient_is_clipped_after_its_norm_is_taken(backend: str, of: Any) -> None:
    found = of(backend)
    clipped, usual = ([norms for _, norms in called(found, case, "fit")] for case in ("clipped", "small"))
    assert clipped[0][0] == pytest.approx(usual[0][0], rel=1e-4)
    assert clipped[0][0] > 0.1
    assert np.abs(clipped[1] / usual[1] - 1).max() > 0.01, "the steps were smaller"
    np.testing.assert_allclose(losses(found, "hardly clipped"), losses(found, "small"), rtol=1e-4)


@pytest.mark.parametrize(("one", "other"), list(combinations(BACKENDS, 2)))
@pytest.mark.parametrize("case", [name for name in CASES if name != "mixed"])
def test_the_frameworks_train_alike(one: str, other: str, case: str, of: Any) -> None:
    """Losses and gradient norms of every step, also after the rate has changed."""
    for (losses, norms), (others, other_norms) in zip(
        called(of(one), case, "fit"), called(of(other), case, "fit"), strict=True
    ):
        np.testing.assert_allclose(losses, others, rtol=1e-4)
        np.testing.assert_allclose(norms, other_norms, rtol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_must_matter_does(backend: str, of: Any) -> None:
    """Weight decay, heads and the changed rate are seen in the losses, so the comparisons above can fail."""
    found = of(backend)
    plain, decayed = losses(found, "small"), losses(found, "decay")
    np.testing.assert_array_equal(plain[0], decayed[0])
    assert np.all(np.abs(plain[1:] / decayed[1:] - 1) > 4e-4)
    assert not np.isclose(numpy_loss("heads"), numpy_loss("small"), rtol=1e-2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_evaluation_uses_the_running_statistics(backend: str, of: Any) -> None:
    """After four steps; with PyTorch's own batch norm, whose running variance is unbiased, they would be 1e-3 apart."""
    first, last = called(of(backend), "small", "logits")
    reference = of(INSTALLED[0])
    assert np.abs(last - first).max() > 0.1
    np.testing.assert_allclose(last, called(reference, "small", "logits")[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_start_begins_anew(backend: str, of: Any) -> None:
    """The weights, the statistics of batch norm, the velocity and its scale: bit for bit the same once more."""
    results = of(backend)["twice"]
    half = len(results) // 2
    for (method, *_), one, other in zip(CASES["twice"][1], results[:half], results[half:], strict=False):
        for first, second in zip(np.atleast_1d(one), np.atleast_1d(other), strict=True) if method != "start" else ():
            np.testing.assert_array_equal(first, second)


def finite_differences(function: Callable[[Array], float], x: Array, places: list[Any]) -> list[float]:
    def moved(place: Any, step: float) -> Array:
        changed = x.astype(np.float64)
        changed[place] += step
        return changed

    return [(function(moved(place, 1e-5)) - function(moved(place, -1e-5))) / 2e-5 for place in places]


def attackers_margin(logits: Array, labels: Array) -> float:
    rows = np.arange(len(labels))
    others = np.where(np.eye(logits.shape[1], dtype=bool)[labels], -np.inf, logits)
    return float((others.max(axis=1) - logits[rows, labels]).sum())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["small", "without norm"])
def test_gradients_in_the_images_are_finite_differences(backend: str, case: str, of: Any) -> None:
    """Of the margin, summed over five images in batches of four, and of the loss on a batch of four."""
    build, calls = CASES[case]
    weights, reference = calls[0][1], LOSSES[build.loss].reference(build.counts)
    measured = zip(called(of(backend), case, "input_gradient"), (attackers_margin, reference), (5, 4), strict=True)
    for (logits, gradient), objective, count in measured:
        images, labels = X[0, :count], Y[0, :count]
        expected_logits = forward(build.architecture, weights, images, training=False)
        np.testing.assert_allclose(logits, expected_logits, rtol=1e-4, atol=1e-5)
        places = [(n, 2 * n % 8, (3 + n) % 8, 0) for n in range(count)] + [(count - 1, 0, 7, 0), (0, 4, 4, 0)]

        def value(x: Array, objective: Any = objective, labels: Array = labels) -> float:
            return float(objective(forward(build.architecture, weights, x, training=False), labels))

        assert gradient.shape == images.shape
        np.testing.assert_allclose(
            [gradient[place] for place in places], finite_differences(value, images, places), rtol=2e-3, atol=1e-5
        )


@pytest.mark.parametrize(("one", "other"), list(combinations(BACKENDS, 2)))
@pytest.mark.parametrize("case", ["small", "without norm"])
def test_gradients_in_the_images_are_the_same(one: str, other: str, case: str, of: Any) -> None:
    for (_, gradient), (_, expected) in zip(
        called(of(one), case, "input_gradient"), called(of(other), case, "input_gradient"), strict=True
    ):
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_mixed_precision_is_near_and_returns_float32(backend: str, of: Any) -> None:
    mixed, exact = losses(of(backend), "mixed"), losses(of(backend), "small")
    assert mixed.dtype == exact.dtype == np.float32
    np.testing.assert_allclose(mixed, exact, rtol=0.03)
    assert np.all(mixed != exact)
    assert called(of(backend), "mixed", "logits")[0].dtype == np.float32
    logits, gradient = called(of(backend), "mixed", "input_gradient")[0]
    assert logits.dtype == gradient.dtype == np.float32
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("case", ["without norm", "dice"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_loss_alone_is_timed(backend: str, case: str, of: Any) -> None:
    (seconds,) = called(of(backend), case, "loss_seconds")
    assert 1e-6 < seconds < 1.0
