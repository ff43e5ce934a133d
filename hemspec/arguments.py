"""What every implementation checks about its arguments, written once and framework-free.

Shapes, dtypes and names are known even while a framework traces, so they are checked in every mode.
Values (is this label a class? is this margin negative?) are checked only where a caller hands in something
NumPy can read; a backend that cannot read a value returns NaN instead.

Every message names the argument, what was expected and what came.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set, ValuesView
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from hemspec import advice
from hemspec.shapes import Shape, agree, show, show_size, without

FLOATING: Final = ("float16", "bfloat16", "float32", "float64")
Reduction: TypeAlias = Literal["none", "sum", "mean"]
MarginReduction: TypeAlias = Literal["none", "sum", "mean", "active_mean"]
REDUCTIONS: Final[tuple[str, ...]] = get_args(Reduction)
MARGIN_REDUCTIONS: Final[tuple[str, ...]] = get_args(MarginReduction)
"""`active_mean` counts positions whose loss is positive, which only a margin loss can switch off."""

CHUNKS: Final = 32
SMALLEST_CHUNK: Final = 2**23
LARGEST_CHUNK: Final = 2**26
"""Into how many chunks the logits of a linear head are cut, and the fewest and the most of a chunk: 32 to 256 MB."""


def check_reduction(reduction: object, allowed: Sequence[str], *, name: str = "reduction") -> None:
    """Refuse an unknown reduction, and `active_mean` where the loss has no inactive positions."""
    if reduction in allowed:
        return
    choices = ", ".join(repr(choice) for choice in allowed)
    hint = ""
    if reduction == "active_mean":
        hint = "; only HEM and multi-class margin have inactive positions to leave out"
    raise ValueError(f"{name} must be one of {choices}; got {reduction!r}{hint}")


def check_terms_reduction(reduction: object) -> None:
    """A numerator and a denominator exist for the two averages alone."""
    if reduction not in ("mean", "active_mean"):
        raise ValueError(
            "terms(...) gives the numerator and denominator of an average: reduction must be 'mean' or "
            f"'active_mean'; got {reduction!r} ('sum' adds up over batches as it is)"
        )


def check_axis(axis: object, rank: int) -> int:
    """The class axis as a number in [0, rank)."""
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise TypeError(f"axis must be an integer; got {type(axis).__name__}")
    index = int(axis)
    if not -rank <= index < rank:
        raise ValueError(f"axis must lie in [{-rank}, {rank}) for logits of rank {rank}; got {index}")
    return index % rank


def check_logits(shape: Shape, dtype: str, axis: object = -1, *, name: str = "logits") -> int:
    """Floating point, at least one axis, at least two classes. Returns the class axis, counted from the front."""
    if dtype not in FLOATING:
        hint = f"; {advice.SWAPPED}" if dtype.startswith(("int", "uint")) else ""
        raise TypeError(f"{name} must be floating point, one of {', '.join(FLOATING)}; got {dtype}{hint}")
    if len(shape) == 0:
        raise ValueError(f"{name} must have a class axis: expected shape (..., C), got a scalar")
    class_axis = check_axis(axis, len(shape))
    classes = shape[class_axis]
    if classes is not None and classes < 2:
        raise ValueError(
            f"{name} must have at least 2 classes along axis {class_axis}; got shape {show(shape)}"
            f" (a binary problem takes two logits, one per class; {advice.SWAPPED})"
        )
    return class_axis


def check_head(
    features: tuple[Shape, str],
    weight: tuple[Shape, str],
    bias: tuple[Shape, str] | None,
    *,
    class_axis: int,
    names: Sequence[str] = ("features", "weight", "bias"),
) -> int | None:
    """Features (..., D), a weight of (C, D) or (D, C) and a bias of (C,), each a shape and a dtype. Returns C."""
    (shape, dtype), (weight_shape, _), (name, weight_name, bias_name) = features, weight, names
    if dtype not in FLOATING:
        raise TypeError(f"{name} must be floating point, one of {', '.join(FLOATING)}; got {dtype}")
    if len(shape) == 0:
        raise ValueError(f"{name} must have a feature axis: expected shape (..., D), got a scalar")
    form = ["C", "D"] if class_axis == 0 else ["D", "C"]
    expected = f"({', '.join(form)})"
    if len(weight_shape) != 2 or not agree((shape[-1],), (weight_shape[1 - class_axis],)):
        raise ValueError(
            f"{weight_name} must have shape {expected} with D = {show_size(shape[-1], '?')}, the last axis of {name};"
            f" got {show(weight_shape)}"
        )
    classes = weight_shape[class_axis]
    if classes is not None and classes < 2:
        raise ValueError(f"{weight_name} must have shape {expected} with at least 2 classes; got {show(weight_shape)}")
    if bias is not None and not agree(bias[0], (classes,)):
        raise ValueError(f"{bias_name} must have shape ({show_size(classes, 'C')},); got {show(bias[0])}")
    for other, array in ((weight_name, weight), (bias_name, bias)):
        if array is not None and array[1] != dtype:
            raise TypeError(f"{other} must have the dtype of {name}, {dtype}; got {array[1]}")
    return classes


def check_chunk_rows(chunk_rows: object, *, name: str = "chunk_rows") -> int | None:
    """A number of positions, or None for a choice."""
    if chunk_rows is None:
        return None
    if isinstance(chunk_rows, bool) or not isinstance(chunk_rows, (int, np.integer)):
        raise TypeError(f"{name} must be an integer or None; got {type(chunk_rows).__name__}")
    if chunk_rows < 1:
        raise ValueError(f"{name} must be at least 1; got {chunk_rows}")
    return int(chunk_rows)


def read_chunk_rows(chunk_rows: object, positions: int, classes: int) -> int:
    """How many positions' logits are there at once: as many as asked for, else a part of them that is a size to have.

    A CPU's matrix product wants a few hundred rows, and an accelerator's too: it reads all of the head for each chunk.
    """
    asked = check_chunk_rows(chunk_rows)
    if asked is None:
        entries = min(max(positions * classes // CHUNKS, SMALLEST_CHUNK), LARGEST_CHUNK)
        asked = max(1, entries // classes)
    return max(1, min(asked, positions))


def check_labels(
    shape: Shape, dtype: str, logits_shape: Shape, class_axis: int, *, name: str = "labels", logits_name: str = "logits"
) -> None:
    """Integers, one for every position: the shape of the logits without the class axis."""
    positions = without(logits_shape, class_axis)
    integers = dtype.startswith(("int", "uint"))
    if integers and agree(shape, positions):
        return
    got = f"got {dtype} of shape {show(shape)}"
    hint = advice.on_labels(shape, dtype, logits_shape, class_axis, name=name, logits_name=logits_name)
    if not integers:
        raise TypeError(f"{name} must hold integer class indices of shape {show(positions)}; {got}{hint}")
    raise ValueError(
        f"{name} must have the shape of {logits_name} without the class axis: expected {show(positions)}"
        f" (shape of {logits_name}: {show(logits_shape)}, class axis {class_axis}), got {show(shape)}{hint}"
    )


def check_weight(shape: Shape, dtype: str, labels_shape: Shape, *, name: str = "sample_weight") -> None:
    """A number for every position, or one for every entry of the labels' first axis. Nothing else broadcasts."""
    if not (dtype == "bool" or dtype in FLOATING or dtype.startswith(("int", "uint"))):
        raise TypeError(f"{name} must be boolean, integer or floating point; got {dtype}")
    if agree(shape, labels_shape) or (len(labels_shape) > 1 and agree(shape, labels_shape[:1])):
        return
    expected = show(labels_shape)
    if len(labels_shape) > 1:
        expected += f" or {show(labels_shape[:1])}"
    hint = ""
    for axis, size in enumerate(shape):
        if size == 1 and agree(without(shape, axis), labels_shape):
            hint = f"; squeeze axis {axis} of {name}"
    raise ValueError(
        f"{name} must have the shape of the labels or of their first axis: {expected}; got {show(shape)}{hint}"
    )


