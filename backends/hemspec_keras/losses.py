"""The losses of hemspec as Keras 3 losses: they hold the hyper-parameters and call the functions of the framework.

``__call__`` does all that `keras.losses.Loss` does in its own, in another order: see `hemspec_keras.positions`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeAlias, cast

import keras
from keras import ops

from hemspec.arguments import (
    MARGIN_REDUCTIONS,
    REDUCTIONS,
    MarginReduction,
    Reduction,
    check_flag,
    check_ignore_index,
    check_reduction,
    check_terms_reduction,
    read_number,
)
from hemspec.keywords import with_foreign_keywords
from hemspec.loss_function import LossFunction
from hemspec_keras.configuration import as_option, plain_axis, plain_constant, register
from hemspec_keras.framework import FRAMEWORK, loss_function_named
from hemspec_keras.metrics import ActiveFraction, KeptErrors, MarginSatisfied
from hemspec_keras.positions import read_positions

__all__ = [
    "CrossEntropyLoss",
    "DiceLoss",
    "FocalLoss",
    "HEMLoss",
    "LogitAdjustedLoss",
    "LogitNormLoss",
    "MultiMarginLoss",
]

KerasReduction: TypeAlias = Literal["sum_over_batch_size", "mean_with_sample_weight"] | None
KERAS_REDUCTIONS: tuple[Any, ...] = ("sum_over_batch_size", "mean_with_sample_weight", None)
"""Keras's names that the specification does not know."""


