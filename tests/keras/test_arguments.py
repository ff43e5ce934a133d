"""What constructors take: the right number for the right class, or an error that says what to do."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

pytest.importorskip("keras", reason="Keras is not installed")
pytest.importorskip(os.environ["KERAS_BACKEND"], reason="the backend that KERAS_BACKEND names is not installed")

from hemspec.keras import (
    ActiveFraction,
    DiceLoss,
    FocalLoss,
    HEMLoss,
    KeptErrors,
    LogitAdjustedLoss,
    MarginSatisfied,
    MultiMarginLoss,
)

PER_CLASS: list[tuple[Any, str]] = [
    (HEMLoss, "margin"),
    (MultiMarginLoss, "margin"),
    (FocalLoss, "alpha"),
    (LogitAdjustedLoss, "class_counts"),
    (ActiveFraction, "margin"),
    (KeptErrors, "margin"),
    (MarginSatisfied, "margin"),
]
SHUFFLED = {2: 3, 0: 1, 1: 2}


@pytest.mark.finding(3)
@pytest.mark.parametrize("kind", ["dict", "Series"])
def test_what_has_an_index_is_put_in_the_order_of_the_classes(kind: str) -> None:
    given: Any = SHUFFLED
    if kind == "Series":
        given = pytest.importorskip("pandas").Series(SHUFFLED)
    for make, name in PER_CLASS:
        made = make(**{name: given})
        assert made.get_config()[name] == [1.0, 2.0, 3.0]
        assert make.from_config(made.get_config()).get_config() == made.get_config()
        with pytest.raises(ValueError, match=f"{name} must be given for exactly the classes.*subtract 1"):
            make(**{name: {1: 1, 2: 2, 3: 3}})


@pytest.mark.finding(3)
@pytest.mark.parametrize("counts", [[0.5, 0.25, 0.25], [3.0, 2.5, 1.0]])
def test_shares_are_not_counts(counts: list[float]) -> None:
    for given in (counts, np.array(counts, np.float32)):
        with pytest.raises(ValueError, match=r"class_counts must be whole numbers >= 1.*shares are not counts"):
            LogitAdjustedLoss(class_counts=given)


@pytest.mark.finding(23)
def test_a_number_that_is_text() -> None:
    for make, name in ((HEMLoss, "margin"), (FocalLoss, "gamma"), (DiceLoss, "smooth")):
        with pytest.raises(TypeError, match=rf"{name} must be a real number.* write 0.2, or convert it with float\(\)"):
            make(**{name: "2e-1"})


@pytest.mark.finding(23)
def test_keywords_of_cross_entropy() -> None:
    for make in (HEMLoss, MultiMarginLoss, FocalLoss, DiceLoss):
        assert make(from_logits=True, label_smoothing=0.0).get_config() == make().get_config()
        with pytest.raises(TypeError, match=f"{make.__name__} has no label_smoothing: .*leave label smoothing at 0"):
            make(label_smoothing=0.1)


@pytest.mark.finding(19)
def test_labels_that_do_not_fit() -> None:
    z = np.zeros((2, 4, 5, 3), np.float32)
    for y_true, axis, advice in (
        (np.zeros((2, 1, 4, 5), int), -1, r"squeeze axis 1 of y_true"),
        (np.zeros((2, 5, 3), int), -1, r"are the classes on axis 1 of y_pred\? say axis=1"),
        (np.ones((2, 4, 5), bool), -1, r"cast y_true to an integer dtype"),
        (np.full((2, 4, 5), 255), -1, r"say ignore_class=255"),
        (np.full((2, 4, 5), 3), -1, r"labels count from 0"),
    ):
        with pytest.raises((TypeError, ValueError), match=advice):
            HEMLoss(axis=axis)(y_true, z)
