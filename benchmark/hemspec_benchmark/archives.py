"""Data that users bring: CIFAR in its standard python version, and ``.npz`` files.

Everything is checked before any training starts, and a `DataError` says what is wrong and where it belongs.
"""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from hemspec_benchmark.datasets import DataError, Dataset, Images, Labels


@dataclass(frozen=True)
class Archive:
    """What https://www.cs.toronto.edu/~kriz/cifar.html says of a python version."""

    file_name: str
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels_key: bytes
    names_key: bytes
    num_classes: int


CIFAR: Final = {
    "cifar10": Archive(
        "cifar-10-python.tar.gz",
        "cifar-10-batches-py",
        tuple(f"data_batch_{i}" for i in range(1, 6)),
        "test_batch",
        "batches.meta",
        b"labels",
        b"label_names",
        10,
    ),
    "cifar100": Archive(
        "cifar-100-python.tar.gz",
        "cifar-100-python",
        ("train",),
        "test",
        "meta",
        b"fine_labels",
        b"fine_label_names",
        100,
    ),
}

_ALLOWED: Final = {
    (module, name)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name in ("_reconstruct", "scalar")
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class _ArraysOnly(pickle.Unpickler):
    """A pickle can run any code; this one makes arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no part of an array")
        return super().find_class(module, name)


def read_cifar(name: str, directory: Path | None) -> Dataset:
    """CIFAR-10, or CIFAR-100 with its fine labels: 32 x 32 in colour, shifts by 4 pixels and mirroring.

    `directory` holds the ``.tar.gz``, or the folder extracted from it, or is that folder.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.

    Args:
        name: ``"cifar10"`` or ``"cifar100"``.
        directory: where to look. Nothing is downloaded.

    Returns:
        Images (N, 32, 32, 3) and labels (N,), the batches in the order of their numbers.

    Raises:
        DataError: what is missing or malformed, and where to put the archive.
    """
    archive = CIFAR[name]
    if directory is None:
        raise DataError(f"{name} needs a data directory that holds {archive.file_name} or {archive.folder}/")
    read = _reader(archive, Path(directory))
    parts = [_batch(archive, file, read) for file in archive.train]
    test_images, test_labels = _batch(archive, archive.test, read)
    return Dataset(
        name,
        np.concatenate([images for images, _ in parts]),
        np.concatenate([labels for _, labels in parts]),
        test_images,
        test_labels,
        _class_names(archive, read),
        shift=4,
        flip=True,
    )


Reader = Callable[[str], bytes]


def _reader(archive: Archive, directory: Path) -> Reader:
    """What returns the bytes of a file of the archive, or raises `FileNotFoundError`."""
    if not directory.is_dir():
        raise DataError(f"there is no directory {directory}; it should hold {archive.file_name} or {archive.folder}/")
    for folder in (directory / archive.folder, directory):
        if folder.name == archive.folder and folder.is_dir():
            return lambda file: (folder / file).read_bytes()
    path = directory / archive.file_name
    if not path.is_file():
        raise DataError(
            f"{directory} holds neither {archive.file_name} nor the folder {archive.folder}/; "
            f"put the python version from https://www.cs.toronto.edu/~kriz/cifar.html there"
        )
    try:
        with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            streams = ((Path(member.name).name, tar.extractfile(member)) for member in tar if member.isfile())
            contents = {file: content.read() for file, content in streams if content is not None}
            # The checksum is at the end, behind what tar reads.
            while stream.read(2**20):
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} is damaged or not complete ({error}); fetch the archive again") from error

    def read(file: str) -> bytes:
        if file not in contents:
            raise FileNotFoundError(f"{path} has no {archive.folder}/{file}")
        return contents[file]

    return read


def _unpickle(archive: Archive, file: str, read: Reader) -> dict[bytes, Any]:
    where = f"{archive.folder}/{file}"
    try:
        content = read(file)
    except OSError as error:
        raise DataError(f"{where} is missing: {error}") from error
    try:
        # Damaged bytes raise whatever they happen to mean.
        result = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:
        raise DataError(f"{where} is not a batch of the python version: {error}") from error
    if not isinstance(result, dict):
        raise DataError(f"{where} should hold a dictionary, got {type(result).__name__}")
    return result


def _batch(archive: Archive, file: str, read: Reader) -> tuple[Images, Labels]:
    where = f"{archive.folder}/{file}"
    content = _unpickle(archive, file, read)
    for key in (b"data", archive.labels_key):
        if key not in content:
            raise DataError(f"{where} has no {key.decode()!r}, only {sorted(map(str, content))}")
    pixels = content[b"data"]
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3072:
        raise DataError(f"data of {where} should be uint8 of shape (N, 3072), got {_kind(pixels)}")
    labels = _labels(content[archive.labels_key], f"{archive.labels_key.decode()} of {where}", archive.num_classes)
    _same_length(pixels, labels, where)
    # Channel by channel, each row by row.
    return _scaled(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels


def _class_names(archive: Archive, read: Reader) -> tuple[str, ...]:
    """From the meta file; numbers where there is none."""
    try:
        read(archive.meta)
    except OSError:
        return tuple(str(c) for c in range(archive.num_classes))
    names = _unpickle(archive, archive.meta, read).get(archive.names_key)
    if not isinstance(names, list) or len(names) != archive.num_classes:
        raise DataError(
            f"{archive.folder}/{archive.meta} should list {archive.num_classes} names as {archive.names_key.decode()}"
        )
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)


def read_npz(path: Path) -> Dataset:
    """Any images with labels, written by `numpy.savez`: train_images, train_labels, test_images and test_labels.

    Images are uint8 in [0, 255] or float in [0, 1], of shape (N, H, W) or (N, H, W, channels); labels are integers
    0, 1, ... of shape (N,), every class with at least one training image. No augmentation.

    Raises:
        DataError: what is missing or malformed, with the array's name.
    """
    keys = ("train_images", "train_labels", "test_images", "test_labels")
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataError(f"{path} holds a single array; expected an npz file with {', '.join(keys)}")
            missing = [key for key in keys if key not in file]
            if missing:
                raise DataError(f"{path} has no {', '.join(missing)}; it has {', '.join(file) or 'nothing'}")
            arrays = {key: file[key] for key in keys}
    except DataError:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is no readable npz file: {error}") from error
    train_images, test_images = (_images(arrays[key], f"{key} of {path}") for key in ("train_images", "test_images"))
    train_labels = _labels(arrays["train_labels"], f"train_labels of {path}")
    present = np.unique(arrays["train_labels"])
    classes = int(present[-1]) + 1
    if classes < 2:
        raise DataError(f"train_labels of {path} has a single class; classification needs at least two")
    if len(present) < classes:
        raise DataError(f"train_labels of {path} go up to {classes - 1}, but only {len(present)} classes have an image")
    test_labels = _labels(arrays["test_labels"], f"test_labels of {path}", classes)
    _same_length(train_images, train_labels, f"training part of {path}")
    _same_length(test_images, test_labels, f"test part of {path}")
    if train_images.shape[1:] != test_images.shape[1:]:
        raise DataError(f"images of {path} differ: training {train_images.shape[1:]}, test {test_images.shape[1:]}")
    return Dataset(path.name, train_images, train_labels, test_images, test_labels, tuple(map(str, range(classes))))


def _images(array: Any, what: str) -> Images:
    """Checked, float32 in [0, 1] and with a channel axis."""
    if array.ndim not in (3, 4) or not array.size:
        raise DataError(f"{what} should be (N, H, W) or (N, H, W, channels) and not empty, got {_kind(array)}")
    if array.dtype != np.uint8:
        if array.dtype.kind != "f":
            raise DataError(f"{what} should be uint8 in [0, 255] or float in [0, 1], got {_kind(array)}")
        if not np.isfinite(array).all():
            raise DataError(f"{what} has values that are nan or infinite")
        if array.min() < 0 or array.max() > 1:
            raise DataError(f"{what} are float and should lie in [0, 1], got [{array.min():g}, {array.max():g}]")
    images = _scaled(array)
    return images if array.ndim == 4 else images[..., None]


def _scaled(array: Any) -> Images:
    images: Images = np.ascontiguousarray(array, dtype=np.float32)
    return images / np.float32(255) if array.dtype == np.uint8 else images


def _labels(given: Any, what: str, num_classes: int | None = None) -> Labels:
    """Checked: integers (N,) from 0, below `num_classes` where that is known."""
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise DataError(f"{what} should be a list of integers: {error}") from error
    if array.ndim != 1 or not array.size or array.dtype.kind not in "iu":
        raise DataError(f"{what} should be integers of shape (N,) and not empty, got {_kind(array)}")
    lowest, highest = int(array.min()), int(array.max())
    if lowest < 0 or (num_classes is not None and highest >= num_classes):
        bound = "" if num_classes is None else f" to {num_classes - 1}"
        raise DataError(f"{what} should be 0{bound or ' or more'}, got {lowest} to {highest}")
    return array.astype(np.int32)


def _same_length(images: Any, labels: Any, where: str) -> None:
    if len(images) != len(labels):
        raise DataError(f"{where} has {len(images)} images, but {len(labels)} labels")


def _kind(value: Any) -> str:
    return f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
