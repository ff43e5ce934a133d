"""What people read of the replications, here and on a GPU: each measure of CE, and how far the others are from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import numpy as np
from rich.console import Group
from rich.table import Table

from hemspec_benchmark import unknowns
from hemspec_benchmark.arms import PRIMARY
from hemspec_benchmark.findings import gap, plus_minus
from hemspec_benchmark.losses import LOSSES
from hemspec_benchmark.readme import table as markdown
from hemspec_benchmark.statistics import estimate
from hemspec_benchmark.store import Document
from hemspec_benchmark.swap.matrix import read_setting
from hemspec_benchmark.swap.words import words

TASKS: Final = ("replication", "gpu")
OTHERS: Final = PRIMARY[1:]
HEAD: Final = ("trained on", "measure", "seeds", "CE, %", *(f"{LOSSES[name].label}, less CE" for name in OTHERS))

Metrics = Mapping[str, float | None]


def told(score: str, *kinds: str) -> Any:
    """The mean AUROC over kinds of unknowns; a training without finite logits ranks nothing."""

    def read(metrics: Metrics) -> float | None:
        names = [name for kind in kinds if (name := f"auroc/{score}/{kind}") in metrics]
        found = [0.5 if (value := metrics[name]) is None else value for name in names]
        return float(np.mean(found)) if found else None

    return read


MEASURES: Final = {
    "accuracy": lambda metrics: metrics.get("clean"),
    "balanced accuracy, 1 : 50": lambda metrics: metrics.get("balanced_accuracy"),
    "accuracy on corrupted images": lambda metrics: metrics.get("corrupted"),
    "near unknowns, largest logit": told("max_logit", "near", "classes"),
    "near unknowns, softmax": told("max_softmax", "near", "classes"),
    "far unknowns, largest logit": told("max_logit", *unknowns.FAR),
    "far unknowns, softmax": told("max_softmax", *unknowns.FAR),
}


def rows(document: Document) -> Iterator[tuple[str, ...]]:
    """Setting by setting and measure by measure, over the seeds that CE and the other have."""
    found: dict[str, dict[str, dict[int, Metrics]]] = {}
    for entry in document["explorations"]:
        if setting := replicated(entry):
            by_seed = found.setdefault(setting, {}).setdefault(entry["loss"], {})
            by_seed[entry["seed"]] = {**by_seed.get(entry["seed"], {}), **entry["metrics"]}
    for setting, by_loss in sorted(found.items(), key=lambda one: rank(one[0])):
        base = by_loss.get("ce", {})
        for name, read in MEASURES.items():
            reached = [value for metrics in base.values() if (value := read(metrics)) is not None]
            if reached:
                gaps = [less(by_loss.get(loss, {}), base, read) for loss in OTHERS]
                yield named(setting), name, str(len(reached)), plus_minus(estimate(reached)), *gaps


def replicated(entry: Mapping[str, Any]) -> str | None:
    """The setting that a cell replicates, if it does."""
    if entry["task"] in TASKS:
        return str(entry["setting"])
    data, *_, rate = entry["variant"].split()
    # The tasks of the run on other images: its own network and optimizer.
    return f"{data} small momentum cosine free {rate}" if data == "mnist" else None


def less(own: Mapping[int, Metrics], base: Mapping[int, Metrics], read: Any) -> str:
    """A paired difference, in points."""
    return gap(estimate(read(own[seed]) - read(base[seed]) for seed in sorted(own.keys() & base.keys())))


def rank(setting: str) -> tuple[str, float]:
    """By training, then by rate."""
    training, _, rate = setting.rpartition(" ")
    return training, float(rate)


def named(setting: str) -> str:
    """A setting in words."""
    training, rate = read_setting(" ".join(setting.split()[-6:]))
    gone_on = ", after MNIST" if setting.startswith("fine-tuning") else ""
    return f"{words(training, 'data', 'network', 'optimizer')}{gone_on}, rate {rate:g}"


def table(document: Document) -> Group:
    """For the terminal, a table for each setting."""
    made = []
    for setting, found in groupby(rows(document), key=itemgetter(0)):
        one = Table(title=setting, title_justify="left")
        for column in HEAD[1:]:
            one.add_column(column, justify="left" if column == "measure" else "right")
        for row in found:
            one.add_row(*row[1:])
        made.append(one)
    return Group("Points, ± half of the 95 % interval over seeds", *made)


def tables(document: Document) -> dict[str, str]:
    """In Markdown, by name."""
    return {"replications": markdown(HEAD, rows(document))}
