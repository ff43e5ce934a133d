"""From what Keras hands over, ``(y_true, y_pred, sample_weight)``, to the call of a framework's function.

What `keras.losses.Loss` and `keras.metrics.Metric` do about it comes too late for these losses (they cast the labels,
and apply weights and masks to values that are NaN already). Here labels become integers first, mask and weights become
one weight for each position, and only then the maths begins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from hemspec.arguments import check_logits
from hemspec_keras.framework import FRAMEWORK, as_array, check_dense, dtype_name, static_shape
from hemspec_keras.labels import integer_labels
from hemspec_keras.weights import check_class_weight, checked, get_keras_mask, masked, narrowed, with_rank


class Positions(NamedTuple):
    """A checked call."""

    logits: Any
    labels: Any  # integers, the shape of the logits without the class axis
    weights: Any  # 0 where masked; None for all 1
    exists: Any  # bool, neither ignored nor masked; None for all
    class_axis: int
    ignore_class: int | None

    def give(self, function: Callable[..., Any], **options: Any) -> Any:
        """What a function of the framework makes of them."""
        return FRAMEWORK.call(
            function,
            self.logits,
            self.labels,
            axis=self.class_axis,
            sample_weight=self.weights,
            ignore_index=self.ignore_class,
            **options,
        )

    def which_exist(self) -> Any:
        """Bool, for each position."""
        everything = ops.ones(ops.shape(self.labels), "bool")
        return everything if self.exists is None else ops.logical_and(self.exists, everything)


def read_positions(y_true: Any, y_pred: Any, sample_weight: Any, *, axis: int, ignore_class: int | None) -> Positions:
    """Check the arguments that every loss and metric takes. A mask that Keras attached to ``y_pred`` is weight 0."""
    mask = get_keras_mask(y_pred)
    check_dense(y_pred, "y_pred")
    y_pred = ops.convert_to_tensor(y_pred)
    shape = static_shape(y_pred, "y_pred")
    class_axis = check_logits(shape, dtype_name(y_pred), axis, name="y_pred")
    labels = integer_labels(y_true, shape, class_axis, ignore_class=ignore_class)
    exists = labels.not_ignored(ignore_class)
    if mask is not None:
        mask = with_rank(ops.cast(checked(mask, "the mask of y_pred", labels.shape), "bool"), len(labels.shape))
        exists = mask if exists is None else ops.logical_and(exists, mask)
    if sample_weight is not None:
        check_class_weight(static_shape(as_array(y_true, "y_true"), "y_true"), labels.shape, shape, class_axis)
        sample_weight = narrowed(checked(sample_weight, "sample_weight", labels.shape), dtype_name(y_pred))
    weights = masked(sample_weight, mask)
    labels.check_values(exists, weights, shape[class_axis])
    return Positions(y_pred, labels.indices, weights, exists, class_axis, ignore_class)
