"""Laws that are asked on a few chosen calls instead of random ones: derivatives, sizes, labels.

What they look for does not depend on the numbers, or needs more of them than a random call has: a backward pass that
ignores what comes from above, rows lost behind a block, a sum that drifts. A law here is a function like those in
`hemspec_conformance.laws`, without the draw.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from hemspec_conformance.adapter import LOSSES, Array, Call, Mode
from hemspec_conformance.backend import Backend, ConformanceError, Result
from hemspec_conformance.cases import constants_of, draw, reductions_of
from hemspec_conformance.check import Place, as_dtype, compare, compute_dtype
from hemspec_conformance.laws import paste
from hemspec_conformance.vectors import reference_answer

CLASSES: Final = 4
STEP: Final = 2.0**-9
"""Of the differences that stand for the reference's second derivative; their error is about STEP**4."""


class Asked:
    """A backend in one mode and dtype, asked about one loss."""

    def __init__(self, backend: Backend, loss: str, mode: Mode, dtype: str) -> None:
        self.backend, self.loss, self.mode, self.dtype = backend, loss, mode, dtype
        self.compute = compute_dtype(dtype)
        self.place = Place(backend.name, loss, "", mode.name, dtype)

    @property
    def thorough(self) -> bool:
        """Whether a call costs little; where each compiles, fewer are asked."""
        return self.mode.coverage == "all"

    def reductions(self) -> Sequence[str]:
        """From the usual one to "none"; the two alone where more would cost too much."""
        known = ("sum", "none") if self.mode.per_example else reductions_of(self.loss)[::-1]
        return known if self.thorough else (known[0], known[-1])

    def in_dtype(self, call: Call) -> Call:
        return replace(call, logits=call.logits.astype(as_dtype(self.dtype)))

    def answer(self, call: Call) -> Result:
        return self.backend.answer(self.in_dtype(call), self.mode)

    def gradient(self, call: Call, upstream: Array) -> Array:
        return self.backend.gradient(self.in_dtype(call), self.mode, upstream.astype(self.compute))

    def same_gradient(self, got: Array, expected: Array, why: str, call: Call, allowance: float = 1.0) -> None:
        try:
            compare(self.place, "gradient", got, expected, CLASSES, self.compute, self.dtype, allowance)
        except ConformanceError as error:
            raise ConformanceError(f"{error}\n  {why} of\n  {paste(call)}") from None


def usual_call(loss: str, reduction: str) -> Call:
    """Six positions of three classes or more, one ignored, one of weight 0, far from every kink and tie."""
    z, y = draw(40 + list(LOSSES).index(loss), (2, 3), CLASSES)
    y[1, 0] = -100
    weight = np.array([[1.0, 0.0, 2.0], [1.0, 0.5, 1.0]])
    return Call(loss, z, y, weight, reduction=reduction, constants=constants_of(loss, CLASSES))


def spread(upstream: Array, like: Array) -> Array:
    """One number for each loss beside the logits it is a loss of."""
    return upstream.reshape(upstream.shape + (1,) * (like.ndim - upstream.ndim))


def incoming_gradient(ask: Asked) -> None:
    """The gradient is linear in the incoming gradient: a scale, and under "none" one for each position."""
    for reduction in ask.reductions():
        call = usual_call(ask.loss, reduction)
        value, gradient = reference_answer(call)
        if reduction == "none":
            upstreams = [np.resize([1.0, 0.0, -2.0, 0.5, 3.0, 4.0], value.shape)]
        else:
            upstreams = [np.full(value.shape, scale) for scale in (1.0, 0.0, -1.0, 0.25, -4.0)]
        for upstream in (*upstreams, 2 * value):  # the last one is what the square of the loss hands down
            expected = spread(upstream, gradient) * gradient
            why = f"for an incoming gradient of {upstream.tolist()}"
            ask.same_gradient(ask.gradient(call, upstream), expected, why, call)


def inputs_unchanged(ask: Asked) -> None:
    """Nothing that is handed in is written to: logits, labels, weights, constants."""
    for reduction in ask.reductions():
        call = usual_call(ask.loss, reduction)
        ask.answer(call)
        ask.answer(replace(call, sample_weight=call.sample_weight[:, 0]))
        plain = replace(call, labels=call.labels.clip(0), sample_weight=None)
        ask.answer(plain)
        ask.answer(replace(plain, labels=plain.labels.astype(np.uint8), ignore_index=0))


@dataclass(frozen=True)
class ChosenLaw:
    """A law, the losses it holds for, and what has to be offered for it to be asked."""

    holds: Callable[[Asked], None]
    losses: Collection[str] = tuple(LOSSES)
    everywhere: bool = False
    """Asked in every mode where that is cheap; others in the first one."""
    function: str = ""
    """The adapter's function that it asks, beside `value_and_gradient`."""
    kind: str = ""
    """The derivative that has to be offered."""

    @property
    def name(self) -> str:
        return self.holds.__name__


CHOSEN: Final[Sequence[ChosenLaw]] = (
    ChosenLaw(incoming_gradient, everywhere=True, function="gradient"),
    ChosenLaw(inputs_unchanged),
)


def check_chosen(backend: Backend, law: ChosenLaw, loss: str, mode: Mode, dtype: str) -> None:
    """Ask a law; the message says what it is."""
    try:
        law.holds(Asked(backend, loss, mode, dtype))
    except ConformanceError as error:
        place = Place(backend.name, loss, f"law {law.name}", mode.name, dtype)
        said = str(error).removeprefix(f"{Place(backend.name, loss, '', mode.name, dtype)}\n")
        raise type(error)(f"{place}\n  {' '.join((law.holds.__doc__ or '').split())}\n{said}") from error
