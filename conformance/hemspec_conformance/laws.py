"""What holds for every input, whatever the answer: laws of the specification, tried on random calls.

Each law asks the backend two or more questions whose answers have to agree with one another. Logits are multiples of
1/16 and margins of 1/32, so that ties and kinks are exact and occur often. Examples are drawn the same way in every
run. The smallest failing example that was found is printed as a `Case`, ready to paste into
`hemspec_conformance.cases`.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from hemspec import margin_from_num_samples, margins_from_class_counts
from hemspec_conformance.adapter import LOSSES, Array, Call, Mode
from hemspec_conformance.backend import Backend, ConformanceError, Result
from hemspec_conformance.check import Place, as_dtype, compare, compare_results, compute_dtype
from hemspec_conformance.vectors import reference_answer

MARGIN_LOSSES: Final = ("hem_loss", "multi_margin_loss")
EXAMPLES: Final = {"all": 15, "first dtype": 10, "brief": 10, "core": 10}
"""How many examples a law is tried on, by the coverage of the mode."""
SHRINKING_SECONDS: Final = 2.0

Draw = Callable[[Any], Any]


class Question:
    """A backend in one mode and dtype. Remembers what it was asked, to be able to say it."""

    def __init__(self, backend: Backend, mode: Mode, dtype: str) -> None:
        self.backend, self.mode, self.dtype = backend, mode, dtype
        self.classes: Sequence[int] = (2, 3, 5) if mode.coverage == "all" else (3,)
        self.asked: list[Call] = []

    def __call__(self, call: Call) -> Result:
        self.asked.append(call)
        return self.backend.answer(self.in_dtype(call), self.mode)

    def in_dtype(self, call: Call) -> Call:
        return replace(call, logits=call.logits.astype(as_dtype(self.dtype)))

    def same(self, loss: str, got: Result, expected: Result, classes: int) -> None:
        """Two answers agree: each may be off by the tolerance."""
        place = Place(self.backend.name, loss, "", self.mode.name, self.dtype)
        compute = compute_dtype(self.dtype)
        value, gradient = (np.asarray(array, np.float64) for array in (expected.value, expected.gradient))
        compare(place, "value", got.value, value, classes, compute, compute, allowance=2.0)
        compare(place, "gradient", got.gradient, gradient, classes, compute, self.dtype, allowance=2.0)

    def report(self) -> str:
        """The calls that the backend answers wrongly, or all where no single one is wrong, as code."""
        wrong = [call for call in self.asked if self.is_wrong(call)]
        head = "answered wrongly" if wrong else "each answered as the reference does, but not in agreement"
        return "\n".join([f"  {head}:", *(f"  {paste(call)}" for call in wrong or self.asked)])

    def is_wrong(self, call: Call) -> bool:
        place = Place(self.backend.name, call.loss, "", self.mode.name, self.dtype)
        asked = self.in_dtype(call)
        try:
            compare_results(place, asked, self.backend.answer(asked, self.mode), Result(*reference_answer(call)))
        except Exception:
            return True
        return False


def paste(call: Call) -> str:
    """A call as the code of a new case."""

    def code(value: Any) -> str:
        if not isinstance(value, np.ndarray):
            return repr(value)
        dtype = "" if value.dtype in (np.float64, np.int64, np.bool_) and value.size else f", {value.dtype.name!r}"
        shape = f".reshape({value.shape})" if not value.size else ""
        numbers = repr(value.tolist()).replace("nan", "NAN").replace("inf", "INF")
        return f"np.array({numbers}{dtype}){shape}"

    arguments = [repr(call.loss), code(call.logits), code(call.labels)]
    if call.sample_weight is not None:
        arguments.append(f"sample_weight={code(call.sample_weight)}")
    if call.axis != -1:
        arguments.append(f"axis={call.axis}")
    if call.ignore_index != -100:
        arguments.append(f"ignore_index={call.ignore_index}")
    arguments.append(f"reduction={call.reduction!r}")
    constants = ", ".join(f"{name!r}: {code(value)}" for name, value in call.constants.items())
    return f'Case("name_me", Call({", ".join([*arguments, f"constants={{{constants}}}"])}))'


@functools.cache
def numbers(size: int, low: int, high: int, *, step: float = 1.0) -> st.SearchStrategy[Array]:
    """So many multiples of `step`. Kept, like the other strategies: making one takes longer than drawing from it."""
    return st.lists(st.integers(low, high), min_size=size, max_size=size).map(lambda drawn: np.array(drawn) * step)


@functools.cache
def flags(size: int) -> st.SearchStrategy[Array]:
    return st.lists(st.booleans(), min_size=size, max_size=size).map(lambda drawn: np.array(drawn, bool))


@functools.cache
def permutations(size: int) -> st.SearchStrategy[Array]:
    return st.permutations(range(size)).map(np.array)


@functools.cache
def constants(loss: str, classes: int) -> st.SearchStrategy[dict[str, Any]]:
    """Hyper-parameters of a loss, vectors among them."""
    margin = st.one_of(st.sampled_from([1.0, 0.0, 1.03125]), numbers(classes, 0, 64, step=1 / 32))
    of_loss: dict[str, dict[str, st.SearchStrategy[Any]]] = {
        "hem_loss": {"margin": margin},
        "multi_margin_loss": {"margin": margin},
        "cross_entropy_loss": {},
        "focal_loss": {
            "gamma": st.sampled_from([2.0, 0.0, 0.5]),
            "alpha": st.none() | numbers(classes, 0, 8, step=0.25),
        },
        "logit_norm_loss": {"temperature": st.sampled_from([0.25, 1.0])},
        "logit_adjusted_loss": {"class_counts": numbers(classes, 1, 50), "temperature": st.sampled_from([1.0, 1.25])},
        "dice_loss": {"smooth": st.sampled_from([0.0, 0.5]), "batch": st.just(True)},
    }
    return st.fixed_dictionaries(of_loss[loss])


def random_call(
    ask: Question, draw: Draw, loss: str, *, reductions: Sequence[str] = (), shape: Sequence[int] | None = None
) -> Call:
    """Logits, labels, constants and a reduction; neither weights nor ignored positions."""
    classes = draw(st.sampled_from(ask.classes))
    positions = tuple(shape) if shape is not None else (draw(st.sampled_from((1, 2, 3))),)
    size = int(np.prod(positions))
    reduction = draw(st.sampled_from(tuple(reductions) or reductions_of(loss)))
    return Call(
        loss,
        draw(numbers(size * classes, -64, 64, step=1 / 16)).reshape(*positions, classes),
        draw(numbers(size, 0, classes - 1)).astype(np.int64).reshape(positions),
        reduction=reduction,
        constants=draw(constants(loss, classes)),
    )


def reductions_of(loss: str, *, by_position: bool = True) -> tuple[str, ...]:
    averages = ("active_mean", "mean") if loss in MARGIN_LOSSES else ("mean",)
    return (*averages, "sum", *(("none",) if by_position and loss != "dice_loss" else ()))


def weights(draw: Draw, call: Call, *, step: float) -> Array:
    drawn: Array = draw(numbers(call.labels.size, 0, 2, step=step))
    return drawn.reshape(call.labels.shape)


def broken(call: Call, where: Any, label: int) -> Call:
    """The same call with logits and labels at some positions that no number may come from."""
    logits, labels = call.logits.copy(), call.labels.copy()
    logits[where], labels[where] = np.nan, label
    return replace(call, logits=logits, labels=labels)


def repetition(ask: Question, loss: str, draw: Draw) -> None:
    """An integer weight is that many copies; of weight 0 is not there, whatever it holds."""
    call = random_call(ask, draw, loss, reductions=reductions_of(loss, by_position=False))
    size = len(call.labels)
    # As many copies as positions, so that both have one shape; of a single position, two.
    copies = np.sort(draw(numbers(max(size, 2), 0, size - 1))).astype(int)
    w = np.bincount(copies, minlength=size).astype(np.float64)
    many = ask(replace(call, logits=call.logits[copies], labels=call.labels[copies]))
    gradient = np.zeros(call.logits.shape)
    np.add.at(gradient, copies, many.gradient)
    once = ask(broken(replace(call, sample_weight=w), w == 0, label=77))
    ask.same(loss, once, Result(many.value, gradient), call.logits.shape[-1])


def ignored_is_removed(ask: Question, loss: str, draw: Draw) -> None:
    """A position that is ignored is not there, whatever it holds."""
    call = random_call(ask, draw, loss)
    size = len(call.labels)
    ignored = draw(flags(size))
    if draw(st.booleans()):
        call = replace(call, sample_weight=weights(draw, call, step=0.5))
    without = ask(
        replace(
            call,
            logits=call.logits[~ignored],
            labels=call.labels[~ignored],
            sample_weight=None if call.sample_weight is None else call.sample_weight[~ignored],
        )
    )
    gradient = np.zeros(call.logits.shape)
    gradient[~ignored] = without.gradient
    value = without.value
    if call.reduction == "none":
        value = np.zeros(size)
        value[~ignored] = without.value
    ask.same(loss, ask(broken(call, ignored, label=-100)), Result(value, gradient), call.logits.shape[-1])


def classes_permuted(ask: Question, loss: str, draw: Draw) -> None:
    """Renaming the classes renames the gradient and changes nothing else."""
    call = random_call(ask, draw, loss)
    order = draw(permutations(call.logits.shape[-1]))
    renamed = {k: v[order] if isinstance(v, np.ndarray) else v for k, v in call.constants.items()}
    other = ask(replace(call, logits=call.logits[..., order], labels=np.argsort(order)[call.labels], constants=renamed))
    first = ask(call)
    ask.same(loss, other, Result(first.value, first.gradient[..., order]), len(order))


def positions_permuted(ask: Question, loss: str, draw: Draw) -> None:
    """The order of the positions does not matter."""
    call = random_call(ask, draw, loss)
    call = replace(call, sample_weight=weights(draw, call, step=0.5))
    order = draw(permutations(len(call.labels)))
    other = ask(
        replace(call, logits=call.logits[order], labels=call.labels[order], sample_weight=call.sample_weight[order])
    )
    first = ask(call)
    value = first.value[order] if call.reduction == "none" else first.value
    ask.same(loss, other, Result(value, first.gradient[order]), call.logits.shape[-1])


def constant_added(ask: Question, loss: str, draw: Draw) -> None:
    """A constant added to all logits of a position changes nothing."""
    call = random_call(ask, draw, loss)
    shift = draw(numbers(len(call.labels), -128, 128, step=1 / 16))
    ask.same(loss, ask(replace(call, logits=call.logits + shift[:, None])), ask(call), call.logits.shape[-1])


def one_by_one(ask: Question, loss: str, draw: Draw) -> None:
    """A batch gives what its examples give one at a time; for Dice an example is an image."""
    shape = (2, 2) if loss == "dice_loss" else None
    call = random_call(ask, draw, loss, reductions=("none",), shape=shape)
    if loss == "dice_loss":
        call = replace(call, constants={**call.constants, "batch": False})
    call = replace(call, sample_weight=weights(draw, call, step=0.5))
    alone = [
        ask(
            replace(
                call,
                logits=call.logits[i : i + 1],
                labels=call.labels[i : i + 1],
                sample_weight=call.sample_weight[i : i + 1],
            )
        )
        for i in range(len(call.labels))
    ]
    stacked = Result(
        np.concatenate([answer.value for answer in alone]), np.concatenate([answer.gradient for answer in alone])
    )
    ask.same(loss, ask(call), stacked, call.logits.shape[-1])


def sum_is_mean_times_weight(ask: Question, loss: str, draw: Draw) -> None:
    """The sum is the average times what it was divided by: the valid weight, or the active weight."""
    call = random_call(ask, draw, loss, reductions=reductions_of(loss, by_position=False)[:-1])
    call = replace(call, sample_weight=weights(draw, call, step=0.75))
    call = broken(call, draw(flags(len(call.labels))), -100)
    counted = (call.labels != -100) & (call.sample_weight > 0)
    total, mean = ask(replace(call, reduction="sum")), ask(call)
    if call.reduction == "active_mean":
        counted &= ask(replace(call, reduction="none")).value > 0
    weight = float(counted.any()) if loss == "dice_loss" else float(call.sample_weight[counted].sum())
    ask.same(loss, total, Result(mean.value * weight, mean.gradient * weight), call.logits.shape[-1])


def gradient_sums_to_zero(ask: Question, loss: str, draw: Draw) -> None:
    """What a loss pushes up it pulls down: each position's gradient sums to 0 over the classes."""
    call = random_call(ask, draw, loss)
    gradient = ask(call).gradient.astype(np.float64)
    place = Place(ask.backend.name, loss, "", ask.mode.name, ask.dtype)
    classes = gradient.shape[-1]
    compute = compute_dtype(ask.dtype)
    sums = gradient.sum(axis=-1).astype(compute)
    compare(place, "sum of the gradient", sums, np.zeros_like(sums), classes, compute, ask.dtype, allowance=classes)


