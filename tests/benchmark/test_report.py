"""The page needs nothing but the document, shows all of it, and says what is not there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from hemspec_benchmark import findings, report, style, training_plots
from hemspec_benchmark.corruptions import CORRUPTIONS
from hemspec_benchmark.explorations import explorations
from hemspec_benchmark.statistics import HEADLINES, TASKS, Estimate

Document = dict[str, Any]
Make = Callable[..., Document]


@pytest.fixture(scope="module")
def small(make: Make) -> Document:
    """Do not change it."""
    return make(seeds=3, losses=["ce", "hem", "hem-mean", "logitnorm"], backends=["torch", "jax"])


@pytest.fixture(scope="module")
def page(small: Document) -> str:
    return report.page(small)


def only(document: Document, *tasks: str) -> Document:
    """A part of a result, without explorations and corruptions, for pages that are made faster."""
    rest = {key: value for key, value in document.items() if key != "explorations"}
    return {
        **rest,
        "cells": [
            {
                **cell,
                "metrics": {n: v for n, v in cell["metrics"].items() if not n.startswith(tuple(CORRUPTIONS))},
            }
            for cell in document["cells"]
            if cell["task"] in tasks
        ],
    }


def test_the_page_is_self_contained(page: str) -> None:
    references = re.findall(r"""(?:src|href|srcset|data)\s*=\s*["']([^"']*)""", page)
    references += re.findall(r"""url\(\s*["']?([^"')]*)""", page)
    assert [target for target in references if not target.startswith(("#", "data:"))] == []
    assert "@import" not in page
    assert "<script" not in page
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)


def test_the_page_knows_phones_and_the_dark(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert style.INK not in page
    assert "currentColor" in page


def test_every_link_and_id_is_there_once(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)


def test_the_page_has_every_section(small: Document, page: str) -> None:
    for title in TASKS.values():
        assert f">{title}</h2>" in page
    for part in ("Which claims hold here", "How training differs", "Explorations", "Protocol and limits"):
        assert part in page
    assert "The frameworks agree." in page
    assert "Not everything is here" not in page
    assert "synthetic: nothing here was measured" in page
    assert "masked gradients" in page
    for measure in HEADLINES:  # one plot in its task, one of the frameworks' agreement
        assert page.count(f'aria-label="{measure.label[0].upper()}{measure.label[1:]}"') == 2
    assert page.count("<svg") > 2 * len(HEADLINES) + 20


def test_a_disagreement_is_on_top_of_the_page(small: Document) -> None:
    document = only(small, "accuracy")
    document["cells"] = [{**cell, "details": dict(cell["details"])} for cell in document["cells"]]
    broken = next(c for c in document["cells"] if c["loss"] == "hem" and c["backend"] == "jax")
    broken["details"]["step_losses"] = [2 * broken["details"]["step_losses"][0], None, *[0.5] * 17]
    page = report.page(document)
    assert "The frameworks disagree." in page
    assert "The frameworks agree." not in page
    assert "HEM, seed 0, step 1" in page


def test_what_is_missing_is_on_the_page(small: Document) -> None:
    page = report.page(only(small, "imbalance"))
    assert "Not everything is here" in page
    assert "Semantic segmentation, scenes: not run" in page
    assert page.count("This task was not run.") == 5
    assert "? not measured" in page


@pytest.mark.parametrize("losses", [["hem"], ["ce"], ["ce", "dice"]])
def test_one_seed_of_few_losses_is_a_page_too(make: Make, losses: list[str]) -> None:
    document = make(seeds=1, losses=losses, backends=["keras"], extras=False)
    page = report.page(only(document, "accuracy", "rejection", "segmentation"))
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)
    assert ("Cross-entropy was not run" in page) == ("ce" not in losses)
    assert report.tables(document)


def test_an_empty_result_is_a_page_too(small: Document) -> None:
    page = report.page(only(small))
    assert "<svg" not in page
    assert page.count("This task was not run.") == len(TASKS)


def test_a_training_that_diverged_is_a_page_too(small: Document) -> None:
    document = only(small, "accuracy")
    document["cells"] = [
        {
            **cell,
            "metrics": dict.fromkeys(cell["metrics"], None),
            "details": {key: [None] * len(value) if value else value for key, value in cell["details"].items()},
        }
        if cell["loss"] == "hem"
        else cell
        for cell in document["cells"]
    ]
    for cell in document["cells"]:
        cell["details"].pop("samples", None)
    page = report.page(document)
    assert "not a finite number" in page
    assert "The frameworks disagree." in page


def test_other_data_has_no_pictures(small: Document) -> None:
    document = only(small, "segmentation") | {"data": "cifar10"}
    assert not {"predictions", "masks"} & set(report.figures(document))
    assert "on cifar10" in report.page(document)


