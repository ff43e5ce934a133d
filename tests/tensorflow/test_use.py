"""TensorFlow's own losses as oracles, and what TensorFlow users do with a loss."""

from __future__ import annotations

import doctest
import pickle
from typing import Any

import numpy as np
import pytest

import hemspec

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
import tensorflow as tf

import hemspec.tensorflow
from hemspec.tensorflow import cross_entropy_loss, focal_loss, hem_loss, logit_adjusted_loss, multi_margin_loss

EXACT = {
    # z, y, margin: HEM, MM, as worked by hand in the specification
    "all equal": ([0, 0, 0], 0, 1, 1, 2 / 3),
    "inactive": ([2, 1, 0], 0, 1, 0, 0),
    "one error": ([1, 1.5, 0, -3], 0, 1, 1.5, 0.375),
    "two of three": ([0, 2, 1, 0.25], 0, 1, 2.5, 1.5625),
    "ties with the mean": ([0, 3, 5, 6, 5, 1, 1], 0, 0, 4.75, 3),
    "equal errors": ([0, 1, 1, 1, -9], 0, 0, 1, 0.6),
}


@pytest.mark.parametrize("case", EXACT)
@pytest.mark.parametrize("xla", [False, True], ids=["eager", "xla"])
def test_worked_by_hand(case: str, xla: bool) -> None:
    z, y, margin, hem, mm = EXACT[case]
    hem_value = tf.function(hem_loss, jit_compile=True) if xla else hem_loss
    assert float(hem_value(tf.constant(z, tf.float32), y, margin=margin)) == hem
    np.testing.assert_allclose(multi_margin_loss(tf.constant(z, tf.float32), y, margin=margin), mm, rtol=1e-6)


def test_many_equal_errors_all_stay() -> None:
    """The mean of 32,768 equal float32 numbers, added up one by one, can come out above all of them."""
    z = np.full((1, 32_769), 0.1, np.float32)
    z[0, 0] = 0.0
    with tf.GradientTape() as tape:
        variable = tf.Variable(z)
        loss = hem_loss(variable, [0])
    np.testing.assert_allclose(loss, 1.1, rtol=1e-5)
    assert np.count_nonzero(tape.gradient(loss, variable)) == 32_769


@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
def test_a_small_margin_between_large_logits(xla: bool) -> None:
    """The graph optimiser would like to add a constant margin to the logits first, where it gets rounded away."""
    z = tf.constant([[2.0**24, 2.0**24, 0.0]])
    for loss, expected in ((hem_loss, 0.5), (multi_margin_loss, 0.5 / 3)):
        function = tf.function(lambda z, loss: loss(z, [0], margin=0.5), jit_compile=xla)
        np.testing.assert_allclose(function(z, loss), expected, rtol=1e-6)


def test_is_an_argument_of_a_function() -> None:
    """`tf.function` would pass on what a loss wraps in its place: the numerator and the denominator."""
    step = tf.function(lambda loss, z, y: loss(z, y))
    assert float(step(hem_loss, tf.constant([[1.0, 1.5, 0.0, -3.0]]), tf.constant([0]))) == 1.5


def test_cross_entropy_is_tensorflows(rng: np.random.Generator) -> None:
    z, y = tf.constant(rng.normal(size=(6, 3, 5)) * 3), rng.integers(0, 5, (6, 3))
    expected = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=z)
    np.testing.assert_allclose(cross_entropy_loss(labels=y, logits=z, reduction="none"), expected, rtol=1e-12)


def test_zero_focusing_and_balanced_counts_are_cross_entropy(rng: np.random.Generator) -> None:
    z, y = rng.normal(size=(6, 5)), rng.integers(0, 5, 6)
    expected = cross_entropy_loss(z, y)
    np.testing.assert_allclose(focal_loss(z, y, gamma=0.0), expected, rtol=1e-12)
    np.testing.assert_allclose(logit_adjusted_loss(z, y, class_counts=[7] * 5), expected, rtol=1e-12)