def check_ignore_index(ignore_index: object, *, name: str = "ignore_index") -> int | None:
    """An integer, or None for off."""
    if ignore_index is None:
        return None
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, (int, np.integer)):
        raise TypeError(f"{name} must be an integer or None; got {type(ignore_index).__name__}")
    return int(ignore_index)


def representable(value: int, dtype: str) -> bool:
    """Whether an integer dtype can hold a value at all.

    Labels are compared with `ignore_index` as mathematical integers. Where the dtype cannot hold the number no
    label equals it, although -100 and 156 are the same eight bits.
    """
    bits = int(dtype.lstrip("uint"))
    low, high = (0, 2**bits - 1) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    inside: bool = low <= value <= high  # not bool(...): Dynamo of PyTorch 2.6 refuses that of a symbol
    return inside


def check_constant_dtype(dtype: str, name: str) -> None:
    """A hyper-parameter given as an array holds real numbers."""
    if not (dtype in FLOATING or dtype.startswith(("int", "uint"))):
        raise TypeError(f"{name} must be a real number or an array of them; got {dtype}")


def check_per_class(shape: Shape, classes: int | None, *, name: str, scalar: bool) -> None:
    """A constant is one number (where `scalar` allows it) or a vector with one entry per class."""
    if scalar and len(shape) == 0:
        return
    if len(shape) != 1 or (classes is not None and shape[0] is not None and shape[0] != classes):
        size = show_size(classes, "C")
        kind = "a number or a vector" if scalar else "a vector"
        raise ValueError(f"{name} must be {kind} with one entry per class, shape ({size},); got shape {show(shape)}")


