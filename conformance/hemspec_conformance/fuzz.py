"""Asks a backend random calls, good and bad, and judges what comes back by the reference.

An answer is right if it is one of those that rounding allows (`admissible`). A call that the reference refuses has to
be refused, by an error that names an argument, or, where its values cannot be read, answered by NaN. Whatever else
comes back is a failure, and so is a crash or a hang, which costs the process that `workers` gave the call.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from hemspec_conformance.adapter import LOSSES, Call, Mode
from hemspec_conformance.admissible import Answers, answers
from hemspec_conformance.backend import Backend, ConformanceError, Result
from hemspec_conformance.check import (
    Place,
    absent_positions,
    arrange,
    compare,
    compute_dtype,
    in_form,
    require_zero,
)
from hemspec_conformance.inputs import Input, Limits, draw
from hemspec_conformance.laws import paste
from hemspec_conformance.vectors import reference_answer

SHARE: Final = {"all": 20, "first dtype": 8, "brief": 4, "core": 2}
"""How the calls are spread over the modes, by their coverage: the faster get more."""
CONTENTS: Final = {"all": 1, "first dtype": 20, "brief": 20, "core": 40}
"""How many calls share what a compiler works by."""
SHRINKING_SECONDS: Final = 3.0
SHRUNK: Final[set[tuple[str, str, str]]] = set()
"""Of which backend, loss and mode a failing call has been made smaller in this process."""
ARGUMENTS: Final = (
    *("logits", "labels", "sample_weight", "ignore_index", "reduction", "axis"),
    *("margin", "gamma", "alpha", "temperature", "class_counts", "smooth", "batch"),
)


def portions(backend: Backend, inputs: int) -> Iterator[tuple[Mode, str, int]]:
    """So many inputs in all, as (mode, loss, how many)."""
    cells = [
        (mode, loss)
        for mode in backend.modes
        if not mode.skip and not mode.finite_only
        for loss in LOSSES
        if loss in backend.losses and (not mode.losses or loss in mode.losses)
    ]
    shares = [SHARE[mode.coverage] for mode, _ in cells]
    before = 0
    for (mode, loss), up_to in zip(cells, np.cumsum(shares, dtype=np.int64), strict=True):
        after = inputs * int(up_to) // sum(shares)
        yield mode, loss, after - before
        before = after


def input_of(backend: Backend, loss: str, mode: Mode, dtype: str, *, seed: int, number: int) -> Input:
    """The call of that number, as the mode can be asked it."""
    faults = mode.refusals and not mode.per_example and mode.layout == "as_given"
    forms: Any = backend.label_forms if mode.layout == "as_given" and not mode.per_example else ("ids",)
    limits = Limits(forms, faults, mode.infinities, CONTENTS[mode.coverage])
    drawn = draw(loss, dtype, limits, seed=seed, number=number)
    return replace(drawn, call=fitted(drawn.call, mode))


def fitted(call: Call, mode: Mode) -> Call:
    """What maps a loss over examples needs some, and gives no average of them."""
    if not mode.per_example:
        return arrange(call, Result(np.zeros(()), call.logits), mode.layout)[0]
    constants = {**call.constants, "batch": False} if "batch" in call.constants else call.constants
    call = replace(call, constants=constants, reduction="none" if call.reduction == "none" else "sum")
    if call.labels.ndim and call.labels.size and call.axis % call.logits.ndim:
        return call
    classes = call.logits.shape[call.axis]
    counts = np.arange(2 * classes) % 7
    return replace(
        call, logits=counts.reshape(2, classes).astype(call.logits.dtype), labels=np.array([0, 1]), axis=-1,
        sample_weight=None,
    )  # fmt: skip


def check_input(backend: Backend, loss: str, mode: Mode, dtype: str, *, seed: int, number: int) -> None:
    """Ask one call; the error holds the smallest failing one that a few seconds could find."""
    asked = input_of(backend, loss, mode, dtype, seed=seed, number=number)
    place = Place(backend.name, loss, f"fuzz {seed} {number}", mode.name, dtype)
    if not (fault := fault_of(backend, mode, asked)):
        return
    # One of each loss and mode is shown.
    shrunk = (backend.name, loss, mode.name) not in SHRUNK
    SHRUNK.add((backend.name, loss, mode.name))
    until = time.monotonic() + SHRINKING_SECONDS
    while shrunk and time.monotonic() < until:
        shrunk = False
        for smaller in simpler(asked):
            said = fault_of(backend, mode, smaller)
            if said and said.split(":")[0] == fault.split(":")[0]:
                asked, fault, shrunk = smaller, said, True
                break
            if time.monotonic() > until:
                break
    raise ConformanceError(f"{place}\n  {fault}\n  asked:\n  {described(asked)}")


def described(asked: Input) -> str:
    """An input as code, to be pasted into `hemspec_conformance.cases`."""
    call = asked.call
    floating = call.logits.dtype.kind not in "biu"
    text = paste(replace(call, logits=call.logits.astype(np.float64) if floating else call.logits))
    return text if asked.label_form == "ids" else f"{text}  # labels given as {asked.label_form}"


def fault_of(backend: Backend, mode: Mode, asked: Input) -> str:
    """What is wrong about the backend's answer; nothing if it is right."""
    call = asked.call
    classes = call.logits.shape[call.axis]
    given = replace(call, labels=in_form(call.labels, asked.label_form, classes))
    try:
        seen = as_it_arrives(backend, mode, call)
    except Exception:
        return ""  # no such array in this framework
    got: Result | Exception
    try:
        got = backend.answer(given, mode)
    except Exception as error:
        got = error
    fault = ""
    for reading in readings(seen):
        said = judge(backend, mode, reading, got)
        if not said:
            return ""
        fault = fault or said
    return fault


