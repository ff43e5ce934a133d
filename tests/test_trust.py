"""Every backend answers as the reference, whatever it is asked, and the same bits in every run and process.

Each framework runs in processes of its own, two at a time: one is also asked random calls (`nox -s fuzz` asks more).
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hemspec_conformance.plugin")
pytest.importorskip("ml_dtypes", reason="calls are drawn in bfloat16 too")

PROGRAM = Path(__file__).parent / "trust" / "answers.py"


@pytest.mark.parametrize("framework", ["numpy", "torch", "tensorflow", "jax"])
def test_right_and_the_same_in_two_processes(framework: str) -> None:
    backends = [framework] if framework == "numpy" else [framework, f"keras-{framework}"]
    for package in (framework, *(["keras"] if len(backends) > 1 else [])):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    first, second = answers_of_two_processes(framework, backends)
    assert first["failures"] == [], "\n".join(first["failures"])
    assert first["hashes"].keys() == second["hashes"].keys()
    assert {name.split()[0] for name in first["hashes"]} == set(backends)
    for name, twice in first["hashes"].items():
        assert len({*twice, *second["hashes"][name]}) == 1, f"{name}: other bits in another run or process"


def answers_of_two_processes(framework: str, backends: list[str]) -> list[dict[str, Any]]:
    """Beside each other, each with two threads."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "OMP_NUM_THREADS": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), "2", fuzz, *backends],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **quiet, "KERAS_BACKEND": framework},
        )
        for fuzz in ("1", "0")
    ]
    said = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, said, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(output.splitlines()[-1]) for output, _ in said]
