"""Derivatives of every order and nesting, as TensorFlow can ask for them, against differences of the reference's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import hemspec

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
import tensorflow as tf

import hemspec.tensorflow

LOSSES: dict[str, dict[str, Any]] = {
    "hem_loss": {"margin": [0.5, 1.0, 2.0, 0.75]},
    "multi_margin_loss": {},
    "cross_entropy_loss": {},
    "focal_loss": {"alpha": [1.0, 2.0, 0.5, 3.0]},
    "logit_norm_loss": {"temperature": 0.5},
    "logit_adjusted_loss": {"class_counts": [5, 4, 3, 2]},
    "dice_loss": {"smooth": 0.5},
}
Z = np.array([[0.3, 2.1, -0.4, 1.2], [1.0, 0.1, 0.7, -0.6], [0.0, 0.0, 9.0, 0.0], [-0.2, 0.9, 0.5, 1.1]])
Y, W = np.array([0, 2, -100, 3]), np.array([1.0, 2.0, 1.0, 0.5])
V = np.array([[0.2, -0.5, 1.0, 0.4], [-1.0, 0.3, 0.8, 0.1], [1.0, 1.0, 1.0, 1.0], [0.6, -0.7, 0.2, 0.9]])
STEP = 1e-5

pytestmark = pytest.mark.finding(1)


@pytest.fixture(params=LOSSES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def loss(name: str, z: Any, *, reduction: str = "mean") -> Any:
    return getattr(hemspec.tensorflow, name)(z, Y, sample_weight=W, reduction=reduction, **LOSSES[name])


def value(name: str) -> float:
    return float(getattr(hemspec, name)(Z, Y, sample_weight=W, reduction="mean", **LOSSES[name]))


def slope(name: str, z: Any = Z) -> Any:
    return getattr(hemspec, name).gradient(z, Y, sample_weight=W, reduction="mean", **LOSSES[name])


def hessian(name: str) -> Any:
    """By differences of the reference's gradient."""
    steps = STEP * np.eye(Z.size).reshape(Z.size, *Z.shape)
    columns = [(slope(name, Z + step) - slope(name, Z - step)) / (2 * STEP) for step in steps]
    return np.stack(columns, -1).reshape(Z.shape * 2)


def close(got: Any, expected: Any) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-8)


def test_the_value_keeps_its_gradient_inside_another(name: str) -> None:
    z = tf.Variable(Z)
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            inside = loss(name, z)
        first = inner.gradient(inside, z)
        total = inside + tf.reduce_sum(first**2)
    close(first, slope(name))
    close(outer.gradient(total, z), slope(name) + 2 * np.tensordot(hessian(name), slope(name)))


@pytest.mark.parametrize("name", ["hem_loss", "multi_margin_loss", "focal_loss", "dice_loss"])
def test_a_function_of_the_loss(name: str) -> None:
    """One persistent tape for all of it, and a Jacobian of the gradient, vectorised and one by one."""
    z, g, expected = tf.constant(Z), slope(name), hessian(name)
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(z)
        with tf.GradientTape(persistent=True) as inner:
            inner.watch(z)
            squared = loss(name, z) ** 2
        first = inner.gradient(squared, z)
    close(first, 2 * value(name) * g)
    close(outer.gradient(squared, z), first)
    for vectorised in (True, False):
        second = outer.jacobian(first, z, experimental_use_pfor=vectorised)
        close(second, 2 * (np.multiply.outer(g, g) + value(name) * expected))


def test_forward_over_reverse_and_reverse_over_forward(name: str) -> None:
    z, v = tf.constant(Z), tf.constant(V)
    with tf.autodiff.ForwardAccumulator(z, v) as forward:
        with tf.GradientTape() as tape:
            tape.watch(z)
            inside = loss(name, z)
        first = tape.gradient(inside, z)
    close(forward.jvp(inside), (slope(name) * V).sum())
    second = forward.jvp(first, unconnected_gradients="zero")
    close(second, np.tensordot(hessian(name), V))
    with tf.GradientTape() as tape:
        tape.watch(z)
        with tf.autodiff.ForwardAccumulator(z, v) as forward:
            inside = loss(name, z)
        along = forward.jvp(inside)
    close(tape.gradient(along, z), np.tensordot(hessian(name), V))


def test_linear_in_what_comes_from_above(name: str) -> None:
    """A different number at each position, by hand, and all of them at once."""
    z = tf.constant(Z if name != "dice_loss" else Z[:, np.newaxis])
    y, w = (x if name != "dice_loss" else x[:, np.newaxis] for x in (Y, W))

    def losses(z: Any) -> Any:
        return getattr(hemspec.tensorflow, name)(z, y, sample_weight=w, reduction="none", **LOSSES[name])

    with tf.GradientTape(persistent=True) as tape:
        tape.watch(z)
        values = losses(z)
        column = values[:, tf.newaxis]
    expected = getattr(hemspec, name).gradient(z.numpy(), y, sample_weight=w, reduction="none", **LOSSES[name])
    factors = np.array([-3.0, 0.5, 7.0, 1e3])
    shaped = factors.reshape(4, *[1] * (z.shape.rank - 1))
    close(tape.gradient(values, z, output_gradients=tf.constant(factors)), expected * shaped)
    close(tape.batch_jacobian(column, z)[:, 0], expected)


