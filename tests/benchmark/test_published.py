"""What is published comes from the committed results, and the committed results are whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hemspec_benchmark import readme, report, store
from hemspec_benchmark.learner import BACKENDS
from hemspec_benchmark.losses import COMPARED
from hemspec_benchmark.settings import DIGITS, TASKS, Protocol

ROOT = Path(__file__).parents[2]
FULL = ROOT / "benchmark/results/full.json.gz"
PAGE = ROOT / "docs/site/benchmark.md"


@pytest.fixture(scope="module")
def full() -> store.Document:
    return store.read(FULL)


def test_the_full_run_is_whole(full: store.Document) -> None:
    assert Protocol.from_json(full["protocol"]) == DIGITS, "the protocol has changed: the full run is to be made again"
    assert full["missing"] == 0
    done = {(cell["task"], cell["setting"], cell["loss"], cell["backend"]): set() for cell in full["cells"]}
    for cell in full["cells"]:
        done[cell["task"], cell["setting"], cell["loss"], cell["backend"]].add(cell["seed"])
    asked = {
        (task, setting, loss, backend)
        for task, settings in TASKS.items()
        for setting in settings
        for loss in COMPARED
        for backend in BACKENDS
    }
    assert set(done) == asked
    assert all(seeds >= set(range(10)) for seeds in done.values())


def test_the_documentation_says_what_was_measured(full: store.Document, tmp_path: Path) -> None:
    tables = report.tables(full)
    copy = Path(shutil.copy(PAGE, tmp_path))
    readme.update(copy, tables, check=True)

    copy.write_text(copy.read_text().replace("| clean accuracy |", "| clean accuracy | 100.0 |"))
    with pytest.raises(readme.ReadmeError, match="out of date"):
        readme.update(copy, tables, check=True)
    assert all(f"<!-- benchmark: {name} -->" in copy.read_text() for name in tables)


def test_the_committed_pictures_are_pictures_of_the_report(full: store.Document) -> None:
    shown = {path.stem for path in (ROOT / "docs/benchmark").glob("*.png")}
    assert shown
    assert set(report.figures(full, names=shown)) == shown
    text = (ROOT / "README.md").read_text() + PAGE.read_text()
    assert all(f"docs/benchmark/{name}.png)" in text or f"../benchmark/{name}.png)" in text for name in shown)
