"""What to log beside HEM while training, in JAX. It mirrors `hemspec.reference.diagnostics`."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from hemspec.loss_function import diagnostics
from hemspec_jax.margin import error_counts
from hemspec_jax.positions import add_up, check_class_axis_name, divide, read_positions

__all__ = ["hem_diagnostics"]


@diagnostics(divide)
def hem_diagnostics(
    logits: Any,
    labels: Any,
    *,
    margin: Any = 1.0,
    axis: int = -1,
    sample_weight: Any = None,
    where: Any = None,
    ignore_index: int | None = -100,
    axis_name: Any = None,
    class_axis_name: Any = None,
) -> dict[str, tuple[Array, Array]]:
    """How much of a batch is still active under HEM, how many errors it keeps, how far the margin is satisfied.

    ``active_fraction`` of the positions have a loss > 0; ``kept_errors`` is the mean number of errors that HEM keeps
    at one of those; ``margin_satisfied`` of the competing classes are outside the margin. The maths is in
    `hemspec.reference.diagnostics`.

    Args:
        logits, labels, margin, axis, sample_weight, where, ignore_index: as in `hem_loss`.
        axis_name, class_axis_name: as in `hem_loss`: of all shards.

    Returns:
        The three by name, scalars without gradient in the dtype of the loss; 0 where there is nothing to count, NaN
        where a loss is NaN. ``hem_diagnostics.terms(...)`` gives numerators and denominators, which add up over
        batches.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> figures = hem_diagnostics(jnp.array([[0.0, 2.0, 1.0, 0.2], [9.0, 0.0, 0.0, 0.0]]), jnp.array([0, 0]))
        >>> {name: round(float(value), 3) for name, value in figures.items()}
        {'active_fraction': 0.5, 'kept_errors': 2.0, 'margin_satisfied': 0.5}
    """
    check_class_axis_name(class_axis_name, axis_name)
    positions = read_positions(
        logits,
        labels,
        axis=axis,
        sample_weight=sample_weight,
        where=where,
        ignore_index=ignore_index,
        class_axis_name=class_axis_name,
    )
    kept, positive = error_counts(positions, margin)
    rivals = positions.classes - 1

    def average(values: Array, reduction: str) -> Any:
        return add_up(values, positions.weights, positions.valid, reduction, axis_name)

    satisfied, total = average(rivals - positive, "mean")
    return {
        "active_fraction": average(jnp.minimum(kept, 1.0), "mean"),
        "kept_errors": average(kept, "active_mean"),
        "margin_satisfied": (satisfied, rivals * total),
    }
