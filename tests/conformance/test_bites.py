"""The suite has teeth: each wrong HEM fails, the right one passes, and a suite without vectors does not pass."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("hemspec_conformance.plugin")
pytest.importorskip("ml_dtypes", reason="the vectors run in bfloat16 too")

import wrong_hems
from mutation import verdict

from hemspec_conformance import vectors
from hemspec_conformance.adapter import DTYPES


def failures(port: Any) -> list[str]:
    """What the suite says about a port: one message for each check that fails."""
    return verdict.failures(port, ["hem_loss"], about=["answers"])


def test_the_right_hem_passes() -> None:
    assert failures(wrong_hems.RightHEM()) == []


@pytest.mark.parametrize("wrong", wrong_hems.WRONG_HEMS, ids=lambda wrong: wrong.__name__)
def test_a_wrong_hem_is_killed(wrong: Any) -> None:
    found = failures(wrong())
    print(f"{wrong.__name__}: {len(found)} checks fail, the first is\n{found[0] if found else None}")
    assert found, f"{wrong.__name__} passes every vector"
    assert [message for message in found if verdict.is_difference(message)], "killed only by crashing"


def test_a_gradient_that_is_wrong_alone_is_said_to_be_the_gradient() -> None:
    messages = failures(wrong_hems.GradientThroughThreshold())
    assert all("gradient" in message for message in messages)


def test_a_message_says_loss_case_mode_dtype_element_expected_and_got() -> None:
    message = failures(wrong_hems.GreaterForGreaterEqual())[0]
    for word in ("GreaterForGreaterEqual: hem_loss, case ", "mode eager", "float32", "expected", "got", "tolerance"):
        assert word in message


def test_wrong_dtype_and_shape_are_said() -> None:
    class WrongDtype(wrong_hems.RightHEM):
        def run(self, call: Any, mode: Any) -> Any:
            result = super().run(call, mode)
            return type(result)(result.value.astype(np.float16), result.gradient)

    class WrongShape(wrong_hems.RightHEM):
        def run(self, call: Any, mode: Any) -> Any:
            result = super().run(call, mode)
            return type(result)(result.value[None], result.gradient)

    assert "value has the wrong dtype: expected float32, got float16" in failures(WrongDtype())[0]
    assert "value has the wrong shape: expected ()" in "".join(failures(WrongShape()))


def test_the_frozen_vectors_are_what_the_reference_gives() -> None:
    assert vectors.differences() == []


def test_every_dtype_has_vectors() -> None:
    for dtype in DTYPES:
        assert sum(dtype in vector.dtypes for vector in vectors.load()) > 300


@pytest.fixture
def copy_of_the_suite(tmp_path: Path) -> Path:
    """The installed suite in a folder of its own, where it can be damaged."""
    package = Path(vectors.__file__).parent
    shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run_suite(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "hemspec_conformance.plugin", "-p", "no:cacheprovider"]
    command += ["--pyargs", "hemspec_conformance", "--target", "numpy", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_vector_that_was_edited_fails_the_run(copy_of_the_suite: Path) -> None:
    path = copy_of_the_suite / "hemspec_conformance" / "vectors" / "hem.json"
    path.write_text(path.read_text().replace("1.5", "1.25", 1))
    run = run_suite(copy_of_the_suite)
    assert run.returncode != 0
    assert "vectors are never edited" in run.stdout + run.stderr


def test_vectors_that_went_missing_fail_the_run(copy_of_the_suite: Path) -> None:
    folder = copy_of_the_suite / "hemspec_conformance" / "vectors"
    data = json.loads((folder / "dice.json").read_text())
    data["vectors"] = data["vectors"][:5]
    text = json.dumps(data)
    (folder / "dice.json").write_text(text)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["dice.json"].update(vectors=5, sha256=hashlib.sha256(text.encode()).hexdigest())
    (folder / "manifest.json").write_text(json.dumps(manifest))
    run = run_suite(copy_of_the_suite)
    assert run.returncode != 0
    assert "of the 412" in run.stdout + run.stderr


def test_a_run_that_stops_early_fails(copy_of_the_suite: Path) -> None:
    """Tests that were collected and never ran count as missing."""
    module = copy_of_the_suite / "hemspec_conformance" / "test_conformance.py"
    module.write_text(module.read_text().replace("def test_rejection", "def no_test_rejection"))
    run = run_suite(copy_of_the_suite)
    assert run.returncode != 0
    assert "fewer checks than the suite has" in run.stdout


def test_the_whole_suite_passes_on_the_reference(tmp_path: Path) -> None:
    run = run_suite(tmp_path)
    assert run.returncode == 0, run.stdout
    assert "numpy" in run.stdout
    assert "checks" in run.stdout
