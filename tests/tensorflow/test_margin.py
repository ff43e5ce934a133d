"""HEM and MM against the reference where `hemspec_tensorflow.margin` has its branches, each form in each context."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import hemspec

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
import tensorflow as tf

import hemspec.tensorflow
from hemspec_tensorflow import margin

LOSSES = ("hem_loss", "multi_margin_loss")
FORMS = ("in_place", "made_again")


def draw(shape: tuple[int, ...], seed: int = 0) -> tuple[Any, Any]:
    """Logits that are multiples of 1/64, so that errors and their sums are exact, and labels."""
    rng = np.random.default_rng(seed)
    return rng.integers(-128, 129, shape).astype(np.float32) / 64, rng.integers(0, shape[-1], shape[:-1])


def step(loss: str, *, xla: bool | None, **options: Any) -> Any:
    """Value and gradient, eagerly for `xla` None."""

    def value_and_gradient(z: Any, y: Any, w: Any = None) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = getattr(hemspec.tensorflow, loss)(z, y, sample_weight=w, **options)
        return value, tape.gradient(value, z)

    return value_and_gradient if xla is None else tf.function(value_and_gradient, jit_compile=xla)


def check(loss: str, z: Any, y: Any, w: Any = None, *, xla: bool | None, rtol: float = 1e-5, **options: Any) -> None:
    value, gradient = step(loss, xla=xla, **options)(
        tf.constant(z), tf.constant(y), None if w is None else tf.constant(w)
    )
    reference = getattr(hemspec, loss)
    np.testing.assert_allclose(value, reference(z, y, sample_weight=w, **options), rtol, rtol / 10)
    expected = reference.gradient(z, y, sample_weight=w, **options)
    np.testing.assert_allclose(gradient, expected, rtol, rtol / 10)


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either form wherever it is called, since tracing cannot know of every compiler that comes after it."""
    monkeypatch.setattr(margin, "compiled_by_xla", lambda: request.param == "made_again")
    return str(request.param)


@pytest.mark.parametrize("xla", [None, False, True], ids=["eager", "graph", "xla"])
@pytest.mark.parametrize("loss", LOSSES)
def test_each_form_in_each_context(form: str, loss: str, xla: bool | None) -> None:
    """Ties with the mean, bad rows, ignored ones that hold NaN, weights, a margin for each class."""
    z, y = draw((12, 7))
    z[0], y[0] = [0, 3, 5, 6, 5, 1, 1], 0
    z[1] = 0.25
    z[2, 3] = z[3, (y[3] + 1) % 7] = np.nan
    z[4, (y[4] + 2) % 7] = np.inf
    z[5, (y[5] + 2) % 7] = -np.inf
    z[6, y[6]] = -np.inf
    z[7], y[7] = np.nan, -100
    z[8] = -np.inf
    w = np.array([1, 2, 1, 1, 0.5, 1, 1, 1, 1, 0, 3, 1], np.float32)
    z[9] = np.inf  # of weight 0
    margins = np.array([0.0, 1.0, 0.5, 2.0, 0.25, 1.0, 1.5])
    check(loss, z, y, w, xla=xla, reduction="none", margin=margins)
    if not (form == "in_place" and xla):  # XLA makes a division by 7 a product: hence the other form
        check(loss, z[:2], y[:2], xla=xla, reduction="none", margin=0.0)
    check(loss, z[[0, 1, 5, 7, 10, 11]], y[[0, 1, 5, 7, 10, 11]], xla=xla)


@pytest.mark.parametrize("xla", [None, False, True], ids=["eager", "graph", "xla"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(3, 4095), (2, 65_536), (2, 131_072)])
def test_equal_errors_stay(shape: tuple[int, ...], loss: str, xla: bool | None) -> None:
    """A float32 mean of many equal errors can exceed them. A slightly larger error must not stand alone."""
    z, y = np.full(shape, 0.1, np.float32), np.zeros(shape[0], np.int64)
    z[-1, -1] = np.nextafter(np.float32(0.1), np.float32(1))
    check(loss, z, y, xla=xla, reduction="none", margin=0.7, rtol=2e-5)


