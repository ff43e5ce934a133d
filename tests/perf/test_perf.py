"""The speed benchmark: who gets a number, how it is computed, and how it is shown."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from hemspec_perf import batches, cli, document, heads, plots, timing
from hemspec_perf.batches import STEP
from hemspec_perf.plan import Line, PlanError, make_plan, read_shape
from hemspec_perf.resident import peak_extra
from hemspec_perf.side import MissingError
from hemspec_perf.tables import table

torch = pytest.importorskip("torch")

from hemspec_perf import torch_side, worker

SMALL = Line("torch", "eager", "cpu", "64x12")
IMAGE = Line("torch", "eager", "cpu", "4x5x3x7")

runner = CliRunner(env={"NO_COLOR": "1", "TERM": "dumb"})


def call(*arguments: object) -> Result:
    return runner.invoke(cli.app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("line", [SMALL, IMAGE], ids=["rows", "channels first"])
@pytest.mark.parametrize("name", ["hem", "mm", "plain-hem", "plain-mm", "authors-hem", "ce"])
def test_candidates_are_the_reference(line: Line, name: str) -> None:
    worker.admit(line, torch_side.Side(line), name)


@pytest.mark.parametrize("variant", ["float16", "bfloat16", "ignore_index", "sample_weight", "margins"])
def test_variants_are_the_reference(variant: str) -> None:
    line = Line("torch", "eager", "cpu", "64x12", variants=True)
    worker.admit(line, torch_side.Side(line), f"hem {variant}")


HEAD = Line("torch", "eager", "cpu", "64x40", depth=12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["linear-hem", "unfused-hem", "unfused-ce", "linear-ce"])
def test_candidates_with_a_head_are_the_reference(name: str, dtype: str) -> None:
    line = replace(HEAD, dtype=dtype)
    worker.admit(line, torch_side.HeadSide(line), name)


def half_the_head(features: Any, weight: Any, labels: Any) -> Any:
    """The right value, a wrong gradient of the head."""
    return torch_side.linear_hem_loss(features, weight / 2 + weight.detach() / 2, labels)


def test_a_wrong_candidate_with_a_head_gets_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(torch_side.HEAD_LOSSES, ("hem", "unfused"), half_the_head)
    found = worker.measure(HEAD, torch_side.HeadSide(HEAD), ["unfused-hem", "unfused-ce"], repeats=5, budget=0.0)
    assert set(found["results"]) == {"unfused-ce"}
    assert "the gradient of the head" in found["refused"]["unfused-hem"]


def test_logits_of_a_head_are_exact_and_no_error_is_near_the_mean() -> None:
    head = heads.make_head(Line("torch", "eager", "cpu", "64x2000", depth=100))
    logits = STEP * (head.features.astype(float) @ head.weight.T)
    assert (logits == np.rint(logits)).all()
    assert np.abs(logits).max() < 4 * STEP
    rows = np.arange(len(logits))
    errors = np.maximum(0, logits - logits[rows, head.labels][:, None] + STEP)
    errors[rows, head.labels] = 0
    assert (np.abs(2000 * errors - errors.sum(1, keepdims=True)).min(1) > 4).all()


def test_repeated_rows_are_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BLOCK", 100)
    batches._batch.cache_clear()
    line = Line("torch", "eager", "cpu", "96x10")
    assert batches.make_batch(line).times == 12
    side = torch_side.Side(line)
    worker.admit(line, side, "plain-hem")
    value, gradient = side.answer("plain-hem", side.steps("plain-hem", "hem", "plain", "", "float32"))
    gradient[3] *= 11 / 12  # one of the repetitions gave nothing
    with pytest.raises(batches.WrongAnswerError, match="gradient"):
        batches.check(line, "hem", "", "float32", value, gradient, "plain-hem")
    batches._batch.cache_clear()
    batches._expected.cache_clear()


@pytest.mark.parametrize("name", ["hem", "ce"])
def test_half_precision(name: str) -> None:
    """The frameworks' losses are as exact as such logits; ours are computed in float32."""
    line = Line("torch", "eager", "cpu", "64x300", "bfloat16")
    worker.admit(line, torch_side.Side(line), name)


