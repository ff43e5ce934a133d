"""Bad input: an error that helps where it can be seen, NaN where it cannot, never a plausible number."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")
import jax.numpy as jnp

import hemspec.jax

LOGITS = np.array([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0], [1.0, 1.5, 0.0]], np.float32)
LABELS = np.array([0, 2, 1], np.int32)
HEM = (2.0 + 0.0 + 0.5) / 2  # the errors are (0, 2, 0.5), none, (0.5, 0, 0)

BAD_CONSTANTS = [
    ("hem_loss", "margin", -1.0),
    ("hem_loss", "margin", [1.0, np.nan, 1.0]),
    ("multi_margin_loss", "margin", np.inf),
    ("focal_loss", "gamma", -0.5),
    ("focal_loss", "alpha", [1.0, 1.0, -1.0]),
    ("logit_norm_loss", "temperature", 0.0),
    ("logit_adjusted_loss", "temperature", -1.0),
    ("logit_adjusted_loss", "class_counts", [3.0, 0.0, 2.0]),
    ("logit_adjusted_loss", "class_counts", [3.0, np.nan, 2.0]),
    ("dice_loss", "smooth", -1.0),
]


def function(name, **constants):
    if name == "logit_adjusted_loss":
        constants.setdefault("class_counts", [1, 2, 3])
    return lambda *args, **kwargs: getattr(hemspec.jax, name)(*args, **{**constants, **kwargs})


@pytest.mark.parametrize(("name", "constant", "bad"), BAD_CONSTANTS)
def test_a_bad_constant_that_can_be_read(name, constant, bad) -> None:
    for value in (bad, np.asarray(bad), jnp.asarray(bad)):
        loss = function(name, **{constant: value})
        with pytest.raises(ValueError, match=f"{constant} must be finite and >=? 0; got"):
            loss(LOGITS, LABELS)
        with pytest.raises(ValueError, match=f"{constant} must be finite"):
            jax.jit(loss)(LOGITS, LABELS)  # closed over: concrete, although everything else is traced


@pytest.mark.parametrize(("name", "constant", "bad"), BAD_CONSTANTS)
def test_a_bad_constant_that_is_traced(name, constant, bad) -> None:
    labels = np.array([0, 2, -100], np.int32)

    def total(logits, value):
        values = function(name)(logits, labels, **{constant: value}, reduction="none")
        return jnp.sum(values), values

    gradient, values = jax.jit(jax.grad(total, has_aux=True))(LOGITS, np.asarray(bad, np.float32))
    np.testing.assert_array_equal(np.isnan(values), [True, True, False])
    assert np.isnan(gradient[:2]).all()
    assert not np.any(gradient[2])


@pytest.mark.parametrize(
    ("kind", "bad"),
    [("label", -1), ("label", 5), ("label", 2**31 - 1), ("weight", -1.0), ("weight", np.nan), ("weight", np.inf)],
)
def test_a_bad_label_or_weight_that_is_traced(loss, batch, kind, bad) -> None:
    """NaN at its position (for Dice, in its image), and nowhere else."""
    labels, weights = batch.labels.copy(), batch.weights.copy()
    (labels if kind == "label" else weights)[2, 0] = bad
    results = loss.evaluate(batch.logits, labels, weights, batch.mask)
    values, gradient = results["none"]
    spoilt = np.zeros(labels.shape, np.bool_)
    spoilt[2, 0] = True
    if loss.name == "dice_loss":
        spoilt[2] = True
        spoilt |= bool(loss.constants.get("batch"))
        np.testing.assert_array_equal(np.isnan(np.broadcast_to(values, 4)), spoilt.any(axis=1))
    else:
        np.testing.assert_array_equal(np.isnan(values), spoilt)
    valid = (labels != -100) & (weights != 0)
    np.testing.assert_array_equal(np.isnan(gradient).all(axis=1), spoilt & valid)
    np.testing.assert_array_equal(np.isnan(gradient).any(axis=1), spoilt & valid)
    for reduction in loss.reductions[1:]:
        value, gradient = results[reduction]
        assert np.isnan(value)
        assert np.isnan(gradient[2, :, 0]).all()


def test_a_position_that_does_not_exist_may_hold_anything(loss, batch) -> None:
    logits, labels, weights, mask = (array.copy() for array in batch.all)
    logits[0, :, 1], weights[0, 1] = np.nan, np.nan  # ignored
    logits[1, :, 1], labels[1, 1] = np.inf, 99  # of weight 0
    logits[3, 2, 2], labels[3, 2], weights[3, 2], mask[3, 2] = -np.inf, -1, -1.0, False
    for value, gradient in loss.evaluate(logits, labels, weights, mask).values():
        assert np.isfinite(value).all()
        assert np.isfinite(gradient).all()
        for row, column in ((0, 1), (1, 1), (3, 2)):
            assert not np.any(gradient[row, :, column])
    readable = loss(logits, labels, axis=1, sample_weight=weights, where=mask, reduction="sum")
    np.testing.assert_allclose(readable, loss.evaluate(logits, labels, weights, mask)["sum"][0], rtol=1e-5)


def test_labels_are_read_although_logits_are_traced() -> None:
    labels = jnp.array([0, 3, 1])
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\) at every valid position; got 3 at index 1"):
        jax.jit(jax.grad(lambda z: function("hem_loss")(z, labels)))(LOGITS)
    with pytest.raises(ValueError, match=r"sample_weight must be finite and >= 0; got -1.0 at index 2"):
        jax.vmap(lambda z: function("hem_loss")(z, LABELS, sample_weight=np.array([1, 1, -1])))(LOGITS[None])


@pytest.mark.parametrize("dtype", ["int4", "uint8", "int16", "uint32"])
def test_labels_of_every_width(dtype) -> None:
    labels = jnp.asarray(LABELS, dtype)
    assert jax.jit(function("hem_loss"))(LOGITS, labels) == function("hem_loss")(LOGITS, labels) == HEM


@pytest.mark.parametrize(("dtype", "x64"), [("int64", False), ("int64", True), ("uint64", True)])
def test_labels_of_64_bits(dtype, x64) -> None:
    """Without x64, JAX keeps 32 of NumPy's 64 bits: 2**32 + 1 would be class 1."""
    with jax.enable_x64(x64):
        assert jax.jit(function("hem_loss"))(LOGITS, LABELS.astype(dtype)) == HEM
        wide = np.array([2**32 + 1, 2, 1], dtype)
        with pytest.raises(ValueError, match="got 4294967297 at index 0"):
            function("hem_loss")(LOGITS, wide)
        unreadable = jax.jit(lambda w: function("hem_loss")(LOGITS, wide, sample_weight=w, reduction="none"))
        np.testing.assert_array_equal(np.isnan(unreadable(np.ones(3, np.float32))), [True, False, False])


