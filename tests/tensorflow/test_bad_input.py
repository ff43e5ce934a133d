"""What cannot be right is an error where it can be read, and a NaN loss where it cannot; never a plausible number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
import tensorflow as tf

from hemspec.tensorflow import (
    cross_entropy_loss,
    dice_loss,
    focal_loss,
    hem_loss,
    logit_adjusted_loss,
    logit_norm_loss,
    multi_margin_loss,
)

Z = np.array([[0.0, 2.0, 1.0, 0.5], [1.0, 1.5, 0.0, -3.0]], np.float32)
Y = np.array([0, 0])
NAN = float("nan")

WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "integer logits": (lambda: hem_loss(Z.astype(int), Y), TypeError, "logits must be floating point.*got int64"),
    "no logits": (lambda: hem_loss(None, Y), TypeError, "logits must be a tensor or an array; got NoneType"),
    "ragged logits": (lambda: hem_loss(tf.ragged.constant([[1.0], [2.0, 3.0]]), Y), TypeError, "logits.*RaggedTensor"),
    "scalar logits": (lambda: hem_loss(1.0, 0), ValueError, "logits must have a class axis"),
    "one class": (lambda: hem_loss(Z[:, :1], Y), ValueError, "at least 2 classes.*two logits, one per class"),
    "axis": (lambda: hem_loss(Z, Y, axis=2), ValueError, r"axis must lie in \[-2, 2\)"),
    "axis type": (lambda: hem_loss(Z, Y, axis="class"), TypeError, "axis must be an integer"),
    "float labels": (lambda: hem_loss(Z, [0.5, 1.0]), TypeError, "labels must hold integer class indices.*float32"),
    "bool labels": (lambda: hem_loss(Z, [True, False]), TypeError, "labels must hold integer class indices.*bool"),
    "one-hot labels": (lambda: hem_loss(Z, np.eye(4, dtype=int)[Y]), ValueError, "labels.*one-hot labels"),
    "labels (N, 1)": (lambda: hem_loss(Z, Y[:, None]), ValueError, "squeeze axis 1 of labels"),
    "too few labels": (lambda: hem_loss(Z, Y[:1]), ValueError, r"expected \(2,\).*got \(1,\)"),
    "label too large": (lambda: hem_loss(Z, [0, 4]), ValueError, r"labels must lie in \[0, 4\).*got 4 at index 1"),
    "negative label": (lambda: hem_loss(Z, [-1, 0]), ValueError, "got -1 at index 0"),
    "uint64 label": (
        lambda: hem_loss(Z, np.uint64([2**64 - 100, 0])),
        ValueError,
        "got 18446744073709551516 at index 0",
    ),
    "weights' shape": (lambda: hem_loss(Z, Y, sample_weight=[[1.0, 1.0]]), ValueError, r"sample_weight.*got \(1, 2\)"),
    "one weight": (lambda: hem_loss(Z, Y, sample_weight=1.0), ValueError, r"sample_weight.*got \(\)"),
    "weights' dtype": (lambda: hem_loss(Z, Y, sample_weight=["a", "b"]), TypeError, "sample_weight.*got string"),
    "negative weight": (
        lambda: hem_loss(Z, Y, sample_weight=[1.0, -1.0]),
        ValueError,
        "sample_weight.*-1.0 at index 1",
    ),
    "NaN weight": (lambda: hem_loss(Z, Y, sample_weight=[NAN, 1.0]), ValueError, "sample_weight.*nan at index 0"),
    "negative margin": (lambda: hem_loss(Z, Y, margin=-1.0), ValueError, "margin must be finite and >= 0; got -1.0"),
    "NaN margin": (lambda: multi_margin_loss(Z, Y, margin=tf.constant(NAN)), ValueError, "margin must be finite"),
    "too few margins": (lambda: hem_loss(Z, Y, margin=[1.0, 2.0]), ValueError, r"margin.*\(4,\).*got shape \(2,\)"),
    "named margin": (lambda: hem_loss(Z, Y, margin="large"), TypeError, "margin must be a real number"),
    "gamma": (lambda: focal_loss(Z, Y, gamma=-0.5), ValueError, "gamma must be finite and >= 0"),
    "alpha": (lambda: focal_loss(Z, Y, alpha=0.25), ValueError, r"alpha must be a vector.*got shape \(\)"),
    "temperature": (lambda: logit_norm_loss(Z, Y, temperature=0), ValueError, "temperature must be finite and > 0"),
    "counts": (
        lambda: logit_adjusted_loss(Z, Y, class_counts=[1, 2, 0, 4]),
        ValueError,
        "class_counts.*0.0 at index 2",
    ),
    "smooth": (lambda: dice_loss(Z, Y, smooth=-1.0), ValueError, "smooth must be finite and >= 0"),
    "batch": (lambda: dice_loss(Z, Y, batch=1), TypeError, "batch must be True or False"),
    "ignore_index": (lambda: hem_loss(Z, Y, ignore_index=1.5), TypeError, "ignore_index must be an integer or None"),
    "reduction": (
        lambda: hem_loss(Z, Y, reduction="avg"),
        ValueError,
        "'none', 'sum', 'mean', 'active_mean'; got 'avg'",
    ),
    "active_mean": (lambda: cross_entropy_loss(Z, Y, reduction="active_mean"), ValueError, "only HEM and multi-class"),
    "terms": (lambda: hem_loss.terms(Z, Y, reduction="sum"), ValueError, r"terms\(...\).*got 'sum'"),
    "rank": (
        lambda: tf.function(hem_loss, input_signature=[tf.TensorSpec(None), tf.TensorSpec(None, tf.int64)])(Z, Y),
        ValueError,
        "logits must have a known number of axes",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_readable(case: str) -> None:
    call, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "case", ["integer logits", "one-hot labels", "reduction", "negative margin", "too few margins"]
)
def test_what_a_trace_knows_is_an_error_in_it(case: str) -> None:
    call, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        tf.function(call)()


LOSSES: dict[str, Any] = {
    "hem": hem_loss,
    "multi-margin": multi_margin_loss,
    "cross-entropy": cross_entropy_loss,
    "focal": focal_loss,
    "logit-norm": logit_norm_loss,
    "logit-adjusted": lambda *args, **options: logit_adjusted_loss(*args, class_counts=[1, 2, 3, 4], **options),
    "dice": dice_loss,
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("mode", ["graph", "xla, sizes unknown"])
def test_unreadable_positions(evaluate: Any, mode: str, name: str) -> None:
    """NaN at a bad label or weight, with a NaN gradient in all C logits; other positions are as they would be alone."""
    z, y, w = Z[[0, 1, 0, 1]], np.array([9, 0, -1, 0]), np.array([1.0, -1.0, 1.0, 1.0])
    ((value, gradient),) = evaluate(LOSSES[name], mode, z, y, ["none"], sample_weight=w)
    assert np.isnan(value[:3]).all()
    assert np.isnan(gradient[:3]).all()
    np.testing.assert_allclose(value[3], LOSSES[name](Z[1:], Y[1:], reduction="none")[0], rtol=1e-6)
    assert np.isfinite(gradient[3]).all()


BAD_CONSTANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "margin": (hem_loss, {"margin": -1.0}),
    "margin, inf": (multi_margin_loss, {"margin": np.inf}),
    "margins": (hem_loss, {"margin": [1.0, NAN, 1.0, 1.0]}),
    "gamma": (focal_loss, {"gamma": -1.0}),
    "alpha": (focal_loss, {"alpha": [1.0, -1.0, 1.0, 1.0]}),
    "T": (logit_norm_loss, {"temperature": 0.0}),
    "LA's T": (logit_adjusted_loss, {"temperature": -1.0, "class_counts": [1.0, 1.0, 1.0, 1.0]}),
    "counts": (logit_adjusted_loss, {"temperature": 1.0, "class_counts": [1.0, 0.0, 1.0, 1.0]}),
    "smooth": (dice_loss, {"smooth": -1.0}),
}


@pytest.mark.parametrize("case", BAD_CONSTANTS)
@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
def test_unreadable_constant(case: str, xla: bool) -> None:
    loss, constants = BAD_CONSTANTS[case]

    @tf.function(jit_compile=xla)
    def value_and_gradient(z: Any, constants: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = loss(z, Y, **constants)
        return value, tape.gradient(value, z)

    value, gradient = value_and_gradient(tf.constant(Z), {name: tf.constant(c) for name, c in constants.items()})
    assert np.isnan(value)
    assert np.isnan(gradient).all()


@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize(
    ("classes", "labels"),
    [(3, [0, 0]), (5, [0, 0]), (4, [0]), (4, [-100]), (4, [0, 0, 0])],
    ids=["too many margins", "too few margins", "one label", "one ignored label", "too many labels"],
)
def test_sizes_that_turn_out_not_to_match(classes: int, labels: list[int], xla: bool) -> None:
    """Broadcasting would make sense of some of them."""
    specs = [tf.TensorSpec([None, None]), tf.TensorSpec([None], tf.int64)]

    @tf.function(input_signature=specs, jit_compile=xla)
    def loss(z: Any, y: Any) -> Any:
        return hem_loss(z, y, margin=[1.0, 1.0, 1.0, 1.0])

    np.testing.assert_allclose(loss(Z, Y), hem_loss(Z, Y))
    try:
        value = loss(np.resize(Z, (2, classes)), labels).numpy()
    except tf.errors.InvalidArgumentError:
        return
    assert np.isnan(value)


@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
def test_one_class_that_tracing_did_not_see(xla: bool) -> None:
    specs = [tf.TensorSpec([None, None]), tf.TensorSpec([None], tf.int64)]
    loss = tf.function(lambda z, y: hem_loss(z, y), input_signature=specs, jit_compile=xla)
    assert np.isnan(loss(Z[:, :1], Y))


def test_weights_that_turn_out_not_to_match() -> None:
    specs = [tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int64), tf.TensorSpec([None])]
    loss = tf.function(lambda z, y, w: hem_loss(z, y, sample_weight=w), input_signature=specs)
    assert np.isnan(loss(Z, Y, [1.0]))


def test_a_label_out_of_range_where_nothing_reads_it() -> None:
    """Neither at weight 0 nor where ignored; and a gather would have crashed."""
    loss = tf.function(lambda z, y, w: hem_loss(z, y, sample_weight=w, reduction="none", margin=[1.0, 2.0, 3.0, 4.0]))
    assert loss(Z, tf.constant([1000, 0]), tf.constant([0.0, 1.0])).numpy().tolist() == [0.0, 1.5]
