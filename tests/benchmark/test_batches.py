"""Batches are a function of the random generator, and augmentation keeps the label."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hemspec_benchmark.batches import epoch, shifted
from hemspec_benchmark.datasets import digits


def joined(*args: Any, seed: int = 0, **options: Any) -> tuple[Any, Any, Any]:
    """All chunks of an epoch in one."""
    images, labels, groups = zip(*epoch(*args, np.random.default_rng(seed), **options), strict=True)
    return np.concatenate(images), np.concatenate(labels), None if groups[0] is None else np.concatenate(groups)


def test_batches_follow_from_the_generator() -> None:
    data = digits()
    images, labels, groups = joined(data.train_images, data.train_labels, 64, shift=1)
    again, _, _ = joined(data.train_images, data.train_labels, 64, shift=1)
    other, _, _ = joined(data.train_images, data.train_labels, 64, shift=1, seed=1)
    assert (images.shape, labels.shape, groups) == ((19, 64, 8, 8, 1), (19, 64), None)
    assert (images.dtype, labels.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(images, again)
    assert not np.array_equal(images, other)
    rng = np.random.default_rng(0)
    first, second = (next(epoch(data.train_images, data.train_labels, 64, rng))[0] for _ in range(2))
    assert not np.array_equal(first, second)


def test_the_chunk_changes_nothing_else() -> None:
    data = digits()
    options: dict[str, Any] = {"shift": 2, "flip": True}
    whole = joined(data.train_images, data.train_labels, 64, chunk=64, **options)
    parts = joined(data.train_images, data.train_labels, 64, chunk=7, **options)
    for a, b in zip(whole[:2], parts[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    sizes = [
        len(labels)
        for _, labels, _ in epoch(data.train_images, data.train_labels, 64, np.random.default_rng(0), chunk=7)
    ]
    assert sizes == [7, 7, 5]


def test_every_batch_image_is_a_shift_of_an_image_with_its_label() -> None:
    data = digits()
    images, labels, _ = joined(data.train_images, data.train_labels, 64, shift=1)
    # A shift by at most a pixel leaves the inner 6 x 6 inside the frame, somewhere.
    originals = {
        data.train_images[i, down : down + 6, right : right + 6].tobytes(): label
        for i, label in enumerate(data.train_labels)
        for down in range(3)
        for right in range(3)
    }
    for image, label in zip(images.reshape(-1, 8, 8, 1), labels.ravel(), strict=True):
        assert originals[image[1:7, 1:7].tobytes()] == label


def test_without_augmentation_each_image_comes_at_most_once_with_its_group() -> None:
    images = np.arange(1, 11, dtype=np.float32).reshape(10, 1, 1, 1)
    labels = np.arange(1, 11, dtype=np.int32)
    batch, given, groups = joined(images, labels, 3, groups=labels * 100)
    assert batch.shape == (3, 3, 1, 1, 1)
    assert len(set(given.ravel().tolist())) == 9
    np.testing.assert_array_equal(batch.ravel(), given.ravel())
    np.testing.assert_array_equal(groups, given * 100)


def test_all_shifts_and_mirrorings_occur() -> None:
    image = np.array([[1, 2], [3, 4]], np.float32).reshape(1, 2, 2, 1)
    images, labels = np.repeat(image, 400, axis=0), np.zeros(400, np.int32)
    shifts = {i.tobytes() for i in joined(images, labels, 400, shift=1)[0][0]}
    assert len(shifts) == 9
    mirrored = joined(images, labels, 400, flip=True)[0][0, ..., 0]
    is_mirrored = (mirrored == [[2, 1], [4, 3]]).all(axis=(1, 2))
    assert (mirrored[~is_mirrored] == [[1, 2], [3, 4]]).all()
    assert 0.4 < is_mirrored.mean() < 0.6
    assert len({i.tobytes() for i in joined(images, labels, 400, shift=1, flip=True)[0][0]}) == 18


def test_zeros_come_in_from_the_side_that_was_left() -> None:
    images = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3, 1).repeat(2, axis=0)
    moved = shifted(images, np.array([1, 0]), np.array([0, -2]), limit=2)
    np.testing.assert_array_equal(moved[0, ..., 0], [[0, 0, 0], [1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(moved[1, ..., 0], [[3, 0, 0], [6, 0, 0], [9, 0, 0]])


def test_the_data_is_not_written_to() -> None:
    data = digits()
    before = data.train_images.copy()
    joined(data.train_images, data.train_labels, 64, flip=True)
    np.testing.assert_array_equal(data.train_images, before)


def test_masks_come_with_their_images_and_unaugmented() -> None:
    images = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1).repeat(2, axis=1)
    masks = images[..., 0].astype(np.int32)
    batch, labels, _ = joined(images, masks, 2)
    assert labels.shape == (2, 2, 2, 1)
    np.testing.assert_array_equal(batch[..., 0], labels)
    for options in ({"shift": 1}, {"flip": True}):
        with pytest.raises(ValueError, match="masks need shift = 0 and flip = False"):
            joined(images, masks, 2, **options)


def test_a_batch_larger_than_the_data_is_an_error() -> None:
    data = digits()
    with pytest.raises(ValueError, match="batch_size is 2000, but there are only 1257 training images"):
        joined(data.train_images, data.train_labels, 2000)
