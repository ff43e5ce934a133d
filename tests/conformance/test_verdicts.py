"""Adapters that are broken in the ways adapters are: each gets a readable verdict, none stops the rest."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hypothesis")
pytest.importorskip("hemspec_conformance.cli")

from commands import UNDER_PYTEST

SOUND = """
from hemspec_conformance.adapter import ExpectedFailure, Mode
from hemspec_conformance.adapters import numpy as right
from hemspec_conformance.adapters.numpy import from_numpy, gradient, losses, spec_version, to_numpy
from hemspec_conformance.adapters.numpy import value_and_gradient, versions
name = "mine"
modes = (Mode("eager", dtypes=("float32", "float64")),)
"""
"""The reference in one mode. What is broken is defined after it."""


@dataclass
class Run:
    code: int
    text: str
    verdict: dict[str, Any]

    def checks(self, status: str, loss: str = "") -> list[dict[str, Any]]:
        return [
            c
            for c in self.verdict["checks"]
            if c["status"] == status and c.get("loss", "") in (loss, loss or c.get("loss", ""))
        ]


def conformance(folder: Path, broken: str, *options: str) -> Run:
    """Run the command in an empty folder on an adapter made of the sound one and the broken part."""
    (folder / "mine.py").write_text(SOUND + textwrap.dedent(broken))
    command = [sys.executable, "-m", "hemspec_conformance.cli", "--backend", "mine", "--workers", "1", *options]
    run = subprocess.run([*command, "--json", "verdict.json"], cwd=folder, capture_output=True, text=True, check=False)
    file = folder / "verdict.json"
    return Run(run.returncode, run.stdout + run.stderr, json.loads(file.read_text()) if file.exists() else {})


RANDOM = ("--only", "adapter/*", "--only", "hem_loss/random_*", "--only", "cross_entropy_loss/random_*")
"""Where HEM fails throughout: no laws, each of which would look for its smallest counterexample for seconds."""
CASES = ("hem_loss", "hem_loss/[!l]*", "hem_loss/la[!w]*", "cross_entropy_loss", "cross_entropy_loss/[!l]*")
HEM_AND_CE = ("--only", "adapter/*", *(word for case in CASES for word in ("--only", case)))
"""Without laws, of which some take seconds."""


def test_the_sound_adapter_conforms(tmp_path: Path) -> None:
    run = conformance(tmp_path, "")
    assert run.code == 0, run.text
    assert "mine (numpy" in run.text
    assert "conforms, specification 1" in run.text
    assert run.verdict["counts"]["failed"] == 0
    assert run.verdict["counts"]["passed"] > 1000


def test_a_renamed_loss_is_said_and_the_others_are_checked(tmp_path: Path) -> None:
    run = conformance(tmp_path, 'losses = ("hem", "cross_entropy_loss")', *HEM_AND_CE)
    assert run.code == 1
    assert "'hem' is no loss of the specification; did you mean 'hem_loss'?" in run.text
    assert [c["id"] for c in run.checks("not offered") if c["kind"] != "adapter"] == ["hem_loss"]
    assert len(run.checks("passed", "cross_entropy_loss")) > 100
    assert len(run.checks("failed")) == 1


def test_a_loss_that_is_offered_and_not_there(tmp_path: Path) -> None:
    broken = """
        def value_and_gradient(call, mode):
            import hemspec
            getattr(hemspec, call.loss.replace("hem_loss", "high_error_margin_loss"))
            return right.value_and_gradient(call, mode)
    """
    run = conformance(tmp_path, broken, *RANDOM)
    assert run.code == 1
    assert "raised AttributeError: module 'hemspec' has no attribute 'high_error_margin_loss'" in run.text
    assert "mine.py:" in run.text  # where it came from
    assert not run.checks("passed", "hem_loss")
    assert not run.checks("failed", "cross_entropy_loss")


def test_a_wrong_dtype_is_said(tmp_path: Path) -> None:
    broken = """
        def value_and_gradient(call, mode):
            value, gradient = right.value_and_gradient(call, mode)
            return value, gradient.astype("float64")
    """
    run = conformance(tmp_path, broken, *RANDOM)
    assert run.code == 1
    assert "gradient has the wrong dtype: expected float32, got float64" in run.text
    assert "more of hem in mode eager" in run.text  # said once
    assert {c["dtype"] for c in run.checks("failed")} == {"float32"}
    assert any(c.get("dtype") == "float64" and c["kind"] == "vector" for c in run.checks("passed"))


def test_what_raises_is_said(tmp_path: Path) -> None:
    broken = """
        def value_and_gradient(call, mode):
            if call.loss == "hem_loss":
                raise RuntimeError("device lost")
            return right.value_and_gradient(call, mode)
    """
    run = conformance(tmp_path, broken, *RANDOM)
    assert run.code == 1
    assert "raised RuntimeError: device lost" in run.text
    assert not run.checks("failed", "cross_entropy_loss")


HANGS = """
    import time
    def value_and_gradient(call, mode):
        if call.loss == "hem_loss" and call.reduction == "sum":
            time.sleep(60)
        return right.value_and_gradient(call, mode)
