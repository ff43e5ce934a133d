"""What people read of the run that decides the claims: tables in Markdown, all from the document alone.

The numbers are JAX's, paired by seed; see benchmark/PROTOCOL.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from hemspec_benchmark import arms, claims_table, run_plots
from hemspec_benchmark.arms import LOSSES, PRIMARY, Arm
from hemspec_benchmark.composites import COMPOSITES, FAR, NEAR, SCORES, Composite, Number, Results
from hemspec_benchmark.findings import gap, gap_range, p_value, plus_minus
from hemspec_benchmark.losses import LOSSES as NAMES
from hemspec_benchmark.readme import table as markdown
from hemspec_benchmark.settings import Cell
from hemspec_benchmark.statistics import Estimate, estimate, holm
from hemspec_benchmark.store import Document
from hemspec_benchmark.swap import replication_report
from hemspec_benchmark.verdicts import FIRST, decide

PICTURE: Final = "overview"
OTHERS: Final = tuple(name for name in LOSSES if name != "ce")
ARM_NAMES: Final[dict[Arm, str]] = {
    "paper": "CE's rate",
    "best rate": "its own best rate",
    "clipped": "CE's rate, clipped at 1",
    "adam": "Adam, CE's rate",
}


def tables(document: Document) -> dict[str, str]:
    """In Markdown, by name.

    Raises:
        StoreError: cells are missing.
    """
    results = claims_table.results(document)
    return {
        "claims": claims_table.markdown(document),
        "composites": composites(results, "paper"),
        "composites-best-rate": composites(results, "best rate"),
        "parts": markdown(PARTS_HEAD, parts(results)),
        "arms": markdown(("HEM less CE", *ARM_NAMES.values()), by_arm(results, "hem")),
        "arms-mean": markdown(("HEM with a mean, less CE", *ARM_NAMES.values()), by_arm(results, "hem-mean")),
        "scores": markdown(SCORES_HEAD, scores(results)),
        "beside": markdown(BESIDE_HEAD, beside(results)),
        "attack": markdown(ATTACK_HEAD, attacks(results)),
        "margins": markdown(("HEM's margin", "mean IoU, %", "less the first", "seeds"), margins(results)),
        "rates": markdown(("", *(f"{part}" for part in arms.SETTINGS)), rates(results)),
        "replications": replication_report.tables(document)["replications"],
    }


def label(loss: str) -> str:
    """As people write it."""
    return NAMES[loss].label


def composites(results: Results, arm: Arm) -> str:
    """The six, cross-entropy's value and how far every other loss is from it."""
    head = ("", "CE, %", *map(label, OTHERS))
    rows = [
        (
            composite.label,
            plus_minus(estimate(results.by_seed(arm, composite, "ce").values())),
            *(gap(estimate(results.difference(arm, composite, loss, "ce"))) for loss in OTHERS),
        )
        for composite in COMPOSITES.values()
    ]
    return markdown(head, rows)


def by_arm(results: Results, loss: str) -> Iterator[tuple[str, ...]]:
    """Whether a difference hangs on the size of the steps."""
    for composite in COMPOSITES.values():
        yield composite.label, *(gap(estimate(results.difference(arm, composite, loss, "ce"))) for arm in ARM_NAMES)


# Below the composites

PARTS_HEAD: Final = (
    "part",
    "CE, %",
    "HEM less CE [95 %]",
    "p",
    *(f"{label(name)}, less CE" for name in ("hem-mean", "hem-plus")),
)


def part_name(number: Number) -> str:
    """A number of a composite, in words."""
    task, setting, metric = number
    if task == "rejection":
        return "near: held-out digits" if setting == "near" else f"far: {metric.rpartition('/')[2]}"
    if task == "robustness":
        return f"attack of size {metric.rpartition('/')[2]}"
    if task == "imbalance":
        return setting.replace("ratio-", "1 : ")
    if task == "continual":
        scenario, way = setting.split("-")
        return f"{scenario}-incremental, {'with replay' if way == 'replay' else 'naive'}"
    return setting


