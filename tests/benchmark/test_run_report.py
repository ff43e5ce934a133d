"""The tables of the run, made from results whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from invented import invented_run

from hemspec_benchmark import run_report
from hemspec_benchmark.arms import LOSSES
from hemspec_benchmark.composites import COMPOSITES, Results
from hemspec_benchmark.store import StoreError

Rows = dict[str, list[str]]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return invented_run()


@pytest.fixture(scope="module")
def tables(document: dict[str, Any]) -> dict[str, Rows]:
    """By name; the cells of each row by the first of them."""
    return {name: read(text) for name, text in run_report.tables(document).items()}


def read(text: str) -> Rows:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert len({len(line) for line in lines}) == 1, "every row has a cell for each column"
    return {line[0]: line[1:] for line in lines[2:]}


def test_every_loss_is_beside_cross_entropy(document: dict[str, Any], tables: dict[str, Rows]) -> None:
    rows = tables["composites"]
    assert list(rows) == [composite.label for composite in COMPOSITES.values()]
    results = Results(document)
    hem, ce = (results.by_seed("paper", COMPOSITES["imbalance"], loss) for loss in ("hem", "ce"))
    expected = 100 * np.mean([hem[seed] - ce[seed] for seed in hem])
    shown = rows[COMPOSITES["imbalance"].label][LOSSES.index("hem")]
    assert float(shown.split()[0].replace("−", "-")) == pytest.approx(expected, abs=0.06)


def test_parts_are_tested_where_their_composite_is_decided(tables: dict[str, Rows]) -> None:
    parts = tables["parts"]
    assert parts["1 : 50"][2] == "not tested", "imbalance is equivalent"
    assert parts["near: held-out digits"][2] != "not tested", "rejection holds"
    assert parts["task-incremental, naive"][2] == "not tested", "continual learning is open"
    assert {"far: noise", "far: phases", "attack of size 0.15", "domain-incremental, with replay"} < set(parts)


def test_what_stands_beside(tables: dict[str, Rows]) -> None:
    assert tables["scores"]["CE"][0] == "softmax"
    assert tables["scores"]["HEM"][0] == "largest logit"
    assert tables["beside"]["HEM"][1:] == [
        *("2.00 ± 0.00", "1.00 ± 0.00", "0.0900", "0.0800", "1.00 ± 0.00", "–", "0.0500")
    ]
    assert tables["attack"]["HEM"][3:] == ["1.5", "5"]
    assert tables["attack"]["CE"][3] == "0.0"
    assert tables["rates"]["CE"] == ["0.1", "0.1", "0.1"]
    assert tables["rates"]["CE, Adam"] == ["0.001", "0.001", "0.001"]
    assert list(tables["margins"]) == ["from labelled pixels", "from images", "1"]
    replicated = set(tables["replications"])
    assert "segments, MLP, Adam, rate 0.003" in replicated
    assert "MNIST, the run's CNN, SGD with momentum, rate 0.3" in replicated
    assert "digits, CNN, SGD with momentum, after MNIST, rate 0.01" in replicated


def test_a_run_that_is_not_whole_has_no_tables(document: dict[str, Any]) -> None:
    cut = {**document, "cells": document["cells"][1:]}
    with pytest.raises(StoreError, match="1 cells of the run are missing"):
        run_report.tables(cut)
