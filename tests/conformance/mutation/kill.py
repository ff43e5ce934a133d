"""Mutants made by a machine: every operator, comparison, number and condition changed in turn, HEM and MM asked.

``python tests/conformance/mutation/kill.py numpy`` or ``torch``; see README.md beside this file.
"""

from __future__ import annotations

import argparse
import ast
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

from mutation import copies, verdict
from mutation.explained import EXPLAINED

LOSSES = ("hem_loss", "multi_margin_loss")
FILES = {
    "numpy": (
        "hemspec/reference/hem.py",
        "hemspec/reference/multi_margin.py",
        "hemspec/reference/positions.py",
        "hemspec/margins.py",
    ),
    "torch": ("hemspec_torch/functional.py", "hemspec_torch/positions.py", "hemspec/loss_function.py"),
}
PACKAGES = {"numpy": ("hemspec",), "torch": ("hemspec", "hemspec_torch")}
ELSEWHERE = {
    "hemspec/reference/positions.py": ("images",),
    "hemspec_torch/functional.py": (
        "spoil",
        "softmax_logits",
        "cross_entropy",
        "cross_entropy_loss",
        "focal_loss",
        "logit_norm_loss",
        "logit_adjusted_loss",
        "dice_loss",
    ),
}
"""Functions that HEM and MM do not use."""
TESTS = {"numpy": ["tests/test_reference.py"], "torch": ["tests/torch"]}
"""Asked about what passes the suite: they cover what no adapter can ask, such as defaults and `terms`."""
MORE: dict[str, list[dict[str, Any]]] = {
    "numpy": [{}],
    "torch": [{}, {"about": ["bad arguments"], "losses": [*LOSSES, "logit_adjusted_loss"], "mode": "graph"}],
}
"""The rest of the suite: the other losses, and for PyTorch bad values that a compiled function cannot read."""
ROOT = Path(__file__).parents[3]
SECONDS = 120
"""For one mutant. A loop that became endless is a difference too."""


class Change(NamedTuple):
    """A mutant: one file's text with one place changed."""

    path: str
    text: str
    line: int
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}\n  - {self.old}\n  + {self.new}"


Place = tuple[int, int]  # line and column


def spans_without_effect(tree: ast.Module, path: str) -> Iterator[tuple[Place, Place]]:
    """The parts of a file whose mutants are equivalent, or about nothing that is asked here."""
    parts: list[Any] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            parts += node.exc.args  # what an error says, word by word
        for name in ("annotation", "returns"):  # never evaluated: from __future__ import annotations
            if getattr(node, name, None) is not None:
                parts.append(getattr(node, name))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            parts.append(node)
        if isinstance(node, ast.keyword) and node.arg in ("frozen", "covariant"):
            parts.append(node)  # says something to readers and to type checkers
        if isinstance(node, ast.FunctionDef) and node.name in ELSEWHERE.get(path, ()):
            parts += [node, *node.decorator_list]
    for part in parts:
        yield (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)


def changes(path: str, text: str, count: Counter[str]) -> Iterator[Change]:
    """Every mutant of a file, less the equivalent ones, which are counted."""
    tree = ast.parse(text)
    spans = list(spans_without_effect(tree, path))
    nodes = list(ast_nodes(get_ast(text)))
    lines = text.splitlines()
    seen = {ast.dump(tree)}
    for name in sorted(plugins.operator_names()):
        kind = plugins.get_operator(name)
        if kind.arguments():
            continue
        operator = kind()
        places = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        for occurrence, (line, column) in enumerate(places):
            here = (line, column + (lines[line - 1][column] == "@"))
            # The operators take the star before keyword-only arguments for a product.
            star = lines[line - 1][column : column + 2] == "*,"
            if star or any(start <= here < end for start, end in spans):
                count["left out"] += 1
                continue
            mutated = mutate_code(text, operator, occurrence)
            try:
                dump = ast.dump(ast.parse(mutated))
            except SyntaxError:
                count["bad"] += 1
                continue
            if dump in seen:
                count["same"] += 1
                continue
            seen.add(dump)
            new = mutated.splitlines()
            at = next((i for i, pair in enumerate(zip(lines, new, strict=False)) if pair[0] != pair[1]), line - 1)
            yield Change(path, mutated, at + 1, lines[at].strip(), new[at].strip())


