"""The two steps of `linear_hem_loss` as operators: a compiler neither looks into the loops nor undoes what they save.

A module of its own, imported where something is compiled: to make an operator takes milliseconds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hemspec_torch import linear

measure = torch.library.custom_op("hemspec::linear_hem", linear.measure, mutates_args=())
differentiate = torch.library.custom_op("hemspec::linear_hem_backward", linear.differentiate, mutates_args=())


@measure.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Any,
    labels: Any,
    margins: Any,
    factor: Tensor,
    valid: Any,
    chunk_rows: Any,
    keep: bool,
) -> tuple[Tensor, ...]:
    # Not `len`, which makes a number of a symbol: each batch size would be compiled for itself.
    bits = x.new_empty((x.shape[0] if keep else 0, (weight.shape[0] + 7) // 8), dtype=torch.uint8)
    return torch.empty_like(factor), torch.empty_like(factor), torch.empty_like(factor), bits


@differentiate.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    labels: Any,
    valid: Any,
    share: Any,
    active: Any,
    bits: Any,
    chunk_rows: int | None,
    for_x: bool,
    for_weight: bool,
    for_bias: bool,
) -> tuple[Tensor, ...]:
    classes, width = weight.shape
    of_x = x.new_empty(x.shape if for_x else (0,))
    return of_x, weight.new_empty(classes if for_weight else 0, width), x.new_empty(classes if for_bias else 0)
