"""The losses that are compared, each with the arguments its paper gives it for this training set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

import hemspec
from hemspec_benchmark.scenes import LABELLED

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Loss:
    """A loss by its names: in a table, as a function of the reference and as a class of the backends."""

    label: str
    function_name: str
    class_name: str
    arguments: Callable[[Counts], dict[str, Any]] = lambda counts: {}
    needs: Callable[[Counts], tuple[int, ...]] = lambda counts: ()
    """What `arguments` reads of the class counts, and would give the same for: frameworks compile once for it."""

    over_batch: bool = False
    """Whether samples with one label each, (N, C), are given as the positions of one image."""

    def reference(self, class_counts: Counts) -> Callable[[Any, Any], Any]:
        """The loss in NumPy, with the arguments for this training set."""
        function, arguments = getattr(hemspec, self.function_name), self.arguments(class_counts)
        if self.over_batch:
            return lambda z, y: function(z[None], y[None], **arguments) if z.ndim == 2 else function(z, y, **arguments)
        return lambda z, y: function(z, y, **arguments)

    def build(self, backend: Any, class_counts: Counts, **options: Any) -> Any:
        """The loss of a backend, given its module (``hemspec.torch``, ...)."""
        return getattr(backend, self.class_name)(**self.arguments(class_counts), **options)


def _total(counts: Counts) -> tuple[int, ...]:
    return (int(counts.sum()),)


def _each(counts: Counts) -> tuple[int, ...]:
    return tuple(int(count) for count in counts)


def _hem(reduction: str) -> Callable[[Counts], dict[str, Any]]:
    return lambda counts: {"margin": hemspec.margin_from_num_samples(int(counts.sum())), "reduction": reduction}


def _hem_plus(counts: Counts) -> dict[str, Any]:
    return {"margin": hemspec.margins_from_class_counts(counts), "reduction": "active_mean"}


def _from_scenes(counts: Counts) -> dict[str, Any]:
    return {"margin": hemspec.margin_from_num_samples(max(1, int(counts.sum()) // LABELLED))}


LOSSES: Final = {
    "ce": Loss("CE", "cross_entropy_loss", "CrossEntropyLoss"),
    "hem": Loss("HEM", "hem_loss", "HEMLoss", _hem("active_mean"), _total),
    "hem-mean": Loss("HEM, mean", "hem_loss", "HEMLoss", _hem("mean"), _total),
    "hem-plus": Loss("HEM+", "hem_loss", "HEMLoss", _hem_plus, _each),
    "mm": Loss("MM", "multi_margin_loss", "MultiMarginLoss"),
    "focal": Loss("Focal", "focal_loss", "FocalLoss"),
    "logitnorm": Loss("LogitNorm", "logit_norm_loss", "LogitNormLoss"),
    "la": Loss("LA", "logit_adjusted_loss", "LogitAdjustedLoss", lambda counts: {"class_counts": counts}, _each),
    "dice": Loss("Dice", "dice_loss", "DiceLoss"),
    "dice-batch": Loss("Dice, over the batch", "dice_loss", "DiceLoss", over_batch=True),
    "logitnorm-0.1": Loss("LogitNorm, 0.1", "logit_norm_loss", "LogitNormLoss", lambda counts: {"temperature": 0.1}),
    "logitnorm-0.2": Loss("LogitNorm, 0.2", "logit_norm_loss", "LogitNormLoss", lambda counts: {"temperature": 0.2}),
    "hem-margin-1": Loss("HEM, margin 1", "hem_loss", "HEMLoss", lambda counts: {"margin": 1.0}),
    "hem-images": Loss("HEM, margin from images", "hem_loss", "HEMLoss", _from_scenes),
}
"""In the order of the tables. MM keeps its usual margin of 1, focal gamma = 2, LogitNorm a temperature of 0.04."""


def described(class_counts: Counts) -> dict[str, dict[str, Any]]:
    """What each name means for a training set, as a result says it."""
    return {
        name: {"label": loss.label, "function": loss.function_name, "arguments": loss.arguments(class_counts)}
        for name, loss in LOSSES.items()
    }


ASIDE: Final = ("dice-batch", "logitnorm-0.1", "logitnorm-0.2", "hem-margin-1", "hem-images")
"""Dice as its authors would have it for single labels, LogitNorm with other temperatures, HEM with a fixed margin and
with one from the number of scenes instead of pixels."""
COMPARED: Final = tuple(name for name in LOSSES if name not in ASIDE)
"""The losses of the run itself."""
