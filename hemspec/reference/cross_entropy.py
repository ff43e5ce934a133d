"""CE, cross-entropy with softmax inside.

One position with logits z and label y::

    l = logsumexp(z) - z_y

with the maximum subtracted first. A competing class at -inf is masked; the true class at -inf costs +inf; any +inf,
or nothing but -inf, is NaN. Gradient: softmax(z) - onehot(y).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hemspec.arguments import REDUCTIONS, Reduction, check_reduction
from hemspec.reference.positions import Evaluation, Floats, by_position, read_positions, reference_loss


def cross_entropy(z: Floats, y: Any) -> tuple[Floats, Floats]:
    """Values (P,) and slopes (P, C) of cross-entropy; the slopes are softmax(z) - onehot(y)."""
    rows = np.arange(len(z))
    with np.errstate(invalid="ignore", divide="ignore"):
        shifted = z - z.max(axis=1, keepdims=True)
        exponentials = np.exp(shifted)
        total = exponentials.sum(axis=1)
        values = np.log(total) - shifted[rows, y]
        slopes = exponentials / total[:, None]
    slopes[rows, y] -= 1.0
    return values, slopes


@reference_loss
def cross_entropy_loss(
    logits: Any,
    labels: Any,
    *,
    axis: int = -1,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
) -> Evaluation:
    """Cross-entropy of integer labels, softmax inside: ``logsumexp(z) - z_y``.

    Args:
        logits: floating point, any shape with a class axis of size C >= 2.
        labels: integers in [0, C), the shape of the logits without the class axis.
        axis, sample_weight, ignore_index: as in `hem_loss`.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss, float64 for float64 logits, else float32; also ``.gradient(...)`` and ``.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> round(float(cross_entropy_loss([[0.0, 0.0]], [1])), 4)
        0.6931
    """
    check_reduction(reduction, REDUCTIONS)
    positions = read_positions(logits, labels, axis=axis, sample_weight=sample_weight, ignore_index=ignore_index)
    values, slopes = cross_entropy(positions.logits, positions.labels)
    return by_position(positions, values, slopes, reduction)


gradient = cross_entropy_loss.gradient