@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(1, 2), (5, 1000), (2, 3, 5, 21), (2, 4096), (2, 4097)])
def test_shapes(shape: tuple[int, ...], loss: str, xla: bool) -> None:
    z, y = draw(shape)
    check(loss, z, y, xla=xla)


@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
def test_many_positions_add_up(xla: bool) -> None:
    """One by one in float32 they would be off in the fifth digit."""
    z, y = draw((1024, 3))
    check("multi_margin_loss", np.tile(z, (256, 1)), np.tile(y, 256), xla=xla, rtol=3e-6)


@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision(dtype: Any, xla: bool) -> None:
    z, y = draw((6, 9))
    half = tf.cast(z, dtype)
    value, gradient = step("hem_loss", xla=xla, reduction="sum")(half, tf.constant(y))
    exact = tf.cast(half, tf.float32).numpy()
    assert value.dtype == tf.float32
    assert gradient.dtype == dtype
    np.testing.assert_allclose(value, hemspec.hem_loss(exact, y, reduction="sum"), 1e-6)
    expected = hemspec.hem_loss.gradient(exact, y, reduction="sum")
    np.testing.assert_allclose(tf.cast(gradient, tf.float32), expected, 2.0**-8)


@pytest.mark.parametrize("xla", [None, False, True], ids=["eager", "graph", "xla"])
@pytest.mark.parametrize("loss", LOSSES)
def test_second_derivatives(loss: str, xla: bool | None) -> None:
    """The gradient is constant in the logits, linear in what comes from above, and goes on to what made the logits."""
    x, y = draw((6, 9))

    def derivatives(x: Any, upstream: Any) -> Any:
        with tf.GradientTape() as outer:
            outer.watch([x, upstream])
            with tf.GradientTape() as inner:
                inner.watch(x)
                values = getattr(hemspec.tensorflow, loss)(x**2, y, reduction="none")
            first = inner.gradient(values, x, upstream)
            norm = tf.reduce_sum(first**2)
        return first, *outer.gradient(norm, [x, upstream])

    function = derivatives if xla is None else tf.function(derivatives, jit_compile=xla)
    first, second, in_upstream = function(tf.constant(x, tf.float64), tf.ones(6, tf.float64))
    slope = getattr(hemspec, loss).gradient(x.astype(np.float64) ** 2, y, reduction="none")
    np.testing.assert_allclose(first, slope * 2 * x, 1e-12, 1e-12)
    np.testing.assert_allclose(second, 2 * (slope * 2) ** 2 * x, 1e-12, 1e-12)
    np.testing.assert_allclose(in_upstream, 2 * ((slope * 2 * x) ** 2).sum(1), 1e-12, 1e-12)


def test_a_nan_from_above_stays_out_of_what_does_not_exist() -> None:
    z, y = draw((3, 5))
    y[1] = -100
    with tf.GradientTape() as tape:
        logits = tf.Variable(z)
        loss = hemspec.tensorflow.hem_loss(logits, y, reduction="none") * np.nan
    gradient = tape.gradient(loss, logits).numpy()
    assert (gradient[1] == 0).all()
    assert np.isnan(gradient[[0, 2]]).all()


def test_xla_stores_nothing_of_the_logits_size_but_the_gradient() -> None:
    """Its optimised program has no other result of their shape outside of fusions."""
    z, y = draw((512, 300))
    compiled = step("hem_loss", xla=True).experimental_get_compiler_ir(tf.constant(z), tf.constant(y), None)(
        "optimized_hlo"
    )
    entry = compiled[compiled.index("ENTRY") :]
    made = re.findall(r"= (?:f32|pred)\[512,300\]\S* (\w+)", entry)
    assert made.count("parameter") == 1
    assert len(made) == 2, made


def test_outside_xla_operations_write_over_their_operand() -> None:
    """Whatever makes a tensor of the logits' size has one reader that comes last, and another one waits for none."""
    z, y = draw((8, 30))
    graph = step("hem_loss", xla=False).get_concrete_function(tf.constant(z), tf.constant(y)).graph
    sign = next(op for op in graph.get_operations() if op.type == "Sign" and op.outputs[0].shape == z.shape)
    readers = [op for op in sign.inputs[0].consumers() if op is not sign]
    assert readers
    assert set(readers) <= set(sign.control_inputs)
