"""What to watch beside HEM while training, as Keras metrics; see `hemspec.reference.diagnostics` for the maths.

Each adds up a numerator and a denominator: over an epoch it is their quotient, not an average of the batches'
quotients, and replicas of ``tf.distribute`` add theirs up too.
"""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from hemspec.arguments import check_ignore_index
from hemspec_keras.configuration import as_option, plain_axis, plain_constant, register
from hemspec_keras.framework import FRAMEWORK
from hemspec_keras.positions import read_positions

__all__ = ["ActiveFraction", "KeptErrors", "MarginSatisfied"]


class _Diagnostic(keras.metrics.Metric):  # type: ignore[misc]  # Keras ships no types
    """One of the quotients of `hem_diagnostics`."""

    quotient: ClassVar[str]

    def __init__(
        self,
        *,
        margin: Any = 1.0,
        axis: int = -1,
        ignore_class: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name or self.quotient, dtype=dtype)
        self.margin = plain_constant(margin, name="margin")
        self.axis = plain_axis(axis)
        self.ignore_class = check_ignore_index(ignore_class, name="ignore_class")
        self.numerator = self.add_variable(shape=(), initializer="zeros", dtype=self.dtype, name="numerator")
        self.denominator = self.add_variable(shape=(), initializer="zeros", dtype=self.dtype, name="denominator")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch, given as to `HEMLoss`."""
        positions = read_positions(y_true, y_pred, sample_weight, axis=self.axis, ignore_class=self.ignore_class)
        terms = positions.give(FRAMEWORK.hem_diagnostics.terms, margin=as_option(self.margin))
        for total, term in zip((self.numerator, self.denominator), terms[self.quotient], strict=True):
            total.assign_add(ops.cast(term, total.dtype))

    def result(self) -> Any:
        """The quotient of the sums; 0 where there was nothing to count."""
        size = ops.convert_to_tensor(self.denominator)
        return ops.convert_to_tensor(self.numerator) / ops.where(size == 0, ops.ones_like(size), size)

    def get_config(self) -> dict[str, Any]:
        """Everything the constructor takes, as plain numbers, lists and strings."""
        own = {"margin": list(self.margin) if isinstance(self.margin, list) else self.margin}
        return {**super().get_config(), **own, "axis": self.axis, "ignore_class": self.ignore_class}


@register
class ActiveFraction(_Diagnostic):
    """The share of positions that still have a HEM loss > 0.

    Among ``weighted_metrics`` of ``compile`` it is weighted as the loss is, among ``metrics`` it is not. Masks are
    weight 0, except in ``fit`` on JAX, where Keras loses a mask before it calls metrics: there give what is masked an
    ignored class or weight 0.

    Args:
        margin, axis, ignore_class: those of `HEMLoss`, which also makes this metric: ``loss.metrics()``.
        name: ``"active_fraction"`` unless given.
        dtype: of the sums; float32 unless given.

    Example:
        >>> metric = ActiveFraction()
        >>> metric.update_state([0, 0], [[0.0, 2.0, 1.0, 0.2], [9.0, 0.0, 0.0, 0.0]])
        >>> float(metric.result())
        0.5
    """

    quotient = "active_fraction"


@register
class KeptErrors(_Diagnostic):
    """How many errors HEM keeps at a position whose loss is > 0. See `ActiveFraction` for the arguments.

    Example:
        >>> metric = KeptErrors()
        >>> metric.update_state([0, 0], [[0.0, 2.0, 1.0, 0.2], [9.0, 0.0, 0.0, 0.0]])
        >>> float(metric.result())
        2.0
    """

    quotient = "kept_errors"


@register
class MarginSatisfied(_Diagnostic):
    """The share of competing classes, of all positions, that are outside the margin. See `ActiveFraction`.

    Example:
        >>> metric = MarginSatisfied()
        >>> metric.update_state([0, 0], [[0.0, 2.0, 1.0, 0.2], [9.0, 0.0, 0.0, 0.0]])
        >>> float(metric.result())
        0.5
    """

    quotient = "margin_satisfied"
