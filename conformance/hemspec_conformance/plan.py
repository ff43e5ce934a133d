"""Which checks a backend gets: each loss in each mode and dtype, bad arguments, laws, and the adapter itself."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from hemspec import SPEC_VERSION
from hemspec_conformance.adapter import DERIVATIVES, DTYPES, LOSSES, Mode
from hemspec_conformance.backend import Backend, ConformanceError, unknown_loss
from hemspec_conformance.check import (
    absent_positions,
    as_dtype,
    check_rejection,
    check_vector,
    class_axis_of,
)
from hemspec_conformance.chosen import CHOSEN, check_chosen
from hemspec_conformance.fuzz import CONTENTS, check_input, described, input_of, portions
from hemspec_conformance.laws import EXAMPLES, LAWS, check_law
from hemspec_conformance.rejections import REJECTIONS
from hemspec_conformance.vectors import Vector, load

Kind = Literal["vector", "bad input", "law", "adapter", "fuzz"]

NO_BFLOAT16: Final = "NumPy has no bfloat16 without the package ml_dtypes, which is not installed"

FOR_THE_OTHERS: Final = ("hem_loss", "cross_entropy_loss", "dice_loss")
"""Asked for all losses where each question compiles."""
NO_GRADIENT: Final = """the adapter lacks gradient(call, mode, upstream), without which a port passes that ignores the
  gradient coming from above. Add to it:

  def gradient(call, mode, upstream):
      \"\"\"The gradient of sum(upstream * loss) in call.logits; upstream has the loss's shape.\"\"\""""


@dataclass(frozen=True)
class Check:
    """One question to a backend. `run` raises if the answer is wrong; it may return the worst error in tolerances."""

    kind: Kind
    loss: str
    case: str
    mode: str
    dtype: str
    run: Callable[[], float | None]
    skip: str = ""
    """Why it cannot be asked here."""
    not_offered: bool = False
    question: Callable[[], str] = str
    """What is asked, as code; nothing where the id says it."""

    @property
    def id(self) -> str:
        return "/".join(part for part in (self.loss or "adapter", self.case, self.mode, self.dtype) if part)


def plan(backend: Backend, *, full: bool = False, examples: int | None = None) -> list[Check]:
    """Every check of a backend, in an order that keeps what compiles together."""
    offered = [loss for loss in LOSSES if loss in backend.losses]
    checks = list(adapter_checks(backend))
    checks += [Check("vector", loss, "", "", "", nothing, not_offered=True) for loss in LOSSES if loss not in offered]
    for mode in backend.modes:
        for loss in (loss for loss in offered if not mode.losses or loss in mode.losses):
            checks += vector_checks(backend, loss, mode, full)
            checks += rejection_checks(backend, loss, mode, full)
            if full or mode is backend.modes[0]:
                checks += law_checks(backend, loss, mode, examples or EXAMPLES[mode.coverage])
            checks += chosen_checks(backend, loss, mode, full)
    return checks


