"""What callers hand in beside logits: the right number for the right class, or an error that says what to do."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

import hemspec
from hemspec.advice import OF_A_HEAD
from hemspec.arguments import check_label_values, check_labels, check_logits, check_weight

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
    value = hemspec.logit_adjusted_loss(LOGITS, Y, class_counts=again)
    assert value == pytest.approx(hemspec.logit_adjusted_loss(LOGITS, Y, class_counts=exact), rel=1e-6)
    for few in ([0.5, 1000, 2000], [5000.5, 10, 20]):  # however many there are in all
        with pytest.raises(ValueError, match=r"at index 0 \(shares"):
            hemspec.logit_adjusted_loss(LOGITS, Y, class_counts=few)


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


NAMES = [("logits", "labels"), ("input", "target"), ("y_pred", "y_true"), (OF_A_HEAD, "labels"), (OF_A_HEAD, "target")]

CONFUSED: list[tuple[str, tuple[int, ...], int, tuple[int, ...], str, str]] = [
    # what came, logits and their class axis, labels and their dtype, what the message has to advise
    ("floats of the right shape", (4, 3), 1, (4,), "float32", "cast NAME to an integer dtype"),
    ("booleans of the right shape", (4, 3), 1, (4,), "bool", "cast NAME to an integer dtype"),
    ("masks of floats", (2, 3, 8, 9), 1, (2, 8, 9), "float64", "cast NAME to an integer dtype"),
    ("a column", (4, 3), 1, (4, 1), "int64", "squeeze axis 1 of NAME"),
    ("a column of floats", (4, 3), 1, (4, 1), "float32", "squeeze axis 1 of NAME, and cast NAME to an integer"),
    ("a row", (4, 3), 1, (1, 4), "int64", "squeeze axis 0 of NAME"),
    ("a channel before the masks", (2, 3, 8, 9), 1, (2, 1, 8, 9), "int64", "squeeze axis 1 of NAME"),
    ("a channel behind the masks", (2, 3, 8, 9), 1, (2, 8, 9, 1), "uint8", "squeeze axis 3 of NAME"),
    ("a label each for one position", (3,), 0, (1,), "int32", "squeeze axis 0 of NAME"),
    ("one-hot", (4, 3), 1, (4, 3), "int64", "one-hot NAME? take the argmax over the classes, axis 1"),
    ("one-hot masks", (2, 3, 8, 9), 1, (2, 3, 8, 9), "bool", "argmax over the classes, axis 1"),
    ("one-hot, classes last", (2, 3, 8, 9), 1, (2, 8, 9, 3), "int64", "argmax over the classes, axis 3"),
    (
        "soft",
        (4, 3),
        1,
        (4, 3),
        "float32",
        r"soft NAME? labels that were mixed go as two calls, lam * loss(logits, y_a)",
    ),
    ("a batch laid flat", (2, 3, 5), 1, (10,), "int64", "reshape NAME to (2, 5)"),
]


@pytest.mark.finding(19)
@pytest.mark.finding(20)
@pytest.mark.parametrize(("logits_name", "name"), NAMES)
@pytest.mark.parametrize(
    ("logits", "axis", "labels", "dtype", "advice"), [case[1:] for case in CONFUSED], ids=[case[0] for case in CONFUSED]
)
def test_what_labels_that_do_not_fit_most_probably_are(logits, axis, labels, dtype, advice, logits_name, name) -> None:
    with pytest.raises((TypeError, ValueError)) as refused:
        check_labels(labels, dtype, logits, axis, name=name, logits_name=logits_name)
    message = str(refused.value)
    assert advice.replace("NAME", name) in message
    assert ("argmax" in message) == ("argmax" in advice or "soft" in advice)  # it would collapse class indices
    assert str(labels) in message


@pytest.mark.finding(20)
@pytest.mark.parametrize(
    ("logits", "axis", "labels", "where"),
    [((2, 5, 3), 1, (2, 5), -1), ((2, 8, 9, 3), 1, (2, 8, 9), -1), ((2, 3, 8, 9), 3, (2, 8, 9), 1)],
    ids=["(N, T, C)", "NHWC", "NCHW"],
)
def test_classes_on_another_axis(logits, axis, labels, where) -> None:
    def message(name: str, logits_name: str, shape: tuple[int, ...] = labels) -> str:
        with pytest.raises(ValueError, match="without the class axis") as refused:
            check_labels(shape, "int64", logits, axis, name=name, logits_name=logits_name)
        return str(refused.value)

    assert f"are the classes on axis {where} of logits? say axis={where}" in message("labels", "logits")
    assert f"are the classes on axis {where} of y_pred? say axis={where}" in message("y_true", "y_pred")
    if axis == 1:
        assert "the classes of input belong on axis 1: input.movedim(-1, 1)" in message("target", "input")
        column = message("target", "input", (*labels, 1))
        assert f"squeeze axis {len(labels)} of target" in column
        assert "input.movedim(-1, 1)" in column
    assert "say axis" not in message("labels", OF_A_HEAD)


@pytest.mark.finding(22)
def test_logits_and_labels_in_the_wrong_order() -> None:
    """A loss function in Keras's compile() is given (y_true, y_pred), with y_true as floats or integers."""
    z = np.zeros((4, 3), np.float32)
    for labels in (np.zeros(4, int), np.zeros((4, 1), int), np.zeros(4, np.float32), np.zeros((4, 1), np.float32)):
        with pytest.raises((TypeError, ValueError), match=r"are logits and labels swapped.*give compile.. a class of"):
            hemspec.hem_loss(labels, z)
    one_hot = np.zeros((4, 3), np.float32)  # might be labels as well
    with pytest.raises(TypeError, match=r"one-hot labels.* soft labels.* are logits and labels swapped"):
        hemspec.hem_loss(one_hot, z)


