"""Losses that others have written too: optax agrees where it means the same."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")
optax = pytest.importorskip("optax", reason="optax is not installed")
import jax.numpy as jnp

from hemspec.jax import cross_entropy_loss, dice_loss, focal_loss, logit_adjusted_loss, multi_margin_loss


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(3)
    return random.normal(0.0, 3.0, (6, 4, 7)).astype(np.float32), random.integers(0, 7, (6, 4))


@pytest.fixture(autouse=True)
def lenient():
    """optax relies on promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def agree(ours, theirs, *args) -> None:
    compiled = jax.jit(lambda *a: (jax.value_and_grad(ours)(*a), jax.value_and_grad(theirs)(*a)))
    for got, expected in zip(*compiled(*args), strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)


def test_cross_entropy(data) -> None:
    logits, labels = data
    integer = optax.softmax_cross_entropy_with_integer_labels
    agree(
        lambda z: cross_entropy_loss(z, labels),
        lambda z: jnp.mean(integer(z, labels)),
        logits,
    )
    np.testing.assert_allclose(
        cross_entropy_loss(logits, labels, reduction="none"), integer(logits, labels), rtol=1e-5, atol=1e-6
    )


def test_cross_entropy_of_masked_positions(data) -> None:
    logits, labels = data
    mask = np.random.default_rng(0).random(labels.shape) < 0.5
    integer = optax.softmax_cross_entropy_with_integer_labels
    agree(
        lambda z: cross_entropy_loss(z, labels, where=mask),
        lambda z: jnp.mean(integer(z, labels), where=mask),
        logits,
    )


def test_cross_entropy_with_the_class_axis_in_front(data) -> None:
    logits, labels = data
    integer = optax.softmax_cross_entropy_with_integer_labels
    agree(
        lambda z: cross_entropy_loss(jnp.moveaxis(z, -1, 0), labels, axis=0),
        lambda z: jnp.mean(integer(z, labels)),
        logits,
    )


def test_logit_adjustment_is_cross_entropy_of_shifted_logits(data) -> None:
    logits, labels = data
    counts = np.array([1, 2, 3, 40, 50, 600, 7])
    shift = np.log(counts / counts.sum()).astype(np.float32)
    integer = optax.softmax_cross_entropy_with_integer_labels
    agree(
        lambda z: logit_adjusted_loss(z, labels, class_counts=counts),
        lambda z: jnp.mean(integer(z + shift, labels)),
        logits,
    )


def test_focal_loss_of_two_classes_is_the_sigmoid_focal_loss(data) -> None:
    """A softmax over (0, z) is a sigmoid of z."""
    logits, labels = data[0][..., 0], data[1] % 2
    pair = lambda z: jnp.stack([jnp.zeros_like(z), z], axis=-1)  # noqa: E731
    agree(
        lambda z: focal_loss(pair(z), labels, gamma=2.0),
        lambda z: jnp.mean(optax.sigmoid_focal_loss(z, labels.astype(np.float32), gamma=2.0)),
        logits,
    )


def test_focal_loss_without_focus_is_cross_entropy(data) -> None:
    logits, labels = data
    agree(lambda z: focal_loss(z, labels, gamma=0.0), lambda z: cross_entropy_loss(z, labels), logits)


def test_multi_margin_loss_of_two_classes_is_half_a_hinge(data) -> None:
    logits, labels = data[0][..., 0], data[1] % 2
    pair = lambda z: jnp.stack([jnp.zeros_like(z), z], axis=-1)  # noqa: E731
    agree(
        lambda z: multi_margin_loss(pair(z), labels),
        lambda z: jnp.mean(optax.hinge_loss(z, 2.0 * labels.astype(np.float32) - 1.0)) / 2,
        logits,
    )


def test_dice_of_sure_predictions_counts_overlaps() -> None:
    labels = np.array([[0, 1, 1, 2]])
    logits = 100.0 * jax.nn.one_hot(np.array([[0, 1, 2, 2]]), 3)
    # Class 0: 2 * 1 / (1 + 1); class 1: 2 * 1 / (1 + 2); class 2: 2 * 1 / (2 + 1).
    np.testing.assert_allclose(dice_loss(logits, labels), 1 - (1 + 2 / 3 + 2 / 3) / 3, rtol=1e-6)
