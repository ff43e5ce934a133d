"""From a call's arguments to masked positions, and from a loss per position to the reduced answer, in PyTorch.

What every loss shares: checking, ignored and unweighted positions, reading or poisoning bad values, reductions.

Poison: a value that cannot be read without a synchronisation (while compiling, under vmap, on an accelerator) cannot
raise, so a bad one turns its loss into NaN instead. Logits are *multiplied* by a factor of 1 or NaN: that way the
gradient of such a position is NaN in every class as well, which `torch.where` would not give.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _disable_current_modes

from hemspec.arguments import (
    are_counts,
    by_class,
    check_constant_dtype,
    check_ignore_index,
    check_label_values,
    check_labels,
    check_logits,
    check_number,
    check_per_class,
    check_weight,
    check_weight_values,
    read_constant,
    representable,
)


class Targets(NamedTuple):
    """Every tensor has the shape of the labels and carries no gradient."""

    labels: Tensor  # int64, in [0, C) everywhere
    weights: Tensor  # compute dtype, 0 where not valid, NaN where bad
    valid: Tensor  # bool
    poison: Tensor  # 1, or NaN where the label or the weight is bad


class Positions(NamedTuple):
    """The logits, and the fields of their `Targets`."""

    logits: Tensor  # class axis last, in the compute dtype, zero where not valid
    labels: Tensor
    weights: Tensor
    valid: Tensor
    poison: Tensor

    # Methods, because Dynamo of PyTorch 2.6 knows no properties of a NamedTuple.
    def classes_and_kind(self) -> tuple[int, torch.device, torch.dtype]:
        """What `constant` needs: the number of classes, and where and in which dtype the logits are."""
        return self.logits.shape[-1], self.logits.device, self.logits.dtype

    def true_class(self) -> Tensor:
        """One-hot labels as a mask, the shape of the logits."""
        classes = torch.arange(self.logits.shape[-1], device=self.labels.device)
        return self.labels.unsqueeze(-1) == classes


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def read(tensor: Tensor) -> npt.NDArray[Any] | None:
    """The values, where they can be had without a synchronisation; None on an accelerator, traced or under vmap."""
    if tensor.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return None
    if tensor.requires_grad:
        tensor = tensor.detach()
    try:
        return np.asarray((tensor.double() if tensor.dtype == torch.bfloat16 else tensor).numpy())
    except RuntimeError:  # functorch's and fake tensors have no storage to read
        return None
    except AssertionError:  # a mode that wants fake tensors alone, and a real one
        with _disable_current_modes():
            return read(tensor)


def read_positions(
    input: Tensor, target: Tensor, *, sample_weight: Tensor | None, ignore_index: int | None
) -> Positions:
    """Check the arguments every loss takes, and mask what does not exist."""
    targets = read_targets(input, target, sample_weight=sample_weight, ignore_index=ignore_index)
    class_axis = min(1, input.ndim - 1)
    logits = torch.where(targets.valid.unsqueeze(-1), input.movedim(class_axis, -1), 0.0)
    return Positions(logits.to(targets.weights.dtype), *targets)


def read_targets(input: Tensor, target: Tensor, *, sample_weight: Tensor | None, ignore_index: int | None) -> Targets:
    """Check the arguments every loss takes; which positions exist, what they are and what they weigh."""
    check_tensors(input=input, target=target)
    class_axis = check_logits(input.shape, dtype_name(input), 1 if input.ndim > 1 else 0, name="input")
    check_labels(target.shape, dtype_name(target), input.shape, class_axis, name="target", logits_name="input")
    return targets_for(
        target, input.shape[class_axis], input.dtype, sample_weight=sample_weight, ignore_index=ignore_index
    )


def check_tensors(**arguments: Any) -> None:
    for name, value in arguments.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor; got {type(value).__name__}")
        if is_distributed(value):
            raise TypeError(
                f"{name} must be a tensor of this process; got a DTensor (take its to_local() with process_group=...,"
                " or its full_tensor(); a DTensor input sharded over classes is for hem_loss and multi_margin_loss)"
            )
        check_dense(value, name)


def check_dense(value: Tensor, name: str) -> None:
    if value.is_nested:
        raise TypeError(
            f"{name} must be a dense tensor; got a nested one (take torch.cat({name}.unbind()), all positions one after"
            " the other, of the logits, the target and the weights alike)"
        )
    if value.layout is not torch.strided:
        layout = str(value.layout).removeprefix("torch.")
        raise TypeError(f"{name} must be a dense tensor; got one of layout {layout} (take its to_dense())")


def is_distributed(value: object) -> bool:
    """Whether it is a DTensor, by what it has: its module takes a second to import."""
    return isinstance(value, Tensor) and hasattr(value, "device_mesh")


def targets_for(
    target: Tensor, classes: int | Tensor, dtype: torch.dtype, *, sample_weight: Tensor | None, ignore_index: int | None
) -> Targets:
    """Which positions exist, what they are and what they weigh, of a target for logits of a dtype."""
    ignore_index = check_ignore_index(ignore_index)
    compute = torch.float64 if dtype == torch.float64 else torch.float32

    labels = target.to(torch.int64)
    exists = torch.ones_like(labels, dtype=torch.bool)
    if ignore_index is not None and representable(ignore_index, dtype_name(target)):
        exists = labels != ignore_index
    readable_exists = read(exists)
    if sample_weight is None:
        weights = exists.to(compute)
        bad_weight = torch.zeros_like(exists)
    else:
        if not isinstance(sample_weight, Tensor):
            raise TypeError(f"sample_weight must be a torch.Tensor or None; got {type(sample_weight).__name__}")
        check_dense(sample_weight, "sample_weight")
        check_weight(sample_weight.shape, dtype_name(sample_weight), target.shape)
        check_is_constant(sample_weight, "sample_weight")
        weights = place(sample_weight.detach(), target.device, compute)
        weights = weights.reshape(weights.shape + (1,) * (labels.ndim - weights.ndim)).expand(labels.shape)
        bad_weight = exists & ~(torch.isfinite(weights) & (weights >= 0))
        readable_weights = read(weights)
        if readable_exists is not None and readable_weights is not None:
            check_weight_values(readable_weights, readable_exists)
        weights = torch.where(exists, weights, 0.0)
    valid = exists & ((weights > 0) | bad_weight)

    readable_labels, readable_valid = read(labels), read(valid)
    if readable_labels is not None and readable_valid is not None:
        check_label_values(readable_labels, readable_valid, int(classes), name="target")
    bad_label = (labels < 0) | (labels >= classes)
    bad = valid & (bad_label | bad_weight)
    return Targets(
        labels=torch.where(valid & ~bad_label, labels, 0),
        weights=weights.masked_fill(bad_weight, torch.nan),  # not `where`, which would make a tensor of the NaN
        valid=valid,
        poison=torch.ones_like(weights).masked_fill(bad, torch.nan),
    )


def check_is_constant(value: Tensor, name: str) -> None:
    """Refuse what somebody wants to differentiate in: its gradient would be missing without a word."""
    wanted = value.requires_grad and torch.is_grad_enabled()
    if not wanted and forward_ad._current_level >= 0:
        wanted = forward_ad.unpack_dual(value).tangent is not None  # type: ignore[no-untyped-call]
    if wanted:
        advice = ""
        if name == "sample_weight":
            advice = "; for a weight that is learned, multiply the loss of reduction='none' with it"
        raise ValueError(
            f"{name} must not require a gradient: the loss is differentiated in the logits alone and takes {name} for"
            f" a constant. Call its detach(){advice}"
        )


def place(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """There, in that dtype. The cast happens on the host, because the other device may lack the dtype there was."""
    if tensor.device == device:
        return tensor.to(dtype)
    return tensor.to(dtype).to(device) if tensor.device.type == "cpu" else tensor.to(device).to(dtype)


def constant(
    value: Any,
    classes: int | None,
    device: torch.device,
    dtype: torch.dtype,
    *,
    name: str,
    scalar: bool = True,
    per_class: bool = False,
    positive: bool = False,
) -> tuple[Tensor, Tensor]:
    """A hyper-parameter as a tensor without gradient, in the compute dtype; its poison: 1, or NaN if a value is bad.

    One number (if `scalar`) or a vector with one entry for each class (if `per_class`).
    """
    if not is_number(value):
        value, good = given(value, classes, dtype, name=name, scalar=scalar, per_class=per_class, positive=positive)
        return place(value, device, dtype), poison_of(good, device, dtype)
    # Compared rather than read: a compiler may hold a symbol here. NaN fails both comparisons. A symbol passes for
    # finite even where it stands for inf, so then the number is looked at once more, as a tensor.
    if not (value > 0 if positive else value >= 0) or not value < float("inf"):
        got = "" if torch.compiler.is_compiling() else f"; got {value!r}"  # a symbol cannot be shown
        raise ValueError(f"{name} must be finite and {'> 0' if positive else '>= 0'}{got}")
    check_shape((), classes, name=name, scalar=scalar, per_class=per_class)
    one = torch.ones((), dtype=dtype, device=device)
    value = one * value
    return value, poison_of(are_good(value, positive), device, dtype) if torch.compiler.is_compiling() else one


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def given(
    value: Any,
    classes: int | None,
    dtype: torch.dtype,
    *,
    name: str,
    scalar: bool = True,
    per_class: bool = True,
    positive: bool = False,
    counts: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """A hyper-parameter where its numbers are: on the host in float64, on another device in the compute dtype.

    With it comes which of them are good, or None: all, since they could be read.
    """
    numbers = None if isinstance(value, Tensor) or torch.compiler.is_compiling() else value
    if not isinstance(value, Tensor) and numbers is None:
        # While compiling, NumPy arrays are traced as tensors. The host is named because another default may be set.
        value = by_class(value, name=name)
        value = torch.as_tensor(value, dtype=torch.float64 if isinstance(value, (list, tuple)) else None, device="cpu")
    if isinstance(value, Tensor):
        check_constant_dtype(dtype_name(value), name)
        check_is_constant(value, name)
        check_shape(value.shape, classes, name=name, scalar=scalar, per_class=per_class)
        numbers = read(value)
    if numbers is not None:
        # Made of the numbers, not cast: a module's vector is a plain tensor, also where a mode wants fake ones.
        numbers = read_constant(numbers, name=name, positive=positive, counts=counts)
        check_shape(numbers.shape, classes, name=name, scalar=scalar, per_class=per_class)
        return torch.from_numpy(numbers), None
    value = value.detach().to(torch.float64 if value.device.type == "cpu" else dtype)
    good = are_good(value, positive or counts)
    if counts:
        good = good & are_counts(value, value.round())
    return value, good


def check_shape(
    shape: torch.Size | tuple[()], classes: int | None, *, name: str, scalar: bool, per_class: bool
) -> None:
    if per_class:
        check_per_class(shape, classes, name=name, scalar=scalar)
    else:
        check_number(shape, name=name)


def are_good(numbers: Tensor, positive: bool) -> Tensor:
    return torch.isfinite(numbers) & (numbers > 0 if positive else numbers >= 0)


def poison_of(good: Tensor | None, device: torch.device, dtype: torch.dtype) -> Tensor:
    """1, or NaN if a number is not good; see `given`."""
    one = torch.ones((), dtype=dtype, device=device)
    return one if good is None else one.masked_fill(~good.all().to(device), torch.nan)


def at_true_class(vector: Tensor, labels: Tensor, dtype: torch.dtype) -> Tensor:
    """A constant (a number or a vector over classes) at each position's true class."""
    vector = vector.to(dtype)
    if vector.ndim == 0:
        return vector.expand(labels.shape)
    # Not vector[labels]: under vmap a single label would have to be read.
    return vector.index_select(0, labels.reshape(-1)).reshape(labels.shape)


