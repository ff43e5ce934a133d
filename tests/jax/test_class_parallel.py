"""A head whose classes are spread over devices: each has its slice of the gradient, and no logits are sent."""

from __future__ import annotations

import functools

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import hemspec
import hemspec.jax
from hemspec.jax import CrossEntropyLoss, HEMLoss, LinearHEMLoss, MultiMarginLoss, hem_loss, linear_hem_loss
from hemspec_jax import margin as passes

pytestmark = pytest.mark.skipif(
    "len(jax.devices()) < 4", reason="JAX was started with fewer devices, before these tests were collected"
)
LOSSES = ("hem_loss", "multi_margin_loss", "cross_entropy_loss")
CLASSES = 28
PATTERN = np.array([0.0, 3.0, 5.0, 6.0, 5.0, 1.0, 1.0], np.float32)
"""Errors whose mean is exactly 3, of a true class 0."""
MARGINS = np.random.default_rng(2).integers(0, 64, CLASSES).astype(np.float32) / 32


@functools.cache
def mesh(kind):
    devices = np.array(jax.devices()[:4])
    return Mesh(devices, ("classes",)) if kind == "classes" else Mesh(devices.reshape(2, 2), ("data", "classes"))


def specs(kind):
    """Of logits, and of what has the labels' shape."""
    rows = None if kind == "classes" else "data"
    return P(rows, "classes"), P(rows)


def batch():
    """Ties, infinities and NaN in each shard, bad and ignored labels, weights of 0."""
    rng = np.random.default_rng(3)
    z, y = rng.integers(-64, 64, (24, CLASSES)).astype(np.float32) / 16, rng.integers(0, CLASSES, 24).astype(np.int32)
    w = rng.integers(1, 5, 24).astype(np.float32) / 2
    for row, shard in enumerate((0, 6, 7, 13, 14, 27)):
        z[row, shard] = np.nan
    z[6, 20], z[7, 8:10], z[8, :21], z[9, y[9]], z[10, y[10]] = np.inf, np.inf, -np.inf, -np.inf, np.inf
    z[11, [y[11], y[11] - 1]] = np.inf
    z[12], y[12] = np.tile(PATTERN, 4), 21
    z[13] = 0.25
    y[14], y[15], y[16], w[17] = -100, -1, CLASSES, 0
    z[14, 0] = z[17, 8] = np.nan
    z[18] = np.where(np.arange(CLASSES) == y[18], 9, -9)
    return z, y, w


def evaluate(z, y, w, **options):
    """Values and gradients of the margin losses, with a margin for each class, and of cross-entropy."""
    found = []
    for name in LOSSES:
        constants = {} if name == "cross_entropy_loss" else {"margin": MARGINS}

        def total(z, name=name, constants=constants):
            values = getattr(hemspec.jax, name)(z, y, sample_weight=w, reduction="none", **constants, **options)
            return jnp.sum(values), values

        found.append(jax.grad(total, has_aux=True)(z)[::-1])
    return found


@functools.cache
def whole():
    return jax.jit(evaluate)


def agree(got, expected) -> None:
    """The same NaN, infinities and zeros, which are membership; numbers as far as sums in another order give them."""
    for name, ours, theirs in zip(LOSSES, got, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(np.asarray(one) == 0, np.asarray(other) == 0, err_msg=name)
            np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-6, err_msg=name)


def test_differentiated_inside() -> None:
    """Each shard by itself, so that a gradient is its slice. Of bad labels the reference has no gradient."""
    z, y, w = batch()
    of_logits, of_labels = specs("classes")
    shard = functools.partial(evaluate, class_axis_name="classes")
    mapped = jax.shard_map(
        shard,
        mesh=mesh("classes"),
        in_specs=(of_logits, of_labels, of_labels),
        out_specs=[(of_labels, of_logits)] * len(LOSSES),
    )
    got = jax.jit(mapped)(z, y, w)
    agree(got, whole()(z, y, w))
    good = (y < CLASSES) & (y != -1)
    for name, (values, gradient) in zip(LOSSES, got, strict=True):
        reference = getattr(hemspec, name)
        options = {} if name == "cross_entropy_loss" else {"margin": MARGINS}
        options = {"sample_weight": w[good], "reduction": "none", **options}
        np.testing.assert_allclose(values[good], reference(z[good], y[good], **options), rtol=2e-6, atol=1e-6)
        slopes = reference.gradient(z[good], y[good], **options)
        np.testing.assert_allclose(gradient[good], slopes, rtol=2e-6, atol=1e-6)
        assert np.isnan(gradient[~good]).all()


