"""Each corruption does what its unit says."""

from __future__ import annotations

import numpy as np
import pytest

from hemspec_benchmark.corruptions import CORRUPTIONS, corrupt
from hemspec_benchmark.datasets import digits

IMAGES = digits().test_images

CASES = [(name, strength) for name, strengths in CORRUPTIONS.items() for strength in strengths]


@pytest.mark.parametrize(("name", "strength"), CASES)
def test_images_stay_images_and_follow_from_the_seed(name: str, strength: float) -> None:
    before = IMAGES.copy()
    corrupted = corrupt(IMAGES, name, strength, seed=0)
    assert (corrupted.shape, corrupted.dtype) == (IMAGES.shape, np.float32)
    assert corrupted.min() >= 0
    assert corrupted.max() <= 1
    np.testing.assert_array_equal(corrupted, corrupt(IMAGES, name, strength, seed=0))
    np.testing.assert_array_equal(IMAGES, before)
    random = name in ("noise", "shift")
    assert np.array_equal(corrupted, corrupt(IMAGES, name, strength, seed=1)) != random


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_stronger_is_further_from_the_image(name: str) -> None:
    distances = [np.abs(corrupt(IMAGES, name, strength, 0) - IMAGES).mean() for strength in CORRUPTIONS[name]]
    assert 0 < distances[0] < distances[1] < distances[2]
    assert len(distances) == 3


def test_noise_has_its_standard_deviation() -> None:
    grey = np.full((500, 8, 8, 1), 0.5, np.float32)
    difference = corrupt(grey, "noise", 0.1, 0) - grey
    assert difference.std() == pytest.approx(0.1, rel=0.02)
    assert difference.mean() == pytest.approx(0, abs=0.002)


def test_blur_spreads_a_point_by_its_standard_deviation() -> None:
    point = np.zeros((2, 31, 31, 3), np.float32)
    point[0, 15, 15, 1] = 1
    blurred = corrupt(point, "blur", 1.0, 0)
    np.testing.assert_allclose(blurred[0, ..., 1], blurred[0, ..., 1].T, atol=1e-6)
    weights = blurred[0, ..., 1].sum(axis=0)
    assert np.sqrt((weights * (np.arange(31) - 15) ** 2).sum()) == pytest.approx(1, rel=0.01)
    # Neither other channels nor other images take part.
    assert blurred[0, ..., [0, 2]].max() == blurred[1].max() == 0


def test_contrast_keeps_the_mean() -> None:
    lowered = corrupt(IMAGES, "contrast", 0.5, 0)
    np.testing.assert_allclose(lowered.mean(axis=(1, 2, 3)), IMAGES.mean(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(lowered.std(axis=(1, 2, 3)), 0.5 * IMAGES.std(axis=(1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize(("strength", "weights"), [(1.0, [0, 1, 0]), (1.5, [0, 0.5, 0.5]), (2.0, [0, 0, 1])])
def test_a_shift_goes_one_of_four_ways(strength: float, weights: list[float]) -> None:
    point = np.zeros((200, 7, 7, 1), np.float32)
    point[:, 3, 3] = 1
    shifted = corrupt(point, "shift", strength, 0)[..., 0]
    right = np.zeros((7, 7), np.float32)
    right[3, 3:6] = weights
    expected = {np.rot90(right, k).tobytes() for k in range(4)}
    assert {image.tobytes() for image in shifted} == expected


def test_zeros_come_in() -> None:
    shifted = corrupt(np.ones((50, 4, 4, 1), np.float32), "shift", 1.5, 0)
    # Of 16 pixels a row has nothing left, and one has half.
    np.testing.assert_allclose(shifted.sum(axis=(1, 2, 3)), 16 - 4 - 2)


def test_no_such_corruption() -> None:
    with pytest.raises(ValueError, match="corruption must be one of noise, blur, contrast, shift, got 'fog'"):
        corrupt(IMAGES, "fog", 1, 0)
