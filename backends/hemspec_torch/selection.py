"""Which implementation computes a margin loss.

One for classes spread over processes, one for compilers, Triton kernels on a GPU, blocks on a CPU, or none.
"""

from __future__ import annotations

import functools
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from hemspec_torch import blocked, traced
from hemspec_torch.positions import is_distributed, is_exporting
from hemspec_torch.replicas import ProcessGroup

INTERPRETED = False
"""For tests: tensors on the CPU go to the kernels, which Triton's interpreter runs (TRITON_INTERPRET=1)."""


def fast_terms(
    input: Tensor, target: Tensor, *, class_group: ProcessGroup | None, **options: Any
) -> tuple[Tensor, Tensor | None] | None:
    """Numerator and denominator of HEM or multi-class margin, in a way that fits the call better, or None."""
    if class_group is not None or is_distributed(input):
        from hemspec_torch import class_parallel

        return class_parallel.margin_terms(input, target, class_group, **options)
    if torch.compiler.is_compiling():
        # A compiler cannot map a Function over examples, and an exported one has lost its backward.
        plain = torch._C._are_functorch_transforms_active() or is_exporting()
        return None if plain else traced.margin_terms(input, target, **options)
    if not isinstance(input, Tensor):
        return None
    if INTERPRETED:
        from hemspec_torch import fused

        return fused.margin_terms(input, target, **options)
    gpu = gpu_of(input)
    if gpu is None:
        return blocked.margin_terms(input, target, **options)
    launcher = kernels(gpu)
    if launcher is None:
        return None
    try:
        terms: tuple[Tensor, Tensor | None] | None = launcher.margin_terms(input, target, **options)
    except launcher.KernelError as error:
        broken.add(gpu)
        kernels.cache_clear()
        warnings.warn(f"hemspec uses plain operations, since its kernels do not run: {error}", stacklevel=4)
        return None
    return terms


def gpu_of(tensor: Tensor) -> int | None:
    """The number of the CUDA device that holds it; a fake tensor's may not be there."""
    return tensor.get_device() if tensor.is_cuda and type(tensor) in (Tensor, torch.nn.Parameter) else None


broken: set[int] = set()
"""GPUs on which the kernels failed."""


@functools.cache
def kernels(device: int) -> ModuleType | None:
    """The module that launches the kernels, imported when a GPU first needs it; None where they cannot run."""
    if device in broken or torch.version.hip or torch.cuda.get_device_capability(device) < (8, 0):
        return None
    try:
        from hemspec_torch import fused
    except Exception:  # no Triton, or one that does not know what the kernels are written in
        return None
    return fused
