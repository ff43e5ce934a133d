r"""HEM, high error margin loss, and HEM+.

Source: Spratling and Schütt, "A margin-based replacement for cross-entropy loss", arXiv 2501.12191 (2025).

One position with logits z, label y and margin m >= 0 (for HEM+ the margin of the true class, m = margins[y])::

    e_j = max(0, (z_j - z_y) + m)  for j != y;      e_y = 0
    M   = max_k e_k
    K   = { j : e_j > 0 and C * (M - e_j) <= sum over all k of (M - e_k) }
    l   = mean of e_j over K,  0 if K is empty

that is: keep the errors that are not below the mean error, and average those. The mean runs over all C classes, the
zero at y and classes masked by -inf included. Written as distances from the largest error the condition survives
rounding in any summation order: when all errors are equal, all of them stay.

Gradient: 1/\|K\| at each j in K, -1 at y when K is not empty, 0 elsewhere; the threshold is a constant.

Infinities: a class at -inf is masked (e_j = 0). z_j = +inf, or z_y = -inf with a finite rival, costs +inf, and K is
then the infinite errors. Equal infinities on both sides are NaN, and so is everything with a NaN in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hemspec.arguments import MARGIN_REDUCTIONS, MarginReduction, check_reduction
from hemspec.reference.positions import (
    Evaluation,
    Floats,
    Positions,
    by_position,
    per_true_class,
    read_positions,
    reference_loss,
)


def margin_errors(z: Floats, y: Any, margins: Floats) -> Floats:
    """e of shape (P, C): how far each competing class comes inside the margin, 0 at the true class."""
    rows = np.arange(len(z))
    with np.errstate(invalid="ignore"):
        errors: Floats = np.maximum(0.0, (z - z[rows, y][:, None]) + margins[:, None])
    errors[rows, y] = 0.0
    return errors


def kept_errors(errors: Floats) -> Any:
    """K as a mask of shape (P, C). A NaN is never lost."""
    largest = errors.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        shortfall = largest - errors
        high = errors.shape[1] * shortfall <= shortfall.sum(axis=1, keepdims=True)
    high = np.where(np.isinf(largest), errors == largest, high)
    return (high & (errors > 0)) | np.isnan(errors)


def evaluate(positions: Positions, margin: Any, reduction: str) -> Evaluation:
    """HEM at every position, and its derivative in the logits."""
    errors = margin_errors(positions.logits, positions.labels, per_true_class(margin, positions, name="margin"))
    kept = kept_errors(errors)
    size = np.maximum(kept.sum(axis=1), 1)
    values = np.where(kept, errors, 0.0).sum(axis=1) / size

    slopes = kept / size[:, None]
    slopes[np.arange(len(size)), positions.labels] = -1.0 * kept.any(axis=1)
    return by_position(positions, values, slopes, reduction)


@reference_loss
def hem_loss(
    logits: Any,
    labels: Any,
    *,
    margin: Any = 1.0,
    axis: int = -1,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    reduction: MarginReduction = "active_mean",
) -> Evaluation:
    """HEM (high error margin) loss; HEM+ with a margin for each class.

    The mean of those errors ``max(0, z_j - z_y + margin)`` that are not below the position's mean error.
    Source: Spratling and Schütt 2025, arXiv 2501.12191; the maths is in `hemspec.reference.hem`.

    Args:
        logits: floating point, any shape with a class axis of size C >= 2. Computed in float64.
        labels: integers in [0, C), the shape of the logits without the class axis.
        margin: >= 0, in units of a logit. One number (HEM), or shape ``(C,)``, indexed by the true class (HEM+).
        axis: the class axis of the logits.
        sample_weight: >= 0, the shape of the labels or of their first axis. Weight 2 is two copies, 0 is none.
        ignore_index: positions with this label do not exist; None switches it off.
        reduction: ``"active_mean"`` (over the positions with a loss > 0, the paper's), ``"mean"``, ``"sum"`` or
            ``"none"`` (the shape of the labels).

    Returns:
        The loss, float64 for float64 logits, else float32. 0 where there is nothing to average.
        ``hem_loss.gradient(...)`` gives the gradient in the logits, ``hem_loss.terms(...)`` the average's numerator
        and denominator.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> float(hem_loss([[1.0, 1.5, 0.0, -3.0], [9.0, 0.0, 0.0, 0.0]], [0, 0]))  # the second is not active
        1.5
        >>> hem_loss.gradient([[1.0, 1.5, 0.0, -3.0]], [0]).tolist()
        [[-1.0, 1.0, 0.0, 0.0]]
    """
    check_reduction(reduction, MARGIN_REDUCTIONS)
    positions = read_positions(logits, labels, axis=axis, sample_weight=sample_weight, ignore_index=ignore_index)
    return evaluate(positions, margin, reduction)


gradient = hem_loss.gradient
