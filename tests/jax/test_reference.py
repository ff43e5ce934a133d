"""The JAX losses are what the reference says, value and gradient."""

from __future__ import annotations

import functools

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")
import jax.numpy as jnp

import hemspec
import hemspec.jax
from hemspec.jax import dice_loss, focal_loss, hem_loss, logit_adjusted_loss, logit_norm_loss, multi_margin_loss


def agree(got, expected, tolerance) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.shape == np.shape(theirs)
        np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, rtol=tolerance, atol=tolerance)


def special(batch):
    """Rows with NaN and infinities: ignored, weighted 0, and valid."""
    logits, labels = batch.logits.copy(), batch.labels.copy()
    logits[0, :, 1], logits[1, :, 1] = np.nan, np.inf  # ignored; of weight 0
    logits[0, 2, 0] = np.nan
    logits[1, :, 0], labels[1, 0] = [-np.inf, 1.0, 2.0, 3.0, 0.5], 0  # the true class is masked
    logits[2, :, 2], labels[2, 2] = [-np.inf, 1.0, 2.0, 3.0, 0.5], 2  # a rival is masked
    logits[2, :, 0], labels[2, 0] = [-np.inf, 1.0, -np.inf, -np.inf, -np.inf], 1  # every rival is masked
    logits[3, 3, 1], labels[3, 1] = np.inf, 3
    logits[3, 4, 0], labels[3, 0] = np.inf, 0
    return logits, labels


def test_float64(loss, batch) -> None:
    with jax.enable_x64(True):
        for logits, labels in ((batch.logits, batch.labels), special(batch)):
            args = logits.astype(np.float64), labels, batch.weights.astype(np.float64), batch.mask
            for reduction, got in loss.evaluate(*args).items():
                assert {x.dtype.name for x in got} == {"float64"}
                agree(got, loss.expected(*args[:2], sample_weight=args[2], axis=1, reduction=reduction), 1e-12)


def test_float32(loss, batch) -> None:
    for logits, labels in ((batch.logits, batch.labels), special(batch)):
        for reduction, got in loss.evaluate(logits, labels, batch.weights, batch.mask).items():
            assert {x.dtype.name for x in got} == {"float32"}
            agree(got, loss.expected(logits, labels, sample_weight=batch.weights, axis=1, reduction=reduction), 2e-5)


def test_a_mask_leaves_the_subset(loss, batch) -> None:
    """``where`` is a weight of 0, whatever logits, label and weight hold there."""
    logits, labels, weights, mask = (array.copy() for array in batch.all)
    logits[3], labels[3], weights[3], mask[3] = np.nan, 77, np.nan, False
    results = loss.evaluate(logits, labels, weights, mask)
    for reduction, (value, gradient) in results.items():
        subset = loss.expected(logits[:3], labels[:3], sample_weight=weights[:3], axis=1, reduction=reduction)
        agree([value if reduction != "none" else value[:3] if value.ndim else value, gradient[:3]], subset, 2e-5)
        assert not np.any(gradient[3])


def test_nothing_valid_costs_nothing(loss, batch) -> None:
    logits, labels = np.full_like(batch.logits, np.nan), np.full_like(batch.labels, -100)
    for value, gradient in loss.evaluate(logits, labels, batch.weights, batch.mask).values():
        assert not np.any(value)
        assert not np.any(gradient)


@pytest.mark.parametrize("name", ["hem_loss", "dice_loss"])
def test_other_shapes(losses, name) -> None:
    """One position, and no position at all."""
    loss, one = losses[name], np.array([0.5, 2.0, -1.0, 0.0, 1.0], np.float32)
    for logits, labels in ((one, np.array(2)), (np.zeros((0, 5), np.float32), np.zeros(0, np.int32))):
        for reduction, got in loss.evaluate(logits, labels).items():
            agree(got, loss.expected(logits, labels, axis=min(1, labels.ndim), reduction=reduction), 1e-5)


@pytest.mark.parametrize(
    ("name", "dtype", "step"),
    [("hem_loss", "bfloat16", 2.0**-7), ("dice_loss", "bfloat16", 2.0**-7), ("logit_norm_loss", "float16", 2.0**-10)],
)
def test_half_precision_is_computed_in_float32(losses, batch, name, dtype, step) -> None:
    loss, logits = losses[name], batch.logits.astype(jnp.dtype(dtype))
    for reduction, (value, gradient) in loss.evaluate(logits, *batch.all[1:]).items():
        expected, slopes = loss.expected(
            logits.astype(np.float32), batch.labels, sample_weight=batch.weights, axis=1, reduction=reduction
        )
        assert (value.dtype.name, gradient.dtype.name) == ("float32", dtype)
        agree([value], [expected], 2e-5)
        agree([gradient], [slopes], step)


@pytest.mark.parametrize("x64", [False, True])
def test_the_dtype_follows_the_logits_alone(loss, batch, x64) -> None:
    given = batch.logits, batch.labels.astype(np.int64), batch.weights.astype(np.float64)

    def terms(logits, labels, weights):
        return loss.terms(logits, labels, sample_weight=weights, axis=1, reduction="mean")

    with jax.enable_x64(x64):
        assert {shape.dtype.name for shape in jax.eval_shape(terms, *given)} == {"float32"}
        double = jax.eval_shape(terms, given[0].astype(np.float64), *given[1:])
        assert {shape.dtype.name for shape in double} == {"float64" if x64 else "float32"}


