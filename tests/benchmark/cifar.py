"""CIFAR's archives, tiny and of random pixels, in the format of the python version."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from hemspec_benchmark.archives import CIFAR

Files = dict[str, Any]

FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


def cifar_files(name: str, each: int = 4, test: int = 4) -> Files:
    """What the files of the python version hold, with byte strings for keys as Python 2 wrote them."""

    def batch(number: int, each: int = each) -> dict[bytes, Any]:
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 256, (each, 3072), dtype=np.uint8)
        content: dict[bytes, Any] = {b"data": pixels, b"filenames": [b"x.png"] * each, b"batch_label": b"a batch"}
        if name == "cifar10":
            return content | {b"labels": [(number + i) % 10 for i in range(each)]}
        return content | {
            b"fine_labels": [(10 * number + i) % 100 for i in range(each)],
            b"coarse_labels": [(number + i) % 20 for i in range(each)],
        }

    if name == "cifar10":
        names = [b"airplane", *(f"class {i}".encode() for i in range(1, 10))]
        batches = {f"data_batch_{i}": batch(i) for i in range(1, 6)}
        return batches | {
            "test_batch": batch(6, test),
            "batches.meta": {b"num_cases_per_batch": each, b"label_names": names},
        }
    fine = [b"apple", *(f"class {i}".encode() for i in range(1, 100))]
    return {
        "train": batch(1),
        "test": batch(2, test),
        "meta": {b"fine_label_names": fine, b"coarse_label_names": [b"c"] * 20},
    }


def dumped(content: Any) -> bytes:
    return content if isinstance(content, bytes) else pickle.dumps(content, protocol=2)


def extracted(name: str, files: Files, directory: Path) -> Path:
    """The folder, as tar extracts it."""
    folder = directory / FOLDERS[name]
    folder.mkdir()
    for file, content in files.items():
        (folder / file).write_bytes(dumped(content))
    (folder / "readme.html").write_text("<html>")
    return directory


def archived(name: str, files: Files, directory: Path) -> Path:
    """The archive, as it is fetched."""
    with tarfile.open(directory / CIFAR[name].file_name, "w:gz") as tar:
        top = tarfile.TarInfo(FOLDERS[name])
        top.type = tarfile.DIRTYPE
        tar.addfile(top)
        for file, content in files.items():
            info = tarfile.TarInfo(f"{FOLDERS[name]}/{file}")
            info.size = len(dumped(content))
            tar.addfile(info, io.BytesIO(dumped(content)))
    return directory
