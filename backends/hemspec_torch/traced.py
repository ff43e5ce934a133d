"""HEM and multi-class margin loss for a compiler: what `functional` says, with its gradient written out.

Left to differentiate plain operations, a compiler keeps the mask of kept errors for backward: a boolean of the size of
the logits, which Inductor writes and reads one element at a time on a CPU. Here backward makes the mask again from the
logits and a few numbers for each position.

The rest is about loops. A compiler writes one loop over the positions for each group of operations, and a row of logits
stays in the cache only if its sums are all taken within the same one. So between two sums over the classes nothing of
the size of the labels is stored, and what backward asks for is always stored: it asks for sums alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from hemspec_torch.blocked import SAFE_MEAN, SMALLEST
from hemspec_torch.positions import add_up, at_true_class, constant, long_sum, read_targets

MANY = 64
"""From so many classes on, side by side in memory, it pays to store their numbers and what a row subtracts and adds."""


def margin_terms(
    input: Tensor,
    target: Tensor,
    *,
    margin: Any,
    sample_weight: Tensor | None,
    ignore_index: int | None,
    reduction: str,
    hem: bool,
) -> tuple[Tensor, Tensor | None]:
    """Numerator and denominator of HEM (or of multi-class margin)."""
    targets = read_targets(input, target, sample_weight=sample_weight, ignore_index=ignore_index)
    z = input.movedim(min(1, input.ndim - 1), -1).to(targets.weights.dtype)
    margins, poison = constant(margin, z.shape[-1], z.device, z.dtype, name="margin", per_class=True)
    alive = torch.where(targets.valid, targets.poison * poison, 0.0)
    values = kept_mean(z, target.to(torch.int64), at_true_class(margins, targets.labels, z.dtype), alive, hem)
    return add_up(values, targets.weights, targets.valid, reduction)


def kept_mean(z: Tensor, labels: Tensor, margins: Tensor, alive: Tensor, hem: bool) -> Tensor:
    """The sum of the kept errors, divided by their number (HEM) or by C, for each position.

    Args:
        z: logits, class axis last. The others have its other axes, margins perhaps none.
        labels: int64; where `alive` is not 1 they may be anything.
        alive: 1; NaN at a position to spoil; 0 at one that does not exist. Its value is any number then, and its
            gradient 0 if that of its value is.
    """
    return KeptMean.apply(z, labels, margins, alive, hem)  # type: ignore[no-untyped-call, no-any-return]


def stored(z: Tensor) -> bool:
    """Whether to have the compiler store what it would otherwise compute for each element."""
    return z.device.type == "cpu" and z.stride(-1) == 1 and z.shape[-1] >= MANY


def is_class(z: Tensor, labels: Tensor) -> Tensor:
    """One-hot labels as a mask. In 32 bits, because so many have the logits beside which they are compared."""
    classes = torch.arange(z.shape[-1], device=z.device, dtype=torch.int32)
    if stored(z):  # to view them as strided they have to be in memory, where Inductor reads them sixteen at a time
        classes = classes.as_strided(classes.shape, (1,))
    return labels.to(torch.int32).unsqueeze(-1) == classes


def threshold(largest: Tensor, total: Tensor, classes: int, hem: bool) -> Tensor:
    """Errors from there on are kept: of HEM those that are not below the mean error, but never an error of 0.

    Of few classes `total` is the sum of the errors. Of many it is the sum of their distances from the largest, which
    brings the mean above the largest error in no order of summation.
    """
    smallest = SMALLEST[largest.dtype]
    if not hem:
        return torch.full_like(largest, smallest)
    if classes < SAFE_MEAN:
        return (total / classes).clamp(min=smallest)
    mean = (largest - total / classes).to(largest.dtype)
    return torch.where(torch.isinf(largest), largest, mean).clamp(min=smallest)


def sum_of_errors(errors: Tensor) -> Tensor:
    """The sum over the classes; of many perhaps in float64, and not rounded here: that would store it between two sums.

    A plain loop over many drifts, in which a compiler has eight sums or sixteen.
    """
    return long_sum(errors, -1) if errors.shape[-1] >= SAFE_MEAN else errors.sum(-1)


class KeptMean(Function):
    """The margin losses' values, from logits of which backward reads nothing but themselves."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, labels: Tensor, margins: Tensor, alive: Tensor, hem: bool) -> Tensor:
        classes = z.shape[-1]
        z_y = z.gather(-1, labels.clamp(0, classes - 1).unsqueeze(-1)).squeeze(-1)
        margins = margins.expand(z_y.shape)
        if stored(z):
            z_y, margins = torch.stack([z_y, margins])
        errors = torch.where(is_class(z, labels), 0.0, torch.relu(differences(z, z_y, margins)))
        if hem and classes >= SAFE_MEAN:
            largest = errors.amax(-1)
            total = sum_of_errors(largest.unsqueeze(-1) - errors)
        else:
            largest = total = errors.sum(-1)
        kept = errors >= threshold(largest, total, classes, hem).unsqueeze(-1)
        count = kept.to(z.dtype).sum(-1)  # a sum of booleans is one of int64, and slow
        share = 1.0 / count.clamp(min=1.0) if hem else torch.full_like(count, 1.0 / classes)
        share = share.masked_fill(torch.isnan(largest), torch.nan)
        share = torch.where(alive == 0, 0.0, share * alive)
        ctx.save_for_backward(z, labels, z_y, margins, largest, total, count, share)
        ctx.hem = hem
        return sum_of_errors(torch.where(kept, errors, 0.0)).to(z.dtype) * share

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        z, labels, z_y, margins, largest, total, count, share = ctx.saved_tensors
        slope = upstream * share
        spoilt = torch.isnan(slope)
        # Of no effect, but without it the mask does not depend on `upstream`, and a compiler makes it in forward.
        z_y, total = torch.where(spoilt, slope, z_y), torch.where(spoilt, slope, total)
        t = threshold(largest, total, z.shape[-1], ctx.hem)
        return slopes_at_kept(z, labels, z_y, margins, t, count, slope), None, None, None, None


def slopes_at_kept(
    z: Tensor, labels: Tensor, z_y: Tensor, margins: Tensor, thresholds: Tensor, count: Tensor, slope: Tensor
) -> Tensor:
    """The gradient: `slope` at each kept error, minus their sum at the true class; NaN throughout where it is NaN."""
    kept = differences(z, z_y, margins) >= thresholds.unsqueeze(-1)
    gradient = torch.where(kept, slope.unsqueeze(-1), torch.where(torch.isnan(slope), slope, 0.0).unsqueeze(-1))
    return torch.where(is_class(z, labels), -(count * slope).unsqueeze(-1), gradient)


def differences(z: Tensor, z_y: Tensor, margins: Tensor) -> Tensor:
    """(z_j - z_y) + m, also at the true class."""
    return (z - z_y.unsqueeze(-1)) + margins.unsqueeze(-1)