@pytest.mark.parametrize(("dtype", "label"), [("uint8", 156), ("uint32", 4294967196), ("uint16", 65436)])
def test_a_label_with_the_bits_of_ignore_index_is_not_ignored(dtype, label) -> None:
    labels = np.array([label, 2, 1], dtype)
    with pytest.raises(ValueError, match=f"got {label} at index 0"):
        function("hem_loss")(LOGITS, labels)
    traced = jax.jit(lambda y: function("hem_loss")(LOGITS, y, reduction="none"))(labels)
    np.testing.assert_array_equal(np.isnan(traced), [True, False, False])
    ignored = jax.jit(lambda y: function("hem_loss")(LOGITS, y, reduction="none", ignore_index=label))(labels)
    assert np.isfinite(ignored).all()
    assert ignored[0] == 0


def test_more_classes_than_the_dtype_of_the_labels_can_count() -> None:
    logits, labels = jnp.zeros((3, 300)), jnp.array([255, 0, 7], jnp.uint8)
    assert jax.jit(function("hem_loss"))(logits, labels) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"logits": [[1.0, 2.0]]}, TypeError, "logits must be a jax.Array or NumPy array; got list"),
        ({"labels": [0, 2, 1]}, TypeError, "labels must be a jax.Array or NumPy array; got list"),
        ({"sample_weight": [1, 1, 1]}, TypeError, "sample_weight must be a jax.Array or NumPy array or None; got list"),
        ({"where": [True]}, TypeError, "where must be a jax.Array or NumPy array or None; got list"),
        ({"where": np.ones(3, np.float32)}, TypeError, "where must be boolean; got float32"),
        (
            {"where": np.ones(2, np.bool_)},
            ValueError,
            r"where must have the shape of the labels.*\(3,\); got \(2,\)",
        ),
        ({"logits": LABELS}, TypeError, "logits must be floating point.*got int32"),
        ({"logits": LOGITS[:, 0]}, ValueError, r"expected \(\).*got \(3,\); is the class axis missing from logits"),
        ({"logits": LOGITS[:, :1]}, ValueError, r"at least 2 classes.*\(3, 1\)"),
        ({"labels": LABELS.astype(np.float32)}, TypeError, "labels must hold integer class indices.*got float32"),
        ({"labels": np.eye(3, dtype=np.int32)}, ValueError, "one-hot labels"),
        ({"labels": LABELS[:, None]}, ValueError, "an axis of size 1 has to be squeezed: squeeze axis 1 of labels"),
        ({"labels": np.array([0, 7, 1])}, ValueError, "got 7 at index 1"),
        ({"labels": np.array([True, False, True])}, TypeError, "integer class indices.*got bool"),
        ({"sample_weight": np.ones(2, np.float32)}, ValueError, r"sample_weight.*\(3,\); got \(2,\)"),
        ({"margin": True}, TypeError, "margin must be a real number.*got bool"),
        ({"margin": "1"}, TypeError, "margin must be a real number"),
        ({"margin": jnp.ones(2)}, ValueError, r"margin must be.*shape \(3,\); got shape \(2,\)"),
        ({"axis": 2}, ValueError, "axis must lie in"),
        ({"reduction": "batchmean"}, ValueError, "reduction must be one of 'none', 'sum'.*'batchmean'"),
        ({"ignore_index": 1.5}, TypeError, "ignore_index must be an integer or None"),
    ],
)
def test_messages(arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        function("hem_loss")(**{"logits": LOGITS, "labels": LABELS, **arguments})


@pytest.mark.finding(16)
def test_a_mask_of_logits_is_told_from_one_of_labels() -> None:
    """It masks classes in optax. A masked class has the logit -inf, as the message says."""
    mask = np.array([[True, True, False]] * 3)
    with pytest.raises(ValueError, match=r"where must have the shape of the labels, \(3,\).*jnp\.where\(where, logits"):
        function("hem_loss")(LOGITS, LABELS, where=mask)
    masked = function("cross_entropy_loss")(jnp.where(mask, LOGITS, -jnp.inf), LABELS * 0, reduction="none")
    np.testing.assert_allclose(masked, jax.nn.logsumexp(LOGITS[:, :2], axis=1) - LOGITS[:, 0], rtol=1e-6)


@pytest.mark.finding(6)
def test_weights_and_margins_are_constants() -> None:
    slopes = jax.grad(lambda w, m: function("hem_loss")(LOGITS, LABELS, sample_weight=w, margin=m), (0, 1))
    assert not any(np.any(slope) for slope in slopes(jnp.ones(3), jnp.float32(1.0)))


@pytest.mark.finding(28)
@pytest.mark.finding(29)
def test_labels_are_compared_as_the_integers_they_are() -> None:
    """Read or traced: 2**32 is not class 0, -100 ignores -100 alone."""
    with jax.enable_x64(True):
        for label in (2**32, 2**31, 100, -(2**32) - 100):
            labels = np.array([label, 2, 1], np.int64)
            with pytest.raises(ValueError, match=f"got {label} at index 0"):
                function("hem_loss")(LOGITS, labels)
            traced = jax.jit(lambda y: function("hem_loss")(LOGITS, y, reduction="none"))(labels)
            np.testing.assert_array_equal(np.isnan(traced), [True, False, False])


@pytest.mark.finding(26)
def test_nothing_given_is_written_to_or_frozen() -> None:
    given = {"logits": LOGITS.copy(), "labels": LABELS.copy(), "sample_weight": np.ones(3), "margin": np.ones(3)}
    before = {name: array.copy() for name, array in given.items()}
    jax.grad(lambda z: function("hem_loss")(**{**given, "logits": z}))(given["logits"])
    hemspec.jax.HEMLoss(margin=given["margin"])(given["logits"], given["labels"])
    for name, array in given.items():
        assert array.flags.writeable
        np.testing.assert_array_equal(array, before[name])


def test_shapes_are_checked_while_tracing() -> None:
    with pytest.raises(ValueError, match="labels must have the shape of logits without the class axis"):
        jax.jit(function("hem_loss"))(LOGITS, LABELS[:2])
    with pytest.raises(TypeError, match="margin must be a real number or an array of them; got bool"):
        jax.jit(lambda margin: function("hem_loss")(LOGITS, LABELS, margin=margin))(True)


def test_active_mean_belongs_to_the_margin_losses() -> None:
    with pytest.raises(ValueError, match="only HEM and multi-class margin have inactive positions"):
        function("cross_entropy_loss")(LOGITS, LABELS, reduction="active_mean")
    with pytest.raises(ValueError, match="numerator and denominator of an average"):
        hemspec.jax.hem_loss.terms(LOGITS, LABELS, reduction="sum")
