"""The claims, on results whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from invented import invented_run
from typer.testing import CliRunner

from hemspec_benchmark import arms, claims_table, cli, store, unknowns
from hemspec_benchmark.arms import Arm
from hemspec_benchmark.composites import COMPOSITES, Results
from hemspec_benchmark.settings import Cell
from hemspec_benchmark.verdicts import FIRST, SECOND, decide, replaces


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return invented_run()


def words(verdicts: Any) -> list[str]:
    return [verdict.word for verdict in verdicts]


def test_a_composite_is_the_mean_of_its_groups(document: dict[str, Any]) -> None:
    results = Results(document)
    name, text = results.trained_as("paper", "classification", "hem")
    near = results.records[Cell("rejection", "near", name, "jax", 100, text)]["metrics"]
    far = results.records[Cell("rejection", "far", name, "jax", 100, text)]["metrics"]
    expected = (near["auroc/max_logit/digits"] + np.mean([far[f"auroc/max_logit/{kind}"] for kind in unknowns.FAR])) / 2
    assert results.by_seed("paper", COMPOSITES["rejection"], "hem")[100] == pytest.approx(expected)
    attacked = results.by_seed("paper", COMPOSITES["attack"], "hem")
    assert sorted(attacked) == list(range(100, 130))
    robust = results.records[Cell("robustness", "pgd", name, "jax", 100, text)]["metrics"]
    assert attacked[100] == pytest.approx(np.mean(list(robust.values())))


def test_each_loss_has_the_score_that_suits_it(document: dict[str, Any]) -> None:
    results = Results(document)
    for arm in "paper", "clipped":
        assert results.score(arm, "ce") == "max_softmax"
        assert results.score(arm, "hem") == "max_logit"


def test_the_first_family(document: dict[str, Any]) -> None:
    found = decide(Results(document), FIRST, "paper")
    assert words(found) == ["holds", "does not hold", "equivalent", "open", "holds", "holds"]
    rejection, _, _, continual, segmentation, _ = found
    # 4 points ahead by the largest logit, 1 by each loss's own score, behind by the largest softmax and by other steps.
    assert rejection.answer.decisive.mean == pytest.approx(0.01, abs=0.005)
    assert rejection.otherwise == {
        "largest logit": "holds",
        "largest softmax": "does not hold",
        "clipped": "does not hold",
        "adam": "does not hold",
    }
    assert continual.needed is not None
    assert continual.needed > 30
    assert segmentation.needed is None


def test_the_second_family(document: dict[str, Any]) -> None:
    found = decide(Results(document), SECOND, "best rate")
    assert words(found)[:6] == ["holds", "holds", "holds", "holds", "holds", "holds"]
    dice, rejects, continual, segments = found[6:]
    assert dice.word == "does not hold", "Dice withstands attacks better"
    assert (rejects.word, continual.word, segments.word) == ("open", "open", "holds")
    assert segments.answer.decisive.mean == pytest.approx(0.05, abs=0.01)


def test_to_replace_is_to_be_no_worse_anywhere(document: dict[str, Any]) -> None:
    word, found = replaces(Results(document))
    assert word == "does not hold"
    assert [name for name, answer in found.items() if answer.word == "does not hold"] == ["attack"]


def test_a_training_that_diverged_counts(document: dict[str, Any]) -> None:
    results = Results(document)
    name, text = results.trained_as("paper", "classification", "hem")
    before = results.by_seed("paper", COMPOSITES["rejection"], "hem", "max_logit")
    cell = Cell("rejection", "near", name, "jax", 104, text)
    diverged = Results(document)
    diverged.records[cell] = {"metrics": dict.fromkeys(results.records[cell]["metrics"])}
    after = diverged.by_seed("paper", COMPOSITES["rejection"], "hem", "max_logit")
    assert after.keys() == before.keys()
    assert after[104] < before[104]


def test_the_table_has_a_line_for_each_claim(document: dict[str, Any], tmp_path: Path) -> None:
    lines = claims_table.markdown(document).splitlines()
    assert len(lines) == 2 + len(FIRST) + len(SECOND) + 1
    assert {len(line.split(" | ")) for line in lines} == {7}
    attack = next(line for line in lines if "withstands attacks" in line)
    assert "| does not hold | −" in attack
    store.write(document, tmp_path / "r.json")
    result = CliRunner(env={"COLUMNS": "240"}).invoke(cli.app, ["claims", str(tmp_path / "r.json")])
    assert result.exit_code == 0, result.output
    printed = result.output.splitlines()
    assert len(printed) == len(FIRST) + len(SECOND) + 1
    (segments,) = [line for line in printed if "HEM is better at segmentation than cross-entropy" in line]
    assert segments.startswith("holds ")
    assert " 30 seeds" in segments
    (continual,) = [line for line in printed if "better at continual learning than cross" in line]
    assert "seeds would decide" in continual


def test_a_stronger_attack_counts_where_it_leaves_less(document: dict[str, Any]) -> None:
    weak, strong = Results(document), Results(document)
    for cell in arms.attacked(strong.records):
        if (cell.loss, cell.seed) == ("hem", 102):
            strong.records[cell] = {"metrics": {"pgd/0.05": 0.8, "autoattack/0.05": 0.76}}
    before, after = (one.by_seed("paper", COMPOSITES["attack"], "hem") for one in (weak, strong))
    assert len(before) == 30
    assert max(weak.left.values()) == pytest.approx(0.015)
    assert sorted(after) == [100, 101, 102, 103, 104]
    assert before[102] - after[102] == pytest.approx(0.04 / 4)
    assert before[103] - after[103] == pytest.approx(0.015 / 4)
    (line,) = [line for line in claims_table.rows(document) if "attacks" in line[0]]
    assert "AutoAttack leaves up to 1.5 points less than ours" in line[-1]


def test_nothing_is_decided_before_all_is_there(document: dict[str, Any]) -> None:
    part = {**document, "cells": document["cells"][:-2]}
    with pytest.raises(
        store.StoreError, match="2 cells of the run are missing; before all are there no claim is decided"
    ):
        claims_table.rows(part)
    none: dict[str, Any] = {**document, "explorations": []}
    assert Results(none).missing >= len(arms.tuning())


def test_the_arms_are_read_apart(document: dict[str, Any]) -> None:
    results = Results(document)
    sizes: dict[Arm, int] = {
        arm: len(results.difference(arm, COMPOSITES["imbalance"], "hem", "ce")) for arm in arms.ARMS
    }
    assert sizes == {"paper": 30, "best rate": 15, "clipped": 15, "adam": 15}