def first(bad: npt.NDArray[np.bool_]) -> tuple[tuple[int, ...], str]:
    """The index of the first offender, and how a message puts it: nothing for a scalar, else `` at index 3``."""
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    return where, f" at index {where if len(where) != 1 else where[0]}" if where else ""


def by_class(value: Any, *, name: str) -> Any:
    """What comes with an index of its own (Series, dict, Counter), in the order of the classes; all else as it is.

    A Series from `value_counts` is sorted by frequency and a Counter by first sight. Taken by position they would give
    each class the number of another.
    """
    if isinstance(value, (np.ndarray, float, int)):  # the usual, at no cost
        return value
    if isinstance(value, Mapping):
        index, entries = list(value.keys()), list(value.values())
    elif is_attribute(value, "columns"):
        raise TypeError(f"{name} must have one entry per class; got a {type(value).__name__}: give one column of it")
    elif is_attribute(value, "index"):
        index, entries = list(value.index), list(value)
    else:
        return value
    if not are_integers(index) or sorted(index) != list(range(len(index))):
        raise ValueError(
            f"{name} must be given for exactly the classes 0 to C-1; got a {type(value).__name__} with the index"
            f" {show_few(index)} ({advice_on_index(index)})"
        )
    ordered: list[Any] = [None] * len(index)
    for key, entry in zip(index, entries, strict=True):
        ordered[key] = entry
    return ordered


def is_attribute(value: Any, name: str) -> bool:
    """Whether it holds something by that name; a method, such as the `index` of a list, is nothing held."""
    return hasattr(value, name) and not callable(getattr(value, name))


def are_integers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, (int, np.integer)) and not isinstance(value, bool) for value in values)


def show_few(entries: Sequence[Any]) -> str:
    """The first entries of a list: all of a vocabulary is no message."""
    return f"[{', '.join(map(repr, entries[:6]))}{', ...' if len(entries) > 6 else ''}]"


def advice_on_index(index: Sequence[Any]) -> str:
    """What to do with an index that is not the classes."""
    if not are_integers(index):
        if all(isinstance(key, str) and key.isdecimal() for key in index):
            return "as JSON writes it: turn each key into a number with int()"
        return "class indices are integers: turn each name into its index, or give a list in the order of the classes"
    if len(set(index)) < len(index):
        return "a class occurs more than once"
    if sorted(index) == list(range(1, len(index) + 1)):
        return "classes count from 0: subtract 1 from the index"
    missing = sorted(set(range(max(index) + 1)) - set(index))
    return f"there is nothing for class {missing[0]}" if missing else "classes count from 0"


