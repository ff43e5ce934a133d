"""The batches that every framework sees.

They are made here, in NumPy, so that order and augmentation are the same arrays in every framework.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from hemspec_benchmark.datasets import Images, Labels

Groups = npt.NDArray[np.int64]


def shifted(images: Images, down: npt.NDArray[np.int64], right: npt.NDArray[np.int64], limit: int) -> Images:
    """Each of the images (N, H, W, c) moved by its own number of pixels, zeros coming in.

    `down` and `right` (N,) lie in [-limit, limit].
    """
    padded = np.pad(images, ((0, 0), (limit, limit), (limit, limit), (0, 0)))
    # Every window of a padded image is one of its shifts: (N, 2 limit + 1, 2 limit + 1, c, H, W).
    windows = np.lib.stride_tricks.sliding_window_view(padded, images.shape[1:3], axis=(1, 2))
    chosen = windows[np.arange(len(images)), limit - down, limit - right]
    return np.ascontiguousarray(np.moveaxis(chosen, 1, -1))


def order(count: int, batch_size: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """A new order of `count` samples as batches (steps, batch_size). What does not fill a batch is left out."""
    steps = count // batch_size
    return rng.permutation(count)[: steps * batch_size].reshape(steps, batch_size)


def epoch(
    images: Images,
    labels: Labels,
    batch_size: int,
    rng: np.random.Generator,
    *,
    shift: int = 0,
    flip: bool = False,
    groups: Groups | None = None,
    chunk: int = 64,
) -> Iterator[tuple[Images, Labels, Groups | None]]:
    """One epoch: a new order, new shifts and mirrorings. What does not fill a batch is left out.

    Steps come in chunks of at most `chunk`, so that a large data set is not copied at once; the chunk changes nothing
    else.

    Args:
        images: (N, H, W, c).
        labels: (N,), or masks (N, H, W), which are not augmented.
        batch_size: B.
        rng: draws order and augmentation.
        shift: at most this many pixels each way, zeros coming in.
        flip: mirror left to right with probability 1/2.
        groups: (N,), the experience of each sample, dealt out like the labels.
        chunk: steps at a time.

    Yields:
        Images (S, B, H, W, c), labels (S, B, ...) and groups (S, B) or None, with S steps.

    Raises:
        ValueError: fewer images than `batch_size`, or masks with augmentation.
    """
    count = len(labels)
    steps = count // batch_size
    if steps == 0:
        raise ValueError(f"batch_size is {batch_size}, but there are only {count} training images")
    if labels.ndim > 1 and (shift or flip):
        raise ValueError("augmentation is for classification: masks need shift = 0 and flip = False")
    drawn = order(count, batch_size, rng)
    down, right = rng.integers(-shift, shift + 1, size=(2, *drawn.shape))
    mirrored = rng.random(drawn.shape) < (0.5 if flip else 0.0)
    for start in range(0, steps, chunk):
        part = slice(start, start + chunk)
        chosen = drawn[part]
        batch = images[chosen.ravel()]
        if shift:
            batch = shifted(batch, down[part].ravel(), right[part].ravel(), shift)
        if flip:
            batch[mirrored[part].ravel()] = batch[mirrored[part].ravel(), :, ::-1]
        yield (
            batch.reshape(*chosen.shape, *images.shape[1:]),
            labels[chosen],
            None if groups is None else groups[chosen],
        )
