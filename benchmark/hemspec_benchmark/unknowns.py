"""Far unknowns: images of no class at all, in the shape of the data."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from sklearn.datasets import load_sample_images

from hemspec_benchmark.datasets import Images

PHOTOGRAPHS: Final = 20
NOISE: Final = 21
"""Purposes of random numbers, as in `hemspec_benchmark.datasets`."""


@cache
def sample_photographs(channels: int) -> tuple[Images, ...]:
    """scikit-learn's two photographs, a Chinese temple and a flower: (427, 640, channels) in [0, 1].

    One channel is the mean of the three.

    Raises:
        ValueError: `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"photographs are grey (1 channel) or in colour (3 channels), got {channels} channels")
    photographs = [(image / 255.0).astype(np.float32) for image in load_sample_images().images]
    if channels == 1:
        photographs = [image.mean(axis=2, keepdims=True) for image in photographs]
    for image in photographs:
        image.flags.writeable = False
    return tuple(photographs)


def patches(photographs: tuple[Images, ...], height: int, width: int, count: int, rng: np.random.Generator) -> Images:
    """Cut from random places of random photographs at their full resolution: (count, height, width, channels).

    Raises:
        ValueError: a photograph is smaller than a patch.
    """
    for image in photographs:
        if image.shape[0] < height or image.shape[1] < width:
            raise ValueError(f"patches of {height} x {width} are larger than a photograph, {image.shape[:2]}")
    cut = []
    for _ in range(count):
        image = photographs[rng.integers(len(photographs))]
        top, left = rng.integers(image.shape[0] - height + 1), rng.integers(image.shape[1] - width + 1)
        cut.append(image[top : top + height, left : left + width])
    return np.array(cut, np.float32).reshape(count, height, width, photographs[0].shape[2])


def photographs(shape: tuple[int, int, int], count: int, seed: int) -> Images:
    """Patches (H, W, c) = `shape` of scikit-learn's photographs, grey where c is 1: (count, H, W, c) in [0, 1].

    Raises:
        ValueError: c is neither 1 nor 3, or a patch is larger than a photograph (427 x 640).
    """
    rng = np.random.default_rng((seed, PHOTOGRAPHS))
    return patches(sample_photographs(shape[2]), shape[0], shape[1], count, rng)


def noise(shape: tuple[int, int, int], count: int, seed: int) -> Images:
    """Every value uniform in [0, 1): (count, H, W, c)."""
    return np.random.default_rng((seed, NOISE)).random((count, *shape), dtype=np.float32)
