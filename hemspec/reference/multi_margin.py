"""MM, multi-class margin loss (``torch.nn.functional.multi_margin_loss`` with p = 1).

One position with logits z, label y and margin m >= 0 (a number, or one for each true class)::

    l = (1/C) * sum over j != y of max(0, (z_j - z_y) + m)

Gradient: 1/C at each j with a positive error, minus their sum at y. At a kink (an error of exactly 0) it is 0.
Infinities behave as in HEM: a class at -inf is masked, equal infinities on both sides are NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hemspec.arguments import MARGIN_REDUCTIONS, MarginReduction, check_reduction
from hemspec.reference.hem import margin_errors
from hemspec.reference.positions import Evaluation, by_position, per_true_class, read_positions, reference_loss


@reference_loss
def multi_margin_loss(
    logits: Any,
    labels: Any,
    *,
    margin: Any = 1.0,
    axis: int = -1,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    reduction: MarginReduction = "mean",
) -> Evaluation:
    """Multi-class margin loss: the sum of the errors ``max(0, z_j - z_y + margin)``, divided by C.

    Equal to ``torch.nn.functional.multi_margin_loss`` with p = 1; the margin may differ by true class.

    Args:
        logits: floating point, any shape with a class axis of size C >= 2.
        labels: integers in [0, C), the shape of the logits without the class axis.
        margin: >= 0. One number, or shape ``(C,)``, indexed by the true class.
        axis, sample_weight, ignore_index: as in `hem_loss`.
        reduction: ``"mean"``, ``"active_mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss, float64 for float64 logits, else float32; also ``.gradient(...)`` and ``.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> float(multi_margin_loss([[1.0, 1.5, 0.0, -3.0]], [0]))
        0.375
    """
    check_reduction(reduction, MARGIN_REDUCTIONS)
    positions = read_positions(logits, labels, axis=axis, sample_weight=sample_weight, ignore_index=ignore_index)
    errors = margin_errors(positions.logits, positions.labels, per_true_class(margin, positions, name="margin"))
    slopes = (errors > 0) / positions.classes
    slopes[np.arange(len(slopes)), positions.labels] = -slopes.sum(axis=1)
    return by_position(positions, errors.sum(axis=1) / positions.classes, slopes, reduction)


gradient = multi_margin_loss.gradient
