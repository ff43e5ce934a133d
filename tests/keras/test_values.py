"""Keras losses give the reference's values, whatever form labels, weights and masks come in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import hemspec

pytest.importorskip("keras", reason="Keras is not installed")
pytest.importorskip(os.environ["KERAS_BACKEND"], reason="the backend that KERAS_BACKEND names is not installed")
import keras
from keras import ops

import hemspec.keras

C = 5
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "hem": ("HEMLoss", "hem_loss", {"margin": [0.5, 1.0, 2.0, 0.0, 1.5]}),
    "multi-margin": ("MultiMarginLoss", "multi_margin_loss", {"margin": 0.5}),
    "cross-entropy": ("CrossEntropyLoss", "cross_entropy_loss", {}),
    "focal": ("FocalLoss", "focal_loss", {"gamma": 0.5, "alpha": [1.0, 2.0, 0.5, 0.0, 1.0]}),
    "logit-norm": ("LogitNormLoss", "logit_norm_loss", {"temperature": 0.3}),
    "logit-adjusted": ("LogitAdjustedLoss", "logit_adjusted_loss", {"class_counts": [5, 4, 3, 2, 1]}),
    "dice": ("DiceLoss", "dice_loss", {"smooth": 0.5}),
    "dice, batch": ("DiceLoss", "dice_loss", {"batch": True}),
}
LABEL_FORMS: dict[str, Any] = {
    "int64": lambda y: y,
    "uint8": lambda y: y.astype(np.uint8),
    "list": lambda y: y.tolist(),
    "axis of size 1": lambda y: y[..., None],
    "float32": lambda y: y.astype(np.float32),
    "float64, axis of size 1": lambda y: y.astype(np.float64)[..., None],
    "one-hot": lambda y: np.eye(C)[y],
    "one-hot, bool": lambda y: np.eye(C, dtype=bool)[y],
    "one-hot, int": lambda y: np.eye(C, dtype=np.int32)[y],
    "tensor": lambda y: ops.convert_to_tensor(y, dtype="int32"),
    "tensor, float16": lambda y: ops.convert_to_tensor(y, dtype="float16"),
    "tensor, uint8": lambda y: ops.convert_to_tensor(y, dtype="uint8"),
    "tensor, one-hot": lambda y: ops.convert_to_tensor(np.eye(C)[y], dtype="float32"),
    "tensor, one-hot, bool": lambda y: ops.convert_to_tensor(np.eye(C)[y], dtype="bool"),
}


def batch(rng: np.random.Generator) -> tuple[Any, Any, Any]:
    z = rng.normal(size=(4, 3, C)).astype(np.float32)
    y = rng.integers(0, C, (4, 3))
    w = rng.uniform(0.5, 2.0, (4, 3)).astype(np.float32)
    w[1, 1], z[1, 1] = 0.0, np.nan
    return z, y, w


def with_mask(y_pred: Any, mask: Any) -> Any:
    """Logits with the mask that a Masking or an Embedding layer would have attached to them."""
    layer = keras.layers.Masking(mask_value=-1.0)
    marked = ops.convert_to_tensor(np.where(mask, 1.0, -1.0)[..., None].astype(np.float32))
    y_pred = ops.convert_to_tensor(y_pred)
    keras.src.backend.set_keras_mask(y_pred, keras.src.backend.get_keras_mask(layer(marked)))
    return y_pred


def close(value: Any, expected: Any) -> None:
    np.testing.assert_allclose(ops.convert_to_numpy(value), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_reductions(rng: np.random.Generator, case: str) -> None:
    class_name, function_name, constants = CASES[case]
    cls, reference = getattr(hemspec.keras, class_name), getattr(hemspec, function_name)
    z, y, w = batch(rng)
    for reduction, name in [
        (None, "none"), ("none", "none"), ("sum", "sum"), ("mean", "mean"), ("mean_with_sample_weight", "mean"),
        *([("active_mean", "active_mean")] if "margin" in constants else []),
    ]:  # fmt: skip
        loss = cls(reduction=reduction, ignore_class=2, **constants)
        expected = reference(z, y, sample_weight=w, ignore_index=2, reduction=name, **constants)
        close(loss(y, z, w), expected)
        if name in ("mean", "active_mean"):
            terms = reference.terms(z, y, sample_weight=w, ignore_index=2, reduction=name, **constants)
            for value, expected in zip(loss.terms(y, z, w), terms, strict=True):
                close(value, expected)
    finite = np.nan_to_num(z)
    default = cls(**constants)
    assert default.reduction == ("active_mean" if class_name == "HEMLoss" else "mean")
    close(default(y, finite), reference(finite, y, ignore_index=None, **constants))
    close(default.call(y, finite), reference(finite, y, ignore_index=None, reduction="none", **constants))


@pytest.mark.parametrize("form", LABEL_FORMS)
@pytest.mark.parametrize("case", ["hem", "dice"])
def test_forms_of_labels(rng: np.random.Generator, case: str, form: str) -> None:
    class_name, function_name, constants = CASES[case]
    z, y, w = batch(rng)
    loss = getattr(hemspec.keras, class_name)(ignore_class=2, **constants)
    value = loss(LABEL_FORMS[form](y), z, w)
    assert float(value) == float(loss(y, z, w))
    close(value, getattr(hemspec, function_name)(z, y, sample_weight=w, ignore_index=2, **constants))


@pytest.mark.parametrize("form", ["int64", "one-hot", "axis of size 1"])
def test_class_axis(rng: np.random.Generator, form: str) -> None:
    z, y, w = batch(rng)
    expected = hemspec.hem_loss(z, y, sample_weight=w)
    y_true = LABEL_FORMS[form](y)
    if np.ndim(y_true) == 3:
        y_true = np.moveaxis(y_true, -1, 1)
    close(hemspec.keras.HEMLoss(axis=1)(y_true, np.moveaxis(z, -1, 1), w), expected)


def test_one_position() -> None:
    for y_true in (0, [0], [1, 0, 0, 0], np.float32(0.0)):
        close(hemspec.keras.HEMLoss()(y_true, [1.0, 1.5, 0.0, -3.0]), 1.5)


@pytest.mark.parametrize("case", CASES)
def test_no_positions(case: str) -> None:
    class_name, _, constants = CASES[case]
    for reduction in ("mean", "sum", "sum_over_batch_size"):
        loss = getattr(hemspec.keras, class_name)(reduction=reduction, **constants)
        assert float(loss(np.zeros((0, 3), int), np.zeros((0, 3, C), np.float32))) == 0
        assert float(loss(np.ones((4, 3), int), np.full((4, 3, C), np.nan, np.float32), np.zeros(4))) == 0


@pytest.mark.parametrize("weights", ["none", "(N,)", "(N, T)", "(N, T, 1)", "bool"])
@pytest.mark.parametrize("case", ["hem", "cross-entropy", "dice"])
def test_mask_is_weight_zero(rng: np.random.Generator, case: str, weights: str) -> None:
    class_name, function_name, constants = CASES[case]
    z, y, w = batch(rng)
    mask = rng.uniform(size=y.shape) > 0.4
    z, y = np.where(mask[..., None], np.nan_to_num(z), np.nan), np.where(mask, y, 77)
    given = {"none": None, "(N,)": w[:, 0], "(N, T)": w, "(N, T, 1)": w[..., None], "bool": w > 1}[weights]
    full = (
        np.ones_like(w)
        if given is None
        else w[:, :1]
        if weights == "(N,)"
        else np.where(w > 1, 1, 0)
        if weights == "bool"
        else w
    )
    expected = getattr(hemspec, function_name)(z, y, sample_weight=np.where(mask, full, 0), **constants)
    if weights == "(N, T)":
        given = np.where(mask, w, np.nan)  # masked is masked, whatever the weight
    close(getattr(hemspec.keras, class_name)(**constants)(y, with_mask(z, mask), given), expected)


SHAPES: dict[tuple[int, ...], list[tuple[int, ...]]] = {
    (4,): [(4,), (4, 1)],
    (4, 3): [(4,), (4, 1), (4, 1, 1), (4, 3), (4, 3, 1)],
    (4, 4): [(4,), (4, 1), (4, 4), (4, 4, 1)],
    (4, 2, 3): [(4,), (4, 1), (4, 1, 1), (4, 1, 1, 1), (4, 2, 3), (4, 2, 3, 1)],
}
"""Of labels and of the weights that go with them: one for each sample or each position, axes of size 1 at the end."""
WEIGHTED = [(shape, weights) for shape in SHAPES for weights in SHAPES[shape]]


def weighted(rng: np.random.Generator, shape: tuple[int, ...], weights: tuple[int, ...]) -> tuple[Any, Any, Any, Any]:
    """Logits, labels, weights, and the weight of each position."""
    z, y, w = rng.normal(size=(*shape, C)).astype(np.float32), rng.integers(0, C, shape), rng.uniform(1, 2, weights)
    each = w.reshape(shape) if w.size == y.size else np.broadcast_to(w.reshape(4, *[1] * (y.ndim - 1)), shape)
    return z, y, w, each


@pytest.mark.finding(13)
@pytest.mark.parametrize(("shape", "weights"), WEIGHTED)
def test_shapes_of_weights(rng: np.random.Generator, shape: tuple[int, ...], weights: tuple[int, ...]) -> None:
    z, y, w, each = weighted(rng, shape, weights)
    loss = hemspec.keras.HEMLoss()
    close(loss(np.eye(C)[y], z, w), hemspec.hem_loss(z, y, sample_weight=each))
    mask = rng.uniform(size=shape) > 0.3
    close(
        loss(y[..., None], with_mask(z, mask), ops.convert_to_tensor(w, "float32")),
        hemspec.hem_loss(z, y, sample_weight=each * mask),
    )


@pytest.mark.finding(13)
@pytest.mark.parametrize("case", CASES)
def test_one_weight_for_each_sequence(rng: np.random.Generator, case: str) -> None:
    class_name, function_name, constants = CASES[case]
    z, y, w, each = weighted(rng, (4, 3), (4, 1))
    expected = getattr(hemspec, function_name)(z, y, sample_weight=each, **constants)
    close(getattr(hemspec.keras, class_name)(**constants)(y, z, w), expected)


@pytest.mark.finding(13)
@pytest.mark.parametrize(
    ("shape", "weights"), [((4,), (4,)), ((4,), (4, 1)), *(((4, 3), weights) for weights in SHAPES[4, 3][1:])]
)
def test_shapes_of_weights_are_those_of_keras(
    rng: np.random.Generator, shape: tuple[int, ...], weights: tuple[int, ...]
) -> None:
    """Its own loss takes one weight for each sample of a sequence as (N, 1) only, and says the same of it."""
    z, y, w, _ = weighted(rng, shape, weights)
    theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    close(hemspec.keras.CrossEntropyLoss(reduction="sum_over_batch_size")(y, z, w), float(theirs(y, z, w)))


def test_square_batches_weigh_samples_not_steps(rng: np.random.Generator) -> None:
    """Keras lines (N,) weights up with the last axis where N = T."""
    z, y, w = rng.normal(size=(3, 3, C)).astype(np.float32), rng.integers(0, C, (3, 3)), np.array([1.0, 0.0, 2.0])
    expected = hemspec.cross_entropy_loss(z, y, sample_weight=np.repeat(w[:, None], 3, 1))
    close(hemspec.keras.CrossEntropyLoss()(y, z, w), expected)


@pytest.mark.parametrize("ignore_class", [None, 0, 2, -1, 255])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_sum_over_batch_size_is_keras_own(
    rng: np.random.Generator, ignore_class: int | None, masked: bool, weighted: bool
) -> None:
    """Positions neither ignored nor masked are counted, whatever their weights."""
    z, y, w = rng.normal(size=(4, 3, C)).astype(np.float32), rng.integers(0, C, (4, 3)), rng.uniform(size=(4, 3))
    if ignore_class is not None:
        y[0, 1] = y[2, 2] = ignore_class
    w[3] = 0.0
    y_pred = with_mask(z, rng.uniform(size=y.shape) > 0.4) if masked else z
    options: dict[str, Any] = {"ignore_class": ignore_class, "reduction": "sum_over_batch_size"}
    theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)
    weights = w if weighted else None
    close(hemspec.keras.CrossEntropyLoss(**options)(y, y_pred, weights), float(theirs(y, y_pred, weights)))


def test_sum_over_batch_size_counts_images_for_dice(rng: np.random.Generator) -> None:
    z, y, w = batch(rng)
    y[0] = 2
    total = hemspec.dice_loss(z, y, sample_weight=w, ignore_index=2, reduction="sum")
    loss = hemspec.keras.DiceLoss(ignore_class=2, reduction="sum_over_batch_size")
    close(loss(y, z, w), total / 3)


def test_sum_over_batch_size_in_float64(rng: np.random.Generator, backend: str) -> None:
    """TensorFlow divides no float64 by a count in float32."""
    if backend == "jax":
        pytest.skip("JAX computes in 32 bits unless it is told otherwise")
    z, y = rng.normal(size=(4, 3, C)), rng.integers(0, C, (4, 3))
    loss = hemspec.keras.HEMLoss(reduction="sum_over_batch_size")
    expected = hemspec.hem_loss(z, y, reduction="mean")
    numerator, denominator = loss.terms(y, z)
    for value in (loss(y, z), numerator / denominator):
        assert "float64" in str(value.dtype)
        close(value, expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_precision_depends_on_the_logits_only(rng: np.random.Generator, backend: str, dtype: str) -> None:
    if backend == "jax" and dtype == "float64":
        pytest.skip("JAX computes in 32 bits unless it is told otherwise")
    z, y, _ = batch(rng)
    z = ops.cast(np.nan_to_num(z), dtype)
    loss = hemspec.keras.HEMLoss(dtype="float16")(y, z)
    assert keras.backend.standardize_dtype(loss.dtype) == ("float64" if dtype == "float64" else "float32")
    close(loss, hemspec.hem_loss(ops.convert_to_numpy(ops.cast(z, "float32")), y))


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_labels_are_compared_as_integers(backend: str, dtype: str) -> None:
    """-100 and 156 are the same eight bits."""
    y = np.array([3, 156 if dtype != "int8" else -100, 7]).astype(dtype)
    loss = hemspec.keras.HEMLoss(ignore_class=-100, reduction="none")
    # Keras has no uint16 and uint64 on PyTorch.
    tensor = [] if backend == "torch" and dtype in ("uint16", "uint64") else [ops.convert_to_tensor(y)]
    for y_true in (y, *tensor):
        assert ops.convert_to_numpy(loss(y_true, np.zeros((3, 200), np.float32))).tolist() == [1, dtype != "int8", 1]


def test_large_class_ids_survive() -> None:
    """bfloat16 has no 257, nor float16 a 2049."""
    z = np.zeros((2, 5000), np.float32)
    z[0, 4097] = z[1, 257] = 9.0
    for y_true in ([4097, 257], [4097.0, 257.0], np.float64([[4097.0], [257.0]])):
        assert float(hemspec.keras.HEMLoss()(y_true, ops.cast(z, "bfloat16"))) == 0


def test_keras_variables_are_tensors() -> None:
    loss = hemspec.keras.HEMLoss(margin=keras.Variable([1.0, 1.0, 1.0, 1.0]))
    assert loss.margin == [1.0] * 4
    y_true = keras.Variable([0], dtype="int32", trainable=False)
    close(loss(y_true, keras.Variable([[1.0, 1.5, 0.0, -3.0]]), keras.Variable([2.0], trainable=False)), 1.5)


@pytest.mark.parametrize("label", [2**31, 2**32, 2**32 + 1, -(2**32)])
def test_labels_beyond_32_bits(label: int) -> None:
    """Are no class, on JAX neither, and are what is ignored if that is what they are."""
    z = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=f"y_true must lie in .*got {label} at index 1"):
        hemspec.keras.HEMLoss()(np.array([0, label]), z)
    loss = hemspec.keras.HEMLoss(ignore_class=label, reduction="none")
    assert ops.convert_to_numpy(loss(np.array([0, label]), z)).tolist() == [1, 0]
    assert ops.convert_to_numpy(loss(np.array([0, 1]), z)).tolist() == [1, 1]


def test_minus_100_alone_is_ignored() -> None:
    loss = hemspec.keras.HEMLoss(ignore_class=-100, reduction="none")
    y = np.array([100, -100, 0])
    assert ops.convert_to_numpy(loss(y, np.zeros((3, 101), np.float32))).tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="got 100 at index 0"):
        loss(y, np.zeros((3, 3), np.float32))


@pytest.mark.parametrize("case", ["hem", "dice"])
def test_nothing_handed_in_is_written_to(rng: np.random.Generator, case: str) -> None:
    class_name, _, constants = CASES[case]
    loss = getattr(hemspec.keras, class_name)(ignore_class=2, **constants)
    z, y, w = batch(rng)
    mask = rng.uniform(size=y.shape) > 0.4
    for y_true in (y, y.astype(np.float32), np.eye(C)[y], y[..., None]):
        handed = [y_true, z, w.astype(np.float64)]
        before = [array.copy() for array in handed]
        loss(*handed)
        loss(handed[0], with_mask(np.nan_to_num(z), mask), handed[2])
        hemspec.keras.KeptErrors(ignore_class=2).update_state(*handed)
        for array, kept in zip(handed, before, strict=True):
            np.testing.assert_array_equal(array, kept)
            assert array.flags.writeable
    as_tensors = [ops.convert_to_tensor(array) for array in (y, z, w)]
    loss(*as_tensors)
    for tensor, array in zip(as_tensors, (y, z, w), strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(tensor), array)


@contextlib.contextmanager
def without_float64(backend: str) -> Iterator[str | None]:
    """Where nothing may become float64 but what is read on the CPU. Gives the device to compute on."""
    if backend != "torch":  # JAX warns of float64 that it is asked for, which is an error in these tests
        yield None
        return
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Refuse(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = function(*args, **(kwargs or {}))
            for leaf in tree_leaves(made):
                if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64 and leaf.device.type != "cpu":
                    raise TypeError(f"{function} makes float64 on a device that has none")
            return made

    with Refuse(), keras.device("meta"):
        yield "meta"


@pytest.mark.finding(9)
@pytest.mark.parametrize("case", [*CASES, "metrics"])
def test_devices_without_float64(rng: np.random.Generator, backend: str, case: str) -> None:
    """Apple's, which Keras picks on PyTorch by itself; weights and labels of NumPy are in float64 as they come."""
    if backend == "tensorflow":
        pytest.skip("TensorFlow says of no tensor that it may not be float64")
    z, y, w = batch(rng)
    mask = rng.uniform(size=y.shape) > 0.4
    with without_float64(backend) as device:
        if case == "metrics":
            called = [metric.update_state for metric in hemspec.keras.HEMLoss(margin=[1.0] * C).metrics()]
        else:
            class_name, _, constants = CASES[case]
            options: list[Any] = ["sum_over_batch_size", "mean", "none"]
            losses = [getattr(hemspec.keras, class_name)(reduction=name, **constants) for name in options]
            called = [*losses, losses[1].terms]
        for call in called:
            plain, marked = ops.convert_to_tensor(np.nan_to_num(z)), with_mask(np.nan_to_num(z), mask)
            value = call(y.astype(np.uint16), plain, w.astype(np.float64))
            value = call(np.eye(C)[y], marked, w[:, 0].astype(np.float64))
            value = call(y.astype(np.float64), marked)
        if device is not None and case != "metrics":
            assert value[0].device.type == device


@pytest.mark.finding(9)
@pytest.mark.skipif(os.environ["KERAS_BACKEND"] != "tensorflow", reason="TensorFlow's graphs")
@pytest.mark.parametrize("case", CASES)
def test_graphs_without_float64(rng: np.random.Generator, case: str) -> None:
    import tensorflow as tf

    class_name, _, constants = CASES[case]
    loss = getattr(hemspec.keras, class_name)(**constants)
    z, y, w = batch(rng)

    def step(y_pred: Any) -> Any:
        return loss(y, y_pred, w.astype(np.float64)), loss(np.eye(C)[y], with_mask(y_pred, y > 0), w[:, :1])

    graph = tf.function(step).get_concrete_function(tf.TensorSpec(z.shape)).graph
    made = {output.dtype for operation in graph.get_operations() for output in operation.outputs}
    assert tf.float32 in made
    assert tf.float64 not in made