def read_constant(value: Any, *, name: str, positive: bool = False, counts: bool = False) -> npt.NDArray[np.float64]:
    """A hyper-parameter NumPy can read, in float64: finite and >= 0, or > 0 where `positive`, or class `counts`.

    What comes with an index of its own is put in the order of the classes.
    """
    array = np.asarray(by_class(value, name=name))
    if array.dtype.kind in "US":
        first_text = str(array.flat[0]) if array.size else ""
        raise TypeError(
            f"{name} must be a real number or an array of them; got the text {first_text!r}{advice_on_text(first_text)}"
        )
    if array.dtype == object:
        hint = ""
        if isinstance(value, (Set, ValuesView)):
            hint = " (it does not say which class is which: give the dict, or a list in the order of the classes)"
        raise TypeError(f"{name} must be a real number or an array of them; got {type(value).__name__}{hint}")
    check_constant_dtype(array.dtype.name, name)
    numbers = array.astype(np.float64)
    positive = positive or counts
    bad = ~(np.isfinite(numbers) & ((numbers > 0) if positive else (numbers >= 0)))
    if bad.any():
        where, at = first(bad)
        raise ValueError(
            f"{name} must be finite and {'> 0' if positive else '>= 0'}; got {float(numbers[where])!r}{at}"
        )
    if counts:
        check_counts(numbers, name=name)
    return numbers


ROUNDING: Final = 1e-6
"""How much of itself a class count may lack of a whole number: what float32 loses on the way."""


def are_counts(counts: Any, whole: Any) -> Any:
    """Which are whole numbers >= 1 within rounding, given what they are rounded; arrays of any framework."""
    return (abs(counts - whole) <= ROUNDING * counts) & (counts >= 1 - ROUNDING)


def check_counts(counts: npt.NDArray[np.float64], *, name: str) -> None:
    """Refuse shares: each class has at least one sample, and no half ones."""
    bad = ~are_counts(counts, np.rint(counts))
    if bad.any():
        where, at = first(bad)
        raise ValueError(
            f"{name} must be whole numbers >= 1, the training samples of each class; got {float(counts[where])!r}{at}"
            " (shares are not counts: multiply them by the number of training samples, and round)"
        )


def advice_on_text(text: str) -> str:
    """Why a number came as text, where it is one."""
    try:
        number = float(text)
    except ValueError:
        return ""
    return f" (YAML takes 2e-1 or 5e4, without a point, for text: write {number!r}, or convert it with float())"


def read_number(value: Any, *, name: str, positive: bool = False) -> float:
    """A hyper-parameter that is one number NumPy can read: finite and >= 0, or > 0 where `positive`."""
    number = read_constant(value, name=name, positive=positive)
    check_number(number.shape, name=name)
    return float(number)


def check_number(shape: Shape, *, name: str) -> None:
    """A hyper-parameter that is one number has no axes."""
    if len(shape):
        raise ValueError(f"{name} must be one number; got shape {show(shape)}")


def check_label_values(
    labels: npt.NDArray[Any], exists: npt.NDArray[np.bool_], classes: int, *, name: str = "labels"
) -> None:
    """Every label that is not ignored and not weighted 0 names a class."""
    bad = exists & ((labels < 0) | (labels >= classes))
    if bad.any():
        where, at = first(bad)
        hint = advice.on_label_values(labels, bad, exists, classes, name)
        raise ValueError(
            f"{name} must lie in [0, {classes}) at every valid position; got {int(labels[where])}{at}{hint}"
        )


def check_weight_values(
    weights: npt.NDArray[Any], exists: npt.NDArray[np.bool_], *, name: str = "sample_weight"
) -> None:
    """Every weight of a position that is not ignored is finite and >= 0."""
    bad = exists & ~(np.isfinite(weights) & (weights >= 0))
    if bad.any():
        where, at = first(bad)
        raise ValueError(f"{name} must be finite and >= 0; got {float(weights[where])!r}{at}")


def check_flag(value: object, *, name: str) -> bool:
    """A switch is True or False, not something truthy."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False; got {value!r}")
    return bool(value)


def log_prior(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """log(class_counts / sum(class_counts)) in float64, for logit adjustment."""
    return np.asarray(np.log(counts) - math.log(float(counts.sum())))
