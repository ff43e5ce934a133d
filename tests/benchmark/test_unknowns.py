"""Unknowns have the shape of the data and follow from the seed; each is what it says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from hemspec_benchmark import unknowns
from hemspec_benchmark.datasets import Images, digits
from hemspec_benchmark.unknowns import noise, patches, photographs, sample_photographs

DATA = digits()
KINDS: dict[str, Callable[[int], Images]] = {
    **{
        name: lambda seed, name=name: getattr(unknowns, name)((8, 8, 1), 30, seed)
        for name in ("photographs", "noise", "blobs", "gratings")
    },
    "permuted": lambda seed: unknowns.permuted(DATA.test_images[:30], seed),
    "random_phases": lambda seed: unknowns.random_phases(DATA.test_images[:30], seed),
    "averages": lambda seed: unknowns.averages(DATA.test_images[:30], DATA.test_labels[:30], seed),
}


def test_patches_are_cut_from_the_photographs() -> None:
    cut = photographs((8, 8, 3), 20, seed=0)
    assert (cut.shape, cut.dtype) == ((20, 8, 8, 3), np.float32)
    rows: set[bytes] = set()
    for image in load_sample_images().images:
        windows = np.lib.stride_tricks.sliding_window_view((image / 255).astype(np.float32), (1, 8, 3))
        rows |= {window.tobytes() for window in windows.reshape(-1, 24)}
    assert all(patch[0].tobytes() in rows for patch in cut)


def test_grey_is_the_mean_of_the_channels() -> None:
    np.testing.assert_allclose(
        photographs((8, 8, 1), 20, seed=3)[..., 0], photographs((8, 8, 3), 20, seed=3).mean(axis=-1), rtol=1e-6
    )


def test_both_photographs_and_many_places_occur() -> None:
    flat = (np.full((20, 20, 1), 0.25, np.float32), np.full((20, 20, 1), 0.75, np.float32))
    cut = patches(flat, 8, 8, 100, np.random.default_rng(0))
    assert set(np.unique(cut)) == {0.25, 0.75}
    assert len(np.unique(photographs((8, 8, 1), 100, seed=0), axis=0)) == 100


@pytest.mark.parametrize("name", KINDS)
def test_unknowns_follow_from_the_seed(name: str) -> None:
    first, again, other = (KINDS[name](seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert (first.shape, first.dtype) == ((30, 8, 8, 1), np.float32)
    assert 0.0 <= first.min() < first.max() <= 1.0


def test_blobs_are_smooth_and_reach_from_black_to_white() -> None:
    made = unknowns.blobs((28, 28, 3), 20, seed=0)
    assert (made.min(axis=(1, 2, 3)) == 0.0).all()
    assert (made.max(axis=(1, 2, 3)) == 1.0).all()
    steps = np.abs(np.diff(made, axis=2)).mean()
    assert steps < 0.2 * np.abs(np.diff(noise((28, 28, 3), 20, seed=0), axis=2)).mean()


def test_permuted_pixels_are_those_of_the_image() -> None:
    colours = np.random.default_rng(0).random((5, 6, 7, 3)).astype(np.float32)
    made = unknowns.permuted(colours, seed=1)
    for before, after in zip(colours, made, strict=True):
        assert {pixel.tobytes() for pixel in before.reshape(-1, 3)} == {
            pixel.tobytes() for pixel in after.reshape(-1, 3)
        }
        assert not np.array_equal(before, after)
    same = unknowns.permuted(np.broadcast_to(np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1), (2, 4, 4, 1)), seed=1)
    assert not np.array_equal(*same), "each has an order of its own"


@pytest.mark.parametrize("size", [8, 7])
def test_random_phases_keep_the_strength_of_each_frequency(size: int) -> None:
    """Of images faint enough that nothing is cut off."""
    images = (0.5 + 0.02 * np.random.default_rng(0).standard_normal((4, size, size, 2))).astype(np.float32)
    made = unknowns.random_phases(images, seed=3)
    before, after = (np.abs(np.fft.fft2(one, axes=(1, 2))) for one in (images, made))
    # The highest frequency of an even size has no phase but its sign.
    np.testing.assert_allclose(after[:, 1:3, 1:3], before[:, 1:3, 1:3], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(made.mean(axis=(1, 2)), images.mean(axis=(1, 2)), rtol=1e-5)
    assert np.abs(made - images).max() > 0.01


def test_averages_are_of_two_classes() -> None:
    images = np.eye(3, dtype=np.float32).repeat(4, axis=0).reshape(12, 3, 1, 1)
    made = unknowns.averages(images, np.repeat(np.arange(3), 4), seed=0)
    assert (np.sort(made.reshape(12, 3), axis=1) == [0.0, 0.5, 0.5]).all()
    with pytest.raises(ValueError, match="need images of at least two"):
        unknowns.averages(images[:4], np.zeros(4, int), seed=0)


def test_gratings_are_waves() -> None:
    made = unknowns.gratings((32, 32, 1), 10, seed=0)[..., 0]
    spectrum = np.abs(np.fft.fft2(made - made.mean(axis=(1, 2), keepdims=True)))
    strong = np.sort(spectrum.reshape(10, -1) ** 2, axis=1)[:, ::-1]
    assert (strong[:, :24].sum(axis=1) > 0.8 * strong.sum(axis=1)).all(), "a few frequencies have nearly all"


def test_noise_is_uniform() -> None:
    values = noise((8, 8, 1), 1000, seed=0)
    assert (values.shape, values.dtype) == ((1000, 8, 8, 1), np.float32)
    np.testing.assert_allclose(np.histogram(values, bins=10, range=(0, 1))[0] / values.size, 0.1, atol=0.01)


def test_the_photographs_are_protected() -> None:
    with pytest.raises(ValueError, match="read-only"):
        sample_photographs(1)[0][0, 0, 0] = 1


def test_shapes_that_cannot_be_cut() -> None:
    with pytest.raises(ValueError, match="got 4 channels"):
        photographs((8, 8, 4), 1, 0)
    with pytest.raises(ValueError, match="patches of 500 x 8 are larger than a photograph"):
        photographs((500, 8, 1), 1, 0)
