"""The classes: checked when made, pytrees, and nothing but the functions."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")
import jax.numpy as jnp

from hemspec.jax import (
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    HEMLoss,
    LogitAdjustedLoss,
    LogitNormLoss,
    MultiMarginLoss,
)

CLASS_OF = {
    "hem_loss": HEMLoss,
    "multi_margin_loss": MultiMarginLoss,
    "cross_entropy_loss": CrossEntropyLoss,
    "focal_loss": FocalLoss,
    "logit_norm_loss": LogitNormLoss,
    "logit_adjusted_loss": LogitAdjustedLoss,
    "dice_loss": DiceLoss,
}


@pytest.fixture
def criterion(loss):
    return CLASS_OF[loss.name](**loss.constants, axis=1)


def test_a_class_calls_its_function(loss, criterion, batch) -> None:
    args, mask = batch.all[:3], batch.weights < 1.5
    options = {"axis": 1, "sample_weight": batch.weights, "where": mask}
    assert criterion(*args, where=mask) == loss(*args[:2], **options)
    average = dataclasses.replace(criterion, reduction="mean")
    for got, expected in zip(
        average.terms(*args, mask), loss.terms(*args[:2], reduction="mean", **options), strict=True
    ):
        assert got == expected


def test_passed_as_an_argument_it_is_the_same(criterion, batch) -> None:
    compiled = jax.jit(lambda loss, *args: loss(*args))
    np.testing.assert_allclose(compiled(criterion, *batch.all), criterion(*batch.all), rtol=1e-5)


def test_it_has_no_leaves(criterion, batch) -> None:
    leaves, structure = jax.tree.flatten(criterion)
    again = jax.tree.unflatten(structure, leaves)
    assert leaves == []
    assert again(batch.logits, batch.labels) == criterion(batch.logits, batch.labels)
    for other in (again, copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert jax.tree.structure(other) == structure
        assert hash(jax.tree.structure(other)) == hash(structure)


def test_it_survives_whatever_stands_in_for_what_is_traced() -> None:
    @jax.jit
    def traced(margin):
        loss = HEMLoss(margin=margin)
        for stand_in in (object(), None, "anything", -1.0):
            changed = jax.tree.map(lambda _, s=stand_in: s, loss)
            assert type(changed) is HEMLoss
            assert repr(changed)
        return loss

    loss = traced(2.0)
    assert isinstance(loss.margin, jax.Array)
    assert loss.margin == 2.0


def test_it_can_be_copied_and_pickled(criterion, batch) -> None:
    for other in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion)), dataclasses.replace(criterion)):
        assert other(batch.logits, batch.labels) == criterion(batch.logits, batch.labels)
        assert repr(other) == repr(criterion)


def test_the_path_of_what_is_traced_is_its_name() -> None:
    def paths(gamma):
        found = jax.tree_util.tree_leaves_with_path(FocalLoss(gamma=gamma, alpha=[1, 2]))
        assert [jax.tree_util.keystr(path) for path, _ in found] == [".gamma"]

    jax.jit(paths)(2.0)


def test_it_can_be_made_while_tracing() -> None:
    logits, labels = jnp.array([[1.0, 2.0]]), jnp.array([0])
    value = jax.jit(lambda margin: HEMLoss(margin=margin)(logits, labels))
    assert value(0.5) == 1.5
    assert np.isnan(value(-0.5))
    with pytest.raises(TypeError, match="margin must be a real number or an array of them; got bool"):
        value(True)


@pytest.mark.finding(5)
def test_another_margin_compiles_again_unless_it_is_the_argument() -> None:
    logits, labels = jnp.array([[1.0, 2.0]]), jnp.array([0])
    of_loss = jax.jit(lambda loss: loss(logits, labels))
    loss = HEMLoss(reduction="sum")
    of_margin = jax.jit(lambda margin: dataclasses.replace(loss, margin=margin)(logits, labels))
    for margin in (0.0, 1.0, 2.5):
        for _ in range(2):
            assert of_loss(HEMLoss(margin=margin)) == of_margin(margin) == 1.0 + margin
    assert (of_loss._cache_size(), of_margin._cache_size()) == (3, 1)


CONFIGURED = (
    HEMLoss(margin=[1.0, 2.0, 3.0]),
    FocalLoss(gamma=1.5, alpha=[1.0, 2.0, 3.0]),
    LogitNormLoss(temperature=0.5),
    LogitAdjustedLoss(class_counts=[5, 10, 20]),
    DiceLoss(smooth=1.0),
)


@pytest.fixture
def promotion():
    """optax relies on it."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def constants(loss):
    return {name: np.copy(getattr(loss, name)) for name in loss.constants}


@pytest.mark.finding(5)
@pytest.mark.usefixtures("promotion")
def test_optimizers_and_averages_leave_it_alone() -> None:
    """Of a model that holds losses every leaf is trained, decayed and averaged: so a loss has none."""
    optax = pytest.importorskip("optax", reason="optax is not installed")
    model = {"kernel": jnp.ones((4, 3)), "losses": CONFIGURED}
    x, y = jnp.ones((2, 4)), np.array([0, 2])
    chain = optax.chain(optax.adamw(0.1, weight_decay=0.5), optax.ema(0.9))
    state = chain.init(model)
    for _ in range(2):
        slopes = jax.grad(lambda model: model["losses"][0](jnp.matmul(x, model["kernel"]), y))(model)
        updates, state = chain.update(slopes, state, model)
        trained = optax.apply_updates(model, updates)
        model = optax.incremental_update(trained, jax.tree.map(lambda x: 0.5 * x, model), 0.5)
    assert not np.any(model["kernel"] == 1.0)
    for loss, configured in zip(model["losses"], CONFIGURED, strict=True):
        jax.tree.map(np.testing.assert_array_equal, constants(loss), constants(configured))