"""


def test_what_hangs_is_stopped(tmp_path: Path) -> None:
    run = conformance(tmp_path, HANGS, *HEM_AND_CE, "--timeout", "3")
    assert run.code == 1
    assert "did not end within 3 s" in run.text
    # The rest of that loss and mode is given up after two; what came before is there, and so are the other losses.
    assert "not run: 2 checks of hem_loss in mode eager hung or crashed" in run.text
    assert len(run.checks("failed")) == 2
    assert len(run.checks("passed", "hem_loss")) > 1
    assert not run.checks("failed", "cross_entropy_loss")


def test_what_hangs_is_stopped_under_pytest(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SOUND + textwrap.dedent(HANGS))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *UNDER_PYTEST]
    command += ["--backend", "mine", "--backend-timeout", "3", "-k", "random"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "2 failed, 40 passed, 4 skipped" in run.stdout  # the sum in float32 and float64, then no more of HEM
    assert "did not end within 3 s" in run.stdout


@pytest.mark.finding(17)
def test_pytest_without_the_plugin_is_told_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs", "hemspec_conformance"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "pytest -p hemspec_conformance.plugin --pyargs hemspec_conformance --backend" in run.stdout + run.stderr


@pytest.mark.finding(17)
def test_under_pytest_in_several_processes(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    (tmp_path / "mine.py").write_text(SOUND)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *UNDER_PYTEST, "--backend", "mine"]
    command += ["-n", "2", "-k", "hem_loss and random", "--backend-json", "verdict.json"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert json.loads((tmp_path / "verdict.json").read_text())["checks"]


def test_what_kills_the_process_is_survived(tmp_path: Path) -> None:
    broken = """
        import os
        def value_and_gradient(call, mode):
            if call.loss == "hem_loss" and call.reduction == "sum":
                os.abort()
            return right.value_and_gradient(call, mode)
    """
    run = conformance(tmp_path, broken, *HEM_AND_CE)
    assert run.code == 1
    assert "ended the process with signal 6" in run.text
    assert "not run: 2 checks of hem_loss in mode eager hung or crashed" in run.text
    assert not run.checks("failed", "cross_entropy_loss")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("del modes", "the adapter lacks modes; it needs name, spec_version"),
        ("modes = (Mode('eager'), Mode('eager'))", "each of its own name; got ['eager', 'eager']"),
        (
            "modes = (Mode('eager', dtypes=('float8',)),)",
            "must be among float32, float64, float16, bfloat16; got ['float8']",
        ),
        ("import nowhere", "No module named 'nowhere'"),
        ("raise OSError('no licence')", "raised OSError: no licence"),
        ("import os; os._exit(3)", "ended the process with exit code 3"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_a_usage_error(tmp_path: Path, broken: str, said: str) -> None:
    run = conformance(tmp_path, broken)
    assert run.code == 2
    assert said in run.text
    assert "Traceback" not in run.text
    assert not run.verdict


def test_another_version_of_the_specification_is_a_failure(tmp_path: Path) -> None:
    run = conformance(tmp_path, "spec_version = 2", "--only", "adapter/*")
    assert run.code == 1
    assert "implements version 2 of the specification; these are the vectors of version 1" in run.text


def test_arrays_that_do_not_come_back_are_a_failure(tmp_path: Path) -> None:
    run = conformance(tmp_path, "from_numpy = lambda array, mode: array.astype('float32')", "--only", "adapter/*")
    assert run.code == 1
    assert "to_numpy(from_numpy(...)) in mode eager gave" in run.text


WRONG_IN_ONE = """
    import numpy as np
    def value_and_gradient(call, mode):
        value, gradient = right.value_and_gradient(call, mode)
        large = np.isfinite(call.logits).all() and (call.logits > 1000).any() and call.logits.dtype == "float32"
        wrong = large and call.loss == "hem_loss"
        return value + wrong, gradient
