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
from hemspec_conformance.check import Place, arrange, as_dtype, check_rejection, compare, compute_dtype
from hemspec_conformance.laws import MARGIN_LOSSES, paste
from hemspec_conformance.rejections import Rejection
from hemspec_conformance.vectors import reference_answer

CLASSES: Final = 4
SIZES: Final = (1, 2, 7, 8, 31, 32, 33, 127, 128, 129, 1000, 4097, 65537)
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


def along(call: Call, direction: Array) -> Array:
    """The derivative of the reference's gradient of the sum along a direction, by differences of fourth order."""
    if call.loss in MARGIN_LOSSES:  # piecewise linear
        return np.zeros_like(call.logits)
    slopes = {n: reference_answer(replace(call, logits=call.logits + n * STEP * direction))[1] for n in (-2, -1, 1, 2)}
    return np.asarray((slopes[-2] - 8 * slopes[-1] + 8 * slopes[1] - slopes[2]) / (12 * STEP))


def check_derivative(ask: Asked, kind: str) -> None:
    known = ask.reductions()
    for reduction in (known[0], known[-1]) if ask.thorough else known[:1]:
        call = usual_call(ask.loss, reduction)
        value, g = reference_answer(call)
        total = value.sum()
        d = np.resize([1.0, -0.5, 0.25, 2.0, -1.0], g.shape)
        axes = tuple(range(value.ndim, g.ndim))
        curvature = along(call, d)
        if kind == "batched":
            d = np.stack([np.full(value.shape, 1.0), np.resize([-2.0, 0.5, 0.0, 4.0], value.shape), 2 * value])
            terms = [np.stack([spread(upstream, g) * g for upstream in d])]
        elif kind == "forward":
            terms = [(g * d).sum(axis=axes)]
        elif kind == "nested":
            terms = [2 * total * g, curvature]
        else:
            terms = [2 * g * np.abs(g * d).sum(), 2 * g * (g * d).sum(), 2 * total * curvature]
        got = ask.backend.derivative(kind, ask.in_dtype(call), ask.mode, d.astype(ask.compute))
        # Products of two rounded numbers, and what cancels on the way; the differences are good to some 1e-9.
        size = sum(np.abs(term).max(initial=0.0) for term in terms)
        expected = np.asarray(sum(terms[-2:]))
        allowance = 4 * max(1.0, size / max(1.0, np.abs(expected).max(initial=0.0)))
        if ask.compute == "float64":
            allowance *= 2.0**26
        output = ask.compute if kind == "forward" else ask.dtype
        try:
            compare(ask.place, f"{kind} derivative", got, expected, CLASSES, ask.compute, output, allowance)
        except ConformanceError as error:
            raise ConformanceError(f"{error}\n  along {d.tolist()} of\n  {paste(call)}") from None


def batched(ask: Asked) -> None:
    """Several incoming gradients at once give what they give one after the other."""
    check_derivative(ask, "batched")


def nested(ask: Asked) -> None:
    """The value and gradient of the loss can be used, and differentiated, inside another gradient."""
    check_derivative(ask, "nested")


def second(ask: Asked) -> None:
    """The Hessian of the squared loss times a vector: 2 g (g . d) + 2 f H d, by a gradient of a gradient."""
    check_derivative(ask, "second")


def forward(ask: Asked) -> None:
    """Forward mode: the gradient times the direction."""
    check_derivative(ask, "forward")


def forward_over_reverse(ask: Asked) -> None:
    """The Hessian of the squared loss times a vector, by forward mode over a gradient."""
    check_derivative(ask, "forward_over_reverse")


def at_edges(size: int) -> list[int]:
    """Places around the edges of any plausible block, and the last ones, of so many."""
    places = {near + step for near in (0, 7, 32, 128, 1000, 1024, 4096, 65536) for step in (-1, 0, 1)}
    return sorted(place for place in places | {size - 2, size - 1} if 0 <= place < size)


def many_rows(loss: str, classes: int = 3) -> Call:
    """Rows that differ, one more than any block of a power of two; for Dice each is an image."""
    rng = np.random.default_rng(7)
    rows = SIZES[-1]
    y = rng.integers(0, classes, rows)
    # By whole numbers apart, so that no error is near 0 or near the mean error of its row.
    z = np.array([rng.permutation(classes) * 1.0 for _ in range(64)])[rng.integers(0, 64, rows)]
    return Call(loss, z, y, reduction="none", constants=constants_of(loss, classes))


def rows(ask: Asked) -> None:
    """The number of rows changes no row; one that is damaged, ignored or bad is noticed wherever it is."""
    call = many_rows(ask.loss)
    right = Result(*reference_answer(call))
    size = len(call.labels)

    def require(changed: Call, value: Array, gradient: Array) -> None:
        got = ask.answer(changed)
        compare(ask.place, f"of {len(changed.labels)} rows value", got.value, value, 3, ask.compute, ask.compute)
        compare(ask.place, f"of {len(changed.labels)} rows gradient", got.gradient, gradient, 3, ask.compute, ask.dtype)

    for some in SIZES if ask.thorough else SIZES[-1:]:
        few = replace(call, logits=call.logits[-some:], labels=call.labels[-some:])
        require(few, right.value[-some:], right.gradient[-some:])
    edges = at_edges(size)
    for ignored, broken in ((edges[::2], edges[1::2]), (edges[1::2], edges[::2])):
        damaged = replace(call, logits=call.logits.copy(), labels=call.labels.copy())
        damaged.labels[ignored], damaged.logits[broken, 0] = -100, np.nan
        value, gradient = right.value.copy(), right.gradient.copy()
        value[ignored] = gradient[ignored] = 0.0
        value[broken] = gradient[broken] = np.nan
        require(damaged, value, gradient)
    for edge in (*edges[::6], edges[-1]) if ask.thorough else edges[-1:]:
        damaged = replace(call, logits=call.logits.copy(), reduction="sum")
        damaged.logits[edge, -1] = np.nan
        if not np.isnan(ask.answer(damaged).value):
            raise ConformanceError(f"{ask.place}\n  value: expected nan for a NaN in row {edge} of {size}")
        if ask.mode.refusals:
            require_refused(ask, call, edge)


