"""HEM and multi-class margin loss on the CPU, eagerly: what `functional` says in plain operations, in fewer passes.

Three things make plain operations slow there, none of them arithmetic. A boolean mask costs several times a float one,
autograd keeps every intermediate of the size of the logits, and each of these goes through memory. So: masks are floats
that are multiplied with, backward makes the mask again from the logits and one threshold for each position, and all
of it is done in blocks that stay in the cache. Classes behind the batch, as in segmentation, are read where they lie.

Logits have the shape (N, C) here, or (images, C, pixels); numbers of the positions have the same with a single class.
Whatever is not a finite, in-range, readable call is left to `functional`: `margin_terms` returns None.
"""

from __future__ import annotations

import math
import threading
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
    logits = input if len(shape) == 2 else input.reshape(-1, classes, math.prod(shape[2:]))
    z, column = logits.detach(), (-1, 1) if len(shape) == 2 else (len(logits), 1, -1)

    # All positions exist if there are no weights and every label is a class, which gathering finds out.
    weights, z_y = None, None
    if sample_weight is None and (ignore_index is None or not 0 <= ignore_index < classes):
        labels = target.reshape(column).to(torch.int64)
        z_y = true_logits(z, labels)
    if z_y is None:
        targets = read_targets(input, target, sample_weight=sample_weight, ignore_index=ignore_index)
        labels, weights = targets.labels.reshape(column), targets.weights.reshape(column)
        z_y = true_logits(z, labels)
        if z_y is None:
            return None
    z_y = z_y.to(compute)
    if isinstance(margin, (float, int)) and 0 <= margin < math.inf and not isinstance(margin, bool):
        margins: Any = float(margin)
    else:
        vector, _ = constant(margin, classes, input.device, compute, name="margin", per_class=True)
        margins = vector.index_select(0, labels.reshape(-1)).view(labels.shape) if vector.ndim else vector.item()
    with torch.no_grad():
        rows = Rows(labels, z_y, margins)
        small = reduction != "none" and z.numel() <= SMALL and z.dtype == compute
        measured = measure(z, rows, hem, small)
        weighted, denominator = add_up(measured.values, weights, reduction)
        numerator = weighted if reduction == "none" else weighted.sum()
        if not math.isfinite((numerator.sum() if reduction == "none" else numerator).item()):
            return None
        slope = measured.share if weights is None else measured.share * weights
    if input.requires_grad and torch.is_grad_enabled():
        if measured.kept is not None:
            numerator = with_gradient(numerator, logits, gradient_of_kept(measured.kept, rows, slope, measured.size))
        else:
            numerator = Slope.apply(logits, numerator, slope, rows, measured)  # type: ignore[no-untyped-call]
            if weights is not None and reduction == "none":  # not even a NaN from above reaches what does not exist
                numerator = numerator.masked_fill(weights == 0.0, 0.0)
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
    """A tensor of numbers on such a device: nothing traced, mapped, compiled or watched, by forward mode or another."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device.type == device
        and tensor.layout is torch.strided
        and not tensor.is_nested
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._functorch.is_legacy_batchedtensor(tensor)
        and not torch._C._len_torch_dispatch_stack()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and forward_ad._current_level < 0
    )


def true_logits(z: Tensor, labels: Tensor) -> Tensor | None:
    """z_y; None where a label is no class."""
    try:
        return z.gather(1, labels)
    except RuntimeError:
        return None


def in_blocks(numbers: Tensor, classes: int) -> list[Tensor]:
    """Matrices that fit the cache with so many classes: runs of rows, or of each image's pixels."""
    step = max(1, BLOCK // classes)
    if numbers.ndim == 2:
        return [numbers] if len(numbers) <= step else list(torch.split(numbers, step))
    return [run for image in numbers.unbind() for run in torch.split(image, step, 1)]


def joined(blocks: list[Tensor], like: Tensor) -> Tensor:
    """Numbers of the positions, from those of the blocks."""
    if like.ndim == 2:
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)
    return torch.cat(blocks, 1).view(like.shape)


class Rows(NamedTuple):
    """What each position subtracts and adds, and its class."""

    labels: Tensor
    z_y: Tensor
    margins: Any  # a float, or a tensor as the others

    def in_blocks(self, classes: int) -> list[Rows]:
        """For each block of the logits."""
        labels, z_y = in_blocks(self.labels, classes), in_blocks(self.z_y, classes)
        tensor = isinstance(self.margins, Tensor)
        margins = in_blocks(self.margins, classes) if tensor else [self.margins] * len(labels)
        return [Rows(*parts) for parts in zip(labels, z_y, margins, strict=True)]

    def differences(self, block: Tensor, out: Tensor) -> Tensor:
        """(z_j - z_y) + m, into `out`. Half precision is widened first: mixed dtypes are slow."""
        if block.dtype == out.dtype:
            torch.sub(block, self.z_y, out=out)
        else:
            out.copy_(block).sub_(self.z_y)
        return out.add_(self.margins)


class Scratch(threading.local):
    """Memory for blocks, kept by each thread: to give it back and ask for it again costs as much as the arithmetic."""

    def __init__(self) -> None:
        self.kept: dict[tuple[torch.dtype, int], Tensor] = {}

    def like(self, block: Tensor, dtype: torch.dtype, which: int) -> Tensor:
        """The first or the second one, in the shape of a block."""
        memory = self.kept.get((dtype, which))
        if memory is None or memory.numel() < block.numel():
            with torch.inference_mode(False):
                memory = torch.empty(block.numel(), dtype=dtype, device=block.device)
            self.kept[dtype, which] = memory
        return memory[: block.numel()].view(block.shape)


