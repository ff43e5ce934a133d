"""One framework's process: ``python -m hemspec_perf.worker``, its task as JSON on standard input.

Frameworks are never in one process: their thread pools would compete. A line of JSON goes to the real standard output
for each finished table; what a framework prints goes to standard error.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import hemspec
from hemspec_perf import heads, timing
from hemspec_perf.batches import WrongAnswerError, check
from hemspec_perf.plan import EVERY_CANDIDATE, SIZES, Line
from hemspec_perf.resident import FEWEST_BYTES
from hemspec_perf.side import MissingError, Side, Steps

COPY = "copy"


def measure(
    line: Line, side: Side, names: list[str], *, repeats: int, budget: float, limit: float = float("inf")
) -> dict[str, Any]:
    """The table of a line: what was measured of each candidate, or why nothing was.

    After `limit` seconds, less those that the rounds need, no further candidate is made ready.
    """
    ready: dict[str, Steps] = {}
    refused: dict[str, str] = {}
    latest = time.monotonic() + limit - budget
    for name in sorted(names, key=is_secondary):
        if time.monotonic() > latest:
            refused[name] = "the line had no time left for it"
            continue
        try:
            ready[name] = admit(line, side, name)
        except (MissingError, WrongAnswerError) as error:
            refused[name] = str(error)
        except Exception as error:
            # One that needs more than there is, or does not compile, must not cost the others their numbers.
            refused[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
        gc.collect()
    if not ready:
        return {"skipped": "; ".join(f"{name}: {reason}" for name, reason in refused.items())}
    ready = {name: ready[name] for name in names if name in ready}
    copied = side.copy()
    runs: dict[str, Callable[[int], None]] = {COPY: counted(side, copied)}
    for name, steps in ready.items():
        runs[f"{name}/forward"], runs[f"{name}/both"] = counted(side, steps.forward), counted(side, steps.both)
    samples = timing.interleaved(runs, repeats=repeats, budget=budget)
    copy_seconds = timing.summary(samples[COPY])["median"]
    results = {}
    for name, steps in ready.items():
        *_, dtype = described(line, name)
        results[name] = {"memory": memory(line, side, steps, dtype)}
        for part in ("forward", "both"):
            own = samples[f"{name}/{part}"]
            found = timing.summary(own)
            size = SIZES[dtype]
            # A copy's bandwidth is that of bytes: of another dtype it takes as long as its bytes do.
            copying = copy_seconds * size / SIZES[line.dtype]
            percent = timing.percent_of_copy(found["median"], copying, line.entries, size, backward=part == "both")
            against = {
                other: timing.ratio(own, samples[f"{other}/{part}"]) for other in line.baselines(name) if other in ready
            }
            results[name][part] = found | {"percent_of_copy": percent, "ratios": against}
    note = side.note() if hasattr(side, "note") else ""
    return {"copy": timing.summary(samples[COPY]), "results": results, "refused": refused, "note": note}


def is_secondary(name: str) -> bool:
    """A formulation that nobody is compared with: the first to be left out where time is short."""
    return name in EVERY_CANDIDATE and EVERY_CANDIDATE[name][2] in ("plain", "authors")


def described(line: Line, name: str) -> tuple[str, str, str, str]:
    """Loss, writer, variant and dtype of a candidate."""
    if not line.variants:
        _, loss, writer = EVERY_CANDIDATE[name]
        return loss, writer, "", line.dtype
    loss, _, variant = name.partition(" ")
    return loss, "ours", variant, variant if variant in SIZES else line.dtype


def admit(line: Line, side: Side, name: str) -> Steps:
    """Make a candidate ready, if it computes what it should: a fast wrong answer gets no number."""
    loss, writer, variant, dtype = described(line, name)
    steps = side.steps(name, loss, writer, variant, dtype)
    value, gradient = side.answer(name, steps)
    if line.depth:
        heads.check(line, loss, dtype, value, gradient, name)
    else:
        check(line, loss, variant, dtype, value, gradient, name, rounds=writer in ("framework", "liger"))
    return steps


def counted(side: Side, step: Callable[[], Any]) -> Callable[[int], None]:
    """n calls, waited for."""

    def run(calls: int) -> None:
        result = None
        for _ in range(calls):
            result = step()
        side.wait(result)

    return run


def memory(line: Line, side: Side, steps: Steps, dtype: str) -> dict[str, Any]:
    """Peak extra memory of forward and backward, in bytes and as a multiple of the logits, or why it is not known."""
    logits = line.entries * SIZES[dtype]
    if line.device == "cpu" and line.framework != "jax" and logits < FEWEST_BYTES:
        return {"reason": "too small to tell"}

    def step() -> Any:
        result = steps.both()
        side.wait(result)
        return result

    try:
        found = side.peak(steps.both if line.framework == "jax" else step)
    except (MissingError, OSError) as error:
        return {"reason": str(error)}
    return {"bytes": found, "multiple": found / logits}


def machine() -> dict[str, Any]:
    """Where the numbers come from."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "versions": {
            "hemspec": hemspec.__version__,
            "spec": str(hemspec.SPEC_VERSION),
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
    }


def work(task: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> None:
    """Measure the lines of a task."""
    cores = sorted(os.sched_getaffinity(0))[: task["threads"]]
    os.sched_setaffinity(0, cores)  # before a framework counts them
    library = importlib.import_module(f"hemspec_perf.{task['framework'].partition('-')[0]}_side")
    library.set_threads(task["threads"])
    here = machine()
    here["versions"] |= library.versions()
    report({"machine": here})
    end = time.monotonic() + (task["limit"] or float("inf"))
    for index, fields in enumerate(task["lines"]):
        line = Line(**fields)
        try:
            limit = (end - time.monotonic()) / (len(task["lines"]) - index)
            if limit < task["budget"]:
                raise MissingError("no time was left for it")
            side = (library.HeadSide if line.depth else library.Side)(line)
            names = line.candidates(task["losses"])
            table = measure(line, side, names, repeats=task["repeats"], budget=task["budget"], limit=limit)
        except MissingError as error:
            table = {"skipped": str(error)}
        report({"line": fields, **table})
        side = None
        gc.collect()


def main() -> None:
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as reports:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        work(
            json.load(sys.stdin), lambda message: print(json.dumps(message, allow_nan=False), file=reports, flush=True)
        )


def _processor() -> str:
    """The model of the processor; `platform.processor` does not know it on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