class _Loss(keras.losses.Loss):  # type: ignore[misc]  # Keras ships no types
    """What the losses share: checking, labels, weights, masks, reductions and the configuration."""

    function_name: ClassVar[str]
    reductions: ClassVar[tuple[str, ...]] = REDUCTIONS
    constants: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__init__ = with_foreign_keywords(cls.__init__)  # type: ignore[method-assign]

    def __init__(
        self,
        *,
        axis: int,
        ignore_class: int | None,
        from_logits: bool,
        reduction: str | None,
        name: str | None,
        dtype: Any,
    ) -> None:
        check_reduction(reduction, (*self.reductions, *KERAS_REDUCTIONS))
        if not check_flag(from_logits, name="from_logits"):
            raise ValueError(
                f"{type(self).__name__} takes logits only: from_logits=False is not supported (leave the softmax out"
                " of the model's last layer)"
            )
        # Keras's own check knows no "active_mean".
        super().__init__(name=name or self.function_name, reduction="sum", dtype=dtype)
        self.reduction = reduction
        self.axis = plain_axis(axis)
        self.ignore_class = check_ignore_index(ignore_class, name="ignore_class")

    def get_config(self) -> dict[str, Any]:
        """Everything the constructor takes, as plain numbers, lists and strings."""
        constants = {name: getattr(self, name) for name in self.constants}
        return {
            **super().get_config(),
            **constants,
            "axis": self.axis,
            "ignore_class": self.ignore_class,
            "dtype": self.dtype,
        }

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The loss of logits ``y_pred``; a mask that Keras attached to ``y_pred`` is weight 0.

        Args:
            y_true: class indices, the shape of `y_pred` without the class axis, or with it at size 1; or exact
                one-hot rows, the shape of `y_pred`. Integers, booleans (one-hot) or integer-valued floats.
            y_pred: logits, floating point, class axis ``axis``.
            sample_weight: >= 0, the shape of the class indices, or ``(N,)`` or ``(N, 1)``; axes of size 1 may follow.

        Returns:
            The reduced loss, float64 for float64 logits, else float32.
        """
        call, elements = self._prepare(y_true, y_pred, sample_weight)
        if self.reduction in ("none", None):
            return call("none")
        if FRAMEWORK.count_replicas() > 1:
            return FRAMEWORK.replicas.equal_share(*self._terms(call, elements))
        if self.reduction == "sum":
            return call("sum")
        if self._average == "sum_over_batch_size":
            total = call("sum")
            return total / ops.maximum(elements(total.dtype), 1)
        return call(self._average)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of each position, neither weighted nor reduced; masked and ignored ones are 0."""
        return self._prepare(y_true, y_pred, None)[0]("none")

    def terms(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tuple[Any, Any]:
        """The numerator and denominator of the average, same arguments as the loss.

        Summed over micro-batches or replicas and then divided they give the average over all of them.
        """
        if self.reduction == "sum":
            check_terms_reduction(self.reduction)
        return self._terms(*self._prepare(y_true, y_pred, sample_weight))

    def _terms(self, call: Callable[..., Any], elements: Callable[[Any], Any]) -> tuple[Any, Any]:
        """Numerator and denominator, None for that of a sum."""
        if self.reduction == "sum":
            return call("sum"), None
        if self._average == "sum_over_batch_size":
            total = call("sum")
            return total, elements(total.dtype)
        numerator, denominator = call(self._average, terms=True)
        return numerator, denominator

    @property
    def _average(self) -> Any:
        """The specification's name of the reduction."""
        return "mean" if self.reduction == "mean_with_sample_weight" else self.reduction

    def _prepare(self, y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Callable[..., Any], Callable[[Any], Any]]:
        """The loss or its terms as a function of the reduction, and how many elements to average over, in a dtype."""
        positions = read_positions(y_true, y_pred, sample_weight, axis=self.axis, ignore_class=self.ignore_class)
        constants = {name: as_option(getattr(self, name)) for name in self.constants}

        def call(reduction: str, *, terms: bool = False) -> Any:
            function = self._function(reduction)
            return positions.give(function.terms if terms else function, reduction=reduction, **constants)

        def elements(dtype: Any) -> Any:
            return ops.sum(ops.cast(self._elements(positions.which_exist()), dtype))

        return call, elements

    def _function(self, reduction: str) -> LossFunction[..., Any]:
        """The framework's function."""
        return loss_function_named(self.function_name)

    def _elements(self, exists: Any) -> Any:
        """What there is to average over, given which positions exist."""
        return exists


@register
class HEMLoss(_Loss):
    """HEM (high error margin) loss; HEM+ with a margin for each class. A replacement for SparseCategoricalCrossentropy.

    Source: Spratling and Schütt 2025, arXiv 2501.12191; the maths is in `hemspec.reference.hem`. The model's last layer
    gives logits (no softmax).

    ``y_true`` holds class indices (with or without a class axis of size 1) or exact one-hot rows; which of them, its
    number of axes decides. Soft labels are an error where they can be read, else the loss is NaN. ``sample_weight``
    of ``fit`` is >= 0, one for each sample or for each position. A mask that Keras attached to the logits is weight 0.
    ``class_weight`` of ``fit`` is for one label a sample: of a sequence of labels Keras looks up the weight of the
    argmax, and that is refused where it can be seen. The loss has a gradient in the logits alone. ``"HEMLoss"`` and
    ``"hem_loss"`` name it in ``compile`` and `keras.losses.get`.

    The ``loss`` in the log of an epoch is the average of the batches' values weighted by their sizes. For averages over
    the active positions that is not the average over the epoch's active positions.

    Replicas train as one device does. Under a synchronous strategy of ``tf.distribute`` (mirrored on one machine or
    several, or on TPUs) numerator and denominator are summed over the replicas, and inside ``strategy.run`` each
    replica gets an equal share of the whole batch's loss: shares add up, and so do their gradients (``"none"`` alone
    stays local). All replicas have to call it, and not from a `tf.function` nested inside. Under
    ``keras.distribution`` (JAX) there is one program for the whole batch and nothing to do. On PyTorch, and for
    micro-batches, ``terms(y_true, y_pred, sample_weight)`` gives numerator and denominator to add up.

    With Adam and a rate that falls nothing else had to change in the trainings we tried. With SGD take
    ``reduction="mean"``, or let the rate fall to 0 and clip the gradient's norm at 1: the active mean divides by the
    samples that still have an error, and its gradient does not fade. Compare epochs and runs by
    ``val_accuracy``: ``val_loss``, the active mean of validation data, can grow while the model improves.

    Args:
        margin: >= 0: a number, e.g. ``margin_from_num_samples(50_000)`` (the paper's HEM), or one for each true
            class, e.g. ``margins_from_class_counts(counts)`` (the paper's HEM+).
        axis: the class axis of ``y_pred``.
        ignore_class: positions with this label do not exist; it may be a class. None switches it off.
        from_logits: True, as Keras's own losses spell it: these losses take logits only.
        reduction: ``"active_mean"`` (over the positions with a loss > 0, the paper's), ``"mean"`` (the weighted mean;
            Keras also calls it ``"mean_with_sample_weight"``), ``"sum_over_batch_size"`` (the weighted sum divided by
            the number of positions neither ignored nor masked, whatever their weights), ``"sum"``, or ``"none"`` or
            None (the shape of the class indices).
        name: the loss's name.
        dtype: kept for Keras's configuration, without effect: what is computed and returned is float64 for float64
            logits, else float32.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> loss = HEMLoss()
        >>> float(loss([0], [[1.0, 1.5, 0.0, -3.0]]))
        1.5
    """

    function_name = "hem_loss"
    reductions = MARGIN_REDUCTIONS
    constants = ("margin",)

    def __init__(
        self,
        *,
        margin: Any = 1.0,
        axis: int = -1,
        ignore_class: int | None = None,
        from_logits: bool = True,
        reduction: MarginReduction | KerasReduction = "active_mean",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            axis=axis, ignore_class=ignore_class, from_logits=from_logits, reduction=reduction, name=name, dtype=dtype
        )
        self.margin = plain_constant(margin, name="margin")

    def metrics(self) -> list[keras.metrics.Metric]:
        """What to watch while training with this loss, for ``compile(weighted_metrics=loss.metrics())``."""
        options = {"margin": self.margin, "axis": self.axis, "ignore_class": self.ignore_class}
        return [metric(**options) for metric in (ActiveFraction, KeptErrors, MarginSatisfied)]


@register
class MultiMarginLoss(_Loss):
    """Multi-class margin loss; the margin may differ by true class. See `HEMLoss` for the other arguments.

    Args:
        margin: >= 0: a number, or one for each true class.

    Example:
        >>> float(MultiMarginLoss()([0], [[1.0, 1.5, 0.0, -3.0]]))
        0.375
    """

    function_name = "multi_margin_loss"
    reductions = MARGIN_REDUCTIONS
    constants = ("margin",)

    def __init__(
        self,
        *,
        margin: Any = 1.0,
        axis: int = -1,
        ignore_class: int | None = None,
        from_logits: bool = True,
        reduction: MarginReduction | KerasReduction = "mean",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            axis=axis, ignore_class=ignore_class, from_logits=from_logits, reduction=reduction, name=name, dtype=dtype
        )
        self.margin = plain_constant(margin, name="margin")


@register
class CrossEntropyLoss(_Loss):
    """Cross-entropy under hemspec's conventions for weights, masks and reductions. See `HEMLoss` for the arguments.

    Example:
        >>> round(float(CrossEntropyLoss()([1], [[0.0, 0.0]])), 4)
        0.6931
    """

    function_name = "cross_entropy_loss"

    def __init__(
        self,
        *,
        axis: int = -1,
        ignore_class: int | None = None,
        from_logits: bool = True,
        reduction: Reduction | KerasReduction = "mean",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            axis=axis, ignore_class=ignore_class, from_logits=from_logits, reduction=reduction, name=name, dtype=dtype
        )


@register
class FocalLoss(_Loss):
    """Focal loss, softmax form, of one label a position. See `HEMLoss` for the other arguments.

    Without alpha there is no factor; `keras.losses.CategoricalFocalCrossentropy` has one of 0.25 by default.

    Args:
        gamma: focusing parameter, a number >= 0; 0 gives cross-entropy.
        alpha: None, or a factor >= 0 for each true class.

    Example:
        >>> round(float(FocalLoss(gamma=2.0)([1], [[0.0, 0.0]])), 4)
        0.1733
    """

    function_name = "focal_loss"
    constants = ("gamma", "alpha")

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        alpha: Any = None,
        axis: int = -1,
        ignore_class: int | None = None,
        from_logits: bool = True,
        reduction: Reduction | KerasReduction = "mean",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            axis=axis, ignore_class=ignore_class, from_logits=from_logits, reduction=reduction, name=name, dtype=dtype
        )
        self.gamma = read_number(gamma, name="gamma")
        self.alpha: Any = None
        if alpha is not None:
            self.alpha = plain_constant(alpha, name="alpha", scalar=False)