def equal_errors(ask: Question, loss: str, draw: Draw) -> None:
    """Where all competing errors are equal, HEM is MM times C / (C - 1)."""
    call = random_call(ask, draw, loss, reductions=("none",))
    classes = call.logits.shape[-1]
    others, label = draw(numbers(2, -32, 32, step=1 / 16))
    logits = np.full(call.logits.shape, others)
    np.put_along_axis(logits, call.labels[:, None], label, axis=-1)
    call = replace(call, logits=logits)
    mm = ask(replace(call, loss="multi_margin_loss"))
    factor = classes / (classes - 1)
    ask.same(loss, ask(call), Result(mm.value * factor, mm.gradient * factor), classes)


def hem_is_at_least_mm(ask: Question, loss: str, draw: Draw) -> None:
    """The mean of the larger errors is at least the mean of all: HEM >= MM times C / (C - 1)."""
    call = random_call(ask, draw, loss, reductions=("none",))
    classes = call.logits.shape[-1]
    least = ask(replace(call, loss="multi_margin_loss")).value * (classes / (classes - 1))
    short = np.minimum(ask(call).value - least, 0.0)
    place = Place(ask.backend.name, loss, "", ask.mode.name, ask.dtype)
    compute = compute_dtype(ask.dtype)
    below = short.astype(compute)
    compare(place, "HEM below MM", below, np.zeros_like(below), classes, compute, compute, allowance=8.0)


