"""What a label that does not fit most probably is, and what to do about it: how the messages about labels end.

Written once, for every framework. Nothing here decides whether something is refused; that has been decided.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hemspec.shapes import Shape, agree, show, without

VOID: Final = 255
"""What segmentation data sets mark as no class, where a mask is 8 bits wide."""

OF_A_HEAD: Final = "the logits"
"""How messages call what a linear head makes, whose class axis is the last."""

SWAPPED: Final = (
    "are logits and labels swapped? Logits come first; Keras passes (y_true, y_pred), so give compile() a class of"
    " hemspec.keras, not a function"
)


def on_labels(shape: Shape, dtype: str, logits_shape: Shape, class_axis: int, *, name: str, logits_name: str) -> str:
    """What to do with labels of a shape or a dtype that does not fit, after a semicolon; nothing if nobody can tell."""
    floating, numeric = "float" in dtype, dtype == "bool" or dtype.startswith(("int", "uint", "float", "bfloat"))
    if not numeric:
        return ""
    axes = [class_axis]
    if logits_name != OF_A_HEAD:
        if floating and any(agree(without(shape, k), logits_shape) for k in range(len(shape))):
            return f"; {SWAPPED}"
        if len(shape) == 1 and agree(shape, logits_shape):
            return f"; is the class axis missing from {logits_name}? (a binary problem takes two logits, one per class)"
        if len(logits_shape) > 2:
            axes += [k for k in reversed(range(len(logits_shape))) if k != class_axis]
    for axis in axes:
        positions = without(logits_shape, axis)
        for candidate, steps in readings(shape, dtype, positions, logits_shape[axis], name=name):
            if agree(candidate, positions):
                if axis != class_axis:
                    steps = [*steps, on_class_axis(axis, len(logits_shape), logits_name)]
                swapped = [SWAPPED] if floating and logits_name != OF_A_HEAD and agree(shape, logits_shape) else []
                return "".join(f"; {step}" for step in [", and ".join(steps), *swapped] if step)
    return ""


def readings(
    shape: Shape, dtype: str, positions: Shape, classes: int | None, *, name: str
) -> list[tuple[Shape, list[str]]]:
    """What the labels may be meant as: the shape of their class indices, and the steps that lead to these."""
    whole = dtype.startswith(("int", "uint"))
    cast = [] if whole else [f"cast {name} to an integer dtype" + (", target.long()" if name == "target" else "")]
    found: list[tuple[Shape, list[str]]] = [(shape, cast)]
    for axis, size in enumerate(shape):
        if size == 1:
            step = f"an axis of size 1 has to be squeezed: squeeze axis {axis} of {name}"
            found.append((without(shape, axis), [step, *cast]))
    for axis, size in enumerate(shape):
        if size is not None and size == classes:
            step = f"one-hot {name}? take the argmax over the classes, axis {axis}"
            if "float" in dtype:
                step += (
                    f"; soft {name}? labels that were mixed go as two calls, lam * loss(logits, y_a) + (1 - lam) *"
                    " loss(logits, y_b)"
                )
            found.append((without(shape, axis), [step]))
    if len(shape) != len(positions) and count(shape) is not None and count(shape) == count(positions):
        found.append((positions, [f"reshape {name} to {show(positions)}", *cast]))
    return found


def count(shape: Shape) -> int | None:
    """How many elements it has."""
    known = [size for size in shape if size is not None]
    return math.prod(known) if len(known) == len(shape) else None


def on_class_axis(axis: int, rank: int, logits_name: str) -> str:
    """How to say where the classes are. PyTorch has no argument for it."""
    place = -1 if axis == rank - 1 else axis
    if logits_name == "input":
        return f"the classes of input belong on axis {min(1, rank - 1)}: input.movedim({place}, 1)"
    return f"are the classes on axis {place} of {logits_name}? say axis={place}"


def on_label_values(labels: npt.NDArray[Any], bad: npt.NDArray[np.bool_], valid: Any, classes: int, name: str) -> str:
    """What a label outside [0, C) most probably is, in brackets; nothing if nobody can tell."""
    wrong = np.unique(labels[bad])
    if len(wrong) != 1:
        return ""
    (value,) = wrong.tolist()
    if value == classes and labels[np.broadcast_to(valid, labels.shape)].min() >= 1 and labels.size > 1:
        return f" (labels count from 0: if yours are 1 to {classes}, subtract 1)"
    if value < 0 or value == VOID:
        option = "ignore_class" if name == "y_true" else "ignore_index"
        return f" (if {int(value)} marks what is to be left out, say {option}={int(value)})"
    return ""