def fuzz_plan(backend: Backend, inputs: int, seed: int) -> list[Check]:
    """So many random calls instead, each a check of its own, since any of them may crash."""
    checks = []
    for mode, loss, count in portions(backend, inputs):
        dtypes = [dtype for dtype in mode.dtypes if not reason_to_skip(mode, dtype)]
        for number in range(count):
            dtype = dtypes[number // CONTENTS[mode.coverage] % len(dtypes)]
            asked = {"seed": seed, "number": number}
            checks.append(
                Check(
                    "fuzz",
                    loss,
                    f"fuzz_{seed}_{number}",
                    mode.name,
                    dtype,
                    functools.partial(check_input, backend, loss, mode, dtype, **asked),
                    question=functools.partial(question, backend, loss, mode, dtype, **asked),
                )
            )
    return checks


def question(backend: Backend, loss: str, mode: Mode, dtype: str, *, seed: int, number: int) -> str:
    return described(input_of(backend, loss, mode, dtype, seed=seed, number=number))


def nothing() -> None:
    pass


def adapter_checks(backend: Backend) -> Iterator[Check]:
    """What the adapter itself must get right before its answers mean anything."""

    def check(case: str, run: Callable[[], None], mode: str = "", dtype: str = "", skip: str = "") -> Check:
        return Check("adapter", "", case, mode, dtype, run, skip)

    def same_version() -> None:
        if backend.spec_version != SPEC_VERSION:
            raise ConformanceError(
                f"{backend.name} implements version {backend.spec_version!r} of the specification;"
                f" these are the vectors of version {SPEC_VERSION}"
            )

    def known_losses() -> None:
        unknown = [loss for loss in backend.losses if loss not in LOSSES]
        if unknown or not backend.losses:
            raise ConformanceError("\n".join(map(unknown_loss, unknown)) or f"{backend.name} offers no loss")

    yield check("spec_version", same_version)

    def has_gradient() -> None:
        if not callable(getattr(backend.adapter, "gradient", None)):
            raise ConformanceError(f"{backend.name}: {NO_GRADIENT}")

    def known_derivatives() -> None:
        unknown = [kind for kind in backend.derivatives if kind not in DERIVATIVES]
        if unknown:
            raise ConformanceError(f"{backend.name}: derivatives may be {', '.join(DERIVATIVES)}; got {unknown}")
        if backend.derivatives and not callable(getattr(backend.adapter, "derivative", None)):
            raise ConformanceError(
                f"{backend.name}: the adapter offers derivatives {list(backend.derivatives)} but lacks the function"
                " derivative(kind, call, mode, direction)"
            )

    yield check("losses", known_losses)
    yield check("gradient", has_gradient)
    yield check("derivatives", known_derivatives)
    for kind in DERIVATIVES:
        if kind not in backend.derivatives:
            yield Check("adapter", "", f"derivative_{kind}", "", "", nothing, not_offered=True)
    for mode in backend.modes:
        for dtype in mode.dtypes:
            run = functools.partial(round_trip, backend, mode, dtype)
            yield check("round_trip", run, mode.name, dtype, reason_to_skip(mode, dtype))


def round_trip(backend: Backend, mode: Mode, dtype: str) -> None:
    """from_numpy and to_numpy keep numbers, shape and dtype; labels may become another integer dtype."""
    floats = np.array([[0.0, -1.5, np.inf], [np.nan, 256.0, 2.0**-6]]).astype(as_dtype(dtype))
    labels = np.array([[0, 257, -100]])
    for array, kinds in ((floats, ""), (floats[:0], ""), (floats[0, 1], ""), (labels, "iu")):
        array = np.asarray(array)
        back = backend.numpy(backend.adapter.from_numpy(array, mode), "array")
        same_dtype = back.dtype.kind in kinds if kinds else back.dtype == array.dtype
        if not same_dtype or back.shape != array.shape or not np.array_equal(back, array, equal_nan=not kinds):
            raise ConformanceError(
                f"{backend.name}: to_numpy(from_numpy(...)) in mode {mode.name} gave\n  {back!r} for\n  {array!r}"
            )


def vector_checks(backend: Backend, loss: str, mode: Mode, full: bool) -> Iterator[Check]:
    """The loss's vectors in the mode, in every dtype that it is asked in."""
    for vector in load():
        if vector.call.loss != loss or vector.label_form not in backend.label_forms or not fits(mode, vector):
            continue
        for dtype in DTYPES:
            if dtype not in vector.dtypes or dtype not in mode.dtypes or not (full or asked(mode, vector, dtype)):
                continue
            yield Check(
                "vector",
                loss,
                vector.name,
                mode.name,
                dtype,
                functools.partial(check_vector, backend, vector, mode, dtype),
                reason_to_skip(mode, dtype),
            )


def fits(mode: Mode, vector: Vector) -> bool:
    """Whether a mode changes anything about a vector, and can ask it at all."""
    call = vector.call
    rank = call.logits.ndim
    if mode.finite_only:
        numbers = [
            call.logits,
            vector.value,
            vector.gradient,
            *([] if call.sample_weight is None else [call.sample_weight]),
        ]
        if not all(np.isfinite(array).all() for array in numbers):
            return False
    if not mode.infinities:
        logits = np.moveaxis(call.logits, call.axis, -1)
        if np.isinf(logits[~absent_positions(call)]).any():
            return False
    if mode.per_example:
        whole = call.constants.get("batch", False) or not call.labels.size or rank < 2 or call.axis % rank == 0
        return call.reduction in ("sum", "none") and not whole
    if mode.layout in ("channels_first", "channels_last"):
        return rank > 2 and vector.label_form == "ids" and call.axis % rank != class_axis_of(mode.layout, rank)
    return True


def asked(mode: Mode, vector: Vector, dtype: str) -> bool:
    """Whether a usual run asks a mode for this case."""
    if mode.coverage == "core":
        return vector.core and dtype == mode.dtypes[0]
    if mode.coverage == "brief" and vector.about_positions:
        return vector.core
    return mode.coverage == "all" or vector.core or dtype == mode.dtypes[0]


def reason_to_skip(mode: Mode, dtype: str) -> str:
    if not mode.skip and dtype == "bfloat16" and importlib.util.find_spec("ml_dtypes") is None:
        return NO_BFLOAT16
    return mode.skip


def rejection_checks(backend: Backend, loss: str, mode: Mode, full: bool) -> Iterator[Check]:
    """The loss's bad arguments, in a mode that can tell."""
    if not mode.refusals or mode.per_example or mode.layout != "as_given":
        return

    for rejection in REJECTIONS:
        accepted = rejection.label_form and len(backend.label_forms) > 1
        if rejection.call.loss != loss or accepted or (rejection.static and not mode.static_shapes):
            continue
        # Where a trace refuses there is nothing to compile; in a core mode HEM stands for the others in what is left.
        briefly = mode.coverage in ("brief", "core") and not mode.reads_values
        asked = not briefly or (not rejection.static and (mode.coverage == "brief" or loss == "hem_loss"))
        if full or asked:
            yield Check(
                "bad input",
                loss,
                f"bad_{rejection.name}",
                mode.name,
                rejection.call.logits.dtype.name,
                functools.partial(check_rejection, backend, rejection, mode),
                mode.skip,
            )


def law_checks(backend: Backend, loss: str, mode: Mode, examples: int) -> Iterator[Check]:
    """The laws that hold for the loss, in the first dtype of the mode."""
    if mode.per_example or mode.finite_only or mode.layout != "as_given":
        return
    dtype = mode.dtypes[0]
    for law in LAWS:
        if loss in law.losses and all(other in backend.losses for other in law.needs):
            yield Check(
                "law",
                loss,
                f"law_{law.name}",
                mode.name,
                dtype,
                functools.partial(check_law, backend, law, loss, mode, dtype, examples),
                reason_to_skip(mode, dtype),
            )


def chosen_checks(backend: Backend, loss: str, mode: Mode, full: bool) -> Iterator[Check]:
    """The laws that are asked on chosen calls, in the first dtype of the mode."""
    first = mode is backend.modes[0]
    moved = mode.layout != "as_given"
    dtype = mode.dtypes[0]
    if mode.finite_only:  # a NaN in one row or class is what some of them are about
        return
    for law in CHOSEN:
        if law.function and not callable(getattr(backend.adapter, law.function, None)):
            continue  # said by the checks of the adapter
        if loss not in law.losses or (law.kind and law.kind not in backend.derivatives):
            continue
        if mode.coverage == "core" and not (full or law.everywhere or loss in FOR_THE_OTHERS):
            continue
        # Apart from the first mode those that cost little, and those that have code of their own for a loss.
        cheap = mode.coverage == "all" or mode.losses
        if law.layouts if moved else (first or (cheap and law.everywhere)):
            yield Check(
                "law",
                loss,
                f"law_{law.name}",
                mode.name,
                dtype,
                functools.partial(check_chosen, backend, law, loss, mode, dtype),
                reason_to_skip(mode, dtype),
            )
