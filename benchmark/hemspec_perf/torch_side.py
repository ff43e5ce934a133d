"""PyTorch, eager or compiled, on the CPU or a CUDA device."""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hemspec_perf.batches import make_batch
from hemspec_perf.heads import make_head
from hemspec_perf.plan import SIZES, Line
from hemspec_perf.resident import peak_extra
from hemspec_perf.side import MissingError, Steps
from hemspec_perf.timing import copies_beyond
from hemspec_torch import functional as ours
from hemspec_torch import selection
from hemspec_torch.linear import linear_hem_loss


def plain_errors(logits: Tensor, labels: Tensor) -> Tensor:
    """e, class axis 1, margin 1."""
    labels = labels.unsqueeze(1)
    errors = F.relu(logits - logits.gather(1, labels) + 1.0)  # at 0 the gradient of clamp is 1
    return errors.scatter(1, labels, 0.0)


def plain_hem(logits: Tensor, labels: Tensor) -> Tensor:
    """The specification's formula, as it stands."""
    errors = plain_errors(logits.float(), labels)
    with torch.no_grad():
        shortfall = errors.amax(1, keepdim=True) - errors
        kept = (errors > 0) & (errors.shape[1] * shortfall <= shortfall.sum(1, keepdim=True))
    values = torch.where(kept, errors, 0.0).sum(1) / kept.sum(1).clamp(min=1)
    return values.sum() / (values > 0).sum().clamp(min=1)


def plain_mm(logits: Tensor, labels: Tensor) -> Tensor:
    """The errors' mean over all classes."""
    return plain_errors(logits.float(), labels).mean()


def authors_hem(logits: Tensor, labels: Tensor) -> Tensor:
    """As arXiv 2501.12191 describes it: a Boolean mask of the errors that reach the mean, 1e-6 in the denominators."""
    errors = plain_errors(logits.float(), labels)
    mask = (errors >= errors.mean(1, keepdim=True).detach()) & (errors > 0)
    values = (errors * mask).sum(1) / (mask.sum(1) + 1e-6)
    return values.sum() / ((values > 0).sum() + 1e-6)


LOSSES: dict[tuple[str, str], Callable[..., Tensor]] = {
    ("hem", "ours"): ours.hem_loss,
    ("mm", "ours"): ours.multi_margin_loss,
    ("hem", "plain"): plain_hem,
    ("mm", "plain"): plain_mm,
    ("hem", "authors"): authors_hem,
    ("ce", "framework"): F.cross_entropy,
    ("mm", "framework"): F.multi_margin_loss,
}


class Side:
    """See `hemspec_perf.side`."""

    def __init__(self, line: Line) -> None:
        if line.device == "cuda" and not torch.cuda.is_available():
            raise MissingError("PyTorch sees no CUDA device")
        self.line, self.batch = line, make_batch(line)
        torch._dynamo.reset()
        torch._dynamo.config.recompile_limit = 64

    def repeated(self, array: Any) -> Tensor:
        """The whole batch, on the device."""
        block = torch.from_numpy(array).to(self.line.device)
        return block.repeat(self.batch.times, *[1] * (block.ndim - 1))

    def logits(self, dtype: str) -> Tensor:
        """Class axis 1."""
        block = torch.from_numpy(self.batch.logits).to(self.line.device, getattr(torch, dtype))
        block = block.movedim(-1, 1).contiguous()
        return block.repeat(self.batch.times, *[1] * (block.ndim - 1)).requires_grad_()

    def steps(self, candidate: str, loss: str, writer: str, variant: str, dtype: str) -> Steps:
        if candidate == "framework-mm" and len(self.line.sizes) > 2:
            raise MissingError("F.multi_margin_loss takes no spatial axes")
        function = liger_cross_entropy() if writer == "liger" else LOSSES[loss, writer]
        inputs, labels = itertools.cycle(self.shared_logits(dtype)), self.repeated(self.batch.labels_for(variant))
        keywords: dict[str, Any] = {}
        for name, value in self.batch.keywords(variant).items():
            as_tensor = torch.from_numpy(value).to(self.line.device)
            keywords[name] = self.repeated(value) if name == "sample_weight" else as_tensor

        def measured(logits: Tensor, labels: Tensor) -> Tensor:
            return function(logits, labels, **keywords)

        call: Callable[..., Tensor] = measured
        if candidate == "ce-compiled" or (self.line.execution == "compile" and candidate != "ce-eager"):
            # Dynamo keeps what it compiled with the code object: one that candidates share would slow all of them.
            code = measured.__code__.replace(co_name=candidate.replace("-", "_").replace(" ", "_"))
            own = types.FunctionType(code, globals(), code.co_name, None, measured.__closure__)
            call = torch.compile(own, fullgraph=True, dynamic=False)

        def both() -> tuple[Tensor, Tensor]:
            logits = next(inputs)
            value = call(logits, labels)
            (gradient,) = torch.autograd.grad(value, logits)
            return value, gradient

        return Steps(lambda: call(next(inputs), labels), both)

    def shared_logits(self, dtype: str) -> list[Tensor]:
        """Made once: the largest have 17 GB. Small ones on a GPU several times, see `timing.copies_beyond`."""
        kept: dict[str, list[Tensor]] = self.__dict__.setdefault("_logits", {})
        if dtype not in kept:
            first, copies = self.logits(dtype), 1
            if self.line.device == "cuda":
                cache = torch.cuda.get_device_properties(0).L2_cache_size
                copies = copies_beyond(cache, first.numel() * first.itemsize)
            kept[dtype] = [first, *(first.detach().clone().requires_grad_() for _ in range(copies - 1))]
        return kept[dtype]

    def copy(self) -> Callable[[], Any]:
        sources = itertools.cycle(self.shared_logits(self.line.dtype))
        target = torch.empty_like(next(sources))
        return lambda: target.copy_(next(sources).detach())

    def note(self) -> str:
        """How our kernels read the logits."""
        if self.line.device == "cpu" or self.line.execution != "eager" or selection.kernels(0) is None:
            return ""
        from hemspec_torch import fused

        (first, *_), size = self.shared_logits(self.line.dtype), SIZES[self.line.dtype]
        z = first.reshape(*first.shape[:2], -1) if first.ndim > 2 else first
        if fused.plan(z.shape, z.stride(), z.dtype).forward["RESIDENT"]:
            return f"HEM and MM move {2 * size + 0.25:g} bytes an entry: the logits are read once"
        low, high = 2 * size + 0.25, 3 * size + 0.25
        return f"HEM reads the logits twice, the second time in part from the cache: {low:g} to {high:g} bytes an entry"

    def wait(self, result: Any) -> None:
        if self.line.device == "cuda":
            torch.cuda.synchronize()

    def answer(self, candidate: str, steps: Steps) -> tuple[float, Any]:
        value, gradient = steps.both()
        total = gradient.unflatten(0, (self.batch.times, -1)).sum(0, dtype=torch.float32)
        return value.item(), total.movedim(1, -1).cpu().numpy()

    def peak(self, step: Callable[[], Any]) -> int:
        if self.line.device == "cpu":
            return peak_extra(step)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)


