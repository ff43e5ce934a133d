"""The run that benchmark/PROTOCOL.md fixes: who trains how, on which seeds, at rates that are chosen before.

A cell's variant says how it is trained: ``"sgd 0.1"``, ``"clipped 0.1"``, ``"adam 0.001"``; with ``"tuning "`` before
it, it is there to choose by, and measured on validation images; with ``"mnist "``, it replicates on other data. An arm
takes one of them for each loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import mean, stdev
from typing import Any, Final, Literal

from hemspec_benchmark.losses import COMPARED
from hemspec_benchmark.settings import DIGITS, TASKS, VARIANTS, Attack, Cell, Listed, OptimizerName, Protocol, SplitName
from hemspec_benchmark.tune import Part, simplest

Way = Literal["sgd", "clipped", "adam"]
Arm = Literal["paper", "best rate", "clipped", "adam"]

CLIP: Final = 1.0
MNIST_EPOCHS: Final = 5
"""About as many steps as on the digits, of which there are a third."""

SETTINGS: Final[dict[Part, tuple[tuple[str, str], ...]]] = {
    "classification": (
        *(("accuracy", "test"), ("rejection", "far"), ("robustness", "pgd"), ("rejection", "near")),
        *(("imbalance", name) for name in TASKS["imbalance"]),
    ),
    # Class-incremental without replay is left out: every loss sits at the share of the last classes there.
    "continual": tuple(("continual", name) for name in TASKS["continual"] if name != "class-naive"),
    "segmentation": (("segmentation", "scenes"),),
}
"""What shares a recipe; the first three of classification share a training."""

PRIMARY: Final = ("ce", "hem", "hem-mean")
SEEDS: Final = tuple(range(100, 130))
ARMS: Final[tuple[Arm, ...]] = ("paper", "best rate", "clipped", "adam")
LOSSES: Final = tuple("dice-batch" if name == "dice" else name for name in COMPARED)
"""Dice over single samples is no loss that its authors would use."""
LOGIT_NORMS: Final = ("logitnorm", "logitnorm-0.1", "logitnorm-0.2")
"""Its paper's temperature, 0.04, and two others, of which the arm "best rate" takes the best."""


@dataclass(frozen=True)
class Tuning:
    """How a rate is chosen."""

    measure: tuple[str, ...]
    """A task and a metric; the mean over the task's settings."""
    seeds: tuple[int, ...]
    rates: tuple[float, ...]
    also: tuple[tuple[str, str], ...] = ()
    """What is measured on the same trainings, to choose a score by."""


BY_SGD: Final[dict[Part, Tuning]] = {
    "classification": Tuning(
        ("accuracy", "clean"), (90, 91, 92, 93, 94), (0.003, 0.01, 0.03, 0.1, 0.3, 1.0), (("rejection", "far"),)
    ),
    "continual": Tuning(("continual", "average_accuracy"), (90, 91, 92, 93, 94), (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)),
    "segmentation": Tuning(("segmentation", "miou"), (90, 91), (0.03, 0.1, 0.3, 1.0)),
}
TUNINGS: Final[dict[OptimizerName, dict[Part, Tuning]]] = {
    "sgd": BY_SGD,
    "adam": {part: replace(tuning, rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2)) for part, tuning in BY_SGD.items()},
}

CONFIRMING: Final = replace(
    DIGITS,
    splits="by seed",
    segmentation=replace(DIGITS.segmentation, epochs=27),
    training_scenes=320,
    attack=Attack(images=540, steps_checked=()),
)
"""All that the run has in common; its rates are in the variants of its cells."""


TUNING: Final = "tuning "


def variant(way: Way, rate: float) -> str:
    """As a cell of the comparison has it."""
    return f"{way} {rate:g}"


def varied(protocol: Protocol, text: str) -> Protocol:
    """The protocol of a cell with this variant, here or in `settings.VARIANTS`; "" changes nothing."""
    if not text or text in VARIANTS:
        return VARIANTS[text](protocol) if text else protocol
    *data, way, rate = text.removeprefix(TUNING).split()
    changes: dict[str, Any] = {
        "learning_rate": float(rate),
        "optimizer": "adam" if way == "adam" else "sgd",
        "clip": CLIP if way == "clipped" else None,
    }
    recipes = {part: replace(getattr(protocol, part), **changes) for part in SETTINGS}
    evaluate_on: SplitName = "validation" if text.startswith(TUNING) else "test"
    if data:
        recipes["classification"] = replace(recipes["classification"], epochs=MNIST_EPOCHS)
    return replace(protocol, data=data[0] if data else protocol.data, evaluate_on=evaluate_on, **recipes)


Records = Mapping[Cell, Mapping[str, Any]]
"""What a store has."""

# What is run


def seeds_of(arm: Arm, part: Part, loss: str) -> tuple[int, ...]:
    """The table of section 4."""
    if arm in ("clipped", "adam"):
        return SEEDS[:15] if loss in PRIMARY else ()
    segmentation = part == "segmentation"
    if arm == "best rate":
        return SEEDS[:8] if segmentation else SEEDS[:15]
    return SEEDS[:8] if segmentation and loss not in (*PRIMARY, "hem-plus") else SEEDS