def test_weight_two_is_two_copies(rng: np.random.Generator) -> None:
    z, y, w = rng.normal(size=(6, 5)), rng.integers(0, 5, 6), np.array([2, 1, 0, 3, 1, 0], np.uint8)
    for reduction in ("sum", "mean", "active_mean"):
        weighted = hem_loss(z, y, sample_weight=w, reduction=reduction)
        np.testing.assert_allclose(weighted, hem_loss(z.repeat(w, 0), y.repeat(w), reduction=reduction), rtol=1e-12)


def test_terms_add_up_over_batches(rng: np.random.Generator) -> None:
    z, y = rng.normal(size=(6, 5)), rng.integers(0, 5, 6)
    numerators, denominators = zip(*(hem_loss.terms(z[i : i + 2], y[i : i + 2]) for i in (0, 2, 4)), strict=True)
    np.testing.assert_allclose(sum(numerators) / sum(denominators), hem_loss(z, y), rtol=1e-12)


ACCUMULATED = {
    "hem_loss": {"margin": [1.0, 0.25, 3.0, 0.0, 2.0]},
    "multi_margin_loss": {},
    "cross_entropy_loss": {},
    "focal_loss": {"alpha": [1.0, 2.0, 3.0, 0.5, 1.0]},
    "logit_norm_loss": {"temperature": 0.3},
    "logit_adjusted_loss": {"class_counts": [1, 20, 300, 4, 5]},
    "dice_loss": {"smooth": 0.5},
}


