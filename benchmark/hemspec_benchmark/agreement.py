"""Whether the frameworks agree: loss by loss in the first steps of a training, and in what comes out at the end.

Early, the same weights and batches must give the same losses up to rounding. At the end they need not: training
amplifies rounding, and the margin losses take discrete decisions. Then the frameworks must agree as experiments do:
their results are equivalent within a point on average, and none of them differs significantly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any, Final

import numpy as np

from hemspec_benchmark import batches
from hemspec_benchmark.inference import Answer, Paired, Question, answers
from hemspec_benchmark.learner import BACKENDS
from hemspec_benchmark.losses import LOSSES
from hemspec_benchmark.network import forward, initial_weights
from hemspec_benchmark.settings import Protocol
from hemspec_benchmark.statistics import (
    Difference,
    Document,
    Estimate,
    Measure,
    backends,
    correct,
    estimate,
    headlines,
    label,
    losses,
    means,
    pair,
    samples,
)
from hemspec_benchmark.training import ORDER, data_of

TOLERANCES: Final = (1e-5, 1e-4, 1e-4)
"""Largest relative difference between the losses of the first, second and third step.

Float32 has 6e-8; a network adds up rounding, and each update multiplies it. Measured: up to 5e-7 at the first step and
5e-6 at the third. A mistake in a loss, a gradient, a layer or an optimiser shows as 1e-3 or more. Later steps are shown
but not judged: training amplifies rounding, and the margin losses take discrete decisions.
"""

REFERENCE: Final = "NumPy"
EQUIVALENT: Final = Question("the frameworks' final results are alike", "alike", margin=0.01)


@dataclass(frozen=True)
class Comparison:
    """The loss of one step of one training, as each framework computed it; at the first step also the reference."""

    loss: str
    seed: int
    step: int
    values: Mapping[str, float]

    @property
    def difference(self) -> float:
        """Between the smallest and the largest, relative to the largest; infinite if any is not finite."""
        values = list(self.values.values())
        if not all(map(math.isfinite, values)):
            return math.inf
        scale = max(map(abs, values))
        return (max(values) - min(values)) / scale if scale > 0 else 0.0

    @property
    def tolerance(self) -> float | None:
        """What counts as rounding at this step; None where the step is not judged."""
        return TOLERANCES[self.step - 1] if self.step <= len(TOLERANCES) else None

    @property
    def agrees(self) -> bool:
        """Whether the difference is rounding, or not judged."""
        return self.tolerance is None or self.difference <= self.tolerance

    def __str__(self) -> str:
        values = ", ".join(f"{BACKENDS.get(name, name)} {value:.9g}" for name, value in self.values.items())
        name = LOSSES[self.loss].label if self.loss in LOSSES else self.loss
        tolerance = "" if self.tolerance is None else f", tolerance {self.tolerance:.0e}"
        return (
            f"{name}, seed {self.seed}, step {self.step}: {values}; "
            f"relative difference {self.difference:.1e}{tolerance}"
        )


@dataclass(frozen=True)
class Outcome:
    """One measure of one loss at the end of training, framework by framework."""

    measure: Measure
    loss: str
    estimates: Mapping[str, Estimate]
    differences: Mapping[tuple[str, str], Difference]
    """Between two frameworks, paired by seed and corrected over all outcomes."""

    @property
    def differs(self) -> bool:
        """Whether some paired difference is significant after the correction."""
        return any(entry.significant for entry in self.differences.values())


@dataclass(frozen=True)
class Single:
    """One final result of one training in two frameworks."""

    measure: Measure
    loss: str
    seed: int
    difference: float
    """The first framework's less the second's."""


@dataclass(frozen=True)
class Equivalence:
    """All final results of a framework less another's: every loss, measure and seed."""

    backend: str
    against: str
    singles: Sequence[Single]

    @cached_property
    def answer(self) -> Answer:
        """Whether they are alike, by two one-sided tests; see benchmark/PROTOCOL.md, section 8."""
        (found,) = answers([(EQUIVALENT, Paired(tuple(single.difference for single in self.singles)))])
        return found

    @property
    def largest(self) -> dict[str, Single]:
        """For each loss the training in which the two are furthest apart."""
        by_size = sorted(self.singles, key=lambda single: abs(single.difference))
        return {single.loss: single for single in by_size}

    def __str__(self) -> str:
        low, high = self.answer.decisive.interval
        verdict = f"equivalent within {100 * EQUIVALENT.margin:g} point"
        verdict = verdict if self.answer.word == "holds" else f"not shown to be {verdict}"
        ends = " to ".join(f"{100 * end:+.2f}".replace("-", "−") for end in (low, high))
        names = " less ".join(BACKENDS.get(name, name) for name in (self.backend, self.against))
        return f"{names} {ends} points on average, {verdict}"


