"""The command line: what it says of itself, what it says of bad input before any training, and small runs whole."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cifar import archived, cifar_files
from typer.testing import CliRunner, Result

from hemspec_benchmark import cli, store
from hemspec_benchmark.datasets import digits
from hemspec_benchmark.readme import update
from hemspec_benchmark.report import tables
from hemspec_benchmark.runner import Options
from hemspec_benchmark.settings import Cell, Plan
from hemspec_benchmark.statistics import TASKS

Document = dict[str, Any]

runner = CliRunner(env={"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"})


def call(*arguments: object) -> Result:
    return runner.invoke(cli.app, [str(argument) for argument in arguments])


def said(result: Result) -> str:
    """The output without the frames and line breaks that a terminal needs."""
    return " ".join(result.output.replace("│", " ").split())


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training would fail."""

    def run(*_: object) -> None:
        raise AssertionError("training has begun")

    monkeypatch.setattr(cli, "run", run)


def write_npz(path: Path, **changes: Any) -> Path:
    """Colour images of three classes, 8 x 8."""
    rng = np.random.default_rng(0)
    labels = np.arange(96) % 3
    images = np.clip(labels[:, None, None, None] * 80 + rng.integers(0, 40, (96, 8, 8, 3)), 0, 255).astype(np.uint8)
    arrays = {"train_images": images, "train_labels": labels, "test_images": images[:30], "test_labels": labels[:30]}
    np.savez(path, **{name: array for name, array in (arrays | changes).items() if array is not None})
    return path


# What it says of itself


def test_the_parent_imports_no_framework() -> None:
    code = "import sys, hemspec_benchmark.cli; print({'torch', 'tensorflow', 'keras', 'jax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_help_lists_the_commands_and_needs_no_argument() -> None:
    for result in call("--help"), call():
        for command in ("quick", "run", "train", "swap", "select", "merge", "report", "claims", "tune"):
            assert f" {command} " in said(result)