@register
class LogitNormLoss(_Loss):
    """LogitNorm loss: cross-entropy of normalised logits. See `HEMLoss` for the other arguments.

    Args:
        temperature: a number > 0.

    Example:
        >>> round(float(LogitNormLoss(temperature=1.0)([0], [[3.0, 4.0]])), 4)
        0.7981
    """

    function_name = "logit_norm_loss"
    constants = ("temperature",)

    def __init__(
        self,
        *,
        temperature: float = 0.04,
        axis: int = -1,
        ignore_class: int | None = None,
        from_logits: bool = True,
        reduction: Reduction | KerasReduction = "mean",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            axis=axis, ignore_class=ignore_class, from_logits=from_logits, reduction=reduction, name=name, dtype=dtype
        )
        self.temperature = read_number(temperature, name="temperature", positive=True)


@register
class LogitAdjustedLoss(_Loss):
    """Logit-adjusted cross-entropy. Predict from the raw logits. See `HEMLoss` for the other arguments.

    Args:
        class_counts: training samples per class: whole numbers >= 1, within rounding; the priors are their shares. A
            Series, dict or Counter is put in the order of the classes.
        temperature: a number > 0.

    Example:
        >>> round(float(LogitAdjustedLoss(class_counts=[3, 1])([1], [[0.0, 0.0]])), 4)  # -log(1/4)
        1.3863
    """

    function_name = "logit_adjusted_loss"
    constants = ("class_counts", "temperature")

    def __init__(
        self,
        *,
        class_counts: Any,
        temperature: float = 1.0,
        axis: int = -1,
        ignore_class: int | None = None,
        from_logits: bool = True,
        reduction: Reduction | KerasReduction = "mean",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            axis=axis, ignore_class=ignore_class, from_logits=from_logits, reduction=reduction, name=name, dtype=dtype
        )
        self.class_counts = plain_constant(class_counts, name="class_counts", scalar=False, counts=True)
        self.temperature = read_number(temperature, name="temperature", positive=True)