def finite_batch():
    z, y, w = batch()
    return np.nan_to_num(z, nan=1.0, posinf=5.0, neginf=-5.0), np.where((y == -1) | (y == CLASSES), 3, y), w


def reduced(z, y, w, axis_name=None, class_axis_name=None):
    """Losses of three classes, in one number too, and diagnostics."""
    options = {"axis_name": axis_name, "class_axis_name": class_axis_name}
    hem, mm = HEMLoss(margin=MARGINS, **options), MultiMarginLoss(reduction="active_mean", **options)
    values = [loss(z, y, w) for loss in (hem, mm, CrossEntropyLoss(**options))]
    return values[0] + 2 * values[1] + 3 * values[2], (values, hem.diagnostics(z, y, w))


@functools.cache
def whole_reduced():
    return jax.jit(jax.value_and_grad(reduced, has_aux=True))(*finite_batch())


@pytest.mark.parametrize("check_vma", [True, False], ids=["tracking replication", "not tracking it"])
def test_classes_and_batch_differentiated_outside(check_vma) -> None:
    """On a grid of devices, reduced over the rows as well."""
    of_logits, of_labels = specs("grid")
    sharded = jax.shard_map(
        functools.partial(reduced, axis_name="data", class_axis_name="classes"),
        mesh=mesh("grid"),
        in_specs=(of_logits, of_labels, of_labels),
        out_specs=P(),
        check_vma=check_vma,
    )
    got = jax.jit(jax.value_and_grad(sharded, has_aux=True))(*finite_batch())
    assert np.isfinite(got[0][0])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-6, atol=1e-6), got, whole_reduced())


@pytest.mark.parametrize(("kind", "types"), [("classes", "Auto"), ("grid", "Auto"), ("grid", "Explicit")])
def test_sharded_arrays(kind, types) -> None:
    """No `class_axis_name`: the compiler makes the sums, whether the arrays' types say how they are sharded or not."""
    names = mesh(kind).axis_names
    devices = Mesh(mesh(kind).devices, names, axis_types=(jax.sharding.AxisType[types],) * len(names))
    of_logits, of_labels = (NamedSharding(devices, spec) for spec in specs(kind))
    with jax.set_mesh(devices):
        z, y, w = (jax.device_put(x, s) for x, s in zip(batch(), (of_logits, of_labels, of_labels), strict=True))
        got = whole()(z, y, w)
    agree(got, whole()(*batch()))
    assert got[0][1].sharding.is_equivalent_to(of_logits, 2)


@pytest.mark.parametrize("sums", ["BLOCKWISE", "PLAIN"])
def test_sharded_logits_stay_where_they_are(sums, collectives, monkeypatch) -> None:
    """All that is sent is added up or compared, one number for a row. So too by the sums of an accelerator."""
    monkeypatch.setattr(passes, "BLOCKWISE", getattr(passes, sums))
    passes.kept_mean.clear_cache()
    of_logits, of_labels = (NamedSharding(mesh("grid"), spec) for spec in specs("grid"))
    logits = jax.ShapeDtypeStruct((64, 1_000), jnp.float32, sharding=of_logits)
    labels = jax.ShapeDtypeStruct((64,), jnp.int32, sharding=of_labels)

    def slopes(z, y):
        return [jax.value_and_grad(getattr(hemspec.jax, name))(z, y) for name in LOSSES]

    compiled = jax.jit(slopes).lower(logits, labels).compile()
    passes.kept_mean.clear_cache()
    found = collectives(compiled)
    assert {kind for kind, _ in found} == {"all-reduce"}
    assert max(size for _, size in found) == 32


def test_many_equal_errors_all_stay(monkeypatch) -> None:
    """Of so many no plain mean is safe: the largest error of all shards comes first."""
    monkeypatch.setattr(passes, "BLOCKWISE", passes.PLAIN)
    passes.kept_mean.clear_cache()
    errors = np.full((3, 16_384), np.float32(0.7), np.float32)
    errors[1, -1] *= 1 + 2e-7
    errors[2, 5_000] = np.nan
    errors[:, 0] = 0.0
    y = np.zeros(3, np.int32)

    def shard(z, y):
        return jnp.sum(hem_loss(z, y, margin=0.0, reduction="none", class_axis_name="classes"))

    sharded = jax.shard_map(shard, mesh=mesh("classes"), in_specs=specs("classes"), out_specs=P())
    gradient = np.asarray(jax.jit(jax.grad(sharded))(errors, y))
    passes.kept_mean.clear_cache()
    assert np.count_nonzero(gradient[:2] > 0, axis=1).tolist() == [16_383] * 2
    assert np.isnan(gradient[2]).all()


