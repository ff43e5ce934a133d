"""Arrays as JSON that a person can read: nested lists; a fill with exceptions where an array is large and dull.

Numbers that JSON does not have are the strings "nan", "inf" and "-inf".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hemspec_conformance.adapter import Array

LARGE = 512
"""From this size on an array is written as a fill with exceptions."""


def encode_number(value: Any) -> Any:
    number = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, float):
        if np.isnan(number):
            return "nan"
        if np.isinf(number):
            return "inf" if number > 0 else "-inf"
    return number


def encode(array: Array) -> Any:
    if array.size < LARGE:
        if array.ndim == 0:
            return encode_number(array[()])
        return [encode(row) for row in array]
    numbers, counts = np.unique(array, return_counts=True)
    fill = numbers[counts.argmax()]
    exceptions = [[*map(int, index), encode_number(array[tuple(index)])] for index in np.argwhere(array != fill)]
    return {"shape": list(array.shape), "fill": encode_number(fill), "except": exceptions}


def decode(data: Any, dtype: Any, shape: tuple[int, ...] | None = None) -> Array:
    """The array. `shape` is needed where a list cannot tell it: an array without elements."""
    if isinstance(data, dict):
        array = np.full(data["shape"], float(data["fill"]) if isinstance(data["fill"], str) else data["fill"], dtype)
        for *index, value in data["except"]:
            array[tuple(index)] = float(value) if isinstance(value, str) else value
        return array

    def numbers(item: Any) -> Any:
        if isinstance(item, list):
            return [numbers(entry) for entry in item]
        return float(item) if isinstance(item, str) else item

    array = np.asarray(numbers(data), dtype)
    return array if shape is None else array.reshape(shape)
