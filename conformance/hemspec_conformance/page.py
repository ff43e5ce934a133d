"""The verdict as a static page."""

from __future__ import annotations

from collections.abc import Sequence

from hemspec_conformance.verdict import Verdict


def page(verdicts: Sequence[Verdict]) -> str:
    return ""
