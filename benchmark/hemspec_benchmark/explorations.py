"""What changes when one thing in the protocol does: learning rate, length, network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hemspec_benchmark.losses import LOSSES
from hemspec_benchmark.statistics import HEADLINES, Document, Estimate, Measure, estimate

AS_IN_THE_RUN: Final = "as in the run"
RECIPES: Final = {"accuracy": "classification", "continual": "continual", "segmentation": "segmentation"}
"""The part of the protocol that a task is trained by."""


@dataclass(frozen=True)
class Exploration:
    """One measure in one framework, over the values of what was changed."""

    measure: Measure
    """The first primary one of the setting."""
    dimension: str
    """What was changed: ``"learning rate"``, ``"epochs"`` or ``"network"``."""
    standard: str
    """The value that the run itself has."""
    estimates: Mapping[str, Mapping[str, Estimate]]
    """Loss by loss and value by value, over seeds."""

    @property
    def title(self) -> str:
        """The measure, in a sentence's beginning."""
        return f"{self.measure.label[0].upper()}{self.measure.label[1:]}"

    @property
    def values(self) -> list[str]:
        """From the smallest to the largest; the network of the run first."""
        found = {value for of_loss in self.estimates.values() for value in of_loss}
        return sorted(found, key=lambda value: (_number(value) or 0.0, value != AS_IN_THE_RUN, value))


def explorations(document: Document) -> list[Exploration]:
    """Those of the document, in its order.

    The variant ``"continual epochs 5"`` changes the epochs, to 5. One without a number changes the network; the run
    itself is put beside it.
    """
    groups: dict[tuple[str, str, str], dict[str, dict[str, list[float]]]] = {}

    def add(cell: Mapping[str, Any], measure: Measure, dimension: str, value: str) -> None:
        number = cell["metrics"].get(measure.metric)
        if number is not None:
            by_loss = groups.setdefault((measure.task, measure.setting, dimension), {})
            by_loss.setdefault(cell["loss"], {}).setdefault(value, []).append(number)

    networks = set()
    for cell in document.get("explorations", []):
        words = cell["variant"].removeprefix(f"{cell['task']} ")
        dimension, _, value = words.rpartition(" ")
        if _number(value) is None:
            dimension, value = "network", words
            networks.add((cell["task"], cell["setting"], cell["loss"], cell["backend"], cell["seed"]))
        add(cell, _measure(cell), dimension, value)
    for cell in document["cells"]:
        if (cell["task"], cell["setting"], cell["loss"], cell["backend"], cell["seed"]) in networks:
            add(cell, _measure(cell), "network", AS_IN_THE_RUN)

    found = []
    for (task, setting, dimension), by_loss in groups.items():
        recipe = document["protocol"][RECIPES[task]]
        standard = recipe.get(dimension.replace(" ", "_"))
        estimates = {
            loss: {value: made for value, sample in by_loss[loss].items() if (made := estimate(sample))}
            for loss in LOSSES
            if loss in by_loss
        }
        measure = _measure({"task": task, "setting": setting})
        found.append(Exploration(measure, dimension, AS_IN_THE_RUN if standard is None else f"{standard:g}", estimates))
    return found


def _measure(cell: Mapping[str, Any]) -> Measure:
    return next(m for m in HEADLINES if (m.task, m.setting) == (cell["task"], cell["setting"]))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
