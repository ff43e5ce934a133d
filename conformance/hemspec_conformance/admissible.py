"""The answers that rounding allows to a call.

Nearly always there is one, the reference's. But whether an error is positive, and whether HEM keeps it, is a yes or a
no: where the numbers on its two sides differ by less than computing them rounds, both are right.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from hemspec.arguments import log_prior
from hemspec.reference.hem import kept_errors, margin_errors
from hemspec.reference.positions import Positions, by_position, divide, per_true_class, read_positions
from hemspec_conformance.adapter import Array, Call
from hemspec_conformance.backend import Result
from hemspec_conformance.tolerances import EPS, TINY
from hemspec_conformance.vectors import reference_answer

MOST: Final = 6
"""So many doubtful errors are tried both ways; a call with more of them is answered by `Result`s in vain."""
GRID: Final = 2.0**-10
"""Multiples of this, as long as they are not too many, are added up without rounding in any order."""


@dataclass(frozen=True)
class Answers:
    """The right answers, in float64, and how exactly they have to be met."""

    results: tuple[Result, ...]
    value_allowance: float = 1.0
    gradient_allowance: float = 1.0
    """By how much the call's own numbers magnify rounding, beyond what the usual tolerance has room for."""
    overflows: bool = False
    """Numbers on the way may exceed the compute dtype: an answer that is no number is as good."""
    in_doubt: bool = False
    """Too many errors are within rounding of their threshold to try them all, or weights are hardly more than 0."""


def answers(call: Call, compute: str) -> Answers:
    """What the reference gives, for every outcome of what rounding may decide. Raises what the reference raises."""
    exact = call if call.logits.dtype.kind in "biu" else replace(call, logits=call.logits.astype(np.float64))
    with np.errstate(all="ignore"):
        usual = Result(*reference_answer(exact))
    positions = read_positions(
        exact.logits,
        exact.labels,
        axis=exact.axis,
        sample_weight=exact.sample_weight,
        ignore_index=exact.ignore_index,
    )
    results: tuple[Result, ...] = ()
    with np.errstate(all="ignore"):
        if call.loss in ("hem_loss", "multi_margin_loss"):
            results = tuple(itertools.islice(of_margin_loss(exact, positions, compute), 2**MOST))
        in_doubt = not results and call.loss in ("hem_loss", "multi_margin_loss")
        # Weights of which a product may be flushed to 0.
        in_doubt |= bool(((positions.weights > 0) & (positions.weights < 64 * TINY[compute])).any())
        return Answers(
            results or (usual,), *allowances(exact, positions), overflows(exact, positions, compute), in_doubt
        )


def of_margin_loss(call: Call, positions: Positions, compute: str) -> Iterator[Result]:
    """The loss with each doubtful error counted and not. Nothing, if there are too many."""
    hem = call.loss == "hem_loss"
    margins = per_true_class(call.constants.get("margin", 1.0), positions, name="margin")
    errors = margin_errors(positions.logits, positions.labels, margins)
    kept = kept_errors(errors) if hem else (errors > 0) | np.isnan(errors)
    doubtful = np.argwhere(doubts(positions, margins, errors, compute, threshold=hem))
    if len(doubtful) > MOST:
        return
    for choice in itertools.product((False, True), repeat=len(doubtful)):
        chosen = kept.copy()
        for (row, column), keep in zip(doubtful, choice, strict=True):
            chosen[row, column] = keep
        # An error that may be above 0 is active then.
        sizes = np.where(chosen & (errors == 0), TINY[compute], errors)
        count = np.maximum(chosen.sum(axis=1), 1) if hem else np.full(len(sizes), positions.classes)
        values = np.where(chosen, sizes, 0.0).sum(axis=1) / count
        slopes = chosen / count[:, None]
        rows = np.arange(len(slopes))
        slopes[rows, positions.labels] = -1.0 * chosen.any(axis=1) if hem else -slopes.sum(axis=1)
        evaluation = by_position(positions, values, slopes, call.reduction)
        numerator, denominator = evaluation.terms()
        value = numerator if denominator is None else divide(numerator, denominator)
        yield Result(np.asarray(value), evaluation.gradient())


