"""Images of no class at all, in the shape of the data: far unknowns to test on, others to choose a score on."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_sample_images

from hemspec_benchmark.datasets import Images, Labels

PHOTOGRAPHS: Final = 20
NOISE: Final = 21
BLOBS: Final = 22
PERMUTED: Final = 23
PHASES: Final = 24
AVERAGES: Final = 25
GRATINGS: Final = 26
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


def blobs(shape: tuple[int, int, int], count: int, seed: int) -> Images:
    """Noise smoothed by a Gaussian of an eighth of the width, each image stretched to [0, 1]: (count, H, W, c)."""
    drawn = np.random.default_rng((seed, BLOBS)).random((count, *shape))
    smooth = gaussian_filter(drawn, (0.0, shape[0] / 8, shape[1] / 8, 0.0))
    lowest, highest = (end(smooth, axis=(1, 2, 3), keepdims=True) for end in (np.min, np.max))
    stretched: Images = ((smooth - lowest) / (highest - lowest)).astype(np.float32)
    return stretched


def permuted(images: Images, seed: int) -> Images:
    """Each of the images (N, H, W, c) with its pixels in an order of its own: the histogram stays, no shape does."""
    rng = np.random.default_rng((seed, PERMUTED))
    pixels = images.reshape(len(images), -1, images.shape[3])
    order = rng.random(pixels.shape[:2]).argsort(axis=1)
    return np.take_along_axis(pixels, order[..., None], axis=1).reshape(images.shape)


def random_phases(images: Images, seed: int) -> Images:
    """Each of the images (N, H, W, c) with the phases of its Fourier transform drawn at random, cut off to [0, 1].

    Frequencies keep their strengths, and the mean is kept up to what is cut off; nothing is where it was. All channels
    of an image get the same phases, so that colours stay together.
    """
    height, width = images.shape[1:3]
    drawn = np.random.default_rng((seed, PHASES)).random((len(images), height, width, 1))
    # Those of a real image, so that what comes back is real.
    phases = np.angle(np.fft.rfft2(drawn, axes=(1, 2)))
    spectrum = np.fft.rfft2(images, axes=(1, 2))
    turned = np.abs(spectrum) * np.exp(1j * phases)
    turned[:, 0, 0] = spectrum[:, 0, 0]
    return np.clip(np.fft.irfft2(turned, s=(height, width), axes=(1, 2)), 0.0, 1.0).astype(np.float32)


def averages(images: Images, labels: Labels, seed: int) -> Images:
    """The mean of each of the images (N, H, W, c) and another one of a different class, drawn at random.

    Raises:
        ValueError: there is only one class.
    """
    if len(np.unique(labels)) < 2:
        raise ValueError("averages of two classes need images of at least two")
    rng = np.random.default_rng((seed, AVERAGES))
    partners = [rng.choice(np.flatnonzero(labels != label)) for label in labels]
    return 0.5 * (images + images[partners])


def gratings(shape: tuple[int, int, int], count: int, seed: int) -> Images:
    """Sine waves of one to three periods across the image, of any direction, phase and contrast: (count, H, W, c)."""
    rng = np.random.default_rng((seed, GRATINGS))
    height, width, channels = shape
    down, right = np.meshgrid(np.arange(height) / height, np.arange(width) / width, indexing="ij")
    direction, phase = 2.0 * np.pi * rng.random((2, count, 1, 1))
    periods, contrast = rng.uniform(1.0, 3.0, (count, 1, 1)), rng.uniform(0.2, 1.0, (count, 1, 1))
    wave = np.sin(2.0 * np.pi * periods * (np.cos(direction) * right + np.sin(direction) * down) + phase)
    made = 0.5 + 0.5 * contrast * wave
    return np.repeat(made[..., None], channels, axis=3).astype(np.float32)


FAR: Final[dict[str, Callable[[Images, int], Images]]] = {
    "photographs": lambda images, seed: photographs(images.shape[1:], len(images), seed),
    "noise": lambda images, seed: noise(images.shape[1:], len(images), seed),
    "blobs": lambda images, seed: blobs(images.shape[1:], len(images), seed),
    "permuted": permuted,
    "phases": random_phases,
}
"""The far unknowns by name, as many as there are images and of their shape; the last two are made of them."""

CHOOSING: Final[dict[str, Callable[[Images, Labels, int], Images]]] = {
    "averages": averages,
    "gratings": lambda images, labels, seed: gratings(images.shape[1:], len(images), seed),
}
"""Unknowns that no test has: a score is chosen by them, on validation images."""
