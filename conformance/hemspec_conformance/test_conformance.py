"""The two questions: does a backend answer as the specification does, and does it refuse what it must refuse?"""

from __future__ import annotations

from collections.abc import Callable

from hemspec_conformance.adapter import Adapter, Mode
from hemspec_conformance.check import check_rejection, check_vector
from hemspec_conformance.rejections import Rejection
from hemspec_conformance.vectors import Vector


def test_vector(
    adapter: Adapter, vector: Vector, mode: Mode, dtype: str, record_property: Callable[[str, object], None]
) -> None:
    record_property(vector.call.loss, check_vector(adapter, vector, mode, dtype))


def test_rejection(adapter: Adapter, rejection: Rejection, mode: Mode) -> None:
    check_rejection(adapter, rejection, mode)
