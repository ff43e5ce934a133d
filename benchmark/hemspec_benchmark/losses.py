"""The losses that are compared, each with the arguments its paper gives it for this training set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

import hemspec

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Loss:
    """A loss by its names: in a table, as a function of the reference and as a class of the backends."""

    label: str
    function_name: str
    class_name: str
    arguments: Callable[[Counts], dict[str, Any]] = lambda counts: {}

    def reference(self, class_counts: Counts) -> Callable[[Any, Any], Any]:
        """The loss in NumPy, with the arguments for this training set."""
        function = getattr(hemspec, self.function_name)
        return lambda logits, labels: function(logits, labels, **self.arguments(class_counts))

    def build(self, backend: Any, class_counts: Counts) -> Any:
        """The loss of a backend, given its module (``hemspec.torch``, ...)."""
        return getattr(backend, self.class_name)(**self.arguments(class_counts))


def _hem(reduction: str) -> Callable[[Counts], dict[str, Any]]:
    return lambda counts: {"margin": hemspec.margin_from_num_samples(int(counts.sum())), "reduction": reduction}


def _hem_plus(counts: Counts) -> dict[str, Any]:
    return {"margin": hemspec.margins_from_class_counts(counts), "reduction": "active_mean"}


LOSSES: Final = {
    "ce": Loss("CE", "cross_entropy_loss", "CrossEntropyLoss"),
    "hem": Loss("HEM", "hem_loss", "HEMLoss", _hem("active_mean")),
    "hem-mean": Loss("HEM, mean", "hem_loss", "HEMLoss", _hem("mean")),
    "hem-plus": Loss("HEM+", "hem_loss", "HEMLoss", _hem_plus),
    "mm": Loss("MM", "multi_margin_loss", "MultiMarginLoss"),
    "focal": Loss("Focal", "focal_loss", "FocalLoss"),
    "logitnorm": Loss("LogitNorm", "logit_norm_loss", "LogitNormLoss"),
    "la": Loss("LA", "logit_adjusted_loss", "LogitAdjustedLoss", lambda counts: {"class_counts": counts}),
    "dice": Loss("Dice", "dice_loss", "DiceLoss"),
}
"""In the order of the tables. MM keeps its usual margin of 1, focal gamma = 2, LogitNorm a temperature of 0.04."""
