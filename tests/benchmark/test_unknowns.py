"""Far unknowns are real photographs and noise, in the shape of the data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from hemspec_benchmark.datasets import Images
from hemspec_benchmark.unknowns import noise, patches, photographs, sample_photographs


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


@pytest.mark.parametrize("unknowns", [photographs, noise])
def test_unknowns_follow_from_the_seed(unknowns: Callable[..., Images]) -> None:
    first, again, other = (unknowns((8, 8, 1), 5, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


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
