"""What the sliders compute is what the reference says."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemspec import cross_entropy_loss, hem_loss, multi_margin_loss
from hemspec.reference.hem import kept_errors, margin_errors

SCRIPT = Path(__file__).parents[2] / "docs/site/_static/hem.js"
WORKED = [
    ([0, 0, 0], 0, 1),
    ([2, 1, 0], 0, 1),
    ([1, 1.5, 0, -3], 0, 1),
    ([0, 2, 1, 0.2], 0, 1),
    ([0, 1, 1, 1, -9], 0, 0),
    ([0, 3, 5, 6, 5, 1, 1], 0, 0),
]
"""The specification's, those with infinities left out: a slider has none."""

RUN = """
const losses = require(process.argv[1]);
const answers = JSON.parse(require("fs").readFileSync(0)).map(([z, y, margin]) => ({
  hem: losses.hem(z, y, margin),
  mm: losses.multiMargin(z, y, margin),
  ce: losses.crossEntropy(z, y),
}));
console.log(JSON.stringify(answers));
"""


def calls() -> list[tuple[list[float], int, float]]:
    """Worked, and random on the sliders' grid, where ties are frequent and no error is exact."""
    rng = np.random.default_rng(20250122)
    drawn = []
    for _ in range(500):
        z = rng.integers(-40, 41, size=rng.integers(2, 9)) / 10
        drawn.append((z.tolist(), int(rng.integers(len(z))), float(rng.integers(31) / 10)))
    return [([float(value) for value in z], y, float(margin)) for z, y, margin in WORKED] + drawn


@pytest.fixture(scope="module")
def answers() -> list[dict[str, Any]]:
    node = shutil.which("node")
    if not node:
        pytest.skip("there is no node to run JavaScript")
    command = [node, "-e", RUN, str(SCRIPT)]
    done = subprocess.run(command, input=json.dumps(calls()), capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_the_script_computes_what_the_reference_does(answers: list[dict[str, Any]]) -> None:
    for (logits, label, margin), answer in zip(calls(), answers, strict=True):
        z, y = np.array([logits]), np.array([label])
        errors = margin_errors(z, y, np.array([margin]))
        assert answer["hem"]["kept"] == kept_errors(errors)[0].tolist(), (logits, label, margin)
        np.testing.assert_allclose(answer["hem"]["errors"], errors[0], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(answer["hem"]["mean"], errors.mean(), rtol=1e-12, atol=1e-12)
        for name, loss, options in (
            ("hem", hem_loss, {"margin": margin}),
            ("mm", multi_margin_loss, {"margin": margin}),
            ("ce", cross_entropy_loss, {}),
        ):
            np.testing.assert_allclose(answer[name]["value"], loss(z, y, **options), rtol=1e-12, atol=1e-12)
            slopes = loss.gradient(z, y, **options)[0]
            np.testing.assert_allclose(answer[name]["gradient"], slopes, rtol=1e-12, atol=1e-12)