def is_exporting() -> bool:
    """Whether torch.export is tracing. Before PyTorch 2.7 it cannot be asked."""
    return hasattr(torch.compiler, "is_exporting") and torch.compiler.is_exporting()


def long_sum(numbers: Tensor, *axis: int) -> Tensor:
    """A sum of very many. Compiled for a CPU it may be a plain loop, which drifts: it is in float64 there."""
    plain_loop = torch.compiler.is_compiling() and numbers.device.type == "cpu" and not is_exporting()
    return numbers.sum(*axis, dtype=torch.float64 if plain_loop else None)


def total(numbers: Tensor, *axis: int) -> Tensor:
    """The sum over positions."""
    return long_sum(numbers, *axis).to(numbers.dtype)


def add_up(values: Tensor, weights: Tensor, counts: Tensor, reduction: str) -> tuple[Tensor, Tensor | None]:
    """Numerator and denominator of a reduction. Elements that do not count add exactly 0."""
    weighted = torch.where(counts, weights * values, 0.0)
    if reduction == "none":
        return weighted, None
    if reduction == "sum":
        return total(weighted), None
    if reduction == "active_mean":
        counts = counts & ((values > 0) | torch.isnan(values))
    return total(weighted), total(torch.where(counts, weights, 0.0))


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, with 0/0 = 0: nothing adds up to a numerator of exactly 0."""
    return numerator / (denominator + (denominator == 0))
