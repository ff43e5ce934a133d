"""One step of a training whose batch is spread over devices is the step of the whole batch on one."""

from __future__ import annotations

import functools

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")
optax = pytest.importorskip("optax", reason="optax is not installed")
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import hemspec
from hemspec.jax import hem_loss

four_devices = pytest.mark.skipif(
    "len(jax.devices()) < 4", reason="JAX was started with fewer devices, before these tests were collected"
)
REDUCTIONS = ("active_mean", "mean", "sum")
OPTIMIZER = optax.sgd(0.1, momentum=0.9)  # not Adam, which would hide a wrong factor
ROWS, DEPTH, CLASSES = 12, 4, 5


@functools.cache
def start():
    """Weights of a linear model and what the optimizer remembers, as after a step."""
    weights = np.random.default_rng(0).normal(size=(DEPTH, CLASSES)).astype(np.float32)
    state = OPTIMIZER.update(jnp.full_like(weights, 0.1), OPTIMIZER.init(jnp.asarray(weights)))[1]
    return weights, state


def batches():
    """Features, labels and weights of the samples. The first rows are those of the first device."""
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(ROWS, DEPTH)).astype(np.float32), rng.uniform(0.5, 2, ROWS).astype(np.float32)
    y = rng.integers(0, CLASSES, ROWS).astype(np.int32)
    y[::4], w[5] = -100, 0
    yield "mixed", (x, y, w)
    first = np.arange(ROWS) < 6
    far = np.where(first[:, None], 1e3 * x, x)
    satisfied = np.where(first, np.argmax(x @ start()[0], -1), y).astype(np.int32)
    assert not hemspec.hem_loss(far @ start()[0], satisfied, reduction="none")[first].any()
    yield "nothing active on the first", (far, satisfied, w)
    yield "nothing valid on the first", (x, np.where(first, -100, y), w)
    yield "nothing valid", (x, np.full_like(y, -100), w)


def loss(weights, x, y, w, reduction, **options):
    return hem_loss(jnp.matmul(x, weights), y, sample_weight=w, reduction=reduction, **options)


def step(value_and_gradient):
    """``step(x, y, w)``: loss and new weights by reduction, of a function that gives loss and gradient."""

    weights, state = start()

    def update(x, y, w):
        found = {}
        for reduction in REDUCTIONS:
            value, gradient = value_and_gradient(weights, x, y, w, reduction)
            found[reduction] = value, optax.apply_updates(weights, OPTIMIZER.update(gradient, state)[0])
        return found

    return update


@functools.cache
def whole_batch():
    return jax.jit(step(jax.value_and_grad(loss)))


def check(parallel) -> None:
    for name, batch in batches():
        got, expected = parallel(*batch), whole_batch()(*batch)
        assert (expected["mean"][0] == 0) == (name == "nothing valid")
        for reduction in REDUCTIONS:
            for ours, theirs in zip(got[reduction], expected[reduction], strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-6, err_msg=f"{name}, {reduction}")


@four_devices
@pytest.mark.parametrize("devices", [2, 3, 4])
def test_sharded_arrays(devices) -> None:
    """The compiler makes the sums: what is right on one device needs no change."""
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:devices]), ("data",)), P("data"))
    check(lambda *batch: whole_batch()(*(jax.device_put(array, sharding) for array in batch)))


@four_devices
@pytest.mark.parametrize("devices", [2, 4])
def test_shard_map_differentiated_outside(devices) -> None:
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))

    def sharded(weights, x, y, w, reduction):
        shard = functools.partial(loss, reduction=reduction, axis_name="data")
        specs = (P(), P("data"), P("data"), P("data"))
        return jax.shard_map(shard, mesh=mesh, in_specs=specs, out_specs=P())(weights, x, y, w)

    check(jax.jit(step(jax.value_and_grad(sharded))))


def averaged(weights, x, y, w, reduction):
    """Differentiated in the map. An average over devices is right whether JAX has added up gradients itself or not."""
    value, gradient = jax.value_and_grad(loss)(weights, x, y, w, reduction, axis_name="data")
    return value, lax.pmean(gradient, "data")


@four_devices
@pytest.mark.parametrize("check_vma", [True, False], ids=["tracking replication", "not tracking it"])
def test_shard_map_differentiated_inside(check_vma) -> None:
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    sharded = jax.shard_map(step(averaged), mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=check_vma)
    check(jax.jit(sharded))


@four_devices
@pytest.mark.skipif("not hasattr(jax, 'pmap')", reason="this JAX has no pmap")
def test_pmap() -> None:
    mapped = jax.pmap(step(averaged), axis_name="data", devices=jax.devices()[:3])

    def parallel(*batch):
        found = mapped(*(array.reshape(3, ROWS // 3, *array.shape[1:]) for array in batch))
        for replica in (1, 2):
            jax.tree.map(lambda x, i=replica: np.testing.assert_array_equal(x[i], x[0]), found)
        return jax.tree.map(lambda x: x[0], found)

    check(parallel)


@four_devices
def test_what_devices_tell_each_other_of_sharded_logits(losses, collectives) -> None:
    """A numerator and a denominator, for any loss; never logits."""
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:4]), ("data",)), P("data"))
    shapes = {(64, 3, CLASSES): "float32", (64, 3): "int32"}
    logits, labels = (jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for shape, dtype in shapes.items())

    def slopes(z, y):
        return [jax.value_and_grad(losses[name])(z, y) for name in losses]

    compiled = jax.jit(slopes).lower(logits, labels).compile()
    found = collectives(compiled)
    assert {kind for kind, _ in found} == {"all-reduce"}
    assert max(size for _, size in found) == 1
    assert {sharded.spec[0] for _, sharded in compiled.output_shardings} == {"data"}
