"""Compare what a backend answers with what the specification says, and tell the difference so that it can be mended."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hemspec_conformance.adapter import Array, Call, Mode
from hemspec_conformance.backend import Backend, ConformanceError, InputChangedError, NotAskedError, Result
from hemspec_conformance.rejections import Rejection
from hemspec_conformance.tolerances import tolerance
from hemspec_conformance.vectors import Vector


@dataclass(frozen=True)
class Place:
    """Which check this is, for the first line of a message."""

    backend: str
    loss: str
    case: str
    mode: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.backend}: {self.loss}, case {self.case}, mode {self.mode}, {self.dtype}"


def compute_dtype(dtype: str) -> str:
    """float16 and bfloat16 are computed in float32, and the loss stays float32."""
    return "float64" if dtype == "float64" else "float32"


def check_vector(backend: Backend, vector: Vector, mode: Mode, dtype: str) -> float:
    """Run a vector and compare value and gradient: dtype, shape, elements. Returns the worst error in tolerances."""
    call = replace(vector.call, logits=vector.call.logits.astype(as_dtype(dtype)))
    answer = Result(vector.value, vector.gradient)
    call, answer = arrange(call, answer, mode.layout)
    given = replace(call, labels=in_form(call.labels, vector.label_form, call.logits.shape[call.axis]))
    place = Place(backend.name, call.loss, vector.name, mode.name, dtype)
    return compare_results(place, call, backend.answer(given, mode), answer)


def compare_results(place: Place, call: Call, got: Result, expected: Result) -> float:
    """Compare an answer to a call with the right one, in float64. Returns the worst error in tolerances."""
    absent = absent_positions(call)
    compute = compute_dtype(place.dtype)
    classes = call.logits.shape[call.axis]
    worst = compare(place, "value", got.value, expected.value, classes, compute, compute)
    if call.reduction == "none" and call.loss != "dice_loss":
        require_zero(place, "value", got.value, absent)
    worst = max(worst, compare(place, "gradient", got.gradient, expected.gradient, classes, compute, place.dtype))
    require_zero(place, "gradient", np.moveaxis(got.gradient, call.axis, -1), absent)
    return worst


def arrange(call: Call, answer: Result, layout: str) -> tuple[Call, Result]:
    """The same call in another layout, and its answer in that layout."""
    if layout == "strided":
        arrays = {name: with_gaps(getattr(call, name)) for name in ("logits", "labels", "sample_weight")}
        return replace(call, **arrays), answer
    if layout == "as_given":
        return call, answer
    axis = class_axis_of(layout, call.logits.ndim)
    logits = np.ascontiguousarray(np.moveaxis(call.logits, call.axis, axis))
    gradient = np.moveaxis(answer.gradient, call.axis, axis)
    return replace(call, logits=logits, axis=axis), Result(answer.value, gradient)


def class_axis_of(layout: str, rank: int) -> int:
    """Where a layout has the classes; channels first is axis 1, behind the batch."""
    return min(1, rank - 1) if layout == "channels_first" else rank - 1


def with_gaps(array: Any) -> Any:
    """The same numbers as a view that is contiguous along no axis."""
    if array is None or array.ndim == 0:
        return array
    wide = np.zeros([2 * size for size in array.shape], array.dtype)
    view = wide[(slice(None, None, 2),) * array.ndim]
    view[...] = array
    return view


def in_form(labels: Any, form: str, classes: int) -> Any:
    """Class indices as a lenient backend takes them too. Labels that are no class have no one-hot row."""
    if form == "column":
        return labels[..., None]
    if form == "one_hot":
        return np.eye(classes, dtype=np.float32)[labels]
    return labels.astype(np.float32) if form == "float" else labels


def compare(
    place: Place,
    what: str,
    got: Array,
    expected: Array,
    classes: int,
    compute: str,
    output: str,
    allowance: float = 1.0,
) -> float:
    """Element by element; NaN and infinities have to be the same. Returns the worst error in units of the tolerance.

    `allowance` multiplies the tolerance where both sides are measured.
    """
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
    allowed = allowance * tolerance(place.loss, classes, compute, output, expected)
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


def check_rejection(backend: Backend, rejection: Rejection, mode: Mode) -> None:
    """A bad argument gets an error that says so. A bad value that cannot be read gets NaN, never a plausible number."""
    place = Place(backend.name, rejection.call.loss, rejection.name, mode.name, rejection.call.logits.dtype.name)
    names = [backend.argument_names.get(word, word) for word in rejection.words]
    if rejection.wide_labels:
        require_wide_labels(backend, rejection.call.labels, mode)
    try:
        result = backend.answer(rejection.call, mode)
    except InputChangedError:
        raise
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


def require_wide_labels(backend: Backend, labels: Array, mode: Mode) -> None:
    """Frameworks whose integers have 32 bits cannot be asked about labels beyond them."""
    arrived = backend.numpy(backend.adapter.from_numpy(labels, mode), "labels")
    if arrived.tolist() != labels.tolist():
        raise NotAskedError(f"integers of mode {mode.name} have {8 * arrived.dtype.itemsize} bits")


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
