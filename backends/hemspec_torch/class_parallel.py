"""HEM and multi-class margin loss of a class-parallel head: each process holds the logits of some of the classes.

Of all classes the definition needs a few numbers for each position: the true logit and the largest of the others, the
sum of the errors' distances from the largest, and how many errors are kept, with their sum. So there are three
reductions over the processes of the size of the labels, and one of a number for each process; no logits are exchanged.
Backward exchanges nothing: the gradient in a logit follows from that logit and those numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from hemspec.arguments import check_labels, check_logits
from hemspec_torch.blocked import SMALLEST
from hemspec_torch.positions import (
    Targets,
    add_up,
    at_true_class,
    check_tensors,
    constant,
    dtype_name,
    is_distributed,
    read,
    targets_for,
)
from hemspec_torch.replicas import ProcessGroup
from hemspec_torch.traced import differences, is_class, slopes_at_kept


class Shard(NamedTuple):
    """This process's classes. The numbers of the positions have the shape of the labels."""

    logits: Tensor  # class axis last, in the compute dtype
    labels: Tensor  # counted from this process's first class, so that another's are outside
    margins: Tensor
    classes: Tensor  # how many there are in all processes, in the compute dtype
    group: ProcessGroup


class Found(NamedTuple):
    """What is known of each position when all processes have been heard."""

    z_y: Tensor
    thresholds: Tensor  # errors from there on are kept
    spoilt: Tensor  # bool: there is a NaN among its errors
    total: Tensor  # of the kept errors
    number: Tensor  # of the kept errors


def margin_terms(
    input: Tensor, target: Tensor, group: ProcessGroup | None, *, reduction: str, hem: bool, **arguments: Any
) -> tuple[Tensor, Tensor | None]:
    """Numerator and denominator of HEM (or of multi-class margin)."""
    shard, targets, alive = read_shard(input, target, group, **arguments)
    values: Tensor = KeptMean.apply(*shard, alive, hem)  # type: ignore[no-untyped-call]
    return add_up(values, targets.weights, targets.valid, reduction)


def read_shard(
    input: Tensor,
    target: Tensor,
    group: ProcessGroup | None,
    *,
    margin: Any,
    sample_weight: Tensor | None,
    ignore_index: int | None,
) -> tuple[Shard, Targets, Tensor]:
    """Check the arguments as those of logits with all classes.

    Also gives 1 for each position; NaN for one to spoil, 0 for one that does not exist.
    """
    first: int | Tensor
    classes: int | Tensor
    if is_distributed(input):
        z, group, first, classes = shard_of(input, group)
        target = whole(target, "target")
        sample_weight = None if sample_weight is None else whole(sample_weight, "sample_weight")
    else:
        assert group is not None
        check_tensors(input=input)
        z, (first, classes) = input, places(input, group)
    check_tensors(target=target)
    axis = class_axis(z)
    # A number of classes that cannot be read is not checked, but if a vector of margins differs all is NaN.
    known = None if isinstance(classes, Tensor) else classes
    shape = (*z.shape[:axis], known, *z.shape[axis + 1 :])
    check_logits(shape, dtype_name(z), axis, name="input")
    check_labels(target.shape, dtype_name(target), shape, axis, name="target", logits_name="input")
    targets = targets_for(target, classes, z.dtype, sample_weight=sample_weight, ignore_index=ignore_index)
    labels, compute = targets.labels, targets.weights.dtype
    margins, poison = constant(margin, known, z.device, compute, name="margin", per_class=True)
    if margins.ndim:
        poison = poison.masked_fill(torch.full((), len(margins), device=z.device) != classes, torch.nan)
        labels = labels.clamp(max=len(margins) - 1)
    alive = torch.where(targets.valid, targets.poison * poison, 0.0)
    margins = at_true_class(margins, labels, compute)
    number = torch.ones((), dtype=compute, device=z.device) * classes
    return Shard(z.movedim(axis, -1).to(compute), targets.labels - first, margins, number, group), targets, alive


def class_axis(input: Tensor) -> int:
    """Where the classes are, in floating point logits with such an axis."""
    return check_logits([None] * input.ndim, dtype_name(input), 1 if input.ndim > 1 else 0, name="input")


def places(input: Tensor, group: ProcessGroup) -> tuple[int | Tensor, int | Tensor]:
    """The index of this process's first class, and the number of all classes: tensors where they cannot be read."""
    rank = dist.get_rank(group)
    sizes = torch.zeros(dist.get_world_size(group), dtype=torch.int64, device=input.device)
    sizes[rank] = input.shape[class_axis(input)]
    dist.all_reduce(sizes, group=group)
    known = read(sizes)
    return (sizes[:rank].sum(), sizes.sum()) if known is None else (int(known[:rank].sum()), int(known.sum()))


