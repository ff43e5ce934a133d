"""What to log beside HEM while training, in TensorFlow. It mirrors `hemspec.reference.diagnostics`."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from hemspec.loss_function import diagnostics
from hemspec_tensorflow.functional import add_up_weighted
from hemspec_tensorflow.margin import error_counts, nan_from, weighted
from hemspec_tensorflow.positions import at_true_class, constant, divide, read_targets

__all__ = ["hem_diagnostics"]


@diagnostics(divide)
def hem_diagnostics(
    logits: Any,
    labels: Any,
    *,
    margin: Any = 1.0,
    axis: int = -1,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
    """How much of a batch is still active under HEM, how many errors it keeps, how far the margin is satisfied.

    ``active_fraction`` of the positions have a loss > 0; ``kept_errors`` is the mean number of errors that HEM keeps
    at one of those; ``margin_satisfied`` of the competing classes are outside the margin. The maths is in
    `hemspec.reference.diagnostics`.

    Args:
        logits, labels, margin, axis, sample_weight, ignore_index: as in `hem_loss`.

    Returns:
        The three by name, scalars without gradient in the dtype of the loss; 0 where there is nothing to count, NaN
        where a loss is NaN. ``hem_diagnostics.terms(...)`` gives numerators and denominators, which add up over
        batches and replicas.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> figures = hem_diagnostics([[0.0, 2.0, 1.0, 0.2], [9.0, 0.0, 0.0, 0.0]], [0, 0])
        >>> {name: round(float(value), 3) for name, value in figures.items()}
        {'active_fraction': 0.5, 'kept_errors': 2.0, 'margin_satisfied': 0.5}
    """
    targets = read_targets(logits, labels, axis=axis, sample_weight=sample_weight, ignore_index=ignore_index)
    margins, poison = constant(margin, targets, name="margin", per_class=True)
    kept, positive = error_counts(targets.logits, targets.labels, at_true_class(margins, targets))
    active = nan_from(tf.cast(kept > 0, kept.dtype), kept)
    rivals = tf.cast(targets.classes, kept.dtype) - 1

    def average(counts: tf.Tensor, reduction: str) -> Any:
        counts = counts if poison is None else counts * poison
        return add_up_weighted(weighted(counts, targets.factor), targets, reduction)

    satisfied, total = average(rivals - positive, "mean")
    return {
        "active_fraction": average(active, "mean"),
        "kept_errors": average(kept, "active_mean"),
        "margin_satisfied": (satisfied, rivals * total),
    }
