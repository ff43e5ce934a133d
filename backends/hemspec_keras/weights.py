"""Sample weights and masks, made into one weight for each position before any loss is computed."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import keras
import numpy as np
from keras import ops

# Keras has no public way to read a mask. Where this import fails, losing masks silently would be worse.
from keras.src.backend import get_keras_mask

from hemspec.arguments import check_weight
from hemspec.shapes import Shape, show
from hemspec_keras.framework import as_array, dtype_name, static_shape

__all__ = ["check_class_weight", "checked", "get_keras_mask", "masked", "narrowed", "with_rank"]


def checked(weight: Any, name: str, labels_shape: Shape) -> Any:
    """A weight or mask for each position, or for each entry of the labels' first axis.

    As with labels, a last axis of size 1 may follow, and one for each sample may have as many axes as the labels, which
    is the only form of it that Keras's own losses take: ``(N, 1)`` for labels ``(N, T)``.
    """
    weight = as_array(weight, name)
    shape = static_shape(weight, name)
    if len(shape) == len(labels_shape) + 1 and shape[-1] == 1:
        weight, shape = weight[..., 0], shape[:-1]
    if 1 < len(shape) <= len(labels_shape) and all(size == 1 for size in shape[1:]):
        weight, shape = weight[(slice(None), *(0,) * (len(shape) - 1))], shape[:1]
    check_weight(shape, dtype_name(weight), labels_shape, name=name)
    return weight


def narrowed(weight: Any, logits_dtype: str) -> Any:
    """Weights of NumPy in the dtype that is computed in: not every device has float64."""
    if not isinstance(weight, np.ndarray):
        return weight
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as that
        return weight.astype("float64" if logits_dtype == "float64" else "float32")


def check_class_weight(y_true_shape: Shape, labels_shape: Shape, y_pred_shape: Shape, class_axis: int) -> None:
    """Refuse weights that ``class_weight`` of ``fit`` made of labels that Keras takes for one-hot rows.

    If there is more than one label in the last axis, Keras looks up the weight of the argmax over it.
    """
    rank = len(y_true_shape)
    one_hot = rank == len(y_pred_shape) and class_axis == rank - 1
    if rank > 1 and y_true_shape[-1] != 1 and not one_hot and class_weight_in_use():
        raise ValueError(
            f"class_weight is for one label a sample: of y_true of shape {show(y_true_shape)} Keras looks up the weight"
            f" of the argmax over the last axis; instead give fit sample_weight of shape {show(labels_shape)}, the"
            " weight of each label's class (0 where a label is padding)"
        )


def class_weight_in_use() -> bool:
    """Whether weights come from ``class_weight``. Only the arguments of the call that trains tell, further up."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name in ("fit", "train_on_batch") and isinstance(frame.f_locals.get("self"), keras.Model):
            return frame.f_locals.get("class_weight") is not None
        frame = frame.f_back
    return False


def masked(weight: Any, mask: Any) -> Any:
    """The weight, 0 where masked whatever it holds there. Either may be None for all ones."""
    if weight is None or mask is None:
        return mask if weight is None else weight
    rank = max(len(weight.shape), len(mask.shape))
    weight, mask = with_rank(ops.convert_to_tensor(weight), rank), with_rank(mask, rank)
    return ops.where(mask, weight, ops.zeros_like(weight))


def with_rank(array: Any, rank: int) -> Any:
    """The array with further axes of size 1 at the end."""
    return array[(...,) + (None,) * (rank - len(array.shape))]