def as_it_arrives(backend: Backend, mode: Mode, call: Call) -> Call:
    """The call with the labels and weights that the framework's arrays hold: JAX makes 64-bit numbers 32-bit ones."""

    def arrived(array: Any) -> Any:
        return None if array is None else backend.numpy(backend.adapter.from_numpy(array, mode), "array")

    weight = arrived(call.sample_weight)
    if weight is not None and weight.dtype.kind == "f" and weight.dtype != call.sample_weight.dtype:
        weight = weight.astype(call.sample_weight.dtype)
    return replace(call, labels=arrived(call.labels), sample_weight=weight)


def readings(call: Call) -> Iterator[Call]:
    """The call, and what it says once weights and margins are cast to the dtype that the loss is computed in.

    A number that becomes 0 or infinite there may be taken for what it is or for what it becomes.
    """
    yield call
    compute = np.dtype(compute_dtype(call.logits.dtype.name))
    smallest = float(np.finfo(compute).tiny)

    def cast(value: Any) -> Any:
        try:
            numbers = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            return value
        with np.errstate(all="ignore"):
            numbers = numbers.astype(compute).astype(np.float64)
        flushed = np.where(np.abs(numbers) < smallest, 0.0, numbers)
        return flushed if isinstance(value, np.ndarray) else float(flushed)

    weight = call.sample_weight
    if weight is not None and weight.dtype.kind not in "biu":
        weight = cast(weight)
    constants = {name: cast(value) if name == "margin" else value for name, value in call.constants.items()}
    yield replace(call, sample_weight=weight)
    yield replace(call, sample_weight=weight, constants=constants)


def judge(backend: Backend, mode: Mode, call: Call, got: Result | Exception) -> str:
    """What is wrong about an answer; nothing if it is right."""
    compute = compute_dtype(call.logits.dtype.name)
    try:
        right = answers(call, compute)
    except (TypeError, ValueError) as refusal:
        return after_refusal(backend, mode, call, got, refusal)
    if isinstance(got, Exception):
        return f"refused what has an answer: {type(got).__name__}: {got}"
    with np.errstate(over="ignore"):
        said = [difference(backend, mode, call, got, right, expected) for expected in right.results]
    return "" if "" in said else said[0]


