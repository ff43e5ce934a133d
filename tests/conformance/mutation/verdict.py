"""What the conformance suite says about an adapter: the only module here that knows how the suite is asked."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from hemspec_conformance.adapter import LOSSES
from hemspec_conformance.backend import Backend, ConformanceError
from hemspec_conformance.check import check_rejection, check_vector
from hemspec_conformance.rejections import REJECTIONS
from hemspec_conformance.vectors import load


def failures(
    adapter: Any,
    losses: Collection[str] = tuple(LOSSES),
    *,
    about: Collection[str] = ("answers", "bad arguments"),
    mode: str | None = None,
    first: int | None = None,
) -> list[str]:
    """One message for each check that fails, in the mode of that name or else in the adapter's first.

    `about`: the two kinds of checks. `first`: stop after so many failures.

    A message that begins with "crashed" is an exception that the suite did not expect: noticed, but by accident.
    """
    backend = Backend.of(adapter)
    (asked_mode,) = [m for m in backend.modes if m.name == (mode or backend.modes[0].name)]
    checks: list[tuple[Any, Any, Sequence[Any]]] = []
    if "answers" in about:
        asked_as = [vector for vector in load() if vector.label_form in backend.label_forms]
        checks += [(check_vector, vector, (asked_mode, dtype)) for vector in asked_as for dtype in vector.dtypes]
    if "bad arguments" in about:
        checks += [(check_rejection, rejection, (asked_mode,)) for rejection in REJECTIONS]
    found: list[str] = []
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for check, asked, options in checks:
            if asked.call.loss not in losses:
                continue
            try:
                check(backend, asked, *options)
            except ConformanceError as error:
                found.append(str(error))
            except Exception as error:
                case = f"{asked.call.loss}, case {asked.name}, mode {asked_mode.name}"
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
