"""The TensorFlow losses and their gradients are the reference's, in every mode TensorFlow runs in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import hemspec

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
import hemspec.tensorflow

C = 5
CASES = {
    "hem": ("hem_loss", {}),
    "hem, margins": ("hem_loss", {"margin": [0.5, 1.0, 2.0, 0.0, 1.5]}),
    "multi-margin": ("multi_margin_loss", {"margin": [0.5, 1.0, 2.0, 0.0, 1.5]}),
    "cross-entropy": ("cross_entropy_loss", {}),
    "focal": ("focal_loss", {"gamma": 0.5, "alpha": [1.0, 2.0, 0.5, 0.0, 1.0]}),
    "focal, gamma 0": ("focal_loss", {"gamma": 0}),
    "logit-norm": ("logit_norm_loss", {"temperature": 0.3}),
    "logit-adjusted": ("logit_adjusted_loss", {"class_counts": [5, 4, 3, 2, 1], "temperature": 0.7}),
    "dice": ("dice_loss", {}),
    "dice, batch": ("dice_loss", {"batch": True, "smooth": 1.0}),
}
MARGIN_LOSSES = ("hem_loss", "multi_margin_loss")


def reductions(name: str) -> list[str]:
    return ["none", "sum", "mean", *(["active_mean"] if name in MARGIN_LOSSES else [])]


def batch(rng: np.random.Generator, *, bad: bool) -> tuple[Any, Any, Any]:
    """Logits (4, C, 3), labels and weights (4, 3), with positions that do not exist; bad ones exist if `bad`."""
    z = 2.0 * rng.normal(size=(4, C, 3))
    y = rng.integers(0, C, (4, 3))
    w = rng.uniform(0.5, 2.0, (4, 3))
    y[0, 1], z[0, :, 1] = -100, np.nan  # ignored
    w[1, 1], z[1, 2, 1], y[1, 1] = 0.0, np.inf, 99  # weight 0, its label is not looked at either
    y[2, 2], z[2, :, 2] = 1, [-np.inf, 1.0, 2.0, 3.0, 0.5]  # a masked class
    y[3, 0], z[3, :, 0] = 0, [5.0, -np.inf, -np.inf, -np.inf, -np.inf]  # no rival
    z[0, :, 2] = 7.0  # all equal
    if bad:
        y[2, 0], z[2, 0, 0] = 0, -np.inf  # the true class is impossible
        z[3, 2, 1] = np.nan
        z[3, 1, 2] = np.inf
        z[2, :, 1] = -np.inf
    return z, y, w


def check(
    evaluate: Any, mode: str, case: str, z: Any, y: Any, axis: int, asked: list[str] | None = None, **options: Any
) -> None:
    """Value and gradient of every reduction, or of those asked for: when traced, each takes its time."""
    name, constants = CASES[case]
    asked = asked or reductions(name)
    results = evaluate(getattr(hemspec.tensorflow, name), mode, z, y, asked, axis=axis, **constants, **options)
    reference = getattr(hemspec, name)
    rtol = 1e-11 if z.dtype == np.float64 else 2e-5
    for reduction, (value, gradient) in zip(asked, results, strict=True):
        arguments = {"axis": axis, "reduction": reduction, **constants, **options}
        expected = reference(z, y, **arguments)
        assert value.dtype == expected.dtype
        np.testing.assert_allclose(value, expected, rtol=rtol, atol=rtol / 10, err_msg=f"value, {reduction}")
        expected = reference.gradient(z, y, **arguments)
        np.testing.assert_allclose(gradient, expected, rtol=rtol, atol=rtol / 10, err_msg=f"gradient, {reduction}")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bad", [False, True], ids=["finite", "bad rows"])
def test_eager(evaluate: Any, rng: np.random.Generator, case: str, bad: bool) -> None:
    z, y, w = batch(rng, bad=bad)
    check(evaluate, "eager", case, z, y, 1, sample_weight=w)
    z2, y2 = np.moveaxis(z, 1, 2), np.where(y == -100, 2, y)
    check(evaluate, "eager", case, z2, y2, -1, sample_weight=w > 1, ignore_index=2)
    y = np.where(y == 99, 0, y)
    check(evaluate, "eager", case, z, y, 1)
    check(evaluate, "eager", case, np.moveaxis(z, 1, 0), y, 0, sample_weight=w[:, 0])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", ["graph, sizes unknown", "xla, sizes unknown"])
def test_traced(evaluate: Any, rng: np.random.Generator, mode: str, case: str) -> None:
    """Bad rows included: they must not spoil the others."""
    z, y, w = batch(rng, bad=True)
    check(evaluate, mode, case, z, y, 1, ["none"], sample_weight=w)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_traced_without_weights(evaluate: Any, rng: np.random.Generator, mode: str, case: str) -> None:
    """In float32 under XLA, where NaN gets lost most easily: in exp, and in a mask cast to numbers times NaN."""
    z, y, _ = batch(rng, bad=True)
    z = z.astype(np.float32 if mode == "xla" else np.float64)
    check(evaluate, mode, case, np.moveaxis(z, 1, -1), np.where(y == 99, 0, y), -1, ["none"])


@pytest.mark.parametrize(("case", "reduction"), [("hem", "active_mean"), ("dice", "mean")])
def test_traced_averages(evaluate: Any, rng: np.random.Generator, traced_mode: str, case: str, reduction: str) -> None:
    z, y, w = batch(rng, bad=False)
    check(evaluate, traced_mode, case, z, y, 1, [reduction], sample_weight=w)


@pytest.mark.parametrize("case", CASES)
def test_no_positions(evaluate: Any, case: str) -> None:
    z, y = np.zeros((0, 3, C)), np.zeros((0, 3), np.int64)
    check(evaluate, "eager", case, z, y, -1, sample_weight=np.zeros((0, 3)))


@pytest.mark.parametrize("case", CASES)
def test_nothing_valid(evaluate: Any, rng: np.random.Generator, case: str) -> None:
    z, y, w = batch(rng, bad=True)
    check(evaluate, "eager", case, z, np.full_like(y, -100), 1)
    check(evaluate, "eager", case, z, y, 1, sample_weight=np.zeros_like(w))


@pytest.mark.parametrize("case", ["hem", "dice"])
@pytest.mark.parametrize("rows", [0, 4])
def test_nothing_valid_traced(evaluate: Any, rng: np.random.Generator, traced_mode: str, case: str, rows: int) -> None:
    z, y, _ = batch(rng, bad=True)
    name, constants = CASES[case]
    loss = getattr(hemspec.tensorflow, name)
    z, y = z[:rows], np.full_like(y[:rows], -100)
    for value, gradient in evaluate(loss, traced_mode, z, y, ["mean"], axis=1, **constants):
        assert value == 0
        assert not gradient.any()


@pytest.mark.parametrize("case", CASES)
def test_one_position(evaluate: Any, rng: np.random.Generator, case: str) -> None:
    check(evaluate, "eager", case, rng.normal(size=C), np.int64(3), -1)
    check(evaluate, "eager", case, rng.normal(size=C), np.int64(3), 0, sample_weight=np.float64(2.0))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_precision(evaluate: Any, rng: np.random.Generator, case: str, dtype: str) -> None:
    """Half precision is computed in float32 and gives a float32 loss; the gradient is rounded once, at the end."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    z, y, w = batch(rng, bad=False)
    z = z.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    name, constants = CASES[case]
    loss = getattr(hemspec.tensorflow, name)
    results = evaluate(loss, "eager", z, y, ["none", "mean"], axis=1, sample_weight=w, **constants)
    reference = getattr(hemspec, name)
    rounding = {"float16": 2e-3, "bfloat16": 1e-2, "float32": 1e-5}[dtype]
    for reduction, (value, gradient) in zip(["none", "mean"], results, strict=True):
        arguments = {"axis": 1, "reduction": reduction, "sample_weight": w, **constants}
        assert value.dtype == np.float32
        assert gradient.dtype == z.dtype
        np.testing.assert_allclose(value, reference(z, y, **arguments), rtol=2e-5, atol=1e-6)
        expected = reference.gradient(z, y, **arguments).astype(np.float64)
        np.testing.assert_allclose(gradient.astype(np.float64), expected, rtol=rounding, atol=rounding / 100)
