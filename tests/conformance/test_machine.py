"""The machine-made mutants of HEM and MM, a part of them in every run. All of them: ``nox -s mutants``."""

from __future__ import annotations

import ast

import pytest

pytest.importorskip("hemspec_conformance.plugin")
pytest.importorskip("ml_dtypes", reason="the vectors run in bfloat16 too")
pytest.importorskip("torch")

from mutation import copies, kill, machine
from mutation.explained import EXPLAINED

SAMPLE = {"numpy": 50, "torch": 10}
"""So many of each target, the first by their hashes: who changes the code cannot choose which are asked."""
TEXTS = {target: copies.sources(*kill.TARGETS[target].packages) for target in SAMPLE}
MUTANTS = {target: kill.mutants(target, TEXTS[target]) for target in SAMPLE}
EXPLAINED_NAMES = {entry[:4] for entry in EXPLAINED}
ASKED = [
    pytest.param(target, change, id=f"{target}-{change.function}-{change.rank[:8]}")
    for target, count in SAMPLE.items()
    for change in MUTANTS[target][:count]
    if change.name not in EXPLAINED_NAMES  # `nox -s mutants` looks whether those pass
]
pytestmark = pytest.mark.finding(31)


@pytest.mark.parametrize(("target", "way"), [(target, way) for target in SAMPLE for way in kill.TARGETS[target].ways])
def test_the_code_without_a_mistake_passes(target: str, way: str) -> None:
    """Else everything would count as noticed."""
    asked = {"about": ["answers"], "losses": kill.LOSSES, "cases": "random*"}
    assert kill.ask(TEXTS[target], target, kill.TARGETS[target].ways[way], **asked) is None


@pytest.mark.parametrize(("target", "change"), ASKED)
def test_a_mutant_is_noticed(target: str, change: machine.Change) -> None:
    said = kill.noticed(target, TEXTS[target], change, kill.WHOLE_SUITE)
    assert said is not None, f"no check notices it, and explained.py does not say why:\n{change}"


def test_every_explanation_is_about_a_mutant_of_today() -> None:
    """Code that changes takes what was said about it along."""
    made = {change.name for target in SAMPLE for change in MUTANTS[target]}
    for entry in EXPLAINED:
        assert entry[:4] in made, f"no mutant is called that any more; mend or remove it in explained.py:\n{entry}"
    assert len(EXPLAINED_NAMES) == len(EXPLAINED), "explained twice"


@pytest.mark.parametrize("target", SAMPLE)
def test_the_files_of_the_losses_have_mutants(target: str) -> None:
    for path in kill.TARGETS[target].files:
        assert [change for change in MUTANTS[target] if change.path == path], path
    for change in MUTANTS[target][: SAMPLE[target]]:
        ast.parse(change.text)
        assert change.text != TEXTS[target][change.path]


def test_a_mutant_keeps_its_name_where_lines_move() -> None:
    """And its rank in the sample: other code decides about other mutants alone."""
    text = "def f(x):\n    return x > 0 and -1 < x\n"
    names = [change.name for change in machine.changes("a.py", text)]
    assert ("a.py", "f", "x > 0", "x >= 0") in names
    assert ("a.py", "f", "-1 < x", "0 < x") in names
    assert ("a.py", "f", "x > 0 and -1 < x", "x > 0 or -1 < x") in names
    assert names == [change.name for change in machine.changes("a.py", "import g\n\n\n" + text)]
