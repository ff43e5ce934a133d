"""Hyper-parameters as a Keras configuration holds them: plain numbers and lists, which JSON knows."""

from __future__ import annotations

import operator
import sys
from typing import Any, TypeVar

import keras
import numpy as np
from keras import ops
from keras.src import losses, metrics
from keras.src.utils.naming import to_snake_case

from hemspec.arguments import check_axis, check_per_class, read_constant
from hemspec_keras.framework import as_array

ClassT = TypeVar("ClassT", bound=type)


def register(cls: ClassT) -> ClassT:
    """Let Keras find a loss or metric: in files under ``hemspec>HEMLoss``, in code under ``"HEMLoss"``, ``"hem_loss"``.

    Keras looks names up in a table that it has no public way into; one without it would only find no names. Its own
    names stay its own. A name among its custom objects would win over another class of that name in somebody's file.
    """
    keras.saving.register_keras_serializable("hemspec")(cls)
    table = getattr(losses if issubclass(cls, keras.losses.Loss) else metrics, "ALL_OBJECTS_DICT", {})
    for name in (cls.__name__, to_snake_case(cls.__name__)):
        table.setdefault(name, cls)
    return cls


def plain_axis(axis: Any) -> int:
    """An integer; its range depends on the logits."""
    check_axis(axis, sys.maxsize)
    return operator.index(axis)


def plain_constant(value: Any, *, name: str, scalar: bool = True, counts: bool = False) -> Any:
    """A margin or another constant: a float, or a list of floats."""
    if ops.is_tensor(value) or isinstance(value, keras.Variable):
        value = ops.convert_to_numpy(as_array(value, name))
    array = read_constant(value, name=name, counts=counts)
    check_per_class(array.shape, None, name=name, scalar=scalar)
    return array.tolist()


def as_option(constant: Any) -> Any:
    """A vector over classes as the frameworks take it without rounding."""
    return np.asarray(constant, np.float64) if isinstance(constant, list) else constant