@register
class DiceLoss(_Loss):
    """Soft Dice loss over the classes present in each image, softmax inside. See `HEMLoss` for the other arguments.

    The elements of the reductions are images: ``"none"`` has shape ``(N,)``, and weights act inside an image only, so
    one weight for a whole image changes nothing at ``smooth=0``. Another loss than `keras.losses.Dice`, which takes
    probabilities and averages over all axes by default.

    Args:
        smooth: a number >= 0, added once to numerator and denominator; that of optax and of
            segmentation-models-pytorch is half of it (2 here for their 1).
        batch: treat the whole batch as one image, over replicas too.

    Example:
        >>> float(DiceLoss()([[0, 1]], [[[0.0, 0.0], [0.0, 0.0]]]))
        0.5
    """

    function_name = "dice_loss"
    constants = ("smooth", "batch")

    def __init__(
        self,
        *,
        smooth: float = 0.0,
        batch: bool = False,
        axis: int = -1,
        ignore_class: int | None = None,
        from_logits: bool = True,
        reduction: Reduction | KerasReduction = "mean",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            axis=axis, ignore_class=ignore_class, from_logits=from_logits, reduction=reduction, name=name, dtype=dtype
        )
        self.smooth = read_number(smooth, name="smooth")
        self.batch = check_flag(batch, name="batch")

    @property
    def _average(self) -> Any:
        """A single image is its own average."""
        return "mean" if self.batch and self.reduction == "sum_over_batch_size" else super()._average

    def _function(self, reduction: str) -> LossFunction[..., Any]:
        if self.batch and reduction != "none" and FRAMEWORK.count_replicas() > 1:
            return cast("LossFunction[..., Any]", FRAMEWORK.replicas.dice_loss)
        return super()._function(reduction)

    def _elements(self, exists: Any) -> Any:
        """The images that have a position."""
        inside = tuple(range(1, len(exists.shape)))
        return ops.any(exists, axis=inside) if inside else exists