def parts(results: Results) -> Iterator[tuple[str, ...]]:
    """Of the composites with several; tested, corrected inside, where the composite is decided."""
    words = {verdict.claim.comparisons[0].composite: verdict.word for verdict in decide(results, FIRST, "paper")}
    for name, composite in COMPOSITES.items():
        numbers = [number for group in composite.groups for number in group]
        if len(numbers) > 1:
            found = [each(results, composite, number, "hem") for number in numbers]
            p = holm([one.p if one.p is not None else 1.0 for one in found])
            tested = words[name] in ("holds", "does not hold")
            for number, one, corrected in zip(numbers, found, p, strict=True):
                yield (
                    part_name(number),
                    plus_minus(estimate(values(results, composite, number, "ce").values())),
                    gap_range(one),
                    p_value(corrected) if tested else "not tested",
                    *(gap(each(results, composite, number, loss)) for loss in ("hem-mean", "hem-plus")),
                )


def values(results: Results, composite: Composite, number: Number, loss: str, arm: Arm = "paper") -> dict[int, float]:
    """One number of a composite by seed."""
    score = results.score(arm, loss) if number[0] == "rejection" else SCORES[0]
    return seeds(results, arm, composite.part, loss, number, score)


def seeds(results: Results, arm: Arm, part: Any, loss: str, number: Number, score: Any) -> dict[int, float]:
    """A number by seed."""
    found = {seed: results.number(arm, part, loss, number, score, seed) for seed in arms.seeds_of(arm, part, loss)}
    return {seed: value for seed, value in found.items() if value is not None}


def each(results: Results, composite: Composite, number: Number, loss: str) -> Estimate:
    """A loss less cross-entropy, paired by seed."""
    found = estimate(less(values(results, composite, number, loss), values(results, composite, number, "ce")))
    assert found is not None
    return found


def less(own: dict[int, float], base: dict[int, float]) -> list[float]:
    """Seed by seed."""
    return [own[seed] - base[seed] for seed in sorted(own.keys() & base.keys())]


# Beside them

SCORES_HEAD: Final = (
    "AUROC, %",
    "score chosen",
    *(f"{unknown}, {score}" for unknown in ("near", "far") for score in ("largest logit", "softmax")),
)


def scores(results: Results) -> Iterator[tuple[str, ...]]:
    """Every loss by both scores, near and far apart, and which score was chosen for it on other unknowns."""
    for loss in LOSSES:
        row = []
        for numbers in ((NEAR,), FAR):
            for score in SCORES:
                by_number = [seeds(results, "paper", "classification", loss, number, score) for number in numbers]
                means = [float(np.mean([one[seed] for one in by_number])) for seed in sorted(by_number[0])]
                row.append(plus_minus(estimate(means)))
        chosen = {"max_logit": "largest logit", "max_softmax": "softmax"}[results.score("paper", loss)]
        yield label(loss), chosen, *row


BESIDE_HEAD: Final = (
    "",
    "corrupted, %",
    "ECE, %",
    "ECE scaled, %",
    "NLL",
    "NLL scaled",
    "active at the end, %",
    "gradient at the end",
    "loss, ms",
)


def beside(results: Results) -> Iterator[tuple[str, ...]]:
    """What decides nothing: of the trainings on all classes, arm "paper"."""
    for loss in LOSSES:
        name, text = results.trained_as("paper", "classification", loss)
        found = [
            results.records[Cell("accuracy", "test", name, "jax", seed, text)]
            for seed in arms.seeds_of("paper", "classification", loss)
        ]

        def share(metric: str, found: Sequence[Any] = found) -> str:
            return plus_minus(estimate(one["metrics"][metric] for one in found if one["metrics"][metric] is not None))

        details = [one["details"] for one in found]
        nll, scaled = ([one["calibration"][metric] for one in details] for metric in ("nll", "nll/scaled"))
        yield (
            label(loss),
            *map(share, ("corrupted", "ece", "ece/scaled")),
            number(nll),
            number(scaled),
            plus_minus(estimate(last(details, "active"))),
            number(last(details, "gradient_norm")),
            number([one["timings"]["loss_milliseconds"] for one in found], middle=np.median),
        )