"""
"""Fails hem_loss/large_*/eager/float32 alone."""


def entry(check: str, **changes: Any) -> str:
    given = {"reason": "the framework rounds", "link": "https://example.org/1", **changes}
    return f"\nexpected_failures = (ExpectedFailure({check!r}, **{given!r}),)\n"


def with_entry(folder: Path, check: str, **changes: Any) -> Run:
    some = ("--only", "adapter/*", "--only", "hem_loss/large_*", "--only", "hem_loss/random_*")
    return conformance(folder, textwrap.dedent(WRONG_IN_ONE) + entry(check, **changes), *some)


LARGE = "hem_loss/large_*/eager/float32"


def test_an_expected_failure_is_no_failure_and_is_reported(tmp_path: Path) -> None:
    run = with_entry(tmp_path, LARGE)
    assert run.code == 0, run.text
    assert len(run.checks("expected failure")) == 2
    assert (
        "expected failure hem_loss/large_offset/eager/float32 and 1 more: the framework rounds (https://example.org/1)"
        in run.text
    )


@pytest.mark.parametrize(
    ("check", "changes", "said"),
    [
        ("hem_loss/no_such_case/eager/float32", {}, "matches no check"),
        (
            "hem_loss/random_mean/eager/float32",
            {},
            "passes, but is listed as an expected failure: the framework rounds",
        ),
        ("hem_loss/large_*/eager/*", {}, "passes, but is listed as an expected failure"),
        (LARGE, {"link": ""}, "needs a reason and a link"),
        (LARGE, {"versions": {"numpy": "<1"}}, "case large_offset"),  # other versions: fails as usual
        (LARGE, {"platforms": ["win32"]}, "case large_offset"),
        (LARGE, {"versions": {"numpie": "<1"}}, "cannot be compared with"),
    ],
)
def test_an_entry_that_is_not_so_is_a_failure(tmp_path: Path, check: str, changes: dict[str, Any], said: str) -> None:
    run = with_entry(tmp_path, check, **changes)
    assert run.code == 1
    assert said in run.text


def test_an_entry_for_other_versions_may_stand_idle(tmp_path: Path) -> None:
    idle = entry("hem_loss/random_mean/eager/float32", versions={"numpy": "<1"})
    run = conformance(tmp_path, idle, *HEM_AND_CE)
    assert run.code == 0, run.text


def test_a_law_that_fails_prints_a_case_that_can_be_pasted(tmp_path: Path) -> None:
    """The printed case is a call that the port answers wrongly."""
    broken = """
        import dataclasses, numpy as np
        def value_and_gradient(call, mode):
            # weights count as present or absent
            weight = None if call.sample_weight is None else (call.sample_weight > 0).astype(float)
            return right.value_and_gradient(dataclasses.replace(call, sample_weight=weight), mode)
    """
    run = conformance(tmp_path, broken, "--only", "hem_loss/law_repetition/*")
    assert run.code == 1
    assert "An integer weight is that many copies" in run.text
    (line,) = {line.strip() for line in run.text.splitlines() if line.strip().startswith('Case("name_me"')}
    import numpy as np

    from hemspec_conformance.adapter import Call
    from hemspec_conformance.cases import Case

    case = eval(line, {"Case": Case, "Call": Call, "np": np, "NAN": np.nan, "INF": np.inf})
    assert case.call.sample_weight.max() == 2
    assert len(case.call.labels) <= 2  # made small


def test_verdicts_are_merged(tmp_path: Path) -> None:
    conformance(tmp_path, "", *HEM_AND_CE)
    (tmp_path / "verdict.json").rename(tmp_path / "a.json")
    conformance(tmp_path, 'name = "other"; losses = ("hem_loss",)', *HEM_AND_CE)
    command = [sys.executable, "-m", "hemspec_conformance.cli", "--merge", "a.json", "verdict.json"]
    command += ["--html", "matrix.html", "--markdown", "matrix.md"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    rows = (tmp_path / "matrix.md").read_text().splitlines()
    assert rows[2].startswith("| mine |")
    assert rows[3].startswith("| other |")
    assert "| – |" in rows[3]
    assert "other" in (tmp_path / "matrix.html").read_text()


def test_verdicts_of_different_suites_are_not_merged(tmp_path: Path) -> None:
    run = conformance(tmp_path, "", "--only", "adapter/*")
    run.verdict["suite"]["vectors"] = 1
    (tmp_path / "old.json").write_text(json.dumps(run.verdict))
    command = [sys.executable, "-m", "hemspec_conformance.cli", "--merge", "old.json", "verdict.json"]
    run_ = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run_.returncode == 2
    assert "different suites cannot be merged" in run_.stderr


def test_a_port_that_refuses_nothing_conforms_and_it_is_said(tmp_path: Path) -> None:
    broken = """
        modes = (Mode("eager", dtypes=("float64",), refusals=False),)
        losses = ("cross_entropy_loss",)
    """
    run = conformance(tmp_path, broken, "--examples", "1")
    assert run.code == 0, run.text
    assert "bad input was not tried: no mode has refusals" in run.text


def test_help_shows_how(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hemspec_conformance.cli", "--help"]
    text = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    assert "hemspec-conformance --backend my_package.adapter" in text
