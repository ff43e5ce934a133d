"""The diagnostics of the reference, counted by hand, and the laws they share with the losses."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from hemspec import hem_diagnostics, hem_loss

LOGITS = np.array(
    [
        [0.0, 2.0, 1.0, 0.2],  # e = 0, 3, 2, 1.2: keeps 3 and 2
        [9.0, 0.0, 0.0, 0.0],  # satisfied
        [1.0, 1.5, 0.0, -3.0],  # e = 0, 1.5, 0, 0
        [0.0, 0.0, 0.0, 0.0],  # e = 0, 1, 1, 1: keeps all
    ]
)
LABELS = np.zeros(4, int)


def test_counted_by_hand() -> None:
    got = hem_diagnostics.terms(LOGITS, LABELS)
    assert got == {"active_fraction": (3, 4), "kept_errors": (2 + 1 + 3, 3), "margin_satisfied": (0 + 3 + 2 + 0, 12)}
    assert hem_diagnostics(LOGITS, LABELS) == {"active_fraction": 0.75, "kept_errors": 2.0, "margin_satisfied": 5 / 12}


def test_weights_repeat_and_ignored_positions_are_not_there() -> None:
    labels, weights = np.array([0, 0, -100, 0]), np.array([2.0, 1.0, 5.0, 0.0])
    assert hem_diagnostics(LOGITS, labels, sample_weight=weights) == hem_diagnostics(LOGITS[[0, 0, 1]], LABELS[:3])


def test_active_is_what_active_mean_divides_by() -> None:
    rng = np.random.default_rng(0)
    z, y, w = rng.normal(size=(6, 4, 5)), rng.integers(0, 4, (6, 5)), rng.integers(0, 3, (6, 5))
    options = {"margin": [0.5, 2.0, 0.0, 1.0], "axis": 1, "sample_weight": w}
    active, _ = hem_diagnostics.terms(z, y, **options)["active_fraction"]
    assert active == hem_loss.terms(z, y, **options)[1]


def test_nothing_to_count_and_nan() -> None:
    for empty in (hem_diagnostics(LOGITS[:0], LABELS[:0]), hem_diagnostics(LOGITS[:1], [-100])):
        assert list(empty.values()) == [0.0, 0.0, 0.0]
    spoilt = LOGITS.copy()
    spoilt[1, 2] = np.nan
    assert all(np.isnan(value) for value in hem_diagnostics(spoilt, LABELS).values())
    assert hem_diagnostics(spoilt, [0, -100, 0, 0])["active_fraction"] == 1.0


def test_dtype_is_that_of_the_loss() -> None:
    for dtype, expected in ((np.float16, np.float32), (np.float32, np.float32), (np.float64, np.float64)):
        assert {value.dtype for value in hem_diagnostics(LOGITS.astype(dtype), LABELS).values()} == {np.dtype(expected)}


def test_arguments_are_checked_and_those_of_the_loss() -> None:
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 4\)"):
        hem_diagnostics(LOGITS, [0, 4, 0, 0])
    shared = list(inspect.signature(hem_loss).parameters)
    assert list(inspect.signature(hem_diagnostics).parameters) == [name for name in shared if name != "reduction"]
