"""On finite, valid input nothing is NaN or infinite, so that the tools that hunt one can be used on any model."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")
import jax.numpy as jnp

from hemspec.jax import hem_diagnostics, linear_hem_loss


@pytest.fixture(autouse=True)
def hunt():
    """Operation by operation, as JAX goes itself once something in a compiled function was not finite."""
    with jax.debug_nans(True), jax.debug_infs(True), jax.disable_jit():
        yield


def large(batch):
    """Of any size whose difference is finite, so that probabilities round to 0 and 1."""
    return batch.logits * np.array([1e-3, 1.0, 1e2, 1e4], np.float32).reshape(4, 1, 1)


@pytest.mark.finding(10)
def test_no_loss_makes_what_is_not_finite(loss, batch) -> None:
    labels, weights = jnp.asarray(batch.labels), jnp.asarray(batch.weights)
    for reduction in ("none", loss.reductions[-1]):

        def total(z, reduction=reduction):
            return jnp.sum(loss(z, labels, axis=1, sample_weight=weights, reduction=reduction))

        assert np.isfinite(jax.grad(total)(jnp.asarray(large(batch)))).all()


@pytest.mark.finding(10)
def test_no_traced_constant_does(batch) -> None:
    """Nothing that cannot be read becomes NaN before it is bad."""
    z, y = large(batch), batch.labels

    def total(margin, weights):
        figures = hem_diagnostics(z, y, margin=margin, sample_weight=weights, axis=1)
        return figures["kept_errors"]

    assert np.isfinite(jax.vmap(total)(jnp.ones(1), jnp.asarray(batch.weights)[None])).all()


@pytest.mark.finding(10)
def test_no_head_does() -> None:
    x, kernel = jnp.ones((3, 2)), jnp.asarray(np.eye(2, 9, dtype=np.float32))
    assert np.isfinite(jax.grad(linear_hem_loss, argnums=1)(x, kernel, np.array([0, -100, 8]))).all()


@pytest.mark.finding(10)
def test_the_hunt_finds_what_is_bad(batch) -> None:
    """So this file can fail."""
    with pytest.raises(FloatingPointError):
        linear_hem_loss(jnp.full((3, 2), 1e38), jnp.full((2, 9), 1e38), np.array([0, 1, 2]))
