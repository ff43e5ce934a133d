"""Results on disk: nothing finished is lost, nothing that does not belong together is mixed."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemspec_benchmark import store
from hemspec_benchmark.losses import described
from hemspec_benchmark.settings import DIGITS, QUICK, Cell, Protocol
from hemspec_benchmark.store import FILE, Store, StoreError

FIRST, SECOND = Cell("accuracy", "test", "ce", "torch", 0), Cell("rejection", "far", "hem", "jax", 3)
EXPLORED = Cell("accuracy", "test", "ce", "jax", 0, "epochs 5")
HERE, THERE = {"device": "cpu", "cpus": 2}, {"device": "cpu", "cpus": 64}
COUNTS = np.full(10, 100)


def record(value: float, **details: Any) -> dict[str, Any]:
    return {"device": "cpu", "seconds": 1.25, "metrics": {"clean": value}, "details": details}


def document(kept: Store, *, protocol: Protocol = DIGITS, command: str = "run", planned: Any = ()) -> store.Document:
    return store.document(protocol, kept, command=command, planned=planned, losses=described(COUNTS))


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Store]:
    """An open store without cells."""
    opened = Store(tmp_path / "run", DIGITS)
    yield opened
    opened.close()


def lines(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def test_what_was_added_is_there_after_opening_again(tmp_path: Path, kept: Store) -> None:
    kept.add(FIRST, HERE, record(0.1 + 0.2, matrix=[[1.0, 0.123456789], [0.0, 1.0]]))
    kept.add(SECOND, THERE, record(0.5))
    kept.add(EXPLORED, HERE, record(0.25))
    before = document(kept, planned=[FIRST, Cell("accuracy", "test", "ce", "keras", 0)])
    kept.close()
    again = Store(tmp_path / "run", DIGITS)
    assert set(again.records) == {FIRST, SECOND, EXPLORED}
    assert document(again, planned=[FIRST, Cell("accuracy", "test", "ce", "keras", 0)]) == before
    again.close()
    assert before["missing"] == 1
    assert before["schema"] == 2
    assert before["protocol"] == DIGITS.as_json()
    assert [(cell["task"], cell["variant"]) for cell in before["cells"]] == [("accuracy", ""), ("rejection", "")]
    assert [cell["variant"] for cell in before["explorations"]] == ["epochs 5"]
    first = before["cells"][0]
    assert first["metrics"] == {"clean": 0.1 + 0.2}  # every digit
    assert first["details"] == {"matrix": [[1.0, 0.1234568], [0.0, 1.0]]}  # as many as float32 has
    assert before["machines"][first["machine"]] == HERE
    assert before["machines"][before["cells"][1]["machine"]] == THERE
    assert set(before["losses"]) == {"ce", "hem"}
    assert before["losses"]["hem"]["arguments"]["reduction"] == "active_mean"


def test_the_document_does_not_depend_on_the_order_of_arrival(tmp_path: Path) -> None:
    found = []
    for name, order in ("a", (0, 1, 2)), ("b", (2, 1, 0)):
        kept = Store(tmp_path / name, DIGITS)
        cells = [(FIRST, HERE), (SECOND, THERE), (EXPLORED, HERE)]
        for i in order:
            kept.add(*cells[i], record(i / 10))
        found.append(document(kept))
        kept.close()
    assert found[0] == found[1]


def test_each_cell_is_on_disk_when_it_is_added(tmp_path: Path, kept: Store) -> None:
    kept.add(FIRST, HERE, record(0.5))
    assert len(lines(tmp_path / "run")) == 3  # protocol, machine, cell
    kept.add(SECOND, HERE, record(0.5))
    assert len(lines(tmp_path / "run")) == 4


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_line_that_was_cut_off_is_dropped_and_the_rest_kept(tmp_path: Path, kept: Store, cut: int) -> None:
    kept.add(FIRST, HERE, record(0.5))
    kept.close()
    path = tmp_path / "run" / FILE
    whole = path.read_bytes()
    kept = Store(tmp_path / "run", DIGITS)
    kept.add(SECOND, HERE, record(0.75))
    kept.close()
    added = path.read_bytes()[len(whole) :]
    path.write_bytes(whole + added[:cut])
    again = Store(tmp_path / "run", DIGITS)
    assert set(again.records) == {FIRST}
    again.add(SECOND, HERE, record(0.75))
    again.close()
    assert path.read_bytes() == whole + added


def test_a_header_that_was_cut_off_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b'{"schema": 2, "proto')
    Store(tmp_path, DIGITS).close()
    assert lines(tmp_path) == [{"schema": 2, "protocol": DIGITS.as_json()}]


@pytest.mark.parametrize(
    ("protocol", "where"),
    [
        (
            replace(DIGITS, classification=replace(DIGITS.classification, epochs=3)),
            "classification.epochs is 15, not 3",
        ),
        (replace(DIGITS, attack=replace(DIGITS.attack, steps=7)), "attack.steps is 20, not 7"),
        (replace(DIGITS, data="cifar10"), "data is digits, not cifar10"),
    ],
)
def test_another_protocol_is_refused_and_named(tmp_path: Path, kept: Store, protocol: Protocol, where: str) -> None:
    kept.add(FIRST, HERE, record(0.5))
    kept.close()
    before = (tmp_path / "run" / FILE).read_bytes()
    with pytest.raises(StoreError, match=f"another protocol.*{where}.*--output"):
        Store(tmp_path / "run", protocol)
    assert (tmp_path / "run" / FILE).read_bytes() == before
    Store(tmp_path / "run", DIGITS).close()  # and the lock is free


def test_two_runs_do_not_share_a_folder(tmp_path: Path, kept: Store) -> None:
    with pytest.raises(StoreError, match="in use by another run"):
        Store(tmp_path / "run", DIGITS)
    kept.close()
    Store(tmp_path / "run", DIGITS).close()


def test_starting_anew_forgets_the_cells_but_no_other_protocols(tmp_path: Path, kept: Store) -> None:
    kept.add(FIRST, HERE, record(0.5))
    with pytest.raises(StoreError, match="in use"):
        Store(tmp_path / "run", DIGITS, anew=True)
    kept.close()
    with pytest.raises(StoreError, match="another protocol"):
        Store(tmp_path / "run", replace(DIGITS, data="cifar10"), anew=True)
    again = Store(tmp_path / "run", DIGITS, anew=True)
    assert again.records == {}
    assert again.machines == []
    again.add(SECOND, THERE, record(0.5))
    again.close()
    opened = Store(tmp_path / "run", DIGITS)
    assert set(opened.records) == {SECOND}
    assert opened.machines == [THERE]
    opened.close()


@pytest.mark.parametrize("damage", [b"not json\n", b"5\n", b"[]\n", b'{"some": "thing"}\n'])
def test_a_damaged_line_is_named(tmp_path: Path, kept: Store, damage: bytes) -> None:
    kept.close()
    with (tmp_path / "run" / FILE).open("ab") as file:
        file.write(damage)
    with pytest.raises(StoreError, match=r"line 2 of .*cells\.jsonl"):
        Store(tmp_path / "run", DIGITS)


def test_what_is_not_finite_is_null(tmp_path: Path, kept: Store) -> None:
    kept.add(FIRST, HERE, record(math.nan, curve=[1.0, math.inf, -math.inf], array=np.array([[np.nan, 2.0]])))
    entry = document(kept)["cells"][0]
    assert entry["metrics"] == {"clean": None}
    assert entry["details"] == {"curve": [1.0, None, None], "array": [[None, 2.0]]}
    assert "NaN" not in (tmp_path / "run" / FILE).read_text()
    store.write(document(kept), tmp_path / "result.json")
    assert store.read(tmp_path / "result.json")["cells"][0] == entry


def test_numpys_numbers_are_plain() -> None:
    given = {"a": np.float32(0.5), "b": np.int64(3), "c": (np.bool_(True), "x", None), "d": np.arange(2)}
    found = store.plain(given)
    assert found == {"a": 0.5, "b": 3, "c": [True, "x", None], "d": [0, 1]}
    assert [type(value) for value in (found["a"], found["b"], found["c"][0])] == [float, int, bool]


@pytest.mark.parametrize("name", ["result.json", "result.json.gz"])
def test_the_same_document_is_the_same_file(tmp_path: Path, kept: Store, name: str) -> None:
    kept.add(FIRST, HERE, record(1 / 3))
    store.write(document(kept), tmp_path / name)
    (tmp_path / "b").mkdir()
    store.write(store.read(tmp_path / name), tmp_path / "b" / name)
    assert (tmp_path / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert store.read(tmp_path / name) == document(kept)
    if name.endswith(".gz"):
        content = (tmp_path / name).read_bytes()
        assert content[4:8] == bytes(4)  # no time
        assert json.loads(gzip.decompress(content)) == document(kept)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [name]  # nothing half-written


def test_writing_what_is_not_json_leaves_the_old_file(tmp_path: Path) -> None:
    store.write({"schema": 2}, tmp_path / "result.json")
    with pytest.raises(ValueError, match="JSON compliant"):
        store.write({"schema": 2, "value": math.nan}, tmp_path / "result.json")
    assert store.read(tmp_path / "result.json") == {"schema": 2}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.json", None, "No such file"),
        ("result.json", b"{", "cannot read"),
        ("result.json", b"\xff\xfe", "cannot read"),
        ("result.json", b"[]", "is not a result"),
        ("result.json", b'{"schema": 1}', r"is not a result of hemspec-benchmark \(schema 2\)"),
        ("result.json.gz", b'{"schema": 2}', "cannot read"),
        ("result.json.gz", gzip.compress(b'{"schema": 2}' * 9, mtime=0)[:-9], "cannot read"),
        ("result.json.gz", gzip.compress(b"", mtime=0)[:10] + b"\xff" * 20, "cannot read"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(StoreError, match=message) as caught:
        store.read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def part(folder: Path, cells: dict[Cell, tuple[dict[str, Any], float]], **options: Any) -> store.Document:
    kept = Store(folder, options.get("protocol", DIGITS))
    for cell, (machine, value) in cells.items():
        kept.add(cell, machine, record(value))
    found = document(kept, **options)
    kept.close()
    return found


def test_merging_parts_gives_the_whole(tmp_path: Path) -> None:
    everything = {FIRST: (HERE, 0.5), SECOND: (THERE, 0.25), EXPLORED: (THERE, 0.75)}
    one = part(tmp_path / "a", {SECOND: everything[SECOND]}, command="run --loss hem", planned=[FIRST, SECOND])
    other = part(tmp_path / "b", {cell: everything[cell] for cell in (FIRST, EXPLORED)}, command="run --loss ce")
    whole = part(tmp_path / "c", everything)
    for order in [one, other], [other, one]:
        merged, twice = store.merge([(str(i), given) for i, given in enumerate(order)])
        assert twice == 0
        assert merged["missing"] == 0
        assert merged["command"] == " && ".join(given["command"] for given in order)
        for kind in "cells", "explorations":
            found, expected = merged[kind], whole[kind]
            places = [merged["machines"][cell.pop("machine")] for cell in found]
            assert places == [whole["machines"][cell["machine"]] for cell in expected]
            assert found == [{key: value for key, value in cell.items() if key != "machine"} for cell in expected]
        assert list(merged["losses"].items()) == list(whole["losses"].items())


def test_of_cells_that_are_there_twice_the_first_is_kept(tmp_path: Path) -> None:
    one = part(tmp_path / "a", {FIRST: (HERE, 0.5), SECOND: (HERE, 0.5)})
    other = part(tmp_path / "b", {FIRST: (THERE, 0.1), EXPLORED: (THERE, 0.1)})
    merged, twice = store.merge([("a", one), ("b", other)])
    assert twice == 1
    assert [cell["metrics"]["clean"] for cell in merged["cells"]] == [0.5, 0.5]
    assert merged["machines"][merged["cells"][0]["machine"]] == HERE
    assert len(merged["explorations"]) == 1


def test_results_of_different_protocols_are_not_merged(tmp_path: Path) -> None:
    other = replace(DIGITS, continual=replace(DIGITS.continual, batch_size=8))
    documents = [
        ("a.json", part(tmp_path / "a", {FIRST: (HERE, 0.5)})),
        ("b.json", part(tmp_path / "b", {SECOND: (HERE, 0.5)}, protocol=other)),
    ]
    with pytest.raises(
        StoreError, match=r"b\.json .*another protocol than a\.json: continual\.batch_size is 8, not 16"
    ):
        store.merge(documents)


def test_a_protocol_survives_json() -> None:
    assert Protocol.from_json(json.loads(json.dumps(DIGITS.as_json()))) == DIGITS


def test_what_another_machine_has_done_is_taken(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "a", DIGITS)) as there, closing(Store(tmp_path / "b", DIGITS)) as here:
        there.add(
            FIRST, {"host": "there"}, {"seconds": 1.0, "metrics": {"clean": 0.5}, "details": {"curve": [1.0, 2.0]}}
        )
        here.add(replace(FIRST, seed=7), {"host": "here"}, {"seconds": 2.0, "metrics": {"clean": 0.6}, "details": {}})
        given = document(there)
        here.take(given)
        here.take(given)
        found = document(here)
    assert [(cell["seed"], cell["metrics"]["clean"]) for cell in found["cells"]] == [(FIRST.seed, 0.5), (7, 0.6)]
    assert [found["machines"][cell["machine"]]["host"] for cell in found["cells"]] == ["there", "here"]
    assert found["cells"][0]["details"] == {"curve": [1.0, 2.0]}
    with closing(Store(tmp_path / "b", DIGITS)) as again:
        assert len(again.records) == 2
        with pytest.raises(StoreError, match="was run under another protocol: "):
            again.take({**given, "protocol": QUICK.as_json()})
