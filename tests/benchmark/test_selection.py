"""Choosing a model: the rules, a followed training, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from hemspec_benchmark import cli, runner, store
from hemspec_benchmark.runner import Options
from hemspec_benchmark.settings import Cell
from hemspec_benchmark.store import Store, StoreError
from hemspec_benchmark.swap import selection_report
from hemspec_benchmark.swap.matrix import CHECKING_SEEDS, SEEDS, TUNING_SEEDS, Matrix
from hemspec_benchmark.swap.selection import (
    CHECKPOINT,
    LOSSES,
    MARGINS,
    PLATEAU,
    SEARCH,
    STOPPING,
    TRAININGS,
    Curves,
    Selection,
    SelectionPlan,
    best,
    described,
    read,
    selected,
    stopped,
)
from hemspec_benchmark.swap.selection import SEEDS as SELECTION_SEEDS

SGD, ADAMW = TRAININGS


# What is asked


def test_the_plan_is_what_the_protocol_says() -> None:
    cells = SelectionPlan().cells()
    assert len(cells) == len(set(cells)) == 10 * 2 * (3 + 5 + 3 * 3)
    assert not set(SELECTION_SEEDS) & {*SEEDS, *CHECKING_SEEDS, *TUNING_SEEDS}
    assert {read(cell.setting)[:2] for cell in cells} == set(TRAININGS.items())


def test_a_protocol_is_read_back() -> None:
    asked = Selection(epochs=3, matrix=Matrix(batch_size=32))
    assert Selection.from_json(asked.as_json()) == asked


# The rules


@pytest.mark.parametrize(
    ("values", "monitor", "taken"),
    [
        ([3.0, 1.0, 2.0, 1.0], "loss", 1),
        ([3.0, 1.0, 2.0, 1.0], "accuracy", 0),
        ([0.5, 0.7, 0.7], "accuracy", 1),
        ([None, float("nan"), 2.0, None], "mean", 2),
        ([None, None], "loss", 1),
    ],
)
def test_the_best_epoch_is_the_first_of_the_best(values: Any, monitor: str, taken: int) -> None:
    assert best(values, monitor) == taken


@pytest.mark.parametrize(
    ("values", "patience", "end"),
    [
        ([5, 4, 3, 2, 1], 2, 4),  # never worse: to the end
        ([5, 4, 4, 4, 1], 2, 3),  # two epochs without a better one
        ([5, 4, 6, 3, 9, 9, 0], 2, 5),  # one is not enough
        ([1, 2, 3], 5, 2),
    ],
)
def test_early_stopping_waits_for_its_patience(values: Any, patience: int, end: int) -> None:
    assert stopped(values, "loss", patience) == end
    assert stopped([-value for value in values], "accuracy", patience) == end


# What is made of it


@pytest.fixture(scope="module")
def complete() -> dict[str, Any]:
    """A document of the whole plan, with curves by chance."""
    rng = np.random.default_rng(0)
    protocol = Selection(epochs=12, patience=2)
    cells = [
        {
            "setting": cell.setting,
            "loss": cell.loss,
            "seed": cell.seed,
            "details": {name: rng.random(12).round(2).tolist() for name in ("loss", "mean", "accuracy", "test")},
        }
        for cell in SelectionPlan().cells()
    ]
    return {"data": "selection", "protocol": protocol.as_json(), "cells": cells}


def test_each_rule_is_recomputed(complete: dict[str, Any]) -> None:
    details = {(entry["setting"], entry["loss"], entry["seed"]): entry["details"] for entry in complete["cells"]}
    found = {(s.training, s.rule, s.monitor, s.loss): s.difference for s in selected(Curves(complete))}
    assert len(found) == 2 * (3 * 3 * 2 + 3)

    def mean(own: list[float], base: list[float]) -> Any:
        return pytest.approx(np.mean(np.subtract(own, base)))

    setting = f"{ADAMW} 0.003 "
    curves = {
        loss: [details[f"{setting}followed", loss, seed] for seed in SELECTION_SEEDS] for loss in (*LOSSES, *MARGINS)
    }
    by_loss = {loss: [one["test"][int(np.argmin(one["loss"]))] for one in curves[loss]] for loss in ("ce", "hem")}
    assert found[ADAMW, CHECKPOINT, "loss", "hem"].mean == mean(by_loss["hem"], by_loss["ce"])
    waited = {
        loss: [details[f"{setting}plateau-mean", loss, seed]["test"][-1] for seed in SELECTION_SEEDS]
        for loss in ("ce", "hem-mean")
    }
    assert found[ADAMW, PLATEAU, "mean", "hem-mean"].mean == mean(waited["hem-mean"], waited["ce"])
    searched = []
    for number in range(len(SELECTION_SEEDS)):
        ends = [curves[name][number]["accuracy"][-1] for name in MARGINS]
        searched.append(curves[list(MARGINS)[int(np.argmax(ends))]][number]["test"][-1])
    ended = [one["test"][-1] for one in curves["ce"]]
    assert found[ADAMW, SEARCH, "accuracy", "hem"].mean == mean(searched, ended)
    early = {loss: [one["test"][stopped(one["accuracy"], "accuracy", 2)] for one in curves[loss]] for loss in LOSSES}
    assert found[ADAMW, STOPPING, "accuracy", "hem"].mean == mean(early["hem"], early["ce"])


def test_the_report_has_a_row_for_each_rule_and_monitor(complete: dict[str, Any]) -> None:
    rows = selection_report.tables(complete)["selection"].splitlines()
    assert len(rows) == 2 + 4 * 3
    assert {len(row.split(" | ")) for row in rows} == {6}
    (figure,) = selection_report.figures(complete).values()
    assert len(figure.axes) == 4
    assert selection_report.figures(complete, names=["other"]) == {}


def test_nothing_is_said_of_a_part(complete: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match="2 of 340 trainings are missing; without them nothing is said of any"):
        Curves({**complete, "cells": complete["cells"][2:]})


# A training


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "run", Selection(epochs=4, patience=1, factor=0.0))) as opened:
        yield opened


def test_trainings_are_followed_and_a_rate_falls(kept: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flax")
    protocol = Selection(epochs=4, patience=1, factor=0.0)
    asked = [
        Cell("selection", f"{ADAMW} 0.003 followed", "hem-margin-3", "jax", 1),
        Cell("selection", f"{SGD} 10 plateau-accuracy", "ce", "jax", 1),
    ]
    plan = SelectionPlan(protocol)
    monkeypatch.setattr(SelectionPlan, "cells", lambda self: asked)
    runner.run(plan, kept, Options(processes=1))
    followed, waited = (kept.records[cell] for cell in asked)
    assert {len(curve) for curve in followed["details"].values()} == {4}
    assert followed["details"]["test"][-1] == pytest.approx(followed["metrics"]["score"])
    assert followed["details"]["accuracy"][-1] > 0.5, "it learns"
    assert all(a <= b + 1e-6 for a, b in zip(followed["details"]["mean"], followed["details"]["loss"], strict=True))
    # At a rate of 10 nothing is learned; without a better epoch the rate falls, here to 0, and all stands still.
    assert waited["details"]["test"][2] == waited["details"]["test"][3]
    document = store.document(protocol, kept, command="test", planned=asked, losses=described())
    assert list(document["losses"]) == ["ce", "hem-margin-3"]


def test_a_budget_is_no_failure(tmp_path: Path) -> None:
    result = CliRunner(env={"COLUMNS": "160"}).invoke(cli.app, ["select", "--budget", "0", "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "340 of 340 trainings are missing" in result.output
