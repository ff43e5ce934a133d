"""From the measured numbers to means, intervals, paired differences and tests corrected for their number.

The independent unit is the seed. The frameworks start from the same weights and see the same batches, so their results
are not replicates of each other: wherever the frameworks are pooled, each seed counts once, with the average over its
frameworks. Differences between losses are paired: the same seed, in the same frameworks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

from hemspec_benchmark.learner import BACKENDS
from hemspec_benchmark.losses import LOSSES

Document = Mapping[str, Any]
BySeed = dict[int, float]
ByBackend = dict[str, BySeed]

LEVEL: Final = 0.95
ALPHA: Final = 0.05
REFERENCE: Final = "ce"
"""The loss that the others are compared with."""


@dataclass(frozen=True)
class Measure:
    """One number of a cell, and how people call it."""

    name: str
    task: str
    setting: str
    metric: str
    label: str
    higher_is_better: bool = True


HEADLINES: Final = (
    Measure("clean", "accuracy", "test", "clean", "clean accuracy"),
    Measure("corrupted", "accuracy", "test", "corrupted", "accuracy on corrupted images"),
    Measure("near", "rejection", "near", "auroc/max_logit/digits", "AUROC, near: held-out digits"),
    Measure("far-photographs", "rejection", "far", "auroc/max_logit/photographs", "AUROC, far: photographs"),
    Measure("far-noise", "rejection", "far", "auroc/max_logit/noise", "AUROC, far: noise"),
    Measure("pgd", "robustness", "pgd", "pgd/0.05", "accuracy under PGD, ε = 0.05"),
    *(
        Measure(f"ratio-{ratio}", "imbalance", f"ratio-{ratio}", "balanced_accuracy", f"balanced accuracy, 1 : {ratio}")
        for ratio in (10, 50, 100)
    ),
    *(
        Measure(
            f"{scenario}-{way}",
            "continual",
            f"{scenario}-{way}",
            "average_accuracy",
            f"{scenario}-incremental, {'with replay' if way == 'replay' else 'naive'}",
        )
        for scenario in ("class", "task", "domain")
        for way in ("naive", "replay")
    ),
    Measure("miou", "segmentation", "scenes", "miou", "mean IoU"),
)
"""The primary measures of the digits, fixed before the full run. The others are reported, but decide nothing."""

TASKS: Final = {
    "accuracy": "Clean and corrupted images",
    "rejection": "Unknown-class rejection",
    "robustness": "Adversarial robustness",
    "imbalance": "Imbalanced data",
    "continual": "Continual learning",
    "segmentation": "Semantic segmentation",
}
"""The tasks and their titles, in the order of the report."""

LOWER_IS_BETTER: Final = ("fpr95", "forgetting", "ece", "nll")
"""First parts of the names of metrics that are better when smaller."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, its 95 % interval and the p-value of the hypothesis that the true mean is 0."""

    mean: float
    low: float | None
    high: float | None
    """None for a single seed, which says nothing about others, and for few that are all the same."""
    p: float | None
    count: int

    @property
    def half(self) -> float | None:
        """Half of the interval's width."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def estimate(values: Iterable[float]) -> Estimate | None:
    """Mean, Student's t interval and two-sided t-test; None where there are no values.

    Values that are all the same have no spread to build a t-test from: their standard error is 0, and any difference
    at all would be "significant". Their p-value is that of the sign test, 1 when they are 0 and 2 * 2 ** -count
    otherwise. In the same way the value itself is a 95 % interval (of the median) from 6 of them on; fewer have none.
    """
    return _estimate(tuple(values))


@lru_cache(maxsize=10_000)  # a report asks the same again and again, for its tables, plots and sentences
def _estimate(values: tuple[float, ...]) -> Estimate | None:
    sample = np.asarray(values, dtype=float)
    if not np.isfinite(sample).all():
        raise ValueError(f"only finite values can be averaged, got {sample.tolist()}")
    count = len(sample)
    if count == 0:
        return None
    mean = float(sample.mean())
    if count == 1:
        return Estimate(mean, None, None, None, 1)
    if np.ptp(sample) <= 1e-12 * max(1.0, abs(mean)):  # averages of equal numbers differ by rounding
        signs = min(1.0, 2.0 * 0.5**count)
        end = mean if signs <= 1.0 - LEVEL else None
        return Estimate(mean, end, end, 1.0 if abs(mean) <= 1e-12 else signs, count)
    test = stats.ttest_1samp(sample, 0.0)
    low, high = test.confidence_interval(LEVEL)
    return Estimate(mean, float(low), float(high), float(test.pvalue), count)


@dataclass(frozen=True)
class Difference:
    """Loss minus another, paired by seed, in one measure."""

    measure: Measure
    loss: str
    against: str
    estimate: Estimate
    corrected: float | None = None
    """The p-value after Holm's correction; None where there is no test or no correction."""

    @property
    def significant(self) -> bool:
        """After the correction."""
        return self.corrected is not None and self.corrected < ALPHA

    @property
    def gain(self) -> float:
        """Positive where the loss is the better one."""
        return self.estimate.mean if self.measure.higher_is_better else -self.estimate.mean

    @property
    def direction(self) -> int:
        """1 significantly better, -1 significantly worse, 0 neither."""
        return int(math.copysign(1, self.gain)) if self.significant else 0


