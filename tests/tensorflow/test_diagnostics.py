"""The diagnostics against the reference, however they are traced."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import hemspec

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
import tensorflow as tf

from hemspec.tensorflow import hem_diagnostics, hem_loss

MARGINS = np.array([0.5, 2.0, 0.0, 1.0], np.float32)
NAMES = ("active_fraction", "kept_errors", "margin_satisfied")


@pytest.fixture(scope="module", params=["eager", "graph", "xla", "xla, sizes unknown"])
def counted(request: pytest.FixtureRequest) -> Any:
    """``counted(logits, labels, weights, margins)``: the terms, one trace for the inputs of all tests."""

    def terms(z: Any, y: Any, w: Any, m: Any) -> Any:
        return hem_diagnostics.terms(z, y, axis=1, sample_weight=w, margin=m)

    mode = str(request.param)
    if mode == "eager":
        return terms
    shapes = [(6, 4, 5), (6, 5), (6, 5), (4,)]
    if mode.endswith("unknown"):
        shapes = [(None,) * len(shape) for shape in shapes]
    signature = [tf.TensorSpec(s, d) for s, d in zip(shapes, ("float32", "int64", "float32", "float32"), strict=True)]
    return tf.function(terms, input_signature=signature, jit_compile=mode.startswith("xla"))


def draw() -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    labels, weights = rng.integers(0, 4, (6, 5)), rng.integers(0, 3, (6, 5)).astype(np.float32)
    labels[0, 0] = -100
    labels[weights == 0] = 17
    return rng.normal(size=(6, 4, 5)).astype(np.float32), labels, weights


def test_they_are_the_references(counted: Any) -> None:
    """Infinite errors are errors, masked classes are not; a NaN makes all three NaN where it exists."""
    logits, labels, weights = draw()
    infinite = logits.copy()
    infinite[1, 3, 1], infinite[2, :3, 1] = np.inf, -np.inf
    for z in (logits, infinite, *(np.where(np.arange(6)[:, None, None] == i, np.nan, logits) for i in range(2))):
        z = z.astype(np.float32)
        got = counted(tf.constant(z), tf.constant(labels), tf.constant(weights), tf.constant(MARGINS))
        expected = hemspec.hem_diagnostics.terms(z, labels, axis=1, sample_weight=weights, margin=MARGINS)
        assert tuple(got) == NAMES
        for name in NAMES:
            np.testing.assert_allclose([x.numpy() for x in got[name]], expected[name], rtol=1e-6, err_msg=name)


def test_what_cannot_be_read_is_nan(counted: Any, request: pytest.FixtureRequest) -> None:
    logits, labels, weights = draw()
    bad_labels, bad_margins = np.where(weights > 0, 4, labels), -MARGINS
    for y, m in ((bad_labels, MARGINS), (labels, bad_margins)):
        arguments = [tf.constant(x) for x in (logits, y, weights, m)]
        if "eager" in request.node.name:
            with pytest.raises(ValueError, match=r"labels must lie in|margin must be finite"):
                counted(*arguments)
        else:
            assert all(np.isnan(counted(*arguments)[name][0]) for name in NAMES)


@pytest.mark.parametrize("xla", [False, True], ids=["eager", "xla"])
def test_many_equal_errors_are_all_kept(xla: bool) -> None:
    function = tf.function(hem_diagnostics, jit_compile=True) if xla else hem_diagnostics
    logits = np.full((1, 32_769), 0.1, np.float32)
    logits[0, 0] = 0.0
    assert float(function(tf.constant(logits), tf.constant([0]))["kept_errors"]) == 32_768


def test_nothing_to_count_is_zero() -> None:
    for count in (0, 1):
        assert set(map(float, hem_diagnostics(tf.zeros((count, 3)), -100 * np.ones(count, int)).values())) == {0.0}


@pytest.mark.parametrize(("dtype", "expected"), [("bfloat16", tf.float32), ("float64", tf.float64)])
def test_scalars_of_the_losss_dtype_without_gradient(dtype: str, expected: Any) -> None:
    z = tf.Variable(tf.cast(draw()[0][:, :, 0], dtype))
    with tf.GradientTape() as tape:
        values = list(hem_diagnostics(z, np.zeros(6, int)).values())
    assert [(value.dtype, value.shape) for value in values] == [(expected, ())] * 3
    assert tape.gradient(values, z) is None


def test_arguments_are_those_of_the_loss() -> None:
    shared = [name for name in inspect.signature(hem_loss).parameters if name != "reduction"]
    assert list(inspect.signature(hem_diagnostics).parameters) == shared