@pytest.mark.parametrize(
    ("command", "example", "options"),
    [
        ("quick", "hemspec-benchmark quick --task robustness --loss ce", "--task --loss --backend --seeds --output"),
        (
            "train",
            "hemspec-benchmark train --data cifar10 --data-dir",
            "--task --loss --backend --seeds --first-seed --explore --data --data-dir --epochs --learning-rate "
            "--architecture --device --mixed-precision --budget --output --processes",
        ),
        ("run", "hemspec-benchmark run --part 1/2 --output a --add both.json", "--part --add --budget --output"),
        ("swap", "hemspec-benchmark swap --part 1/2 --output a", "--part --budget --output --processes"),
        ("select", "hemspec-benchmark select --output results/selection", "--budget --output --processes"),
        ("claims", "hemspec-benchmark claims results/run/results.json", "--help"),
        ("merge", "hemspec-benchmark merge a/results.json", "--output"),
        ("report", "hemspec-benchmark report results/full/results.json", "--output --readme --refresh --check"),
        ("tune", "how the hyper-parameters were chosen", "--part --seeds --backend"),
    ],
)
def test_help_explains_options_and_gives_examples(command: str, example: str, options: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert example in said(result)
    for option in options.split():
        assert f" {option} " in said(result)


@pytest.mark.parametrize(
    "arguments",
    ["--loss hinge", "--backend mxnet", "--task sorting", "--seeds 0", "--epochs many", "--device tpu", "--budget -1"],
)
def test_a_bad_choice_is_named(arguments: str, untrained: None) -> None:
    result = call("train", *arguments.split())
    assert result.exit_code == 2
    assert f"Invalid value for '{arguments.split()[0]}'" in said(result)


# Bad input: one line that names it, before any training


def refused(result: Result) -> str:
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    (line,) = result.output.splitlines()
    assert line.startswith("Failed: ")
    return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data cifar11", "data is 'cifar11'; expected digits, cifar10, cifar100 or a path that ends in .npz"),
        ("--data cifar10", "cifar10 needs a data directory that holds cifar-10-python.tar.gz or cifar-10-batches-py/"),
        ("--data cifar100 --data-dir nowhere", "there is no directory nowhere; it should hold cifar-100-python.tar.gz"),
        ("--data cifar10 --data-dir .", ". holds neither cifar-10-python.tar.gz nor the folder cifar-10-batches-py/"),
        ("--data lost.npz", "there is no file lost.npz"),
        ("--data cifar10 --data-dir . --task segmentation", "--task segmentation cannot use cifar10"),
        ("--architecture vgg", "--architecture is 'vgg'; expected small or resnet18"),
        ("--learning-rate 0", "--learning-rate is 0; expected a number above 0"),
        ("--learning-rate nan", "--learning-rate is nan; expected a number above 0"),
    ],
)
def test_bad_input_is_refused(
    arguments: str, message: str, untrained: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "segmentation" in arguments:
        archived("cifar10", cifar_files("cifar10", each=30), tmp_path)
    assert message in refused(call("train", *arguments.split(), "--output", "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"test_labels": None}, "", "has no test_labels; it has train_images"),
        ({"test_labels": np.full(30, 3)}, "", "test_labels of bad.npz should be 0 to 2, got 3 to 3"),
        ({"train_labels": np.arange(95) % 3}, "", "training part of bad.npz has 96 images, but 95 labels"),
        ({}, "", "--task accuracy (test) cannot use bad.npz: 96 training images are left for it, fewer than a batch"),
        ({}, "--task continual", "--task continual (class-naive) cannot use bad.npz: a sequence of experiences needs"),
    ],
)
def test_data_that_will_not_do_is_refused(
    changes: Document,
    arguments: str,
    message: str,
    untrained: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_npz(Path("bad.npz"), **changes)
    assert message in refused(call("train", "--data", "bad.npz", *arguments.split(), "--output", "out"))
    assert not (tmp_path / "out").exists()


def test_results_under_another_protocol_are_not_touched(untrained: None, tmp_path: Path) -> None:
    call("train", "--budget", 0, "--output", tmp_path)  # says that training has begun, and leaves its folder
    content = (tmp_path / store.FILE).read_bytes()
    message = refused(call("train", "--epochs", 3, "--output", tmp_path))
    assert "holds a run under another protocol (classification.epochs is 15, not 3)" in message
    assert (tmp_path / store.FILE).read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("merge lost.json --output new.json", "cannot read lost.json"),
        ("report lost.json --output new", "cannot read lost.json"),
        ("report digits.txt --output new", "cannot read digits.txt"),
    ],
)
def test_a_bad_result_is_refused(arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits.txt").write_text("0 1 2")
    assert message in refused(call(*arguments.split()))
    assert not list(tmp_path.glob("new*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("report r.json", "nothing to write: give --output, --readme or --refresh"),
        ("report r.json --output new --check", "--check compares the tables of a file: give --readme"),
    ],
)
def test_options_that_miss_their_other_half_are_refused(arguments: str, message: str) -> None:
    result = call(*arguments.split())
    assert result.exit_code == 2
    assert message in said(result)


# What it does


def test_cifar_from_the_archive_to_the_report(tmp_path: Path) -> None:
    """The usual ResNet-18 on the real format, one epoch."""
    archived("cifar10", cifar_files("cifar10", each=26, test=10), tmp_path)
    result = call(
        *("train", "--data", "cifar10", "--data-dir", tmp_path, "--device", "cpu", "--epochs", 1, "--seeds", 1),
        *("--task", "accuracy", "--loss", "ce", "--loss", "hem", "--backend", "torch", "--output", tmp_path / "out"),
    )
    assert result.exit_code == 0, result.output
    document = store.read(tmp_path / "out/results.json")
    assert document["protocol"]["architecture"] == "resnet18"
    assert (document["data"], document["missing"]) == ("cifar10", 0)
    for cell in document["cells"]:
        assert len(cell["details"]["step_losses"]) == 1
        assert len([name for name in cell["metrics"] if name.startswith("noise/")]) > 1
    assert "on cifar10" in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_cifar_in_every_task_but_the_scenes(backend: str, tmp_path: Path) -> None:
    archived("cifar10", cifar_files("cifar10", each=36, test=10), tmp_path)
    result = call(
        *("train", "--data", "cifar10", "--data-dir", tmp_path, "--architecture", "small", "--epochs", 1, "--seeds", 1),
        *("--device", "cpu", "--loss", "hem", "--backend", backend, "--output", tmp_path / "out", "--mixed-precision"),
        *("--task", "accuracy", "--task", "rejection", "--task", "robustness"),
    )
    assert result.exit_code == 0, result.output
    document = store.read(tmp_path / "out/results.json")
    assert {cell["task"] for cell in document["cells"]} == {"accuracy", "rejection", "robustness"}
    assert document["protocol"]["mixed_precision"]


def test_a_file_of_ones_own_goes_on_where_its_budget_ended(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(300) % 3
    images = (labels[:, None, None] / 4 + 0.25 * rng.random((300, 8, 8))).astype(np.float32)
    write_npz(
        tmp_path / "own.npz",
        train_images=images,
        train_labels=labels,
        test_images=images[:60],
        test_labels=labels[:60],
    )
    arguments = [
        *("train", "--data", tmp_path / "own.npz", "--architecture", "small", "--epochs", 25, "--seeds", 2),
        *("--learning-rate", 0.05, "--device", "cpu", "--task", "accuracy", "--loss", "ce", "--loss", "hem"),
        *("--backend", "jax", "--output", tmp_path / "out"),
    ]
    first = call(*arguments, "--budget", 0)
    assert first.exit_code == 0, first.output
    assert "4 cells are missing; run the same command again to go on." in said(first)
    assert "not finished" in (tmp_path / "out/report.html").read_text()

    second = call(*arguments)
    assert second.exit_code == 0, second.output
    document = store.read(tmp_path / "out/results.json")
    assert document["missing"] == 0
    # Three grey levels, no overlap: whoever reads images and labels as they belong together learns this.
    assert all(cell["metrics"]["clean"] > 0.9 for cell in document["cells"])
    assert "HEM" in said(second)
    assert TASKS["accuracy"] in said(second)

    third = call(*arguments)
    assert "4 of 4 cells are there already." in said(third)


def test_quick_says_when_the_frameworks_differ(
    make: Callable[..., Document], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(seeds=1, losses=["ce", "hem"], backends=["torch", "keras"], extras=False)
    asked: list[Plan] = []

    def run(plan: Plan, kept: store.Store, options: Options, on_cell: Callable[[Cell], None]) -> None:
        asked.append(plan)
        records = {Cell(*(entry.get(key, "") for key in store.KEY)): entry for entry in made["cells"]}
        for cell in plan.cells():
            kept.add(cell, made["machines"][0], {key: records[cell][key] for key in ("metrics", "details")})
            on_cell(cell)

    monkeypatch.setattr(cli, "run", run)
    arguments = ["quick", "--loss", "hem", "--loss", "ce", "--seeds", 1, "--backend", "keras", "--backend", "torch"]
    good = call(*arguments, "--task", "accuracy", "--output", tmp_path)
    assert good.exit_code == 0, good.output
    assert "The frameworks agree." in said(good)
    assert (asked[0].losses, asked[0].backends, asked[0].seeds) == (("ce", "hem"), ("torch", "keras"), (0,))

    (cell,) = (c for c in made["cells"] if (c["task"], c["loss"], c["backend"]) == ("accuracy", "hem", "keras"))
    cell["details"]["step_losses"][0] *= 1.01
    bad = call(*arguments, "--task", "accuracy", "--output", tmp_path)
    assert bad.exit_code == 1
    assert "The frameworks disagree." in said(bad)
    assert "HEM, seed 0, step 1: NumPy" in said(bad)


def test_a_framework_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch for this test')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    result = call("quick", "--task", "accuracy", "--backend", "torch", "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "Failed: the torch process ended with exit code 1" in said(result)
    assert "ImportError: no torch for this test" in said(result)


def test_results_are_merged(make: Callable[..., Document], tmp_path: Path) -> None:
    """Halves of a run, one of them packed; the seed that both have counts once."""
    whole = make(seeds=3, losses=["ce", "hem"], backends=["torch"], extras=False)
    for cell in whole["cells"]:
        cell |= {"variant": "", "machine": 0}
    whole["explorations"] = []
    for name, seeds in ("a.json", {0, 1}), ("b.json.gz", {1, 2}):
        store.write(
            {**whole, "cells": [cell for cell in whole["cells"] if cell["seed"] in seeds]},
            tmp_path / name,
        )
    result = call("merge", tmp_path / "a.json", tmp_path / "b.json.gz", "--output", tmp_path / "both.json")
    assert result.exit_code == 0, result.output
    each = len(whole["cells"]) // 3
    assert f"{3 * each} cells in" in said(result)
    assert f"{each} were there twice, the first was kept" in said(result)
    merged = store.read(tmp_path / "both.json")["cells"]
    assert sorted(map(json.dumps, merged)) == sorted(map(json.dumps, whole["cells"]))


def test_the_readme_is_written_and_checked(synthetic: Document, tmp_path: Path) -> None:
    result, readme = tmp_path / "r.json.gz", tmp_path / "README.md"
    for cell in synthetic["cells"]:
        cell |= {"variant": "", "machine": 0}
    store.write(synthetic, result)
    readme.write_text("<!-- benchmark: measures -->\nold\n<!-- end -->\n")
    before = call("report", result, "--readme", readme, "--check")
    assert "out of date" in refused(before)
    assert "old" in readme.read_text()

    written = call("report", result, "--readme", readme)
    assert written.exit_code == 0, written.output
    update(readme, tables(synthetic), check=True)
    assert call("report", result, "--readme", readme, "--check").exit_code == 0


def test_the_report_is_written_and_named_pictures_made_again(make: Callable[..., Document], tmp_path: Path) -> None:
    document = make(seeds=2, losses=["ce", "hem"], backends=["torch", "jax"], extras=False)
    store.write(document, tmp_path / "r.json")
    old = tmp_path / "pictures"
    old.mkdir()
    (old / "overview.png").write_bytes(b"old")
    result = call("report", tmp_path / "r.json", "--output", tmp_path / "page", "--refresh", old)
    assert result.exit_code == 0, result.output
    assert "1 pictures in" in said(result)
    fresh = (old / "overview.png").read_bytes()
    assert fresh.startswith(b"\x89PNG")
    assert fresh == (tmp_path / "page/pictures/overview.png").read_bytes()
    assert (tmp_path / "page/report.html").read_text().startswith("<!doctype html>")


def test_every_default_of_the_digits_can_be_trained() -> None:
    """What `check` refuses must not be what people get without an option."""
    plan = cli.make_plan(cli.DIGITS, None, None, None, range(20), settings=[*_every_setting()])
    cli.check(plan, digits())


def _every_setting() -> list[tuple[str, str]]:
    return [(task, setting) for task, settings in cli.TASKS.items() for setting in settings]


def test_the_run_says_what_is_missing(tmp_path: Path) -> None:
    result = call("run", "--part", "2/7", "--budget", 0, "--output", tmp_path)
    assert result.exit_code == 0, result.output
    assert "cells of the run are missing; run the same command again to go on, or merge." in said(result)
    document = store.read(tmp_path / "results.json")
    assert (document["protocol"]["splits"], document["cells"]) == ("by seed", [])
    assert refused(call("claims", tmp_path / "results.json")).endswith("before all are there no claim is decided")
