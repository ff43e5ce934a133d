"""What a backend has to say of itself to be checked: which losses, in which modes, and how to call one.

An adapter is a module (or any object) with the attributes of `Adapter`. `docs/writing-a-backend.md` shows a whole one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
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
"""Every loss of the specification by the name of its function, with the name of its class."""

DTYPES: Final = ("float32", "float64", "float16", "bfloat16")

DERIVATIVES: Final[Mapping[str, str]] = {
    "batched": "gradients for several upstreams at once",
    "nested": "the value and gradient inside another gradient",
    "second": "a gradient of a gradient",
    "forward": "the derivative along a direction, forward mode",
    "forward_over_reverse": "the derivative of a gradient along a direction, forward mode",
}
"""What a port may offer beyond value and gradient, see `Adapter.derivative`."""

LabelForm = Literal["ids", "column", "one_hot", "float"]
"""How labels are given: class indices, those with a trailing axis of 1, exact one-hot rows, or integers as floats."""


@dataclass(frozen=True)
class Call:
    """One call of a loss: the reference's arguments.

    The suite keeps arrays as NumPy's; an adapter gets logits, labels and weight as its own `from_numpy` made them.
    """

    loss: str
    logits: Any
    labels: Any
    sample_weight: Any = None
    axis: int = -1
    ignore_index: int | None = -100
    reduction: str = "mean"
    constants: Mapping[str, Any] = field(default_factory=dict)
    """The hyper-parameters: margin, gamma, ..., each a number, a float64 NumPy array, or a flag."""
    left_out: Collection[str] = ()
    """Arguments not to be given, because the default is what is asked about. The fields hold what it has to be."""

    @property
    def keywords(self) -> dict[str, Any]:
        """All arguments to be given after logits and labels, by the reference's names."""
        arguments = {
            "axis": self.axis,
            "sample_weight": self.sample_weight,
            "ignore_index": self.ignore_index,
            "reduction": self.reduction,
            **self.constants,
        }
        return {name: value for name, value in arguments.items() if name not in self.left_out}


@dataclass(frozen=True)
class Mode:
    """A way to run a backend: one point on every axis. What an axis means to the framework is the adapter's to know.

    ``Mode("jit", setting="x64")`` is called ``jit-x64``: the execution, then whatever is not usual.
    """

    execution: str = "eager"
    """How the loss is run: eager, compiled, traced, ... and "vmap" (see `per_example`)."""
    _: KW_ONLY
    device: str = "cpu"
    layout: Literal["as_given", "channels_first", "channels_last", "strided"] = "as_given"
    """What the suite does to the arrays: the class axis moved to 1 or to the end, or views with gaps in memory."""
    setting: str = ""
    """Whatever else the framework can be set to: x64, autocast_bfloat16, deterministic, ..."""
    dtypes: Sequence[str] = DTYPES
    reads_values: bool = True
    """A bad label or weight can be seen before it is used, so it has to raise; otherwise the loss has to be NaN."""
    static_shapes: bool = True
    """Sizes are known before values, so a wrong one has to raise."""
    refusals: bool = True
    """Bad arguments are tried. Off for a mode that refuses where another one does, or a port that refuses nothing."""
    per_example: bool = False
    """The loss is mapped over the first axis, one example at a time. Asked for sums and for losses by position. An
    example has to be given a batch axis of 1, else its weight and its class axis would be out of place."""
    losses: Collection[str] = ()
    """Those that there is such a way to run, where not all that the backend offers."""
    infinities: bool = True
    """Logits may be infinite. Off for a mode that gets them as a product, in which an infinity spreads to its row as
    NaN. A NaN may do so: it makes its whole row NaN anyway."""
    finite_only: bool = False
    """Only calls are asked whose numbers are all finite, given and expected. For a mode in which the framework stops at
    the first NaN or infinity: on finite numbers no intermediate may be one."""
    coverage: Literal["all", "first dtype", "brief", "core"] = "all"
    """What a usual run asks; a full one asks all of all.

    - "all": every case in every dtype.
    - "first dtype": every case in the first dtype, the core cases in the others. For a mode that traces each case for
      the better part of a second.
    - "brief": likewise, but what stands around a loss's formula (shapes, weights, ignored positions, forms of labels)
      not beyond the core cases. For a second mode that traces what another one was asked in full.
    - "core": the core cases in the first dtype. For a mode that compiles for seconds.
    """
    skip: str = ""
    """Why the mode cannot run here ("no CUDA device"); its checks are then reported as skipped."""

    @property
    def name(self) -> str:
        usual = Mode()
        parts = [
            self.execution,
            *(
                getattr(self, axis)
                for axis in ("device", "layout", "setting")
                if getattr(self, axis) != getattr(usual, axis)
            ),
        ]
        return "-".join(parts)


@dataclass(frozen=True)
class ExpectedFailure:
    """A check that is known to fail, for a reason that lies outside the port. It has to fail: passing is an error."""

    check: str
    """The check's id, ``hem_loss/large_offset/graph/float32``; ``*`` stands for anything within it."""
    reason: str
    link: str
    """Where the cause is reported."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """The versions that have the fault, as ``{"tensorflow": ">=2.18,<2.22"}``: keys of `Adapter.versions`."""
    platforms: Collection[str] = ()
    """Those that have it, as `sys.platform` names them; empty means all."""


class Adapter(Protocol):
    """A backend under test. The attributes after `gradient` may be left out."""

    name: str
    spec_version: int
    """The version of the specification that the backend implements."""
    losses: Collection[str]
    """The losses it offers, by the specification's names; a mapping from names to functions will do."""
    modes: Sequence[Mode]

    def versions(self) -> Mapping[str, str]:
        """What is tested: the framework's version, and whatever else decides the result."""
        ...

    def from_numpy(self, array: Array, mode: Mode) -> Any:
        """The framework's array, on the mode's device, of the same dtype (as near as the framework has one)."""
        ...

    def to_numpy(self, array: Any) -> Array:
        """Back again: shape and dtype are what the framework returned."""
        ...

    def value_and_gradient(self, call: Call, mode: Mode) -> tuple[Any, Any]:
        """The loss, and the gradient of its sum in the logits. Lets the backend's own exceptions through."""
        ...

    def gradient(self, call: Call, mode: Mode, upstream: Any) -> Any:
        """The gradient of ``sum(upstream * loss)`` in the logits, by the port's own backward pass.

        `upstream` is an array of the framework, of the loss's shape and dtype: what a backward pass gets from above.
        """
        ...

    derivatives: Collection[str]
    """Which of `DERIVATIVES` the port offers; none unless given."""

    def derivative(self, kind: str, call: Call, mode: Mode, direction: Any) -> Any:
        """One of `derivatives`. With f = sum(loss), and `direction` an array of the logits' shape and dtype:

        - "batched": `direction` is a stack of upstreams; the stack of what `gradient` gives for each.
        - "nested": the gradient of ``v ** 2 + sum(g * direction)``, v and g being the value and gradient of f.
        - "second": the gradient of ``sum(g * direction)``, g being the gradient of ``f ** 2``.
        - "forward": the derivative of the loss along `direction`, forward mode, of the loss's shape.
        - "forward_over_reverse": the derivative along `direction`, forward mode, of the gradient of ``f ** 2``.
        """
        ...

    argument_names: Mapping[str, str]
    """How the backend calls an argument, where not as the reference does: PyTorch's logits are its ``input``."""
    label_forms: Collection[LabelForm]
    """The forms of labels it takes; ("ids",) unless given."""
    expected_failures: Sequence[ExpectedFailure]
