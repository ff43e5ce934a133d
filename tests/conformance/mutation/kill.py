"""Ask the conformance suite about the mutants that `machine` makes of HEM and MM.

``python tests/conformance/mutation/kill.py numpy`` or ``torch``; see README.md beside this file.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from hemspec_conformance.adapter import LOSSES as ALL
from mutation import copies, verdict
from mutation.explained import EXPLAINED, Explained
from mutation.machine import Change, changes, used

LOSSES: Final = ("hem_loss", "multi_margin_loss")
Question = tuple[Collection[str], Collection[str]]
ANSWERS: Final = ("answers", "bad arguments")
MARGIN_LOSSES: Final[Sequence[Question]] = ((ANSWERS, LOSSES),)
WHOLE_SUITE: Final[Sequence[Question]] = ((ANSWERS, LOSSES), (ANSWERS, sorted({*ALL} - {*LOSSES})), (("laws",), LOSSES))
ROOTS: Final = (*LOSSES, "margin_terms")
"""What calls the rest; the last is how each implementation calls itself."""
SECONDS: Final = 120
"""For one mutant in one way. A loop that became endless is a difference too."""
ROOT: Final = Path(__file__).parents[3]

Texts = Mapping[str, str]


class Way(NamedTuple):
    """How a call gets to the code: a mode of the adapter (its first if there is no name), with names defined anew."""

    mode: str | None = None
    names: Mapping[str, Mapping[str, str]] = {}  # by file: name, code

    def texts(self, texts: Texts) -> Texts:
        result = dict(texts)
        for path, defined in self.names.items():
            for name, code in defined.items():
                if not re.search(rf"^(def )?{name}\b", result[path], re.MULTILINE):
                    raise copies.EditDoesNotApplyError(f"{path} has no {name} any more")
                result[path] += f"\n{name} = {code}\n"
        return result


class Target(NamedTuple):
    packages: Sequence[str]
    files: Mapping[str, Sequence[str]]
    """What is changed, and the ways that get there, the most telling first."""
    ways: Mapping[str, Way]


def implementation(code: str) -> dict[str, dict[str, str]]:
    """Have that compute the margin losses, whatever the call."""
    return {"hemspec_torch/selection.py": {"fast_terms": f"lambda *args, class_group, **options: {code}"}}


TARGETS: Final = {
    "numpy": Target(
        ("hemspec",),
        {f"hemspec/reference/{name}.py": ("reference",) for name in ("hem", "multi_margin", "positions")},
        {"reference": Way()},
    ),
    "torch": Target(
        ("hemspec", "hemspec_torch"),
        {
            "hemspec_torch/functional.py": ("plain operations", "eager", "vmap"),
            "hemspec_torch/positions.py": ("plain operations", "eager", "what compilers get", "vmap"),
            "hemspec_torch/blocked.py": ("eager", "small blocks", "vmap"),
            "hemspec_torch/traced.py": ("what compilers get",),
            "hemspec/loss_function.py": ("plain operations",),
        },
        {
            "eager": Way(),
            "small blocks": Way(names={"hemspec_torch/blocked.py": {"BLOCK": "16", "SMALL": "0"}}),
            "plain operations": Way(names=implementation("None")),
            "what compilers get": Way(names=implementation("traced.margin_terms(*args, **options)")),
            "vmap": Way("vmap"),
        },
    ),
}
"""Left out: `hemspec.arguments` (mostly words) and `hemspec.margins` (no adapter is asked for margins). Of PyTorch
`selection` (it only chooses), `fused` and `kernels` (minutes for each mutant in Triton's interpreter), `class_parallel`
and `replicas` (several processes), `linear` (gradients of its own). `traced` is asked without a compiler, with which a
mutant costs a second a case, so that what is run only while compiling is not asked. All those have unit tests."""


def ask(
    texts: Texts, target: str, way: Way, about: Collection[str], losses: Collection[str], cases: str = "*"
) -> str | None:
    """The first thing that the conformance suite says, if it says anything."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"longer than {SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        adapter = copies.adapter_of(way.texts(texts), target)
        found = verdict.failures(adapter, losses, about=about, mode=way.mode, cases=cases, first=1)
    except (SyntaxError, copies.EditDoesNotApplyError):
        raise  # says something of this program, nothing of the mutant
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return found[0] if found else None


def noticed(target: str, texts: Texts, change: Change, questions: Sequence[Question]) -> str | None:
    """What notices the mutant in one of the ways to its file, and what it says."""
    mutated = {**texts, change.path: change.text}
    for about, losses in questions:
        for name in TARGETS[target].files[change.path]:
            if said := ask(mutated, target, TARGETS[target].ways[name], about, losses):
                return f"{name}: {said}"
    return None


def explanations() -> dict[tuple[str, str, str, str], Explained]:
    return {(entry.path, entry.function, entry.old, entry.new): entry for entry in EXPLAINED}


def mutants(target: str, texts: Texts) -> list[Change]:
    """Those of the margin losses, in an order that stays: the first hundred are a sample that nobody has chosen."""
    files = TARGETS[target].files
    made = [change for path in files for change in changes(path, texts[path])]
    asked = {"<module>", *used([texts[path] for path in files], ROOTS)}
    return sorted((change for change in made if change.function.split(".")[0] in asked), key=lambda made: made.rank)


def test_notices(texts: Texts, change: Change, test: str) -> bool:
    """Whether that unit test fails with the mutant."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in {**texts, change.path: change.text}.items():
            file = Path(folder, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")
        options = ["-q", "-x", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
        path = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
        run = subprocess.run(
            [sys.executable, "-m", "pytest", *options, str(ROOT / test)],
            cwd=folder,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        return run.returncode == 1


def judge(target: str, texts: Texts, change: Change) -> tuple[str, str]:
    """What became of a mutant, and who says so."""
    entry = explanations().get(change.name)
    said = noticed(target, texts, change, MARGIN_LOSSES if entry else WHOLE_SUITE)
    if said is not None:
        return ("killed" if entry is None else "explained but noticed"), said
    if entry is None:
        return "survived", ""
    if entry.test and not test_notices(texts, change, entry.test):
        return "survived", f"{entry.test} does not notice it"
    return ("unit test" if entry.test else "known gap" if entry.gap else "equivalent"), entry.why


def verdicts(target: str, texts: Texts, asked: Sequence[Change], workers: int) -> Iterator[tuple[str, str]]:
    """As `judge` says, in the order of the mutants."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(partial(judge, target, texts), asked)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--file", help="only of this one")
    parser.add_argument(
        "--part", default="1/1", help="2/10: the second tenth, so that a long run can be taken in parts"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--verbose", action="store_true", help="print what became of each")
    options = parser.parse_args()

    part, parts = map(int, options.part.split("/"))
    texts = copies.sources(*TARGETS[options.target].packages)
    for name, way in TARGETS[options.target].ways.items():
        if said := ask(texts, options.target, way, (*ANSWERS, "laws"), LOSSES):
            print(f"the code without a mistake does not pass, {name}:\n{said}")
            return 2
    made = [change for change in mutants(options.target, texts) if options.file in (None, change.path)]
    asked = made[part - 1 :: parts]
    counts: dict[str, Counter[str]] = {change.path: Counter() for change in made}
    start = time.monotonic()
    for change, (became, said) in zip(asked, verdicts(options.target, texts, asked, options.workers), strict=True):
        counts[change.path][became] += 1
        bad = became in ("survived", "explained but noticed")
        if bad or options.verbose:
            print(f"{became.upper()} {change}\n    {said}", flush=True)
    heads = ("killed", "equivalent", "unit test", "known gap", "survived", "explained but noticed")
    print(f"{options.target}, part {options.part}: {len(asked)} mutants, {time.monotonic() - start:.0f} s")
    print(f"{'':34}" + "".join(f"{head:>{len(head) + 2}}" for head in heads))
    for path, count in counts.items():
        print(f"{path:34}" + "".join(f"{count[head]:>{len(head) + 2}}" for head in heads))
    return int(any(count["survived"] + count["explained but noticed"] for count in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
