"""The split is stratified and fixed; the batches are a function of the seed."""

from __future__ import annotations

import numpy as np
import pytest

from hemspec_benchmark.data import CLASSES, load_split, training_batches
from hemspec_benchmark.settings import HyperParameters


def as_set(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_the_split_is_stratified_and_disjoint() -> None:
    split = load_split("test")
    assert (len(split.train_labels), len(split.test_labels)) == (1257, 540)
    test_counts = np.bincount(split.test_labels, minlength=CLASSES)
    np.testing.assert_allclose(test_counts / (test_counts + split.class_counts), 0.3, atol=0.01)
    assert not as_set(split.train_images) & as_set(split.test_images)


def test_validation_images_are_training_images() -> None:
    split, validation = load_split("test"), load_split("validation")
    assert as_set(validation.train_images) | as_set(validation.test_images) == as_set(split.train_images)


def test_batches_follow_from_the_seed() -> None:
    split, settings = load_split("test"), HyperParameters(epochs=2)
    images, labels = training_batches(split, 0, settings)
    assert images.shape == (2, 19, 64, 8, 8, 1)
    assert labels.shape == (2, 19, 64)
    again, _ = training_batches(split, 0, settings)
    other, _ = training_batches(split, 1, settings)
    np.testing.assert_array_equal(images, again)
    assert not np.array_equal(images, other)
    assert not np.array_equal(images[0], images[1])


def test_every_batch_image_is_a_shift_of_an_image_with_its_label() -> None:
    split = load_split("test")
    images, labels = training_batches(split, 0, HyperParameters(epochs=1))
    # A shift by at most a pixel leaves the inner 6 x 6 inside the frame, somewhere.
    originals = {
        split.train_images[i, down : down + 6, right : right + 6].tobytes(): label
        for i, label in enumerate(split.train_labels)
        for down in range(3)
        for right in range(3)
    }
    for image, label in zip(images.reshape(-1, 8, 8, 1), labels.ravel(), strict=True):
        assert originals[image[1:7, 1:7].tobytes()] == label


def test_a_batch_larger_than_the_data_is_an_error() -> None:
    with pytest.raises(ValueError, match="only 1257 training images"):
        training_batches(load_split("test"), 0, HyperParameters(batch_size=2000))