def backends(document: Document) -> list[str]:
    """Those that have a cell, in the usual order."""
    present = {cell["backend"] for cell in document["cells"]}
    usual = [name for name in BACKENDS if name in present]
    return usual + sorted(present - set(usual))


def losses(document: Document) -> list[str]:
    """Those that have a cell, in the document's order."""
    present = {cell["loss"] for cell in document["cells"]}
    known = [name for name in document["losses"] if name in present]
    return known + sorted(present - set(known))


def label(document: Document, loss: str) -> str:
    """The loss's name for people."""
    entry = document["losses"].get(loss) or {"label": LOSSES[loss].label if loss in LOSSES else loss}
    return str(entry["label"])


def primary(document: Document) -> list[Measure]:
    """The primary measures for the document's data: other data has other attacks and no digits to hold out."""
    data, attack = document.get("data", "digits"), document.get("protocol", {}).get("attack", {})
    epsilon = attack.get("epsilon", 0.05)
    changes: dict[str, dict[str, Any]] = {
        "near": {}
        if data == "digits"
        else {"metric": "auroc/max_logit/classes", "label": "AUROC, near: held-out classes"},
        "pgd": {"metric": f"pgd/{epsilon:g}", "label": f"accuracy under PGD, ε = {epsilon:.2g}"},
    }
    return [replace(measure, **changes.get(measure.name, {})) for measure in HEADLINES]


def headlines(document: Document, task: str | None = None) -> list[Measure]:
    """The primary measures that the document has a number for."""
    return [measure for measure in primary(document) if task in (None, measure.task) and samples(document, measure)]


def measures(document: Document, task: str) -> list[Measure]:
    """Every metric of a task, in the order of the document; headlines keep their names."""
    known = {(measure.task, measure.setting, measure.metric): measure for measure in primary(document)}
    found: dict[tuple[str, str, str], Measure] = {}
    for cell in document["cells"]:
        if cell["task"] != task:
            continue
        for metric in cell["metrics"]:
            key = (task, cell["setting"], metric)
            plain = Measure(
                f"{cell['setting']}/{metric}", *key, metric, higher_is_better=not metric.startswith(LOWER_IS_BETTER)
            )
            found.setdefault(key, known.get(key, plain))
    return list(found.values())


def samples(document: Document, measure: Measure) -> dict[str, ByBackend]:
    """The values of a measure: loss, backend, seed. A null is left out, see `missing`."""
    result: dict[str, ByBackend] = {}
    for cell in document["cells"]:
        if cell["task"] == measure.task and cell["setting"] == measure.setting:
            value = cell["metrics"].get(measure.metric)
            if value is not None and math.isfinite(value):
                result.setdefault(cell["loss"], {}).setdefault(cell["backend"], {})[cell["seed"]] = float(value)
    return result


def pool(values: ByBackend) -> BySeed:
    """The average over the frameworks that have the seed."""
    seeds = sorted({seed for by_seed in values.values() for seed in by_seed})
    return {seed: float(np.mean([by_seed[seed] for by_seed in values.values() if seed in by_seed])) for seed in seeds}


def pair(first: ByBackend, second: ByBackend) -> BySeed:
    """First minus second by seed, averaged over the frameworks that have both. A seed without a partner is left out."""
    return pool(
        {
            backend: {seed: value - second[backend][seed] for seed, value in by_seed.items() if seed in second[backend]}
            for backend, by_seed in first.items()
            if backend in second
        }
    )


def means(document: Document, measure: Measure, backend: str | None = None) -> dict[str, Estimate]:
    """Each loss's mean over seeds, in one framework or pooled."""
    values = {loss: pool(_only(found, backend)) for loss, found in samples(document, measure).items()}
    result = {loss: estimate(values[loss].values()) for loss in losses(document) if loss in values}
    return {loss: found for loss, found in result.items() if found}


def difference(
    document: Document, measure: Measure, loss: str, against: str = REFERENCE, backend: str | None = None
) -> Difference | None:
    """Paired by seed, in one framework or pooled, not corrected; None without a pair."""
    return _difference(samples(document, measure), measure, loss, against, backend)


