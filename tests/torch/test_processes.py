"""Data parallel and class-parallel, in processes of their own: as one process that has everything. See `processes`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

SEVERAL = 16
"""Roundings between two orders of the same sums."""
LIMITS = {name: SEVERAL * torch.finfo(getattr(torch, name)).eps for name in ("float32", "float64")}


def test_processes_agree_with_one_that_has_everything() -> None:
    """One test, because the processes start once. DDP and FSDP2, accumulation, compilation, shards of the classes."""
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("this PyTorch has no gloo")
    program = Path(__file__).with_name("processes.py")
    run = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert {processes: len(checks) for processes, checks in found.items()} == {"2": 211, "3": 206, "4": 13}
    for processes, checks in found.items():
        for name, off in checks.items():
            told = f"{processes} processes, {name}: {off}"
            if "averages of averages" in name:
                assert off > 0.1, told  # what happens without a process group
            elif "beyond" in name:
                assert off == 0, told
            else:
                assert off <= LIMITS["float64" if "float64" in name else "float32"], told
