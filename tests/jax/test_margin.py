"""The passes of HEM and multi-class margin loss: block edges, ties, what is not finite, and what the compiler makes."""

from __future__ import annotations

import re

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")
import jax.numpy as jnp
from jax import export

import hemspec.jax
from hemspec_jax import margin as passes

BLOCKWISE, PLAIN = passes.BLOCKWISE, passes.PLAIN
PATTERN = np.array([0.0, 3.0, 5.0, 6.0, 5.0, 1.0, 1.0], np.float32)
"""Errors whose mean is exactly 3."""


@pytest.fixture(params=["blockwise", "plain"])
def adder(request, monkeypatch):
    """The sums of a CPU, and those of an accelerator on the CPU."""
    chosen = {"blockwise": BLOCKWISE, "plain": PLAIN}[request.param]
    monkeypatch.setattr(passes, "BLOCKWISE", chosen)
    passes.kept_mean.clear_cache()
    yield chosen
    passes.kept_mean.clear_cache()


def evaluate(name, logits, labels, axis=-1, **options):
    """Value for each position and gradient of their sum, with everything traced."""

    def total(logits, labels, options):
        values = getattr(hemspec.jax, name)(logits, labels, axis=axis, reduction="none", **options)
        return jnp.sum(values), values

    gradient, values = jax.jit(jax.grad(total, has_aux=True))(logits, labels, options)
    return values, gradient


def agree(logits, labels, names=("hem_loss", "multi_margin_loss"), tolerance=2e-6, **options) -> None:
    exact = np.asarray(logits, np.float64)
    for name in names:
        function = getattr(hemspec, name)
        values, gradient = evaluate(name, logits, labels, **options)
        expected = function(exact, labels, reduction="none", **options)
        np.testing.assert_allclose(values, expected, rtol=tolerance)
        slopes = function.gradient(exact, labels, reduction="none", **options)
        step = 2.0**-7 if gradient.dtype == jnp.bfloat16 else tolerance
        np.testing.assert_allclose(np.asarray(gradient, np.float64), slopes, rtol=step, atol=1e-12)


def batch(classes, rows=3):
    """Multiples of 1/64, so that sums are exact; no error lies so near the mean that a rounding of it could decide."""
    random = np.random.default_rng(classes)
    logits = np.round(random.normal(0.0, 1.5, (rows, classes)) * 64) / 64
    return logits.astype(np.float32), random.integers(0, classes, rows).astype(np.int32)


# Uncut up to 24; blocks that leave nothing over, or something; blocks of sums; the last few classes.
@pytest.mark.parametrize("classes", [2, 24, 25, 41, 400, 499, 1_003, 9_973])
def test_any_number_of_classes(classes) -> None:
    logits, labels = batch(classes)
    labels[0], labels[1] = 0, classes - 1
    agree(logits, labels)


@pytest.mark.parametrize("classes", [23, 1_003])
def test_weights_margins_and_ignored_positions(classes, adder) -> None:
    logits, labels = batch(classes, rows=6)
    logits[2], labels[2] = np.nan, -100
    logits[4, 0] = np.nan
    margins = np.random.default_rng(0).integers(0, 128, classes).astype(np.float32) / 64
    weights = np.array([1.0, 2.0, 3.0, 0.0, 0.0, 0.5], np.float32)
    agree(logits, labels, margin=margins, sample_weight=weights)
    agree(np.asarray(jnp.asarray(logits, jnp.bfloat16)), labels, margin=margins, sample_weight=weights)


def test_one_row_of_a_vocabulary(adder) -> None:
    agree(*batch(131_072, rows=1))


def test_class_axis_in_front() -> None:
    logits, labels = batch(41, rows=6)
    logits, labels = logits.reshape(2, 3, 41), labels.reshape(2, 3)
    values, gradient = evaluate("hem_loss", logits, labels)
    for axis in (0, 1):
        moved = evaluate("hem_loss", np.moveaxis(logits, -1, axis), labels, axis=axis)
        np.testing.assert_allclose(moved[0], values, rtol=1e-6)
        np.testing.assert_allclose(np.moveaxis(moved[1], axis, -1), gradient, rtol=1e-6)


