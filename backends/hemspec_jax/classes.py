"""The losses of hemspec as JAX classes: they hold the hyper-parameters and call the functions.

Frozen dataclasses, checked when they are made, and pytrees without leaves, so that a loss can be closed over, be an
argument of a transformed function, or a field of a model. Hyper-parameters are structure: an optimizer, a weight decay,
an average of parameters see none of them. The price is that `jax.jit` compiles again for a loss with another margin.
Where a margin is to change from step to step, let the number be the argument and make the loss of it inside::

    jax.jit(lambda margin, z, y: dataclasses.replace(loss, margin=margin)(z, y))

Such a margin is traced, a leaf of the loss made there, and a bad one gives NaN.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np
import numpy.typing as npt
from jax import Array
from jax.tree_util import GetAttrKey

from hemspec.arguments import (
    MARGIN_REDUCTIONS,
    REDUCTIONS,
    MarginReduction,
    Reduction,
    check_chunk_rows,
    check_constant_dtype,
    check_flag,
    check_ignore_index,
    check_number,
    check_per_class,
    check_reduction,
    read_constant,
)
from hemspec.loss_function import LossFunction
from hemspec_jax import functional
from hemspec_jax.diagnostics import hem_diagnostics
from hemspec_jax.linear import linear_hem_loss
from hemspec_jax.positions import check_axis_name, check_class_axis_name

__all__ = [
    "CrossEntropyLoss",
    "DiceLoss",
    "FocalLoss",
    "HEMLoss",
    "LinearHEMLoss",
    "LogitAdjustedLoss",
    "LogitNormLoss",
    "MultiMarginLoss",
]


@jax.tree_util.register_static
class _Fixed:
    """A constant as structure: equal if the numbers are, so that nothing compiles again for a copy of a loss."""

    def __init__(self, value: float | npt.NDArray[Any]) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Fixed) and np.array_equal(self.value, other.value)

    def __hash__(self) -> int:
        return hash(np.asarray(self.value).tobytes())


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class _Loss:
    """What the classes share: options, calls, being a pytree, and a representation of every hyper-parameter.

    Compared by identity, since arrays have no single truth value.
    """

    axis: int = -1
    ignore_index: int | None = -100
    reduction: MarginReduction = "mean"
    axis_name: Any = None

    function: ClassVar[LossFunction[..., Array]]
    reductions: ClassVar[tuple[str, ...]] = REDUCTIONS
    constants: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        # Not jax.tree_util.register_dataclass: rebuilding through the constructor would check what a transformation
        # puts in place of the constants (tracers, None, anything at all).
        def rebuild(options: tuple[Any, ...], constants: Iterable[Any]) -> Any:
            loss = object.__new__(cls)
            known = [constant.value if isinstance(constant, _Fixed) else constant for constant in constants]
            vars(loss).update(zip(cls._names(), [*known, *options], strict=True))
            return loss

        jax.tree_util.register_pytree_with_keys(cls, cls._flatten_with_keys, rebuild, cls._flatten)

    def __post_init__(self) -> None:
        check_reduction(self.reduction, self.reductions)
        check_axis_name(self.axis_name, self.reduction)
        check_ignore_index(self.ignore_index)

    @classmethod
    def _names(cls) -> list[str]:
        """Every hyper-parameter, the constants first."""
        names = [field.name for field in dataclasses.fields(cls)]
        return [*cls.constants, *(name for name in names if name not in cls.constants)]

    def _flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        values = [getattr(self, name) for name in self._names()]
        constants, options = values[: len(self.constants)], values[len(self.constants) :]
        # A traced one is a leaf, as JAX has to have it.
        fixed = (_Fixed(value) if isinstance(value, float | np.ndarray) else value for value in constants)
        return tuple(fixed), tuple(options)

    def _flatten_with_keys(self) -> tuple[tuple[tuple[GetAttrKey, Any], ...], tuple[Any, ...]]:
        constants, options = self._flatten()
        return tuple((GetAttrKey(name), value) for name, value in zip(self.constants, constants, strict=True)), options

    def _hold(
        self,
        name: str,
        *,
        scalar: bool = True,
        per_class: bool = False,
        positive: bool = False,
        counts: bool = False,
    ) -> None:
        """Check a constant and keep it: a number as a float, a vector as float64 (JAX might round it to float32)."""
        value = getattr(self, name)
        traced = isinstance(value, jax.core.Tracer)
        if traced:
            check_constant_dtype(value.dtype.name, name)
        else:
            value = read_constant(value, name=name, positive=positive, counts=counts)
        if per_class:
            check_per_class(value.shape, None, name=name, scalar=scalar)
        else:
            check_number(value.shape, name=name)
        if not traced:
            value.setflags(write=False)
            object.__setattr__(self, name, value if value.ndim else float(value))

    def _hyper_parameters(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names()}

    def __call__(self, logits: Any, labels: Any, sample_weight: Any = None, where: Any = None) -> Array:
        """The loss of logits with a class axis and of integer labels without it; weights as the labels or ``(N,)``."""
        return type(self).function(logits, labels, sample_weight=sample_weight, where=where, **self._hyper_parameters())

    def terms(self, logits: Any, labels: Any, sample_weight: Any = None, where: Any = None) -> tuple[Array, Array]:
        """The average's numerator and denominator, which add up over micro-batches and replicas; averages do not."""
        return type(self).function.terms(
            logits, labels, sample_weight=sample_weight, where=where, **self._hyper_parameters()
        )

    def __repr__(self) -> str:
        def show(value: Any) -> str:
            return f"<{tuple(value.shape)}>" if isinstance(value, Array | np.ndarray) else repr(value)

        inner = ", ".join(f"{name}={show(value)}" for name, value in self._hyper_parameters().items())
        return f"{type(self).__name__}({inner})"


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class _MarginLoss(_Loss):
    """What HEM, of logits or of a linear head, and the multi-class margin loss share."""

    margin: Any = 1.0
    class_axis_name: Any = None

    reductions = MARGIN_REDUCTIONS
    constants = ("margin",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_class_axis_name(self.class_axis_name, self.axis_name)
        self._hold("margin", per_class=True)


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class HEMLoss(_MarginLoss):
    """HEM (high error margin) loss; HEM+ with a margin for each class. A replacement for softmax cross-entropy.

    Source: Spratling and Schütt 2025, arXiv 2501.12191. See `hem_loss` for the shapes and the errors.

    With Adam and a rate that falls nothing else had to change in the trainings we tried. With SGD take
    ``reduction="mean"``, or let the rate fall to 0 and clip the gradient's norm at 1: the active mean divides by the
    samples that still have an error, and its gradient does not fade. Compare epochs and runs by accuracy or by
    ``reduction="mean"``: the active mean of validation data can grow while the model improves.

    Args:
        margin: >= 0: a number, e.g. ``margin_from_num_samples(50_000)`` (the paper's HEM), or one for each true
            class, e.g. ``margins_from_class_counts(counts)`` (the paper's HEM+).
        axis: the class axis of the logits.
        ignore_index: positions with this label do not exist; None switches it off.
        reduction: ``"active_mean"`` (over the positions with a loss > 0, the paper's), ``"mean"``, ``"sum"`` or
            ``"none"``.
        axis_name: a mapped axis to reduce over as well.
        class_axis_name: a mapped axis over whose shards the classes are spread.

    Raises:
        TypeError, ValueError: a margin that is negative or not finite, an unknown reduction.

    Example:
        >>> import jax.numpy as jnp
        >>> criterion = HEMLoss()
        >>> float(criterion(jnp.array([[1.0, 1.5, 0.0, -3.0]]), jnp.array([0])))
        1.5
        >>> criterion
        HEMLoss(margin=1.0, axis=-1, ignore_index=-100, reduction='active_mean', axis_name=None, class_axis_name=None)
    """

    reduction: MarginReduction = "active_mean"

    function = functional.hem_loss

    def diagnostics(self, logits: Any, labels: Any, sample_weight: Any = None, where: Any = None) -> dict[str, Array]:
        """What to log while training, see `hem_diagnostics`: same arguments as the loss, with its margin."""
        options = self._hyper_parameters()
        del options["reduction"]
        return hem_diagnostics(logits, labels, sample_weight=sample_weight, where=where, **options)


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class LinearHEMLoss(_MarginLoss):
    """HEM loss of a linear head, of which it never makes all logits. See `linear_hem_loss`.

    The head's parameters are arguments of the call, so that they can be differentiated.

    Args:
        margin, ignore_index, reduction, axis_name, class_axis_name: as in `HEMLoss`.
        chunk_rows: positions whose logits are there at once; None chooses.

    Example:
        >>> import jax.numpy as jnp
        >>> kernel = jnp.array([[1.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
        >>> float(LinearHEMLoss()(jnp.array([[1.0, 0.5]]), kernel, jnp.array([0])))
        1.5
    """

    axis: ClassVar[int] = -1  # type: ignore[misc]  # no field: features and kernel have their axes where they are
    reduction: MarginReduction = "active_mean"
    chunk_rows: int | None = None

    function = linear_hem_loss

    def __post_init__(self) -> None:
        super().__post_init__()
        check_chunk_rows(self.chunk_rows)

    def __call__(  # type: ignore[override]
        self, features: Any, kernel: Any, labels: Any, bias: Any = None, sample_weight: Any = None, where: Any = None
    ) -> Array:
        """The loss of features ``(..., D)``, a head ``(D, C)`` and ``(C,)``, and integer labels ``(...)``."""
        arguments = {"bias": bias, "sample_weight": sample_weight, "where": where, **self._hyper_parameters()}
        return type(self).function(features, kernel, labels, **arguments)

    def terms(  # type: ignore[override]
        self, features: Any, kernel: Any, labels: Any, bias: Any = None, sample_weight: Any = None, where: Any = None
    ) -> tuple[Array, Array]:
        """The average's numerator and denominator, which add up over micro-batches and replicas; averages do not."""
        arguments = {"bias": bias, "sample_weight": sample_weight, "where": where, **self._hyper_parameters()}
        return type(self).function.terms(features, kernel, labels, **arguments)


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class MultiMarginLoss(_MarginLoss):
    """Multi-class margin loss with p = 1; the margin may differ by true class. See `multi_margin_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> float(MultiMarginLoss()(jnp.array([[1.0, 1.5, 0.0, -3.0]]), jnp.array([0])))
        0.375
    """

    function = functional.multi_margin_loss


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class CrossEntropyLoss(_Loss):
    """Cross-entropy under hemspec's conventions for weights, ignored positions and dtypes. See `cross_entropy_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(CrossEntropyLoss()(jnp.array([[0.0, 0.0]]), jnp.array([1]))), 4)
        0.6931
    """

    class_axis_name: Any = None

    reduction: Reduction = "mean"
    function = functional.cross_entropy_loss

    def __post_init__(self) -> None:
        super().__post_init__()
        check_class_axis_name(self.class_axis_name, self.axis_name)


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class FocalLoss(_Loss):
    """Focal loss, softmax form (not the sigmoid form of optax). See `focal_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(FocalLoss(gamma=2.0)(jnp.array([[0.0, 0.0]]), jnp.array([1]))), 4)
        0.1733
    """

    gamma: Any = 2.0
    alpha: Any = None

    reduction: Reduction = "mean"
    function = functional.focal_loss
    constants = ("gamma", "alpha")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._hold("gamma")
        if self.alpha is not None:
            self._hold("alpha", scalar=False, per_class=True)


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class LogitNormLoss(_Loss):
    """LogitNorm loss: cross-entropy of normalised logits. See `logit_norm_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(LogitNormLoss(temperature=1.0)(jnp.array([[3.0, 4.0]]), jnp.array([0]))), 4)
        0.7981
    """

    temperature: Any = 0.04

    reduction: Reduction = "mean"
    function = functional.logit_norm_loss
    constants = ("temperature",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._hold("temperature", positive=True)


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class LogitAdjustedLoss(_Loss):
    """Logit-adjusted cross-entropy. Predict from the raw logits. See `logit_adjusted_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> criterion = LogitAdjustedLoss(class_counts=[3, 1])
        >>> round(float(criterion(jnp.array([[0.0, 0.0]]), jnp.array([1]))), 4)  # -log(1/4)
        1.3863
    """

    class_counts: Any
    temperature: Any = 1.0

    reduction: Reduction = "mean"
    function = functional.logit_adjusted_loss
    constants = ("class_counts", "temperature")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._hold("class_counts", scalar=False, per_class=True, counts=True)
        self._hold("temperature", positive=True)


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class DiceLoss(_Loss):
    """Soft Dice loss over the classes present in each image, softmax inside. See `dice_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> float(DiceLoss()(jnp.zeros((1, 2, 2)), jnp.array([[0, 1]])))
        0.5
    """

    smooth: Any = 0.0
    batch: bool = False

    reduction: Reduction = "mean"
    function = functional.dice_loss
    constants = ("smooth",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._hold("smooth")
        check_flag(self.batch, name="batch")