scratch = Scratch()


class Measured(NamedTuple):
    """What a pass over the logits finds for each position, without gradient."""

    values: Tensor  # the sum of the kept errors, divided by their number (HEM) or C
    size: Tensor  # how many errors are kept
    share: Tensor  # what one kept error contributes to the value: 1/|K| or 1/C
    thresholds: Any  # errors from there on are kept
    kept: Tensor | None  # the mask, if it was asked for


def measure(z: Tensor, rows: Rows, hem: bool, keep: bool) -> Measured:
    """The values of all positions, and what backward needs to make the mask again. One block can keep it instead."""
    classes, dtype, axis = z.shape[1], rows.z_y.dtype, 1 if z.ndim == 2 else 0
    blocks = in_blocks(z, classes)
    keep = keep and len(blocks) == 1
    sizes, sums, thresholds = [], [], []
    for block, row in zip(blocks, rows.in_blocks(classes), strict=True):
        errors = scratch.like(block, dtype, 0)
        kept = torch.empty_like(errors) if keep else scratch.like(block, dtype, 1)
        # PyTorch scatters a tensor several times faster than a number.
        row.differences(block, errors).relu_().scatter_(axis, row.labels, torch.zeros_like(row.z_y))
        t: Any = SMALLEST[dtype]
        if hem:
            if classes < SAFE_MEAN:
                t = errors.sum(axis, keepdim=True).div_(classes)
            else:
                largest = errors.amax(axis, keepdim=True)
                t = largest - torch.sub(largest, errors, out=kept).sum(axis, keepdim=True).div_(classes)
            thresholds.append(t.clamp_(min=SMALLEST[dtype]))
        torch.ge(errors, t, out=kept)
        sizes.append(kept.sum(axis, keepdim=True))
        sums.append(errors.mul_(kept).sum(axis, keepdim=True))
    size, values = joined(sizes, rows.z_y), joined(sums, rows.z_y)
    share = size.clamp(min=1.0).reciprocal_() if hem else torch.full_like(size, 1.0 / classes)
    t = joined(thresholds, rows.z_y) if hem else SMALLEST[dtype]
    return Measured(values.mul_(share), size, share, t, kept.view(z.shape) if keep else None)


def gradient_of_kept(kept: Tensor, rows: Rows, slope: Tensor, size: Tensor) -> Tensor:
    """`slope` at each kept error and minus their sum at y, into the mask."""
    return kept.mul_(slope).scatter_(1, rows.labels, (slope * size).neg_())


def with_gradient(value: Tensor, logits: Tensor, gradient: Tensor) -> Tensor:
    """A scalar with a gradient in the logits that is known already.

    A product has that gradient, and PyTorch's own is differentiated several times faster than a Function in Python.
    """
    product = torch.dot(logits.reshape(-1), gradient.view(-1))
    product.detach().copy_(value)
    return product


class Slope(Function):
    """Gives a measured loss its gradient in the logits: `slope` at each kept error, and minus their sum at y."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, value: Tensor, slope: Tensor, rows: Rows, measured: Measured) -> Tensor:
        numbers = [rows.margins, measured.thresholds]
        ctx.numbers = [None if isinstance(number, Tensor) else number for number in numbers]
        tensors = [number if isinstance(number, Tensor) else None for number in numbers]
        ctx.save_for_backward(z, rows.labels, rows.z_y, slope, measured.size, *tensors)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        z, labels, z_y, slope, size, *tensors = ctx.saved_tensors
        margins, t = (n if x is None else x for n, x in zip(ctx.numbers, tensors, strict=True))
        rows = Rows(labels, z_y, margins)
        if is_plain(upstream) and not torch.is_grad_enabled():
            return slopes_at_kept(z, rows, t, slope * upstream, size, z.dtype), *[None] * 4
        # A batch of gradients from above, or one to be differentiated once more: linear in it, constant in the logits.
        with torch.no_grad():
            pattern = slopes_at_kept(z, rows, t, slope, size, slope.dtype)
        return (pattern * upstream).to(z.dtype), *[None] * 4


def slopes_at_kept(z: Tensor, rows: Rows, thresholds: Any, slope: Tensor, size: Tensor, into: torch.dtype) -> Tensor:
    """The gradient. The mask is made again where the gradient goes, so that nothing else of its size is needed."""
    gradient = torch.empty_like(z, dtype=into, memory_format=torch.contiguous_format)
    classes, dtype, axis = z.shape[1], rows.z_y.dtype, 1 if z.ndim == 2 else 0
    blocks = in_blocks(z, classes)
    many = isinstance(thresholds, Tensor)
    for block, result, row, t, slopes, true in zip(
        blocks,
        in_blocks(gradient, classes),
        rows.in_blocks(classes),
        in_blocks(thresholds, classes) if many else [thresholds] * len(blocks),
        in_blocks(slope, classes),
        in_blocks((slope * size).neg_(), classes),
        strict=True,
    ):
        out = result if into == dtype else scratch.like(block, dtype, 0)
        row.differences(block, out)
        torch.ge(out, t, out=out).mul_(slopes).scatter_(axis, row.labels, true)
        if out is not result:
            result.copy_(out)
    return gradient
