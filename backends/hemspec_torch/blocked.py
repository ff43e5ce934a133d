"""HEM and multi-class margin loss on the CPU, eagerly: what `functional` says in plain operations, in fewer passes.

Three things make plain operations slow there, none of them arithmetic. A boolean mask costs several times a float one,
autograd keeps every intermediate of the size of the logits, and each of these goes through memory. So: masks are floats
that are multiplied with, backward makes the mask again from the logits and one threshold for each position, and all
of it is done in blocks that stay in the cache. Classes behind the batch, as in segmentation, are read where they lie.

Whatever is not a finite, in-range, readable call is left to `functional`: `margin_terms` returns None.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from hemspec.arguments import check_ignore_index, check_labels, check_logits
from hemspec_torch.positions import constant, dtype_name, read_targets

BLOCK = 1 << 19
"""Elements in a block. Smaller ones pay for starting threads, larger ones for memory beyond the cache."""
SMALL = 1 << 16
"""Up to so many elements, the time goes into dispatching operations, and backward only multiplies."""
SAFE_MEAN = 1 << 12
"""In float32 the mean of fewer classes cannot round to more than the largest error: C^2 eps < 1."""
SMALLEST = {torch.float32: 2.0**-149, torch.float64: 2.0**-1074}
"""A threshold of at least that keeps an error of 0 out."""
COMPUTE = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}
INDICES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def margin_terms(
    input: Tensor,
    target: Tensor,
    *,
    margin: Any,
    sample_weight: Tensor | None,
    ignore_index: int | None,
    reduction: str,
    hem: bool,
) -> tuple[Tensor, Tensor | None] | None:
    """Numerator and denominator of HEM (or of multi-class margin), or None for a call that is not for this file."""
    if not (is_plain(input) and is_plain(target) and input.dtype in COMPUTE and target.dtype in INDICES):
        return None
    if sample_weight is not None and not is_plain(sample_weight):
        return None
    shape = input.shape
    class_axis = check_logits(shape, dtype_name(input), 1 if len(shape) > 1 else 0, name="input")
    check_labels(target.shape, dtype_name(target), shape, class_axis, name="target", logits_name="input")
    ignore_index = check_ignore_index(ignore_index)
    if input.numel() == 0:
        return None
    compute, classes = COMPUTE[input.dtype], shape[class_axis]
    z = input if len(shape) == 2 else input.reshape(-1, classes, math.prod(shape[2:]))

    # All positions exist if there are no weights and every label is a class, which gathering finds out.
    labels, weights, z_y = target.reshape(-1).to(torch.int64), None, None
    if sample_weight is None and (ignore_index is None or not 0 <= ignore_index < classes):
        z_y = true_logits(z, labels)
    if z_y is None:
        targets = read_targets(input, target, sample_weight=sample_weight, ignore_index=ignore_index)
        labels, weights = targets.labels.reshape(-1), targets.weights.reshape(-1)
        z_y = true_logits(z, labels)
        if z_y is None:
            return None
    if isinstance(margin, float | int) and 0 <= margin < math.inf and not isinstance(margin, bool):
        margins: Any = float(margin)
    else:
        vector, _ = constant(margin, classes, input.device, name="margin", per_class=True)
        margins = vector.to(compute).index_select(0, labels) if vector.ndim else vector.item()
    with torch.no_grad():
        measured = measure(z, labels, z_y, margins, hem)
        weighted, denominator = add_up(measured.values, weights, reduction)
        numerator = weighted if reduction == "none" else weighted.sum()
        if not math.isfinite(numerator.sum().item()):
            return None
        slope = measured.share if weights is None else measured.share * weights
    if input.requires_grad and torch.is_grad_enabled():
        numerator = Slope.apply(z, numerator, slope, labels, z_y, margins, measured)  # type: ignore[no-untyped-call]
    return (numerator.reshape(target.shape) if reduction == "none" else numerator), denominator


def add_up(values: Tensor, weights: Tensor | None, reduction: str) -> tuple[Tensor, Tensor | None]:
    """The weighted values, and the denominator of an average. Weight 0 is a position that does not exist."""
    if weights is not None:
        values = values.masked_fill(weights == 0.0, 0.0)
    weighted = values if weights is None else values * weights
    if reduction in ("none", "sum"):
        return weighted, None
    if reduction == "mean":
        return weighted, values.new_tensor(float(values.numel())) if weights is None else weights.sum()
    if weights is None:
        return weighted, torch.count_nonzero(values).to(values.dtype)
    return weighted, (weights * (values > 0)).sum()


def is_plain(tensor: Any, device: str = "cpu") -> bool:
    """A tensor of numbers on such a device: nothing traced, mapped, compiled or watched by forward mode."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device.type == device
        and tensor.layout is torch.strided
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and forward_ad._current_level < 0
    )