def difference(backend: Backend, mode: Mode, call: Call, got: Result, right: Answers, expected: Result) -> str:
    """Where an answer differs from a right one."""
    place = Place(backend.name, call.loss, "", mode.name, call.logits.dtype.name)
    classes, compute = call.logits.shape[call.axis], compute_dtype(place.dtype)
    value, gradient = (np.asarray(array, np.float64) for array in (expected.value, expected.gradient))
    if right.overflows or right.in_doubt:
        if got.value.shape == value.shape:
            number = got.value.astype(np.float64)
            unclear = ~np.isnan(value)
            if right.overflows:  # HEM's threshold may overflow: it then keeps too many errors, and the loss is less
                unclear &= ~np.isfinite(number) | (call.loss == "hem_loss") & (number >= 0) & (number <= value)
            value = np.where(unclear, number, value)
        if got.gradient.shape == gradient.shape:
            gradient = got.gradient.astype(np.float64)
    absent = absent_positions(call)
    try:
        compare(place, "value", got.value, value, classes, compute, compute, right.value_allowance)
        compare(place, "gradient", got.gradient, gradient, classes, compute, place.dtype, right.gradient_allowance)
        if call.reduction == "none" and call.loss != "dice_loss":
            require_zero(place, "value", got.value, absent)
        require_zero(place, "gradient", np.moveaxis(got.gradient, call.axis, -1), absent)
    except ConformanceError as error:
        return "\n".join(str(error).splitlines()[1:]).strip()
    return ""


def after_refusal(backend: Backend, mode: Mode, call: Call, got: Result | Exception, refusal: Exception) -> str:
    """A call that the reference refuses has no answer but an error that names an argument, or NaN."""
    static = is_refused_whatever_it_holds(call)
    if isinstance(got, Exception):
        names = [backend.argument_names.get(name, name) for name in ARGUMENTS]
        if mode.reads_values and not isinstance(got, TypeError | ValueError):
            return f"refused by the wrong error: expected ValueError or TypeError, got {type(got).__name__}: {got}"
        if not any(name in str(got) for name in names):
            return f"refused by an error that names no argument: {type(got).__name__}: {got}"
        return ""
    if mode.reads_values or (static and mode.static_shapes):
        return f"answered what has to be refused ({refusal}): {got.value!s}"
    if static:  # sizes are not known in time to refuse them
        return ""
    bad = bad_positions(call)
    if not bad.any():
        return ""
    value = got.value.astype(np.float64)
    at_bad = value[bad] if value.shape == bad.shape and value.ndim and call.loss != "dice_loss" else value
    if call.loss == "dice_loss" and value.ndim:
        at_bad = value[bad.reshape(len(bad), -1).any(axis=1)]
    if not np.isnan(at_bad).all():
        return f"gave a number where NaN was due ({refusal}): {value!s}"
    gradient = np.moveaxis(got.gradient.astype(np.float64), call.axis, -1)
    if not np.isnan(gradient[bad]).all():
        return f"gave a gradient where NaN was due ({refusal}): {gradient[bad]!s}"
    return ""


def is_refused_whatever_it_holds(call: Call) -> bool:
    """Whether shapes, dtypes and names alone are wrong."""
    labels = np.zeros_like(call.labels)
    weight = None if call.sample_weight is None else np.ones_like(call.sample_weight)
    constants = {
        name: np.ones_like(value) if isinstance(value, np.ndarray) else 1.0 if isinstance(value, float) else value
        for name, value in call.constants.items()
    }
    try:
        reference_answer(replace(call, labels=labels, sample_weight=weight, constants=constants))
    except (TypeError, ValueError):
        return True
    return False


