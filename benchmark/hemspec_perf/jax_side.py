"""JAX, jitted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hemspec_jax import functional as ours
from hemspec_jax.linear import linear_hem_loss
from hemspec_perf.batches import make_batch
from hemspec_perf.heads import make_head
from hemspec_perf.plan import Line
from hemspec_perf.side import MissingError, Steps


def plain_errors(logits: Any, labels: Any) -> Any:
    """e, margin 1."""
    true = jnp.take_along_axis(logits, labels[..., None], -1)
    rivals = jnp.arange(logits.shape[-1]) != labels[..., None]
    return jnp.where(rivals, jax.nn.relu(logits - true + 1.0), 0.0)


def plain_hem(logits: Any, labels: Any) -> Any:
    """The specification's formula, as it stands."""
    errors = plain_errors(logits.astype(jnp.float32), labels)
    constant = jax.lax.stop_gradient(errors)
    shortfall = constant.max(-1, keepdims=True) - constant
    kept = (constant > 0) & (errors.shape[-1] * shortfall <= shortfall.sum(-1, keepdims=True))
    values = jnp.where(kept, errors, 0.0).sum(-1) / jnp.maximum(kept.sum(-1), 1)
    return values.sum() / jnp.maximum((values > 0).sum(), 1)


def plain_mm(logits: Any, labels: Any) -> Any:
    """The errors' mean over all classes."""
    return plain_errors(logits.astype(jnp.float32), labels).mean()


def cross_entropy(logits: Any, labels: Any) -> Any:
    """optax's."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


LOSSES: dict[tuple[str, str], Callable[..., Any]] = {
    ("hem", "ours"): ours.hem_loss,
    ("mm", "ours"): ours.multi_margin_loss,
    ("hem", "plain"): plain_hem,
    ("mm", "plain"): plain_mm,
    ("ce", "framework"): cross_entropy,
}


def set_device(line: Line) -> None:
    """Raises MissingError."""
    platform = {"cpu": "cpu", "cuda": "gpu"}[line.device]
    try:
        jax.config.update("jax_default_device", jax.devices(platform)[0])  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise MissingError("JAX sees no CUDA device") from None


class Side:
    """See `hemspec_perf.side`."""

    def __init__(self, line: Line) -> None:
        set_device(line)
        self.line, self.batch = line, make_batch(line)
        self.kept: dict[str, Any] = {}
        self.needs: dict[Callable[[], Any], Any] = {}

    def repeated(self, array: Any) -> Any:
        block = jnp.asarray(array)
        return jnp.tile(block, (self.batch.times, *[1] * (block.ndim - 1)))

    def logits(self, dtype: str) -> Any:
        if dtype not in self.kept:
            self.kept[dtype] = self.repeated(jnp.asarray(self.batch.logits, dtype))
        return self.kept[dtype]

    def steps(self, candidate: str, loss: str, writer: str, variant: str, dtype: str) -> Steps:
        function, logits = LOSSES[loss, writer], self.logits(dtype)
        labels = self.repeated(self.batch.labels_for(variant).astype(np.int32))
        keywords = {
            name: self.repeated(value) if name == "sample_weight" else jnp.asarray(value)
            for name, value in self.batch.keywords(variant).items()
        }
        # Arguments, not constants: XLA would fold them.
        forward = jax.jit(lambda logits, labels, keywords: function(logits, labels, **keywords))
        both = jax.jit(
            jax.value_and_grad(lambda logits, labels, keywords: function(logits, labels, **keywords)),
        )
        compiled = both.lower(logits, labels, keywords).compile()

        def run_both() -> Any:
            return both(logits, labels, keywords)

        self.needs[run_both] = compiled
        return Steps(lambda: forward(logits, labels, keywords), run_both)

    def copy(self) -> Callable[[], Any]:
        logits = self.logits(self.line.dtype)
        negative = jax.jit(jnp.negative)
        return lambda: negative(logits)

    def wait(self, result: Any) -> None:
        jax.block_until_ready(result)  # type: ignore[no-untyped-call]

    def answer(self, candidate: str, steps: Steps) -> tuple[float, Any]:
        value, gradient = steps.both()
        blocks = gradient.reshape(self.batch.times, -1, *gradient.shape[1:])
        return float(value), np.asarray(blocks.sum(0, dtype=jnp.float32))

    def peak(self, step: Callable[[], Any]) -> int:
        found = self.needs[step].memory_analysis()
        if found is None:
            raise MissingError("XLA does not tell what this program needs")
        return int(found.temp_size_in_bytes + found.output_size_in_bytes)


HEAD_LOSSES: dict[tuple[str, str], Callable[[Any, Any, Any], Any]] = {
    ("hem", "ours"): linear_hem_loss,
    ("hem", "unfused"): lambda features, kernel, labels: ours.hem_loss(features @ kernel, labels),
    ("ce", "unfused"): lambda features, kernel, labels: cross_entropy(features @ kernel, labels),
}


class HeadSide(Side):
    """Features and a linear head instead of logits."""

    def __init__(self, line: Line) -> None:
        set_device(line)
        self.line, self.head = line, make_head(line)
        self.needs = {}
        features, labels = (np.concatenate([a] * self.head.times) for a in (self.head.features, self.head.labels))
        self.factors = jnp.asarray(features, line.dtype), jnp.asarray(self.head.weight.T, line.dtype)
        self.labels = jnp.asarray(labels.astype(np.int32))

    def steps(self, candidate: str, loss: str, writer: str, variant: str, dtype: str) -> Steps:
        function = HEAD_LOSSES[loss, writer]
        forward = jax.jit(lambda *arguments: function(*arguments))
        both = jax.jit(jax.value_and_grad(lambda *arguments: function(*arguments), argnums=(0, 1)))
        compiled = both.lower(*self.factors, self.labels).compile()

        def run_both() -> Any:
            return both(*self.factors, self.labels)

        self.needs[run_both] = compiled
        return Steps(lambda: forward(*self.factors, self.labels), run_both)

    def copy(self) -> Callable[[], Any]:
        logits, negative = jnp.zeros(self.line.sizes, self.line.dtype), jax.jit(jnp.negative)
        return lambda: negative(logits)

    def answer(self, candidate: str, steps: Steps) -> tuple[float, Any]:
        value, (of_features, of_kernel) = steps.both()
        blocks = of_features.reshape(self.head.times, -1, of_features.shape[-1])
        return float(value), (np.asarray(blocks.sum(0, dtype=jnp.float32)), np.asarray(of_kernel, np.float32).T)


def set_threads(threads: int) -> None:
    """XLA takes the cores that the process may use."""


def versions() -> dict[str, str]:
    return {"jax": jax.__version__, "optax": optax.__version__}