def balanced_counts(ask: Question, loss: str, draw: Draw) -> None:
    """HEM+ with balanced counts is HEM."""
    call = random_call(ask, draw, loss)
    classes = call.logits.shape[-1]
    count = draw(st.integers(1, 5000))
    plus = ask(replace(call, constants={"margin": margins_from_class_counts([count] * classes)}))
    plain = ask(replace(call, constants={"margin": margin_from_num_samples(count * classes)}))
    ask.same(loss, plus, plain, classes)


def as_the_reference(ask: Question, loss: str, draw: Draw) -> None:
    """Weights, ignored positions and constants of every kind together: what the reference gives."""
    call = random_call(ask, draw, loss)
    if draw(st.booleans()):
        call = replace(call, sample_weight=weights(draw, call, step=0.75))
    size = len(call.labels)
    call = broken(call, draw(flags(size)), -100)
    ask.same(loss, ask(call), Result(*reference_answer(call)), call.logits.shape[-1])


@dataclass(frozen=True)
class Law:
    """A law, the losses it holds for, and the losses it compares them with."""

    holds: Callable[[Question, str, Draw], None]
    losses: Sequence[str]
    needs: Sequence[str] = ()

    @property
    def name(self) -> str:
        return self.holds.__name__


EVERY: Final = tuple(LOSSES)
# LogitNorm looks at the length of the logits, which changes when a constant is added to them.
UNSCALED: Final = tuple(loss for loss in LOSSES if loss != "logit_norm_loss")

