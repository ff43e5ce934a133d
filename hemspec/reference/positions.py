"""From a call's arguments to a flat list of positions, and from a loss per position to the answer.

Everything that all losses share is here: the class axis, ignored and unweighted positions, the four reductions, and
how a loss and its gradient go back to the shapes and dtypes the caller expects. A loss itself only says what one
position costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, cast

import numpy as np
import numpy.typing as npt

from hemspec.arguments import (
    check_ignore_index,
    check_label_values,
    check_labels,
    check_logits,
    check_per_class,
    check_terms_reduction,
    check_weight,
    check_weight_values,
    read_constant,
    representable,
)
from hemspec.loss_function import LossFunction, present

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
P = ParamSpec("P")


@dataclass(frozen=True)
class Positions:
    """One row for each position, in float64. A row that is not valid holds zeros, whatever came in."""

    logits: Floats  # (P, C)
    labels: npt.NDArray[np.int64]  # (P,)
    weights: Floats  # (P,), 0 where not valid
    shape: tuple[int, ...]  # of the labels
    class_axis: int
    dtype: Any  # of the logits

    @property
    def classes(self) -> int:
        return int(self.logits.shape[1])

    @property
    def images(self) -> npt.NDArray[np.int64]:
        """Which entry of the labels' first axis each position belongs to, shape (P,)."""
        if not self.shape:
            return np.zeros(1, np.int64)
        per_image = int(np.prod(self.shape[1:], dtype=np.int64))
        return np.repeat(np.arange(self.shape[0], dtype=np.int64), per_image)


def read_positions(logits: Any, labels: Any, *, axis: int, sample_weight: Any, ignore_index: int | None) -> Positions:
    """Check the arguments every loss takes and lay them out one position a row.

    An ignored position does not exist: its logits and its weight are not looked at. Nor are the logits and the label
    of a position of weight 0.
    """
    logits = np.asarray(logits)
    labels = np.asarray(labels)
    class_axis = check_logits(logits.shape, logits.dtype.name, axis)
    check_labels(labels.shape, labels.dtype.name, logits.shape, class_axis)
    ignore_index = check_ignore_index(ignore_index)

    exists = np.ones(labels.shape, bool)
    if ignore_index is not None and representable(ignore_index, labels.dtype.name):
        exists = labels != ignore_index
    weights = np.ones(labels.shape)
    if sample_weight is not None:
        given = np.asarray(sample_weight)
        check_weight(given.shape, given.dtype.name, labels.shape)
        weights = np.array(
            np.broadcast_to(
                given.astype(np.float64).reshape(given.shape + (1,) * (labels.ndim - given.ndim)), labels.shape
            )
        )
        check_weight_values(weights, exists)
    valid = exists & (weights > 0)
    classes = logits.shape[class_axis]
    check_label_values(labels, valid, classes)

    last = np.moveaxis(logits, class_axis, -1)
    return Positions(
        logits=np.where(valid[..., None], last, np.zeros((), logits.dtype)).astype(np.float64).reshape(-1, classes),
        labels=np.where(valid, labels, 0).astype(np.int64).reshape(-1),
        weights=np.where(valid, weights, 0.0).reshape(-1),
        shape=labels.shape,
        class_axis=class_axis,
        dtype=logits.dtype,
    )


def per_true_class(value: Any, positions: Positions, *, name: str, scalar: bool = True) -> Floats:
    """A constant (one number, or a vector with one entry per class) at each position's true class, shape (P,)."""
    constant = read_constant(value, name=name)
    check_per_class(constant.shape, positions.classes, name=name, scalar=scalar)
    return np.broadcast_to(constant, (positions.classes,))[positions.labels]


