"""Pure functions under JAX's transformations: the same numbers however they are asked for."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")
import jax.numpy as jnp
from jax import export

from hemspec.jax import focal_loss, hem_loss


def test_jit_is_eager(loss, batch) -> None:
    compiled = loss.evaluate(*batch.all)
    for reduction in loss.reductions:
        eager = loss(batch.logits, batch.labels, axis=1, sample_weight=batch.weights, reduction=reduction)
        np.testing.assert_allclose(compiled[reduction][0], eager, rtol=1e-5, atol=1e-6)


def test_vmap_is_a_batch(loss, batch) -> None:
    """One position at a time: for Dice, one image."""
    if loss.constants.get("batch"):
        pytest.skip("the batch is one image, it has no parts")
    parts = jax.vmap(lambda z, y, w: loss(z[None], y[None], axis=1, sample_weight=w[None], reduction="none")[0])
    whole, _ = loss.evaluate(*batch.all)["none"]
    np.testing.assert_allclose(jax.jit(parts)(*batch.all[:3]), whole, rtol=1e-5, atol=1e-6)


def test_a_vector_of_losses_over_a_vector_of_margins(batch) -> None:
    """Anything may be mapped over, labels may be shared."""
    margins = np.array([0.0, 0.5, 2.0], np.float32)
    each = [hem_loss(batch.logits, batch.labels, margin=margin, axis=1) for margin in margins]
    together = jax.jit(jax.vmap(lambda margin: hem_loss(batch.logits, batch.labels, margin=margin, axis=1)))
    np.testing.assert_allclose(together(margins), each, rtol=1e-5)


def test_checkpoint_changes_nothing(losses, batch) -> None:
    for name in ("hem_loss", "logit_norm_loss", "dice_loss"):
        value = jax.checkpoint(lambda *args, f=losses[name]: f(*args[:2], sample_weight=args[2], axis=1))
        value_and_gradient = jax.jit(jax.value_and_grad(value))(*batch.all[:3])
        default = losses[name].reductions[-1]
        for got, expected in zip(value_and_gradient, losses[name].evaluate(*batch.all)[default], strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_forward_mode_is_reverse_mode(loss, batch) -> None:
    direction = np.random.default_rng(1).normal(size=batch.logits.shape).astype(np.float32)

    def derivative(logits):
        def value(z):
            return loss(z, batch.labels, axis=1, sample_weight=batch.weights, reduction="sum")

        return jax.jvp(value, (logits,), (direction,))[1]

    _, gradient = loss.evaluate(*batch.all)["sum"]
    np.testing.assert_allclose(jax.jit(derivative)(batch.logits), np.sum(gradient * direction), rtol=1e-4)


def test_forward_mode_survives_an_infinite_loss() -> None:
    def derivative(logits):
        return jax.jvp(lambda z: focal_loss(z, np.array([0])), (logits,), (jnp.ones((1, 3)),))

    value, slope = jax.jit(derivative)(np.array([[-np.inf, 1.0, 2.0]], np.float32))
    assert value == np.inf
    np.testing.assert_allclose(slope, 0.0, atol=1e-6)


def test_eval_shape(loss) -> None:
    logits, labels = jax.ShapeDtypeStruct((4, 3, 5), jnp.bfloat16), jax.ShapeDtypeStruct((4, 3), jnp.uint8)
    per_image = () if loss.constants.get("batch") else (4,)
    shapes = {"none": per_image if loss.name == "dice_loss" else (4, 3), "sum": (), "mean": ()}
    for reduction, shape in shapes.items():
        result = jax.eval_shape(lambda z, y, r=reduction: loss(z, y, reduction=r), logits, labels)
        assert (result.shape, result.dtype.name) == (shape, "float32")


@pytest.mark.parametrize("ignore_index", [None, -100])
def test_exports_with_a_symbolic_batch_size(loss, ignore_index) -> None:
    (size,) = export.symbolic_shape("b")
    logits = jax.ShapeDtypeStruct((size, 3, 5), jnp.float32)
    labels = jax.ShapeDtypeStruct((size, 3), jnp.int32)
    exported = export.export(jax.jit(lambda z, y: loss(z, y, ignore_index=ignore_index)))(logits, labels)
    assert exported.out_avals[0].shape == ()


def test_terms_add_up_over_micro_batches(loss, batch) -> None:
    """Value and gradient of the whole batch from two halves."""
    if loss.constants.get("batch"):
        pytest.skip("the batch is one image, it has no parts")
    averages = loss.reductions[2:]

    @jax.jit
    def half(logits, labels, weights):
        def terms(z, reduction):
            return loss.terms(z, labels, axis=1, sample_weight=weights, reduction=reduction)

        slopes = jax.value_and_grad(terms, has_aux=True)
        return {reduction: slopes(logits, reduction) for reduction in averages}

    halves = [half(*(array[rows] for array in batch.all[:3])) for rows in (slice(0, 2), slice(2, 4))]
    for reduction in averages:
        numerator, denominator = (sum(terms) for terms in zip(*(part[reduction][0] for part in halves), strict=True))
        slopes = np.concatenate([part[reduction][1] for part in halves])
        value, gradient = loss.evaluate(*batch.all)[reduction]
        np.testing.assert_allclose(numerator / denominator, value, rtol=1e-5)
        np.testing.assert_allclose(slopes / denominator, gradient, rtol=1e-5, atol=1e-6)


def test_a_mask_has_the_shapes_of_a_weight(batch) -> None:
    rows = np.array([True, False, True, True])
    weighted = hem_loss(batch.logits, batch.labels, axis=1, sample_weight=rows)
    for mask in (rows, jnp.asarray(rows), np.broadcast_to(rows[:, None], batch.labels.shape)):
        assert hem_loss(batch.logits, batch.labels, axis=1, where=mask) == weighted
