"""What to log beside HEM while training; the maths is in `hemspec.reference.diagnostics`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hemspec.loss_function import diagnostics
from hemspec_torch.functional import kept_errors, margin_differences
from hemspec_torch.positions import divide, is_distributed, read_positions, total
from hemspec_torch.replicas import ProcessGroup, check_group, summed
from hemspec_torch.symbolic import recorded

__all__ = ["hem_diagnostics"]


@diagnostics(divide, recorded)
@torch.no_grad()
def hem_diagnostics(
    input: Tensor,
    target: Tensor,
    *,
    margin: Any = 1.0,
    sample_weight: Tensor | None = None,
    ignore_index: int | None = -100,
    process_group: ProcessGroup | None = None,
    class_group: ProcessGroup | None = None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """How much of a batch is still active under HEM, how many errors it keeps, how far the margin is satisfied.

    ``active_fraction`` of the positions have a loss > 0; ``kept_errors`` is the mean number of errors that HEM keeps
    at one of those; ``margin_satisfied`` of the competing classes are outside the margin.

    Args:
        input, target, margin, sample_weight, ignore_index, process_group, class_group: as in `hem_loss`.

    Returns:
        The three by name, scalars without gradient in the dtype of the loss, on its device and not waited for; 0 where
        there is nothing to count, NaN where a loss is NaN. ``hem_diagnostics.terms(...)`` gives numerators and
        denominators, which add up over batches.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> logits = torch.tensor([[0.0, 2.0, 1.0, 0.2], [9.0, 0.0, 0.0, 0.0]])
        >>> figures = hem_diagnostics(logits, torch.tensor([0, 0]))
        >>> {name: round(value.item(), 3) for name, value in figures.items()}
        {'active_fraction': 0.5, 'kept_errors': 2.0, 'margin_satisfied': 0.5}
    """
    check_group(process_group)
    check_group(class_group, name="class_group")
    rivals: int | Tensor
    given: dict[str, Any] = {"sample_weight": sample_weight, "ignore_index": ignore_index}
    if class_group is not None or is_distributed(input):
        from hemspec_torch import class_parallel

        kept, inside, is_nan, rivals, targets = class_parallel.counts(
            input, target, class_group, margin=margin, **given
        )
        weights, valid = targets.weights, targets.valid
    else:
        positions = read_positions(input, target, **given)
        errors = margin_differences(positions, margin).errors
        kept, inside, is_nan = kept_errors(errors).sum(-1), (errors > 0).sum(-1), torch.isnan(errors).any(-1)
        rivals, weights, valid = errors.shape[-1] - 1, positions.weights, positions.valid
    active = kept > 0
    counts = {
        "active_fraction": (active, weights),
        "kept_errors": (kept, weights * active),
        "margin_satisfied": (rivals - inside, weights * rivals),
    }
    sums = []
    for count, size in counts.values():
        weighted = weights * count.to(weights.dtype).masked_fill(is_nan, torch.nan)
        sums += [total(torch.where(valid, weighted, 0.0)), total(size)]
    sums = list(summed(process_group, *sums))
    return {name: (sums[2 * i], sums[2 * i + 1]) for i, name in enumerate(counts)}