def shard_of(input: Any, group: ProcessGroup | None) -> tuple[Tensor, ProcessGroup, int, int]:
    """This process's part of a DTensor, the group of the others, its first class and the number of all."""
    if group is not None:
        raise ValueError("class_group must be None with a DTensor input, which knows who holds its classes")
    axis, mesh = class_axis(input), input.device_mesh
    over = [i for i, placement in enumerate(input.placements) if placement.is_shard(axis)]
    if len(over) != 1 or not all(p.is_replicate() for i, p in enumerate(input.placements) if i not in over):
        raise ValueError(
            f"a DTensor input must be Shard({axis}), over its classes, on one axis of the mesh and Replicate on the"
            f" others; got {input.placements} (for a batch that is sharded, or all classes on each process:"
            " input.to_local(), with process_group=...)"
        )
    # Shards are those of torch.chunk.
    classes, step = input.shape[axis], -(-input.shape[axis] // mesh.size(over[0]))
    return input.to_local(), mesh.get_group(over[0]), min(classes, step * mesh.get_local_rank(over[0])), classes


def whole(value: Any, name: str) -> Tensor:
    """A tensor, or a DTensor of which each process has all."""
    if not is_distributed(value):
        return value  # type: ignore[no-any-return]
    if not all(placement.is_replicate() for placement in value.placements):
        raise ValueError(f"{name} must be a tensor or a DTensor that is Replicate; got {value.placements}")
    return value.to_local()  # type: ignore[no-any-return]


def largest_of(z: Tensor, among: Tensor) -> Tensor:
    """Over these classes, of which there may be none here. NaN if there is one.

    Nothing is the least finite number, not -inf: who looks for infinities in a training finds none of ours.
    """
    least = torch.finfo(z.dtype).min
    return torch.where(among, z, least).amax(-1) if z.shape[-1] else z.new_full(z.shape[:-1], least)


def true_logit_of(z: Tensor, true: Tensor) -> Tensor:
    """The logit of the true class, if it is here. Nothing is the least finite number, and so is a logit of -inf.

    A finite one is larger, if only by a rounding: so the maximum over the processes tells the two apart.
    """
    number = torch.finfo(z.dtype)
    is_number = (true & ~torch.isneginf(z)).any(-1)
    return torch.where(is_number, largest_of(z, true).clamp(min=number.min * (1 - number.eps)), number.min)


def measure(shard: Shard, hem: bool) -> Found:
    """Three reductions over the processes. In none of them a NaN is compared: not every library's maximum keeps it."""
    z, labels, margins, classes, group = shard
    true = is_class(z, labels)
    found = torch.stack([largest_of(z, ~true), true_logit_of(z, true)])
    spoilt = torch.isnan(found).any(0)
    found = found.masked_fill(torch.isnan(found), torch.finfo(z.dtype).min)
    dist.all_reduce(found, dist.ReduceOp.MAX, group=group)
    rival, z_y = found
    z_y = z_y.masked_fill(z_y <= torch.finfo(z.dtype).min, -torch.inf)

    errors = torch.where(true, 0.0, torch.relu(differences(z, z_y, margins)))
    spoilt = spoilt | torch.isnan(errors).any(-1)
    largest = torch.relu((rival - z_y) + margins)
    shortfall = (largest.unsqueeze(-1) - errors).sum(-1) if hem else torch.zeros_like(z_y)
    found = torch.stack([shortfall, spoilt.to(z.dtype)])
    dist.all_reduce(found, group=group)
    shortfall, spoilt = found[0], found[1] > 0

    smallest = SMALLEST[z.dtype]
    thresholds = torch.full_like(z_y, smallest)
    if hem:  # divided by a tensor: by a number, an accelerator would multiply with the reciprocal, and break ties
        mean = largest - shortfall / classes.expand_as(shortfall)
        thresholds = torch.where(torch.isinf(largest), largest, mean).clamp(min=smallest)
    kept = errors >= thresholds.unsqueeze(-1)
    found = torch.stack([torch.where(kept, errors, 0.0).sum(-1), kept.to(z.dtype).sum(-1)])
    dist.all_reduce(found, group=group)
    return Found(z_y, thresholds, spoilt, *found)


def counts(
    input: Tensor, target: Tensor, group: ProcessGroup | None, **arguments: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Targets]:
    """Of each position: how many errors HEM keeps, how many there are, whether one is NaN; and C - 1."""
    shard, targets, alive = read_shard(input, target, group, **arguments)
    hem, every = measure(shard, True), measure(shard, False)
    return hem.number, every.number, hem.spoilt | torch.isnan(alive), shard.classes - 1, targets


class KeptMean(Function):
    """The sum of the kept errors, divided by their number (HEM) or by that of the classes, for each position."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        labels: Tensor,
        margins: Tensor,
        classes: Tensor,
        group: ProcessGroup,
        alive: Tensor,
        hem: bool,
    ) -> Tensor:
        found = measure(Shard(z, labels, margins, classes, group), hem)
        share = 1.0 / (found.number.clamp(min=1.0) if hem else classes.expand_as(found.number))
        share = share.masked_fill(found.spoilt, torch.nan)
        share = torch.where(alive == 0, 0.0, share * alive)
        ctx.save_for_backward(z, labels, found.z_y, margins, found.thresholds, found.number, share)
        return found.total * share

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        z, labels, z_y, margins, thresholds, number, share = ctx.saved_tensors
        return slopes_at_kept(z, labels, z_y, margins, thresholds, number, upstream * share), *[None] * 6
