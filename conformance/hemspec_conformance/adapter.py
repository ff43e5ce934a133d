"""What a backend has to offer to be checked: NumPy in, NumPy out, in named modes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import numpy.typing as npt

Array = npt.NDArray[Any]

LOSSES: Final[Mapping[str, str]] = {
    "hem_loss": "HEMLoss",
    "multi_margin_loss": "MultiMarginLoss",
    "cross_entropy_loss": "CrossEntropyLoss",
    "focal_loss": "FocalLoss",
    "logit_norm_loss": "LogitNormLoss",
    "logit_adjusted_loss": "LogitAdjustedLoss",
    "dice_loss": "DiceLoss",
}
"""Every loss by the name of its function, with the name of its class."""

DTYPES: Final = ("float32", "float64", "float16", "bfloat16")


@dataclass(frozen=True)
class Call:
    """One call of a loss: the reference's arguments, as NumPy arrays and numbers."""

    loss: str
    logits: Array
    labels: Array
    sample_weight: Array | None = None
    axis: int = -1
    ignore_index: int | None = -100
    reduction: str = "mean"
    constants: Mapping[str, Any] = field(default_factory=dict)
    """The hyper-parameters: margin, gamma, ..., each a number, a float64 array, or a flag."""


@dataclass(frozen=True)
class Result:
    """What came back: the value, and the gradient of its sum in the logits."""

    value: Array
    gradient: Array


@dataclass(frozen=True)
class Mode:
    """A way to run a backend.

    `reads_values` says that a bad label or weight can be seen before it is used, so it has to raise; where it cannot
    be, the loss has to be NaN. `static_shapes` says that sizes are known before values, so a wrong one has to raise.

    `refusals` is off for a mode that traces as another one does and need not be asked about bad arguments again.

    `coverage` is what a usual run asks of the mode: "all" is every case in every dtype; "first dtype" is every case
    in the first of the mode's dtypes and the core cases in the others, for modes that trace each case for the better
    part of a second; "core" is the core cases in the first two dtypes, for modes that compile for seconds. A full run
    asks all of all.
    """

    name: str
    dtypes: Sequence[str] = DTYPES
    reads_values: bool = True
    static_shapes: bool = True
    refusals: bool = True
    coverage: Literal["all", "first dtype", "core"] = "all"


class Adapter(Protocol):
    """A backend under test."""

    name: str
    modes: Sequence[Mode]
    argument_names: Mapping[str, str]
    """How the backend calls an argument, where not as the reference does: PyTorch's logits are its ``input``."""
    lenient_labels: bool
    """Whether one-hot and integer-valued float labels are accepted, as Keras does."""

    def versions(self) -> Mapping[str, str]:
        """What was tested: the framework's version, and whatever else decides the result."""
        ...

    def run(self, call: Call, mode: Mode) -> Result:
        """Evaluate a loss and its gradient. Lets the backend's own exceptions through."""
        ...
