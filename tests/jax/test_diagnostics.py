"""The diagnostics against the reference, everything traced."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")
import jax.numpy as jnp

import hemspec
from hemspec.jax import HEMLoss, hem_diagnostics, hem_loss

MARGINS = np.array([0.5, 2.0, 0.0, 1.0, 3.0], np.float32)


@pytest.fixture(scope="module")
def counted():
    """``counted(logits, labels, weights, mask, margins)``: the terms."""
    return jax.jit(lambda z, y, w, mask, m: hem_diagnostics.terms(z, y, axis=1, sample_weight=w, where=mask, margin=m))


def test_they_are_the_references(counted, batch) -> None:
    """Infinite errors are errors, masked classes are not; a NaN makes all three NaN where it exists."""
    z, y, w, _ = batch.all
    y[1, 1] = 17  # of weight 0
    infinite, masked = z.copy(), np.ones_like(y, bool)
    infinite[1, 3, 0], infinite[2, :3, 1], masked[3] = np.inf, -np.inf, False
    for logits in (z, infinite, *(np.where(np.arange(4)[:, None, None] == i, np.nan, z) for i in (0, 3))):
        got = counted(logits.astype(np.float32), y, w, masked, MARGINS)
        expected = hemspec.hem_diagnostics.terms(logits, y, axis=1, sample_weight=w * masked, margin=MARGINS)
        assert set(got) == set(expected)
        for name, pair in expected.items():
            np.testing.assert_allclose(got[name], pair, rtol=1e-6, err_msg=name)


def test_what_cannot_be_read_is_nan(counted, batch) -> None:
    z, y, w, mask = batch.all
    for changed in ((z, np.where(y == 2, -1, y), w, mask, MARGINS), (z, y, -w, mask, MARGINS), (*batch.all, -MARGINS)):
        assert all(np.isnan(numerator) for numerator, _ in counted(*changed).values())
    with pytest.raises(ValueError, match="margin must be finite"):
        hem_diagnostics(z, y, axis=1, margin=-1.0)


def test_the_class_has_its_own_margin(batch) -> None:
    z, y, w, mask = batch.all
    criterion = HEMLoss(margin=MARGINS, axis=1, ignore_index=3)
    expected = hem_diagnostics(z, y % 5, axis=1, margin=MARGINS, ignore_index=3, sample_weight=w, where=mask)
    assert criterion.diagnostics(z, y % 5, w, mask) == expected
    assert expected["active_fraction"] != HEMLoss(axis=1).diagnostics(z, y % 5, w)["active_fraction"]


def test_scalars_of_the_losss_dtype_without_gradient() -> None:
    z, y = np.zeros((2, 3), jnp.bfloat16), np.array([0, -100])
    slope, figures = jax.grad(lambda z: (sum(hem_diagnostics(z, y).values()), hem_diagnostics(z, y)), has_aux=True)(z)
    assert not slope.any()
    assert [(figure.dtype, figure.shape) for figure in figures.values()] == [(jnp.float32, ())] * 3
    assert set(map(float, hem_diagnostics(z, np.array([-100, -100])).values())) == {0.0}


def test_arguments_are_those_of_the_loss() -> None:
    shared = [name for name in inspect.signature(hem_loss).parameters if name != "reduction"]
    assert list(inspect.signature(hem_diagnostics).parameters) == shared