@pytest.mark.finding(19)
def test_what_a_label_that_is_no_class_most_probably_is() -> None:
    z = np.zeros((4, 3))
    for labels, advice in (
        ([1, 2, 3, 1], r"got 3 at index 2 \(labels count from 0: if yours are 1 to 3, subtract 1\)$"),
        ([1, 2, 3, 0], "got 3 at index 2$"),
        ([0, 255, 1, 255], r"got 255 at index 1 \(if 255 marks what is to be left out, say ignore_index=255\)$"),
        ([0, 1, -1, -1], r"got -1 at index 2 \(if -1 marks what is to be left out, say ignore_index=-1\)$"),
        ([0, 1, -1, 7], "got -1 at index 2$"),
    ):
        with pytest.raises(ValueError, match=advice):
            hemspec.hem_loss(z, np.array(labels))
    with pytest.raises(ValueError, match=r"got 3 at index 2 \(labels count from 0"):
        hemspec.hem_loss(z, np.array([1, -100, 3, 2]))  # what is ignored says nothing about the others
    with pytest.raises(ValueError, match="say ignore_class=255"):
        check_label_values(np.array([0, 255]), np.ones(2, bool), 3, name="y_true")


@pytest.mark.finding(24)
def test_the_english_of_messages() -> None:
    """Singular and plural names of arguments, in every message about shapes and dtypes."""
    messages: list[str] = []
    for logits_name, name in NAMES:
        for logits in ((3,), (4, 3), (4, 1), (2, 5, 3), (2, 3, 8, 9)):
            for dtype in ("float32", "int64"):
                messages.append(caught(check_logits, logits, dtype, 0, name=logits_name))
            for labels in ((), (4,), (1, 4), (4, 1), (4, 3), (2, 5), (10,), (2, 1, 8, 9), (2, 8, 9, 3)):
                for dtype in ("float32", "bool", "int64", "complex64"):
                    for axis in range(len(logits)):
                        names = {"name": name, "logits_name": logits_name}
                        messages.append(caught(check_labels, labels, dtype, logits, axis, **names))
                messages.append(caught(check_weight, labels, "float32", logits[:-1]))
    messages = sorted(set(filter(None, messages)))
    assert len(messages) > 100
    singular, plural = "(input|target|y_pred|y_true|sample_weight)", "(logits|labels)"
    wrong = re.compile(rf"\b{singular} (are|do|have)\b|\b(do|are) {singular}\b|\b{plural} (is|does|has)\b|;;|  ")
    assert [message for message in messages if wrong.search(message)] == []


def caught(check: Any, *args: Any, **options: Any) -> str:
    try:
        check(*args, **options)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""
