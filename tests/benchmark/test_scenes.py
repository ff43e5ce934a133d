"""Scenes are real digits on real photographs, and their masks say where."""

from __future__ import annotations

import numpy as np
import pytest

import hemspec
from hemspec_benchmark.datasets import IGNORED, Dataset, digits
from hemspec_benchmark.losses import LOSSES
from hemspec_benchmark.scenes import BORDER, BRIGHTNESS, SIZE, scenes


@pytest.fixture(scope="module")
def data() -> Dataset:
    return scenes(digits(), 0, 200, 100)


def test_shapes_classes_and_no_augmentation(data: Dataset) -> None:
    assert data.train_images.shape == (200, SIZE, SIZE, 1)
    assert data.test_labels.shape == (100, SIZE, SIZE)
    assert (data.train_images.dtype, data.train_labels.dtype) == (np.float32, np.int32)
    assert data.classes == ("background", *"0123456789")
    assert data.num_classes == 11
    assert set(np.unique(data.train_labels)) == {IGNORED, *range(11)}
    assert (data.shift, data.flip) == (0, False)
    assert 0 <= data.train_images.min() < data.train_images.max() <= 1


def test_exactly_the_border_is_ignored(data: Dataset) -> None:
    ignored = np.ones((SIZE, SIZE), bool)
    ignored[BORDER:-BORDER, BORDER:-BORDER] = False
    assert ((data.train_labels == IGNORED) == ignored).all()
    assert data.class_counts.sum() == 200 * 20 * 20
    by_images = LOSSES["hem-images"].arguments(data.class_counts)
    assert by_images == {"margin": hemspec.margin_from_num_samples(200)}


def test_background_is_85_percent_in_both_parts(data: Dataset) -> None:
    for labels in (data.train_labels, data.test_labels):
        assert (labels == 0).sum() / (labels >= 0).sum() == pytest.approx(0.85, abs=0.01)


def test_a_mask_marks_ink(data: Dataset) -> None:
    labels, images = data.train_labels, data.train_images[..., 0]
    assert images[labels == 0].mean() < 0.5 * images[labels > 0].mean()
    # Ink of 0.3 on black is the darkest that is labelled.
    assert images[labels > 0].min() > 0.3


def test_digits_stand_where_the_mask_says() -> None:
    """A class whose digits are all ink: its pixels are white and its boxes are whole, nothing else is covered."""
    images, labels = np.ones((20, 8, 8, 1), np.float32), np.arange(20, dtype=np.int32) % 2
    data = scenes(Dataset("solid", images, labels, images, labels, ("a", "b")), 0, 50, 50)
    inner = slice(BORDER, SIZE - BORDER)
    white = data.train_images[:, inner, inner, 0] == 1
    np.testing.assert_array_equal(data.train_labels[:, inner, inner] > 0, white)
    assert data.train_images[:, inner, inner, 0][~white].max() <= BRIGHTNESS
    # Without overlap two or three boxes of 64 pixels are all there.
    assert set((data.train_images == 1).sum(axis=(1, 2, 3)).tolist()) == {2 * 64, 3 * 64}


def test_train_and_test_share_neither_digits_nor_photographs() -> None:
    original = digits()
    blank = np.zeros_like(original.train_images)
    marked = Dataset("d", original.train_images, original.train_labels, blank, original.train_labels, original.classes)
    # The test digits are blank: no ink in any test scene, and only photograph.
    data = scenes(marked, 0, 50, 300)
    assert set(np.unique(data.test_labels)) == {IGNORED, 0}
    bare = scenes(
        Dataset("b", blank, original.train_labels, blank, original.train_labels, original.classes), 0, 300, 300
    )
    rows = [{row.tobytes() for image in part for row in image} for part in (bare.train_images, bare.test_images)]
    assert len(rows[0]) > 1000
    assert not rows[0] & rows[1]


def test_only_training_scenes_follow_from_the_seed(data: Dataset) -> None:
    again, other = scenes(digits(), 0, 200, 100), scenes(digits(), 1, 200, 100)
    np.testing.assert_array_equal(data.train_images, again.train_images)
    np.testing.assert_array_equal(data.train_labels, again.train_labels)
    assert not np.array_equal(data.train_images, other.train_images)
    np.testing.assert_array_equal(data.test_images, other.test_images)
    np.testing.assert_array_equal(data.test_labels, other.test_labels)