@dataclass(frozen=True)
class Evaluation:
    """What a loss function computes before anything is reduced.

    An element is what gets averaged: a position, or for Dice an image. `slopes` holds, for each position, the
    derivative of its element's value in its logits.
    """

    positions: Positions
    values: Floats  # (E,)
    weights: Floats  # (E,), 0 where the element does not count
    slopes: Floats  # (P, C)
    shape: tuple[int, ...]  # of `values` under "none"
    element: npt.NDArray[np.int64]  # (P,): which element each position belongs to
    reduction: str

    @property
    def result_dtype(self) -> Any:
        return loss_dtype(self.positions.dtype)

    @np.errstate(over="ignore")  # what is too large is infinite
    def terms(self) -> tuple[Floats, Floats | None]:
        """Numerator and denominator. Elements that do not count add exactly 0, whatever they hold."""
        counts = self.weights > 0
        weighted = np.where(counts, self.weights * self.values, 0.0)
        if self.reduction == "none":
            return weighted.reshape(self.shape), None
        if self.reduction == "sum":
            return np.asarray(weighted.sum()), None
        if self.reduction == "active_mean":
            counts = counts & ((self.values > 0) | np.isnan(self.values))
        return np.asarray(weighted.sum()), np.asarray(self.weights[counts].sum())

    def gradient(self) -> Array:
        """The derivative in the logits: weights and the denominator are constants. A NaN loss has a NaN gradient."""
        _, denominator = self.terms()
        share = self.weights if denominator is None else divide(self.weights, denominator)
        with np.errstate(all="ignore"):
            rows = share[self.element][:, None] * self.slopes
        rows[np.isnan(self.values)[self.element]] = np.nan
        rows[self.positions.weights == 0] = 0.0
        last = rows.reshape(*self.positions.shape, self.positions.classes)
        with np.errstate(over="ignore"):
            return np.moveaxis(last, -1, self.positions.class_axis).astype(self.positions.dtype)


def loss_dtype(dtype: Any) -> Any:
    """float16 and bfloat16 are computed in float32 and stay there; the others are what they were."""
    return dtype if dtype in (np.float32, np.float64) else np.dtype(np.float32)


def by_position(positions: Positions, values: Floats, slopes: Floats, reduction: str) -> Evaluation:
    """The evaluation of a loss whose elements are the positions themselves."""
    element = np.arange(values.size, dtype=np.int64)
    return Evaluation(positions, values, positions.weights, slopes, positions.shape, element, reduction)


def divide(numerator: Array, denominator: Array) -> Array:
    """The quotient, with 0/0 = 0: nothing to average costs nothing."""
    empty = denominator == 0
    return np.asarray(np.where(empty, 0.0, numerator / np.where(empty, 1.0, denominator)))


class ReferenceLoss(LossFunction[P, Any], Protocol):
    """A reference loss also has its analytic gradient."""

    def gradient(self, *args: P.args, **kwargs: P.kwargs) -> Array:
        """The gradient of the loss in the logits: same arguments as the loss, shape and dtype of the logits."""
        ...


def reference_loss(evaluate: Callable[P, Evaluation]) -> ReferenceLoss[P]:
    """Turn a function that evaluates a loss into the loss, with its ``.terms`` and its ``.gradient``."""

    @np.errstate(over="ignore")
    def loss(*args: P.args, **kwargs: P.kwargs) -> Any:
        evaluation = evaluate(*args, **kwargs)
        numerator, denominator = evaluation.terms()
        value = numerator if denominator is None else divide(numerator, denominator)
        return value.astype(evaluation.result_dtype)[()]

    @np.errstate(over="ignore")
    def terms(*args: P.args, **kwargs: P.kwargs) -> tuple[Any, Any]:
        evaluation = evaluate(*args, **kwargs)
        check_terms_reduction(evaluation.reduction)
        numerator, denominator = evaluation.terms()
        assert denominator is not None
        return numerator.astype(evaluation.result_dtype)[()], denominator.astype(evaluation.result_dtype)[()]

    def gradient(*args: P.args, **kwargs: P.kwargs) -> Array:
        return evaluate(*args, **kwargs).gradient()

    terms.__doc__, gradient.__doc__ = LossFunction.terms.__doc__, ReferenceLoss.gradient.__doc__
    methods = {"terms": (terms, tuple[Any, Any]), "gradient": (gradient, Array)}
    return cast("ReferenceLoss[P]", present(evaluate, loss, returns=Any, **methods))
