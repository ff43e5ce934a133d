"""What a tool that watches TensorFlow's operations sees: no NaN, no infinity, no float64, nothing written over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import hemspec

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
import tensorflow as tf

import hemspec.tensorflow

Z = np.array([[0.0, 2.0, -1.0, 0.5], [90.0, 1.5, 0.0, -300.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]], np.float32)
Y, W = np.array([0, 0, 3, -100]), np.array([1.0, 0.5, 2.0, 1.0], np.float32)
LOSSES: dict[str, dict[str, Any]] = {
    "hem_loss": {"margin": [0.5, 1.0, 2.0, 0.75]},
    "multi_margin_loss": {"margin": 1.0},
    "cross_entropy_loss": {},
    "focal_loss": {"gamma": 0.5, "alpha": [1.0, 0.0, 0.5, 3.0]},
    "logit_norm_loss": {"temperature": 0.5},
    "logit_adjusted_loss": {"class_counts": [5, 4, 3, 2], "temperature": 2.0},
    "dice_loss": {"smooth": 0.0},
}


@pytest.fixture(params=LOSSES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def step(name: str, z: Any, y: Any, w: Any, options: dict[str, Any]) -> Any:
    """Values and gradients of each kind of reduction; and the diagnostics of HEM."""
    results = []
    for reduction, weight in (("none", w), ("mean", None)):
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = getattr(hemspec.tensorflow, name)(z, y, sample_weight=weight, reduction=reduction, **options)
        results += [value, tape.gradient(value, z)]
    if name == "hem_loss":
        results += hemspec.tensorflow.hem_diagnostics(z, y, sample_weight=w, **options).values()
    return results


@pytest.fixture
def hunt() -> Iterator[None]:
    tf.debugging.enable_check_numerics()
    yield
    tf.debugging.disable_check_numerics()


@pytest.mark.finding(10)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.usefixtures("hunt")
def test_check_numerics_finds_nothing(name: str, dtype: str) -> None:
    """On finite, valid input; and it is at work, since it finds what is handed in."""
    z = tf.cast(Z, dtype)
    if name == "logit_norm_loss" and dtype == "float16":
        z += tf.cast(tf.reduce_all(z == 0, -1, keepdims=True), dtype)  # at 0 the gradient is 1e7, beyond float16
    step(name, z, Y, W, LOSSES[name])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"NaN|Inf"):
        step(name, z * tf.constant([[np.inf], [1], [1], [1]], dtype), Y, W, LOSSES[name])


@pytest.mark.finding(10)
@pytest.mark.parametrize("name", ["hem_loss", "focal_loss", "dice_loss"])
@pytest.mark.usefixtures("hunt")
def test_check_numerics_finds_nothing_in_a_graph(name: str) -> None:
    """Not even the NaN for labels that are no class, before there is such a label."""
    options = {key: tf.constant(value, tf.float32) for key, value in LOSSES[name].items()}
    function = tf.function(lambda z, y, w, options: step(name, z, y, w, options))
    function(tf.constant(Z), tf.constant(Y), tf.constant(W), options)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"NaN|Inf"):
        function(tf.constant(Z), tf.constant([0, 9, 3, -100], tf.int64), tf.constant(W), options)


def operations(graph: Any) -> list[Any]:
    inner = [function.graph for function in getattr(graph, "_functions", {}).values() if hasattr(function, "graph")]
    return list(graph.get_operations()) + [operation for other in inner for operation in operations(other)]


@pytest.mark.finding(9)
@pytest.mark.finding(10)
@pytest.mark.parametrize(
    ("constants", "xla"), [("numbers", False), ("numbers", True), ("float64 tensors", False)], ids=str
)
def test_a_graph_holds_no_bad_constant_and_no_float64(name: str, constants: str, xla: bool) -> None:
    """Besides what was handed in, and its cast: a device may have no float64. (Traced, not compiled.)"""
    options = LOSSES[name]
    if constants != "numbers":
        options = {key: tf.constant(value, tf.float64) for key, value in options.items()}
    weights = W.astype(np.float64) if constants == "numbers" else tf.TensorSpec([None], tf.float32)
    function = tf.function(lambda z, y, w, options: step(name, z, y, w, options), jit_compile=xla)
    if constants == "numbers":
        function = tf.function(lambda z, y: step(name, z, y, weights, options), jit_compile=xla)
        arguments: list[Any] = [tf.TensorSpec([None, None]), tf.TensorSpec([None], tf.int64)]
    else:
        specs = {key: tf.TensorSpec(value.shape, value.dtype) for key, value in options.items()}
        arguments = [tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int64), weights, specs]
    graph = function.get_concrete_function(*arguments).graph
    assert len(operations(graph)) > 20
    for operation in operations(graph):
        for output in operation.outputs:
            assert output.dtype != tf.float64 or operation.type == "Placeholder", operation
        if operation.type == "Const" and operation.outputs[0].dtype.is_floating:
            assert np.isfinite(tf.make_ndarray(operation.get_attr("value")).astype(np.float32)).all(), operation


@pytest.mark.finding(26)
@pytest.mark.parametrize("mode", ["eager", "graph", "variables"])
def test_nothing_that_is_handed_in_is_written_to(name: str, mode: str) -> None:
    """Operations write over an operand nobody else needs: not over an argument, nor what a variable holds."""
    wrap = tf.Variable if mode == "variables" else tf.constant
    given = [wrap(np.tile(Z, (64, 8))), wrap(np.tile(Y, 64)), wrap(np.tile(W, 64))]
    options = {
        key: wrap(np.tile(np.float32(value), 8) if np.ndim(value) else np.float32(value))
        for key, value in LOSSES[name].items()
    }
    everything = [*given, *options.values()]
    before = [x.numpy().copy() for x in everything]

    def run(z: Any, y: Any, w: Any, options: Any) -> Any:
        return step(name, z, y, w, options)

    if mode == "graph":
        tf.function(run)(*given, options)
    else:
        run(*given, options)
    for x, old in zip(everything, before, strict=True):
        np.testing.assert_array_equal(x.numpy(), old)


@pytest.mark.finding(28)
@pytest.mark.finding(29)
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int64", "uint32", "uint64"])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_labels_are_compared_as_whole_numbers(dtype: str, mode: str) -> None:
    """2^32 is not class 0, 2^31 and +100 are not -100, and none of them is a class: an error, or NaN alone."""
    beyond = [n for n in (100, -101, 156, 2**31 - 100, 2**31, 2**32, 2**32 - 100, 2**63) if n in range(*span(dtype))]
    z = np.zeros((1 + len(beyond), 5), np.float32)
    y = np.array([0, *beyond]).astype(dtype)

    def losses(z: Any, y: Any) -> Any:
        return [
            getattr(hemspec.tensorflow, name)(z, y, reduction="none", **options)
            for name, options in (("hem_loss", {}), ("cross_entropy_loss", {}), ("dice_loss", {}))
        ]

    if mode == "eager":
        for other in range(len(beyond)):
            with pytest.raises(ValueError, match=f"labels must lie in .* got {beyond[other]} at index 0"):
                losses(z[:1], y[1 + other :][:1])
        return
    for values in tf.function(losses)(tf.constant(z), tf.constant(y)):
        assert np.isfinite(values[0])
        assert np.isnan(values[1:]).all()


def span(dtype: str) -> tuple[int, int]:
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max) + 1


@pytest.mark.finding(16)
def test_what_is_no_tensor_is_told_what_to_do() -> None:
    ragged = tf.ragged.constant([[[0.0, 1.0]], [[2.0, 0.5], [1.0, 1.0]]], inner_shape=(2,))
    labels = tf.ragged.constant([[0], [1, 0]])
    for z, y, names in ((ragged, labels, "logits"), (ragged.flat_values, labels, "labels")):
        with pytest.raises(TypeError, match=f"{names} must be a tensor.*RaggedTensor.*flat_values.*to_tensor"):
            hemspec.tensorflow.hem_loss(z, y)
    expected = hemspec.hem_loss(np.array([[0.0, 1.0], [2.0, 0.5], [1.0, 1.0]]), [0, 1, 0])
    padded = labels.to_tensor(default_value=-100)
    for z, y in ((ragged.flat_values, labels.flat_values), (ragged.to_tensor(), padded)):
        np.testing.assert_allclose(hemspec.tensorflow.hem_loss(z, y), expected, 1e-6)
    with pytest.raises(TypeError, match=r"labels must be a tensor.*SparseTensor.*tf\.sparse\.to_dense"):
        hemspec.tensorflow.hem_loss(Z, tf.sparse.from_dense([0, 1, 1, 0]))
    with pytest.raises(TypeError, match=r"logits must be a tensor.*KerasTensor.*compile\(loss=\.\.\.\)"):
        hemspec.tensorflow.hem_loss(tf.keras.Input((4,)), Y)