@dataclass(frozen=True)
class Agreement:
    """All comparisons, and the verdict."""

    comparisons: Sequence[Comparison]
    outcomes: Sequence[Outcome]
    equivalences: Sequence[Equivalence] = ()

    @cached_property
    def judged(self) -> list[Comparison]:
        """The comparisons of the first steps."""
        return [entry for entry in self.comparisons if entry.tolerance is not None]

    @cached_property
    def failures(self) -> list[Comparison]:
        """First steps that differ by more than rounding."""
        return [entry for entry in self.judged if not entry.agrees]

    @cached_property
    def differing(self) -> list[Outcome]:
        """Outcomes of which two frameworks differ significantly."""
        return [outcome for outcome in self.outcomes if outcome.differs]

    @property
    def largest(self) -> float | None:
        """The largest relative difference of the first steps."""
        return max((entry.difference for entry in self.judged), default=None)

    @property
    def drift(self) -> tuple[int, dict[str, float]]:
        """The last step that was recorded, and each loss's largest difference there."""
        last = max((entry.step for entry in self.comparisons), default=0)
        found: dict[str, float] = {}
        for entry in self.comparisons:
            if entry.step == last:
                found[entry.loss] = max(found.get(entry.loss, 0.0), entry.difference)
        return last, found

    @property
    def checked(self) -> bool:
        """Whether there was anything to compare: more than one framework, or the reference."""
        return bool(self.judged or any(outcome.differences for outcome in self.outcomes))

    @property
    def agrees(self) -> bool:
        """No first step off by more than rounding, no significant difference at the end."""
        return not self.failures and not self.differing

    def summary(self) -> str:
        """For the terminal: the verdict, and the first steps that differ."""
        if not self.checked:
            return "The frameworks were not compared: there is nothing to compare."
        parts = [f"The frameworks {'agree' if self.agrees else 'disagree'}."]
        if self.judged:
            parts.append(
                f"First {len(TOLERANCES)} steps: {len(self.judged)} comparisons, {len(self.failures)} beyond rounding, "
                f"largest relative difference {self.largest:.1e}."
            )
        if self.equivalences:
            parts.append(
                f"Final results, all losses, measures and seeds: {'; '.join(map(str, self.equivalences))}. "
                f"{len(self.differing)} of {len(self.outcomes)} differ significantly."
            )
        return "\n".join([" ".join(parts), *(f"  {failure}" for failure in self.failures)])


def agreement(document: Document) -> Agreement:
    """Everything about the frameworks' agreement, from the document alone."""
    return Agreement(compare(document, reference_losses(document)), outcomes(document), equivalences(document))


def reference_losses(document: Document) -> dict[tuple[str, int], float]:
    """The first step's loss by loss and seed, from the NumPy network and the NumPy loss.

    Only for the digits, which are at hand, and losses that are ours; {} otherwise.
    """
    if document["data"] != "digits":
        return {}
    protocol = Protocol.from_json(document["protocol"])
    result = {}
    found = {(cell["loss"], cell["seed"]) for cell in _trainings(document) if cell["loss"] in LOSSES}
    for seed in sorted({seed for _, seed in found}):
        data = data_of(protocol, seed)
        size = protocol.classification.batch_size
        rng = np.random.default_rng((seed, ORDER))
        steps = batches.epoch(data.train_images, data.train_labels, size, rng, shift=data.shift, chunk=1)
        images, labels, _ = next(steps)
        weights = initial_weights(protocol.architecture, images.shape[2:], data.num_classes, seed)
        logits = forward(protocol.architecture, weights, images[0], training=True)
        for loss in sorted(loss for loss, at in found if at == seed):
            result[loss, seed] = float(LOSSES[loss].reference(data.class_counts)(logits, labels[0]))
    return result


def compare(document: Document, references: Mapping[tuple[str, int], float]) -> list[Comparison]:
    """Put the losses of the first epoch side by side, step by step. What is null in the document is not a number."""
    values: dict[tuple[str, int, int], dict[str, float]] = {
        (loss, seed, 1): {REFERENCE: value} for (loss, seed), value in references.items()
    }
    for cell in _trainings(document):
        for step, value in enumerate(cell["details"]["step_losses"], start=1):
            entry = values.setdefault((cell["loss"], cell["seed"], step), {})
            entry[cell["backend"]] = math.nan if value is None else value
    return [Comparison(*key, given) for key, given in values.items() if len(given) > 1]


def outcomes(document: Document) -> list[Outcome]:
    """The primary measures of each loss in each framework, and their paired differences, corrected over all of them."""
    found: list[Outcome] = []
    for measure in headlines(document):
        by_loss = samples(document, measure)
        by_backend = {backend: means(document, measure, backend) for backend in backends(document)}
        for loss in losses(document):
            estimates = {backend: entry[loss] for backend, entry in by_backend.items() if loss in entry}
            differences = {}
            for first, second in combinations(estimates, 2):
                paired = estimate(pair({"": by_loss[loss][first]}, {"": by_loss[loss][second]}).values())
                if paired:
                    differences[first, second] = Difference(measure, loss, loss, paired)
            if estimates:
                found.append(Outcome(measure, loss, estimates, differences))
    corrected = iter(correct([entry for outcome in found for entry in outcome.differences.values()]))
    return [
        replace(outcome, differences={names: next(corrected) for names in outcome.differences}) for outcome in found
    ]


def equivalences(document: Document) -> list[Equivalence]:
    """Each framework against JAX, or against the first if that is not there; only where more than one result is."""
    names = backends(document)
    against = "jax" if "jax" in names else names[0] if names else ""
    found: dict[str, list[Single]] = {name: [] for name in names if name != against}
    for measure in headlines(document):
        for loss, values in samples(document, measure).items():
            for backend, singles in found.items():
                both = pair({"": values.get(backend, {})}, {"": values.get(against, {})})
                singles += [Single(measure, loss, seed, value) for seed, value in both.items()]
    return [Equivalence(name, against, singles) for name, singles in found.items() if len(singles) > 1]


def describe(document: Document, outcome: Outcome) -> str:
    """One line about an outcome that differs."""
    parts = [f"{BACKENDS.get(name, name)} {100 * found.mean:.2f}" for name, found in outcome.estimates.items()]
    tests = [entry.corrected for entry in outcome.differences.values() if entry.corrected is not None]
    return (
        f"{label(document, outcome.loss)}, {outcome.measure.label}: {', '.join(parts)} (corrected p {min(tests):.2g})"
    )


def _trainings(document: Document) -> list[Mapping[str, Any]]:
    return [cell for cell in document["cells"] if cell["task"] == "accuracy" and cell["details"].get("step_losses")]
