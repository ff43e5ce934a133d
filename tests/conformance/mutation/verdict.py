"""What the conformance suite says about an adapter: the only module here that knows how the suite is asked."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Iterable
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from hemspec_conformance.adapter import LOSSES
from hemspec_conformance.backend import Backend, ConformanceError
from hemspec_conformance.laws import EXAMPLES
from hemspec_conformance.plan import Check, chosen_checks, law_checks, rejection_checks, vector_checks


def failures(
    adapter: Any,
    losses: Collection[str] = tuple(LOSSES),
    *,
    about: Collection[str] = ("answers", "bad arguments"),
    mode: str | None = None,
    cases: str = "*",
    first: int | None = None,
) -> list[str]:
    """One message for each check that fails, in the mode of that name or else in the adapter's first.

    `about`: which of "answers", "bad arguments" and "laws". `cases`: those with such a name, in a shell's pattern.
    `first`: stop after so many failures.

    A message that begins with "crashed" is an exception that the suite did not expect: noticed, but by accident.
    """
    backend = Backend.of(adapter)
    (asked,) = [m for m in backend.modes if m.name == (mode or backend.modes[0].name)]
    kinds: dict[str, Callable[[str], Iterable[Check]]] = {
        "answers": lambda loss: vector_checks(backend, loss, asked, full=True),
        "bad arguments": lambda loss: rejection_checks(backend, loss, asked, full=True),
        "laws": lambda loss: [
            *chosen_checks(backend, loss, asked, full=False),
            *law_checks(backend, loss, asked, EXAMPLES[asked.coverage]),
        ],
    }
    offered = [loss for loss in LOSSES if loss in losses and (not asked.losses or loss in asked.losses)]
    found: list[str] = []
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for check in (check for kind in about for loss in offered for check in kinds[kind](loss)):
            if check.skip or not fnmatchcase(check.case, cases):
                continue
            try:
                check.run()
            except ConformanceError as error:
                found.append(str(error))
            except Exception as error:
                case = f"{check.loss}, case {check.case}, mode {check.mode}"
                found.append(f"crashed: {case}\n  {type(error).__name__}: {error}")
            if first is not None and len(found) >= first:
                break
    return found


def is_crash(message: str) -> bool:
    """Whether a check met an exception that it did not expect."""
    return message.startswith("crashed")


def is_difference(message: str) -> bool:
    """Whether a vector's value or gradient was wrong: its numbers, its dtype or its shape."""
    return not is_crash(message) and ("\n  value" in message or "\n  gradient" in message)


def is_acceptance(message: str) -> bool:
    """Whether a bad argument got a number."""
    return "\n  expected an error" in message


def case_of(message: str) -> str:
    """The case that a message is about."""
    found = re.search(r"case (.+), mode ", message)
    assert found is not None, message
    return found[1]
