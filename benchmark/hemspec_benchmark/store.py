"""Results on disk: one line of JSON for each finished cell, and the document that is made from them.

A line is written and flushed when its cell is finished, so an interruption costs the cells that were under way and
nothing else. What it cut off in the middle of a line is dropped when the run goes on.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import math
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from hemspec_benchmark.losses import LOSSES
from hemspec_benchmark.settings import Cell, Rules, is_compared

Document = dict[str, Any]
SCHEMA: Final = 2
"""Of the document; 1 had the digits' clean accuracy alone."""
FILE: Final = "cells.jsonl"
KEY: Final = ("task", "setting", "loss", "backend", "seed", "variant")


class StoreError(ValueError):
    """Results that cannot be read, or do not belong together."""


class Store:
    """The finished cells of one run, in a folder. One process at a time.

    Args:
        folder: is made if need be.
        protocol: the run's.
        anew: forget the cells of an earlier run; not those of another protocol, which may have taken hours.

    Raises:
        StoreError: the folder holds a run under another protocol, or another process is using it.
    """

    def __init__(self, folder: Path, protocol: Rules, *, anew: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE
        self._file = self.path.open("a+b")
        self.machines: list[dict[str, Any]] = []
        self.records: dict[Cell, dict[str, Any]] = {}
        self.header = {"schema": SCHEMA, "protocol": protocol.as_json()}
        try:
            self._open(folder, self.header, anew)
        except BaseException:
            self.close()
            raise

    def _open(self, folder: Path, header: dict[str, Any], anew: bool) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreError(f"{folder} is in use by another run") from None
        found = self._read()
        if found is None:
            self._write(header)
        elif found != header:
            where = difference(found, header)
            raise StoreError(
                f"{folder} holds a run under another protocol ({where}); give another --output, or delete that folder"
            )
        elif anew:
            self.machines, self.records = [], {}
            self._file.truncate(0)
            self._write(header)

    def add(self, cell: Cell, machine: dict[str, Any], record: dict[str, Any]) -> None:
        """Keep a finished cell: `record` has device, seconds, metrics and details."""
        if machine not in self.machines:
            self.machines.append(machine)
            self._write({"machine": machine})
        entry = plain({**asdict(cell), "machine": self.machines.index(machine), **record})
        self.records[cell] = entry
        self._write(entry)

    def take(self, document: Document) -> None:
        """Keep the cells of a result that are not there yet.

        Raises:
            StoreError: it is of another protocol.
        """
        if document["protocol"] != self.header["protocol"]:
            where = difference(document["protocol"], self.header["protocol"])
            raise StoreError(f"what is to be added was run under another protocol: {where}")
        for entry in [*document["cells"], *document["explorations"]]:
            if (cell := cell_of(entry)) not in self.records:
                record = {name: value for name, value in entry.items() if name not in (*KEY, "machine")}
                self.add(cell, document["machines"][entry["machine"]], record)

    def _read(self) -> dict[str, Any] | None:
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._file.truncate(len(whole))
        header = None
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                if header is None:
                    header = entry
                elif set(entry) == {"machine"}:
                    self.machines.append(entry["machine"])
                else:
                    self.records[cell_of(entry)] = entry
            except (ValueError, TypeError, KeyError):
                raise StoreError(
                    f"line {number} of {self.path} is no finished cell; delete it to go on without it"
                ) from None
        return header

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry, allow_nan=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let other runs use the folder."""
        self._file.close()


def cell_of(entry: dict[str, Any]) -> Cell:
    """The cell that an entry of a document is about."""
    return Cell(*(entry[name] for name in KEY))


def document(
    protocol: Rules, store: Store, *, command: str, planned: Iterable[Cell], losses: Mapping[str, dict[str, Any]]
) -> Document:
    """Everything there is to know about a run. Cells and machines are sorted, whatever order they came in.

    `losses` says what each name of a loss means; the document keeps those that were used.
    """
    machines = sorted(store.machines, key=json.dumps)
    position = [machines.index(machine) for machine in store.machines]
    cells = [
        {**store.records[cell], "machine": position[store.records[cell]["machine"]]} for cell in sorted(store.records)
    ]
    used = {entry["loss"] for entry in cells}
    return {
        "schema": SCHEMA,
        "data": protocol.data,
        "command": command,
        "protocol": protocol.as_json(),
        "losses": {name: plain(loss) for name, loss in losses.items() if name in used},
        "machines": machines,
        "missing": sum(cell not in store.records for cell in planned),
        **separate(cells),
    }


def separate(cells: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The comparison, and the explorations beside it."""
    return {
        "cells": [entry for entry in cells if is_compared(entry["variant"])],
        "explorations": [entry for entry in cells if not is_compared(entry["variant"])],
    }


def merge(documents: list[tuple[str, Document]]) -> tuple[Document, int]:
    """Put runs of one protocol together, from different machines for instance.

    Returns:
        The document, and how many cells were in more than one; of those the first document's are kept.

    Raises:
        StoreError: the protocols differ.
    """
    (first_name, first), *others = documents
    for name, other in others:
        if other["protocol"] != first["protocol"]:
            where = difference(other["protocol"], first["protocol"])
            raise StoreError(f"{name} was run under another protocol than {first_name}: {where}")
    machines: list[dict[str, Any]] = []
    cells: dict[Cell, dict[str, Any]] = {}
    twice = 0
    for _, given in documents:
        for machine in given["machines"]:
            if machine not in machines:
                machines.append(machine)
        for entry in [*given["cells"], *given["explorations"]]:
            if cell_of(entry) in cells:
                twice += 1
            else:
                cells[cell_of(entry)] = {**entry, "machine": machines.index(given["machines"][entry["machine"]])}
    losses = {name: loss for _, given in documents for name, loss in given["losses"].items()}
    order = list(LOSSES)

    def position(name: str) -> int:
        return order.index(name) if name in order else len(order)

    merged = {
        **first,
        "command": " && ".join(dict.fromkeys(given["command"] for _, given in documents)),
        "losses": {name: losses[name] for name in sorted(losses, key=position)},
        "machines": machines,
        "missing": 0,
        **separate([cells[cell] for cell in sorted(cells)]),
    }
    return merged, twice


def difference(one: Any, other: Any, path: str = "") -> str:
    """Where two protocols part: ``classification.epochs is 15, not 20``."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted({*one, *other}):
            if one.get(name) != other.get(name):
                return difference(one.get(name), other.get(name), f"{path}.{name}" if path else name)
    return f"{path.removeprefix('protocol.')} is {one}, not {other}"


def write(document: Document, path: Path) -> None:
    """As strict JSON, compressed if the name ends in ``.gz``; the old file stays until the new one is complete."""
    text = json.dumps(document, allow_nan=False, separators=(",", ":") if path.suffix == ".gz" else None)
    # Without a time and a name in it, the same document is always the same file.
    content = gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode()
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


def read(path: Path) -> Document:
    """The inverse of `write`.

    Raises:
        StoreError: there is no such file, or it is not a result.
    """
    try:
        content = path.read_bytes()
        document = json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise StoreError(f"cannot read {path}: {error}") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise StoreError(f"{path} is not a result of hemspec-benchmark (schema {SCHEMA})")
    return document


def plain(value: Any) -> Any:
    """What JSON knows: lists, and null where a number is not finite. Floats in lists keep seven digits, as float32."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_seven_digits(plain(entry)) for entry in value]
    return value


def _seven_digits(value: Any) -> Any:
    return float(f"{value:.7g}") if isinstance(value, float) else value
