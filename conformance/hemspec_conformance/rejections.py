"""Bad arguments, one for each row of the specification's table, and what a backend has to say to them.

`static` rows concern shapes, dtypes and names: an error in every mode. The others concern values: an error where the
value can be read, else a NaN loss with a NaN gradient in every class of the positions it spoils.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hemspec_conformance.adapter import LOSSES, Array, Call

LOGITS = np.array([[1.0, -0.5, 0.25], [0.0, 2.0, -1.0], [-1.5, 0.5, 1.0], [0.75, 0.0, 3.0]], np.float32)
LABELS = np.array([0, 2, 1, 0])

NEEDED: dict[str, dict[str, Any]] = {"logit_adjusted_loss": {"class_counts": np.array([3.0, 1.0, 2.0])}}
"""Constants without a default."""


@dataclass(frozen=True)
class Rejection:
    """A call that must not give a number."""

    name: str
    call: Call
    words: Sequence[str]
    """What the message has to contain; an argument's name stands for the backend's own name of it."""
    static: bool = False
    bad_at: int | None = None
    """The position that is bad; None where a bad constant spoils them all."""
    label_form: bool = False
    """A form of label or weight that a backend with other forms of labels accepts."""
    wide_labels: bool = False
    """The labels need more than 32 bits."""

    def bad_positions(self) -> Any:
        bad = np.ones(self.call.labels.shape, bool)
        if self.bad_at is not None and not self.call.constants.get("batch", False):
            bad[:] = False
            bad[self.bad_at] = True
        return bad


def call(loss: str, **changes: Any) -> Call:
    arguments: dict[str, Any] = {"logits": LOGITS, "labels": LABELS, "reduction": "mean", **changes}
    return Call(loss, **{"constants": NEEDED.get(loss, {}), **arguments})


def with_constant(loss: str, name: str, value: Any) -> Call:
    return call(loss, constants={**NEEDED.get(loss, {}), name: value})


def at(array: Array, index: int, value: float) -> Array:
    """A float or integer array with one entry replaced."""
    changed = array.copy()
    changed[index] = value
    return changed


ONES = np.ones(4, np.float32)


def arguments_rejected(loss: str) -> list[Rejection]:
    """What every loss refuses."""
    static: list[tuple[str, dict[str, Any], list[str]]] = [
        ("logits_integer", {"logits": LOGITS.astype(np.int32)}, ["logits", "floating", "int32"]),
        ("logits_one_class", {"logits": LOGITS[:, :1], "labels": np.zeros(4, int)}, ["logits", "2 classes"]),
        ("labels_too_few", {"labels": LABELS[:3]}, ["labels", "shape", "(4,)", "(3,)"]),
        ("labels_boolean", {"labels": LABELS > 0}, ["labels", "integer", "bool"]),
        ("weights_wrong_shape", {"sample_weight": np.ones(3, np.float32)}, ["sample_weight", "(4,)", "(3,)"]),
        ("weights_per_class", {"sample_weight": np.ones((4, 3), np.float32)}, ["sample_weight", "(4,)", "(4, 3)"]),
        ("weights_scalar", {"sample_weight": np.array(1.0, np.float32)}, ["sample_weight", "(4,)", "()"]),
        ("reduction_unknown", {"reduction": "average"}, ["reduction", "'mean'", "'average'"]),
        ("ignore_index_float", {"ignore_index": 1.5}, ["ignore_index", "integer", "float"]),
        ("ignore_index_boolean", {"ignore_index": True}, ["ignore_index", "integer", "bool"]),
    ]
    rejections = [Rejection(name, call(loss, **changes), words, static=True) for name, changes, words in static]
    if loss not in ("hem_loss", "multi_margin_loss"):
        active = call(loss, reduction="active_mean")
        rejections.append(Rejection("reduction_active_mean", active, ["reduction", "active_mean"], static=True))
    one_hot = np.eye(3, dtype=np.int64)[LABELS]
    without_axis = call(loss, logits=LOGITS[:, 0])
    words = ["labels", "shape", "()", "(4,)", "class axis"]
    rejections.append(Rejection("logits_without_class_axis", without_axis, words, static=True, label_form=True))
    for name, labels, words in (
        ("labels_float", LABELS.astype(np.float32), ["labels", "integer", "float32"]),
        ("labels_one_hot", one_hot, ["labels", "(4,)", "(4, 3)", "one-hot"]),
        ("labels_one_hot_float", one_hot.astype(np.float32), ["labels", "integer", "one-hot"]),
        ("labels_trailing_axis", LABELS[:, None], ["labels", "(4,)", "(4, 1)", "squeezed"]),
    ):
        rejections.append(Rejection(name, call(loss, labels=labels), words, static=True, label_form=True))

    trailing = call(loss, sample_weight=np.ones((4, 1), np.float32))  # Keras squeezes it before a loss sees it
    words = ["sample_weight", "(4,)", "(4, 1)"]
    rejections.append(Rejection("weights_trailing_axis", trailing, words, static=True, label_form=True))

    for reduction in ("none", "mean"):  # without ignore_index -100 is a label like any other: a bad one
        off = call(loss, labels=at(LABELS, 2, -100), ignore_index=None, reduction=reduction)
        words = ["labels", "[0, 3)", "got -100", "index 2"]
        rejections.append(Rejection(f"ignore_index_off_{reduction}", off, words, bad_at=2))
    for name, label in (("labels_too_large", 3), ("labels_negative", -1), ("labels_far_out", 10**6)):
        for reduction in ("none", "mean"):
            bad = call(loss, labels=at(LABELS, 2, label), reduction=reduction)
            words = ["labels", "[0, 3)", f"got {label}", "index 2"]
            rejections.append(Rejection(f"{name}_{reduction}", bad, words, bad_at=2))
    # The ids that ignored ones are taken for: by their size, or after a cast to 32 bits (2**32 is 0 there).
    for name, label, ignored in (
        ("100", 100, -100),
        ("minus_100", -100, 100),
        ("2_to_the_31", 2**31, -100),
        ("2_to_the_32", 2**32, -100),
        ("2_to_the_32_plus_1", 2**32 + 1, -100),
        ("2_to_the_32_less_100", 2**32 - 100, -100),
        ("minus_2_to_the_32", -(2**32), -100),
        ("minus_100_less_2_to_the_40", -100 - 2**40, -100),
    ):
        bad = call(loss, labels=at(LABELS, 2, label), ignore_index=ignored, reduction="none")
        words = ["labels", "[0, 3)", f"got {label}", "index 2"]
        wide = abs(label) > 2**30
        rejections.append(Rejection(f"labels_{name}", bad, words, bad_at=2, wide_labels=wide))
    both = call(loss, labels=at(LABELS, 1, 3), sample_weight=at(ONES, 1, -1.0))  # one of the two is named
    rejections.append(Rejection("label_and_weight", both, ["index 1"], bad_at=1))
    for name, weight in (("negative", -1.0), ("nan", np.nan), ("infinite", np.inf)):
        bad = call(loss, sample_weight=at(ONES, 1, weight))
        rejections.append(Rejection(f"weight_{name}", bad, ["sample_weight", ">= 0", "index 1"], bad_at=1))
    return rejections


def constants_rejected() -> list[Rejection]:
    """Hyper-parameters out of their range, or of the wrong length."""
    rejections = []
    for loss in ("hem_loss", "multi_margin_loss"):
        for name, value in (("negative", -1.0), ("nan", np.nan), ("infinite", np.inf)):
            bad = with_constant(loss, "margin", value)
            rejections.append(Rejection(f"margin_{name}", bad, ["margin", "finite", ">= 0"]))
            vector = with_constant(loss, "margin", at(np.ones(3), 1, value))
            rejections.append(Rejection(f"margin_vector_{name}", vector, ["margin", "finite", ">= 0", "index 1"]))
        wrong = with_constant(loss, "margin", np.ones(4))
        rejections.append(Rejection("margin_wrong_length", wrong, ["margin", "(3,)", "(4,)"], static=True))
    for loss, constant, values, word in (
        ("focal_loss", "gamma", (-1.0, np.nan, np.inf), ">= 0"),
        ("logit_norm_loss", "temperature", (0.0, -1.0, np.nan, np.inf), "> 0"),
        ("logit_adjusted_loss", "temperature", (0.0, -1.0, np.nan, np.inf), "> 0"),
        ("dice_loss", "smooth", (-1.0, np.nan, np.inf), ">= 0"),
    ):
        for value in values:
            bad = with_constant(loss, constant, value)
            rejections.append(Rejection(f"{constant}_{value}", bad, [constant, "finite", word]))
    for loss, constant, values, word in (
        ("focal_loss", "alpha", (-1.0, np.nan, np.inf), ">= 0"),
        ("logit_adjusted_loss", "class_counts", (0.0, -1.0, np.nan, np.inf), "> 0"),
    ):
        for value in values:
            bad = with_constant(loss, constant, at(np.ones(3), 1, value))
            rejections.append(Rejection(f"{constant}_{value}", bad, [constant, "finite", word, "index 1"]))
        wrong = with_constant(loss, constant, np.ones(4))
        rejections.append(Rejection(f"{constant}_wrong_length", wrong, [constant, "(3,)", "(4,)"], static=True))
    for share in (0.5, 2.5):
        bad = with_constant("logit_adjusted_loss", "class_counts", at(np.full(3, 1000.0), 1, share))
        rejections.append(Rejection(f"class_counts_{share}", bad, ["class_counts", "whole", ">= 1", "index 1"]))
    for loss, constant in (("focal_loss", "alpha"), ("logit_adjusted_loss", "class_counts")):
        scalar = with_constant(loss, constant, 1.0)
        words = [constant, "one entry per class", "()"]
        rejections.append(Rejection(f"{constant}_scalar", scalar, words, static=True))
    for loss, constant in (
        ("focal_loss", "gamma"),
        ("logit_norm_loss", "temperature"),
        ("logit_adjusted_loss", "temperature"),
        ("dice_loss", "smooth"),
    ):
        vector = with_constant(loss, constant, np.ones(3))
        words = [constant, "one number", "(3,)"]
        rejections.append(Rejection(f"{constant}_vector", vector, words, static=True))
    flag = with_constant("dice_loss", "batch", "no")
    rejections.append(Rejection("batch_not_a_flag", flag, ["batch", "True or False", "'no'"], static=True))
    return rejections


REJECTIONS: Sequence[Rejection] = [
    *(rejection for loss in LOSSES for rejection in arguments_rejected(loss)),
    *constants_rejected(),
]
