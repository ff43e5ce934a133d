"""What is measured: lines, each a table of candidates on one input, in one execution of one framework."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Final

FRAMEWORKS: Final = {
    "torch": ("eager", "compile"),
    "tensorflow": ("function", "xla"),
    "jax": ("jit",),
    "keras-torch": ("fit",),
    "keras-tensorflow": ("fit",),
    "keras-jax": ("fit",),
}
"""The executions of each framework."""

LOSSES: Final = ("hem", "mm", "ce")
CE: Final = "ce"
CANDIDATES: Final = {
    "hem": ("HEM", "hem", "ours"),
    "mm": ("MM", "mm", "ours"),
    "plain-hem": ("plain HEM", "hem", "plain"),
    "plain-mm": ("plain MM", "mm", "plain"),
    "authors-hem": ("authors' HEM", "hem", "authors"),
    CE: ("CE", "ce", "framework"),
    "ce-eager": ("CE, eager", "ce", "framework"),
    "ce-compiled": ("CE, compiled", "ce", "framework"),
    "framework-mm": ("framework's MM", "mm", "framework"),
    "liger-ce": ("Liger's CE", "ce", "liger"),
}
"""Of each candidate: how tables call it, which loss it is, who wrote it."""

HEAD_CANDIDATES: Final = {
    "linear-hem": ("linear HEM", "hem", "ours"),
    "unfused-hem": ("product, HEM", "hem", "unfused"),
    "unfused-ce": ("product, CE", "ce", "unfused"),
    "linear-ce": ("framework's linear CE", "ce", "framework"),
    "liger-linear-ce": ("Liger's linear CE", "ce", "liger"),
}
"""Of lines whose logits are the product of features and a linear head: likewise."""
EVERY_CANDIDATE: Final = CANDIDATES | HEAD_CANDIDATES

VARIANTS: Final = ("float16", "bfloat16", "ignore_index", "sample_weight", "margins")
"""What our losses can do besides, measured against their plain float32 call."""

SIZES: Final = {"float32": 4, "float16": 2, "bfloat16": 2}

CPU_SHAPES: Final = ("128x10", "256x1000", "4096x1000", "65536x21", "1024x32000", "8x21x256x256")
QUICK_SHAPES: Final = ("256x1000", "8x21x64x64")
GROWTH: Final = ("1024x100", "1024x1000", "1024x6000")
"""Together with the CPU shapes: the growth in C at 1024 rows, and in N at 1000 classes."""
GPU_SHAPES: Final = (
    *(f"{rows}x{classes}" for rows in (8192, 32_768) for classes in (1000, 32_000, 131_072)),
    "65536x21",
    "8x21x256x256",
    "16x21x512x512",
    "4x150x512x512",
)
GPU_COMPILED: Final = ("32768x1000", "8192x32000", "16x21x512x512")
"""Where everything is compiled, in bfloat16. Compiled cross-entropy is among the eager candidates everywhere."""
GPU_VARIANTS: Final = ("8192x32000",)
GPU_LIMIT: Final = 440.0
"""Seconds for all lines on a GPU; starting a framework comes on top."""
HEADS: Final = ("2048x512x32000",)
GPU_HEADS: Final = ("8192x4096x128000",)
"""Rows x features x classes of a linear head."""
HEAD_EXECUTIONS: Final = (("torch", "eager"), ("jax", "jit"))
VARIANT_SHAPES: Final = ("4096x1000",)


class PlanError(ValueError):
    """Something was asked for that cannot be measured."""


@dataclass(frozen=True)
class Line:
    """A table: all its candidates have the same input, and take turns."""

    framework: str
    execution: str
    device: str
    shape: str
    dtype: str = "float32"
    variants: bool = False
    """Our losses with all that they can do, instead of everybody's losses."""
    depth: int = 0
    """Features of a linear head whose product the logits are; 0: the logits themselves are the input."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """N, C and the spatial axes."""
        return read_shape(self.shape)

    @property
    def entries(self) -> int:
        """Number of logits."""
        return prod(self.sizes)

    def candidates(self, losses: Iterable[str] = LOSSES) -> list[str]:
        """Names, those with which others are compared always among them."""
        wanted = {*losses}
        if self.depth:
            names = [name for name, (_, loss, _) in HEAD_CANDIDATES.items() if loss in wanted | {CE}]
            return [name for name in names if self._exists(name)]
        if self.variants:
            ours = [loss for loss in ("hem", "mm") if loss in wanted]
            return [f"{loss} {variant}".strip() for loss in ours for variant in ("", *VARIANTS)]
        names = [name for name, (_, loss, _) in CANDIDATES.items() if loss in wanted | {CE}]
        if self.execution != "compile":
            names.remove("ce-eager")
        if (self.framework, self.execution, self.device) != ("torch", "eager", "cuda"):
            names.remove("ce-compiled")
        return [name for name in names if self._exists(name)]

    def _exists(self, name: str) -> bool:
        """Whether there is such a thing at all; what is not installed or does not fit is said in the table."""
        writer = EVERY_CANDIDATE[name][2]
        if name == "linear-ce":
            return self.framework == "torch"
        if self.execution == "fit":
            return name in ("hem", "mm", CE)
        if writer == "authors" or name == "framework-mm":
            return self.framework == "torch" and self.execution == "eager"
        return writer != "liger" or (self.device == "cuda" and self.execution == "eager")

    def baselines(self, candidate: str) -> list[str]:
        """With what a candidate is compared."""
        if self.variants:
            return [candidate.split()[0]]
        if self.depth:
            return ["unfused-ce", "unfused-hem"]
        if self.execution == "compile":
            return [CE, "ce-eager"]
        return [CE, "ce-compiled", "liger-ce"] if (self.framework, self.device) == ("torch", "cuda") else [CE]

    @property
    def title(self) -> str:
        """As tables and messages name it."""
        kind = ", variants" if self.variants else f", a head of {self.depth} features" if self.depth else ""
        return f"{self.framework} {self.execution}, {self.device}, {self.shape}, {self.dtype}{kind}"


def read_shape(text: str) -> tuple[int, ...]:
    """N x C, or N x C x D1 x ...

    Raises:
        PlanError: what is wrong with it.
    """
    try:
        sizes = tuple(int(part) for part in text.split("x"))
    except ValueError:
        sizes = ()
    if len(sizes) < 2 or min(sizes) < 1 or sizes[1] < 2:
        raise PlanError(f"--shape is {text!r}; expected NxC or NxCxD1x..., such as 4096x1000 or 8x21x256x256, C >= 2")
    return sizes


def read_head(text: str) -> tuple[str, int]:
    """N x D x C as the shape of the logits and the number of features.

    Raises:
        PlanError: what is wrong with it.
    """
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts) or int(parts[2]) < 2:
        raise PlanError(f"--head is {text!r}; expected NxDxC, such as 2048x512x32000: rows, features, classes")
    return f"{parts[0]}x{parts[2]}", int(parts[1])


def make_plan(
    frameworks: Iterable[str],
    executions: Iterable[str],
    shapes: Iterable[str],
    *,
    device: str = "cpu",
    dtypes: Iterable[str] = ("float32",),
    variant_shapes: Iterable[str] = (),
    heads: Iterable[str] = (),
    head_dtypes: Iterable[str] = ("float32",),
) -> list[Line]:
    """All lines, in the order in which they are measured."""

    def lines() -> Iterator[Line]:
        for framework in frameworks:
            for execution in FRAMEWORKS[framework]:
                if execution not in executions:
                    continue
                for shape in shapes:
                    for dtype in dtypes:
                        yield Line(framework, execution, device, shape, dtype)
                for head in heads:
                    shape, depth = read_head(head)
                    if (framework, execution) in HEAD_EXECUTIONS:
                        yield from (Line(framework, execution, device, shape, d, depth=depth) for d in head_dtypes)
                for shape in variant_shapes:
                    if execution != "fit":
                        yield Line(framework, execution, device, shape, variants=True)

    for shape in (*shapes, *variant_shapes):
        read_shape(shape)
    return list(lines())
