"""What callers hand in beside logits: the right number for the right class, or an error that says what to do."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import hemspec

LABELS = [2, 2, 2, 1, 1, 0]
LOGITS, Y = np.random.default_rng(0).normal(size=(6, 3)), np.array(LABELS)

PER_CLASS: list[tuple[Any, str]] = [
    (hemspec.hem_loss, "margin"),
    (hemspec.hem_diagnostics, "margin"),
    (hemspec.multi_margin_loss, "margin"),
    (hemspec.focal_loss, "alpha"),
    (hemspec.logit_adjusted_loss, "class_counts"),
]


def entries(kind: str) -> Any:
    """The numbers 1, 2, 3 of the classes 0, 1, 2, as a thing that has them in another order."""
    if kind == "dict":
        return {2: 3, 0: 1, 1: 2}
    if kind == "NumPy's integers":
        return {np.int64(2): np.float32(3), np.int32(0): 1, np.uint8(1): 2}
    if kind == "Counter":
        return Counter(LABELS)
    pandas = pytest.importorskip("pandas")
    if kind == "nullable":
        return pandas.Series([3, 2, 1], index=[2, 1, 0], dtype="Int64")
    return pandas.Series(LABELS).value_counts()  # sorted by frequency


KINDS = ["dict", "NumPy's integers", "Counter", "Series", "nullable"]


@pytest.mark.finding(3)
@pytest.mark.parametrize("kind", KINDS)
def test_what_has_an_index_is_put_in_the_order_of_the_classes(kind: str) -> None:
    given = entries(kind)
    np.testing.assert_array_equal(
        hemspec.margins_from_class_counts(given), hemspec.margins_from_class_counts([1, 2, 3])
    )
    for function, name in PER_CLASS:
        assert function(LOGITS, Y, **{name: given}) == function(LOGITS, Y, **{name: [1, 2, 3]}), name


@pytest.mark.finding(3)
@pytest.mark.parametrize(
    ("index", "advice"),
    [
        ([0, 2, 3], "nothing for class 1"),
        ([1, 2, 3], "classes count from 0: subtract 1"),
        ([-1, 0, 1], "classes count from 0"),
        (["cat", "dog", "owl"], "turn each name into its index, or give a list in the order of the classes"),
        (["0", "1", "2"], r"turn each key into a number with int\(\)"),
        ([0.0, 1.0, 2.0], "class indices are integers"),
        ([False, True, 2], "class indices are integers"),
    ],
)
def test_an_index_that_is_not_the_classes(index: list[Any], advice: str) -> None:
    message = rf"must be given for exactly the classes 0 to C-1; got a dict with the index \[.*\] \(.*{advice}"
    given = dict(zip(index, [1, 2, 3], strict=True))
    with pytest.raises(ValueError, match=f"class_counts {message}"):
        hemspec.margins_from_class_counts(given)
    for function, name in PER_CLASS:
        with pytest.raises(ValueError, match=f"{name} {message}"):
            function(LOGITS, Y, **{name: given})


@pytest.mark.finding(3)
def test_tables_and_what_has_lost_its_classes() -> None:
    counts = Counter(LABELS)
    for lost in (counts.values(), set(counts.values())):
        with pytest.raises(TypeError, match=r"class_counts .* does not say which class is which: give the dict"):
            hemspec.margins_from_class_counts(lost)
    pandas = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match="a class occurs more than once"):
        hemspec.margins_from_class_counts(pandas.Series([3, 2], index=[0, 0]))
    with pytest.raises(TypeError, match="margin must have one entry per class; got a DataFrame: give one column"):
        hemspec.hem_loss(LOGITS, Y, margin=pandas.DataFrame({"margin": [1, 2, 3]}))


@pytest.mark.finding(3)
@pytest.mark.parametrize("counts", [[0.5, 0.3, 0.2], [50.5, 30.0, 19.5], [3, 2.5, 1], [1, 1, 0.999]])
def test_shares_are_not_counts(counts: list[float]) -> None:
    message = r"class_counts must be whole numbers >= 1, .* at index \d \(shares are not counts"
    for given in (counts, np.array(counts, np.float32), dict(enumerate(counts))):
        with pytest.raises(ValueError, match=message):
            hemspec.margins_from_class_counts(given)
        with pytest.raises(ValueError, match=message):
            hemspec.logit_adjusted_loss(LOGITS, Y, class_counts=given)
    with pytest.raises(ValueError, match=r"num_samples must be >= 1, the size of the whole training set; got 0.5"):
        hemspec.margin_from_num_samples(0.5)


@pytest.mark.finding(3)
def test_counts_within_rounding() -> None:
    exact = np.array([90_001, 3_000, 7])
    shares = (exact / exact.sum()).astype(np.float32)
    again = shares * np.float32(exact.sum())
    np.testing.assert_allclose(
        hemspec.margins_from_class_counts(again), hemspec.margins_from_class_counts(exact), rtol=1e-6
    )
    # The prior knows shares of the total alone: what four digits lack of a whole number does not matter to it.
    four_digits = shares.astype(np.float64).round(4) * exact.sum()
    four_digits[2] += 1
    value = hemspec.logit_adjusted_loss(LOGITS, Y, class_counts=four_digits)
    assert np.isfinite(value)
    with pytest.raises(ValueError, match="whole numbers"):
        hemspec.margins_from_class_counts(four_digits)


@pytest.mark.finding(3)
def test_counts_beyond_32_bits() -> None:
    counts = np.full(3, 2**31 - 1, np.int32)
    expected = hemspec.logit_adjusted_loss(LOGITS, Y, class_counts=[1, 1, 1])
    assert hemspec.logit_adjusted_loss(LOGITS, Y, class_counts=counts) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(hemspec.margins_from_class_counts(counts), np.sqrt(2000 / (3 * (2**31 - 1))))


@pytest.mark.finding(23)
def test_a_number_that_is_text() -> None:
    for text, number in (("2e-1", 0.2), ("5e4", 50000.0), ("0.2", 0.2)):
        advice = rf"got the text '{text}' \(YAML takes .* for text: write {number}, or convert it with float\(\)\)"
        for given in (text, [text, "1", "1"]):
            with pytest.raises(TypeError, match=f"margin must be a real number or an array of them; {advice}"):
                hemspec.hem_loss(LOGITS, Y, margin=given)
        with pytest.raises(TypeError, match=f"temperature .*; {advice}"):
            hemspec.logit_norm_loss(LOGITS, Y, temperature=text)
    with pytest.raises(TypeError, match=r"num_samples must be a number; got '5e4' .*write 50000.0"):
        hemspec.margin_from_num_samples("5e4")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got the text 'auto'$"):
        hemspec.hem_loss(LOGITS, Y, margin="auto")
