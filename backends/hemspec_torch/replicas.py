"""Losses of a batch whose positions are spread over processes, as under DDP and FSDP.

An average over the whole batch is no average of the processes' averages: they hold different numbers of valid or active
positions. So numerators and denominators are summed over the process group, and every process gets the loss of the
whole batch. Its gradient there is that of its own positions, times the number of processes, because what comes next
averages the gradients over them: so does DDP, and so does FSDP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

if TYPE_CHECKING or dist.is_available():
    from torch.distributed import ProcessGroup as ProcessGroup
else:

    class ProcessGroup:
        """For annotations, which are looked up at run time: this PyTorch is built without torch.distributed."""


DenominatorT = TypeVar("DenominatorT", Tensor, Tensor | None)


class Summed(Function):
    """The sums over a process group, in one message. Its gradient needs none: all processes have the same loss."""

    @staticmethod
    def forward(group: ProcessGroup, *local: Tensor) -> tuple[Tensor, ...]:
        totals = torch.stack([tensor.detach() for tensor in local])
        dist.all_reduce(totals, group=group)
        return tuple(total.clone() for total in totals)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.processes = dist.get_world_size(inputs[0])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(above * ctx.processes for above in upstream)


def summed(group: ProcessGroup | None, *local: Tensor) -> tuple[Tensor, ...]:
    """The sums over the processes of a group of tensors of one shape; None for this one alone."""
    return local if group is None else Summed.apply(group, *local)  # type: ignore[no-untyped-call]


def over_replicas(terms: tuple[Tensor, DenominatorT], group: ProcessGroup | None) -> tuple[Tensor, DenominatorT]:
    """Numerator and denominator, both summed over the processes of a group; None for this one alone."""
    numerator, denominator = terms
    if denominator is None:
        return summed(group, numerator)[0], denominator
    numerator, denominator = summed(group, numerator, denominator)
    return numerator, denominator.detach()


def check_group(group: object, *, name: str = "process_group") -> None:
    """A process group that this process belongs to, or None."""
    if group is None:
        return
    if not (dist.is_available() and isinstance(group, dist.ProcessGroup)):
        hint = " (new_group gives that to a process outside the group)" if group == NO_MEMBER else ""
        raise TypeError(
            f"{name} must be a torch.distributed.ProcessGroup or None; got {type(group).__name__} {group!r}{hint}"
        )
    if not dist.is_initialized():
        raise ValueError(f"{name} needs torch.distributed.init_process_group, which was not called or was undone")


def check_process_group(group: object, reduction: str) -> None:
    """What sums over a process group needs a sum."""
    check_group(group)
    if group is not None and reduction == "none":
        raise ValueError("process_group must be None with reduction 'none', which sums nothing up")


NO_MEMBER = dist.GroupMember.NON_GROUP_MEMBER if dist.is_available() else None
