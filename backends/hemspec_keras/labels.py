"""From what Keras users call ``y_true`` to integer class indices, without ever passing through a narrower float.

Integers are taken as they are. Integer-valued floats and exact one-hot rows are converted exactly; whatever else is in
their place (fractions, soft labels) becomes a label that is no class, so that it is treated as any other bad label:
an error where it can be read, else a NaN loss.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from keras import ops

from hemspec import advice
from hemspec.arguments import (
    FLOATING,
    check_label_values,
    check_labels,
    check_weight_values,
    first,
    representable,
)
from hemspec.shapes import Shape, agree, show
from hemspec_keras.framework import LEFT_OPEN, as_array, dtype_name, read, static_shape

CONSECUTIVE: Final = {"bfloat16": 2.0**8, "float16": 2.0**11, "float32": 2.0**24, "float64": 2.0**31}
"""Below that a float dtype has every integer (float64 more, but no int32): from there on a label may be another one
that was rounded."""


class Labels(NamedTuple):
    """Class indices, and what they were made from."""

    indices: Any  # integers, NumPy or a tensor
    shape: Shape  # of y_pred without the class axis
    given: Any  # y_true with its class axis, if any, last
    exact: Any = True  # bool, whether the label was an integer or a one-hot row

    def not_ignored(self, ignore_class: int | None) -> Any:
        """Bool: whether the label is not `ignore_class`, the two compared as mathematical integers; None for all."""
        if ignore_class is None or not representable(ignore_class, dtype_name(self.indices)):
            return None
        if isinstance(self.indices, np.ndarray):
            return ops.convert_to_tensor(self.indices != ignore_class)
        return ops.not_equal(self.indices, ops.cast(ignore_class, dtype_name(self.indices)))

    def check_values(self, exists: Any, weights: Any, classes: int | None) -> None:
        """Weights are numbers >= 0 and labels are classes, as far as they can be read. What came is in the message.

        None for all that exist, and for weights of 1.
        """
        if classes is None:
            return
        indices, valid = read(self.indices), read(True if exists is None else exists)
        if indices is None or valid is None:
            return
        valid = np.broadcast_to(valid, indices.shape)
        if weights is not None:
            weights = read(weights)
            if weights is None:
                return
            weights = np.broadcast_to(weights.reshape(weights.shape + (1,) * (valid.ndim - weights.ndim)), valid.shape)
            check_weight_values(weights, valid)
            valid = valid & (weights > 0)
        if self.exact is not True:
            given, exact = read(self.given), read(self.exact)
            if given is None or exact is None:
                return
            bad = valid & ~exact
            if bad.any():
                where, at = first(bad)
                raise ValueError(
                    "y_true must hold integer class indices or exact one-hot rows (soft labels are not supported);"
                    f" got {given[where].tolist()}{at}{self.rounded(given[where])}"
                )
        check_label_values(indices, valid, classes, name="y_true")

    def rounded(self, label: Any) -> str:
        """What a message adds where the float dtype of the labels no longer has every integer."""
        dtype = dtype_name(self.given)
        if np.ndim(label) or not np.isfinite(label) or abs(label) < CONSECUTIVE[dtype]:
            return ""
        return f": {dtype} has not every integer from there on, and may have rounded a label; give an integer dtype"


def integer_labels(y_true: Any, y_pred_shape: Shape, class_axis: int, *, ignore_class: int | None) -> Labels:
    """Class indices from integers, integer-valued floats or one-hot rows.

    The number of axes decides: with one axis fewer than `y_pred` they are class indices; with as many, the class axis
    holds either one index (size 1) or a one-hot row (size C, which is never 1).
    """
    y_true = as_array(y_true, "y_true")
    shape, dtype = static_shape(y_true, "y_true"), dtype_name(y_true)
    xp: Any = np if isinstance(y_true, np.ndarray) else ops
    no_class = -1 if ignore_class != -1 else -2
    if len(shape) == len(y_pred_shape):
        size, classes = shape[class_axis], y_pred_shape[class_axis]
        if size is None or (size != 1 and classes is None):
            raise ValueError(
                f"y_true of shape {show(shape)} for y_pred of shape {show(y_pred_shape)}: whether it holds indices"
                f" (size 1 along axis {class_axis}) or one-hot rows (size C) must be known; {LEFT_OPEN}"
            )
        if size == 1:
            y_true = xp.squeeze(y_true, class_axis)
            shape = static_shape(y_true, "y_true")
        elif agree(shape, y_pred_shape) and (dtype == "bool" or dtype in FLOATING or "int" in dtype):
            y_true = xp.moveaxis(y_true, class_axis, -1)
            ones = cast(xp.equal(y_true, xp.ones_like(y_true)), "int32")
            zeros = cast(xp.equal(y_true, xp.zeros_like(y_true)), "int32")
            exact = (xp.sum(ones, -1) == 1) & (xp.sum(zeros, -1) == size - 1)
            indices = xp.where(exact, cast(xp.argmax(ones, -1), "int32"), no_class)
            return Labels(indices, shape[:class_axis] + shape[class_axis + 1 :], y_true, exact)
    if dtype not in FLOATING and not dtype.startswith(("int", "uint")):
        raise TypeError(
            "y_true must hold integer class indices of shape"
            f" {show([*y_pred_shape[:class_axis], *y_pred_shape[class_axis + 1 :]])} or one-hot rows of shape"
            f" {show(y_pred_shape)}; got {dtype} of shape {show(shape)}"
            + advice.on_labels(shape, dtype, y_pred_shape, class_axis, name="y_true", logits_name="y_pred")
        )
    indices, exact = y_true, True
    if dtype in FLOATING:
        exact = (xp.floor(y_true) == y_true) & (xp.abs(y_true) < CONSECUTIVE[dtype])
        indices = xp.where(exact, cast(xp.where(exact, y_true, xp.zeros_like(y_true)), "int32"), no_class)
    check_labels(shape, dtype_name(indices), y_pred_shape, class_axis, name="y_true", logits_name="y_pred")
    return Labels(indices, shape, y_true, exact)


def cast(array: Any, dtype: str) -> Any:
    return array.astype(dtype) if isinstance(array, np.ndarray) else ops.cast(array, dtype)
