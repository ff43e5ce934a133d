"""What people read: the page with the plots, the README's tables and the terminal's, all from the document alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from rich.table import Table

from hemspec_benchmark import agreement_plots, claims, findings, pictures, plots, statistics, style, training_plots
from hemspec_benchmark.agreement import TOLERANCES, Agreement, agreement, describe
from hemspec_benchmark.corruptions import CORRUPTIONS
from hemspec_benchmark.explorations import explorations
from hemspec_benchmark.findings import gap, gap_range, p_value, plus_minus, signed
from hemspec_benchmark.learner import BACKENDS
from hemspec_benchmark.statistics import (
    TASKS,
    Difference,
    Document,
    Estimate,
    Measure,
    backends,
    difference,
    family,
    headlines,
    label,
    losses,
    means,
    measures,
)

FOLLOWED: Final = ("ce", "hem", "hem-mean", "mm")
"""The losses whose trainings are shown by epoch."""
SHOWN: Final = ("ce", "hem", "hem-mean")
"""The losses whose pictures and matrices are shown."""
LARGE: Final = 0.05
"""A difference between HEM and cross-entropy that the README explains, as far as it was explored."""

UNITS: Final = {
    "noise": "standard deviation of the noise, grey values in [0, 1]",
    "blur": "standard deviation of the blur, pixels",
    "contrast": "contrast that is left",
    "shift": "shift, pixels",
}


def page(document: Document) -> str:
    """The report: one HTML file that needs nothing else."""
    checked = agreement(document)
    tests = family(document)
    made = figures(document, checked)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"signed": signed, "p_value": p_value, "plus_minus": plus_minus, "plain": plain}
    environment.filters |= {"gap": gap, "gap_range": gap_range}
    template = environment.from_string((files("hemspec_benchmark") / "report.html.jinja").read_text(encoding="utf-8"))

    def plot(name: str) -> Markup:
        """A figure as SVG, or nothing where it could not be made."""
        if name not in made:
            return Markup("")
        return Markup(style.svg(made[name], name, str(escape(title(made[name])))))

    return template.render(
        document=document,
        agreement=checked,
        tolerances=TOLERANCES,
        describe=lambda outcome: describe(document, outcome),
        verdicts=claims.verdicts(document),
        rule=claims.RULE,
        label=lambda loss: label(document, loss),
        losses=losses(document),
        backends={name: BACKENDS.get(name, name) for name in backends(document)},
        seeds=sorted({cell["seed"] for cell in document["cells"]}),
        devices=sorted({str(cell.get("device")) for cell in document["cells"]}),
        hours=sum(cell.get("seconds") or 0.0 for cell in document["cells"]) / 3600,
        tasks=TASKS,
        headlines={task: headlines(document, task) for task in TASKS},
        tables={task: full_table(document, task) for task in TASKS},
        by_framework={task: framework_table(document, task) for task in TASKS},
        standing=findings.standing(document, tests),
        masking=findings.masking(document),
        training=findings.training(document, [name for name in FOLLOWED if name in losses(document)]),
        explored=findings.explored(document),
        missing=[text for text in (findings.reference_missing(document), *statistics.missing(document)) if text],
        unfinished=document.get("missing") or 0,
        segmentation=next((cell["details"] for cell in document["cells"] if cell["task"] == "segmentation"), None),
        names=list(made),
        plot=plot,
        family=tests,
    )


def figures(
    document: Document, checked: Agreement | None = None, names: Collection[str] | None = None
) -> dict[str, Figure]:
    """All figures by name, or those named, in the order of the page; those without data are left out."""
    chosen = {name: draw for name, draw in drawings(document, checked).items() if names is None or name in names}
    return {name: figure for name, draw in chosen.items() if (figure := draw()) is not None}


def drawings(document: Document, checked: Agreement | None = None) -> dict[str, Callable[[], Figure | None]]:
    """What draws each figure, by name; None where there turns out to be no data."""
    checked = checked or agreement(document)
    tests = family(document)
    shown = [name for name in SHOWN if name in losses(document)]
    made: dict[str, Callable[[], Figure | None]] = {}
    if tests:
        made["overview"] = partial(plots.overview, document, tests)
    for measure in headlines(document):
        made[measure.name] = partial(plots.forest, document, measure, tests)
    present = {measure.metric.split("/")[0] for measure in measures(document, "accuracy")}
    for kind in CORRUPTIONS:
        if kind in present:
            made[f"corruption-{kind}"] = partial(plots.corruption_curves, document, kind, UNITS[kind])
    attacks = {measure.metric.split("/")[0] for measure in measures(document, "robustness")}
    for attack, name in {"pgd": "PGD: many steps", "fgsm": "FGSM: a single step"}.items():
        if attack in attacks:
            made[f"attack-{attack}"] = partial(plots.attack_curves, document, attack, name)
    for scenario in ("class", "task", "domain"):
        made[f"matrices-{scenario}"] = partial(plots.matrices, document, scenario, shown)
    followed = [name for name in FOLLOWED if name in losses(document)]
    for curve in training_plots.DYNAMICS:
        made[f"training-{curve}"] = partial(training_plots.dynamics, document, curve, followed)
    if pictures.available(document):
        made["predictions"] = partial(pictures.predictions, document, shown[:2])
        for name in shown[:2]:
            made[f"rejected-{name}"] = partial(pictures.rejected, document, name)
        made["masks"] = partial(pictures.masks, document, shown)
    for found in explorations(document):
        made[training_plots.exploration_name(found)] = partial(training_plots.exploration, document, found)
    made["agreement-steps"] = partial(agreement_plots.trajectory, document, checked.comparisons)
    made["agreement-between"] = partial(agreement_plots.between, document, checked)
    for measure in headlines(document):
        made[f"agreement-{measure.name}"] = partial(agreement_plots.final, document, checked, measure.name)
    return made


def tables(document: Document) -> dict[str, str]:
    """What the README shows, in Markdown: ``measures``, the primary ones, ``claims`` and ``findings``."""
    tests = family(document)
    names = losses(document)
    lines = [
        f"| % (± half of the 95 % interval) | {' | '.join(label(document, loss) for loss in names)} |",
        "|---|" + "---|" * len(names),
    ]
    for measure in headlines(document):
        values = means(document, measure)
        cells = [
            plus_minus(values[loss]) + arrow(tests.get((measure.name, loss))) if loss in values else "–"
            for loss in names
        ]
        lines.append(f"| {measure.label} | {' | '.join(cells)} |")
    made = {"measures": "\n".join(lines)}
    verdicts = [row for row in claims.verdicts(document) if row]
    if verdicts:
        variants = list(verdicts[0])
        lines = [
            f"| claim of the abstract | {' | '.join(label(document, name) for name in variants)} |",
            "|---|" + "---|" * len(variants),
        ]
        for row in verdicts:
            cells = [f"**{verdict.text}**{evidence(verdict)}" for verdict in row.values()]
            lines.append(f"| {next(iter(row.values())).claim.text} | {' | '.join(cells)} |")
        made["claims"] = "\n".join(lines)
    masking = findings.masking(document)
    followed = [name for name in FOLLOWED if name in losses(document)]
    large = [name for (name, loss), entry in tests.items() if loss == "hem" and abs(entry.estimate.mean) >= LARGE]
    sentences = [
        *findings.standing(document, tests),
        *findings.training(document, followed),
        *(masking.sentences if masking else []),
        *findings.explored(document, large),
        agreement(document).summary(),
    ]
    made["findings"] = "\n".join(f"- {sentence}" for sentence in sentences)
    return made


def table(document: Document, task: str) -> Table:
    """A task's primary measures for the terminal."""
    tests = family(document)
    found = headlines(document, task)
    result = Table(title=TASKS[task], caption=CAPTION)
    result.add_column("Loss")
    for measure in found:
        result.add_column(measure.label, justify="right")
    values = {measure.name: means(document, measure) for measure in found}
    for loss in losses(document):
        cells = [
            plus_minus(values[measure.name][loss]) + (arrow(tests.get((measure.name, loss))) or "  ")
            if loss in values[measure.name]
            else "–"
            for measure in found
        ]
        if any(cell != "–" for cell in cells):
            result.add_row(label(document, loss), *cells)
    return result


