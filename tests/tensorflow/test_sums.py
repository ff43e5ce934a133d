"""Sums over positions and classes keep their digits at any length, in any layout, however they are compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import hemspec

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
import tensorflow as tf

import hemspec.tensorflow
from hemspec_tensorflow.sums import blocked_sum

EPS = 2.0**-23
MODES = ("eager", "graph, sizes unknown", "xla")

pytestmark = pytest.mark.finding(2)


def run(function: Any, mode: str, *arrays: Any) -> Any:
    tensors = [tf.constant(array) for array in arrays]
    if mode != "eager":
        shapes = [[None] * x.shape.rank if mode.endswith("unknown") else x.shape for x in tensors]
        signature = [tf.TensorSpec(shape, x.dtype) for shape, x in zip(shapes, tensors, strict=True)]
        function = tf.function(function, input_signature=signature, jit_compile=mode == "xla")
    return function(*tensors)


LAYOUTS = {
    "alone": ((-1,), (0, 1)),
    "last": ((3, -1), (1, 2)),
    "first": ((-1, 3), (0, 1)),
    "between": ((2, -1, 2), (1, 2)),
    "two axes": ((2, -1, 4, 3), (1, 3)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", MODES)
def test_each_number_counts_once(mode: str, layout: str) -> None:
    """Whole numbers, whose sums are exact, at lengths around every edge of a run."""
    shape, (first, end) = LAYOUTS[layout]
    rng = np.random.default_rng(0)
    for length in (0, 1, 33, 1025, 4097, 70_001) if mode == "eager" else (33, 1040) if mode == "xla" else (0, 1, 4097):
        x = rng.integers(0, 9, [length if size < 0 else size for size in shape]).astype(np.float32)
        got = run(lambda x: blocked_sum(x, first, end), mode, x)
        np.testing.assert_array_equal(got, x.sum(tuple(range(first, end)), dtype=np.float64), err_msg=str(length))


@pytest.mark.parametrize("mode", MODES)
def test_few_roundings(mode: str) -> None:
    """Equal numbers round in the same direction again and again, and small ones get lost beside a large one."""
    for length, small in ((1000, 1e-3), (1 << 17, 7.6e-6), (3_000_017, 3.3e-7), (1 << 25, 0.1)):
        if length > 1 << 17 and mode == "graph, sizes unknown" and length != 1 << 25:
            continue
        x = np.full((1, length), small, np.float32)
        x[0, 0] = 1.0
        expected = 1.0 + (length - 1) * np.float64(np.float32(small))
        alone = run(blocked_sum, mode, x[0])
        np.testing.assert_allclose(alone, expected, rtol=8 * EPS, err_msg=str(length))
        if length < 1 << 25:
            between = run(lambda x: blocked_sum(x, 1, 2), mode, np.repeat(x[..., np.newaxis], 2, -1))
            np.testing.assert_allclose(between, [[expected] * 2], rtol=8 * EPS, err_msg=str(length))


@pytest.mark.parametrize("mode", ["eager", "xla"])
@pytest.mark.parametrize("options", [{}, {"axis": 0, "batch": True}, {"axis": 1}], ids=str)
def test_dice_of_a_large_image(mode: str, options: dict[str, Any]) -> None:
    """All alike, so its answer is known: 1 - 2 p / (p + 1) = 0.02429 with p = 1 / (1 + exp(-3))."""
    z = np.zeros((1, 1 << 9, 1 << 12, 2), np.float32)
    z[..., 0] = 3.0
    y = np.zeros(z.shape[:-1], np.int32)
    z = np.moveaxis(z, -1, options.get("axis", -1))
    got = run(lambda z, y: hemspec.tensorflow.dice_loss(z, y, **options), mode, z, y)
    p = 1 / (1 + np.exp(-3.0))
    np.testing.assert_allclose(got, 1 - 2 * p / (p + 1), atol=16 * EPS)


LOSSES: dict[str, dict[str, Any]] = {
    "hem_loss": {},
    "multi_margin_loss": {},
    "cross_entropy_loss": {},
    "focal_loss": {},
    "logit_norm_loss": {"temperature": 0.5},
    "logit_adjusted_loss": {"class_counts": [3, 2, 1]},
    "dice_loss": {},
}


@pytest.mark.parametrize("mode", ["eager", "xla"])
def test_an_average_over_many_positions(mode: str) -> None:
    """Of two kinds of rows: one of weight 3 and many of a small weight. The answer is that of two rows."""
    count = (1 << 21) + 1
    z = np.tile(np.float32([[0.3, 1.7, -0.4]]), (count, 1))
    z[0] = [2.0, -1.0, 0.5]
    y, w = np.zeros(count, np.int32), np.full(count, 3e-7, np.float32)
    y[0], w[0] = 1, 3.0

    def all_of_them(z: Any, y: Any, w: Any) -> Any:
        return [
            getattr(hemspec.tensorflow, name)(z, y, sample_weight=w, reduction="mean", **options)
            for name, options in LOSSES.items()
            if name != "dice_loss"
        ]

    two = z[:2].astype(np.float64), y[:2], np.array([3.0, (count - 1) * np.float64(w[1])])
    for (name, options), got in zip(LOSSES.items(), run(all_of_them, mode, z, y, w), strict=False):
        expected = getattr(hemspec, name)(*two[:2], sample_weight=two[2], reduction="mean", **options)
        np.testing.assert_allclose(got, expected, atol=16 * EPS * max(1.0, expected), err_msg=name)


@pytest.mark.parametrize("mode", ["eager", "xla"])
def test_many_classes(mode: str) -> None:
    """One large logit beside 2^17 - 2 that weigh as much together; a prime number of classes cannot be cut evenly."""
    classes = 131_071
    several = {name: options for name, options in LOSSES.items() if name != "dice_loss"}
    z = np.full((2, classes), -np.log(classes), np.float32)
    z[:, 5] = 0.0
    y = np.array([5, 7], np.int32)

    def all_of_them(z: Any, y: Any) -> Any:
        values = []
        for name, options in several.items():
            constants = {"class_counts": np.arange(1, classes + 1)} if "class_counts" in options else options
            with tf.GradientTape() as tape:
                tape.watch(z)
                losses = getattr(hemspec.tensorflow, name)(z, y, reduction="none", **constants)
            values.append((losses, tape.gradient(losses, z)))
        return values

    for (name, options), (got, gradient) in zip(several.items(), run(all_of_them, mode, z, y), strict=True):
        constants = {"class_counts": np.arange(1, classes + 1)} if "class_counts" in options else options
        exact = z.astype(np.float64)
        expected = getattr(hemspec, name)(exact, y, reduction="none", **constants)
        tolerance = classes**0.5 * EPS
        np.testing.assert_allclose(got, expected, atol=tolerance * max(1.0, expected.max()), err_msg=name)
        slope = getattr(hemspec, name).gradient(exact, y, reduction="none", **constants)
        np.testing.assert_allclose(gradient, slope, atol=tolerance * max(1.0, abs(slope).max()), err_msg=name)
