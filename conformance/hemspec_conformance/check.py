"""Compare what a backend answers with what the specification says, and tell the difference so that it can be mended."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hemspec_conformance.adapter import Adapter, Array, Call, Mode, Result
from hemspec_conformance.rejections import Rejection
from hemspec_conformance.tolerances import tolerance
from hemspec_conformance.vectors import Vector


class ConformanceError(AssertionError):
    """A backend differs from the specification. The message says where and by how much."""


@dataclass(frozen=True)
class Place:
    """Which check this is, for the first line of a message."""

    target: str
    loss: str
    case: str
    mode: str
    dtype: str
    classes: int

    def __str__(self) -> str:
        return f"{self.target}: {self.loss}, case {self.case}, mode {self.mode}, {self.dtype}"


def compute_dtype(dtype: str) -> str:
    """float16 and bfloat16 are computed in float32, and the loss stays float32."""
    return "float64" if dtype == "float64" else "float32"


def check_vector(adapter: Adapter, vector: Vector, mode: Mode, dtype: str) -> float:
    """Run a vector and compare value and gradient: dtype, shape, elements. Returns the worst error in tolerances."""
    place = Place(
        adapter.name, vector.call.loss, vector.name, mode.name, dtype, vector.call.logits.shape[vector.call.axis]
    )
    call = replace(vector.call, logits=vector.call.logits.astype(as_dtype(dtype)))
    result = adapter.run(call, mode)
    absent = absent_positions(call)
    compute = compute_dtype(dtype)
    worst = compare(place, "value", result.value, vector.value, compute, compute)
    if call.reduction == "none" and call.loss != "dice_loss":
        require_zero(place, "value", result.value, absent)
    worst = max(worst, compare(place, "gradient", result.gradient, vector.gradient, compute, dtype))
    require_zero(place, "gradient", np.moveaxis(result.gradient, call.axis, -1), absent)
    return worst


def compare(place: Place, what: str, got: Array, expected: Array, compute: str, output: str) -> float:
    """Element by element; NaN and infinities have to be the same. Returns the worst error in units of the tolerance."""
    if got.dtype.name != output:
        raise ConformanceError(f"{place}\n  {what} has the wrong dtype: expected {output}, got {got.dtype.name}")
    if got.shape != expected.shape:
        raise ConformanceError(f"{place}\n  {what} has the wrong shape: expected {expected.shape}, got {got.shape}")
    if not expected.size:
        return 0.0
    numbers = got.astype(np.float64)
    with np.errstate(over="ignore"):  # a gradient that half precision cannot hold overflows, as it should
        beyond = np.isinf(expected.astype(as_dtype(output)))
    expected = np.where(beyond, np.copysign(np.inf, expected), expected)
    allowed = tolerance(place.loss, place.classes, compute, output, expected)
    special = ~np.isfinite(expected)
    same = np.where(np.isnan(expected), np.isnan(numbers), numbers == expected)
    with np.errstate(invalid="ignore"):
        error = np.where(special, np.where(same, 0.0, np.inf), np.abs(numbers - expected) / allowed)
    error = np.where(np.isnan(error), np.inf, error)
    worst = float(error.max())
    if worst > 1:
        index = np.unravel_index(int(error.argmax()), error.shape)
        at = f"[{', '.join(str(int(i)) for i in index)}]" if error.ndim else ""
        raise ConformanceError(
            f"{place}\n  {what}{at}: expected {expected[index]!s}, got {numbers[index]!s}"
            f" (error {worst:.3g} times the tolerance {float(allowed[index]):.3g};"
            f" {int((error > 1).sum())} of {error.size} elements differ)"
        )
    return worst


def absent_positions(call: Call) -> Any:
    """Positions that do not exist: ignored, or of weight 0. Compared as Python integers, whatever the dtype."""
    ignored = [call.ignore_index is not None and int(label) == call.ignore_index for label in call.labels.ravel()]
    absent = np.array(ignored, bool).reshape(call.labels.shape)
    if call.sample_weight is not None:
        w = call.sample_weight
        absent |= (w == 0).reshape(w.shape + (1,) * (absent.ndim - w.ndim))
    return absent


def require_zero(place: Place, what: str, got: Array, absent: Any) -> None:
    """A position that does not exist contributes exactly 0."""
    nonzero = got != 0
    wrong = absent & (nonzero.any(axis=-1) if nonzero.ndim > absent.ndim else nonzero)
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ConformanceError(
            f"{place}\n  {what} at position {index}, which does not exist: expected exactly 0, got {got[index]!s}"
        )


def check_rejection(adapter: Adapter, rejection: Rejection, mode: Mode) -> None:
    """A bad argument gets an error that says so. A bad value that cannot be read gets NaN, never a plausible number."""
    place = Place(adapter.name, rejection.call.loss, rejection.name, mode.name, rejection.call.logits.dtype.name, 3)
    names = [adapter.argument_names.get(word, word) for word in rejection.words]
    try:
        result = adapter.run(rejection.call, mode)
    except Exception as error:
        message = str(error)
        missing = [word for word in names if word not in message]
        if missing:
            raise ConformanceError(
                f"{place}\n  the message lacks {missing}: {type(error).__name__}: {message}"
            ) from error
        if mode.reads_values and not isinstance(error, TypeError | ValueError):
            raise ConformanceError(
                f"{place}\n  expected ValueError or TypeError, got {type(error).__name__}"
            ) from error
        return
    if mode.reads_values or rejection.static:
        raise ConformanceError(f"{place}\n  expected an error that names {names}, got {result.value!s}")
    require_nan(place, rejection, result)


def require_nan(place: Place, rejection: Rejection, result: Result) -> None:
    """The answer to a bad value that cannot be read: NaN, and a NaN gradient in every class of its positions."""
    value = np.asarray(result.value, np.float64)
    gradient = np.moveaxis(np.asarray(result.gradient, np.float64), rejection.call.axis, -1)
    bad = rejection.bad_positions()
    at_bad = value[bad] if value.shape == bad.shape and value.ndim else value
    if not np.isnan(at_bad).all():
        raise ConformanceError(f"{place}\n  value: expected NaN for a bad value that cannot be read, got {value!s}")
    if not np.isnan(gradient[bad]).all():
        raise ConformanceError(
            f"{place}\n  gradient: expected NaN in every class of the bad positions, got {gradient[bad]!s}"
        )


def as_dtype(name: str) -> Any:
    """A NumPy dtype by name; bfloat16 is not NumPy's own."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)
