"""``axis_name``: a loss over shards is the loss of the whole, value and gradient."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from hemspec.jax import hem_loss

two_devices = pytest.mark.skipif(
    "len(jax.devices()) < 2", reason="JAX was started with one device, before these tests were collected"
)


@pytest.fixture
def mesh():
    return Mesh(np.array(jax.devices()[:2]), ("shards",))


def agree(got, expected) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6)


def test_vmap(loss, batch) -> None:
    """Two replicas of two rows each. Every replica has the loss of all."""

    def over_replicas(logits):
        split = [x.reshape(2, 2, *x.shape[1:]) for x in (logits, batch.labels, batch.weights)]
        replica = jax.vmap(
            lambda z, y, w: loss(z, y, axis=1, sample_weight=w, axis_name="shards", reduction="mean"),
            axis_name="shards",
        )
        values = replica(*split)
        return jnp.mean(values), values

    gradient, values = jax.jit(jax.grad(over_replicas, has_aux=True))(batch.logits)
    for value in values:
        agree((value, gradient), loss.evaluate(*batch.all)["mean"])


@two_devices
def test_shard_map_differentiated_outside(loss, batch, mesh) -> None:
    def value_and_gradient(*args, reduction):
        def shard(logits, labels, weights):
            return loss(logits, labels, axis=1, sample_weight=weights, reduction=reduction, axis_name="shards")

        return jax.value_and_grad(jax.shard_map(shard, mesh=mesh, in_specs=P("shards"), out_specs=P()))(*args)

    @jax.jit
    def sharded(*args):
        return {reduction: value_and_gradient(*args, reduction=reduction) for reduction in loss.reductions[1:]}

    expected = loss.evaluate(*batch.all)
    for reduction, got in sharded(*batch.all[:3]).items():
        agree(got, expected[reduction])


@two_devices
def test_shard_map_differentiated_inside(losses, batch, mesh) -> None:
    def shard(logits, labels, weights):
        return jax.value_and_grad(hem_loss)(logits, labels, axis=1, sample_weight=weights, axis_name="shards")

    sharded = jax.shard_map(shard, mesh=mesh, in_specs=P("shards"), out_specs=(P(), P("shards")))
    agree(jax.jit(sharded)(*batch.all[:3]), losses["hem_loss"].evaluate(*batch.all)["active_mean"])


@two_devices
def test_shard_map_that_does_not_track_replication(losses, batch, mesh) -> None:
    def shard(logits, labels, weights):
        return hem_loss(logits, labels, axis=1, sample_weight=weights, axis_name="shards")

    sharded = jax.shard_map(shard, mesh=mesh, in_specs=P("shards"), out_specs=P(), check_vma=False)
    got = jax.jit(jax.value_and_grad(sharded))(*batch.all[:3])
    agree(got, losses["hem_loss"].evaluate(*batch.all)["active_mean"])


@two_devices
def test_terms_are_summed_too(batch, mesh) -> None:
    def shard(logits, labels):
        # Without weights or an ignored label nothing in the denominator depends on the shard.
        return hem_loss.terms(logits, labels, axis=1, ignore_index=None, reduction="mean", axis_name="shards")

    labels = np.abs(batch.labels) % 5
    sharded = jax.shard_map(shard, mesh=mesh, in_specs=P("shards"), out_specs=P())
    numerator, denominator = jax.jit(sharded)(batch.logits, labels)
    agree((numerator, denominator), hem_loss.terms(batch.logits, labels, axis=1, reduction="mean"))
    assert denominator == 12


@two_devices
@pytest.mark.parametrize(("name", "kind"), [("hem_loss", "Auto"), ("hem_loss", "Explicit"), ("dice_loss", "Explicit")])
def test_arrays_in_shards_need_no_axis_name(losses, batch, name, kind) -> None:
    """Of either kind: XLA decides where things go, or the types of the arrays say so."""
    mesh = jax.make_mesh((2,), ("shards",), axis_types=(jax.sharding.AxisType[kind],))
    expected = losses[name].evaluate(*batch.all)
    with jax.set_mesh(mesh):
        sharded = [jax.device_put(array, NamedSharding(mesh, P("shards"))) for array in batch.all]
        for reduction, got in losses[name].evaluate(*sharded).items():
            agree(got, expected[reduction])


def test_there_is_nothing_to_sum_without_a_reduction(loss, batch) -> None:
    with pytest.raises(ValueError, match=r"axis_name must be None with reduction 'none'.*'shards'"):
        loss(batch.logits, batch.labels, axis=1, reduction="none", axis_name="shards")