LAWS: Final[Sequence[Law]] = (
    Law(repetition, EVERY),
    Law(ignored_is_removed, EVERY),
    Law(classes_permuted, EVERY),
    Law(positions_permuted, EVERY),
    Law(constant_added, UNSCALED),
    Law(one_by_one, EVERY),
    Law(sum_is_mean_times_weight, EVERY),
    Law(gradient_sums_to_zero, UNSCALED),
    Law(equal_errors, ("hem_loss",), needs=("multi_margin_loss",)),
    Law(hem_is_at_least_mm, ("hem_loss",), needs=("multi_margin_loss",)),
    Law(balanced_counts, ("hem_loss",)),
    Law(as_the_reference, EVERY),
)


class Enough(BaseException):
    """Ends the search for a smaller example. No Exception, because those are examples that fail."""


def check_law(backend: Backend, law: Law, loss: str, mode: Mode, dtype: str, examples: int) -> None:
    """Try a law on random calls. The error holds the smallest failing example that a few seconds could find."""
    place = Place(backend.name, loss, f"law {law.name}", mode.name, dtype)
    failures: list[tuple[int, str]] = []
    first_failure = 0.0

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def holds(data: Any) -> None:
        nonlocal first_failure
        ask = Question(backend, mode, dtype)
        try:
            law.holds(ask, loss, lambda strategy: data.draw(strategy))
        except Exception as error:
            if type(error).__module__.startswith("hypothesis"):
                raise
            said = "\n".join(str(error).splitlines()[1:]) if isinstance(error, ConformanceError) else ""
            said = said or f"  raised {type(error).__name__}: {error}"
            message = f"{place}\n  {' '.join((law.holds.__doc__ or '').split())}\n{said}\n{ask.report()}"
            failures.append((len(message), message))
            first_failure = first_failure or time.process_time()
            if time.process_time() - first_failure > SHRINKING_SECONDS:
                raise Enough from None
            raise

    # hypothesis would leave a folder where the command is run.
    set_hypothesis_home_dir(tempfile.gettempdir())
    try:
        holds()
    except (Enough, Exception) as error:
        if not failures:
            raise
        raise ConformanceError(min(failures)[1]) from error