def test_a_kink_has_no_gradient() -> None:
    logits, labels = jnp.array([[1.0, 0.0, 0.0]]), jnp.array([0])  # both errors are exactly 0
    for function in (hem_loss, multi_margin_loss):
        assert not np.any(jax.jit(jax.grad(function))(logits, labels))


def test_a_tie_with_the_mean_error_is_kept() -> None:
    errors = jnp.array([[0.0, 3.0, 5.0, 6.0, 5.0, 1.0, 1.0]])  # their mean, the zero included, is 3
    assert float(jax.jit(hem_loss, static_argnames="margin")(errors, jnp.array([0]), margin=0.0)) == 4.75


@pytest.mark.parametrize("size", [1_000, 32_768])
def test_equal_errors_all_stay(size) -> None:
    compiled = jax.jit(jax.value_and_grad(hem_loss))
    for offset in np.random.default_rng(0).normal(size=8).astype(np.float32):
        logits = jnp.full((1, size), offset).at[0, 0].set(0.1)
        value, gradient = compiled(logits, np.array([0]))
        np.testing.assert_allclose(value, offset - np.float32(0.1) + 1.0, rtol=1e-4)
        assert int(jnp.sum(gradient > 0)) == size - 1


def test_focal_loss_is_finite_everywhere() -> None:
    logits = jnp.array([[200.0, 0.0, -50.0], [-200.0, 0.0, 1e4], [0.0, 0.0, 0.0], [3e38, -3e38, 0.0]])
    compiled = jax.jit(jax.value_and_grad(lambda z, gamma: focal_loss(z, np.array([0, 0, 1, 0]), gamma=gamma)))
    for gamma in (0.0, 0.5, 1.0, 2.0):
        value, gradient = compiled(logits, gamma)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_logit_norm_of_any_size(size) -> None:
    logits, labels = np.array([[3.0, 4.0, -1.0]], np.float32) * np.float32(size), np.array([1])
    value, gradient = jax.jit(jax.value_and_grad(logit_norm_loss))(logits, labels)
    np.testing.assert_allclose(value, hemspec.logit_norm_loss(logits, labels), rtol=1e-5)
    np.testing.assert_allclose(gradient, hemspec.logit_norm_loss.gradient(logits, labels), rtol=1e-4, atol=1e-37)


def test_numbers_keep_their_digits_on_the_way(batch) -> None:
    """A log prior in float64, rounded once: counts beyond float32 differ by one in their last digit."""
    counts = np.array([1, 2**24 + 1, 2**30 + 1, 3, 7], np.int64)
    value = logit_adjusted_loss(batch.logits, batch.labels, class_counts=counts, axis=1, reduction="none")
    expected = hemspec.logit_adjusted_loss(batch.logits, batch.labels, class_counts=counts, axis=1, reduction="none")
    np.testing.assert_allclose(value, expected, rtol=3e-7, atol=1e-6)


def test_constants_have_no_gradient(batch) -> None:
    ones = jnp.ones(5)
    for function, constants in (
        (hem_loss, {"margin": ones}),
        (focal_loss, {"gamma": 2.0, "alpha": ones}),
        (logit_norm_loss, {"temperature": 0.5}),
        (logit_adjusted_loss, {"class_counts": ones, "temperature": 1.0}),
        (dice_loss, {"smooth": 1.0}),
    ):

        def of_constants(constants, weights, function=function):
            return function(batch.logits, batch.labels, axis=1, sample_weight=weights, **constants)

        slopes = jax.jit(jax.grad(of_constants, argnums=(0, 1)))(constants, batch.weights)
        assert not any(np.any(slope) for slope in jax.tree.leaves(slopes)), function.__name__


@pytest.mark.finding(9)
def test_nothing_of_float32_asks_for_float64(loss, batch) -> None:
    """Constants are read in float64 on the host and rounded there. JAX warns of who asks, which is an error here."""
    slopes = jax.value_and_grad(lambda z, y, w: loss(z, y, sample_weight=w, axis=1))
    traced = jax.make_jaxpr(slopes)(*batch.all[:3])
    known = jax.make_jaxpr(lambda z: slopes(z, batch.labels, batch.weights.astype(np.float64)))(batch.logits)
    assert "f64" not in f"{traced} {known}"
    assert not any(np.asarray(constant).dtype == np.float64 for constant in [*traced.consts, *known.consts])


@pytest.mark.finding(2)
def test_no_number_of_positions_changes_the_mean(losses) -> None:
    """Equal positions, so that whatever is lost in a sum is lost in the same direction each time."""
    row, size = np.array([0.7, 0.1], np.float32), (1, 2048, 1024)
    logits = np.broadcast_to(row.reshape(1, 2, 1, 1), (1, 2, *size[1:])).copy()
    labels, weights = np.zeros(size, np.int32), np.full(size, 0.1, np.float32)
    names = ("hem_loss", "multi_margin_loss", "cross_entropy_loss", "focal_loss")
    functions = {name: functools.partial(getattr(hemspec.jax, name), axis=1) for name in (*names, "dice_loss")}
    compiled = jax.jit(lambda z, y, w: {name: f(z, y, sample_weight=w) for name, f in functions.items()})
    for name, value in compiled(logits, labels, weights).items():
        if name == "dice_loss":
            p = 1 / (1 + np.exp(-0.6))
            expected = 1 - 2 * p / (p + 1)
        else:
            expected = getattr(hemspec, name)(row[None].astype(float), labels[0, 0, :1])
        np.testing.assert_allclose(value, expected, rtol=1e-5, err_msg=name)
