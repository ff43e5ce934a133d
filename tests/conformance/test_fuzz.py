"""Random calls find what is wrong about a port, say it as a call to paste, and survive its crash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

pytest.importorskip("hemspec_conformance.plugin")
pytest.importorskip("ml_dtypes", reason="calls are drawn in bfloat16 too")

from hemspec_conformance.adapter import LOSSES, Call, Mode
from hemspec_conformance.adapters import numpy as right
from hemspec_conformance.admissible import answers
from hemspec_conformance.backend import Backend
from hemspec_conformance.cases import Case
from hemspec_conformance.fuzz import SHRUNK, fault_of, input_of, portions
from hemspec_conformance.inputs import Input
from hemspec_conformance.session import Session
from hemspec_conformance.workers import Request, run_all

EAGER = Mode()
UNREAD = Mode("traced", reads_values=False)


class Port:
    """The reference as a port, to be made wrong."""

    name, spec_version, losses = "port", 1, tuple(LOSSES)
    modes: tuple[Mode, ...] = (EAGER,)

    def versions(self) -> Mapping[str, str]:
        return {"port": "1"}

    def from_numpy(self, array: Any, mode: Mode) -> Any:
        return array

    def to_numpy(self, array: Any) -> Any:
        return np.asarray(array)

    def value_and_gradient(self, call: Call, mode: Mode) -> tuple[Any, Any]:
        return right.value_and_gradient(call, mode)


def failures(port: Any, inputs: int = 210) -> list[str]:
    SHRUNK.clear()
    session = Session(Backend.of(port), fuzz=inputs, seed=3)
    outcomes = [session.run(index) for index in range(len(session.checks))]
    return [outcome.message for outcome in outcomes if outcome.status == "failed"]


def test_the_reference_answers_as_itself() -> None:
    class Unread(Port):
        """What cannot be read is answered by NaN, where the sizes are right."""

        modes = (UNREAD,)

        def value_and_gradient(self, call: Call, mode: Mode) -> tuple[Any, Any]:
            try:
                return super().value_and_gradient(call, mode)
            except ValueError as error:
                if "got shape" in str(error) or "shape (" in str(error) or "must be one of" in str(error):
                    raise
                value, gradient = Port.value_and_gradient(self, benign(call), mode)
                return value * np.float32(np.nan), gradient * np.asarray(np.nan, gradient.dtype)

    assert failures(Port()) == []
    assert [text for text in failures(Unread()) if "due" in text] == []


def benign(call: Call) -> Call:
    from dataclasses import replace

    weight = None if call.sample_weight is None else np.ones_like(call.sample_weight)
    constants = {
        k: np.ones_like(v) if isinstance(v, np.ndarray) else 1.0 if isinstance(v, float) else v
        for k, v in call.constants.items()
    }
    return replace(call, labels=np.zeros_like(call.labels), sample_weight=weight, constants=constants)


class IgnoredAfterWeights(Port):
    """An ignored label is compared in its own dtype: uint8 156 is -100."""

    def value_and_gradient(self, call: Call, mode: Mode) -> tuple[Any, Any]:
        from dataclasses import replace

        if isinstance(call.ignore_index, int) and call.labels.dtype.kind == "u":
            wrapped = call.ignore_index % 2 ** (8 * call.labels.itemsize)
            call = replace(call, ignore_index=wrapped)
        return super().value_and_gradient(call, mode)


class LosesNaN(Port):
    def value_and_gradient(self, call: Call, mode: Mode) -> tuple[Any, Any]:
        value, gradient = super().value_and_gradient(call, mode)
        return np.asarray(np.nan_to_num(value), np.asarray(value).dtype), gradient


class RefusesNothing(Port):
    def value_and_gradient(self, call: Call, mode: Mode) -> tuple[Any, Any]:
        try:
            return super().value_and_gradient(call, mode)
        except (TypeError, ValueError):
            return np.zeros((), np.float32), np.zeros(call.logits.shape, np.float32)


class RaisesAnything(Port):
    def value_and_gradient(self, call: Call, mode: Mode) -> tuple[Any, Any]:
        try:
            return super().value_and_gradient(call, mode)
        except (TypeError, ValueError) as error:
            raise RuntimeError(str(error)) from error


@pytest.mark.parametrize(
    ("port", "said"),
    [
        (IgnoredAfterWeights, "expected"),
        (LosesNaN, "expected nan"),
        (RefusesNothing, "answered what has to be refused"),
        (RaisesAnything, "refused by the wrong error"),
    ],
)
def test_a_wrong_port_is_found(port: Any, said: str) -> None:
    found = failures(port())
    assert found
    assert any(said in text for text in found), found[0]


def test_a_failure_is_a_small_call_to_paste() -> None:
    message = min(failures(LosesNaN(), 200), key=len)
    code = message.split("asked:\n  ")[1]
    case = eval(code, {"Case": Case, "Call": Call, "np": np, "NAN": np.nan, "INF": np.inf})
    assert case.call.logits.size <= 6
    assert fault_of(Backend.of(LosesNaN()), EAGER, Input(case.call))
    assert not fault_of(Backend.of(Port()), EAGER, Input(case.call))


def test_the_same_seed_asks_the_same() -> None:
    backend = Backend.of(Port())
    texts = [
        [repr(input_of(backend, "hem_loss", EAGER, "float32", seed=s, number=n)) for n in range(9)] for s in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert sum(count for _, _, count in portions(backend, 1000)) == 1000


@pytest.mark.parametrize("loss", ["hem_loss", "multi_margin_loss"])
def test_where_rounding_decides_both_answers_are_right(loss: str) -> None:
    """(0.2 - 0.3) + 0.1 is 0 or a little more or less; with other margins there is one answer."""
    z = np.array([[0.3, 0.0, 0.2]], np.float32)
    close, clear = (Call(loss, z, np.array([0]), reduction="active_mean", constants={"margin": m}) for m in (0.1, 0.25))
    assert len(answers(clear, "float32").results) == 1
    found = answers(close, "float32").results
    assert len(found) == 2
    assert not np.array_equal(found[0].gradient, found[1].gradient)


def test_an_error_within_rounding_of_the_mean_is_kept_or_not() -> None:
    """The mean of the errors (0, 1, 1/2) is 1/2: exact with these, within rounding with a tenth more."""

    def asked(factor: float) -> Call:
        z = np.array([[0.0, factor, factor * 0.5]])
        return Call("hem_loss", z, np.array([0]), reduction="sum", constants={"margin": 0.0})

    assert {len(answers(asked(1.0), dtype).results) for dtype in ("float32", "float64")} == {1}
    values = sorted(float(result.value) for result in answers(asked(1.1), "float32").results)
    assert values == pytest.approx([0.825, 1.1])


def test_a_crash_and_a_hang_cost_one_call_and_say_it(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker is replaced, and the call that it did not survive is told."""
    module = tmp_path / "fragile_adapter.py"
    module.write_text(
        "import os, time\n"
        "from hemspec_conformance.adapters.numpy import *\n"
        "from hemspec_conformance.adapters import numpy as right\n"
        "modes = (right.EAGER,)\n"
        "losses = ('hem_loss', 'cross_entropy_loss')\n"
        "def value_and_gradient(call, mode):\n"
        "    if call.loss == 'hem_loss' and call.labels.size == 33: os._exit(3)\n"
        "    if call.loss == 'cross_entropy_loss' and call.labels.size == 33: time.sleep(60)\n"
        "    return right.value_and_gradient(call, mode)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    request = Request("fragile_adapter", fuzz=80, seed=3)
    _, outcomes = run_all(
        request, lambda opening: range(len(opening.checks)), workers=1, seconds=2.0, progress=lambda *_: None
    )
    failed = [outcome.message for outcome in outcomes if outcome.status == "failed"]
    assert any("ended the process with exit code 3: Case(" in text for text in failed), failed
    assert any("did not end within 2 s: Case(" in text for text in failed), failed