def differences(document: Document, measure: Measure, backend: str | None = None) -> dict[str, Difference]:
    """Each loss against cross-entropy, not corrected."""
    values = samples(document, measure)
    others = [loss for loss in losses(document) if loss != REFERENCE]
    found = {loss: _difference(values, measure, loss, REFERENCE, backend) for loss in others}
    return {loss: entry for loss, entry in found.items() if entry}


def _difference(
    values: dict[str, ByBackend], measure: Measure, loss: str, against: str, backend: str | None
) -> Difference | None:
    if loss not in values or against not in values:
        return None
    found = estimate(pair(_only(values[loss], backend), _only(values[against], backend)).values())
    return Difference(measure, loss, against, found) if found else None


def family(document: Document) -> dict[tuple[str, str], Difference]:
    """Every headline and every loss against cross-entropy, pooled, corrected together; by measure's and loss's name."""
    found = [entry for measure in headlines(document) for entry in differences(document, measure).values()]
    return {(entry.measure.name, entry.loss): entry for entry in correct(found)}


def correct(found: Sequence[Difference]) -> list[Difference]:
    """Holm's correction over all that have a test. Those that have none (a single seed) stay without."""
    corrected = iter(holm([entry.estimate.p for entry in found if entry.estimate.p is not None]))
    return [replace(entry, corrected=None if entry.estimate.p is None else next(corrected)) for entry in found]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down p-values: the chance of even one false discovery among all of them is at most `ALPHA`."""
    if len(p_values) < 2:
        return list(p_values)
    return [float(p) for p in multipletests(p_values, alpha=ALPHA, method="holm")[1]]


def details(document: Document, task: str, setting: str, loss: str) -> list[Mapping[str, Any]]:
    """What else the cells of all seeds and frameworks keep."""
    key = (task, setting, loss)
    return [cell["details"] for cell in document["cells"] if (cell["task"], cell["setting"], cell["loss"]) == key]


def by_epoch(document: Document, curve: str, loss: str) -> list[tuple[int, Estimate]]:
    """A curve of the training on all classes: epoch (from 1) and estimate; what is null is left out."""
    values: dict[int, ByBackend] = {}
    for cell in document["cells"]:
        if cell["task"] == "accuracy" and cell["loss"] == loss:
            for epoch, value in enumerate(cell["details"].get(curve) or [], start=1):
                if value is not None:
                    values.setdefault(epoch, {}).setdefault(cell["backend"], {})[cell["seed"]] = value
    found = [(epoch, estimate(pool(by_backend).values())) for epoch, by_backend in sorted(values.items())]
    return [(epoch, entry) for epoch, entry in found if entry]


def missing(document: Document) -> list[str]:
    """What is not there, in words: tasks and settings, trainings, and numbers that were not finite.

    A training is expected of every loss, framework and seed of the document in every setting that it has.
    """
    result = []
    seeds = sorted({cell["seed"] for cell in document["cells"]})
    for task, setting in dict.fromkeys((measure.task, measure.setting) for measure in HEADLINES):
        there = {
            (cell["loss"], cell["backend"], cell["seed"]): cell
            for cell in document["cells"]
            if (cell["task"], cell["setting"]) == (task, setting)
        }
        name = f"{TASKS[task]}, {setting}"
        if not there:
            result.append(f"{name}: not run")
            continue
        gaps: dict[str, list[str]] = {}
        for loss in losses(document):
            gone = {
                backend: _ranges([seed for seed in seeds if (loss, backend, seed) not in there])
                for backend in backends(document)
            }
            if len(set(gone.values())) == 1:
                gone = {"all": gone[next(iter(gone))]}
            for backend, which in gone.items():
                if which:
                    where = "all frameworks" if backend == "all" else BACKENDS.get(backend, backend)
                    which = "every seed" if which == _ranges(seeds) else f"seed {which}"
                    gaps.setdefault(f"{where}, {which}", []).append(label(document, loss))
        result += [f"{name}: not run: {', '.join(names)} ({where})" for where, names in gaps.items()]
        nulls = [
            f"{label(document, loss)}, {BACKENDS.get(backend, backend)}, seed {seed}: {metric}"
            for (loss, backend, seed), cell in there.items()
            for metric, value in cell["metrics"].items()
            if value is None
        ]
        if nulls:
            more = f"; and {len(nulls) - 5} more" if len(nulls) > 5 else ""
            result.append(f"{name}: not a finite number, left out: {'; '.join(nulls[:5])}{more}")
    return result


def _only(values: ByBackend, backend: str | None) -> ByBackend:
    return values if backend is None else {name: found for name, found in values.items() if name == backend}


def _ranges(seeds: Sequence[int]) -> str:
    """``0, 3-5``."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and parts[-1][-1] == seed - 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
