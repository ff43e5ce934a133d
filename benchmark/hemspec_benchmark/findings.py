"""Sentences of the report that claim something: each is made from the numbers, none is written by hand."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hemspec_benchmark.claims import VARIANTS
from hemspec_benchmark.explorations import explorations
from hemspec_benchmark.statistics import (
    REFERENCE,
    Difference,
    Document,
    Estimate,
    by_epoch,
    label,
    losses,
    means,
    measures,
)

SLACK = 0.005
"""Half a point: less than one image in a hundred, what a rise may be without being called one."""


def signed(value: float, decimals: int = 1) -> str:
    """A fraction in points, with its sign."""
    return f"{100 * value:+.{decimals}f}".replace("-", "−")


def digits(found: Estimate) -> int:
    """Decimals in points: enough for the interval not to read as zero."""
    return 2 if found.half is not None and found.half < 0.0005 else 1


def plus_minus(found: Estimate | None) -> str:
    """``98.5 ± 0.2``, in percent: mean and half of the 95 % interval, which a single seed does not have."""
    if found is None:
        return "–"
    half = "" if found.half is None else f" ± {100 * found.half:.{digits(found)}f}"
    return f"{100 * found.mean:.{digits(found)}f}{half}".replace("-", "−")


def gap(found: Estimate | None) -> str:
    """``+0.3 ± 0.2``: a difference in points."""
    if found is None:
        return "–"
    half = "" if found.half is None else f" ± {100 * found.half:.{digits(found)}f}"
    return signed(found.mean, digits(found)) + half


def gap_range(found: Estimate) -> str:
    """``+0.3 [+0.1, +0.5]``: a difference in points and its interval."""
    if found.low is None or found.high is None:
        return signed(found.mean)
    ends = ", ".join(signed(end, digits(found)) for end in (found.low, found.high))
    return f"{signed(found.mean, digits(found))} [{ends}]"


def p_value(p: float | None) -> str:
    """``0.013``, ``< 0.001``; a dash where there is no test."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def standing(document: Document, family: Mapping[tuple[str, str], Difference]) -> list[str]:
    """How often each variant of HEM is significantly better or worse than cross-entropy."""
    sentences = []
    for variant in VARIANTS:
        found = [entry for (_, loss), entry in family.items() if loss == variant]
        if found:
            better, worse = (sum(entry.direction == way for entry in found) for way in (1, -1))
            sentences.append(
                f"{label(document, variant)} is significantly better than cross-entropy in {better} of {len(found)} "
                f"primary measures, significantly worse in {worse}, and not distinguishable in the "
                f"other {len(found) - better - worse}."
            )
    return sentences


@dataclass(frozen=True)
class Masking:
    """The check for gradient masking: what was found, and whether it looks suspicious."""

    suspicious: bool
    sentences: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    """For each loss: accuracy under the attack on the margin and under the one on the training loss."""


