"""The replication for a GPU, in small on a CPU."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from hemspec_benchmark import runner, store, unknowns
from hemspec_benchmark.arms import CONFIRMING
from hemspec_benchmark.gpu import plan
from hemspec_benchmark.runner import Options
from hemspec_benchmark.settings import Cell, is_compared
from hemspec_benchmark.swap import replication_report
from hemspec_benchmark.swap.matrix import Matrix, read_setting


def test_what_is_trained() -> None:
    cells = plan.plan().cells()
    assert Counter(cell.backend for cell in cells) == {"torch": 2 * 3 * 3 * 5, "jax": 3 * 3 * 100}
    assert not any(is_compared(cell.variant) for cell in cells), "it stands beside the comparison"
    assert plan.plan().protocol == CONFIRMING, "so that it can be merged with the run"
    trial = plan.plan(plan.TRIAL).cells()
    assert len(trial) == 3 * 3


def test_seeds_of_a_block_go_to_one_process() -> None:
    """Or each process would train the whole block."""
    planned = plan.plan()
    blocks = {planned.shared(cell) for cell in planned.cells() if cell.backend == "jax"}
    assert len(blocks) == 3 * 3


# After one epoch a residual network's running statistics are not yet those of its images.
@pytest.mark.parametrize(
    ("network", "rate", "epochs", "reached"), [("resnet18", 0.03, 1, 0.0), ("vit", 0.002, 5, 0.15)]
)
def test_both_networks_are_trained_in_pytorch(
    network: str, rate: float, epochs: int, reached: float, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    training = next(course.training for course in plan.COURSES if course.training.network == network)
    setting = f"{replace(training, data='digits')} {rate:g}"
    cell = Cell(plan.TASK, setting, "ce", "torch", 100, plan.TASK)
    protocol = replace(CONFIRMING, classification=replace(CONFIRMING.classification, epochs=epochs))
    with closing(store.Store(tmp_path, protocol)) as kept:
        runner.run(replace(plan.plan(protocol), work=(cell,), backends=("torch",)), kept, Options(processes=1))
    assert kept.machines[0]["versions"]["mlxtend"]
    measured = kept.records[cell]["metrics"]
    kinds = {f"auroc/{score}/{kind}" for score in ("max_logit", "max_softmax") for kind in unknowns.FAR}
    assert set(measured) == {"clean", *kinds}
    assert measured["clean"] > reached, "chance is a tenth"


def test_seeds_that_are_trained_together_are_trained_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flax")
    jax = pytest.importorskip("jax")
    from hemspec_benchmark.gpu import jax_side
    from hemspec_benchmark.swap import training

    monkeypatch.setattr(jax_side, "AT_ONCE", 2)
    cell = next(cell for cell in plan.plan(plan.TRIAL).cells() if cell.backend == "jax" and cell.loss == "hem")
    measured = jax_side.run(replace(cell, seed=1), plan.TRIAL).metrics
    assert measured["clean"] > 0.5
    courses, networks = jax_side.trained(cell.setting, cell.loss, range(2), plan.TRIAL)
    how, rate = read_setting(cell.setting)
    for place, course in enumerate(courses):
        order = course.order(plan.TRIAL.classification.batch_size, 1)
        state, _ = course.advance(course.begin(), order, training.rates(how.schedule, rate, len(order), Matrix()))
        for together, alone in zip(jax.tree.leaves(networks), jax.tree.leaves(state.variables), strict=True):
            np.testing.assert_allclose(together[place], alone, rtol=1e-4, atol=1e-5)


def test_the_table_has_paired_differences() -> None:
    setting = "mnist resnet18 momentum cosine free 0.1"
    values = {"ce": (0.9, 0.92), "hem": (0.91, 0.93), "hem-mean": (0.9, 0.91)}
    cells = [
        {**asdict(Cell("gpu", setting, loss, "torch", seed, "gpu")), "machine": 0, "metrics": {"clean": value}}
        for loss, both in values.items()
        for seed, value in enumerate(both)
    ]
    document = {"explorations": cells}
    (row,) = replication_report.rows(document)
    assert row[:3] == ("MNIST, ResNet-18, SGD with momentum, rate 0.1", "accuracy", "2")
    assert row[4].startswith("+1.0")
    assert row[5].startswith("−0.5")