def linear_cross_entropy(features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """The framework's, in chunks."""
    if not hasattr(F, "linear_cross_entropy"):
        raise MissingError("this PyTorch has no linear_cross_entropy")
    return F.linear_cross_entropy(features, weight, labels, options=torch.nn.LinearCrossEntropyOptions())


def liger_linear_cross_entropy(features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Liger-Kernel's."""
    try:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy as function
    except ImportError:
        raise MissingError("Liger-Kernel is not installed") from None
    value: Tensor = function(features, weight, labels)
    return value


HEAD_LOSSES: dict[tuple[str, str], Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    ("hem", "ours"): linear_hem_loss,
    ("hem", "unfused"): lambda features, weight, labels: ours.hem_loss(F.linear(features, weight), labels),
    ("ce", "unfused"): lambda features, weight, labels: F.cross_entropy(F.linear(features, weight), labels),
    ("ce", "framework"): linear_cross_entropy,
    ("ce", "liger"): liger_linear_cross_entropy,
}


class HeadSide(Side):
    """Features and a linear head instead of logits."""

    def __init__(self, line: Line) -> None:
        if line.device == "cuda" and not torch.cuda.is_available():
            raise MissingError("PyTorch sees no CUDA device")
        self.line, self.head = line, make_head(line)
        dtype, device = getattr(torch, line.dtype), line.device
        features, weight = (torch.from_numpy(a).to(device, dtype) for a in (self.head.features, self.head.weight))
        self.features = features.repeat(self.head.times, 1).requires_grad_()
        self.weight = weight.requires_grad_()
        self.labels = torch.from_numpy(self.head.labels).to(device).repeat(self.head.times)

    def steps(self, candidate: str, loss: str, writer: str, variant: str, dtype: str) -> Steps:
        function = HEAD_LOSSES[loss, writer]

        def forward() -> Tensor:
            return function(self.features, self.weight, self.labels)

        return Steps(forward, lambda: (value := forward(), torch.autograd.grad(value, (self.features, self.weight))))

    def copy(self) -> Callable[[], Any]:
        source = self.features.new_zeros(self.line.sizes)
        return source.clone

    def answer(self, candidate: str, steps: Steps) -> tuple[float, Any]:
        value, (of_features, of_weight) = steps.both()
        block = of_features.unflatten(0, (self.head.times, -1)).sum(0, dtype=torch.float32)
        return value.item(), (block.cpu().numpy(), of_weight.float().cpu().numpy())


def liger_cross_entropy() -> Callable[..., Tensor]:
    """Liger-Kernel's, which writes the gradient over the logits: on a copy, since ours must not."""
    try:
        from liger_kernel.transformers.functional import liger_cross_entropy as function
    except ImportError:
        raise MissingError("Liger-Kernel is not installed") from None
    return lambda logits, labels: function(logits.clone(), labels)


def set_threads(threads: int) -> None:
    torch.set_num_threads(threads)


def versions() -> dict[str, str]:
    found = {"torch": torch.__version__}
    return found | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})
