"""The data, divided anew by each seed."""

from __future__ import annotations

from functools import lru_cache

from hemspec_benchmark import datasets
from hemspec_benchmark.datasets import Dataset
from hemspec_benchmark.scenes import scenes
from hemspec_benchmark.settings import SplitName
from hemspec_benchmark.swap.matrix import Matrix


@lru_cache(maxsize=16)
def divided(name: str, seed: int, evaluate_on: SplitName, matrix: Matrix) -> Dataset:
    """Digits, MNIST, or scenes composed of the digits of each part.

    Scenes to train on have the left halves of the photographs, the others the right halves.
    """
    if name != "scenes":
        return datasets.divided("mnist-14" if name == "mnist" else name, seed, evaluate_on)
    return scenes(datasets.divided("digits", seed, evaluate_on), seed, matrix.scenes, matrix.test_scenes)
