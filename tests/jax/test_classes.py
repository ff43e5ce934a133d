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


def test_it_survives_whatever_stands_in_for_its_constants(criterion, batch) -> None:
    leaves, structure = jax.tree.flatten(criterion)
    for stand_in in (object(), None, "anything", -1.0):
        changed = jax.tree.map(lambda _, s=stand_in: s, criterion)
        assert type(changed) is type(criterion)
        assert repr(changed)
    again = jax.tree.unflatten(structure, leaves)
    assert again(batch.logits, batch.labels) == criterion(batch.logits, batch.labels)
    assert jax.tree.structure(again) == structure
    assert len(leaves) == sum(getattr(criterion, name) is not None for name in criterion.constants)


def test_it_can_be_copied_and_pickled(criterion, batch) -> None:
    for other in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion)), dataclasses.replace(criterion)):
        assert other(batch.logits, batch.labels) == criterion(batch.logits, batch.labels)
        assert repr(other) == repr(criterion)


def test_its_paths_are_the_names_of_its_constants() -> None:
    paths = jax.tree_util.tree_leaves_with_path(FocalLoss(alpha=[1, 2]))
    assert [jax.tree_util.keystr(path) for path, _ in paths] == [".gamma", ".alpha"]


def test_a_bad_constant_gets_in_by_tracing_alone() -> None:
    logits, labels = jnp.array([[1.0, 2.0]]), jnp.array([0])
    bad = jax.tree.map(lambda margin: -margin, HEMLoss())
    assert np.isnan(jax.jit(lambda loss: loss(logits, labels))(bad))
    with pytest.raises(ValueError, match="margin must be finite"):
        bad(logits, labels)


def test_it_can_be_made_while_tracing() -> None:
    logits, labels = jnp.array([[1.0, 2.0]]), jnp.array([0])
    value = jax.jit(lambda margin: HEMLoss(margin=margin)(logits, labels))
    assert value(0.5) == 1.5
    assert np.isnan(value(-0.5))
    with pytest.raises(TypeError, match="margin must be a real number or an array of them; got bool"):
        value(True)


def test_a_loss_may_be_scheduled() -> None:
    """A leaf can change from step to step without compiling again."""
    logits, labels = jnp.array([[1.0, 2.0]]), jnp.array([0])
    step = jax.jit(lambda loss: loss(logits, labels))
    assert [float(step(HEMLoss(margin=margin))) for margin in (0.0, 1.0, 2.5)] == [1.0, 2.0, 3.5]
    assert step._cache_size() == 1


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