def test_a_rounded_loss_of_ours_gets_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(torch_side.LOSSES, ("hem", "ours"), lambda *z: torch_side.plain_hem(*z).bfloat16())
    line = Line("torch", "eager", "cpu", "64x300", "bfloat16")
    with pytest.raises(batches.WrongAnswerError, match="the reference"):
        worker.admit(line, torch_side.Side(line), "hem")


def test_a_line_that_takes_too_long_leaves_out_what_matters_least(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def slow(*_: Any) -> Any:
        nonlocal now
        now += 3.0
        return admit(*_)

    admit = worker.admit
    monkeypatch.setattr(worker, "admit", slow)
    monkeypatch.setattr(worker.time, "monotonic", lambda: now)
    names = ["hem", "plain-hem", "authors-hem", "ce"]
    found = worker.measure(SMALL, torch_side.Side(SMALL), names, repeats=5, budget=1.0, limit=7.5)
    assert list(found["results"]) == ["hem", "plain-hem", "ce"]
    assert "time" in found["refused"]["authors-hem"]
    assert "time" in worker.measure(SMALL, torch_side.Side(SMALL), names, repeats=5, budget=1.0, limit=0.5)["skipped"]


def test_lines_share_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now, limits, told = 0.0, [], []

    def measure(*_: Any, limit: float, **__: Any) -> Any:
        nonlocal now
        limits.append(limit)
        now += 20.0
        return {}

    monkeypatch.setattr(worker, "measure", measure)
    monkeypatch.setattr(worker.os, "sched_setaffinity", lambda *_: None)  # it would last
    monkeypatch.setattr(worker.time, "monotonic", lambda: now)
    fields = {"framework": "torch", "execution": "eager", "device": "cpu", "shape": "64x12"}
    task = {"framework": "torch", "threads": 1, "lines": [fields] * 4, "losses": [], "repeats": 5, "budget": 1.0}
    worker.work({**task, "limit": 40.0}, told.append)
    assert limits == [10.0, pytest.approx(20.0 / 3)]
    assert ["skipped" in table for table in told[1:]] == [False, False, True, True]


def test_inputs_on_a_gpu_are_not_in_its_cache() -> None:
    assert timing.copies_beyond(50, 16) == 13
    assert timing.copies_beyond(50, 200) == timing.copies_beyond(50, 10**6) == 1


def all_errors(logits: Any, labels: Any) -> Any:
    """A wrong HEM: it averages every error above 0."""
    errors = torch_side.plain_errors(logits, labels)
    return (errors.sum(1) / (errors > 0).sum(1).clamp(min=1)).mean()


def leaky(logits: Any, labels: Any) -> Any:
    """The right value, a wrong gradient."""
    return torch_side.plain_hem(logits, labels) + 1e-2 * (logits - logits.detach()).mean()


@pytest.mark.parametrize(("wrong", "said"), [(all_errors, "the reference"), (leaky, "gradient")])
def test_a_wrong_candidate_gets_no_number(monkeypatch: pytest.MonkeyPatch, wrong: Any, said: str) -> None:
    monkeypatch.setitem(torch_side.LOSSES, ("hem", "plain"), wrong)
    found = worker.measure(SMALL, torch_side.Side(SMALL), ["plain-hem", "ce"], repeats=5, budget=0.0)
    assert set(found["results"]) == {"ce"}
    assert said in found["refused"]["plain-hem"]


@pytest.mark.parametrize("shape", ["256x1000", "16x32000", "2048x10"])
def test_no_error_is_near_the_mean(shape: str) -> None:
    line = Line("torch", "eager", "cpu", shape)
    batch = batches.make_batch(line)
    true = np.take_along_axis(batch.logits, batch.labels[:, None], 1)
    errors = np.maximum(0.0, batch.logits.astype(float) - true + 1)
    errors[np.arange(len(errors)), batch.labels] = 0.0
    scaled = errors.shape[1] * batches.STEP * errors
    gaps = np.abs(scaled - scaled.mean(1, keepdims=True)).min(1)
    assert (gaps[errors.max(1) > 0] >= max(1, errors.shape[1] // 500)).all()


def test_steps_take_turns_and_times_are_of_one_call() -> None:
    order: list[str] = []
    now = 0.0

    def step(name: str, cost: float) -> Any:
        def run(calls: int) -> None:
            nonlocal now
            order.append(name)
            now += cost * calls

        return run

    steps = {"fast": step("fast", 0.0005), "slow": step("slow", 0.004)}
    found = timing.interleaved(steps, repeats=6, budget=9.0, clock=lambda: now)
    assert order[4:] == ["fast", "slow", "slow", "fast"] * 3
    assert found["fast"] == pytest.approx([0.0005] * 6)
    assert found["slow"] == pytest.approx([0.004] * 6)
    over = timing.interleaved(steps, repeats=50, budget=0.0, clock=lambda: now)
    assert len(over["fast"]) == timing.FEWEST


def test_arithmetic() -> None:
    assert timing.summary([5.0, 1.0, 2.0, 4.0, 3.0]) == {"median": 3.0, "low": 2.0, "high": 4.0, "samples": 5}
    # A machine that is three times slower in one round: the ratio of medians would be 0.75.
    assert timing.ratio([1.0, 3.0, 1.5], [2.0, 6.0, 2.0]) == 0.5
    # An ideal that moves 2 x 4 bytes and a quarter in twice the time in which a copy moves 8.
    assert timing.percent_of_copy(2.0, 1.0, 100, 4, backward=True) == pytest.approx(100 * 8.25 / 8 / 2)
    assert timing.percent_of_copy(1.0, 1.0, 100, 2, backward=False) == pytest.approx(100 * 2.125 / 4)


def test_resident_memory_sees_temporaries() -> None:
    x = np.ones(2**21)
    try:
        found = peak_extra(lambda: (x * 2) * 3)
    except OSError as error:
        pytest.skip(str(error))
    # NumPy may use the temporary for the result.
    assert 0.9 * x.nbytes < found < 2.2 * x.nbytes
    assert peak_extra(lambda: [np.ones(2**21), np.ones(2**21), np.ones(2**21)]) > 2.9 * x.nbytes


@pytest.mark.parametrize("text", ["12", "ax10", "10x1", "0x10", "8x21x-4"])
def test_shapes_that_are_none(text: str) -> None:
    with pytest.raises(PlanError, match=text):
        read_shape(text)


def test_plan_of_heads() -> None:
    asked = {"dtypes": [], "variants": None, "quick": False}
    (line,) = cli.choose(["torch"], [], None, ["8x4x10"], gpu=False, **asked)
    assert (line.sizes, line.depth, line.dtype) == ((8, 10), 4, "float32")
    assert line.candidates() == ["linear-hem", "unfused-hem", "unfused-ce", "linear-ce"]
    of_gpu = [line for line in cli.choose([], [], None, None, gpu=True, **asked) if line.depth]
    assert [(line.framework, line.dtype) for line in of_gpu] == [("torch", "bfloat16"), ("jax", "bfloat16")]
    assert "liger-linear-ce" in of_gpu[0].candidates()


def test_plan() -> None:
    (line,) = make_plan(["torch"], ["compile"], ["8x10"])
    assert line.baselines("hem") == ["ce", "ce-eager"]
    assert "authors-hem" not in line.candidates()
    assert "ce" in line.candidates(["mm"])
    on_gpu = Line("torch", "eager", "cuda", "8x10")
    assert {"liger-ce", "ce-compiled"} < {*on_gpu.candidates()}
    assert on_gpu.baselines("hem") == ["ce", "ce-compiled", "liger-ce"]


def test_plan_for_a_gpu() -> None:
    lines = cli.choose(["torch"], [], None, None, [], variants=None, quick=False, gpu=True)
    titles = [line.title for line in lines]
    assert "torch eager, cuda, 32768x131072, float32" in titles
    assert "torch eager, cuda, 16x21x512x512, bfloat16" in titles
    assert "torch compile, cuda, 8192x32000, bfloat16" in titles
    assert "torch compile, cuda, 8192x32000, float32" not in titles
    assert sum("variants" in title for title in titles) == 1
    assert sum("a head of 4096 features" in title for title in titles) == 1
    (alone,) = cli.choose(["torch"], [], None, ["8x4x10"], [], variants=None, quick=False, gpu=True)
    assert alone.depth == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shape", "99"], "99"),
        (["--threads", "4096"], "4096"),
        (["--framework", "jax", "--execution", "eager"], "jax has no execution eager"),
        (["--gpu", "--framework", "keras-jax"], "keras-jax"),
        (["--head", "8x10"], "8x10"),
        (["--read", "/nowhere.json"], "/nowhere.json"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, arguments: list[str], said: str) -> None:
    result = call("--output", tmp_path, *arguments)
    assert result.exit_code == 1
    assert said in result.output


def test_a_small_run_and_its_result_read_again(tmp_path: Path) -> None:
    asked = ["--framework", "torch", "--execution", "eager", "--threads", 1, "--repeats", 5]
    first = call(*asked, "--shape", "8x10", "--shape", "8x40", "--output", tmp_path)
    assert first.exit_code == 0, first.output
    written = document.read(tmp_path / "results.json")
    assert [found["refused"] for found in written["tables"]] == [{}, {}]
    assert written["tables"][0]["results"]["ce"]["both"]["ratios"] == {"ce": 1.0}
    assert written["machines"][0]["versions"]["torch"] == torch.__version__
    document.write(written, tmp_path / "again.json")
    assert document.read(tmp_path / "again.json") == written
    assert (tmp_path / "torch-eager-cpu-float32.png").stat().st_size > 10_000
    second = call("--read", tmp_path / "again.json", "--output", tmp_path / "b")
    ratio = written["tables"][1]["results"]["hem"]["both"]["ratios"]["ce"]
    (row,) = [line for line in (tmp_path / "b/summary.md").read_text().splitlines() if ", HEM |" in line]
    assert row.endswith(f"| {ratio:.2f} |")
    assert "authors' HEM" in second.output


def test_another_document_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps({"schema": 99}))
    with pytest.raises(document.DocumentError, match=r"other\.json"):
        document.read(tmp_path / "other.json")


def test_no_cuda_is_said() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(MissingError, match="no CUDA device"):
        torch_side.Side(Line("torch", "eager", "cuda", "8x10"))


def test_a_skipped_line_says_why() -> None:
    console = Console(width=100)
    with console.capture() as shown:
        console.print(table({"line": {**vars(SMALL), "device": "cuda"}, "skipped": "PyTorch sees no CUDA device"}))
    assert "PyTorch sees no CUDA device" in shown.get()


def synthetic() -> dict[str, Any]:
    """Time 2 ns and memory 8 bytes an entry for HEM."""
    tables = []
    for shape in ("1024x100", "1024x1000", "1024x10000", "256x1000", "4096x1000"):
        line = Line("torch", "eager", "cpu", shape)
        both = {"median": 2e-9 * line.entries, "low": 1.8e-9 * line.entries, "high": 2.5e-9 * line.entries}
        part = both | {"samples": 5, "percent_of_copy": 50.0, "ratios": {}}
        result = {"forward": part, "both": part, "memory": {"bytes": 8 * line.entries, "multiple": 2.0}}
        found = {"results": {"hem": result, "ce": copy.deepcopy(result)}, "refused": {}, "copy": both}
        tables.append({"line": vars(line), **found})
    return document.new("synthetic", {}, [], tables)


def test_plots_show_what_was_measured() -> None:
    found = plots.figures(synthetic())
    (figure,) = found.values()
    above_c, above_n, below_c, _ = figure.axes
    lines = {line.get_label(): line for line in above_c.lines}
    assert list(lines["HEM"].get_xdata()) == [100, 1000, 10_000]
    assert lines["HEM"].get_ydata() == pytest.approx([0.2048, 2.048, 20.48])
    assert list(above_n.lines[0].get_xdata()) == [256, 1024, 4096]
    assert below_c.lines[0].get_ydata() == pytest.approx([8 * 1024 * c / 2**20 for c in (100, 1000, 10_000)])