@pytest.mark.parametrize("repeats", [1, 2, 11, 143, 601])
def test_a_tie_with_the_mean_at_any_number_of_classes(repeats, adder) -> None:
    """Under XLA an error divided by 7 is one times 1 / 7, and no longer the mean."""
    errors = np.tile(PATTERN, repeats)[None]
    values, gradient = evaluate("hem_loss", errors, np.array([0]), margin=np.float32(0))
    np.testing.assert_allclose(values, 4.75, rtol=1e-6 if repeats > 500 else 0)
    np.testing.assert_array_equal(gradient[0] > 0, errors[0] >= 3)


@pytest.mark.parametrize("classes", [20, 1_000, 4_095, 4_097, 131_072, 300_000])
def test_nearly_equal_errors_all_stay(classes, adder) -> None:
    """Of equal errors no rounded mean is larger, and one that is a little larger does not drive out the others."""
    errors = np.full((3, classes), np.float32(0.7), np.float32)
    errors[1, -1] *= 1 + 2e-7
    errors[2, classes // 2] *= 1.25
    errors[:, 0] = 0.0
    _, gradient = evaluate("hem_loss", errors, np.zeros(3, np.int32), margin=np.float32(0))
    np.testing.assert_array_equal((np.asarray(gradient) > 0).sum(1), classes - 1)


@pytest.mark.parametrize("classes", [5, 41, 5_003])
def test_what_is_not_finite(classes, adder) -> None:
    logits, _ = batch(classes, rows=8)
    labels = np.zeros(8, np.int32)
    logits[0, 3] = np.nan
    logits[1, 0] = np.nan
    logits[2, 3] = np.inf
    logits[3, 3:5] = np.inf, np.nan
    logits[4, [0, 3]] = np.inf
    logits[5, 0] = np.inf
    logits[6, 0] = -np.inf
    logits[7, 2:] = -np.inf
    agree(logits, labels)


@pytest.mark.parametrize("classes", [5, 41, 5_003])
def test_sums_beyond_the_largest_number(classes, adder) -> None:
    """The sum of the errors overflows, their mean does not, and the kept ones are those that reach it."""
    logits, labels = batch(classes)
    _, gradient = evaluate("hem_loss", logits, labels)
    assert jnp.isfinite(gradient).all()
    _, large = evaluate("hem_loss", logits * np.float32(2.0**124), labels, margin=np.float32(2.0**124))
    np.testing.assert_array_equal(large, gradient)


def test_second_derivatives_are_zero() -> None:
    logits, labels = batch(41)
    for name in ("hem_loss", "multi_margin_loss"):
        slope = jax.grad(lambda z, name=name: getattr(hemspec.jax, name)(z, labels))
        _, curvature = jax.jit(lambda z, slope=slope: jax.jvp(slope, (z,), (z,)))(logits)
        assert not np.any(curvature)


@pytest.mark.parametrize("name", ["hem_loss", "multi_margin_loss"])
@pytest.mark.parametrize("shape", [(4_096, 21), (512, 1_003)])
def test_only_the_gradient_has_the_size_of_the_logits(name, shape) -> None:
    """In what XLA makes for a CPU; of plain operations it makes three or four such arrays."""
    logits, labels = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    step = jax.jit(jax.value_and_grad(getattr(hemspec.jax, name)))
    compiled = step.trace(logits, labels).lower(lowering_platforms=("cpu",)).compile()
    main = compiled.as_text().split("ENTRY")[1]
    computed = re.findall(rf"= f32\[{shape[0]},{shape[1]}\]\S* (?!parameter)", main)
    assert len(computed) == 1
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes + memory.output_size_in_bytes <= 1.25 * 4 * np.prod(shape)


def test_an_accelerator_gets_plain_sums() -> None:
    """Whatever is here, the program for a GPU is not cut into blocks for a CPU."""
    # An odd number of classes, which four devices would not share: what they share is a cut of its own.
    logits, labels = jax.ShapeDtypeStruct((8, 999), jnp.float32), jax.ShapeDtypeStruct((8,), jnp.int32)
    step = jax.jit(jax.value_and_grad(hemspec.jax.hem_loss))
    text = {name: str(export.export(step, platforms=[name])(logits, labels).mlir_module()) for name in ("cpu", "cuda")}
    assert {name: "tensor<8x9x111xf32>" in program for name, program in text.items()} == {"cpu": True, "cuda": False}
    both = export.export(step, platforms=["cpu", "cuda"])(logits, labels)
    value, _ = both.call(*batch(999, rows=8))
    np.testing.assert_allclose(value, hemspec.jax.hem_loss(*batch(999, rows=8)), rtol=1e-6)