def masking(document: Document) -> Masking | None:
    """Compare attacks that should be weaker with those that should be stronger, on means over seeds and frameworks."""
    found = {measure.metric: means(document, measure) for measure in measures(document, "robustness")}
    if not found:
        return None
    largest = document["protocol"].get("attack", {}).get("largest", 0.5)
    epsilon = document["protocol"].get("attack", {}).get("epsilon", 0.05)
    sentences, suspicious = [], False

    def chain(prefix: str) -> list[str]:
        return sorted((m for m in found if m.startswith(prefix)), key=lambda metric: float(metric.split("/")[1]))

    def check(pairs: Sequence[tuple[str, str]], what: str) -> None:
        """The second of each pair is the stronger attack: accuracy must not be higher under it."""
        nonlocal suspicious
        rises = [
            (found[strong][loss].mean - found[weak][loss].mean, loss, weak, strong)
            for weak, strong in pairs
            for loss in found[weak]
            if loss in found[strong]
        ]
        if not rises:
            return
        rise, loss, weak, strong = max(rises)
        if rise <= 0:
            sentences.append(f"{what} never helped the defender, for any loss.")
        else:
            suspicious = suspicious or rise > SLACK
            sentences.append(
                f"{what} helped the defender by at most {100 * rise:.2f} points "
                f"({label(document, loss)}, {weak} against {strong})."
            )

    steps, sizes = chain("steps/"), chain("pgd/")
    check(list(pairwise(steps)), f"More steps ({', '.join(name.split('/')[1] for name in steps)})")
    check(list(pairwise(sizes)), "A larger ε")
    both = [(name.replace("pgd", "fgsm"), name) for name in sizes if name.replace("pgd", "fgsm") in found]
    check(both, "PGD instead of the single step of FGSM")
    if top := found.get(f"pgd/{largest:g}"):
        loss, worst = max(top.items(), key=lambda item: item[1].mean)
        which = f" ({label(document, loss)})" if worst.mean > 0 else ""
        suspicious = suspicious or worst.mean > 2 * SLACK
        sentences.append(
            f"At ε = {largest:g}, where every image can be made grey, the highest accuracy of any loss is "
            f"{100 * worst.mean:.1f} %{which}; it should be about 0."
        )
    margin, own = found.get(f"pgd/{epsilon:g}", {}), found.get("loss_attack", {})
    rows: list[dict[str, Any]] = [
        {"label": label(document, loss), "margin": margin[loss], "own": own[loss]}
        for loss in losses(document)
        if loss in margin and loss in own
    ]
    if rows:
        worst_row = max(rows, key=lambda row: row["own"].mean - row["margin"].mean)
        gap = worst_row["own"].mean - worst_row["margin"].mean
        sentences.append(
            f"An attack on the training loss itself would have reported up to {100 * gap:.1f} points too much "
            f"({worst_row['label']}: {100 * worst_row['own'].mean:.1f} % instead of "
            f"{100 * worst_row['margin'].mean:.1f} %). It is shown for that reason only."
        )
    return Masking(suspicious, sentences, rows)


def training(document: Document, names: Sequence[str]) -> list[str]:
    """What is left to learn from in the last epoch, and how large the steps are."""
    last = {
        curve: {loss: found[-1][1].mean for loss in names if (found := by_epoch(document, curve, loss))}
        for curve in ("active", "gradient_norm", "train_loss")
    }
    sentences = []
    if last["active"]:
        parts = [f"{100 * value:.1f} % after {label(document, loss)}" for loss, value in last["active"].items()]
        sentences.append(f"In the last epoch, training images with an error inside HEM's margin: {'; '.join(parts)}.")
    norms = last["gradient_norm"]
    if norms:
        parts = [f"{label(document, loss)} {value:.2g}" for loss, value in norms.items()]
        sentences.append(f"The gradient's norm in the last epoch: {'; '.join(parts)}.")
    if norms.get("hem") and norms.get("hem-mean"):
        ratio = norms["hem"] / norms["hem-mean"]
        why = (
            ": its size does not follow the number of errors that are left, and the learning rate alone brings the "
            "training to rest"
        )
        sentences.append(
            f"Averaged over the active images, HEM's gradient ends {ratio:.1f} times as large as averaged over all"
            f"{why if ratio > 2 else ''}."
        )
    return sentences


def explored(document: Document, names: Collection[str] | None = None) -> list[str]:
    """What other learning rates and more epochs would have given each loss, in all measures or in those named."""
    sentences = []
    for found in explorations(document):
        if names is not None and found.measure.name not in names:
            continue
        values = found.values
        if found.dimension == "learning rate":
            parts = []
            for loss, points in found.estimates.items():
                best = max(points, key=lambda value: points[value].mean)
                parts.append(f"{label(document, loss)} {plus_minus(points[best])} (at {best})")
            sentences.append(
                f"{found.title}, each loss at the best of {len(values)} learning rates: {', '.join(parts)}. "
                f"The run has {found.standard}, chosen for cross-entropy."
            )
        elif found.dimension == "epochs":
            most, usual = values[-1], found.standard
            parts = [
                f"{label(document, loss)} {plus_minus(points[most])} ({signed(points[most].mean - points[usual].mean)})"
                for loss, points in found.estimates.items()
                if most in points and usual in points
            ]
            sentences.append(
                f"{found.title}, with {most} epochs (and the gain over the run's {usual}): {', '.join(parts)}."
            )
    return sentences


def reference_missing(document: Document) -> str | None:
    """Without cross-entropy there is nothing to compare with."""
    if REFERENCE in losses(document):
        return None
    return "Cross-entropy was not run, so that there are no differences and no verdicts."
