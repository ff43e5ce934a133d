"""Sample weights and masks, made into one weight for each position before any loss is computed."""

from __future__ import annotations

from typing import Any

from keras import ops

# Keras has no public way to read a mask. Where this import fails, losing masks silently would be worse.
from keras.src.backend import get_keras_mask

from hemspec.arguments import check_weight
from hemspec.shapes import Shape
from hemspec_keras.framework import as_array, dtype_name, static_shape

__all__ = ["checked", "get_keras_mask", "masked", "with_rank"]


def checked(weight: Any, name: str, labels_shape: Shape) -> Any:
    """A weight or mask for each position, or for each entry of the labels' first axis.

    As with labels, a last axis of size 1 may follow.
    """
    weight = as_array(weight, name)
    shape = static_shape(weight, name)
    if len(shape) == len(labels_shape) + 1 and shape[-1] == 1:
        weight, shape = weight[..., 0], shape[:-1]
    check_weight(shape, dtype_name(weight), labels_shape, name=name)
    return weight


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
