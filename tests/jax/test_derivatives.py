"""Derivatives of any order and nesting are those of the same losses in plain operations.

Most of it goes operation by operation, which costs no compilation. What JAX does to custom rules under `jit`, `scan`
and `checkpoint` has tests of its own.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")
import jax.numpy as jnp
from jax import lax

import hemspec.jax
from hemspec.jax import hem_loss

CONSTANTS = {
    "hem_loss": {"margin": [1.0, 0.3, 2.0, 0.7]},
    "multi_margin_loss": {"margin": 0.8},
    "cross_entropy_loss": {},
    "focal_loss": {"gamma": 1.5, "alpha": [1.0, 2.0, 3.0, 0.5]},
    "logit_norm_loss": {"temperature": 0.3},
    "logit_adjusted_loss": {"class_counts": [1, 20, 3, 4]},
    "dice_loss": {"smooth": 0.5},
}
RANDOM = np.random.default_rng(0)
LOGITS, DIRECTION = RANDOM.normal(size=(2, 4, 4))
LABELS, WEIGHTS = np.array([0, 2, -100, 3]), np.array([1.0, 2.0, 1.0, 0.5])


def per_position(name, z):
    """The loss of each position of `LABELS`, as it is written in a book."""
    constants = CONSTANTS[name]
    true = jnp.asarray(np.eye(4)[np.maximum(LABELS, 0)])
    if name in ("hem_loss", "multi_margin_loss"):
        margins = np.broadcast_to(np.asarray(constants["margin"]), 4)[LABELS % 4]
        errors = z - jnp.sum(z * true, axis=1, keepdims=True) + margins.reshape(4, 1)
        errors = jnp.where((errors > 0) & (true == 0), errors, 0.0)
        if name == "multi_margin_loss":
            return jnp.sum(errors, axis=1) / 4
        kept = (errors > 0) & (errors >= jnp.mean(errors, axis=1, keepdims=True))
        return jnp.sum(jnp.where(kept, errors, 0.0), axis=1) / jnp.maximum(jnp.sum(kept, axis=1).astype(z.dtype), 1.0)
    if name == "logit_norm_loss":
        z = z / ((jnp.sqrt(jnp.sum(z * z, axis=1, keepdims=True)) + 1e-7) * constants["temperature"])
    if name == "logit_adjusted_loss":
        z = z + np.log(np.array(constants["class_counts"]) / 28).reshape(1, 4)
    if name == "dice_loss":
        p, weight = jax.nn.softmax(z, axis=1), WEIGHTS.reshape(4, 1)  # each row an image: of one class
        ratio = (2 * weight * p + 0.5) / (weight * p + weight + 0.5)
        return 1.0 - jnp.sum(ratio * true, axis=1)
    log_p = jnp.sum(jax.nn.log_softmax(z, axis=1) * true, axis=1)
    if name == "focal_loss":
        alpha = np.array(constants["alpha"])[LABELS % 4]
        return -alpha * (1.0 - jnp.exp(log_p)) ** constants["gamma"] * log_p
    return -log_p


def plain(name, reduction, z):
    values, weights = per_position(name, z), np.where(LABELS < 0, 0.0, WEIGHTS)
    if name == "dice_loss":
        weights = np.where(LABELS < 0, 0.0, 1.0)
    if reduction == "none":
        return values * weights
    total = jnp.sum(values * weights)
    if reduction == "sum":
        return total
    return total / jnp.sum(jnp.where((values > 0) | (reduction == "mean"), weights, 0.0))


def ours(name, reduction, z):
    return getattr(hemspec.jax, name)(z, LABELS, sample_weight=WEIGHTS, reduction=reduction, **CONSTANTS[name])


def of_terms(name, reduction, z):
    numerator, denominator = getattr(hemspec.jax, name).terms(
        z, LABELS, sample_weight=WEIGHTS, reduction=reduction, **CONSTANTS[name]
    )
    return numerator / denominator


def square(f):
    return lambda z: f(z) ** 2


def along(f, z):
    """The derivative in one direction. A whole Jacobian would take other shapes, each compiled for itself."""
    return jax.jvp(f, (z,), (jnp.asarray(DIRECTION),))[1]


NESTINGS = {
    "grad of value_and_grad": lambda f, z: jax.grad(lambda z: jax.value_and_grad(f)(z)[0])(z),
    "value, and penalty on the gradient": lambda f, z: jax.grad(
        lambda z: (lambda value, slope: value * jnp.sum(slope**2))(*jax.value_and_grad(f)(z))
    )(z),
    "reverse over reverse": lambda f, z: jax.grad(lambda z: jnp.sum(jax.grad(square(f))(z) * DIRECTION))(z),
    "forward over reverse": lambda f, z: along(jax.grad(lambda z: jnp.exp(f(z))), z),
    "reverse over forward": lambda f, z: jax.grad(lambda z: f(z) * along(f, z))(z),
    "forward over forward": lambda f, z: along(lambda z: along(square(f), z), z),
    "linearized gradient": lambda f, z: jax.linearize(jax.grad(square(f)), z)[1](jnp.asarray(DIRECTION)),
    "third order": lambda f, z: along(lambda z: along(jax.grad(lambda z: f(z) ** 3), z), z),
}


def agree(got, expected) -> None:
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.finding(1)
@pytest.mark.parametrize("name", CONSTANTS)
def test_every_nesting(name) -> None:
    z, reduction = jnp.asarray(LOGITS), "active_mean" if name == "hem_loss" else "mean"
    with jax.disable_jit():
        # All of them where there is a rule of our own, what is most asked for where the operations are JAX's.
        for nesting in list(NESTINGS.values())[: None if name in ("hem_loss", "multi_margin_loss") else 4]:
            got, expected = (nesting(partial(f, name, reduction), z) for f in (ours, plain))
            assert np.any(expected)
            agree(got, expected)
        agree(*(NESTINGS["grad of value_and_grad"](partial(f, name, "mean"), z) for f in (of_terms, plain)))


@pytest.mark.finding(1)
@pytest.mark.parametrize("name", CONSTANTS)
def test_a_gradient_is_linear_in_what_comes_in(name) -> None:
    """Given one by one, and mapped over: Jacobians, zeros, large ones, and a NaN that stays in its row."""
    incoming = np.concatenate([np.eye(4), np.zeros((1, 4)), 1e9 * RANDOM.normal(size=(2, 4))])
    with jax.disable_jit():
        pull, expected = (jax.vjp(partial(f, name, "none"), jnp.asarray(LOGITS))[1] for f in (ours, plain))
        expected = np.stack([expected(jnp.asarray(c))[0] for c in incoming])
        np.testing.assert_allclose(np.stack([pull(jnp.asarray(c))[0] for c in incoming]), expected, 1e-9, 1e-9)
        if name in ("hem_loss", "cross_entropy_loss"):
            np.testing.assert_allclose(jax.vmap(pull)(incoming)[0], expected, 1e-9, 1e-9)
            slopes = jax.jacfwd(partial(ours, name, "none"))(jnp.asarray(LOGITS))
            np.testing.assert_allclose(slopes, expected[:4], 1e-9, 1e-9)
        bad = pull(jnp.array([1.0, jnp.nan, 1.0, 1.0]))[0]
        assert np.isnan(bad).any(1).tolist() == [False, True, False, False]


@pytest.mark.finding(1)
def test_compiled_inside_of_what_drops_custom_rules() -> None:
    def in_scan(f, z):
        return jnp.sum(lax.scan(lambda c, _: (c + f(c), f(c) ** 2), z, None, length=2)[1])

    def second(f, z):
        kept_little = jax.checkpoint(square(f), policy=jax.checkpoint_policies.dots_saveable)
        return [along(jax.grad(g), z) for g in (partial(in_scan, f), kept_little)]

    agree(*(jax.jit(partial(second, partial(f, "hem_loss", "mean")))(LOGITS) for f in (ours, plain)))


@pytest.mark.finding(1)
def test_with_the_classes_over_shards() -> None:
    def total(z, name=None):
        return hem_loss(z, LABELS, sample_weight=WEIGHTS, class_axis_name=name, **CONSTANTS["hem_loss"])

    shards = jnp.stack(jnp.split(jnp.asarray(LOGITS), 2, axis=1))
    over = jax.vmap(partial(total, name="c"), axis_name="c")
    got = jax.jit(jax.grad(lambda z: jax.value_and_grad(lambda z: over(z)[0] ** 2)(z)[0]))(shards)
    expected = jax.grad(lambda z: plain("hem_loss", "active_mean", z) ** 2)(jnp.asarray(LOGITS))
    np.testing.assert_allclose(jnp.concatenate(list(got), axis=1), expected, 1e-9, 1e-9)
