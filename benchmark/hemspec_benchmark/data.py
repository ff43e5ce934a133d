"""The data: scikit-learn's real handwritten digits, and the batches that every framework sees.

Batches are made here, in NumPy, so that order and augmentation are the same arrays in every framework.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from hemspec_benchmark.settings import HyperParameters, SplitName

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]

CLASSES: Final = 10
SHIFT: Final = 1
"""Augmentation: a shift by at most this many pixels each way."""


@dataclass(frozen=True)
class Split:
    """Images (N, 8, 8, 1) in [0, 1] and labels (N,). The split is the same for all seeds."""

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels

    @property
    def class_counts(self) -> npt.NDArray[np.int64]:
        """Training images of each class."""
        return np.bincount(self.train_labels, minlength=CLASSES)


def load_split(evaluate_on: SplitName) -> Split:
    """The digits, stratified: 70 % to train on and 30 % to test on.

    With ``"validation"`` the test images are put aside and the training images are split once more in the same way:
    hyper-parameters are chosen there, so that the choice has not seen the test set.
    """
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype(np.float32).reshape(-1, 8, 8, 1)
    labels = labels.astype(np.int32)

    def halve(images: Any, labels: Any) -> Split:
        train_x, test_x, train_y, test_y = train_test_split(
            images, labels, test_size=0.3, stratify=labels, random_state=0
        )
        return Split(train_x, train_y, test_x, test_y)

    split = halve(images, labels)
    return split if evaluate_on == "test" else halve(split.train_images, split.train_labels)


def training_batches(split: Split, seed: int, settings: HyperParameters) -> tuple[Images, Labels]:
    """All batches of a training, in order: images (epochs, steps, batch, 8, 8, 1) and labels (epochs, steps, batch).

    Each epoch is a new order and new shifts. What does not fill a batch is left out; it differs from epoch to epoch.
    """
    rng = np.random.default_rng((seed, 1))  # 0 draws the weights
    count = len(split.train_labels)
    steps = count // settings.batch_size
    if steps == 0:
        raise ValueError(f"batch_size is {settings.batch_size}, but there are only {count} training images")
    padded = np.pad(split.train_images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)))
    # Every window of a padded image is one of its shifts: (N, 2 SHIFT + 1, 2 SHIFT + 1, 1, 8, 8).
    shifts = np.lib.stride_tricks.sliding_window_view(padded, (8, 8), axis=(1, 2))
    chosen = np.stack([rng.permutation(count)[: steps * settings.batch_size] for _ in range(settings.epochs)])
    down, right = rng.integers(0, 2 * SHIFT + 1, size=(2, *chosen.shape))
    images = np.moveaxis(shifts[chosen, down, right], -3, -1)
    shape = (settings.epochs, steps, settings.batch_size)
    return np.ascontiguousarray(images.reshape(*shape, 8, 8, 1)), split.train_labels[chosen].reshape(shape)
