"""The loss of a linear head in JAX: in any chunks what the reference gives, under every transformation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import hemspec
from hemspec.jax import LinearHEMLoss, hem_loss, linear_hem_loss

REDUCTIONS = ("none", "sum", "mean", "active_mean")
INF, NAN = float("inf"), float("nan")


def draw(positions: int, depth: int, classes: int, dtype: Any = np.float32) -> tuple[Any, Any, Any, Any]:
    """Features, kernel, bias and labels whose product is exact in every dtype, with ties."""
    rng = np.random.default_rng(0)
    numbers = [rng.integers(-2, 3, shape) / 2 for shape in ((positions, depth), (depth, classes), classes)]
    return *(array.astype(dtype) for array in numbers), rng.integers(0, classes, positions).astype(np.int32)


def evaluate(x: Any, kernel: Any, bias: Any, labels: Any, *, jit: bool = True, **options: Any) -> tuple[Any, Any]:
    """Value and the gradients of its sum."""

    def total(x: Any, kernel: Any, bias: Any) -> tuple[Any, Any]:
        value = linear_hem_loss(x, kernel, labels, bias=bias, **options)
        return jnp.sum(value), value

    function = jax.value_and_grad(total, argnums=(0, 1) if bias is None else (0, 1, 2), has_aux=True)
    (_, value), gradients = (jax.jit(function) if jit else function)(x, kernel, bias)
    return value, gradients


def check(
    x: Any, kernel: Any, bias: Any, labels: Any, *, rtol: float = 2e-6, chunk_rows: Any = None, **options: Any
) -> Any:
    value, gradients = evaluate(x, kernel, bias, labels, chunk_rows=chunk_rows, **options)
    given = {"bias": bias, **options}
    np.testing.assert_allclose(value, hemspec.linear_hem_loss(x, kernel.T, labels, **given), rtol, 1e-6)
    expected = hemspec.linear_hem_loss.gradient(x, kernel.T, labels, **given)
    for ours, theirs in zip(gradients, (expected.features, expected.weight.T, expected.bias), strict=False):
        np.testing.assert_allclose(np.asarray(ours, np.float64), np.asarray(theirs, np.float64), rtol, rtol)
    return gradients


@pytest.mark.parametrize(("positions", "rows", "classes"), [(1, 4, 7), (3, 4, 33), (4, 4, 8), (5, 4, 9), (9, None, 33)])
def test_any_chunks_give_the_reference(positions: int, rows: int | None, classes: int) -> None:
    x, kernel, bias, labels = draw(positions, 3, classes)
    rng = np.random.default_rng(1)
    weight, margin = rng.integers(0, 3, positions).astype(np.float32), rng.integers(0, 64, classes) / 32
    labels[::3] = -100
    x[labels == -100], x[weight == 0] = NAN, INF
    of_x, *_ = check(x, kernel, bias, labels, chunk_rows=rows, sample_weight=weight, margin=margin)
    assert not of_x[(labels == -100) | (weight == 0)].any()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_reductions(reduction: str) -> None:
    check(*draw(5, 3, 9), chunk_rows=2, reduction=reduction)


def test_nothing_at_all() -> None:
    x, kernel, _, labels = draw(0, 3, 9)
    check(x, kernel, None, labels)


@pytest.mark.parametrize("classes", [4095, 131_072])
def test_many_equal_errors_stay(classes: int) -> None:
    """In float32 a plain mean of many equal errors can exceed them."""
    factors = [np.zeros((3, 1)), np.zeros((1, classes)), np.full(classes, 0.1)]
    factors = [array.astype(np.float32) for array in factors]
    *_, of_bias = check(*factors, np.arange(3), rtol=2e-5, reduction="sum", margin=0.7, chunk_rows=2)
    assert np.count_nonzero(of_bias) == classes


def test_against_plain_operations() -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    x, kernel, bias = (
        jax.random.normal(key, shape) for key, shape in zip(keys, ((2, 5, 4), (4, 30), (30,)), strict=False)
    )
    labels = jax.random.randint(keys[3], (2, 5), 0, 30)

    def plain(x: Any, kernel: Any, bias: Any) -> Any:
        return hem_loss(jnp.matmul(x, kernel) + bias.reshape(1, 1, 30), labels)

    def ours(x: Any, kernel: Any, bias: Any) -> Any:
        return linear_hem_loss(x, kernel, labels, bias=bias, chunk_rows=3)

    for got, expected in zip(
        *(jax.jit(jax.grad(f, argnums=(0, 1, 2)))(x, kernel, bias) for f in (ours, plain)), strict=True
    ):
        np.testing.assert_allclose(got, expected, 1e-5, 1e-6)


def test_infinities_and_nan_of_a_bias() -> None:
    """Each class's infinity is in every row: masked classes, infinite losses, NaN where they meet."""
    x, kernel, _, _ = draw(4, 2, 4)
    labels = np.arange(4)
    evaluated = jax.jit(lambda bias: evaluate(x, kernel, bias, labels, jit=False, reduction="none", chunk_rows=3))
    for bias in ([-INF, 0, 0, 1], [INF, 0, 0, 1], [INF, INF, 0, 0], [NAN, 0, 0, 0], [-INF] * 4):
        given = np.array(bias, np.float32)
        value, (_, _, of_bias) = evaluated(given)
        z = x.astype(float) @ kernel + given
        np.testing.assert_allclose(value, hemspec.hem_loss(z, labels, reduction="none"), 1e-6)
        np.testing.assert_allclose(of_bias, hemspec.hem_loss.gradient(z, labels, reduction="none").sum(0), 1e-6, 1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_halves(dtype: Any) -> None:
    """The product is exact; so the loss is float32's, and a gradient is rounded twice at most."""
    eps = float(jnp.finfo(dtype).eps)
    factors = draw(9, 4, 40, dtype)
    for gradient in check(*factors, rtol=2 * eps, reduction="sum", chunk_rows=4):
        assert gradient.dtype == dtype
    assert linear_hem_loss(*factors[:2], factors[3]).dtype == jnp.float32


def test_what_a_bad_label_makes_nan() -> None:
    x, kernel, bias, labels = draw(5, 3, 9)
    labels[3] = 9
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 9\)"):
        linear_hem_loss(x, kernel, labels)
    value, (of_x, of_kernel, of_bias) = jax.jit(lambda y: evaluate(x, kernel, bias, y, jit=False, reduction="none"))(
        labels
    )
    assert np.isnan(value).tolist() == [False, False, False, True, False]
    assert np.isnan(of_x).all(1).tolist() == [False, False, False, True, False]
    assert np.isnan(of_kernel).all()
    assert np.isnan(of_bias).all()


