r"""What to log beside HEM while training: how much of a batch still costs something, and how.

For each valid position, with errors e_j and kept errors K as in `hemspec.reference.hem`, of weight w:

- ``active_fraction``: the share of positions whose loss is positive, sum w [K not empty] / sum w;
- ``kept_errors``: how many errors an active position keeps, sum w \|K\| / sum w [K not empty];
- ``margin_satisfied``: the share of competing classes outside the margin, sum w #{j != y : e_j = 0} / sum w (C - 1).

0 where there is nothing to count. A position whose loss is NaN makes all three NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hemspec.loss_function import diagnostics
from hemspec.reference.hem import kept_errors, margin_errors
from hemspec.reference.positions import divide, loss_dtype, per_true_class, read_positions


@diagnostics(lambda numerator, denominator: divide(numerator, denominator)[()])
def hem_diagnostics(
    logits: Any,
    labels: Any,
    *,
    margin: Any = 1.0,
    axis: int = -1,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
) -> dict[str, tuple[Any, Any]]:
    """How much of a batch is still active under HEM, how many errors it keeps, how far the margin is satisfied.

    ``active_fraction`` of the positions have a loss > 0; ``kept_errors`` is the mean number of errors that HEM keeps
    at one of those; ``margin_satisfied`` of the competing classes are outside the margin. The maths is in
    `hemspec.reference.diagnostics`.

    Args:
        logits, labels, margin, axis, sample_weight, ignore_index: as in `hem_loss`.

    Returns:
        The three by name, in the dtype of the loss; 0 where there is nothing to count, NaN where a loss is NaN.
        ``hem_diagnostics.terms(...)`` gives numerators and denominators, which add up over batches.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> figures = hem_diagnostics([[0.0, 2.0, 1.0, 0.2], [9.0, 0.0, 0.0, 0.0]], [0, 0])
        >>> {name: round(float(value), 3) for name, value in figures.items()}
        {'active_fraction': 0.5, 'kept_errors': 2.0, 'margin_satisfied': 0.5}
    """
    positions = read_positions(logits, labels, axis=axis, sample_weight=sample_weight, ignore_index=ignore_index)
    errors = margin_errors(positions.logits, positions.labels, per_true_class(margin, positions, name="margin"))
    kept = kept_errors(errors)
    is_nan = np.isnan(errors).any(axis=1)
    active, rivals = kept.any(axis=1), positions.classes - 1

    weights = positions.weights
    counts = {
        "active_fraction": (active, weights),
        "kept_errors": (kept.sum(axis=1), weights * active),
        "margin_satisfied": ((errors == 0).sum(axis=1) - 1, weights * rivals),
    }
    dtype = loss_dtype(positions.dtype)
    return {
        name: (
            np.where(weights > 0, weights * np.where(is_nan, np.nan, count), 0.0).sum().astype(dtype),
            size.sum().astype(dtype),
        )
        for name, (count, size) in counts.items()
    }
