"""Each wrong port is noticed by the law that was written for it, and by nothing else that the suite asks."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from fnmatch import fnmatch
from typing import Any

import numpy as np
import pytest

pytest.importorskip("hemspec_conformance.plugin")

import wrong_ports
from wrong_ports import OVERWRITE, WRONG_PORTS, Killed, RightPort

from hemspec_conformance.backend import Backend
from hemspec_conformance.laws import LAWS
from hemspec_conformance.session import Outcome, Session

SLOW = ("law_rows", "law_classes", "law_sums")
"""Asked of the ports whose fault they could see, and of the right one."""


def failed(port: Any, losses: Collection[str], *, random: bool = True, large: bool = False) -> list[Outcome]:
    """The checks that fail of the adapter, and of vectors, bad input and laws of these losses."""
    session = Session(Backend.of(port), examples=1)
    drawn = {f"law_{law.name}" for law in LAWS}
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcomes = [
            session.run(index)
            for index, check in enumerate(session.checks)
            if check.loss in (*losses, "") and (random or check.case not in drawn) and (large or check.case not in SLOW)
        ]
    return [outcome for outcome in outcomes if outcome.status == "failed"]


def test_the_right_port_passes() -> None:
    assert failed(RightPort(), ["hem_loss", "cross_entropy_loss", "dice_loss"]) == []
    assert failed(wrong_ports.RightDerivatives(), ["hem_loss", "cross_entropy_loss"], random=False) == []


@pytest.mark.parametrize(
    "killed",
    [pytest.param(killed, marks=killed.finding) for killed in WRONG_PORTS],
    ids=lambda killed: killed.port.__name__,
)
def test_a_wrong_port_is_killed_by_its_law_alone(killed: Killed) -> None:
    outcomes = failed(killed.port(), killed.losses, large=killed.by in SLOW)
    assert {outcome.loss for outcome in outcomes} == set(killed.losses)
    assert [outcome.case for outcome in outcomes if not fnmatch(outcome.case, killed.by)] == []
    assert [outcome.message for outcome in outcomes if "raised" in outcome.message] == [], "killed by crashing"


@pytest.mark.finding(26)
@pytest.mark.parametrize("written", OVERWRITE)
def test_a_port_that_writes_to_its_input_is_killed_for_that_alone(written: str) -> None:
    outcomes = failed(OVERWRITE[written](), ["cross_entropy_loss"], random=False)
    assert "law_inputs_unchanged" in {outcome.case for outcome in outcomes}
    for outcome in outcomes:
        assert f"has to come back bit for bit, but the call wrote to {written}" in outcome.message


@pytest.mark.finding(26)
def test_a_vector_that_was_written_to_is_restored() -> None:
    """Others ask about the same arrays."""
    session = Session(Backend.of(wrong_ports.FillsIgnoredLabelsInPlace()))
    (index,) = [i for i, check in enumerate(session.checks) if check.id.startswith("hem_loss/ignored_nan_and_inf/")]
    assert [session.run(index).status for _ in range(2)] == ["failed", "failed"]


@pytest.mark.finding(25)
def test_an_adapter_without_a_gradient_is_told_what_to_add() -> None:
    class Old(RightPort):
        gradient = None  # type: ignore[assignment]

    (outcome,) = failed(Old(), ["cross_entropy_loss"])
    assert outcome.id == "adapter/gradient"
    assert "lacks gradient(call, mode, upstream)" in outcome.message
    assert "def gradient(call, mode, upstream):" in outcome.message


@pytest.mark.finding(10)
def test_a_nan_or_infinity_on_the_way_is_found_where_the_framework_hunts_for_it() -> None:
    outcomes = failed(wrong_ports.DividesByZeroOnTheWay(), ["cross_entropy_loss"], random=False)
    assert {outcome.mode for outcome in outcomes} == {"eager-raises"}
    assert all("raised FloatingPointError: divide by zero" in outcome.message for outcome in outcomes)
