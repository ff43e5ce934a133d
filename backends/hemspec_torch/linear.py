"""HEM of a linear head whose logits are never all there at once.

The threshold of a position needs all of its classes, so the rows are cut into chunks, not the classes. Forward computes
the logits of a chunk and keeps of each logit one bit, whether its error is kept: the gradient in the logits is one
number for each row where the bit is set, another at the true class, and 0 elsewhere. Backward writes the gradient of a
chunk from its bits and multiplies it with the weight, then that of all rows and a few classes and multiplies it with
the features. So there are three products, as without chunks, each entry of a result is a single sum that is rounded
once, and whatever comes from above (a scale, one number for each position, a second backward) costs nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function, forward_ad

from hemspec.advice import OF_A_HEAD
from hemspec.arguments import (
    MARGIN_REDUCTIONS,
    MarginReduction,
    check_chunk_rows,
    check_head,
    check_labels,
    check_reduction,
    read_chunk_rows,
)
from hemspec.loss_function import loss_function
from hemspec_torch.blocked import BLOCK, SMALLEST, is_plain
from hemspec_torch.functional import hem_loss
from hemspec_torch.positions import add_up, check_tensors, constant, divide, dtype_name, is_exporting, targets_for
from hemspec_torch.replicas import ProcessGroup, check_process_group, over_replicas
from hemspec_torch.symbolic import recorded

__all__ = ["linear_hem_loss"]

WIDENS = hasattr(torch.ops.aten.mm, "dtype_out")
"""A product of halves can be had in float32, on CUDA: from PyTorch 2.8 on."""
UNPACKED = 1 << 23
"""Elements that an accelerator unpacks at once: the indices take a quarter of what they become in half precision."""


@loss_function(divide, recorded)
def linear_hem_loss(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    margin: Any = 1.0,
    sample_weight: Tensor | None = None,
    ignore_index: int | None = -100,
    reduction: MarginReduction = "active_mean",
    chunk_rows: int | None = None,
    process_group: ProcessGroup | None = None,
) -> tuple[Tensor, Tensor | None]:
    """HEM loss of a linear head, ``hem_loss(F.linear(input, linear_weight, linear_bias), target)``, in little memory.

    Takes the place of ``F.linear_cross_entropy``. The logits are computed a chunk of positions at a time and not kept;
    from forward to backward there is one bit for each. Differentiable in input, weight and bias.

    float16 and bfloat16: on CUDA the logits of a chunk are float32, not rounded to the dtype of the factors as
    ``F.linear`` does; elsewhere they are what ``F.linear`` gives. The loss is computed from them in float32. The
    gradient in the logits is rounded to the dtype of the factors, as without chunks; each entry of the results is one
    product's sum, rounded once: nothing is accumulated over chunks. Under autocast the factors are cast as ``F.linear``
    casts them.

    Compiled, it is two operators of the graph, without a break. ``torch.func``'s transformations and forward-mode
    differentiation need all logits at once, and so does a second backward. Where a dispatch mode looks on (``make_fx``,
    ``FlopCounterMode``, the policy of a selective checkpoint), all logits are made, and kept.

    Args:
        input: features, floating point, shape ``(..., D)``.
        linear_weight: of the head, shape ``(C, D)``, C >= 2.
        target: class indices in [0, C), integers, shape ``(...)``.
        linear_bias: of the head, shape ``(C,)``, or None.
        margin, sample_weight, ignore_index, reduction, process_group: as in `hem_loss`. The features of a position that
            does not exist are not looked at.
        chunk_rows: positions in a chunk. None: a thirty-second of them, within 32 to 256 MB of float32 logits.

    Returns:
        The loss, float64 for float64 features, else float32. 0, not NaN, where there is nothing to average. Also
        ``linear_hem_loss.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> features = torch.tensor([[1.0, 0.5]])
        >>> head = torch.tensor([[1.0, 0.0], [0.0, 3.0], [0.0, 0.0]], requires_grad=True)
        >>> loss = linear_hem_loss(features, head, torch.tensor([0]))  # the logits are 1, 1.5 and 0
        >>> loss.item()
        1.5
        >>> loss.backward()
        >>> head.grad.tolist()
        [[-1.0, -0.5], [1.0, 0.5], [0.0, 0.0]]
    """
    check_reduction(reduction, MARGIN_REDUCTIONS)
    check_process_group(process_group, reduction)
    check_tensors(input=input, linear_weight=linear_weight, target=target)
    if linear_bias is not None:
        check_tensors(linear_bias=linear_bias)
    x, weight, bias = cast_as_linear(input, linear_weight, linear_bias)
    check_head(
        (x.shape, dtype_name(x)),
        (weight.shape, dtype_name(weight)),
        None if bias is None else (bias.shape, dtype_name(bias)),
        class_axis=0,
        names=("input", "linear_weight", "linear_bias"),
    )
    chunk_rows = check_chunk_rows(chunk_rows)
    classes, shape = len(weight), (*x.shape[:-1], len(weight))
    check_labels(target.shape, dtype_name(target), shape, len(shape) - 1, name="target", logits_name=OF_A_HEAD)
    targets = targets_for(target, classes, x.dtype, sample_weight=sample_weight, ignore_index=ignore_index)
    x = x.reshape(target.numel(), x.shape[-1])
    if is_transformed():
        logits = F.linear(torch.where(targets.valid.reshape(-1, 1), x, 0.0), weight, bias)
        given: dict[str, Any] = {"margin": margin, "ignore_index": ignore_index}
        flat = target.reshape(-1)
        if sample_weight is not None:
            given["sample_weight"] = targets.weights.reshape(-1)
        given["process_group"] = process_group
        if reduction in ("none", "sum"):
            value = hem_loss(logits, flat, reduction=reduction, **given)
            return value.reshape(target.shape) if reduction == "none" else value, None
        return hem_loss.terms(logits, flat, reduction=reduction, **given)

    margins, poison = constant(margin, classes, x.device, targets.weights.dtype, name="margin", per_class=True)
    labels, valid, factor = targets.labels.reshape(-1), targets.valid.reshape(-1), targets.poison.reshape(-1)
    margins = margins.index_select(0, labels) if margins.ndim else margins.expand(labels.shape)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias))
    values: Tensor = LinearHEM.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, labels, margins, factor * poison, valid, chunk_rows, keep
    )
    terms = add_up(values.reshape(target.shape), targets.weights, targets.valid, reduction)
    return over_replicas(terms, process_group)


def cast_as_linear(*factors: Tensor | None) -> list[Any]:
    """Under autocast, in the dtype in which `F.linear` would multiply."""
    kind = next(t.device.type for t in factors if t is not None)
    if kind == "meta" or not torch.is_autocast_enabled(kind):  # which is an error to ask of meta
        return list(factors)
    dtype = torch.get_autocast_dtype(kind)
    narrow = [t is not None and t.is_floating_point() and t.dtype != torch.float64 for t in factors]
    return [t.to(dtype) if t is not None and cast else t for t, cast in zip(factors, narrow, strict=True)]


def is_transformed() -> bool:
    """Whether a transformation needs to see inside."""
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    mapped = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    watched = (
        not torch.compiler.is_compiling() and torch._C._len_torch_dispatch_stack()
    )  # make_fx, a checkpoint's policy
    return bool(tracing or mapped or watched or is_exporting())


def cuts(size: int, step: int) -> Iterator[slice]:
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def logits_into(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """The logits of a chunk in the compute dtype, as wide as the device can."""
    if x.dtype == out.dtype:
        torch.mm(x, weight.t(), out=out) if bias is None else torch.addmm(bias, x, weight.t(), out=out)
    elif x.device.type == "cuda" and WIDENS:
        torch.mm(x, weight.t(), out_dtype=out.dtype, out=out)
        if bias is not None:
            out.add_(bias)
    else:
        out.copy_(F.linear(x, weight, bias))


def kept_errors(z: Tensor, labels: Tensor, margins: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the kept errors and their number, for each row. `mask` gets ones where an error is kept, `z` is lost.

    Of a NaN in a row comes a NaN sum and no bit.
    """
    y = labels.unsqueeze(1)
    errors = z.sub_(z.gather(1, y)).add_(margins.unsqueeze(1)).relu_().scatter_(1, y, 0.0)
    largest = errors.amax(1, keepdim=True)
    # The form that no summation order brings above the largest error. Divided by a tensor: by a number, an accelerator
    # would multiply with the reciprocal, and break ties.
    classes = torch.full_like(largest, errors.shape[1])
    mean = largest - torch.sub(largest, errors, out=mask).sum(1, keepdim=True) / classes
    threshold = torch.where(torch.isinf(largest), largest, mean).clamp_(min=SMALLEST[z.dtype])
    torch.ge(errors, threshold, out=mask)
    return errors.mul_(mask).sum(1), mask.sum(1)