def doubts(positions: Positions, margins: Array, errors: Array, compute: str, *, threshold: bool) -> Array:
    """Which errors rounding may count or not: near 0, and for HEM near their mean."""
    z, y, eps = positions.logits, positions.labels, EPS[compute]
    rows = np.arange(len(z))
    dtype = np.float32 if compute == "float32" else np.float64
    differences, m = z - z[rows, y][:, None], margins[:, None]
    sums = differences + m
    exact = (differences.astype(dtype) == differences) & (sums.astype(dtype) == sums) & (m.astype(dtype) == m)
    exact &= (z.astype(dtype) == z) & ((sums == 0) | (np.abs(sums) >= TINY[compute]))
    if compute == "float64":  # there is nothing more exact to compare with
        exact = on_grid(differences) & on_grid(m) & (np.abs(sums) < 2.0**20)
    rounding = 4 * eps * (np.abs(differences) + m) + TINY[compute]
    found: Array = ~exact & (np.abs(sums) <= rounding)
    if threshold:
        largest = errors.max(axis=1, keepdims=True)
        shortfall = largest - errors
        total = shortfall.sum(axis=1, keepdims=True)
        rounding_of_all = np.where(errors > 0, rounding, 0.0).max(axis=1, keepdims=True)
        slack = positions.classes * (8 * eps * largest + 2 * rounding_of_all)
        certain = on_grid(errors).all(axis=1, keepdims=True) & exact.all(axis=1, keepdims=True)
        certain &= positions.classes * errors.sum(axis=1, keepdims=True) < GRID / eps
        near = np.abs(positions.classes * shortfall - total) <= slack
        found |= near & ~certain & (errors > 0) & (errors < largest)
        # Which of several nearly equal errors is the largest may be decided by rounding too; all of them are kept.
    found &= np.isfinite(errors) & (positions.weights > 0)[:, None]
    found[rows, y] = False
    return found


def on_grid(numbers: Array) -> Array:
    return np.asarray(np.rint(numbers / GRID) * GRID == numbers)


def allowances(call: Call, positions: Positions) -> tuple[float, float]:
    """For value and gradient: what is subtracted, multiplied or divided by may be larger than what comes of it."""
    valid = positions.weights > 0
    if not valid.any():
        return 1.0, 1.0

    def largest(numbers: Any) -> float:
        numbers = np.abs(np.asarray(numbers, np.float64))
        return float(max(1.0, np.where(np.isfinite(numbers), numbers, 0.0).max(initial=0.0)))

    weight = largest(positions.weights)
    c = call.constants
    if "margin" in c:
        return weight * largest(c["margin"]), weight
    if call.loss == "focal_loss":
        alpha = 1.0 if c.get("alpha") is None else largest(c["alpha"])
        both = weight * alpha * (1.0 + float(c.get("gamma", 2.0)))
        return both, both
    if call.loss == "logit_adjusted_loss":
        prior = largest(float(c.get("temperature", 1.0)) * log_prior(np.asarray(c["class_counts"], np.float64)))
        return weight * prior, weight * prior
    if call.loss == "logit_norm_loss":
        t = float(c.get("temperature", 0.04))
        length = np.sqrt((positions.logits[valid] ** 2).sum(axis=1))
        sharp = largest(0.04 / t)
        return weight * sharp, weight * sharp * largest(0.04 / (t * (length + 1e-7)))
    return weight, weight


def overflows(call: Call, positions: Positions, compute: str) -> bool:
    """Whether a sum on the way may be too large for the compute dtype."""
    top = float(np.finfo(compute).max)
    finite = np.where(np.isfinite(positions.logits), np.abs(positions.logits), 0.0).max(initial=0.0)
    largest = 2 * float(finite) + float(np.max(call.constants.get("margin", 0.0)))
    largest = max(1.0, 1.0 if call.loss in ("logit_norm_loss", "dice_loss") else largest)
    heaviest = max(1.0, float(positions.weights.max(initial=0.0)))
    return largest * heaviest * max(1, positions.logits.size) > top / 64
