"""HEM and multi-class margin loss for a compiler: what `functional` says, with its gradient written out.

Left to differentiate plain operations, a compiler keeps the mask of kept errors for backward: a boolean of the size of
the logits, which Inductor writes and reads one element at a time on a CPU. Here backward makes the mask again from the
logits and a few numbers for each position.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from hemspec_torch.blocked import SMALLEST


def kept_mean(z: Tensor, labels: Tensor, margins: Tensor, factor: Tensor, hem: bool) -> Tensor:
    """The sum of the kept errors, divided by their number (HEM) or by C, for each position.

    Args:
        z: logits, class axis last. labels, margins and factor (1, or NaN for a position to spoil) have its other axes.
    """
    return KeptMean.apply(z, labels, margins, factor, hem)  # type: ignore[no-untyped-call, no-any-return]


def is_true_class(z: Tensor, labels: Tensor) -> Tensor:
    return labels.unsqueeze(-1) == torch.arange(z.shape[-1], device=z.device)


def errors_of(z: Tensor, z_y: Tensor, margins: Tensor) -> Tensor:
    """max(0, z_j - z_y + m), also at the true class."""
    return ((z - z_y) + margins).clamp(min=0.0)


class KeptMean(Function):
    """The margin losses' values, from logits of which backward reads nothing but themselves."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, labels: Tensor, margins: Tensor, factor: Tensor, hem: bool) -> Tensor:
        classes = z.shape[-1]
        z_y, margins = z.gather(-1, labels.unsqueeze(-1)), margins.unsqueeze(-1)
        errors = torch.where(is_true_class(z, labels), 0.0, errors_of(z, z_y, margins))
        largest = errors.amax(-1, keepdim=True)  # NaN if there is one
        # Errors from there on are kept. Of the mean, the form that no summation order brings above the largest error.
        threshold = torch.zeros_like(largest)
        if hem:
            mean = largest - (largest - errors).sum(-1, keepdim=True) / classes
            threshold = torch.where(torch.isinf(largest), largest, mean)
        threshold = threshold.clamp(min=SMALLEST[z.dtype])
        kept = (errors >= threshold).to(z.dtype)  # a sum of booleans is one of int64, and slow
        count = kept.sum(-1)
        size = count.clamp(min=1.0) if hem else torch.full_like(count, classes)
        factor = torch.where(torch.isnan(largest.squeeze(-1)), torch.nan, factor)
        ctx.save_for_backward(z, labels, margins, z_y, threshold, count, size, factor)
        return torch.where(errors >= threshold, errors, 0.0).sum(-1) / size * factor

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        z, labels, margins, z_y, threshold, count, size, factor = ctx.saved_tensors
        slope = (upstream / size * factor).unsqueeze(-1)
        spoilt = torch.isnan(slope)
        # Of no effect, but without it the mask does not depend on `upstream`, and a compiler makes it in forward.
        threshold = torch.where(spoilt, slope, threshold)
        gradient = torch.where(errors_of(z, z_y, margins) >= threshold, slope, torch.where(spoilt, slope, 0.0))
        true = -count.unsqueeze(-1) * slope
        return torch.where(is_true_class(z, labels), true, gradient), None, None, None, None