CAPTION: Final = "%, ± half of the 95 % interval over seeds; ▲ ▼ significantly better or worse than CE (Holm)"


def full_table(document: Document, task: str) -> list[dict[str, Any]]:
    """Every metric of a task by loss, frameworks pooled: mean, and difference to cross-entropy, not corrected."""
    return [
        {
            "label": f"{measure.setting}: {measure.metric}" if measure.setting != "test" else measure.metric,
            "cells": _row(document, measure),
        }
        for measure in measures(document, task)
    ]


def framework_table(document: Document, task: str) -> list[dict[str, Any]]:
    """The primary measures of a task by loss, framework by framework."""
    return [
        {"label": f"{measure.label}, {BACKENDS.get(backend, backend)}", "cells": _row(document, measure, backend)}
        for measure in headlines(document, task)
        for backend in backends(document)
    ]


def _row(
    document: Document, measure: Measure, backend: str | None = None
) -> list[tuple[Estimate | None, Difference | None]]:
    values = means(document, measure, backend)
    return [
        (
            values.get(loss),
            None if loss == statistics.REFERENCE else difference(document, measure, loss, backend=backend),
        )
        for loss in losses(document)
    ]


def arrow(found: Difference | None) -> str:
    """Whether a difference is significant, and which way."""
    return "" if found is None else {1: " ▲", -1: " ▼", 0: ""}[found.direction]


def evidence(verdict: claims.Verdict) -> str:
    """The difference where one measure decides, the votes where several do."""
    if len(verdict.claim.measures) > 1:
        votes = f"{verdict.votes_for} of {len(verdict.claim.measures)} for, {verdict.votes_against} against"
        return f" ({votes})" if verdict.evidence else ""
    if not verdict.evidence:
        return ""
    return f" ({gap(verdict.evidence[0].difference.estimate)})"


def title(figure: Figure) -> str:
    """What a figure is called, for those who cannot see it."""
    return figure.get_suptitle()


def plain(value: Any) -> str:
    """A setting as people write it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(entry) for entry in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{str(key).replace('_', ' ')} {plain(entry)}" for key, entry in value.items())
    return str(value)
