"""Random calls, good and bad: what `fuzz` asks a backend.

A call is drawn in two steps, because compilers work by the first one: its *form* (shapes, dtypes, options, numbers
that a trace closes over), and the *content* of its arrays. Both follow from a seed and a number alone, so that any
process can draw the same call again.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from hemspec.arguments import MARGIN_REDUCTIONS, REDUCTIONS, representable
from hemspec_conformance.adapter import DTYPES, Array, Call, LabelForm
from hemspec_conformance.check import as_dtype, with_gaps

POSITIONS: Final[Sequence[tuple[int, ...]]] = (
    *((), (0,), (1,), (2,), (3,), (8,), (33,)),
    *((2, 3), (0, 3), (3, 0), (1, 1), (4, 1, 3), (2, 2, 2), (1, 2, 1, 3)),
)
"""Shapes of labels: logits of rank 1 to 5, nothing at all among them."""
CLASSES: Final = (2, 2, 3, 3, 5, 10, 64, 257, 1025)
INTEGERS: Final = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
WEIGHTS: Final = ("bool", *INTEGERS, *DTYPES)
IGNORED: Final = (-100, None, 0, 1, 255, -1, 300, 2**31 - 1, -(2**40), 2**70)
MARGINS: Final = (1.0, 1, 0.0, 0, 0.25, 1.03125, 1e-3, 1e3, 1e-40, 1e30, 1e300, np.float32(0.5))
BAD_NUMBERS: Final = (-1.0, -1e-300, np.nan, np.inf, -np.inf)
SCALARS: Final[dict[str, Sequence[Any]]] = {
    "margin": MARGINS,
    "gamma": (2.0, 0, 0.5, 1, 5.0, 1e-3, 100.0),
    "temperature": (1.0, 0.04, 1.25, 1e-3, 100.0, 2),
    "smooth": (0.0, 0.5, 1, 1e-6, 1e6),
}
NUMBERS: Final[dict[str, Sequence[str]]] = {
    "hem_loss": ("margin",),
    "multi_margin_loss": ("margin",),
    "cross_entropy_loss": (),
    "focal_loss": ("gamma",),
    "logit_norm_loss": ("temperature",),
    "logit_adjusted_loss": ("temperature",),
    "dice_loss": ("smooth",),
}
VECTORS: Final = {
    "hem_loss": "margin",
    "multi_margin_loss": "margin",
    "focal_loss": "alpha",
    "logit_adjusted_loss": "class_counts",
}
"""The constants that are, or may be, one number for each class."""


@dataclass(frozen=True)
class Input:
    """A call, and the form in which its labels are given."""

    call: Call
    label_form: LabelForm = "ids"


@dataclass(frozen=True)
class Limits:
    """What may be drawn, for a backend in a mode."""

    label_forms: Sequence[LabelForm] = ("ids",)
    faults: bool = True
    """Whether calls that have to be refused are among them: about one in four."""
    infinities: bool = True
    contents: int = 1
    """How many calls share a form."""


class Dice:
    """A source of choices."""

    def __init__(self, *key: int) -> None:
        self.rng = np.random.default_rng(key)

    def of(self, choices: Sequence[Any]) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)


def draw(loss: str, dtype: str, limits: Limits, *, seed: int, number: int) -> Input:
    """The call of that number."""
    key = zlib.crc32(f"{loss} {dtype}".encode())
    form = draw_form(Dice(seed, key, 0, number // limits.contents), loss, dtype, limits)
    return fill(Dice(seed, key, 1, number), form, limits)


def draw_form(dice: Dice, loss: str, dtype: str, limits: Limits) -> Input:
    """Shapes, dtypes and options; the arrays hold zeros."""
    shape, classes = dice.of(POSITIONS), dice.of(CLASSES)
    if int(np.prod(shape)) * classes > 6000:
        classes = 5
    axis = int(dice.rng.integers(-len(shape) - 1, len(shape) + 1)) if dice.chance(0.5) else -1
    last = axis % (len(shape) + 1) == len(shape)
    form: LabelForm = dice.of(limits.label_forms) if shape and last else "ids"
    labels = np.zeros(shape, dice.of(INTEGERS) if dice.chance(0.5) else "int64")
    weight = None
    if dice.chance(0.5):
        weight = np.ones(shape[:1] if dice.chance(0.3) else shape, as_dtype(dice.of(WEIGHTS)))
    call = Call(
        loss,
        np.zeros((*shape, classes), as_dtype(dtype)),
        labels,
        weight,
        axis,
        dice.of(IGNORED) if dice.chance(0.5) else -100,
        dice.of(MARGIN_REDUCTIONS if loss in ("hem_loss", "multi_margin_loss") else REDUCTIONS),
        draw_constants(dice, loss, classes),
    )
    if limits.faults and dice.chance(0.15):
        call = with_fault(dice, call, strict=len(limits.label_forms) == 1)
    return Input(call, form)


def draw_constants(dice: Dice, loss: str, classes: int) -> dict[str, Any]:
    constants: dict[str, Any] = {
        name: dice.of(SCALARS[name]) for name in NUMBERS[loss] if name == "margin" or dice.chance(0.7)
    }
    vector = VECTORS.get(loss)
    if vector and (vector == "class_counts" or dice.chance(0.4)):
        constants[vector] = np.ones(classes, dice.of(("float64", "float64", "float32", "int64")))
    if loss == "dice_loss":
        constants["batch"] = dice.chance(0.5)
    return constants


def with_fault(dice: Dice, call: Call, *, strict: bool) -> Call:
    """The call with one argument that is wrong whatever its arrays hold, or a number out of its range.

    A backend that takes labels in other forms, which is not `strict`, takes some of what is wrong elsewhere.
    """
    shape = call.labels.shape
    numbers = [name for name in call.constants if not isinstance(call.constants[name], np.ndarray | bool)]
    faults = ["integer logits", "one class", "reduction", "ignore_index"]
    faults += ["label count", "weight count"] * bool(shape)
    faults += ["scalar weight"] * bool(shape) + ["weight by class"] * (len(shape) == 1)
    faults += ["label dtype", "label axis"] * strict
    faults += ["number", "not a number"] * bool(numbers) + ["vector length", "not a vector"] * (call.loss in VECTORS)
    faults += ["vector"] * (call.loss != "cross_entropy_loss") + ["flag"] * (call.loss == "dice_loss")
    fault = dice.of(faults)
    classes = call.logits.shape[-1]
    longer = (shape[0] + 1, *shape[1:]) if shape else ()
    constant = VECTORS.get(call.loss, "")
    if fault == "integer logits":
        return replace(call, logits=call.logits.astype(dice.of(("int32", "uint8", "bool"))))
    if fault == "one class":
        return replace(call, logits=call.logits[..., :1])
    if fault == "reduction":
        bad: list[Any] = ["average", "", "MEAN"] + [None] * strict  # Keras's word for "none"
        return replace(call, reduction=dice.of([*bad, "active_mean"] if constant != "margin" else bad))
    if fault == "ignore_index":
        return replace(call, ignore_index=dice.of((1.5, True, "1", -100.0)))
    if fault == "label count":
        return replace(call, labels=np.zeros(longer, call.labels.dtype))
    if fault == "label dtype":
        return replace(call, labels=call.labels.astype(dice.of(("bool", "float32", "float64"))))
    if fault == "label axis":
        return replace(call, labels=call.labels[..., None])
    if fault == "weight count":
        return replace(call, sample_weight=np.ones(longer, np.float32))
    if fault == "scalar weight":
        return replace(call, sample_weight=np.ones((), np.float32))
    if fault == "weight by class":
        return replace(call, sample_weight=np.ones((*shape, classes), np.float32))
    constants = dict(call.constants)
    if fault == "number":
        constants[dice.of(numbers)] = dice.of(BAD_NUMBERS)
    elif fault == "not a number":
        constants[dice.of(numbers)] = dice.of(("1", None, 1j, True))
    elif fault == "vector length":
        constants[constant] = np.ones(classes + 1)
    elif fault == "not a vector":
        constants[constant] = np.ones((classes, 1)) if constant == "margin" else 1.0
    elif fault == "vector":
        name = {"hem_loss": "margin", "multi_margin_loss": "margin"}.get(call.loss, "".join(NUMBERS[call.loss][:1]))
        constants[name] = np.ones(2 * classes)
    else:
        constants["batch"] = dice.of(("no", 1, None))
    return replace(call, constants=constants)


def fill(dice: Dice, form: Input, limits: Limits) -> Input:
    """The form with contents; in about one of ten something that only reading the arrays can find to be wrong."""
    call = form.call
    bad = dice.of(("labels", "weights", "constants")) if limits.faults and dice.chance(0.12) else ""
    classes = call.logits.shape[-1]
    labels = fill_labels(dice, call, classes, form.label_form, bad=bad == "labels")
    weight = call.sample_weight
    if weight is not None:
        weight = fill_weights(dice, weight, bad=bad == "weights")
    constants = {
        name: fill_vector(dice, name, value, bad=bad == "constants") if isinstance(value, np.ndarray) else value
        for name, value in call.constants.items()
    }
    logits = fill_logits(dice, call.logits, limits.infinities) if call.logits.dtype.kind not in "biu" else call.logits
    # Drawn with the classes last, given with them where they belong.
    logits = np.ascontiguousarray(np.moveaxis(logits, -1, call.axis))
    arrays = [in_memory(dice, array) for array in (logits, labels, weight)]
    return replace(
        form,
        call=replace(call, logits=arrays[0], labels=arrays[1], sample_weight=arrays[2], constants=constants),
    )


def fill_logits(dice: Dice, zeros: Array, infinities: bool) -> Array:
    shape, dtype = zeros.shape, zeros.dtype
    rng = dice.rng
    kind = dice.of(("grid", "grid", "normal", "normal", "special", "offset", "equal", "masked", "few"))
    # Multiples of 1/16 that every dtype holds exactly: ties and kinks are exact, and frequent.
    z = rng.integers(-128, 129, shape) / 16
    if kind == "normal":
        z = rng.normal(0.0, dice.of((1e-4, 1.0, 1.0, 10.0, 1e3)), shape)
    elif kind == "offset":
        z = np.rint(z * 2) / 2 + dice.of((64.0, -64.0, 4096.0))
    elif kind == "equal":
        z = np.full(shape, dice.of((0.0, 0.5, -3.0, 100.0)))
    elif kind == "masked":
        z[rng.random(shape) < dice.of((0.1, 0.5, 0.95))] = -np.inf
    elif kind == "few":
        z = rng.choice([0.0, 0.0, 1.0, 3.0], shape)
    elif kind == "special":
        info = np.finfo(np.float32) if dtype.itemsize > 2 else np.finfo(np.float16)
        largest, smallest = float(info.max), float(info.smallest_subnormal)
        strange = [np.nan, np.inf, -np.inf, largest, -largest, smallest, -smallest, -0.0, 1e4, -1e4]
        if dtype == np.float64:
            strange += [1e300, -1e300, 5e-324]
        some = rng.random(shape) < dice.of((0.02, 0.2, 0.7))
        z[some] = rng.choice(strange, int(some.sum()))
    if not infinities:
        z[np.isinf(z)] = np.nan
    return z.astype(dtype)


def fill_labels(dice: Dice, call: Call, classes: int, form: LabelForm, *, bad: bool) -> Array:
    labels: Array = call.labels
    if labels.dtype.kind not in "iu" or not labels.size:
        return labels
    # Frameworks without 64-bit integers hold no more than these, and float32 no more than the others.
    most = 2**24 if form == "float" else 2**31
    info = np.iinfo(labels.dtype)
    low, high = max(int(info.min), -most), min(int(info.max), most - 1)
    numbers = dice.rng.integers(0, min(classes, high + 1), labels.shape)
    ignored = call.ignore_index
    if form != "one_hot":
        if isinstance(ignored, int) and low <= ignored <= high and representable(ignored, labels.dtype.name):
            numbers = np.where(dice.rng.random(labels.shape) < dice.of((0.0, 0.3, 1.0)), ignored, numbers)
        if bad:
            strange = [label for label in (classes, -1, -100, low, high) if low <= label <= high]
            numbers.flat[int(dice.rng.integers(labels.size))] = dice.of(strange)
    return np.asarray(numbers).astype(labels.dtype)


def fill_weights(dice: Dice, ones: Array, *, bad: bool) -> Array:
    if not ones.size or dice.chance(0.1):
        return ones
    if ones.dtype.kind == "b":
        return np.asarray(dice.rng.random(ones.shape) < 0.7)
    numbers = [0, 1, 1, 2, 3]
    if ones.dtype.kind not in "iu":
        numbers = dice.of(
            ([0.0, 0.5, 1.0, 2.5], [0.0, 0.0, 1.0], [1e-3, 1.0, 100.0], [1e-40, 1.0, 1e30], [1e-300, 1e300])
        )
    w = dice.rng.choice(numbers, ones.shape)
    if bad and ones.dtype.kind != "u":
        strange = [-1] if ones.dtype.kind == "i" else [-1.0, np.nan, np.inf, -np.inf, -1e-30]
        w = np.asarray(w)
        w.flat[int(dice.rng.integers(ones.size))] = dice.of(strange)
    with np.errstate(over="ignore"):
        return np.asarray(w).astype(ones.dtype)


def fill_vector(dice: Dice, name: str, ones: Array, *, bad: bool) -> Array:
    positive = name == "class_counts"
    low, high, step = (1, 1000, 1) if positive or ones.dtype.kind in "iu" else (0, 64, 1 / 32)
    vector = (dice.rng.integers(low, high, ones.shape) * step).astype(ones.dtype)
    if dice.chance(0.1) and not positive:
        vector[...] = 0
    if bad and vector.size:
        strange = [-1.0] if ones.dtype.kind in "iu" else [-1.0, np.nan, np.inf]
        vector.flat[int(dice.rng.integers(vector.size))] = dice.of([*strange, 0.0] if positive else strange)
    return vector


def in_memory(dice: Dice, array: Any) -> Any:
    """The array as it may lie in memory: contiguous, in the other order, with gaps, or one row many times over."""
    if array is None or not array.size or not array.ndim or dice.chance(0.6):
        return array
    kind = dice.of(("other order", "gaps", "repeated"))
    if kind == "other order":
        return np.asfortranarray(array)
    if kind == "gaps":
        return with_gaps(array)
    # Not np.broadcast_to, which cannot be written to: PyTorch warns of that.
    return np.lib.stride_tricks.as_strided(array, array.shape, (0, *array.strides[1:]))