def head():
    rng = np.random.default_rng(4)
    shapes = (8, 3), (3, CLASSES), (CLASSES,)
    x, kernel, bias = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return x, kernel, bias, np.where(np.arange(8) == 2, -100, rng.integers(0, CLASSES, 8)).astype(np.int32)


def of_matrix(x, kernel, bias, y, **options):
    return hem_loss(jnp.matmul(x, kernel) + jnp.expand_dims(bias, 0), y, **options)


def of_linear(x, kernel, bias, y, **options):
    return linear_hem_loss(x, kernel, y, bias=bias, chunk_rows=3, **options)


@functools.cache
def whole_head():
    return jax.jit(jax.value_and_grad(of_matrix, (0, 1, 2)))(*head())


@pytest.mark.parametrize(
    ("loss", "way"),
    [
        (of_matrix, "outside"),
        (of_matrix, "sharded arrays"),
        (of_linear, "outside"),
        (of_linear, "outside, not tracking replication"),
        (of_linear, "inside"),
        (of_linear, "sharded arrays"),
    ],
)
def test_a_head_and_what_comes_before_it(loss, way) -> None:
    """The gradient in the features adds up over the shards, those in kernel and bias stay in theirs."""
    arrays, which = head(), (0, 1, 2)
    layout = P("data"), P(None, "classes"), P("classes"), P("data")
    shard = functools.partial(loss, axis_name="data", class_axis_name="classes")
    in_map = functools.partial(jax.shard_map, mesh=mesh("grid"), in_specs=layout)
    if way == "inside":
        step = in_map(jax.value_and_grad(shard, which), out_specs=(P(), layout[:3]))
    elif way == "sharded arrays":
        step = jax.value_and_grad(loss, which)
        arrays = [jax.device_put(x, NamedSharding(mesh("grid"), s)) for x, s in zip(arrays, layout, strict=True)]
    else:
        step = jax.value_and_grad(in_map(shard, out_specs=P(), check_vma=way == "outside"), which)
    same = functools.partial(np.testing.assert_allclose, rtol=2e-6, atol=1e-6)
    jax.tree.map(same, jax.jit(step)(*arrays), whole_head())


def test_a_linear_head_of_a_sharded_type_is_refused() -> None:
    """With types that say so JAX would ask at each chunk where it is to go."""
    x, kernel, bias, y = head()
    devices = Mesh(mesh("grid").devices, ("data", "classes"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    with jax.set_mesh(devices):
        kernel = jax.device_put(kernel, NamedSharding(devices, P(None, "classes")))
        with pytest.raises(ValueError, match=r"kernel must be whole, or a shard inside jax\.shard_map .*'classes'"):
            of_linear(x, kernel, bias, y)


def test_vmap_over_shards() -> None:
    z, y, w = batch()
    mapped = jax.vmap(functools.partial(evaluate, class_axis_name="c"), (0, None, None), axis_name="c")
    got = jax.jit(mapped)(np.stack(np.split(z, 4, axis=1)), y, w)
    for (values, _), (expected, _) in zip(got, whole()(z, y, w), strict=True):
        for shard in values:  # as in `agree`: a loss of 6e-7 is a few last places of 1 + loss
            np.testing.assert_allclose(shard, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ({}, {"axis_name": "c"}, "class_axis_name must be another axis than axis_name; got 'c' and 'c'"),
        ({"labels": np.array([9, 0])}, {}, r"labels must lie in \[0, 9\) at every valid position; got 9 at index 0"),
        ({"labels": np.zeros((2, 3), int)}, {}, r"expected \(2,\) \(shape of logits: \(2, 9\)"),
        ({}, {"margin": np.ones(3)}, r"one entry per class, shape \(9,\); got shape \(3,\)"),
        ({}, {"axis": 2}, r"axis must lie in \[-2, 2\)"),
    ],
)
def test_what_is_wrong_is_said_of_all_classes(arguments, options, said) -> None:
    labels = arguments.get("labels", np.zeros(2, int))
    loss = functools.partial(hem_loss, labels=labels, class_axis_name="c", **options)
    with pytest.raises(ValueError, match=said):
        jax.vmap(loss, axis_name="c")(np.zeros((3, 2, 3), np.float32))
    if "axis_name" in options:
        with pytest.raises(ValueError, match=said):
            LinearHEMLoss(class_axis_name="c", **options)