def last(details: Iterable[Any], curve: str) -> list[float]:
    """A curve's last value in each training, where it is a number."""
    ends = [one[curve][-1] for one in details]
    return [end for end in ends if end is not None]


def number(found: Sequence[float | None], middle: Any = np.mean) -> str:
    """Three digits of the mean of those that are numbers."""
    known = [value for value in found if value is not None]
    return f"{middle(known):#.3g}" if known else "–"


ATTACK_HEAD: Final = (
    "180 images, size 0.05",
    "ours, %",
    "AutoAttack, %",
    "it leaves less by",
    "most in one network",
    "networks",
)


def attacks(results: Results) -> Iterator[tuple[str, ...]]:
    """Our attack against a stronger one, on some of the same networks."""
    size = f"{arms.CONFIRMING.attack.epsilon:g}"
    cells = arms.attacked(results.records)
    for loss in PRIMARY:
        found = [results.records[cell]["metrics"] for cell in cells if cell.loss == loss]
        ours, theirs = ([one[f"{attack}/{size}"] for one in found] for attack in ("pgd", "autoattack"))
        gaps = [own - other for own, other in zip(ours, theirs, strict=True)]
        yield (
            label(loss),
            plus_minus(estimate(ours)),
            plus_minus(estimate(theirs)),
            gap(estimate(gaps)),
            f"{100 * max(gaps):.1f}",
            str(len(found)),
        )


def margins(results: Results) -> Iterator[tuple[str, ...]]:
    """What to count for the margin of segmentation."""
    _, text = results.trained_as("paper", "segmentation", "hem")

    def reached(loss: str) -> dict[int, float]:
        cells = {seed: Cell("segmentation", "scenes", loss, "jax", seed, text) for seed in arms.SEEDS[:8]}
        return {seed: results.records[cell]["metrics"]["miou"] or 0.0 for seed, cell in cells.items()}

    base = reached("hem")
    for loss, name in ("hem", "from labelled pixels"), ("hem-images", "from images"), ("hem-margin-1", "1"):
        own = reached(loss)
        yield (
            name,
            plus_minus(estimate(own.values())),
            "" if loss == "hem" else gap(estimate(less(own, base))),
            str(len(own)),
        )


def rates(results: Results) -> Iterator[tuple[str, ...]]:
    """The rate that suits each loss, on validation images; one at an end of its list could be better beyond."""

    def one(arm: Arm, loss: str, part: Any) -> str:
        name, text = results.trained_as(arm, part, loss)
        way, rate = text.split()
        tried = arms.TUNINGS["adam" if way == "adam" else "sgd"][part].rates
        at_end = " (end of the list)" if float(rate) in (min(tried), max(tried)) else ""
        temperature = (
            f", temperature {NAMES[name].arguments(np.ones(1, np.int64))['temperature']:g}" if name != loss else ""
        )
        return f"{rate}{at_end}{temperature}"

    for loss in LOSSES:
        yield label(loss), *(one("best rate", loss, part) for part in arms.SETTINGS)
    yield "CE, Adam", *(one("adam", "ce", part) for part in arms.SETTINGS)


def figures(document: Document, names: Collection[str] | None = None) -> dict[str, Figure]:
    """By name, all or those named."""
    if names is not None and PICTURE not in names:
        return {}
    return {PICTURE: run_plots.overview(claims_table.results(document))}


def table(document: Document) -> str:
    """For the terminal: a line for each claim."""
    return "\n".join(claims_table.lines(document))