@pytest.mark.parametrize("name", ACCUMULATED)
def test_micro_batches_give_the_whole_batchs_gradient(name: str, rng: np.random.Generator) -> None:
    """Of unequal sizes, one with nothing valid: numerators are differentiated, one division comes before the step."""
    loss, options = getattr(hemspec.tensorflow, name), ACCUMULATED[name]
    x, y = rng.normal(size=(6, 3, 4)), rng.integers(0, 5, (6, 3))
    w = rng.uniform(0.5, 2.0, (6, 3))
    y[0, 1], w[2, 0], y[5] = -100, 0.0, -100
    head = tf.Variable(rng.normal(size=(4, 5)))
    margin_loss = name in ("hem_loss", "multi_margin_loss")
    for reduction in ("mean", "active_mean") if margin_loss else ("mean",):
        gradient, denominator = tf.zeros_like(head), 0.0
        for rows in (slice(0, 3), slice(3, 5), slice(5, 6)):
            with tf.GradientTape() as tape:
                numerator, share = loss.terms(
                    x[rows] @ head, y[rows], sample_weight=w[rows], reduction=reduction, **options
                )
            gradient += tape.gradient(numerator, head)
            denominator += share
        with tf.GradientTape() as tape:
            whole = loss(x @ head, y, sample_weight=w, reduction=reduction, **options)
        np.testing.assert_allclose(gradient / denominator, tape.gradient(whole, head), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(
    ("dtype", "mode"),
    [(f"{kind}{bits}", "eager") for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
    + [(dtype, "xla") for dtype in ("uint8", "int32", "uint64")],
)
def test_labels_of_any_integer_dtype(dtype: str, mode: str) -> None:
    """-100 and 156 are the same eight bits; they are not the same label."""
    z = np.zeros((3, 200), np.float32)
    y = np.array([3, 156 if dtype != "int8" else -100, 7]).astype(dtype)

    def losses(z: Any, y: Any, other: int) -> Any:
        return [hem_loss(z, y, reduction="none", ignore_index=i) for i in (-100, other)]

    function = losses if mode == "eager" else tf.function(losses, jit_compile=mode == "xla")
    default, ignored = function(tf.constant(z), tf.constant(y), int(y[1]))
    assert default.numpy().tolist() == ([1.0, 0.0, 1.0] if dtype == "int8" else [1.0, 1.0, 1.0])
    assert ignored.numpy().tolist() == [1.0, 0.0, 1.0]


def test_an_ignored_label_beyond_int64() -> None:
    y = np.array([2**64 - 1, 0], np.uint64)
    assert hem_loss(np.zeros((2, 3)), y, ignore_index=2**64 - 1, reduction="none").numpy().tolist() == [0.0, 1.0]


def test_only_the_logits_are_differentiable() -> None:
    z, w, m = tf.Variable([[0.0, 0.5]]), tf.Variable([2.0]), tf.Variable(1.0)
    with tf.GradientTape() as tape:
        loss = hem_loss(z, [0], sample_weight=w, margin=m, reduction="sum")
    gradients = tape.gradient(loss, [z, w, m])
    assert gradients[0].numpy().tolist() == [[-2.0, 2.0]]
    assert gradients[1:] == [None, None]


def test_gradient_at_a_kink_is_zero() -> None:
    z = tf.Variable([[1.0, 0.0, 0.0]])
    with tf.GradientTape() as tape:
        loss = multi_margin_loss(z, [0])
    assert not tape.gradient(loss, z).numpy().any()


def test_trains_in_a_function_without_retracing() -> None:
    """The sizes of a data set's last batch differ; one trace with a free batch size serves them all."""
    weights = tf.Variable(tf.zeros((4, 3)))
    labels = tf.constant([0, 1, 2, 0, 1, 2, 0])
    data = tf.data.Dataset.from_tensor_slices((tf.one_hot(labels, 4), labels)).batch(3)

    @tf.function(reduce_retracing=True, input_signature=data.element_spec)
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = hem_loss(x @ weights, y)
        weights.assign_sub(0.1 * tape.gradient(loss, weights))
        return loss

    losses = [[float(step(x, y)) for x, y in data] for _ in range(50)]
    assert step.experimental_get_tracing_count() == 1
    assert sum(losses[-1]) < 0.1 < sum(losses[0])


def test_labels_of_unknown_rank() -> None:
    """As `tf.py_function` gives them."""
    data = tf.data.Dataset.from_tensor_slices([0, 1, 2]).batch(3)
    data = data.map(lambda y: tf.py_function(lambda same: same, [y], tf.int32))
    loss = tf.function(lambda y, w=None: hem_loss(tf.zeros((3, 3)), y, sample_weight=w))
    for y in data:
        assert y.shape == (3,)
    unknown = tf.function(lambda y: hem_loss(tf.zeros((3, 3)), y), input_signature=[tf.TensorSpec(None, tf.int32)])
    assert float(unknown([0, 1, 2])) == float(loss(tf.constant([0, 1, 2]))) == 1.0
    with pytest.raises(tf.errors.InvalidArgumentError, match="not compatible with expected shape"):
        unknown([[0, 1, 2]])


def test_one_replica_is_one_process(rng: np.random.Generator) -> None:
    z, y = rng.normal(size=(4, 3)), rng.integers(0, 3, 4)
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    np.testing.assert_allclose(strategy.run(hem_loss, args=(z, y)), hem_loss(z, y))


def test_vectorized_map_gives_each_examples_gradient(rng: np.random.Generator) -> None:
    z, y = tf.constant(rng.normal(size=(4, 3))), tf.constant(rng.integers(0, 3, 4))

    def gradient(arguments: Any) -> Any:
        z, y = arguments
        with tf.GradientTape() as tape:
            tape.watch(z)
            loss = hem_loss(z, y)
        return tape.gradient(loss, z)

    np.testing.assert_allclose(
        tf.vectorized_map(gradient, (z, y)), hemspec.hem_loss.gradient(z.numpy(), y.numpy(), reduction="sum")
    )


def test_pickles_by_name_and_keeps_its_docstring() -> None:
    assert pickle.loads(pickle.dumps(hem_loss)) is hem_loss
    assert "arXiv 2501.12191" in (hem_loss.__doc__ or "")


def test_examples_in_the_docstrings() -> None:
    finder = doctest.DocTestFinder()
    runner = doctest.DocTestRunner()
    names = [name for name in hemspec.tensorflow.__all__ if not name.startswith("margin")]
    functions = [getattr(hemspec.tensorflow, name) for name in names]
    for function in functions:
        for test in finder.find(function, function.__name__, globs={function.__name__: function, "tf": tf}):
            runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
    assert runner.tries >= len(functions)


@pytest.mark.parametrize(
    "name", [name for name in hemspec.tensorflow.__all__ if name.endswith(("_loss", "diagnostics"))]
)
def test_autograph_can_read_it(name: str) -> None:
    """Else everybody's `tf.function` begins with a warning that it could not transform the loss."""
    function = getattr(hemspec.tensorflow, name)
    tf.autograph.to_graph(function)
    tf.autograph.to_graph(function.terms)
