"""Derivatives nest through the Keras losses, in whatever way the backend differentiates."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import hemspec

pytest.importorskip("keras", reason="Keras is not installed")
pytest.importorskip(os.environ["KERAS_BACKEND"], reason="the backend that KERAS_BACKEND names is not installed")
from keras import ops

import hemspec.keras

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "hem": ("HEMLoss", "hem_loss", {"margin": [0.5, 1.0, 2.0, 0.75]}),
    "focal": ("FocalLoss", "focal_loss", {"alpha": [1.0, 2.0, 0.5, 3.0]}),
    "dice": ("DiceLoss", "dice_loss", {"smooth": 0.5}),
}
Z = np.array([[0.3, 2.1, -0.4, 1.2], [1.0, 0.1, 0.7, -0.6], [0.0, 0.0, 9.0, 0.0], [-0.2, 0.9, 0.5, 1.1]])
Y, W = np.array([0, 2, 1, 3]), np.array([1.0, 2.0, 1.0, 0.5])
V = np.array([[0.2, -0.5, 1.0, 0.4], [-1.0, 0.3, 0.8, 0.1], [1.0, 1.0, 1.0, 1.0], [0.6, -0.7, 0.2, 0.9]])


def value_and_gradient(f: Any, z: Any, backend: str) -> tuple[Any, Any]:
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(z)
            value = f(z)
        return value, tape.gradient(value, z)
    if backend == "jax":
        import jax

        return jax.value_and_grad(f)(z)  # type: ignore[no-any-return]
    import torch

    z.requires_grad_()
    value = f(z)
    return value, torch.autograd.grad(value, z, create_graph=True)[0]


@pytest.mark.finding(1)
@pytest.mark.parametrize("case", CASES)
def test_derivatives_nest(backend: str, case: str) -> None:
    """A value and its gradient inside another gradient, and the gradient of a gradient of the squared loss."""
    class_name, function_name, constants = CASES[case]
    loss, reference = getattr(hemspec.keras, class_name)(ignore_class=1, **constants), getattr(hemspec, function_name)
    options = {"sample_weight": W, "ignore_index": 1, "reduction": loss.reduction, **constants}

    def slope(z: Any) -> Any:
        return reference.gradient(z, Y, **options)

    def curved(direction: Any, step: float = 1e-5) -> Any:
        """The Hessian times this direction, by differences of the reference's gradient."""
        return (slope(Z + step * direction) - slope(Z - step * direction)) / (2 * step)

    def nested(z: Any) -> Any:
        value, gradient = value_and_gradient(lambda z: loss(Y, z, W), z, backend)
        of_square = value_and_gradient(lambda z: loss(Y, z, W) ** 2, z, backend)[1]
        return value * ops.sum(gradient**2) + ops.sum(of_square * ops.convert_to_tensor(V, dtype="float32"))

    def both(z: Any) -> Any:
        return value_and_gradient(nested, z, backend)[1]

    if backend == "jax":  # one compilation, where each operation would have its own
        import jax

        both = jax.jit(both)
    value, g = reference(Z, Y, **options), slope(Z)
    of_value = np.sum(g**2) * g + 2 * value * curved(g)
    of_square = 2 * np.sum(g * V) * g + 2 * value * curved(V)
    got = ops.convert_to_numpy(both(ops.convert_to_tensor(Z, dtype="float32")))
    np.testing.assert_allclose(got, of_value + of_square, rtol=1e-4, atol=1e-5)
