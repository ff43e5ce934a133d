"""HEM and multi-class margin loss on a GPU: one kernel forward, one backward, and what they are given.

Forward reads the logits and writes a bit for each (is its error kept?) and a few numbers for each position; backward
reads those and writes the gradient, never the logits. Nothing is read back to the CPU: bad labels, weights and margins
become NaN in the kernel, and what an average divides by stays on the device.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from hemspec.arguments import (
    check_constant_dtype,
    check_ignore_index,
    check_labels,
    check_logits,
    check_per_class,
    check_weight,
    representable,
)
from hemspec_torch import kernels
from hemspec_torch.blocked import COMPUTE, INDICES, SMALLEST, is_plain
from hemspec_torch.positions import check_is_constant, constant, dtype_name

RESIDENT = 1 << 16
"""Bytes, in the compute dtype, of the largest tile that stays in registers. Two such tiles fit a multiprocessor of an
H100, so that one is read while the other is computed with. One of twice the size would be alone, and spill a little."""
REGISTERS = 64
"""Of a thread, then. The compiler would take some more for float32; with weights and a margin for each class 40 bytes
are spilled for this, and rows that are not aligned need too many more."""
CHUNK = 1 << 15
"""Bytes of the tile in which more classes than that are looked at, one after the other."""
LONG = 1 << 18
"""Bytes of a row from which on that tile is twice as large: fewer rows are under way, and stay in the cache."""
SHORT = 1 << 10
"""Elements: several rows that are shorter make a tile."""
RUN = 128
"""Pixels of a tile, where they are adjacent."""
WRITTEN = 1 << 12
"""Elements of the gradient that a program writes."""
BITS_ALIGN: int = kernels.BITS_ALIGN.value
CLASSES: int = kernels.CLASSES_ADJACENT.value
PIXELS: int = kernels.PIXELS_ADJACENT.value
NOTHING: int = kernels.NOTHING_ADJACENT.value
COMPILED = {torch.float32: kernels.FLOAT32, torch.float64: kernels.FLOAT64}


class KernelError(RuntimeError):
    """The kernels do not run here; why is its cause."""


class Layout(NamedTuple):
    """Where logits lie: images, each of pixels at every class. A matrix is one image with its rows as pixels."""

    images: int
    classes: int
    pixels: int
    strides: tuple[int, ...]

    @classmethod
    def of(cls, shape: Sequence[int], strides: tuple[int, ...]) -> Layout:
        """Of ``(N, C)`` or ``(N, C, pixels)``. Images whose pixels follow those of the one before are one image."""
        if len(shape) == 2 or shape[2] == 1:
            return cls(1, shape[1], shape[0], (0, strides[1], strides[0]))
        images, classes, pixels = shape
        if images == 1 or strides[0] == pixels * strides[2]:
            return cls(1, classes, images * pixels, (0, *strides[1:]))
        return cls(images, classes, pixels, strides)

    @property
    def positions(self) -> int:
        return self.images * self.pixels

    @property
    def adjacent(self) -> int:
        """What is one step apart in memory."""
        return CLASSES if self.strides[1] == 1 else PIXELS if self.strides[2] == 1 else NOTHING

    @property
    def dense(self) -> Layout:
        """Without gaps, in the same order."""
        if self.adjacent == CLASSES:
            strides = (self.pixels * self.classes, 1, self.classes)
        else:
            strides = (self.classes * self.pixels, self.pixels, 1)
        return self._replace(strides=strides)

    def arguments(self, most: int = 16) -> dict[str, Any]:
        """The kernels' arguments; see `kernels.lengths`. As many elements as `most` may be read at once."""
        image, class_, pixel = self.strides
        classes, pixels, adjacent, align = self.classes, self.pixels, self.adjacent, 1
        if adjacent == CLASSES:
            align = math.gcd(most, classes, image, pixel)
            classes, image, pixel = classes // align, image // align, pixel // align
        elif adjacent == PIXELS:
            align = math.gcd(most, pixels, image, class_)
            pixels, image, class_ = pixels // align, image // align, class_ // align
        return {
            "classes": classes,
            "pixels": pixels,
            "stride_image": image,
            "stride_class": class_,
            "stride_pixel": pixel,
            "ADJACENT": adjacent,
            "ALIGN": align,
        }

    def bits(self) -> tuple[int, dict[str, int]]:
        """Bytes for the mask of kept errors, eight classes in each, and their strides for `kernels.bit_strides`.

        In the order of the logits; rows begin at multiples of 16.
        """
        rows, row = -(-self.classes // 8), self.pixels
        if self.adjacent == CLASSES:
            rows, row = row, rows
        row = -(-row // BITS_ALIGN)
        return self.images * rows * row * BITS_ALIGN, {"bits_image": rows * row, "bits_other": row}


def power(number: int) -> int:
    """The power of two from there on."""
    return 1 << (number - 1).bit_length()


class Tile(NamedTuple):
    """What a program looks at, at once, and how many elements of it a thread has."""

    positions: int
    classes: int
    resident: bool
    per_thread: int

    @classmethod
    def forward(cls, layout: Layout, itemsize: int) -> Tile:
        """Rows, or a thread for each of 128 pixels, which then sees all classes: nothing is exchanged."""
        most, chunk = RESIDENT // itemsize, CHUNK // itemsize
        classes, pixels = max(8, power(layout.classes)), power(layout.pixels)
        if layout.adjacent == CLASSES:
            if classes > most:
                return cls(1, 2 * chunk if classes > LONG // itemsize else chunk, False, 16)
            return cls(min(max(1, SHORT // classes), pixels), classes, True, 32)
        shown = min(classes, max(8, most // (2 * RUN)))
        return cls(min(RUN, pixels), shown, shown == classes, shown)

    @classmethod
    def backward(cls, layout: Layout) -> Tile:
        pixels = power(layout.pixels)
        together = 1 if layout.adjacent == CLASSES else RUN
        classes = min(max(8, power(layout.classes)), max(8, WRITTEN // together))
        return cls(min(max(1, WRITTEN // classes), pixels), classes, False, 16)

    def launch(self, layout: Layout) -> tuple[int, dict[str, Any]]:
        """The number of programs along the positions; arguments of any kernel on this tile."""
        tiles = -(-layout.pixels // self.positions)
        threads = self.positions * self.classes // self.per_thread
        return layout.images * tiles, {
            "positions": layout.positions,
            "tiles": tiles,
            "POSITIONS": self.positions,
            "CLASSES": self.classes,
            "num_warps": min(max(power(threads) // 32, 1), 32),
            "enable_fp_fusion": False,
        }


class Plan(NamedTuple):
    """All that follows from shape, strides and dtype of the logits, worked out once."""

    positions: int
    compute: torch.dtype
    bits: int
    gradient_strides: tuple[int, ...]
    forward_grid: tuple[int, ...]
    forward: dict[str, Any]
    backward_grid: tuple[int, ...]
    backward: dict[str, Any]


@functools.lru_cache(maxsize=1024)
def plan(shape: torch.Size, strides: tuple[int, ...], dtype: torch.dtype) -> Plan:
    """For logits ``(N, C)`` or ``(N, C, pixels)``."""
    compute, layout = COMPUTE[dtype], Layout.of(shape, strides)
    size, bit_strides = layout.bits()
    tile = Tile.forward(layout, compute.itemsize)
    programs, launched = tile.launch(layout)
    forward = {
        **layout.arguments(16 if layout.adjacent == CLASSES else 1),
        **bit_strides,
        **launched,
        "RESIDENT": tile.resident,
        "COMPUTE": COMPILED[compute],
        "SMALLEST": SMALLEST[compute],
    }
    if tile.resident and tile.classes * compute.itemsize == RESIDENT and forward["ALIGN"] % 8 == 0:
        forward["maxnreg"] = REGISTERS
    dense, written = layout.dense, Tile.backward(layout)
    parts, launched = written.launch(dense)
    backward = {**dense.arguments(), **bit_strides, **launched, "COMPUTE": COMPILED[compute]}
    image, class_, pixel = dense.strides
    gradient_strides: tuple[int, ...] = (pixel, class_)
    if len(shape) == 3:
        gradient_strides = (image if layout.images > 1 else shape[2] * pixel, class_, pixel)
    chunks = -(-layout.classes // written.classes)
    return Plan(layout.positions, compute, size, gradient_strides, (programs,), forward, (parts, chunks), backward)


@functools.lru_cache(maxsize=1024, typed=True)
def checked(
    shape: torch.Size, dtype: torch.dtype, labels: torch.Size, labels_dtype: torch.dtype, ignore_index: int | None
) -> int | None:
    """The `ignore_index` that a label can have, if the shapes and dtypes are those of a loss."""
    class_axis = check_logits(shape, name_of(dtype), 1 if len(shape) > 1 else 0, name="input")
    check_labels(labels, name_of(labels_dtype), shape, class_axis, name="target", logits_name="input")
    ignore_index = check_ignore_index(ignore_index)
    return ignore_index if ignore_index is not None and representable(ignore_index, name_of(labels_dtype)) else None


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class Call(NamedTuple):
    """A call of a margin loss beside its logits."""

    labels: Tensor
    weights: Tensor | None
    margin: float | Tensor  # a tensor: compute dtype, one number or one for each class
    ignore_index: int | None
    reduction: str
    hem: bool
    keep: bool  # for backward


class Measured(NamedTuple):
    """What forward leaves for each position."""

    numbers: Tensor  # (3, positions): weighted values, weights that the denominator adds up, slopes
    indices: Tensor | None  # (2, positions): true class, number of kept errors
    bits: Tensor | None


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
    """Numerator and denominator of HEM (or of multi-class margin), or None for a call that is not for this file.

    Raises:
        KernelError: the kernels do not run here.
    """
    device = input.device
    tensors = (input, target) if sample_weight is None else (input, target, sample_weight)
    if not all(is_plain(tensor, device.type) and tensor.device == device for tensor in tensors):
        return None
    if input.dtype not in COMPUTE or target.dtype not in INDICES or input.numel() == 0:
        return None
    shape = input.shape
    ignore_index = checked(shape, input.dtype, target.shape, target.dtype, ignore_index)
    weights = None
    if sample_weight is not None:
        check_weight(sample_weight.shape, dtype_name(sample_weight), target.shape)
        check_is_constant(sample_weight, "sample_weight")
        weights = sample_weight.detach().reshape(sample_weight.shape + (1,) * (target.ndim - sample_weight.ndim))
        weights = weights.expand(target.shape).reshape(-1)
        weights = weights.view(torch.uint8) if weights.dtype == torch.bool else weights
    if not (isinstance(margin, (float, int)) and 0 <= margin < math.inf and not isinstance(margin, bool)):
        margin = margin_tensor(margin, shape[min(1, len(shape) - 1)], device, COMPUTE[input.dtype])
    elif input.dtype == torch.float64:  # a kernel's numbers are float32
        margin = torch.full((), float(margin), dtype=torch.float64, device=device)
    z = input
    if len(shape) != 2:
        z = input.unsqueeze(0) if len(shape) == 1 else input.reshape(shape[0], shape[1], math.prod(shape[2:]))
    keep = input.requires_grad and torch.is_grad_enabled()
    call = Call(target.reshape(-1), weights, margin, ignore_index, reduction, hem, keep)
    if keep:
        numerator, denominator = KeptErrors.apply(z, call)  # type: ignore[no-untyped-call]
    else:
        numerator, denominator = reduced(measure(z.detach(), call), reduction)
    return (numerator.reshape(target.shape) if reduction == "none" else numerator), denominator


def margin_tensor(margin: Any, classes: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """In the compute dtype on the device. Values that are there already are looked at by the kernel."""
    if not (isinstance(margin, Tensor) and margin.device == device):
        return constant(margin, classes, device, dtype, name="margin", per_class=True)[0]
    check_constant_dtype(dtype_name(margin), "margin")
    check_is_constant(margin, "margin")
    check_per_class(margin.shape, classes, name="margin", scalar=True)
    return margin.detach().to(dtype)


def measure(z: Tensor, call: Call) -> Measured:
    """The forward kernel."""
    planned = plan(z.shape, z.stride(), z.dtype)
    numbers = z.new_empty((3 if call.keep else 2, planned.positions), dtype=planned.compute)
    indices = bits = None
    if call.keep:
        indices = z.new_empty((2, planned.positions), dtype=torch.int32)
        bits = z.new_empty(planned.bits, dtype=torch.uint8)
    found = Measured(numbers, indices, bits)
    arguments = forward_arguments(z, call, planned, found)
    try:
        with on(z.device):
            kernels.forward[planned.forward_grid](**arguments)
    except Exception as error:  # no C compiler, a Triton that is too old, ...
        raise KernelError(f"{type(error).__name__}: {error}") from error
    return found


def forward_arguments(z: Tensor, call: Call, planned: Plan, found: Measured) -> dict[str, Any]:
    """All arguments of the forward kernel. A tensor that it does not need is any."""
    margins = call.margin if isinstance(call.margin, Tensor) else None
    low, high = (z, z) if margins is None else torch.aminmax(margins)  # NaN if there is one
    return {
        "logits": z,
        "labels": call.labels,
        "weights": call.labels if call.weights is None else call.weights,
        "margins": z if margins is None else margins,
        "margin_low": low,
        "margin_high": high,
        "bits": call.labels if found.bits is None else found.bits,
        "numbers": found.numbers,
        "indices": call.labels if found.indices is None else found.indices,
        "stride_label": call.labels.stride(0),
        "stride_weight": 0 if call.weights is None else call.weights.stride(0),
        "stride_margin": 0 if margins is None or margins.ndim == 0 else margins.stride(0),
        "margin": float(call.margin) if margins is None else 0.0,
        "ignore_index": call.ignore_index or 0,
        "HEM": call.hem,
        "ACTIVE": call.reduction == "active_mean",
        "IGNORING": call.ignore_index is not None,
        "WEIGHTED": call.weights is not None,
        "READ_MARGIN": margins is not None,
        "KEEP": call.keep,
        **planned.forward,
    }


def reduced(found: Measured, reduction: str) -> tuple[Tensor, Tensor | None]:
    """Numerator and denominator."""
    if reduction == "none":
        return found.numbers[0], None
    if reduction == "sum":
        return found.numbers[0].sum(), None
    numerator, denominator = found.numbers[:2].sum(1)
    return numerator, denominator


class KeptErrors(Function):
    """The reduced loss. Its gradient in the logits: a slope at each kept error, and minus their sum at y."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, call: Call) -> tuple[Tensor, Tensor | None]:
        found = measure(z, call)
        ctx.save_for_backward(found.numbers, found.indices, found.bits)
        ctx.shape, ctx.dtype, ctx.planned = z.shape, z.dtype, plan(z.shape, z.stride(), z.dtype)
        numerator, denominator = reduced(found, call.reduction)
        if denominator is not None:
            ctx.mark_non_differentiable(denominator)
        return numerator, denominator

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor | None) -> tuple[Tensor, None]:
        found = Measured(*ctx.saved_tensors)

        def gradient(above: Tensor, dtype: torch.dtype) -> Tensor:
            strides = ctx.planned.gradient_strides
            result: Tensor = found.numbers.new_empty_strided(ctx.shape, strides, dtype=dtype)
            arguments = backward_arguments(result, above, ctx.planned, found)
            with on(result.device):
                kernels.backward[ctx.planned.backward_grid](**arguments)
            return result

        if is_plain(upstream, found.numbers.device.type) and not torch.is_grad_enabled():
            return gradient(upstream, ctx.dtype), None
        # A batch of gradients from above, or one to be differentiated once more: linear in it, constant in the logits.
        with torch.no_grad():
            one = found.numbers.new_ones(())
            pattern = gradient(one.expand(ctx.planned.positions) if upstream.ndim else one, found.numbers.dtype)
        if upstream.ndim:
            upstream = upstream.unsqueeze(1) if len(ctx.shape) == 2 else upstream.reshape(ctx.shape[0], 1, -1)
        # Where there is nothing it stays 0, whatever comes from above.
        return torch.where(pattern == 0.0, 0.0, pattern * upstream).to(ctx.dtype), None


def backward_arguments(result: Tensor, above: Tensor, planned: Plan, found: Measured) -> dict[str, Any]:
    """All arguments of the backward kernel."""
    return {
        "gradient": result,
        "upstream": above,
        "bits": found.bits,
        "numbers": found.numbers,
        "indices": found.indices,
        "stride_upstream": above.stride(0) if above.ndim else 0,
        **planned.backward,
    }


def on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Triton launches where the current device is."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(device)