def measure(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    margins: Tensor,
    factor: Tensor,
    valid: Tensor,
    chunk_rows: int | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss of each position, NaN where `factor` is; what backward needs: `share`, `active` and `bits` of `Slopes`.

    `factor` has the compute dtype. Without `keep` there are no bits.
    """
    positions, classes, width = len(x), len(weight), -(-len(weight) // 8)
    rows = read_chunk_rows(chunk_rows, positions, classes)  # here, where a compiler knows the numbers
    bits = x.new_empty((positions if keep else 0, width), dtype=torch.uint8)
    powers = torch.arange(8, device=x.device, dtype=factor.dtype).exp2_()
    totals, counts = torch.empty_like(factor), torch.empty_like(factor)
    logits = factor.new_empty(min(rows, positions), classes)
    step = max(1, BLOCK // classes) if x.device.type == "cpu" else rows  # of what fits the cache
    masks = factor.new_zeros(min(step, rows, positions), 8 * width)
    for chunk in cuts(positions, rows):
        z = logits[: chunk.stop - chunk.start]
        logits_into(z, torch.where(valid[chunk].unsqueeze(1), x[chunk], 0.0), weight, bias)
        for block in cuts(len(z), step):
            at = slice(chunk.start + block.start, chunk.start + block.stop)
            mask = masks[: at.stop - at.start]
            totals[at], counts[at] = kept_errors(z[block], labels[at], margins[at], mask[:, :classes])
            if keep:
                bits[at] = torch.mv(mask.view(-1, 8), powers).view(-1, width)
    size = counts.clamp(min=1.0)
    values = totals / size * factor
    spoilt = torch.isnan(values)
    share = torch.where(valid, size.reciprocal().masked_fill(spoilt, torch.nan), 0.0)
    active = torch.where(valid, (counts > 0).to(share.dtype).masked_fill(spoilt, torch.nan), 0.0)
    return values, share, active, bits


def differentiate(
    x: Tensor,
    weight: Tensor,
    labels: Tensor,
    valid: Tensor,
    share: Tensor,
    active: Tensor,
    bits: Tensor,
    chunk_rows: int | None,
    for_x: bool,
    for_weight: bool,
    for_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient in features, weight and bias; empty where it is not asked for."""
    slopes, classes = Slopes(bits, labels, share, active, x.dtype), len(weight)
    rows = read_chunk_rows(chunk_rows, len(x), classes)
    of_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    of_weight = torch.empty_like(weight if for_weight else weight[:0], memory_format=torch.contiguous_format)
    of_bias = share.new_empty(classes if for_bias else 0)
    if for_weight or for_bias:
        existing = of_x.copy_(x).masked_fill_(~valid.unsqueeze(1), 0.0)  # memory that is free so far
        step = max(8, rows * classes // max(1, len(x)) // 8 * 8)
        for columns in cuts(classes, step):
            g = slopes.of(slice(0, len(x)), columns)
            if for_weight:
                torch.mm(g.t(), existing, out=of_weight[columns])
            if for_bias:
                of_bias[columns] = g.sum(0, dtype=share.dtype)
            del g  # before the next one is made
    for chunk in cuts(len(x) if for_x else 0, rows):
        torch.mm(slopes.of(chunk, slice(0, classes)), weight, out=of_x[chunk])
    return of_x if for_x else of_x.new_empty(0), of_weight, of_bias.to(x.dtype)


class LinearHEM(Function):
    """The loss of every position, with its gradient in features, weight and bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *constants: Any) -> Tensor:
        labels, _, _, valid, chunk_rows, _ = constants
        step: Any = measure
        if torch.compiler.is_compiling():
            from hemspec_torch.linear_operators import measure as step
        values: Tensor
        values, *kept = step(x, weight, bias, *constants)
        ctx.save_for_backward(x, weight, labels, valid, *kept)
        ctx.chunk_rows = chunk_rows
        return values

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, labels, valid, share, active, bits = ctx.saved_tensors
        asked = ctx.needs_input_grad[:3]
        # What does not exist has no gradient, whatever comes from above.
        upstream = torch.where(valid, upstream, 0.0)
        compiling = torch.compiler.is_compiling()
        if not compiling and (torch.is_grad_enabled() or not is_plain(upstream, x.device.type)):
            # A batch of gradients from above, or one to be differentiated once more: bilinear in x and weight.
            with torch.no_grad():
                g = Slopes(bits, labels, share, active, share.dtype).of(slice(0, len(x)), slice(0, len(weight)))
            g = (g * upstream.unsqueeze(1)).to(x.dtype)
            found = g @ weight, g.t() @ torch.where(valid.unsqueeze(1), x, 0.0), g.sum(0)
        else:
            step: Any = differentiate
            if compiling:
                from hemspec_torch.linear_operators import differentiate as step
            found = step(x, weight, labels, valid, share * upstream, active * upstream, bits, ctx.chunk_rows, *asked)
        return *(t if wanted else None for t, wanted in zip(found, asked, strict=True)), *[None] * 6


class Slopes:
    """The gradient in the logits, any rectangle of it: `share` where a bit is set, minus `active` at the true class."""

    def __init__(self, bits: Tensor, labels: Tensor, share: Tensor, active: Tensor, dtype: torch.dtype) -> None:
        self.bits, self.labels = bits, labels
        self.share, self.true = share.to(dtype).unsqueeze(1), active.to(dtype).neg()
        byte = torch.arange(256, device=bits.device).unsqueeze(1)
        self.table = (byte >> torch.arange(8, device=bits.device) & 1).to(dtype)

    def of(self, rows: slice, columns: slice) -> Tensor:
        """`columns` begin at a multiple of 8."""
        packed, share = self.bits[rows, columns.start // 8 : -(-columns.stop // 8)], self.share[rows]
        width = packed.shape[1]
        g = self.table.new_empty(len(packed), 8 * width)
        for block in cuts(len(g), max(1, (BLOCK if g.device.type == "cpu" else UNPACKED) // (8 * width))):
            torch.index_select(self.table, 0, packed[block].reshape(-1).int(), out=g[block].view(-1, 8))
            g[block].mul_(share[block])
        g = g[:, : columns.stop - columns.start]
        y = self.labels[rows] - columns.start
        here, y = (y >= 0) & (y < g.shape[1]), y.clamp(0, g.shape[1] - 1)
        at = torch.arange(len(y), device=y.device), y
        # Not scatter_, which on a CPU converts all of a half precision g and back.
        return g.index_put_(at, torch.where(here, self.true[rows], g[at]))
