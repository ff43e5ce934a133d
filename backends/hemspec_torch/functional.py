"""The losses of hemspec as PyTorch functions, in plain tensor operations; see `selection` for the margin losses.

They mirror `hemspec.reference`, where the maths of each loss is written out. Common to all: ``input`` of shape
``(C,)``, ``(N, C)`` or ``(N, C, d1, ...)``, floating point; float16 and bfloat16 are computed in float32 and give a
float32 loss. ``target`` holds integer class indices. Where a value cannot be read without a synchronisation (compiled,
under vmap, on an accelerator) a bad one gives a NaN loss instead of an error.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hemspec.arguments import MARGIN_REDUCTIONS, REDUCTIONS, MarginReduction, Reduction, check_flag, check_reduction
from hemspec.loss_function import loss_function
from hemspec_torch.positions import (
    Positions,
    add_up,
    at_true_class,
    constant,
    divide,
    given,
    is_number,
    place,
    poison_of,
    read_positions,
    total,
)
from hemspec_torch.replicas import ProcessGroup, check_group, check_process_group, over_replicas, summed
from hemspec_torch.selection import fast_terms
from hemspec_torch.symbolic import recorded

__all__ = [
    "cross_entropy_loss",
    "dice_loss",
    "focal_loss",
    "hem_loss",
    "logit_adjusted_loss",
    "logit_norm_loss",
    "multi_margin_loss",
]


class Differences(NamedTuple):
    """(z_j - z_y) + m in two parts, so that the gradient at y need not be added up from C small ones.

    A plain loop over 32,768 of them loses five digits, and Inductor writes plain loops.
    """

    rivals: Tensor  # (z_j - c) + m, with c the value of z_y, or 0 where that is infinite
    true: Tensor  # c - z_y: 0 with a gradient of -1, or infinite
    errors: Tensor  # e, without gradient; 0 at the true class

    def average(self, kept: Tensor, size: Tensor | int) -> Tensor:
        """The sum of the kept differences, divided by `size`, for each position."""
        count = kept.sum(-1)
        total = torch.where(kept, self.rivals, 0.0).sum(-1) + torch.where(count > 0, self.true * count, 0.0)
        return total / size


def margin_differences(positions: Positions, margin: Any) -> Differences:
    """The differences, with their gradient, and the errors; NaN throughout a row that holds a NaN."""
    margins, poison = constant(margin, *positions.classes_and_kind(), name="margin", per_class=True)
    z, true_class = positions.logits, positions.true_class()
    z_y = z.gather(-1, positions.labels.unsqueeze(-1))
    c = torch.where(torch.isinf(z_y), 0.0, z_y).detach()
    rivals, true = (z - c) + at_true_class(margins, positions.labels, z.dtype).unsqueeze(-1), c - z_y
    with torch.no_grad():
        row_is_nan = (torch.isnan(rivals + true) & ~true_class).any(-1)
        factor = (positions.poison * poison).masked_fill(row_is_nan, torch.nan).unsqueeze(-1)
    rivals, true = rivals * factor, true * factor
    with torch.no_grad():
        errors = torch.where(true_class, 0.0, (rivals + true).clamp(min=0.0))
    return Differences(rivals, true.squeeze(-1), errors)


def kept_errors(errors: Tensor) -> Tensor:
    """K as a mask: the errors that are not below the mean error. A NaN is never lost.

    Distances from the largest error instead of the mean itself: that form keeps the largest error in every summation
    order, and it needs no division.
    """
    largest = errors.amax(-1, keepdim=True)
    shortfall = largest - errors
    infinite = torch.isinf(largest)
    high = ~infinite & (errors.shape[-1] * shortfall <= shortfall.sum(-1, keepdim=True))
    high = high | (infinite & (errors == largest))  # no `where`: ONNX Runtime has none of booleans
    return (high & (errors > 0)) | torch.isnan(errors)


@loss_function(divide, recorded)
def hem_loss(
    input: Tensor,
    target: Tensor,
    *,
    margin: Any = 1.0,
    sample_weight: Tensor | None = None,
    ignore_index: int | None = -100,
    reduction: MarginReduction = "active_mean",
    process_group: ProcessGroup | None = None,
    class_group: ProcessGroup | None = None,
) -> tuple[Tensor, Tensor | None]:
    """HEM (high error margin) loss; HEM+ with a margin for each class.

    The mean of those errors ``max(0, z_j - z_y + margin)`` that are not below the position's mean error.
    Source: Spratling and Schütt 2025, arXiv 2501.12191; the maths is in `hemspec.reference.hem`.

    Args:
        input: logits, floating point, ``(C,)``, ``(N, C)`` or ``(N, C, d1, ...)`` with C >= 2.
        target: class indices in [0, C), integers, ``()``, ``(N,)`` or ``(N, d1, ...)``.
        margin: >= 0, in units of a logit. A number (HEM), or shape ``(C,)``, indexed by the true class (HEM+).
        sample_weight: >= 0, the shape of the target or ``(N,)``. Weight 2 is two copies, 0 is none.
        ignore_index: positions with this target do not exist; None switches it off.
        reduction: ``"active_mean"`` (over the positions with a loss > 0, the paper's), ``"mean"``, ``"sum"`` or
            ``"none"`` (the shape of the target).
        process_group: processes with other positions of the batch, as in data parallel training. Each gets the loss of
            the whole batch; the average of its gradients over the processes, as DDP and FSDP take it, is that of the
            whole batch. Not for ``"none"``.
        class_group: processes with the logits of other classes for the same positions, in the order of their ranks:
            a class-parallel head. `input` is ``(N, C_r, ...)`` then, while `target` and `margin` go by all C classes.
            Each gets the loss of all classes, and its slice of the gradient. No logits are exchanged. A DTensor
            sharded over the class axis needs no group.

    Returns:
        The loss, float64 for float64 logits, else float32. 0, not NaN, where there is nothing to average.
        ``hem_loss.terms(...)`` gives the average's numerator and denominator.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> logits = torch.tensor([[1.0, 1.5, 0.0, -3.0], [9.0, 0.0, 0.0, 0.0]], requires_grad=True)
        >>> loss = hem_loss(logits, torch.tensor([0, 0]))  # the second position is not active
        >>> loss.item()
        1.5
        >>> loss.backward()
        >>> logits.grad[0].tolist()
        [-1.0, 1.0, 0.0, 0.0]
    """
    check_reduction(reduction, MARGIN_REDUCTIONS)
    check_process_group(process_group, reduction)
    check_group(class_group, name="class_group")
    terms = fast_terms(
        input,
        target,
        margin=margin,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        reduction=reduction,
        class_group=class_group,
        hem=True,
    )
    if terms is None:
        positions = read_positions(input, target, sample_weight=sample_weight, ignore_index=ignore_index)
        differences = margin_differences(positions, margin)
        # The kept set is a constant, so no gradient flows through the threshold.
        kept = kept_errors(differences.errors)
        values = differences.average(kept, kept.sum(-1).clamp(min=1))
        terms = add_up(values, positions.weights, positions.valid, reduction)
    return over_replicas(terms, process_group)


@loss_function(divide, recorded)
def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    *,
    margin: Any = 1.0,
    sample_weight: Tensor | None = None,
    ignore_index: int | None = -100,
    reduction: MarginReduction = "mean",
    process_group: ProcessGroup | None = None,
    class_group: ProcessGroup | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Multi-class margin loss: the sum of the errors ``max(0, z_j - z_y + margin)``, divided by C.

    ``torch.nn.functional.multi_margin_loss`` with p = 1, for any number of axes, with weights and ignored positions.

    Args:
        input, target, sample_weight, ignore_index, process_group, class_group: as in `hem_loss`.
        margin: >= 0. A number, or shape ``(C,)``, indexed by the true class.
        reduction: ``"mean"``, ``"active_mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss, float64 for float64 logits, else float32; also ``multi_margin_loss.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> multi_margin_loss(torch.tensor([[1.0, 1.5, 0.0, -3.0]]), torch.tensor([0])).item()
        0.375
    """
    check_reduction(reduction, MARGIN_REDUCTIONS)
    check_process_group(process_group, reduction)
    check_group(class_group, name="class_group")
    terms = fast_terms(
        input,
        target,
        margin=margin,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        reduction=reduction,
        class_group=class_group,
        hem=False,
    )
    if terms is None:
        positions = read_positions(input, target, sample_weight=sample_weight, ignore_index=ignore_index)
        differences = margin_differences(positions, margin)
        # At a kink, an error of exactly 0, the gradient is 0.
        counted = (differences.errors > 0) | torch.isnan(differences.errors)
        values = differences.average(counted, counted.shape[-1])
        terms = add_up(values, positions.weights, positions.valid, reduction)
    return over_replicas(terms, process_group)


def spoil(z: Tensor, spoilt: Tensor, *poisons: Tensor) -> Tensor:
    """The logits, with every row NaN that is spoilt or poisoned: so is its gradient then."""
    with torch.no_grad():
        factor = torch.ones_like(spoilt, dtype=z.dtype).masked_fill(spoilt, torch.nan)
        for poison in poisons:
            factor = factor * poison
    return z * factor.unsqueeze(-1)


def softmax_logits(positions: Positions, *poisons: Tensor) -> Tensor:
    """The logits of a loss with a softmax, their maximum subtracted: a NaN, a +inf or nothing but -inf spoils a row.

    The maximum goes first so that no later sum (with a log prior, say) rounds at the size of a common offset. Such a
    loss does not change with an offset, so the maximum is a constant.
    """
    largest = positions.logits.detach().amax(-1)
    return spoil(positions.logits - largest.unsqueeze(-1), ~torch.isfinite(largest), positions.poison, *poisons)


def cross_entropy(z: Tensor, labels: Tensor) -> Tensor:
    """logsumexp(z) - z_y for each position."""
    return -torch.log_softmax(z, -1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


@loss_function(divide, recorded)
def cross_entropy_loss(
    input: Tensor,
    target: Tensor,
    *,
    sample_weight: Tensor | None = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
    process_group: ProcessGroup | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Cross-entropy of integer labels, softmax inside: ``logsumexp(z) - z_y``.

    Unlike ``torch.nn.functional.cross_entropy``: 0, not NaN, when nothing is valid; weights are per sample, not per
    class; no soft targets; half-precision logits give a float32 loss.

    Args:
        input, target, sample_weight, ignore_index, process_group: as in `hem_loss`.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss, float64 for float64 logits, else float32; also ``cross_entropy_loss.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> round(cross_entropy_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).item(), 4)
        0.6931
    """
    check_reduction(reduction, REDUCTIONS)
    check_process_group(process_group, reduction)
    positions = read_positions(input, target, sample_weight=sample_weight, ignore_index=ignore_index)
    values = cross_entropy(softmax_logits(positions), positions.labels)
    return over_replicas(add_up(values, positions.weights, positions.valid, reduction), process_group)


@loss_function(divide, recorded)
def focal_loss(
    input: Tensor,
    target: Tensor,
    *,
    gamma: Any = 2.0,
    alpha: Any = None,
    sample_weight: Tensor | None = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
    process_group: ProcessGroup | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Focal loss, softmax form: ``-alpha_y (1 - p)^gamma log p`` with p the softmax probability of the true class.

    Source: Lin et al., ICCV 2017; the maths is in `hemspec.reference.focal`. Not the one-vs-rest sigmoid focal loss
    of torchvision, and not divided by C as MONAI's and kornia's softmax mean is.

    Args:
        input, target, sample_weight, ignore_index, process_group: as in `hem_loss`.
        gamma: focusing parameter, a number >= 0; 0 gives cross-entropy.
        alpha: None, or class weights >= 0 of shape ``(C,)``, indexed by the true class: a factor of the loss, not a
            weight of the mean.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss, float64 for float64 logits, else float32; also ``focal_loss.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> round(focal_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).item(), 4)
        0.1733
    """
    check_reduction(reduction, REDUCTIONS)
    check_process_group(process_group, reduction)
    positions = read_positions(input, target, sample_weight=sample_weight, ignore_index=ignore_index)
    g, poison = constant(gamma, *positions.classes_and_kind(), name="gamma")
    poisons = [poison]
    if alpha is not None:
        a, poison = constant(alpha, *positions.classes_and_kind(), name="alpha", per_class=True, scalar=False)
        poisons.append(poison)
    z = softmax_logits(positions, *poisons)
    # p and q = 1 - p as the sigmoids of a difference and of its negative, that of z_y from the others' logsumexp: exact
    # where 1 - p would round to 0, and the gradient at y is a single number, where that of a softmax would be the sum
    # of C small ones, which drifts in a plain loop. Not by `logsumexp` and `logsigmoid`, which ask whether there is a
    # position at all: in a compiled graph that may be unknown. The true class is left out by a number that is finite,
    # so that who looks for infinities finds none of ours.
    rivals = torch.where(positions.true_class(), torch.finfo(z.dtype).min, z)
    largest = rivals.detach().amax(-1, keepdim=True)
    others = (rivals - largest).exp().sum(-1).log() + largest.squeeze(-1)
    lead = z.gather(-1, positions.labels.unsqueeze(-1)).squeeze(-1) - others
    leads = lead > 0  # log(1 + exp) of a number that is not positive, whose derivative at 0 is a half from either side
    rest = torch.where(leads, -lead, lead).exp().log1p()
    minus_log_p, log_q = rest - torch.where(leads, 0.0, lead), -(rest + torch.where(leads, lead, 0.0))
    q_to_g = torch.exp(g * log_q)
    # A true class at -inf: q is exactly 1, and no inf - inf may reach its gradient.
    certain = torch.isinf(minus_log_p)
    values = torch.where(certain, minus_log_p, q_to_g * torch.where(certain, 0.0, minus_log_p))
    if alpha is not None:
        factor = at_true_class(a, positions.labels, values.dtype)
        # 0 times infinity: the product's gradient would be 0 times what is in front of it.
        values = values * factor.masked_fill(torch.isinf(values) & (factor == 0), torch.nan)
    return over_replicas(add_up(values, positions.weights, positions.valid, reduction), process_group)


@loss_function(divide, recorded)
def logit_norm_loss(
    input: Tensor,
    target: Tensor,
    *,
    temperature: Any = 0.04,
    sample_weight: Tensor | None = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
    process_group: ProcessGroup | None = None,
) -> tuple[Tensor, Tensor | None]:
    """LogitNorm loss: cross-entropy of ``z / ((||z|| + 1e-7) * temperature)``.

    Source: Wei et al., ICML 2022; the maths is in `hemspec.reference.logit_norm`.

    Args:
        input, target, sample_weight, ignore_index, process_group: as in `hem_loss`.
        temperature: a number > 0.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss, float64 for float64 logits, else float32; also ``logit_norm_loss.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> round(logit_norm_loss(torch.tensor([[3.0, 4.0]]), torch.tensor([0]), temperature=1.0).item(), 4)
        0.7981
    """
    check_reduction(reduction, REDUCTIONS)
    check_process_group(process_group, reduction)
    positions = read_positions(input, target, sample_weight=sample_weight, ignore_index=ignore_index)
    t, poison = constant(temperature, *positions.classes_and_kind(), name="temperature", positive=True)
    z = spoil(positions.logits, ~torch.isfinite(positions.logits).all(-1), positions.poison, poison)
    with torch.no_grad():  # any scale gives the same quotient, so it is a constant
        largest = z.abs().amax(-1, keepdim=True)
        is_zero = largest == 0
        scale = torch.where(is_zero, 1.0, largest)
    unit = z / scale
    squares = unit.square().sum(-1, keepdim=True)
    length = torch.where(is_zero, 0.0, torch.where(is_zero, 1.0, squares).sqrt())
    values = cross_entropy(unit / ((length + 1e-7 / scale) * t), positions.labels)
    return over_replicas(add_up(values, positions.weights, positions.valid, reduction), process_group)


@loss_function(divide, recorded)
def logit_adjusted_loss(
    input: Tensor,
    target: Tensor,
    *,
    class_counts: Any,
    temperature: Any = 1.0,
    sample_weight: Tensor | None = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
    process_group: ProcessGroup | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Logit-adjusted cross-entropy: cross-entropy of ``z + temperature * log(prior)``. Predict from the raw logits.

    Source: Menon et al., ICLR 2021; the maths is in `hemspec.reference.logit_adjusted`.

    Args:
        input, target, sample_weight, ignore_index, process_group: as in `hem_loss`.
        class_counts: training samples per class, shape ``(C,)``: whole numbers >= 1, within rounding; the priors are
            their shares. A Series, dict or Counter is put in the order of the classes.
        temperature: a number > 0.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss, float64 for float64 logits, else float32; also ``logit_adjusted_loss.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> loss = logit_adjusted_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1]), class_counts=[3, 1])
        >>> round(loss.item(), 4)  # -log(1/4)
        1.3863
    """
    check_reduction(reduction, REDUCTIONS)
    check_process_group(process_group, reduction)
    positions = read_positions(input, target, sample_weight=sample_weight, ignore_index=ignore_index)
    t, poison_t = constant(temperature, *positions.classes_and_kind(), name="temperature", positive=True)
    classes, device, dtype = positions.classes_and_kind()
    counts, good = given(class_counts, classes, dtype, name="class_counts", scalar=False, counts=True)
    shift = (counts / counts.sum()).log()
    if is_number(temperature):  # in the digits that the host has
        shift, t = temperature * shift, torch.ones_like(t)
    shift = t * place(shift, device, dtype)
    z = softmax_logits(positions, poison_t, poison_of(good, device, dtype)) + shift
    values = cross_entropy(z, positions.labels)
    return over_replicas(add_up(values, positions.weights, positions.valid, reduction), process_group)


@loss_function(divide, recorded)
def dice_loss(
    input: Tensor,
    target: Tensor,
    *,
    smooth: Any = 0.0,
    batch: bool = False,
    sample_weight: Tensor | None = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
    process_group: ProcessGroup | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Soft Dice loss over the classes present in each image, softmax inside.

    The maths is in `hemspec.reference.dice`. Libraries disagree on absent classes, smoothing and axes: compare values
    before swapping one for another. segmentation-models-pytorch counts an absent class as 0 in a mean over all C, MONAI
    keeps the loss it has by itself; the macro form of kornia 0.9 has our values.

    Args:
        input, target, ignore_index: as in `hem_loss`; the first axis of the target counts images.
        smooth: a number >= 0, added once to numerator and denominator; that of optax and of
            segmentation-models-pytorch is half of it (2 here for their 1).
        batch: treat the whole batch as one image, over all of `process_group` too.
        sample_weight: as in `hem_loss`, but weights act inside an image only: one weight for a whole image changes
            nothing at ``smooth=0``, and images are averaged unweighted.
        reduction: ``"mean"`` or ``"sum"`` over the images that have a valid position, or ``"none"``, of shape ``(N,)``
            (a scalar for ``batch=True`` and for an input of shape ``(C,)``).
        process_group: as in `hem_loss`. Processes hold different images, or with ``batch=True`` parts of the one.

    Returns:
        The loss, float64 for float64 logits, else float32; also ``dice_loss.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> dice_loss(torch.zeros(1, 2, 2), torch.tensor([[0, 1]])).item()
        0.5
    """
    check_reduction(reduction, REDUCTIONS)
    check_process_group(process_group, reduction)
    check_flag(batch, name="batch")
    positions = read_positions(input, target, sample_weight=sample_weight, ignore_index=ignore_index)
    s, poison = constant(smooth, *positions.classes_and_kind(), name="smooth")
    shape = target.shape[:0] if batch else target.shape[:1]

    def per_image(rows: Tensor) -> Tensor:
        return total(rows.reshape(math.prod(shape), math.prod(target.shape[len(shape) :]), rows.shape[-1]), 1)

    p = torch.softmax(softmax_logits(positions, poison), -1)
    w = positions.weights.unsqueeze(-1)
    true = positions.true_class().to(p.dtype)
    predicted, present, overlap = per_image(w * p), per_image(w * true), per_image(w * p * true)
    if batch:
        predicted, present, overlap = summed(process_group, predicted, present, overlap)
    counted = (present > 0) | torch.isnan(present)
    union = torch.where(counted, predicted + present + s, 1.0)
    ratio = torch.where(counted, (2 * overlap + s) / union, 0.0)
    has_positions = counted.any(-1)
    values = 1.0 - ratio.sum(-1) / counted.sum(-1).clamp(min=1)
    weights, has_positions = has_positions.to(p.dtype).reshape(shape), has_positions.reshape(shape)
    terms = add_up(values.reshape(shape), weights, has_positions, reduction)
    return terms if batch else over_replicas(terms, process_group)