def suite_notices(texts: Mapping[str, str], target: str, **asked: Any) -> str | None:
    """The first thing that the conformance suite says, if it says anything."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"longer than {SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        found = verdict.failures(copies.adapter_of(texts, target), first=1, **asked)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return found[0] if found else None


def rest_of_suite_notices(texts: Mapping[str, str], target: str) -> str | None:
    said = None
    for asked in MORE[target]:
        said = said or suite_notices(texts, target, **asked)
    return said


def tests_notice(texts: Mapping[str, str], path: str, tests: Sequence[str]) -> bool:
    """Whether a unit test, or an example in the changed file, fails with these texts."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts.items():
            file = Path(folder, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")
        # Python imports from the working folder first.
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-c",
            str(ROOT / "pyproject.toml"),
        ]
        module = path.removesuffix(".py").replace("/", ".")
        runs = ([str(ROOT / test) for test in tests], ["--doctest-modules", "--pyargs", module])
        return any(
            subprocess.run(command + run, cwd=folder, capture_output=True).returncode not in (0, 5) for run in runs
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=FILES)
    parser.add_argument("--file", choices=[file for files in FILES.values() for file in files])
    parser.add_argument(
        "--suite-alone", action="store_true", help="do not ask the unit tests about what the suite passes"
    )
    parser.add_argument("--verbose", action="store_true", help="print what noticed each")
    options = parser.parse_args()

    texts = copies.sources(*PACKAGES[options.target])
    tests = [] if options.suite_alone else TESTS[options.target]
    if tests and any(tests_notice(texts, path, tests) for path in FILES[options.target]):
        print("the unit tests do not pass without a mistake")
        return 2
    if (said := suite_notices(texts, options.target)) is not None:
        print(f"the code without a mistake does not pass:\n{said}")
        return 2
    explained = {(entry.path, entry.old, entry.new): entry for entry in EXPLAINED}
    used: set[tuple[str, str, str]] = set()
    bad = False
    rows = []
    for path in FILES[options.target]:
        if options.file not in (None, path):
            continue
        count: Counter[str] = Counter()
        for change in changes(path, texts[path], count):
            count["made"] += 1
            mutated = {**texts, path: change.text}
            key = (path, change.old, change.new)
            entry = explained.get(key)
            if said := suite_notices(mutated, options.target, losses=LOSSES):
                count["killed"] += 1
            elif entry is not None and entry.equivalent:
                count["equivalent"] += 1
            elif said := rest_of_suite_notices(mutated, options.target):
                count["all losses"] += 1
            elif tests and tests_notice(mutated, path, tests):
                said = "unit tests"
                count["unit tests"] += 1
                print(f"UNIT TESTS ALONE {change}", flush=True)
            elif entry is not None:
                count["known gap"] += 1
            else:
                count["survived"] += 1
                print(f"SURVIVED {change}", flush=True)
            if said is None:
                used.add(key)
            if options.verbose:
                print(f"{change}\n    {said}", flush=True)
        rows.append((path, count))
        asked = [entry for entry in explained if entry[0] == path]
        for entry in asked:
            if entry not in used:
                bad = True
                print(f"EXPLAINED BUT NOT A SURVIVOR {entry}")
    heads = (
        "made",
        "killed",
        "all losses",
        "unit tests",
        "equivalent",
        "known gap",
        "survived",
        "left out",
        "same",
        "bad",
    )
    print(f"{'':34}" + "".join(f"{head:>11}" for head in heads) + f"{'killed %':>10}")
    for path, count in rows:
        rate = 100 * (count["killed"] + count["all losses"]) / max(count["made"] - count["equivalent"], 1)
        print(f"{path:34}" + "".join(f"{count[head]:>11}" for head in heads) + f"{rate:10.1f}")
        bad |= count["survived"] > 0
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
