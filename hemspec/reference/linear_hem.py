"""HEM of a linear head: the loss of logits that are a product, with its gradient in the factors.

Features x of D numbers for each position, a weight W of shape (C, D), one row for each class, and a bias b of C::

    z = W x + b;    l = HEM(z, y)        (`hemspec.reference.hem`)

With g the gradient of the reduced loss in the logits, one row for each position: in the features it is g W, in the
weight g^T x, in the bias the sum of g over the positions. A position that does not exist has no features either: it
adds exactly 0 to each of the three, whatever they hold.

The product is computed in float64 here. How it is rounded elsewhere is not part of the definition: value and gradient
are those of the logits that an implementation computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hemspec.arguments import MARGIN_REDUCTIONS, MarginReduction, check_head, check_labels, check_reduction
from hemspec.reference.hem import evaluate
from hemspec.reference.positions import Array, Evaluation, loss_dtype, read_positions, reference_loss


class HeadGradient(NamedTuple):
    """Each in the shape and dtype of what it belongs to."""

    features: Array
    weight: Array
    bias: Array | None


@dataclass(frozen=True)
class HeadEvaluation(Evaluation):
    """The evaluation of the logits, and what they are the product of."""

    features: Array
    weight: Array
    bias: Array | None

    @property
    def result_dtype(self) -> Any:
        return loss_dtype(self.features.dtype)

    def gradient(self) -> Any:
        """The derivative in features, weight and bias."""
        g = super().gradient().reshape(-1, self.positions.classes)
        absent = self.positions.weights[:, None] == 0
        x = np.where(absent, 0.0, self.features.reshape(len(g), self.features.shape[-1]).astype(np.float64))
        with np.errstate(invalid="ignore"):
            of_features = np.where(absent, 0.0, g @ self.weight.astype(np.float64)).reshape(self.features.shape)
            of_weight, of_bias = g.T @ x, g.sum(axis=0)
        return HeadGradient(
            of_features.astype(self.features.dtype),
            of_weight.astype(self.weight.dtype),
            None if self.bias is None else of_bias.astype(self.bias.dtype),
        )


@reference_loss
def linear_hem_loss(
    features: Any,
    weight: Any,
    labels: Any,
    *,
    bias: Any = None,
    margin: Any = 1.0,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    reduction: MarginReduction = "active_mean",
) -> HeadEvaluation:
    """HEM loss of a linear head: ``hem_loss(features @ weight.T + bias, labels)``.

    Args:
        features: floating point, shape ``(..., D)``.
        weight: of the head, shape ``(C, D)``, C >= 2.
        labels: integers in [0, C), shape ``(...)``.
        bias: of the head, shape ``(C,)``, or None.
        margin, sample_weight, ignore_index, reduction: as in `hem_loss`.

    Returns:
        The loss, float64 for float64 features, else float32; also ``.terms(...)``. ``.gradient(...)`` gives the
        gradient in features, weight and bias.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> features, weight = np.array([[1.0, 0.5]]), np.array([[1.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
        >>> float(linear_hem_loss(features, weight, np.array([0])))  # the logits are 1, 1.5 and 0
        1.5
        >>> linear_hem_loss.gradient(features, weight, np.array([0])).weight.tolist()
        [[-1.0, -0.5], [1.0, 0.5], [0.0, 0.0]]
    """
    check_reduction(reduction, MARGIN_REDUCTIONS)
    features, weight, labels = np.asarray(features), np.asarray(weight), np.asarray(labels)
    bias = None if bias is None else np.asarray(bias)
    of_bias = None if bias is None else (bias.shape, bias.dtype.name)
    check_head((features.shape, features.dtype.name), (weight.shape, weight.dtype.name), of_bias, class_axis=0)
    shape = (*features.shape[:-1], len(weight))
    check_labels(labels.shape, labels.dtype.name, shape, len(shape) - 1, logits_name="the logits")

    with np.errstate(invalid="ignore"):
        logits = features.astype(np.float64) @ weight.astype(np.float64).T
        logits = logits if bias is None else logits + bias.astype(np.float64)
    positions = read_positions(logits, labels, axis=-1, sample_weight=sample_weight, ignore_index=ignore_index)
    return HeadEvaluation(**vars(evaluate(positions, margin, reduction)), features=features, weight=weight, bias=bias)


gradient = linear_hem_loss.gradient