@pytest.mark.finding(5)
@pytest.mark.usefixtures("promotion")
def test_as_a_field_of_an_equinox_module() -> None:
    eqx = pytest.importorskip("equinox", reason="Equinox is not installed")
    optax = pytest.importorskip("optax", reason="optax is not installed")

    class Model(eqx.Module):
        kernel: jax.Array
        loss: HEMLoss

        def __call__(self, x, y):
            return self.loss(jnp.matmul(x, self.kernel), y)

    model = Model(jnp.ones((4, 3)), CONFIGURED[0])
    for kind in (eqx.is_array, eqx.is_inexact_array, eqx.is_inexact_array_like):
        assert len(jax.tree.leaves(eqx.filter(model, kind))) == 1
    optimizer = optax.adamw(0.1, weight_decay=0.5)

    @eqx.filter_jit
    def step(model, state):
        slopes = eqx.filter_grad(lambda model: model(jnp.ones((2, 4)), np.array([0, 2])))(model)
        updates, state = optimizer.update(slopes, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state

    trained, _ = step(model, optimizer.init(eqx.filter(model, eqx.is_inexact_array)))
    assert not np.any(trained.kernel == 1.0)
    np.testing.assert_array_equal(trained.loss.margin, [1.0, 2.0, 3.0])


@pytest.mark.finding(5)
def test_as_a_field_of_flax_modules() -> None:
    nnx = pytest.importorskip("flax.nnx", reason="Flax is not installed")
    linen = pytest.importorskip("flax.linen")

    class Nnx(nnx.Module):
        def __init__(self):
            self.kernel = nnx.Param(jnp.ones((4, 3)))
            self.loss = CONFIGURED[0]

        def __call__(self, x, y):
            return self.loss(jnp.matmul(x, self.kernel[...]), y)

    class Linen(linen.Module):
        loss: HEMLoss

        @linen.compact
        def __call__(self, x, y):
            kernel = self.param("kernel", lambda _: jnp.ones((4, 3)))
            return self.loss(jnp.matmul(x, kernel), y)

    x, y = jnp.ones((2, 4)), np.array([0, 2])
    model = Nnx()
    (slope,) = jax.tree.leaves(nnx.jit(nnx.grad(lambda model: model(x, y)))(model))
    assert len(jax.tree.leaves(nnx.state(model))) == 1
    module = Linen(CONFIGURED[0])
    parameters = module.init(jax.random.key(0), x, y)
    (other,) = jax.tree.leaves(jax.grad(module.apply)(parameters, x, y))
    np.testing.assert_allclose(slope, other)
    np.testing.assert_array_equal(model.loss.margin, [1.0, 2.0, 3.0])


def test_vectors_keep_their_digits() -> None:
    margins = np.array([0.1, 1 / 3])
    criterion = HEMLoss(margin=margins)
    margins[0] = 5.0
    assert criterion.margin.dtype == np.float64
    assert criterion.margin.tolist() == [0.1, 1 / 3]
    with pytest.raises(ValueError, match="read-only"):
        criterion.margin[0] = 5.0
    assert type(HEMLoss(margin=jnp.float32(2.0)).margin) is float


def test_it_is_frozen_and_says_what_it_holds() -> None:
    criterion = LogitAdjustedLoss(class_counts=[3, 1], axis=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        criterion.axis = 0
    assert repr(criterion) == (
        "LogitAdjustedLoss(class_counts=<(2,)>, temperature=1.0, axis=1, ignore_index=-100, reduction='mean',"
        " axis_name=None)"
    )
    assert len({criterion, copy.copy(criterion)}) == 2  # compared by identity, so vectors are no trouble


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: HEMLoss(margin=-1), ValueError, "margin must be finite and >= 0; got -1.0"),
        (lambda: HEMLoss(margin=[1.0, np.nan]), ValueError, "margin must be finite and >= 0; got nan at index 1"),
        (lambda: HEMLoss(margin=np.ones((2, 2))), ValueError, r"margin must be.*got shape \(2, 2\)"),
        (lambda: HEMLoss(margin=True), TypeError, "margin must be a real number"),
        (lambda: MultiMarginLoss(reduction="average"), ValueError, "reduction must be one of.*'average'"),
        (lambda: CrossEntropyLoss(reduction="active_mean"), ValueError, "only HEM and multi-class margin"),
        (lambda: CrossEntropyLoss(ignore_index="none"), TypeError, "ignore_index must be an integer or None"),
        (lambda: CrossEntropyLoss(reduction="none", axis_name="i"), ValueError, "axis_name must be None"),
        (lambda: FocalLoss(gamma=-2), ValueError, "gamma must be finite and >= 0; got -2.0"),
        (lambda: FocalLoss(gamma=[1.0, 2.0]), ValueError, "gamma must be one number"),
        (lambda: FocalLoss(alpha=0.25), ValueError, "alpha must be a vector with one entry per class"),
        (lambda: LogitNormLoss(temperature=0), ValueError, "temperature must be finite and > 0; got 0.0"),
        (lambda: LogitAdjustedLoss(class_counts=[1, 0]), ValueError, "class_counts must be finite and > 0; got 0.0 at"),
        (lambda: DiceLoss(smooth=-1), ValueError, "smooth must be finite and >= 0"),
        (lambda: DiceLoss(batch=1), TypeError, "batch must be True or False; got 1"),
    ],
)
def test_constructors_check(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()