def tuning_cells(part: Part, losses: Sequence[str], optimizer: OptimizerName) -> list[Cell]:
    """Every rate with every loss."""
    tuning = TUNINGS[optimizer][part]
    task = tuning.measure[0]
    settings = [entry for entry in SETTINGS[part] if entry[0] == task]
    return [
        Cell(*setting, loss, "jax", seed, TUNING + variant(optimizer, rate))
        for loss in losses
        for rate in tuning.rates
        for seed in tuning.seeds
        for setting in (*settings, *tuning.also)
    ]


def choose(records: Records, part: Part, names: Sequence[str], optimizer: OptimizerName) -> tuple[str, float]:
    """A name of the loss and its rate, by the rule of `tune.simplest`; at one rate the first name."""
    tuning = TUNINGS[optimizer][part]
    task, metric = tuning.measure
    settings = [name for entry, name in SETTINGS[part] if entry == task]

    def reached(name: str, rate: float, seed: int) -> float:
        text = TUNING + variant(optimizer, rate)
        found = [records[Cell(task, setting, name, "jax", seed, text)]["metrics"][metric] for setting in settings]
        return mean(value or 0.0 for value in found)  # what has no number reached nothing

    points = {}
    for place, name in enumerate(names):
        for rate in tuning.rates:
            values = [reached(name, rate, seed) for seed in tuning.seeds]
            points[rate, place] = mean(values), stdev(values) / len(values) ** 0.5
    rate, place = simplest(points)
    return names[place], rate


def trained_as(records: Records, arm: Arm, part: Part, loss: str) -> tuple[str, str]:
    """In an arm: the name of the loss and the variant. The rate is cross-entropy's, in "best rate" the loss's own."""
    if arm == "best rate":
        name, rate = choose(records, part, LOGIT_NORMS if loss == "logitnorm" else (loss,), "sgd")
        return name, variant("sgd", rate)
    way: Way = "sgd" if arm == "paper" else arm
    _, rate = choose(records, part, ("ce",), "adam" if way == "adam" else "sgd")
    return loss, variant(way, rate)


def tuning() -> list[Cell]:
    """What chooses the rates."""
    losses = [*LOSSES, *LOGIT_NORMS[1:]]
    by_sgd = [cell for part in SETTINGS for cell in tuning_cells(part, losses, "sgd")]
    return by_sgd + [cell for part in SETTINGS for cell in tuning_cells(part, ["ce"], "adam")]


def compared(records: Records) -> list[Cell]:
    """Every arm at the chosen rates, arm by arm and seed by seed, and what chooses a score for unknowns in each."""
    cells = []
    for arm, part, loss in product(ARMS, SETTINGS, LOSSES):
        seeds = seeds_of(arm, part, loss)
        if not seeds:
            continue
        name, text = trained_as(records, arm, part, loss)
        cells += [Cell(*setting, name, "jax", seed, text) for seed in seeds for setting in SETTINGS[part]]
        if part == "classification":
            chooses = TUNINGS["sgd"][part].seeds
            cells += [Cell("rejection", "far", name, "jax", seed, TUNING + text) for seed in chooses]
    others = [*attacked(records), *segmentation_margins(records), *in_other_frameworks(records), *ON_MNIST]
    return [*dict.fromkeys(cells), *others]


def attacked(records: Records) -> list[Cell]:
    """The networks on which our attack is held against another."""
    return [
        Cell("robustness", "autoattack", name, "jax", seed, text)
        for seed in SEEDS[:5]
        for loss in PRIMARY
        for name, text in [trained_as(records, "paper", "classification", loss)]
    ]


def segmentation_margins(records: Records) -> list[Cell]:
    """What to count for the margin of segmentation: pixels is the arm "paper", these are images, and a margin of 1."""
    _, text = trained_as(records, "paper", "segmentation", "hem")
    return [
        Cell("segmentation", "scenes", loss, "jax", seed, text)
        for seed in SEEDS[:8]
        for loss in ("hem-images", "hem-margin-1")
    ]


def in_other_frameworks(records: Records) -> list[Cell]:
    """The arm "paper" once more, with two seeds: do the frameworks agree?"""
    return [
        Cell(*setting, name, backend, seed, text)
        for seed in SEEDS[:2]
        for part, loss in product(SETTINGS, LOSSES)
        for name, text in [trained_as(records, "paper", part, loss)]
        for setting in SETTINGS[part]
        for backend in ("torch", "keras")
    ]


ON_MNIST: Final = tuple(
    Cell(*setting, loss, "jax", seed, f"mnist {variant('sgd', rate)}")
    for rate in (0.03, 0.1, 0.3)
    for seed in SEEDS[:10]
    for loss in PRIMARY
    for setting in (("accuracy", "test"), ("rejection", "far"), ("rejection", "near"))
)
"""A replication on other images, at three rates that nobody chose; it decides nothing."""


def plans(records: Records, number: int = 1, of: int = 1) -> Iterator[Listed]:
    """First what chooses the rates, then the comparison at them; the second follows from the records of the first.

    With `of` parts, the `number`-th of each; the second plan needs what all parts of the first gave.
    """
    first = tuning()
    yield plan(first).part(number, of)
    if all(cell in records for cell in first):
        yield plan(compared(records)).part(number, of)


def plan(cells: Sequence[Cell]) -> Listed:
    """These of the six tasks."""
    return Listed(tuple(cells), CONFIRMING, ("jax", "torch", "keras"), "hemspec_benchmark.worker")
