"""Gradient accumulation: micro-batches give the gradient of the whole batch, for every loss and reduction."""

from __future__ import annotations

import functools

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")
import jax.numpy as jnp
from jax import lax

ROWS, DEPTH, CLASSES, MICRO = 8, 4, 5, 2


def batch():
    """Features, labels and weights of images of three positions. One micro-batch of two images has nothing valid."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(ROWS, 3, DEPTH)).astype(np.float32), rng.integers(0, CLASSES, (ROWS, 3)).astype(np.int32)
    w = rng.uniform(0.5, 2, (ROWS, 3)).astype(np.float32)
    y[0, 1], w[3, 2], y[4:6] = -100, 0, -100
    return x, y, w


@pytest.fixture(scope="module")
def reduced(losses):
    """By name and reduction, functions of ``(head, x, y, w)``: the loss, and a numerator with its denominator.

    A sum is one with a denominator of 1 for all micro-batches together.
    """

    def make(loss, reduction):
        def value(head, x, y, w):
            return loss(jnp.matmul(x, head), y, sample_weight=w, reduction=reduction)

        def terms(head, x, y, w):
            if reduction == "sum":
                return value(head, x, y, w), jnp.float32(MICRO / ROWS)
            return loss.terms(jnp.matmul(x, head), y, sample_weight=w, reduction=reduction)

        return value, terms

    return {(name, r): make(loss, r) for name, loss in losses.items() for r in loss.reductions[1:]}


@pytest.fixture(scope="module")
def head():
    return np.random.default_rng(1).normal(size=(DEPTH, CLASSES)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(reduced, head):
    """Gradients of the whole batch."""
    return jax.jit(lambda *args: {key: jax.grad(value)(*args) for key, (value, _) in reduced.items()})(head, *batch())


def of_micro_batch(terms, head, micro_batch):
    """What is added up: the numerator's gradient, and the denominator."""
    gradient, denominator = jax.grad(terms, has_aux=True)(head, *micro_batch)
    return gradient, denominator


def averaged(sums):
    """What there is nothing of has a gradient of 0."""
    gradient, denominator = sums
    return gradient / jnp.where(denominator == 0, 1.0, denominator)


def check(got, expected) -> None:
    for key, gradient in expected.items():
        np.testing.assert_allclose(got[key], gradient, rtol=2e-5, atol=1e-6, err_msg=str(key))


def test_in_a_loop(reduced, head, expected) -> None:
    @jax.jit
    def step(*micro_batch):
        return {key: of_micro_batch(terms, head, micro_batch) for key, (_, terms) in reduced.items()}

    parts = [step(*(array[i : i + MICRO] for array in batch())) for i in range(0, ROWS, MICRO)]
    sums = functools.reduce(lambda one, two: jax.tree.map(jnp.add, one, two), parts)
    check({key: averaged(pair) for key, pair in sums.items()}, expected)


def test_in_a_scan(reduced, head, expected) -> None:
    @jax.jit
    def step(head, *micro_batches):
        def add(sums, micro_batch):
            found = {key: of_micro_batch(terms, head, micro_batch) for key, (_, terms) in reduced.items()}
            return jax.tree.map(jnp.add, sums, found), None

        zeros = {key: (jnp.zeros_like(head), jnp.float32(0)) for key in reduced}
        sums, _ = lax.scan(add, zeros, micro_batches)
        return {key: averaged(pair) for key, pair in sums.items()}

    check(step(head, *(array.reshape(-1, MICRO, *array.shape[1:]) for array in batch())), expected)


def test_an_average_of_averages_is_not_the_average(reduced, head, expected) -> None:
    """So `optax.MultiSteps` alone, which averages gradients, does not do: micro-batches have more or less to say."""
    value = reduced["hem_loss", "active_mean"][0]
    gradient = jax.jit(jax.grad(value))
    parts = [gradient(head, *(array[i : i + MICRO] for array in batch())) for i in range(0, ROWS, MICRO)]
    exact = expected["hem_loss", "active_mean"]
    assert np.linalg.norm(sum(parts) / len(parts) - exact) > 0.1 * np.linalg.norm(exact)
