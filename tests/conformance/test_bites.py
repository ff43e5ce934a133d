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
from commands import UNDER_PYTEST
from mutation import verdict

from hemspec import SPEC_VERSION
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
        def evaluate(self, call: Any) -> Any:
            value, gradient = super().evaluate(call)
            return value.astype(np.float16), gradient

    class WrongShape(wrong_hems.RightHEM):
        def evaluate(self, call: Any) -> Any:
            value, gradient = super().evaluate(call)
            return value[None], gradient

    assert "value has the wrong dtype: expected float32, got float16" in failures(WrongDtype())[0]
    assert "value has the wrong shape: expected ()" in "".join(failures(WrongShape()))


def test_the_frozen_vectors_are_what_the_reference_gives() -> None:
    found = vectors.compare_with_frozen(vectors.load())
    assert found.changed == found.new == ()
    assert vectors.frozen_version() == SPEC_VERSION


def test_what_is_withdrawn_is_gone() -> None:
    here = {f"{vector.call.loss}: {vector.name}" for vector in vectors.load()}
    assert not here & set(vectors.WITHDRAWN)


def test_every_dtype_has_vectors() -> None:
    for dtype in DTYPES:
        assert sum(dtype in vector.dtypes for vector in vectors.load()) > 300


@pytest.fixture
def copy_of_the_suite(tmp_path: Path) -> Path:
    """The installed suite in a folder of its own, where it can be damaged."""
    package = Path(vectors.__file__).parent
    shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run_command(folder: Path, module: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def run_suite(folder: Path) -> subprocess.CompletedProcess[str]:
    options = ["--backend", "hemspec_conformance.adapters.numpy", "--workers", "1", "--only", "cross_entropy_loss/*"]
    return run_command(folder, "hemspec_conformance.cli", *options)


def test_a_vector_that_was_edited_fails_the_run(copy_of_the_suite: Path) -> None:
    path = copy_of_the_suite / "hemspec_conformance" / "vectors" / "hem.json"
    path.write_text(path.read_text().replace("1.5", "1.25", 1))
    run = run_suite(copy_of_the_suite)
    assert run.returncode == 2
    assert "vectors are never edited" in run.stderr


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
    assert run.returncode == 2
    assert f"vectors are left of the {vectors.AT_LEAST} of the specification" in run.stderr


def test_the_generator_does_not_edit_a_vector(copy_of_the_suite: Path) -> None:
    """Whoever changes what a case asks is told to give it a new name; a case that is added is frozen."""
    cases = copy_of_the_suite / "hemspec_conformance" / "cases.py"
    text = cases.read_text()
    assert text.count("4.375] * 7") == 1
    cases.write_text(text.replace("4.375] * 7", "4.25] * 7"))
    before = (copy_of_the_suite / "hemspec_conformance" / "vectors" / "hem.json").read_text()
    run = run_command(copy_of_the_suite, "hemspec_conformance.vectors")
    assert run.returncode == 1
    assert "a vector is never edited" in run.stderr
    assert "hem_loss: error_a_little_below_the_mean" in run.stderr
    assert (copy_of_the_suite / "hemspec_conformance" / "vectors" / "hem.json").read_text() == before

    cases.write_text(text.replace('"error_a_little_below_the_mean"', '"another_name"'))
    run = run_command(copy_of_the_suite, "hemspec_conformance.vectors")
    assert "hem_loss: error_a_little_below_the_mean (no longer made)" in run.stderr
    cases.write_text(text + "\nCASES = [*CASES, replace(CASES[0], name='one_more')]\n")
    run = run_command(copy_of_the_suite, "hemspec_conformance.vectors")
    assert "1 of them new" in run.stdout
    run = run_command(copy_of_the_suite, "hemspec_conformance.vectors", "--check")
    assert run.returncode == 0


def test_under_pytest_a_run_that_stops_early_fails(copy_of_the_suite: Path) -> None:
    """Tests that were collected and never ran count as missing."""
    module = copy_of_the_suite / "hemspec_conformance" / "test_conformance.py"
    module.write_text(module.read_text().replace("range(len(checks)), ids=[check.id for check in checks]", "range(9)"))
    options = ["-q", "-p", "no:cacheprovider", *UNDER_PYTEST]
    run = run_command(copy_of_the_suite, "pytest", *options, "--backend", "hemspec_conformance.adapters.numpy")
    assert run.returncode == 1, run.stdout
    assert "4 passed, 5 skipped" in run.stdout  # the reference offers no derivatives of its gradient
    assert "checks did not run" in run.stdout


def test_under_pytest_without_a_backend_nothing_passes(tmp_path: Path) -> None:
    run = run_command(tmp_path, "pytest", "-q", "-p", "no:cacheprovider", *UNDER_PYTEST)
    assert run.returncode != 0
    assert "these tests need the module of an adapter" in run.stdout