def test_the_markdown_tables(small: Document) -> None:
    text = "\n\n".join(report.tables(small).values())
    lines = text.splitlines()
    assert lines[0].count("|") == 2 + len(small["losses"])
    assert all(any(line.startswith(f"| {measure.label} |") for line in lines) for measure in HEADLINES)
    assert "| HEM is better at continual learning than cross-entropy |" in text
    assert "nan" not in text


@pytest.mark.parametrize("task", TASKS)
def test_the_terminal_tables(small: Document, task: str) -> None:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(report.table(small, task))
    text = capture.get()
    for part in ("LogitNorm", "±", "interval"):
        assert part in text


def test_pngs(small: Document, tmp_path: Path) -> None:
    written = style.write_pngs(report.figures(only(small, "segmentation")), tmp_path / "new")
    assert {path.name for path in written} >= {"overview.png", "miou.png", "masks.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_masked_gradients_are_noticed(small: Document) -> None:
    fine = findings.masking(small)
    assert fine is not None
    assert not fine.suspicious
    document = only(small, "robustness")
    document["cells"] = [
        {**cell, "metrics": {**cell["metrics"], "steps/100": 0.9} if cell["loss"] == "hem" else cell["metrics"]}
        for cell in document["cells"]
    ]
    found = findings.masking(document)
    assert found is not None
    assert found.suspicious
    assert any("More steps" in sentence and "HEM" in sentence for sentence in found.sentences)
    assert findings.masking(only(small, "accuracy")) is None


def test_explorations_are_grouped_by_what_changes(small: Document) -> None:
    found = {(e.measure.name, e.dimension): e for e in explorations(small)}
    assert {dimension for _, dimension in found} == {"learning rate", "epochs", "network"}
    assert found["clean", "network"].values == ["as in the run", "without batch norm"]
    rates = found["class-naive", "learning rate"]
    assert rates.values == ["0.01", "0.1", "1"]
    assert (rates.standard, rates.title) == ("0.01", "Class-incremental, naive")
    cells = [
        cell["metrics"]["average_accuracy"]
        for cell in small["explorations"]
        if (cell["setting"], cell["variant"], cell["loss"]) == ("class-naive", "continual learning rate 1", "hem")
    ]
    assert len(cells) == 3
    assert rates.estimates["hem"]["1"].mean == pytest.approx(np.mean(cells))


def test_what_was_explored_is_said_in_numbers(small: Document) -> None:
    (found,) = (e for e in explorations(small) if (e.measure.name, e.dimension) == ("clean", "learning rate"))
    best = found.estimates["hem"]
    at = max(best, key=lambda value: best[value].mean)
    sentences = findings.explored(small)
    (rates,) = (s for s in sentences if s.startswith("Clean accuracy, each loss at the best of 5 learning rates"))
    assert f"HEM {findings.plus_minus(best[at])} (at {at})" in rates
    assert "The run has 0.1, chosen for cross-entropy." in rates
    (epochs,) = (s for s in sentences if s.startswith("Clean accuracy, with 45 epochs"))
    assert "the gain over the run's 15" in epochs
    assert findings.explored({**small, "explorations": []}) == []


def test_a_figure_is_the_same_every_time() -> None:
    def figure() -> Figure:
        made = Figure()
        made.add_subplot().plot([0, 1])
        return made

    first, second = (style.svg(figure(), "name", "a description") for _ in range(2))
    assert first == second
    assert 'aria-label="a description"' in first


def test_a_loss_that_is_zero_throughout_can_be_drawn(small: Document) -> None:
    document = only(small, "accuracy")
    document["cells"] = [
        {**cell, "details": {"train_loss": [0.0] * 3, "gradient_norm": [1e24, 0.0, 0.0]}} for cell in document["cells"]
    ]
    for curve in "train_loss", "gradient_norm":
        figure = training_plots.dynamics(document, curve, ["ce", "hem"])
        assert figure is not None
        assert "<svg" in style.svg(figure, curve, curve)


def test_numbers_as_they_are_written() -> None:
    assert findings.plus_minus(Estimate(0.985, 0.983, 0.987, 0.0, 5)) == "98.5 ± 0.2"
    assert findings.plus_minus(Estimate(0.985, 0.9847, 0.9853, 0.0, 5)) == "98.50 ± 0.03"
    assert findings.plus_minus(Estimate(0.985, None, None, None, 1)) == "98.5"
    assert findings.gap(Estimate(-0.01, -0.03, 0.01, 0.2, 5)) == "−1.0 ± 2.0"
    assert findings.gap_range(Estimate(-0.01, -0.03, 0.01, 0.2, 5)) == "−1.0 [−3.0, +1.0]"
    assert [findings.p_value(p) for p in (None, 0.0001, 0.013, 0.4)] == ["–", "< 0.001", "0.013", "0.40"]
