"""Data that users bring is read as it was written, and whatever is wrong with it is said before any training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cifar import FOLDERS, archived, cifar_files, dumped, extracted

from hemspec_benchmark.archives import CIFAR, read_cifar, read_npz
from hemspec_benchmark.datasets import DataError, load


@pytest.mark.parametrize("put", [extracted, archived])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_as_it_was_written(name: str, put: Any, tmp_path: Path) -> None:
    files = cifar_files(name)
    data = load(name, put(name, files, tmp_path))
    train = [files[f"data_batch_{i}"] for i in range(1, 6)] if name == "cifar10" else [files["train"]]
    test = files["test_batch" if name == "cifar10" else "test"]
    key = b"labels" if name == "cifar10" else b"fine_labels"
    assert data.train_labels.tolist() == [label for batch in train for label in batch[key]]
    assert data.test_labels.tolist() == test[key]
    assert data.train_images.shape == (4 * len(train), 32, 32, 3)
    assert (data.train_images.dtype, data.train_labels.dtype) == (np.float32, np.int32)
    # The second image's pixel in row 5, column 7: 1024 red values row by row, then green, then blue.
    for images, batch in ((data.train_images, train[0]), (data.test_images, test)):
        expected = batch[b"data"][1, [5 * 32 + 7, 1024 + 5 * 32 + 7, 2048 + 5 * 32 + 7]] / 255
        np.testing.assert_allclose(images[1, 5, 7], expected, rtol=1e-6)
    assert data.classes[:2] == ("airplane" if name == "cifar10" else "apple", "class 1")
    assert data.num_classes == (10 if name == "cifar10" else 100)
    assert (data.name, data.shift, data.flip) == (name, 4, True)


def test_the_folder_itself_may_be_given(tmp_path: Path) -> None:
    extracted("cifar10", cifar_files("cifar10"), tmp_path)
    assert len(read_cifar("cifar10", tmp_path / FOLDERS["cifar10"]).train_labels) == 20


def test_a_folder_is_read_before_an_archive(tmp_path: Path) -> None:
    extracted("cifar10", cifar_files("cifar10"), tmp_path)
    (tmp_path / CIFAR["cifar10"].file_name).write_bytes(b"not an archive")
    read_cifar("cifar10", tmp_path)


def test_without_names_classes_are_numbers(tmp_path: Path) -> None:
    files = cifar_files("cifar100")
    del files["meta"]
    assert read_cifar("cifar100", extracted("cifar100", files, tmp_path)).classes[99] == "99"


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no directory .*nowhere; it should hold cifar-10-python.tar.gz or"):
        read_cifar("cifar10", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds neither cifar-100-python.tar.gz nor the folder .* put the python"):
        read_cifar("cifar100", tmp_path)


@pytest.mark.parametrize("put", [extracted, archived])
@pytest.mark.parametrize("file", ["data_batch_3", "test_batch"])
def test_a_batch_is_missing(file: str, put: Any, tmp_path: Path) -> None:
    files = cifar_files("cifar10")
    del files[file]
    with pytest.raises(DataError, match=f"cifar-10-batches-py/{file} is missing"):
        read_cifar("cifar10", put("cifar10", files, tmp_path))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_archive(share: float, tmp_path: Path) -> None:
    path = archived("cifar10", cifar_files("cifar10"), tmp_path) / CIFAR["cifar10"].file_name
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=r"damaged or not complete.*fetch the archive again"):
        read_cifar("cifar10", tmp_path)


def test_an_archive_with_flipped_bits(tmp_path: Path) -> None:
    path = archived("cifar10", cifar_files("cifar10"), tmp_path) / CIFAR["cifar10"].file_name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged or not complete"):
        read_cifar("cifar10", tmp_path)


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["EVIL_FOLDER"],)


def test_a_pickle_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVIL_FOLDER", str(tmp_path / "evil"))
    files = cifar_files("cifar10") | {"data_batch_2": {b"data": Evil()}}
    with pytest.raises(DataError, match=r"data_batch_2 is not a batch .* asks for posix\.mkdir"):
        read_cifar("cifar10", extracted("cifar10", files, tmp_path))
    assert not (tmp_path / "evil").exists()


PIXELS = np.zeros((4, 3072), np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a batch of the python version"),
        (b"no pickle", "is not a batch of the python version"),
        (dumped({b"data": PIXELS, b"labels": [0] * 4})[:-200], "is not a batch of the python version"),
        ([1, 2], "should hold a dictionary, got list"),
        ({b"data": PIXELS}, "has no 'labels'"),
        ({b"labels": [0] * 4}, "has no 'data'"),
        (
            {b"data": PIXELS[:, :3071], b"labels": [0] * 4},
            r"uint8 of shape \(N, 3072\), got uint8 of shape \(4, 3071\)",
        ),
        ({b"data": PIXELS.reshape(4, 32, 32, 3), b"labels": [0] * 4}, r"got uint8 of shape \(4, 32, 32, 3\)"),
        ({b"data": PIXELS.astype(np.float32), b"labels": [0] * 4}, "got float32 of shape"),
        ({b"data": [[0] * 3072] * 4, b"labels": [0] * 4}, "got list"),
        ({b"data": PIXELS, b"labels": [0] * 3}, "has 4 images, but 3 labels"),
        ({b"data": PIXELS, b"labels": [0, 1, 2, 10]}, "should be 0 to 9, got 0 to 10"),
        ({b"data": PIXELS, b"labels": [0, 1, 2, -1]}, "should be 0 to 9, got -1 to 2"),
        ({b"data": PIXELS, b"labels": [0.0, 1, 2, 3]}, "should be integers of shape"),
        ({b"data": PIXELS, b"labels": [[0], [1, 2]]}, "should be a list of integers"),
        ({b"data": PIXELS, b"labels": []}, "should be integers of shape"),
        ({b"data": PIXELS, b"labels": 3}, "should be integers of shape"),
    ],
)
def test_a_malformed_batch(content: Any, message: str, tmp_path: Path) -> None:
    files = cifar_files("cifar10") | {"data_batch_4": content}
    with pytest.raises(DataError, match=message) as caught:
        read_cifar("cifar10", extracted("cifar10", files, tmp_path))
    assert "cifar-10-batches-py/data_batch_4" in str(caught.value)


def test_cifar_10_labels_are_not_cifar_100(tmp_path: Path) -> None:
    files = cifar_files("cifar10")
    with pytest.raises(DataError, match=r"cifar-100-python/train has no 'fine_labels'"):
        read_cifar(
            "cifar100", extracted("cifar100", {"train": files["data_batch_1"], "test": files["test_batch"]}, tmp_path)
        )


@pytest.mark.parametrize("meta", [{}, {b"label_names": [b"a"] * 9}, {b"label_names": 10}])
def test_malformed_names(meta: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"batches\.meta should list 10 names as label_names"):
        read_cifar("cifar10", extracted("cifar10", cifar_files("cifar10") | {"batches.meta": meta}, tmp_path))


def arrays() -> dict[str, Any]:
    """A small data set that is in order."""
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (6, 5, 4), dtype=np.uint8),
        "train_labels": np.array([0, 1, 2, 0, 1, 2]),
        "test_images": rng.integers(0, 256, (3, 5, 4), dtype=np.uint8),
        "test_labels": np.array([0, 1, 1], np.uint8),
    }


def saved(content: dict[str, Any], directory: Path) -> Path:
    np.savez(directory / "mine.npz", **content)
    return directory / "mine.npz"


def test_npz_is_read_as_it_was_written(tmp_path: Path) -> None:
    content = arrays()
    saved(content, tmp_path)
    data = load("mine.npz", tmp_path)
    assert load(str(tmp_path / "mine.npz")).train_labels.tolist() == data.train_labels.tolist() == [0, 1, 2, 0, 1, 2]
    np.testing.assert_allclose(data.train_images[..., 0], content["train_images"] / 255, rtol=1e-6)
    assert data.test_images.shape == (3, 5, 4, 1)
    assert (data.train_images.dtype, data.test_labels.dtype) == (np.float32, np.int32)
    assert data.classes == ("0", "1", "2")
    assert (data.shift, data.flip) == (0, False)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_images_and_channels(dtype: Any, tmp_path: Path) -> None:
    content = arrays()
    for key, count in (("train_images", 6), ("test_images", 3)):
        content[key] = np.linspace(0, 1, count * 40).reshape(count, 5, 4, 2).astype(dtype)
    data = read_npz(saved(content, tmp_path))
    assert data.train_images.dtype == np.float32
    np.testing.assert_array_equal(data.train_images, content["train_images"].astype(np.float32))


def floats(value: float) -> np.ndarray:
    images = np.full((6, 5, 4), 0.5)
    images[1, 2, 3] = value
    return images


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": np.zeros((6, 5, 4), np.int64)}, "train_images .* uint8 in .* got int64 of shape"),
        ({"train_images": np.zeros((6, 5, 4), bool)}, "train_images .* got bool of shape"),
        ({"test_images": np.zeros((3, 5, 4), complex)}, "test_images .* got complex128"),
        ({"train_images": np.zeros((6, 20), np.uint8)}, r"train_images .* should be \(N, H, W\) .* \(6, 20\)"),
        ({"train_images": np.zeros((0, 5, 4), np.uint8)}, "not empty"),
        ({"train_images": floats(1.5)}, r"should lie in \[0, 1\], got \[0.5, 1.5\]"),
        ({"train_images": floats(-0.1)}, r"should lie in \[0, 1\], got \[-0.1, 0.5\]"),
        ({"train_images": floats(np.nan)}, "train_images .* nan or infinite"),
        ({"train_images": floats(np.inf)}, "train_images .* nan or infinite"),
        ({"train_images": np.zeros((5, 5, 4), np.uint8)}, "training part .* has 5 images, but 6 labels"),
        ({"test_labels": np.array([0, 1])}, "test part .* has 3 images, but 2 labels"),
        ({"test_images": np.zeros((3, 5, 5), np.uint8)}, r"differ: training \(5, 4, 1\), test \(5, 5, 1\)"),
        ({"test_images": np.zeros((3, 5, 4, 3), np.uint8)}, r"differ: training \(5, 4, 1\), test \(5, 4, 3\)"),
        ({"train_labels": np.zeros(6)}, "train_labels .* integers of shape .* got float64"),
        ({"train_labels": np.zeros((6, 1), int)}, r"train_labels .* integers of shape .* \(6, 1\)"),
        ({"train_labels": np.array([0, 1, 2, 0, 1, -1])}, "train_labels .* 0 or more, got -1 to 2"),
        ({"train_labels": np.array([1, 2, 3, 1, 2, 3])}, "go up to 3, but only 3 classes have an image"),
        ({"train_labels": np.array([0, 1, 2**32, 0, 1, 2])}, "go up to 4294967296, but only 4 classes"),
        ({"train_labels": np.zeros(6, int)}, "train_labels .* single class"),
        ({"test_labels": np.array([0, 1, 3])}, "test_labels .* should be 0 to 2, got 0 to 3"),
        ({"train_labels": np.array(["a"] * 6)}, "train_labels .* integers"),
        ({"train_labels": np.array([0, None] * 3)}, "no readable npz file"),
    ],
)
def test_malformed_arrays(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_npz(saved(arrays() | change, tmp_path))
    assert "mine.npz" in str(caught.value)


def test_an_array_is_missing(tmp_path: Path) -> None:
    content = arrays()
    del content["test_labels"]
    with pytest.raises(DataError, match=r"has no test_labels; it has train_images, train_labels, test_images"):
        read_npz(saved(content, tmp_path))


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    with pytest.raises(DataError, match="there is no file"):
        read_npz(path)
    whole = saved(arrays(), tmp_path).read_bytes()
    for content in (b"", b"text", whole[:100], whole[:-100], whole[:300] + b"\x00" * 50 + whole[350:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="no readable npz file"):
            read_npz(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="holds a single array; expected an npz file with train_images"):
        read_npz(path)