def true_logits(z: Tensor, labels: Tensor) -> Tensor | None:
    """z_y in the compute dtype; None where a label is no class."""
    try:
        if z.ndim == 2:
            z_y = z.detach().gather(1, labels.unsqueeze(1)).squeeze(1)
        else:
            z_y = z.detach().gather(1, labels.view(z.shape[0], 1, -1)).reshape(-1)
    except RuntimeError:
        return None
    return z_y.to(COMPUTE[z.dtype])


def blocks(z: Tensor) -> Iterator[tuple[Tensor, slice, int]]:
    """Matrices that fit the cache, the positions each holds, and the axis of its classes.

    Logits of shape (N, C) are cut into rows; of (images, C, pixels), each image into runs of pixels.
    """
    step = max(1, BLOCK // z.shape[1])
    if z.ndim == 2:
        for start in range(0, len(z), step):
            rows = z[start : start + step]
            yield rows, slice(start, start + len(rows)), 1
        return
    pixels = z.shape[2]
    for i, image in enumerate(z):
        for start in range(0, pixels, step):
            run = image[:, start : start + step]
            yield run, slice(i * pixels + start, i * pixels + start + run.shape[1]), 0


class Scratch:
    """Memory for a block in the compute dtype, used again for the next one."""

    def __init__(self, z: Tensor, dtype: torch.dtype) -> None:
        step = max(1, BLOCK // z.shape[1])
        self.memory = z.new_empty(z.shape[1] * min(step, z.numel() // z.shape[1]), dtype=dtype)

    def like(self, block: Tensor) -> Tensor:
        return self.memory[: block.numel()].view(block.shape)


def differences(block: Tensor, z_y: Tensor, margins: Any, out: Tensor) -> Tensor:
    """(z_j - z_y) + m, into `out`. Half precision is widened first: mixed dtypes are slow."""
    if block.dtype == out.dtype:
        torch.sub(block, z_y, out=out)
    else:
        out.copy_(block).sub_(z_y)
    return out.add_(margins)


class Measured(NamedTuple):
    """What a pass over the logits finds for each position, without gradient."""

    values: Tensor  # the sum of the kept errors, divided by their number (HEM) or C
    size: Tensor  # how many errors are kept
    share: Tensor  # what one kept error contributes to the value: 1/|K| or 1/C
    thresholds: Any  # errors from there on are kept
    kept: Tensor | None  # the mask, where all is a single small block


def measure(z: Tensor, labels: Tensor, z_y: Tensor, margins: Any, hem: bool) -> Measured:
    """The values of all positions, and what backward needs to make the mask again."""
    classes, dtype = z.shape[1], z_y.dtype
    small = z.numel() <= SMALL and (z.ndim == 2 or z.shape[0] == 1)
    memory = Scratch(z, dtype), Scratch(z, dtype)
    zero = z_y.new_zeros(1)
    found = []
    for block, at, axis in blocks(z):
        errors, kept = memory[0].like(block), memory[1].like(block)
        y = labels[at].unsqueeze(axis)
        differences(block, z_y[at].unsqueeze(axis), at_positions(margins, at, axis), errors)
        errors.relu_().scatter_(axis, y, zero.expand(y.shape))
        t: Any = SMALLEST[dtype]
        if hem:
            if classes < SAFE_MEAN:
                t = errors.mean(axis, keepdim=True)
            else:
                largest = errors.amax(axis, keepdim=True)
                t = largest - torch.sub(largest, errors, out=kept).sum(axis, keepdim=True).div_(classes)
            t.clamp_(min=SMALLEST[dtype])
        torch.ge(errors, t, out=kept)
        found.append((kept.sum(axis), errors.mul_(kept).sum(axis), t.squeeze(axis) if hem else t))
    sizes, sums, thresholds = zip(*found, strict=True)
    size, total = join(sizes), join(sums)
    share = size.clamp(min=1.0).reciprocal_() if hem else torch.full_like(size, 1.0 / classes)
    values = total.mul_(share)
    return Measured(values, size, share, join(thresholds) if hem else thresholds[0], kept if small else None)


def join(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def at_positions(numbers: Any, at: slice, axis: int) -> Any:
    """A number as it is; one for each position beside its block's classes."""
    return numbers[at].unsqueeze(axis) if isinstance(numbers, Tensor) else numbers


class Slope(Function):
    """Gives a measured loss its gradient in the logits: `slope` at each kept error, and minus their sum at y."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, value: Tensor, slope: Tensor, labels: Tensor, z_y: Tensor, margins: Any, measured: Measured
    ) -> Tensor:
        ctx.margins, ctx.thresholds, pattern = margins, measured.thresholds, None
        if measured.kept is not None:  # made already, and of no use to anybody else
            axis = 1 if z.ndim == 2 else 0
            pattern = measured.kept.mul_(slope.unsqueeze(axis))
            y = labels.unsqueeze(axis)
            pattern.scatter_(axis, y, (slope * measured.size).neg_().unsqueeze(axis))
            pattern = pattern.view(z.shape)
        thresholds = measured.thresholds if isinstance(measured.thresholds, Tensor) else None
        margin_rows = margins if isinstance(margins, Tensor) else None
        ctx.save_for_backward(z, labels, z_y, slope, measured.size, thresholds, margin_rows, pattern)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        z, labels, z_y, slope, size, thresholds, margin_rows, pattern = ctx.saved_tensors
        margins = ctx.margins if margin_rows is None else margin_rows
        t = ctx.thresholds if thresholds is None else thresholds

        def gradient(slopes: Tensor) -> Tensor:
            return slopes_at_kept(z, labels, z_y, margins, t, slopes, size)

        if pattern is None and not torch.is_grad_enabled():
            return gradient(slope * upstream), *[None] * 6
        # Small, or to be differentiated once more: linear in what comes from above, constant in the logits.
        with torch.no_grad():
            pattern = gradient(slope) if pattern is None else pattern
        if upstream.ndim:
            upstream = upstream.unsqueeze(1) if z.ndim == 2 else upstream.view(z.shape[0], 1, -1)
        return (pattern * upstream).to(z.dtype), *[None] * 6


def slopes_at_kept(
    z: Tensor, labels: Tensor, z_y: Tensor, margins: Any, thresholds: Any, slope: Tensor, size: Tensor
) -> Tensor:
    """The gradient. The mask is made again where the gradient goes, so that nothing else of its size is needed."""
    gradient = torch.empty_like(z, memory_format=torch.contiguous_format)
    true = (slope * size).neg_()
    memory = None if z.dtype == z_y.dtype else Scratch(z, z_y.dtype)
    for (block, at, axis), (result, _, _) in zip(blocks(z), blocks(gradient), strict=True):
        out = result if memory is None else memory.like(block)
        differences(block, z_y[at].unsqueeze(axis), at_positions(margins, at, axis), out)
        torch.ge(out, at_positions(thresholds, at, axis), out=out)
        out.mul_(slope[at].unsqueeze(axis))
        out.scatter_(axis, labels[at].unsqueeze(axis), true[at].unsqueeze(axis))
        if memory is not None:
            result.copy_(out)
    return gradient
