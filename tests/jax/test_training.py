"""In a training loop: bfloat16, one trace for all batches, programs that are exported, the same bits again."""

from __future__ import annotations

import dataclasses
import functools
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")
import jax.numpy as jnp
from jax import export, lax

from hemspec.jax import HEMLoss, hem_loss

SEEDS, STEPS = 8, 500


def data(rows=40):
    rng = np.random.default_rng(0)
    head, x = rng.normal(size=(4, 5)).astype(np.float32), rng.normal(size=(rows, 4)).astype(np.float32)
    y, w = rng.integers(0, 5, rows).astype(np.int32), rng.uniform(0.5, 2, rows).astype(np.float32)
    y[3::7] = -100
    return {"head": head, "x": x, "y": y, "w": w}


def accuracies(train, test, dtype):
    """Of a small network with parameters in float32, trained with products in `dtype`, for several seeds."""

    def logits(parameters, x):
        hidden, out = (array.astype(dtype) for array in parameters)
        return jnp.matmul(jax.nn.relu(jnp.matmul(x.astype(dtype), hidden)), out)

    def step(state, batch):
        parameters, velocity = state
        rows, rate = batch
        slopes = jax.grad(lambda p: hem_loss(logits(p, train[0][rows]), train[1][rows]))(parameters)
        assert all(slope.dtype == jnp.float32 for slope in slopes)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, slopes)
        return (jax.tree.map(lambda p, v: p - rate * v, parameters, velocity), velocity), None

    @jax.jit
    def predict(parameters, rows):
        rates = jnp.linspace(0.02, 0.0, STEPS, dtype=jnp.float32)
        start = parameters, jax.tree.map(jnp.zeros_like, parameters)
        found = logits(lax.scan(step, start, (rows, rates))[0][0], test[0])
        assert found.dtype == dtype
        return jnp.argmax(found, -1)

    def one(seed):
        rng = np.random.default_rng(seed)
        start = [rng.normal(0, 0.2, shape).astype(np.float32) for shape in ((64, 32), (32, 10))]
        return np.mean(predict(start, rng.integers(0, len(train[0]), (STEPS, 64))) == test[1])

    return np.array([one(seed) for seed in range(SEEDS)])


def test_bfloat16_reaches_float32s_accuracy() -> None:
    """Within three standard errors of the difference of two such means, as the seeds of float32 give them."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    x, y = datasets.load_digits(return_X_y=True)
    x, y = (x / 16).astype(np.float32), y.astype(np.int32)
    order = np.random.default_rng(0).permutation(len(x))
    train, test = ([jnp.asarray(a[rows]) for a in (x, y)] for rows in (order[:1200], order[1200:]))
    single, half = (accuracies(train, test, dtype) for dtype in (jnp.float32, jnp.bfloat16))
    noise = np.std(single, ddof=1) * np.sqrt(2 / SEEDS)
    print(f"float32 {single.mean():.4f}, bfloat16 {half.mean():.4f}, standard error {noise:.4f}")
    assert single.mean() > 0.9
    assert half.mean() > single.mean() - 3 * noise


def test_one_trace_for_all_batches_of_a_shape() -> None:
    """Whatever is in them, NumPy's or JAX's arrays, with a loss made anew, and with another margin as an argument."""
    traces = []

    @jax.jit
    def step(criterion, margin, logits, labels, weights):
        traces.append(logits.shape)
        return jax.value_and_grad(dataclasses.replace(criterion, margin=margin))(logits, labels, weights)

    rng = np.random.default_rng(0)
    for i in range(6):
        z, y = rng.normal(size=(4, 5)).astype(np.float32), rng.integers(-1, 5, 4).astype(np.int32)
        w = (rng.random(4) < 0.3 * i).astype(np.float32)
        arrays = (z, y, w) if i % 2 else map(jnp.asarray, (z, y, w))
        step(HEMLoss(ignore_index=-1), 1.0 + i, *arrays)
    assert traces == [(4, 5)]


def test_the_gradient_may_take_the_logits_memory() -> None:
    """Donated logits are written over, and what comes out is what it was without."""
    values = {name: jnp.asarray(array) for name, array in data().items()}
    z = jnp.matmul(values["x"], values["head"])
    expected = jax.jit(jax.grad(hem_loss))(z, values["y"])
    donating = jax.jit(jax.grad(hem_loss), donate_argnums=0)
    assert donating.lower(z, values["y"]).compile().memory_analysis().alias_size_in_bytes == z.nbytes
    np.testing.assert_array_equal(donating(z, values["y"]), expected)
    assert z.is_deleted()


def loss(head, x, y, w):
    return hem_loss(jnp.matmul(x, head), y, sample_weight=w)


def training_step(head, x, y, w):
    value, slope = jax.value_and_grad(loss)(head, x, y, w)
    return head - 0.1 * slope, value


def test_a_fresh_process(tmp_path) -> None:
    """Programs exported for any batch size give there what they give here, and the same training the same bits."""
    inputs, program = data(), Path(__file__).with_name("fresh_process.py")
    (size,) = export.symbolic_shape("b")
    shapes = {"head": (4, 5), "x": (size, 4), "y": (size,), "w": (size,)}
    arguments = [jax.ShapeDtypeStruct(shape, inputs[name].dtype) for name, shape in shapes.items()]
    for function in (loss, training_step):
        exported = export.export(jax.jit(function))(*arguments)
        (tmp_path / f"{function.__name__}.exported").write_bytes(exported.serialize())
    np.savez(tmp_path / "inputs.npz", **inputs)
    run = subprocess.run([sys.executable, program, tmp_path], check=False, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    found = np.load(tmp_path / "outputs.npz")

    compared = 0
    for function, rows in ((f, n) for f in (loss, training_step) for n in (1, 6, 40)):
        batch = [inputs[name][:rows] for name in ("x", "y", "w")]
        for place, result in enumerate(jax.tree.leaves(jax.jit(function)(inputs["head"], *batch))):
            np.testing.assert_allclose(found[f"{function.__name__} {rows} {place}"], result, rtol=1e-6)
            compared += 1
    assert compared == 9

    train = functools.partial(runpy.run_path(str(program))["train"], inputs)
    here, again = train(), train()
    assert len(here) == 4
    for name, head in here.items():
        assert np.array_equal(head, again[name]), name
        assert np.array_equal(head, found[name]), name
