"""The command ``hemspec-conformance``."""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hemspec_conformance.backend import AdapterError
from hemspec_conformance.page import page
from hemspec_conformance.session import Outcome
from hemspec_conformance.verdict import Verdict, markdown, read, said, summary
from hemspec_conformance.workers import Opening, Request, run_all

EXAMPLES = """\
examples:
  hemspec-conformance --backend my_package.adapter
  hemspec-conformance --backend my_package.adapter --only 'hem_loss/*' --workers 0
  hemspec-conformance --backend my_package.adapter --json mine.json --html mine.html
  hemspec-conformance --backend my_package.adapter --fuzz 20000 --seed 1
  hemspec-conformance --merge torch.json jax.json --html matrix.html --markdown matrix.md
"""


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hemspec-conformance",
        description="Check a backend of hemspec's losses against the specification: frozen vectors, bad input, laws.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--backend", metavar="MODULE", help="the module of the backend's adapter, such as my_package.adapter"
    )
    what.add_argument("--merge", metavar="JSON", nargs="+", type=Path, help="verdicts to put side by side, instead")
    parser.add_argument(
        "--only", metavar="PATTERN", action="append", help="checks to run, as 'hem_loss/*/jit/float32'; repeatable"
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="every case in every dtype also in the modes that compile, laws in every mode",
    )
    parser.add_argument("--examples", metavar="N", type=int, help="random calls for each law (usually 10 to 15)")
    parser.add_argument(
        "--fuzz", metavar="N", type=int, default=0, help="so many random calls, good and bad, instead of the suite"
    )
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="of the random calls (default: %(default)s)")
    parser.add_argument(
        "--workers",
        metavar="N",
        type=int,
        default=min(4, os.cpu_count() or 1),
        help="processes; 0 runs in this one, for a debugger, without a time limit (default here: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=30.0,
        help="for one check; one that takes longer fails (default: %(default)g)",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the verdict, to keep or to merge")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write the verdict as a page")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write a table with a row for each backend")
    given = parser.parse_args(argv)
    if given.workers < 0 or given.timeout <= 0 or (given.examples or 1) < 1 or given.fuzz < 0 or given.seed < 0:
        parser.error("--workers, --fuzz and --seed must be >= 0, --timeout > 0 and --examples >= 1")
    if given.merge and given.json:
        parser.error("--json is for one backend; verdicts are merged into --html or --markdown")
    return given


def check(given: argparse.Namespace) -> Verdict:
    """Run the suite on a backend."""
    request = Request(given.backend, full=given.full, examples=given.examples, fuzz=given.fuzz, seed=given.seed)

    def choose(opening: Opening) -> list[int]:
        patterns = given.only or ["*"]
        return [
            index
            for index, check in enumerate(opening.checks)
            if any(fnmatch.fnmatchcase(check.id, pattern) for pattern in patterns)
        ]

    start = time.perf_counter()
    opening, outcomes = run_all(
        request, choose, workers=given.workers, seconds=given.timeout, progress=Progress(sys.stderr.isatty())
    )
    return Verdict(
        opening.name,
        opening.versions,
        outcomes,
        partial=bool(given.only or given.fuzz),
        full=given.full,
        seconds=round(time.perf_counter() - start, 1),
    )


class Progress:
    """A line that counts, where somebody is looking."""

    def __init__(self, shown: bool) -> None:
        self.shown, self.done, self.failed = shown, 0, 0

    def __call__(self, outcome: Outcome, total: int) -> None:
        self.done += 1
        self.failed += outcome.status == "failed"
        if self.shown:
            end = "\n" if self.done == total else ""
            print(f"\r{self.done} of {total} checks, {self.failed} failed", end=end, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """0: conforms. 1: something failed. 2: the backend or the files could not be read."""
    given = arguments(argv)
    try:
        if given.merge:
            verdicts = read(given.merge)
            print("\n".join(map(said, verdicts)))
        else:
            verdicts = [check(given)]
            print(summary(verdicts[0]))
    except (AdapterError, OSError, ValueError) as error:
        print(f"hemspec-conformance: {error}", file=sys.stderr)
        return 2
    for path, text in (
        (given.json, verdicts[0].to_json),
        (given.html, lambda: page(verdicts)),
        (given.markdown, lambda: markdown(verdicts)),
    ):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text(), "utf-8")
    return 0 if all(verdict.conforms for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