@pytest.mark.finding(16)
@pytest.mark.parametrize("name", ["hem_loss", "multi_margin_loss", "cross_entropy_loss"])
def test_hessians_of_a_graph(name: str) -> None:
    """`tf.hessians` in a function, of a loss whose second derivative is 0, and in a graph of TensorFlow 1."""
    expected, squared = hessian(name), 2 * np.multiply.outer(slope(name), slope(name))
    close(tf.function(lambda z: tf.hessians(loss(name, z), z)[0])(tf.constant(Z)), expected)
    if name != "hem_loss":
        return
    with tf.Graph().as_default():
        z = tf.compat.v1.placeholder(tf.float64, [None, 4])
        second = tf.hessians(loss(name, z) ** 2, z)[0]
        with tf.compat.v1.Session() as session:
            close(session.run(second, {z: Z}), squared + 2 * value(name) * expected)


@pytest.mark.finding(16)
def test_every_argument_in_a_graph_of_tensorflow_1(name: str) -> None:
    """There `==` compares objects: one of them would be a silent False."""
    options = {key: np.float64(number) for key, number in LOSSES[name].items()}
    z = Z.T.copy()
    z[3, 1], z[0, 2] = -np.inf, np.nan
    w = np.array([1, 0, 1, 3])
    arguments: dict[str, Any] = {"sample_weight": w, "axis": 0, "reduction": "mean", "ignore_index": -100}
    with tf.Graph().as_default():
        feeds = {key: tf.compat.v1.placeholder(tf.float64, number.shape) for key, number in options.items()}
        logits, labels = tf.compat.v1.placeholder(tf.float64), tf.compat.v1.placeholder(tf.uint8, [None])
        logits = tf.ensure_shape(logits, [None, None])
        got = getattr(hemspec.tensorflow, name)(logits, labels, **feeds, **{**arguments, "ignore_index": 156})
        gradient = tf.gradients(got, logits, grad_ys=tf.constant(3.0, tf.float64))[0]
        fed = {logits: z, labels: Y.astype(np.uint8), **{feeds[key]: options[key] for key in feeds}}
        with tf.compat.v1.Session() as session:
            results = session.run([got, gradient], fed)
            unknown = session.run(got, {**fed, labels: np.uint8([0, 0, 9, 0])})
    close(results[0], getattr(hemspec, name)(z, Y, **options, **arguments))
    close(results[1], 3 * getattr(hemspec, name).gradient(z, Y, **options, **arguments))
    assert np.isnan(unknown)


@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        *((wrap, "hem_loss") for wrap in ("while_loop", "map_fn", "vectorized_map", "xla")),
        ("vectorized_map", "multi_margin_loss"),
    ],
)
def test_inside_of_what_differentiates_by_itself(wrap: str, name: str) -> None:
    """The gradient of a squared loss at two scales of the logits, and the derivative of its square along V."""

    def one(z: Any) -> Any:
        return loss(name, z) ** 2

    def both(z: Any) -> Any:
        stacked = tf.stack([z, z])
        if wrap == "while_loop":
            start = [0, tf.zeros((), z.dtype)]
            return tf.while_loop(lambda i, _: i < 2, lambda i, total: (i + 1, total + one(z)), start)[1]
        if wrap == "map_fn":
            return tf.reduce_sum(tf.map_fn(one, stacked))
        return tf.reduce_sum(tf.vectorized_map(one, stacked)) if wrap == "vectorized_map" else 2 * one(z)

    def derivatives(z: Any) -> Any:
        with tf.GradientTape() as outer:
            outer.watch(z)
            with tf.GradientTape() as inner:
                inner.watch(z)
                total = both(z)
            first = inner.gradient(total, z)
            along = tf.reduce_sum(first * V)
        return first, outer.gradient(along, z)

    first, second = tf.function(derivatives, jit_compile=wrap == "xla")(tf.constant(Z))
    g = slope(name)
    close(first, 4 * value(name) * g)
    close(second, 4 * ((g * V).sum() * g + value(name) * np.tensordot(hessian(name), V)))


@pytest.mark.parametrize("name", ["hem_loss", "multi_margin_loss"])
@pytest.mark.parametrize("form", ["eager", "graph", "xla"])
def test_a_second_and_a_third_derivative_of_zero_are_not_none(form: str, name: str) -> None:
    def higher(z: Any) -> Any:
        with tf.GradientTape() as third, tf.GradientTape() as second:
            third.watch(z)
            second.watch(z)
            with tf.GradientTape() as first:
                first.watch(z)
                inside = loss(name, z)
            gradient = first.gradient(inside, z)
            twice = second.gradient(gradient, z)
        return twice, third.gradient(twice, z)

    function = higher if form == "eager" else tf.function(higher, jit_compile=form == "xla")
    for derivative in function(tf.constant(Z)):
        assert derivative.shape == Z.shape
        assert not derivative.numpy().any()


@pytest.mark.finding(6)
def test_weights_and_constants_are_no_variables(name: str) -> None:
    """They may be read from a variable; there is no gradient, as the documentation says."""
    z, w = tf.Variable(Z), tf.Variable(W)
    options = {key: tf.Variable(tf.constant(number, tf.float64)) for key, number in LOSSES[name].items()}
    with tf.GradientTape() as tape:
        inside = getattr(hemspec.tensorflow, name)(z, Y, sample_weight=w, reduction="mean", **options)
    gradient, *others = tape.gradient(inside, [z, w, *options.values()])
    close(gradient, slope(name))
    assert others == [None] * (1 + len(options))
