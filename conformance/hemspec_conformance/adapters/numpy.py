"""The reference itself: its answers in every dtype against the float64 answers that were frozen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

import hemspec
from hemspec_conformance.adapter import Call, Mode, Result


class NumpyAdapter:
    name = "numpy"
    modes = (Mode("eager"),)
    argument_names: Mapping[str, str] = {}
    lenient_labels = False

    def versions(self) -> Mapping[str, str]:
        return {"numpy": np.__version__}

    def run(self, call: Call, mode: Mode) -> Result:
        loss = getattr(hemspec, call.loss)
        options = {
            "axis": call.axis,
            "sample_weight": call.sample_weight,
            "ignore_index": call.ignore_index,
            "reduction": call.reduction,
            **call.constants,
        }
        value = np.asarray(loss(call.logits, call.labels, **options))
        return Result(value, loss.gradient(call.logits, call.labels, **options))


def make(target: str) -> NumpyAdapter:
    return NumpyAdapter()
