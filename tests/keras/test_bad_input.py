"""What cannot be right is an error where it can be read, and a NaN loss where it cannot; never a plausible number."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

pytest.importorskip("keras", reason="Keras is not installed")
pytest.importorskip(os.environ["KERAS_BACKEND"], reason="the backend that KERAS_BACKEND names is not installed")
import keras
from keras import ops

import hemspec_keras.framework
from hemspec.keras import (
    ActiveFraction,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    HEMLoss,
    LogitAdjustedLoss,
    LogitNormLoss,
)

Z = np.array([[0.0, 2.0, 1.0, 0.5], [1.0, 1.5, 0.0, -3.0]], np.float32)
Y = np.array([0, 0])
SOFT = np.array([[0.9, 0.1, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
NAN = float("nan")

WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "probabilities": (lambda: HEMLoss(from_logits=False), ValueError, "takes logits only: from_logits=False"),
    "from_logits": (lambda: HEMLoss(from_logits="no"), TypeError, "from_logits must be True or False"),
    "margin": (lambda: HEMLoss(margin=-1), ValueError, "margin must be finite and >= 0; got -1.0"),
    "margins": (lambda: HEMLoss(margin=[1.0, NAN]), ValueError, "margin.*nan at index 1"),
    "matrix of margins": (lambda: HEMLoss(margin=[[1.0]]), ValueError, r"margin.*got shape \(1, 1\)"),
    "gamma": (lambda: FocalLoss(gamma=-1), ValueError, "gamma must be finite and >= 0"),
    "alpha": (lambda: FocalLoss(alpha=0.25), ValueError, "alpha must be a vector"),
    "temperature": (lambda: LogitNormLoss(temperature=0), ValueError, "temperature must be finite and > 0"),
    "counts": (lambda: LogitAdjustedLoss(class_counts=[1, 0]), ValueError, "class_counts.*0.0 at index 1"),
    "smooth": (lambda: DiceLoss(smooth=-1), ValueError, "smooth must be finite and >= 0"),
    "batch": (lambda: DiceLoss(batch=1), TypeError, "batch must be True or False"),
    "reduction": (lambda: HEMLoss(reduction="avg"), ValueError, "'active_mean', 'sum_over_batch_size'.*got 'avg'"),
    "active_mean": (lambda: CrossEntropyLoss(reduction="active_mean"), ValueError, "only HEM and multi-class margin"),
    "ignore_class": (lambda: HEMLoss(ignore_class=1.5), TypeError, "ignore_class must be an integer or None"),
    "axis type": (lambda: HEMLoss(axis="last"), TypeError, "axis must be an integer"),
    "axis": (lambda: HEMLoss(axis=2)(Y, Z), ValueError, r"axis must lie in \[-2, 2\)"),
    "positional": (lambda: HEMLoss(1.0), TypeError, "positional"),
    "integer y_pred": (lambda: HEMLoss()(Y, Z.astype(np.int32)), TypeError, "y_pred must be floating point"),
    "one class": (lambda: HEMLoss()(Y, Z[:, :1]), ValueError, "y_pred must have at least 2 classes.*two logits"),
    "y_pred (N,)": (lambda: HEMLoss()(Y, Z[0, :2]), ValueError, "y_true must lie in|y_true must hold"),
    "fractions": (lambda: HEMLoss()([0.5, 0.0], Z), ValueError, "y_true must hold integer.*got 0.5 at index 0"),
    "rounded": (
        lambda: HEMLoss()(np.float32([0, 2**24 + 1]), Z),
        ValueError,
        "got 16777216.0 at index 1: float32 has n",
    ),
    "rounded to a class": (
        lambda: HEMLoss()(ops.convert_to_tensor([257.0], "bfloat16"), np.zeros((1, 300), np.float32)),
        ValueError,
        "got 256.0 at index 0: bfloat16 has not every integer.*give an integer dtype",
    ),
    "NaN label": (lambda: HEMLoss()([0.0, NAN], Z), ValueError, "y_true must hold integer.*got nan at index 1"),
    "infinite label": (lambda: HEMLoss()([0.0, np.inf], Z), ValueError, "y_true must hold integer.*got inf at index 1"),
    "soft labels": (lambda: HEMLoss()(SOFT, Z), ValueError, r"soft labels are not supported.*\[0.9, 0.1, 0.0, 0.0\]"),
    "soft tensor": (lambda: HEMLoss()(ops.convert_to_tensor(SOFT, "float32"), Z), ValueError, "soft labels"),
    "two ones": (lambda: HEMLoss()([[1, 1, 0, 0], [1, 0, 0, 0]], Z), ValueError, "one-hot.*at index 0"),
    "no one": (lambda: HEMLoss()([[0, 0, 0, 0], [1, 0, 0, 0]], Z), ValueError, "one-hot.*at index 0"),
    "bool": (lambda: HEMLoss()([True, False], Z), TypeError, r"one-hot rows of shape \(2, 4\); got bool"),
    "words": (lambda: HEMLoss()(["a", "b"], Z), TypeError, "y_true must hold integer class indices"),
    "no labels": (lambda: HEMLoss()(None, Z), TypeError, "y_true must be a tensor or an array; got NoneType"),
    "too few labels": (lambda: HEMLoss()(Y[:1], Z), ValueError, r"y_true.*expected \(2,\).*y_pred.*got \(1,\)"),
    "too large": (lambda: HEMLoss()([0, 4], Z), ValueError, r"y_true must lie in \[0, 4\).*got 4 at index 1"),
    "too large, float": (lambda: HEMLoss()([0.0, 4.0], Z), ValueError, "y_true.*got 4 at index 1"),
    "negative": (lambda: HEMLoss()([-100, 0], Z), ValueError, "y_true.*got -100 at index 0"),
    "one weight": (lambda: HEMLoss()(Y, Z, 0.5), ValueError, r"sample_weight.*\(2,\); got \(\)"),
    "negative weight": (lambda: HEMLoss()(Y, Z, [1.0, -1.0]), ValueError, "sample_weight.*-1.0 at index 1"),
    "weights over (N, H)": (
        lambda: HEMLoss()(Y[None, None], Z[None, None], np.ones((1, 2, 1))),
        ValueError,
        r"sample_weight.*\(1, 1, 2\) or \(1,\); got \(1, 2, 1\)",
    ),
    "weights over (1, T)": (
        lambda: HEMLoss()([[0, 0], [0, 0]], np.stack([Z, Z]), np.ones((1, 2))),
        ValueError,
        r"sample_weight.*\(2, 2\) or \(2,\); got \(1, 2\)",
    ),
    "weights' shape": (lambda: HEMLoss()(Y, Z, [1.0]), ValueError, r"sample_weight.*got \(1,\)"),
    "margins' length": (lambda: HEMLoss(margin=[1.0, 2.0])(Y, Z), ValueError, r"margin.*\(4,\).*got shape \(2,\)"),
    "terms": (lambda: HEMLoss(reduction="sum").terms(Y, Z), ValueError, r"terms\(...\).*got 'sum'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_readable(case: str) -> None:
    call, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("y_true", [[0.5, 0.0], [99, 0], SOFT], ids=["fraction", "too large", "soft"])
def test_labels_of_weight_zero_are_not_looked_at(y_true: Any) -> None:
    assert float(HEMLoss()(y_true, Z, [0.0, 1.0])) == 1.5


def without_a_place_for_each_label(backend: str) -> list[tuple[Any, str]]:
    """Labels [[0], [1, 2]] or a sparse one, in every form there is, with what a message has to say."""
    scipy = pytest.importorskip("scipy.sparse", reason="SciPy is not installed")
    lists = [[0], [1, 2]]
    forms: list[tuple[Any, str]] = [
        (lists, "a tensor or an array.*pad the rows to one length"),
        (np.array(lists, dtype=object), "ndarray of objects.*pad the rows to one length"),
        (scipy.csr_matrix(np.eye(2)), r"sparse one \(csr_matrix\).*todense"),
    ]
    if backend == "tensorflow":
        import tensorflow as tf

        return [
            *forms,
            (tf.ragged.constant(lists), r"RaggedTensor: pad the rows.*to_tensor\("),
            (tf.sparse.eye(2), r"sparse one \(SparseTensor\).*tf.sparse.to_dense"),
        ]
    if backend == "jax":
        import jax.experimental.sparse

        return [*forms, (jax.experimental.sparse.eye(2), r"sparse one \(BCOO\).*todense")]
    import torch

    nested = torch.nested.nested_tensor([torch.tensor(row) for row in lists], layout=torch.jagged)
    return [
        *forms,
        (nested, "nested tensor: pad the rows.*torch.nested.to_padded_tensor"),
        (torch.eye(2).to_sparse(), r"sparse one \(Tensor\).*to_dense"),
        (torch.eye(2).to_sparse_csr(), r"sparse one \(Tensor\).*to_dense"),
    ]


@pytest.mark.finding(16)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_ragged_and_sparse(backend: str) -> None:
    z, y = np.zeros((2, 2, 3), np.float32), np.zeros((2, 2), int)
    for value, message in without_a_place_for_each_label(backend):
        for method in (HEMLoss(), HEMLoss().call, HEMLoss().terms, ActiveFraction().update_state):
            with pytest.raises((TypeError, ValueError), match=f"^y_true must be.*{message}"):
                method(value, z)
        with pytest.raises((TypeError, ValueError), match=f"^sample_weight must be.*{message}"):
            HEMLoss()(y, z, value)
        if ops.is_tensor(value):
            with pytest.raises((TypeError, ValueError), match=f"^y_pred must be.*{message}"):
                HEMLoss()(y, value)


@pytest.mark.finding(16)
@pytest.mark.skipif(os.environ["KERAS_BACKEND"] != "tensorflow", reason="TensorFlow's tensors")
def test_fit_on_ragged_labels() -> None:
    """What the message says to do works."""
    import tensorflow as tf

    labels = tf.ragged.constant([[0], [1, 2]])
    x = np.zeros((2, 2, 4), np.float32)
    model = keras.Sequential([keras.Input((2, 4)), keras.layers.Dense(3)])
    model.compile("sgd", loss=HEMLoss(ignore_class=-1))
    with pytest.raises(TypeError, match=r"y_true must be a dense tensor; got a RaggedTensor.*ignore_class=-1"):
        model.fit(x, labels, verbose=0)
    assert model.evaluate(x, labels.to_tensor(default_value=-1), verbose=0) == 1.0


def traced(loss: Any, *arguments: Any) -> Any:
    """Value and gradient in the logits, traced: where a backend traces, nothing can be read."""
    arguments = tuple(ops.convert_to_tensor(x) for x in arguments)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function
        def function(y_true: Any, y_pred: Any, *weight: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(y_pred)
                value = loss(y_true, y_pred, *weight)
            return value, tape.gradient(value, y_pred)

        value, gradient = function(*arguments)
    else:
        import jax

        function = jax.jit(jax.value_and_grad(lambda y_pred, y_true, *weight: loss(y_true, y_pred, *weight)))
        value, gradient = function(arguments[1], arguments[0], *arguments[2:])
    return ops.convert_to_numpy(value), ops.convert_to_numpy(gradient)


UNREADABLE: dict[str, Any] = {
    "too large": [4, 0],
    "negative": [-1, 0],
    "fraction": np.float32([0.5, 0.0]),
    "NaN": np.float32([NAN, 0.0]),
    "huge": np.float32([1e30, 0.0]),
    "soft": SOFT.astype(np.float32),
    "two ones": np.int32([[1, 1, 0, 0], [1, 0, 0, 0]]),
}


@pytest.mark.skipif(os.environ["KERAS_BACKEND"] == "torch", reason="Keras does not trace on PyTorch by default")
@pytest.mark.parametrize("case", UNREADABLE)
@pytest.mark.parametrize("ignore_class", [None, -1])
def test_unreadable(case: str, ignore_class: int | None) -> None:
    if case == "negative" and ignore_class == -1:
        ignore_class = -2
    value, gradient = traced(HEMLoss(reduction="sum", ignore_class=ignore_class), UNREADABLE[case], Z)
    assert np.isnan(value)
    assert np.isnan(gradient[0]).all()
    assert np.isfinite(gradient[1]).all()


@pytest.mark.skipif(os.environ["KERAS_BACKEND"] == "torch", reason="Keras does not trace on PyTorch by default")
def test_unreadable_weight() -> None:
    value, gradient = traced(HEMLoss(), Y, Z, [-1.0, 1.0])
    assert np.isnan(value)
    assert np.isnan(gradient[0]).all()


def test_another_backend_is_refused_by_name() -> None:
    with pytest.raises(ImportError, match="'tensorflow', 'jax' and 'torch'; KERAS_BACKEND is 'numpy'"):
        hemspec_keras.framework.select_framework("numpy")


@pytest.mark.skipif(os.environ["KERAS_BACKEND"] != "tensorflow", reason="only TensorFlow leaves sizes open")
def test_sizes_that_must_be_known() -> None:
    import tensorflow as tf

    def traced(*shape: int | None, rank: bool = True) -> Any:
        signature = [tf.TensorSpec(shape if rank else None, tf.int64), tf.TensorSpec([None, 4])]
        return tf.function(lambda y_true, y_pred: HEMLoss()(y_true, y_pred), input_signature=signature)

    assert float(traced(None)(Y, Z)) == float(traced(None, 1)(Y[:, None], Z)) == 2.0
    assert float(traced(None, 4)(np.eye(4)[Y], Z)) == 2.0
    with pytest.raises(ValueError, match=r"y_true of shape \(\?, \?\).*must be known"):
        traced(None, None)(Y[:, None], Z)
    with pytest.raises(ValueError, match="y_true must have a known number of axes"):
        traced(rank=False)(Y, Z)