def require_refused(ask: Asked, call: Call, edge: int) -> None:
    """A bad label at this place is refused, or NaN where it cannot be read."""
    labels = call.labels.copy()
    labels[edge] = 3
    bad = ask.in_dtype(replace(call, labels=labels))
    check_rejection(ask.backend, Rejection("", bad, ["labels", "got 3", str(edge)], bad_at=edge), ask.mode)


def classes(ask: Asked) -> None:
    """The number of classes changes nothing; a NaN is noticed at whichever it is."""
    for size in (*SIZES[2:], 2**17) if ask.thorough else (2**17,):
        edges = at_edges(size)
        edges = edges[-5:] if size > 4097 else edges
        count = len(edges)
        rng = np.random.default_rng(size)
        # All others are so far below that their errors are 0: what is kept does not hang on rounding.
        z = rng.integers(-16, -8, (count, size)) / 2.0
        z[np.arange(count), np.roll(edges, 1)], z[np.arange(count), np.roll(edges, 2)] = 2.0, 1.0
        z[np.arange(count), edges] = 0.0
        call = Call(ask.loss, z, np.array(edges), reduction="none", constants=constants_of(ask.loss, size))
        value, gradient = reference_answer(call)
        broken = replace(call, logits=z.copy())
        broken.logits[::2][np.arange(len(z[::2])), np.roll(edges, 1)[::2]] = np.nan
        nan_value, nan_gradient = value.copy(), gradient.copy()
        nan_value[::2] = nan_gradient[::2] = np.nan
        for asked, v, g in ((call, value, gradient), (broken, nan_value, nan_gradient)):
            got = ask.answer(asked)
            compare(ask.place, f"of {size} classes value", got.value, v, size, ask.compute, ask.compute)
            compare(ask.place, f"of {size} classes gradient", got.gradient, g, size, ask.compute, ask.dtype)


def sums(ask: Asked) -> None:
    """A sum over a million positions is as exact as over a few, in every layout."""
    kinds = np.array([[2.0, 0.0], [0.0, 0.75], [-1.0, 0.3125], [0.5, 0.0]])
    truth = np.array([0, 0, 0, 1])
    side = 1024
    which = np.arange(side * side) % 5 % 4
    counts = np.bincount(which, minlength=4)
    # The usual reduction as given, the sum in the modes that move the class axis; both in both would cost too much.
    reduction = ask.reductions()[0] if ask.mode.layout == "as_given" else "sum"
    call = Call(ask.loss, kinds[None], truth[None], reduction=reduction, constants=constants_of(ask.loss, 2))
    # By the law of repetition a kind is one position of that weight, and its gradient is that of all its copies.
    value, gradient = reference_answer(replace(call, sample_weight=counts[None].astype(np.float64)))
    gradient = (gradient[0] / counts[:, None])[which].reshape(1, side, side, 2)
    many = replace(call, logits=kinds[which].reshape(gradient.shape), labels=truth[which].reshape(1, side, side))
    many, right = arrange(many, Result(value, gradient), ask.mode.layout)
    got = ask.answer(many)
    compare(ask.place, f"value of {side * side} positions", got.value, right.value, 2, ask.compute, ask.compute)
    what = f"gradient of {side * side} positions"
    compare(ask.place, what, got.gradient, right.gradient, 2, ask.compute, ask.dtype)


def label_100(ask: Asked) -> None:
    """Where -100 is ignored, 100 is a class like any other; and the other way round -100 is none."""
    z = np.arange(3 * 102).reshape(3, 102) % 13 / 4.0
    call = Call(ask.loss, z, np.array([100, 101, -100]), reduction="none", constants=constants_of(ask.loss, 102))
    value, gradient = reference_answer(call)
    got = ask.answer(call)
    compare(ask.place, "value", got.value, value, 102, ask.compute, ask.compute)
    compare(ask.place, "gradient", got.gradient, gradient, 102, ask.compute, ask.dtype)


@dataclass(frozen=True)
class ChosenLaw:
    """A law, the losses it holds for, and what has to be offered for it to be asked."""

    holds: Callable[[Asked], None]
    losses: Collection[str] = tuple(LOSSES)
    everywhere: bool = False
    """Asked in every mode where that is cheap; others in the first one."""
    layouts: bool = False
    """Asked in the modes that move the class axis, too."""
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
    ChosenLaw(rows),
    ChosenLaw(classes),
    ChosenLaw(sums, layouts=True),
    ChosenLaw(label_100),
    *(
        ChosenLaw(holds, function="derivative", kind=holds.__name__)
        for holds in (batched, nested, second, forward, forward_over_reverse)
    ),
)


def check_chosen(backend: Backend, law: ChosenLaw, loss: str, mode: Mode, dtype: str) -> None:
    """Ask a law; the message says what it is."""
    try:
        law.holds(Asked(backend, loss, mode, dtype))
    except ConformanceError as error:
        place = Place(backend.name, loss, f"law {law.name}", mode.name, dtype)
        said = str(error).removeprefix(f"{Place(backend.name, loss, '', mode.name, dtype)}\n")
        raise type(error)(f"{place}\n  {' '.join((law.holds.__doc__ or '').split())}\n{said}") from error
