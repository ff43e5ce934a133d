"""What the JAX tests share: four virtual devices, JAX's strictest settings, and every loss by name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pytest

import hemspec

# Read when JAX first touches its devices, which no module does while it is imported.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4".strip()

CLASSES = 5


@dataclass(frozen=True, eq=False)
class Loss:
    """A loss of both packages, with the constants it needs."""

    name: str
    constants: dict[str, Any] = field(default_factory=dict)

    @property
    def reductions(self) -> tuple[str, ...]:
        margin_loss = self.name in ("hem_loss", "multi_margin_loss")
        return ("none", "sum", "mean", "active_mean") if margin_loss else ("none", "sum", "mean")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import hemspec.jax

        return getattr(hemspec.jax, self.name)(*args, **{**self.constants, **kwargs})

    def terms(self, *args: Any, **kwargs: Any) -> Any:
        import hemspec.jax

        return getattr(hemspec.jax, self.name).terms(*args, **{**self.constants, **kwargs})

    def expected(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Value and gradient by the reference."""
        function = getattr(hemspec, self.name)
        options = {**self.constants, **kwargs}
        return function(*args, **options), function.gradient(*args, **options)

    @cached_property
    def evaluate(self) -> Callable[..., dict[str, tuple[Any, Any]]]:
        """``evaluate(logits, labels, weights, mask)``: value and gradient for every reduction, with everything traced.

        Compiled once for each shape and dtype, so tests that share them cost little.
        """
        import jax
        import jax.numpy as jnp

        def total(logits: Any, labels: Any, weights: Any, mask: Any, reduction: str) -> Any:
            axis = min(1, labels.ndim)
            value = self(logits, labels, sample_weight=weights, where=mask, axis=axis, reduction=reduction)
            return jnp.sum(value), value

        @jax.jit
        def evaluate(logits: Any, labels: Any, weights: Any = None, mask: Any = None) -> Any:
            slopes = jax.grad(total, has_aux=True)
            return {r: slopes(logits, labels, weights, mask, r)[::-1] for r in self.reductions}

        return evaluate


LOSSES = (
    Loss("hem_loss"),
    Loss("hem_loss", {"margin": [1.0, 0.25, 3.0, 0.0, 2.0]}),
    Loss("multi_margin_loss", {"margin": [1.0, 0.25, 3.0, 0.0, 2.0]}),
    Loss("cross_entropy_loss"),
    Loss("focal_loss", {"gamma": 1.5, "alpha": [1.0, 2.0, 3.0, 0.5, 1.0]}),
    Loss("logit_norm_loss", {"temperature": 0.3}),
    Loss("logit_adjusted_loss", {"class_counts": [1, 20, 300, 4, 5], "temperature": 1.25}),
    Loss("dice_loss", {"smooth": 0.5}),
    Loss("dice_loss", {"batch": True}),
)


@pytest.fixture(params=LOSSES, ids=lambda loss: "-".join([loss.name, *loss.constants]))
def loss(request: pytest.FixtureRequest) -> Any:
    """Every loss in turn."""
    return request.param


@pytest.fixture(scope="session")
def losses() -> dict[str, Loss]:
    """One loss of each kind, by name."""
    return {loss.name: loss for loss in reversed(LOSSES)}


@dataclass(frozen=True)
class Batch:
    """Logits with the class axis in the middle, labels with one ignored, weights with one of 0."""

    logits: Any  # (4, C, 3)
    labels: Any  # (4, 3)
    weights: Any  # (4, 3)
    mask: Any  # (4, 3), True everywhere

    @property
    def all(self) -> tuple[Any, Any, Any, Any]:
        return self.logits, self.labels, self.weights, self.mask


@pytest.fixture
def batch() -> Batch:
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, (4, 3)).astype(np.int32)
    weights = random.uniform(0.5, 2.0, (4, 3)).astype(np.float32)
    labels[0, 1], weights[1, 1] = -100, 0.0
    logits = random.normal(0.0, 2.0, (4, CLASSES, 3)).astype(np.float32)
    return Batch(logits, labels, weights, np.ones((4, 3), np.bool_))


@pytest.fixture(scope="session")
def collectives() -> Callable[[Any], set[tuple[str, int]]]:
    """``collectives(compiled)``: what devices send each other in a program, each kind with an array's size."""

    def found(compiled: Any) -> set[tuple[str, int]]:
        kinds = "all-gather|all-reduce|all-to-all|collective-broadcast|collective-permute|reduce-scatter"
        sent = re.findall(rf"= (.+?) ({kinds}|ragged-all-to-all)(?:-start)?\(", compiled.as_text())
        shapes = [(kind, shape) for types, kind in sent for shape in re.findall(r"\w\[([\d,]*)\]", types)]
        return {(kind, int(np.prod([int(n) for n in shape.split(",") if n]))) for kind, shape in shapes}

    return found


@pytest.fixture(autouse=True)
def strict() -> Iterator[None]:
    """No implicit promotion, of dtypes or of ranks, in any test."""
    import jax

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
