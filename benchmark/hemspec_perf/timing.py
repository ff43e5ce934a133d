"""Times: candidates take turns, and what is told is the median with its quartiles."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

Clock = Callable[[], float]

SAMPLE: Final = 2e-3
"""Seconds that a sample lasts at least: shorter steps are repeated within it."""
FEWEST: Final = 5
"""Samples, however slow a step is."""


def interleaved(
    steps: Mapping[str, Callable[[int], None]],
    *,
    repeats: int,
    budget: float,
    clock: Clock = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of a single call, `repeats` samples for each step; each round begins with another one.

    Args:
        steps: `step(n)` makes n calls and waits for them.
        repeats: rounds.
        budget: seconds after which no further round begins, once there are `FEWEST`.
        clock: seconds.
    """
    calls = {}
    for name, step in steps.items():
        lasts = 0.0
        for _ in range(2):  # the first warms up: caches, allocators, lazy loading
            if lasts < 50 * SAMPLE:
                begin = clock()
                step(1)
                lasts = clock() - begin
        calls[name] = max(1, min(200, round(SAMPLE / max(lasts, 1e-9))))
    samples: dict[str, list[float]] = {name: [] for name in steps}
    names, begin = list(steps), clock()
    for turn in range(repeats):
        if turn >= FEWEST and clock() - begin > budget:
            break
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = clock()
            steps[name](calls[name])
            samples[name].append((clock() - start) / calls[name])
    return samples


def summary(samples: list[float]) -> dict[str, Any]:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high, "samples": len(samples)}


def ratio(samples: list[float], baseline: list[float]) -> float:
    """The median over the rounds of this candidate's time over the other's in the same round.

    What slows the machine down for a second slows both.
    """
    return statistics.median(own / other for own, other in zip(samples, baseline, strict=True))


def copies_beyond(cache: int, size: int) -> int:
    """How many inputs have to take turns so that none is still in the cache when its turn comes.

    What a loss reads was written by a model long before. An input of 16 MB that is read again and again would come from
    an H100's second-level cache, of 50 MB, and be measured against a copy that does so too.
    """
    return max(1, -(-4 * cache // max(size, 1)))


def ideal_bytes(entries: int, itemsize: int, *, backward: bool) -> float:
    """What an ideal HEM moves: forward reads the logits and writes a bit for each, backward reads that and writes."""
    return entries * (2 * itemsize + 0.25 if backward else itemsize + 0.125)


def percent_of_copy(seconds: float, copy_seconds: float, entries: int, itemsize: int, *, backward: bool) -> float:
    """The bandwidth that the ideal's bytes had, as a percentage of a copy's, which reads and writes all logits."""
    achieved = ideal_bytes(entries, itemsize, backward=backward) / seconds
    return 100 * achieved / (2 * entries * itemsize / copy_seconds)
