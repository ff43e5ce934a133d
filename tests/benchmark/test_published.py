"""What is published comes from the committed results, and the committed results are whole."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from hemspec_benchmark import readme, report, store
from hemspec_benchmark.learner import BACKENDS
from hemspec_benchmark.losses import COMPARED
from hemspec_benchmark.settings import DIGITS, TASKS, Protocol
from hemspec_benchmark.swap import decide, selection_report
from hemspec_benchmark.swap import report as swap_report
from hemspec_benchmark.swap.advice import ADVICE, FIRST, Advice, check
from hemspec_benchmark.swap.matrix import CANDIDATES, CHECKING_SEEDS, NEW_SEEDS, Matrix, Training, read_setting
from hemspec_benchmark.swap.selection import TRAININGS, Selection

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmark/results"
FULL = RESULTS / "full.json.gz"
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
    assert set(report.figures(full, names=shown)) | {"swap"} == shown
    text = (ROOT / "README.md").read_text() + PAGE.read_text()
    assert all(f"docs/benchmark/{name}.png)" in text or f"../benchmark/{name}.png)" in text for name in shown)


# The swap


@pytest.fixture(scope="module")
def swapped() -> store.Document:
    return store.read(RESULTS / "swap.json.gz")


@pytest.fixture(scope="module")
def scores(swapped: store.Document) -> pd.DataFrame:
    """A row for each training, its name split into columns."""
    frame = pd.DataFrame([{**entry, **entry["metrics"]} for entry in swapped["cells"] + swapped["explorations"]])
    names = ["data", "network", "optimizer", "schedule", "clipping", "rate"]
    return frame.join(frame["setting"].str.split(expand=True).set_axis(names, axis="columns"))


TRAINING = ["data", "network", "optimizer", "schedule", "clipping"]


def test_the_swap_is_whole(swapped: store.Document) -> None:
    assert swapped["protocol"] == Matrix().as_json(), "the protocol has changed: the matrix is to be trained again"
    assert (decide.missing(swapped), swapped["missing"]) == (0, 0)
    assert "flax" in swapped["machines"][0]["versions"]


def test_the_rates_suit_cross_entropy(scores: pd.DataFrame) -> None:
    """On the validation part, of those within a standard error of the best the lowest."""
    tried = scores[scores.variant == "validation"].astype({"rate": float})
    assert set(tried.loss) == {"ce"}
    reached = tried.groupby([*TRAINING, "rate"]).score.agg(["mean", "sem"]).reset_index()
    for training, rates in reached.groupby(TRAINING):
        top = rates.loc[rates["mean"].idxmax()]
        # Where a rate is exactly a standard error below, rounding decides.
        lowest = [rates[rates["mean"] >= top["mean"] - top["sem"] + tie].rate.min() for tie in (-1e-12, 1e-12)]
        used = scores[(scores[TRAINING] == list(training)).all(axis=1) & (scores.variant == "")].rate.astype(float)
        assert len(set(used)) == 1, training
        assert set(used) <= set(lowest), training


def test_the_published_table_of_the_swap_is_recomputed(scores: pd.DataFrame) -> None:
    trained = scores[(scores.variant == "") & scores.seed.isin(range(101, 106))]
    wide = trained.pivot_table(index=TRAINING, columns="loss", values="score", aggfunc="mean")
    finite = trained.pivot_table(index=TRAINING, columns="loss", values="finite", aggfunc="min") == 1.0
    points = (100 * wide.drop(columns="ce").sub(wide["ce"], axis=0)).round(9)
    published = block(ROOT / "docs/site/swap.md", "swap")
    assert len(published) == points.shape[1] == 9
    for name, candidate in CANDIDATES.items():
        if name == "ce":
            continue
        found, fine = points[name], finite[name]
        shares = [((found > -1) & fine).mean(), ((found > 1) & fine).mean(), ((found < -5) | ~fine).mean()]
        row = published[candidate.label]
        assert row[:4] == [str(len(found)), *(f"{100 * share:.0f} %" for share in shares)], name
        assert row[4] == (f"{found.min():+.1f}".replace("-", "−") if fine.all() else "not finite"), name


@pytest.mark.parametrize(("first", "table", "seeds"), [(115, ADVICE, NEW_SEEDS), (110, FIRST, CHECKING_SEEDS)])
def test_the_advice_is_held_against_other_seeds(
    scores: pd.DataFrame, swapped: store.Document, first: int, table: Sequence[Advice], seeds: Sequence[int]
) -> None:
    checking = scores[(scores.variant == "") & scores.seed.isin(range(first, first + 5))]
    wide = checking.pivot_table(index=TRAINING, columns="loss", values="score", aggfunc="mean")
    points = (100 * wide.drop(columns="ce").sub(wide["ce"], axis=0)).round(9)
    right = spoken = 0
    for line in table:
        asked = [index for index in points.index if line.holds(Training(*index))]
        right += sum(points.loc[index, line.candidate] > -1 for index in asked)
        spoken += len(asked)
    checked = check(decide.differences(swapped, seeds), table)
    assert (right, spoken) == (sum(one.right for one in checked), sum(one.trainings for one in checked))
    # What the protocol asks for, and what the first table failed.
    assert (right / spoken >= 0.95) == (table is ADVICE)


@pytest.mark.parametrize("page", ["README.md", "docs/site/swap.md", "docs/site/migration/index.md"])
def test_the_pages_say_what_the_swap_gave(swapped: store.Document, page: str) -> None:
    readme.update(ROOT / page, swap_report.tables(swapped), check=True)


def block(page: Path, name: str) -> dict[str, list[str]]:
    """A published table: the cells of each row by the first of them."""
    found = re.search(rf"<!-- benchmark: {name} -->\n(.*?)\n<!-- end -->", page.read_text(), re.DOTALL)
    assert found
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()[2:]]
    return {row[0]: row[1:] for row in rows}


# Choosing a model


def test_the_selection_is_whole_and_published(swapped: store.Document) -> None:
    document = store.read(RESULTS / "selection.json.gz")
    assert document["protocol"] == Selection().as_json()
    rates = dict(read_setting(entry["setting"]) for entry in swapped["cells"])
    assert {training: rates[training] for training in TRAININGS} == TRAININGS, "the matrix chose other rates"
    readme.update(ROOT / "docs/site/selection.md", selection_report.tables(document), check=True)
