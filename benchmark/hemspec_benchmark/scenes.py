"""Semantic segmentation: real digits on patches of real photographs."""

from __future__ import annotations

from typing import Final

import numpy as np

from hemspec_benchmark.datasets import IGNORED, Dataset, Images, Labels
from hemspec_benchmark.unknowns import patches, sample_photographs

SIZE: Final = 24
"""Height and width of a scene in pixels."""
BORDER: Final = 2
"""Pixels along each edge that are labelled `IGNORED`."""
LABELLED: Final = (SIZE - 2 * BORDER) ** 2
"""The labelled pixels of a scene."""
REDUCTION: Final = 3
"""Photographs are reduced by this factor, the mean of 3 x 3 pixels, so that a scene shows more than a smooth spot."""
BRIGHTNESS: Final = 0.7
"""Photographs are darkened by this factor; ink is white."""
INK: Final = 0.3
"""Pixels of a digit above this grey value are labelled as the digit."""

TRAIN_SCENES: Final = 40
TEST_SCENES: Final = 41
"""Purposes of random numbers, as in `hemspec_benchmark.datasets`."""


def scenes(data: Dataset, seed: int, train: int, test: int) -> Dataset:
    """Scenes of 24 x 24 pixels with two or three digits each, that do not overlap: class 0 is the background, 1 + d
    the digit d.

    Training scenes have the training digits and the left halves of scikit-learn's two photographs, test scenes the
    test digits and the right halves: they share nothing. Background is 85 % of the labelled pixels. A border two
    pixels wide counts neither in training nor in testing.

    Args:
        data: digits, (N, h, w, 1).
        seed: draws the training scenes. The test scenes are the same for all seeds.
        train: number of training scenes.
        test: number of test scenes.

    Returns:
        Images (train, 24, 24, 1) and masks (train, 24, 24), the same for test.
    """
    left, right = _halves()
    train_images, train_masks = _compose(
        data.train_images, data.train_labels, left, train, np.random.default_rng((seed, TRAIN_SCENES))
    )
    test_images, test_masks = _compose(
        data.test_images, data.test_labels, right, test, np.random.default_rng(TEST_SCENES)
    )
    return Dataset("scenes", train_images, train_masks, test_images, test_masks, ("background", *data.classes))


def _halves() -> tuple[tuple[Images, ...], tuple[Images, ...]]:
    """The left and the right halves of the reduced photographs."""
    reduced = []
    for photograph in sample_photographs(1):
        height, width = (side // REDUCTION for side in photograph.shape[:2])
        cropped = photograph[: height * REDUCTION, : width * REDUCTION]
        reduced.append(cropped.reshape(height, REDUCTION, width, REDUCTION, 1).mean(axis=(1, 3)))
    middle = reduced[0].shape[1] // 2
    return tuple(image[:, :middle] for image in reduced), tuple(image[:, middle:] for image in reduced)


def _compose(
    digits: Images, labels: Labels, photographs: tuple[Images, ...], count: int, rng: np.random.Generator
) -> tuple[Images, Labels]:
    height, width = digits.shape[1:3]
    images = BRIGHTNESS * patches(photographs, SIZE, SIZE, count, rng)
    masks = np.zeros((count, SIZE, SIZE), np.int32)
    for image, mask in zip(images, masks, strict=True):
        taken = np.zeros((SIZE, SIZE), bool)
        for chosen in rng.choice(len(digits), size=rng.integers(2, 4), replace=False):
            # Two boxes never leave no place for a third.
            while True:
                top, left = rng.integers(SIZE - height + 1), rng.integers(SIZE - width + 1)
                box = (slice(top, top + height), slice(left, left + width))
                if not taken[box].any():
                    break
            taken[box] = True
            ink = digits[chosen]
            image[box] += ink * (1.0 - image[box])
            mask[box][ink[..., 0] > INK] = 1 + labels[chosen]
    inner = slice(BORDER, SIZE - BORDER)
    labelled = np.full_like(masks, IGNORED)
    labelled[:, inner, inner] = masks[:, inner, inner]
    return images.astype(np.float32), labelled