def test_vmap_maps_each_argument() -> None:
    x, kernel, bias, labels = draw(6, 3, 9)
    split = [x.reshape(2, 3, 3), labels.reshape(2, 3)]
    heads = np.stack([kernel, -kernel])

    def one(x: Any, kernel: Any, labels: Any) -> Any:
        return evaluate(x, kernel, bias, labels, jit=False, chunk_rows=2)

    values, gradients = jax.jit(jax.vmap(one))(split[0], heads, split[1])
    one = jax.jit(one)
    for i in range(2):
        value, expected = one(split[0][i], heads[i], split[1][i])
        np.testing.assert_allclose(values[i], value, 1e-6)
        for got, wanted in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(got[i], wanted, 1e-5, 1e-6)


@pytest.mark.parametrize("inside", [False, True], ids=["differentiated outside", "differentiated inside"])
def test_shard_map(inside: bool) -> None:
    """A batch in shards, a head that all devices have."""
    if len(jax.devices()) < 2:
        pytest.skip("JAX was started with one device, before these tests were collected")
    mesh = Mesh(np.array(jax.devices()[:2]), ("shards",))
    x, kernel, bias, labels = draw(8, 3, 9)

    def shard(x: Any, kernel: Any, bias: Any, labels: Any) -> Any:
        return linear_hem_loss(x, kernel, labels, bias=bias, chunk_rows=3, axis_name="shards")

    specs = (P("shards"), P(), P())
    function = jax.value_and_grad(shard, argnums=(0, 1, 2)) if inside else shard
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=(*specs, P("shards")), out_specs=(P(), specs) if inside else P()
    )
    evaluated = mapped if inside else jax.value_and_grad(mapped, argnums=(0, 1, 2))
    value, gradients = jax.jit(evaluated)(x, kernel, bias, labels)
    expected = evaluate(x, kernel, bias, labels)
    np.testing.assert_allclose(value, expected[0], 1e-6)
    for got, wanted in zip(gradients, expected[1], strict=True):
        np.testing.assert_allclose(got, wanted, 1e-5, 1e-6)


def test_memory_does_not_grow_with_all_logits() -> None:
    def needed(classes: int) -> int:
        x, kernel = jnp.zeros((512, 8)), jnp.zeros((8, classes))
        loss = jax.value_and_grad(
            lambda x, kernel: linear_hem_loss(x, kernel, jnp.zeros(512, int), chunk_rows=8), (0, 1)
        )
        return jax.jit(loss).lower(x, kernel).compile().memory_analysis().temp_size_in_bytes

    logits = 512 * 4096 * 4
    assert needed(8192) - needed(4096) < logits / 4


def test_the_class() -> None:
    x, kernel, bias, labels = draw(6, 3, 9)
    criterion = LinearHEMLoss(margin=np.linspace(0.5, 2, 9), chunk_rows=2)
    expected = linear_hem_loss(x, kernel, labels, bias=bias, margin=criterion.margin)
    assert criterion(x, kernel, labels, bias) == expected
    assert jax.jit(lambda loss: loss(x, kernel, labels, bias))(criterion) == pytest.approx(float(expected), rel=1e-6)
    numerator, denominator = criterion.terms(x, kernel, labels, bias)
    assert numerator / denominator == expected
    assert "axis=" not in repr(criterion)
    with pytest.raises(TypeError, match="axis"):
        LinearHEMLoss(axis=0)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"features": [[1.0]]}, TypeError, "features must be a jax.Array or NumPy array"),
        (
            {"kernel": np.zeros((9, 3), np.float32)},
            ValueError,
            r"kernel must have shape \(D, C\) with D = 3.*got \(9, 3\)",
        ),
        ({"kernel": np.zeros((3, 9), jnp.bfloat16)}, TypeError, "kernel must have the dtype of features, float32"),
        ({"bias": np.zeros(3, np.float32)}, ValueError, r"bias must have shape \(9,\)"),
        ({"labels": np.zeros((4, 3), int)}, ValueError, "labels must have the shape of the logits without"),
        ({"reduction": "none", "axis_name": "i"}, ValueError, "axis_name must be None with reduction 'none'"),
        ({"chunk_rows": 0}, ValueError, "chunk_rows must be at least 1"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, Any], error: Any, said: str) -> None:
    x, kernel, _, labels = draw(4, 3, 9)
    with pytest.raises(error, match=said):
        linear_hem_loss(**{"features": x, "kernel": kernel, "labels": labels, **change})