def bad_positions(call: Call) -> Any:
    """Those that a value spoils which the reference refuses: all valid ones, if it is a constant's."""
    exists = ~absent_positions(replace(call, sample_weight=None))
    weight = np.ones(call.labels.shape)
    if call.sample_weight is not None:
        w = call.sample_weight.astype(np.float64)
        weight = np.broadcast_to(w.reshape(w.shape + (1,) * (weight.ndim - w.ndim)), weight.shape)
    classes = call.logits.shape[call.axis]
    valid = exists & (weight > 0)
    beyond = np.array([not 0 <= int(label) < classes for label in call.labels.ravel()], bool).reshape(valid.shape)
    bad = (exists & ~(np.isfinite(weight) & (weight >= 0))) | (valid & beyond)
    numbers = [np.asarray(value, np.float64) for value in call.constants.values() if isinstance(value, np.ndarray)]
    allowed = [(array > 0 if call.loss == "logit_adjusted_loss" else array >= 0) for array in numbers]
    sound = all(bool((np.isfinite(n) & a).all()) for n, a in zip(numbers, allowed, strict=True))
    return bad if sound else bad | valid


def simpler(asked: Input) -> Iterator[Input]:
    """Inputs with a little less to look at."""
    call = asked.call
    for changed in simpler_calls(call):
        yield replace(asked, call=changed)
    if asked.label_form != "ids":
        yield replace(asked, label_form="ids")


def simpler_calls(call: Call) -> Iterator[Call]:
    rank, axis = call.logits.ndim, call.axis % max(call.logits.ndim, 1)
    consistent = call.labels.shape == call.logits.shape[:axis] + call.logits.shape[axis + 1 :]
    weight = call.sample_weight
    if consistent and (weight is None or weight.ndim in (1, call.labels.ndim)):
        for dimension in range(call.labels.ndim):  # fewer positions
            size = call.labels.shape[dimension]
            of_logits = dimension + (dimension >= axis)
            for part in halves(size):
                fewer = weight
                if weight is not None and dimension < weight.ndim:
                    fewer = weight.take(part, dimension)
                yield replace(
                    call,
                    logits=call.logits.take(part, of_logits),
                    labels=call.labels.take(part, dimension),
                    sample_weight=fewer,
                )
    classes = call.logits.shape[axis] if rank else 0
    vectors = {name: v for name, v in call.constants.items() if isinstance(v, np.ndarray)}
    if classes > 2 and all(v.shape == (classes,) for v in vectors.values()):
        for part in halves(classes):  # fewer classes
            if len(part) > 1:
                constants = {**call.constants, **{name: v[part] for name, v in vectors.items()}}
                yield replace(call, logits=call.logits.take(part, axis), constants=constants)
    if weight is not None:
        yield replace(call, sample_weight=None)
    for name, vector in vectors.items():
        if name != "class_counts":
            yield replace(call, constants={k: v for k, v in call.constants.items() if k != name})
        if (vector != 1).any():
            yield replace(call, constants={**call.constants, name: np.ones_like(vector)})
    for name in call.constants:
        if name not in vectors:
            yield replace(call, constants={k: v for k, v in call.constants.items() if k != name})
    if call.ignore_index != -100:
        yield replace(call, ignore_index=-100)
    if call.reduction not in ("none", "sum"):
        yield replace(call, reduction="sum")
    if call.labels.dtype.kind in "iu" and call.labels.dtype != np.int64:
        yield replace(call, labels=call.labels.astype(np.int64))
    for name in ("logits", "labels", "sample_weight"):
        array = getattr(call, name)
        if array is not None and not array.flags.c_contiguous:
            contiguous: dict[str, Any] = {name: np.ascontiguousarray(array)}
            yield replace(call, **contiguous)
    if call.logits.dtype.kind not in "biu":
        with np.errstate(invalid="ignore"):
            rounded = np.rint(call.logits)
        if not np.array_equal(rounded, call.logits, equal_nan=True):
            yield replace(call, logits=rounded)
        for index in np.argwhere(call.logits != 0)[:12]:
            flat = call.logits.copy()
            flat[tuple(index)] = 0
            yield replace(call, logits=flat)


def halves(size: int) -> Sequence[Any]:
    """Indices of parts of an axis."""
    if size < 2:
        return ()
    if size < 6:
        return [np.delete(np.arange(size), i) for i in range(size)]
    return [np.arange(size // 2), np.arange(size // 2, size), np.arange(size - 1), np.arange(1, size)]
