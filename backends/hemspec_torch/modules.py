"""The losses of hemspec as PyTorch modules: they hold the hyper-parameters and call the functions.

Hyper-parameters are checked when the module is made. They are configuration, not state: a ``state_dict`` is empty,
and what the constructor said holds whatever is loaded, moved, cast or averaged. A vector over classes is a float64
tensor on the CPU, neither parameter nor buffer; assign another to change it. A process group is a connection, no data:
deep copies share it, and pickle refuses it with a TypeError of PyTorch's own (set the module's ``process_group`` to
None before).

torch.fx traces a model with a loss in it: the loss is one call of the graph. TorchScript compiles a model that holds
one, and calls the loss in Python: give every argument there, ``criterion(z, y, None)``. What calls it cannot be saved,
so a model to be saved is scripted without that call, or exported by ``torch.export``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, cast, get_type_hints

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from hemspec.arguments import (
    MARGIN_REDUCTIONS,
    REDUCTIONS,
    MarginReduction,
    Reduction,
    check_chunk_rows,
    check_constant_dtype,
    check_flag,
    check_ignore_index,
    check_per_class,
    check_reduction,
    read_constant,
    read_number,
)
from hemspec.keywords import with_foreign_keywords
from hemspec.loss_function import LossFunction
from hemspec_torch import functional, linear, symbolic
from hemspec_torch.blocked import is_plain
from hemspec_torch.diagnostics import hem_diagnostics
from hemspec_torch.positions import check_is_constant, dtype_name, place
from hemspec_torch.replicas import ProcessGroup, check_group, check_process_group

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


LossT = TypeVar("LossT", bound="_Loss")
MethodT = TypeVar("MethodT", bound=Callable[..., Any])

STATE_ELSEWHERE = ("margin", "alpha", "class_counts", "weight")


def not_scripted(method: MethodT) -> MethodT:
    """TorchScript calls it in Python instead of compiling it. It wants annotations that are types, not text."""
    method.__annotations__ = get_type_hints(method)
    return cast("MethodT", torch.jit.ignore(method))  # type: ignore[no-untyped-call]


class _Loss(nn.Module):
    """What the modules share: ``forward``, ``terms`` and a representation that names every hyper-parameter."""

    function: ClassVar[LossFunction[..., Tensor]]
    reductions: ClassVar[tuple[str, ...]] = REDUCTIONS
    constants: ClassVar[tuple[str, ...]] = ()
    groups: ClassVar[tuple[str, ...]] = ("process_group",)
    __jit_ignored_attributes__: ClassVar = ["_copies"]

    _class: Callable[..., type[_Loss]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._class = torch.jit.ignore(lambda *_: cls)  # type: ignore[no-untyped-call]
        cls.__init__ = with_foreign_keywords(cls.__init__)  # type: ignore[method-assign]

    def __init__(self, *, ignore_index: int | None, reduction: str, process_group: ProcessGroup | None) -> None:
        super().__init__()
        check_reduction(reduction, self.reductions)
        check_process_group(process_group, reduction)
        self.ignore_index = check_ignore_index(ignore_index)
        self.reduction = reduction
        self.process_group: ProcessGroup | None = process_group
        self._copies: dict[str, tuple[int, Tensor]] = {}

    def _hold(self, name: str, value: Any, *, scalar: bool = True, counts: bool = False) -> None:
        """Keep a margin or another constant: a number as it is, a vector over classes as a tensor of its own."""
        array = read_constant(on_host(value, name), name=name, counts=counts)
        check_per_class(array.shape, None, name=name, scalar=scalar)
        # With real numbers also where a mode makes fake tensors, and with a version also where there is no autograd.
        with _disable_current_modes(), torch.inference_mode(False):
            setattr(self, name, torch.from_numpy(array) if array.ndim else float(array))

    def _near(self, name: str, input: object) -> Any:
        """A hyper-parameter; a vector where the logits are and in the compute dtype, copied there once."""
        value = getattr(self, name)
        if symbolic.is_symbolic(input):  # numbers, since a graph would make a buffer of a tensor
            return value.tolist() if isinstance(value, Tensor) else value
        if not (isinstance(value, Tensor) and isinstance(input, Tensor)) or input.device.type == "cpu":
            return value
        dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
        version, copied = self._copies.get(name, (0, value))
        fits = copied.device == input.device and copied.dtype == dtype
        if torch.compiler.is_compiling():  # what is made here is no tensor to keep
            return copied if fits else value
        # A mode may want no real tensors, and an inference tensor, which the constructor does not make, has no version.
        if value.is_inference():
            return value
        if torch._C._len_torch_dispatch_stack():
            return copied if fits and version == value._version and type(input) is Tensor else value
        if not fits or version != value._version:
            with torch.inference_mode(False):
                copied = place(value, input.device, dtype)
            if is_plain(copied, copied.device.type):
                self._copies[name] = value._version, copied
        return copied

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.constants:
            vars(self).get("_copies", {}).pop(name, None)
        super().__setattr__(name, value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Where `fn` moves to there will be calls, perhaps compiled ones, which make no copies of the vectors."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        vectors = [name for name in self.constants if isinstance(getattr(self, name), Tensor)]
        for name in vectors:
            self._near(name, fn(torch.empty(0, dtype=torch.float32, device="cpu")))
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Vectors were state in hemspec 0.1, and a class weight is in PyTorch: such a checkpoint loads, they do not."""
        dropped = {prefix + name for name in STATE_ELSEWHERE if name not in {**self._parameters, **self._buffers}}
        state_dict = {key: value for key, value in state_dict.items() if key not in dropped}
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _is_leaf(self, input: Any) -> bool:
        """Whether torch.fx is tracing a model, in whose graph this module is a call of its own, as PyTorch's are.

        Not where a derived class has another ``forward``, which then is traced, nor where this is the whole model.
        """
        if not symbolic.is_symbolic(input):
            return False
        return type(self).forward.__module__ == __name__ and self is not input.tracer.root

    def _options(self, input: object = None) -> dict[str, Any]:
        """The arguments of the function. For logits, with vectors where they are."""
        options: dict[str, Any] = {name: self._near(name, input) for name in self.constants}
        options |= {"ignore_index": self.ignore_index, "reduction": self.reduction}
        return options | {name: getattr(self, name) for name in self.groups if getattr(self, name) is not None}

    @not_scripted
    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """The loss of logits ``(N, C, ...)`` and integer targets ``(N, ...)``; weights ``(N, ...)`` or ``(N,)``."""
        if isinstance(self, torch.jit.ScriptModule):
            return out_of_script(self).forward(input, target, sample_weight)
        if self._is_leaf(input):
            return symbolic.module_call(self, input, target, sample_weight)
        return type(self).function(input, target, sample_weight=sample_weight, **self._options(input))

    @not_scripted
    def terms(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The average's numerator and denominator, which add up over micro-batches and replicas; averages do not."""
        if isinstance(self, torch.jit.ScriptModule):
            return out_of_script(self).terms(input, target, sample_weight)
        return type(self).function.terms(input, target, sample_weight=sample_weight, **self._options(input))

    def extra_repr(self) -> str:
        def show(name: str, value: Any) -> str:
            if name in self.groups:
                return f"<group of {value.size()}>"
            return f"<{tuple(value.shape)}>" if isinstance(value, Tensor) else repr(value)

        return ", ".join(f"{name}={show(name, value)}" for name, value in self._options().items())

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        for group in (getattr(self, name) for name in self.groups):
            memo[id(group)] = group
        vars(clone).update(copy.deepcopy(self.__getstate__(), memo))
        return clone

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_copies": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also of a pickle of hemspec 0.1, where vectors were buffers and there were no groups."""
        state = {"_copies": {}, **dict.fromkeys(self.groups), **state}
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for name in set(self.constants) & set(self._buffers):
            setattr(self, name, torch.from_numpy(on_host(self._buffers.pop(name), name)))


def out_of_script(standin: LossT) -> LossT:
    """The loss for which TorchScript hands in a stand-in, that has little more than the values it holds."""
    cls = standin._class()
    module: Any = cls.__new__(cls)
    nn.Module.__init__(module)
    module._copies = {}
    for name in (*cls.constants, *cls.groups, "ignore_index", "reduction"):
        setattr(module, name, getattr(standin, name))
    return cast("LossT", module)


def on_host(value: Any, name: str) -> Any:
    """A tensor as an array of NumPy's, in float64; all else as it is."""
    if not isinstance(value, Tensor):
        return value
    check_constant_dtype(dtype_name(value), name)
    with torch.enable_grad():  # who hands in a parameter means to train it, wherever the module is made
        check_is_constant(value, name)
    try:
        return value.cpu().double().numpy()
    except (NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"{name} must have values; got a tensor that has none, on {value.device} (made under torch.device('meta'),"
            " as from_pretrained does? give a list or a NumPy array)"
        ) from error


class HEMLoss(_Loss):
    """HEM (high error margin) loss; HEM+ with a margin for each class. A replacement for ``nn.CrossEntropyLoss``.

    Source: Spratling and Schütt 2025, arXiv 2501.12191. See `hem_loss` for the shapes and the errors.

    Unlike ``nn.CrossEntropyLoss`` it takes no class-probability targets, its weights are per sample (an argument of
    ``forward``), and it is 0 rather than NaN when nothing is valid.

    With Adam and a rate that falls nothing else had to change in the trainings we tried. With SGD take
    ``reduction="mean"``, or let the rate fall to 0 and clip the gradient's norm at 1: the active mean divides by the
    samples that still have an error, and its gradient does not fade. Compare epochs and runs by accuracy or by
    ``reduction="mean"``: the active mean of validation data can grow while the model improves.

    Args:
        margin: >= 0: a number, e.g. ``margin_from_num_samples(50_000)`` (the paper's HEM), or one for each true
            class, e.g. ``margins_from_class_counts(counts)`` (the paper's HEM+).
        ignore_index: positions with this target do not exist; None switches it off.
        reduction: ``"active_mean"`` (over the positions with a loss > 0, the paper's), ``"mean"``, ``"sum"`` or
            ``"none"``.
        process_group: processes with other positions of the batch: every one gets the loss of the whole batch.
        class_group: processes with the logits of other classes. For both see `hem_loss`.

    Raises:
        TypeError, ValueError: a margin that is negative or not finite, an unknown reduction.

    Note:
        ``torch.jit.script`` of a model that holds it works. A scripted method that calls it gives all arguments,
        ``criterion(z, y, None)``, and cannot be saved: it runs in Python. ``torch.export`` has no such limit.

    Example:
        >>> criterion = HEMLoss()
        >>> criterion(torch.tensor([[1.0, 1.5, 0.0, -3.0]]), torch.tensor([0])).item()
        1.5
        >>> criterion
        HEMLoss(margin=1.0, ignore_index=-100, reduction='active_mean')
    """

    function: ClassVar[LossFunction[..., Tensor]] = functional.hem_loss
    reductions = MARGIN_REDUCTIONS
    constants: ClassVar[tuple[str, ...]] = ("margin",)
    groups: ClassVar[tuple[str, ...]] = ("process_group", "class_group")

    def __init__(
        self,
        *,
        margin: Any = 1.0,
        ignore_index: int | None = -100,
        reduction: MarginReduction = "active_mean",
        process_group: ProcessGroup | None = None,
        class_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction, process_group=process_group)
        self._hold("margin", margin)
        check_group(class_group, name="class_group")
        self.class_group = class_group

    @not_scripted
    def diagnostics(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> dict[str, Tensor]:
        """What to log while training: the dict of `hem_diagnostics` for this loss's margin, ``ignore_index``, groups.

        Args:
            input: logits, also of a loss that is otherwise given something else.
            target, sample_weight: as in ``forward``.
        """
        if isinstance(self, torch.jit.ScriptModule):
            return out_of_script(self).diagnostics(input, target, sample_weight)
        options = self._options(input)
        options = {name: value for name, value in options.items() if name not in ("reduction", "chunk_rows")}
        return hem_diagnostics(input, target, sample_weight=sample_weight, **options)


class LinearHEMLoss(HEMLoss):
    """HEM loss of a linear head, of which it never makes all logits. See `linear_hem_loss`.

    The head belongs to the model, which needs it to predict, and may share it with an embedding: ``forward`` takes it.

    Args:
        margin, ignore_index, reduction, process_group: as in `HEMLoss`.
        chunk_rows: positions whose logits are there at once; None chooses.

    Example:
        >>> head = torch.nn.Linear(2, 3)
        >>> criterion = LinearHEMLoss()
        >>> features, target = torch.randn(5, 2), torch.tensor([0, 1, 2, 0, 1])
        >>> loss = criterion(features, head.weight, target, head.bias)
        >>> torch.isclose(loss, HEMLoss()(head(features), target)).item()
        True
    """

    function = linear.linear_hem_loss
    constants = ("margin", "chunk_rows")
    groups = ("process_group",)

    def __init__(
        self,
        *,
        margin: Any = 1.0,
        ignore_index: int | None = -100,
        reduction: MarginReduction = "active_mean",
        chunk_rows: int | None = None,
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__(margin=margin, ignore_index=ignore_index, reduction=reduction, process_group=process_group)
        self.chunk_rows = check_chunk_rows(chunk_rows)

    @not_scripted
    def forward(  # type: ignore[override]
        self,
        input: Tensor,
        linear_weight: Tensor,
        target: Tensor,
        linear_bias: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of features ``(..., D)``, a head ``(C, D)`` and ``(C,)``, and integer targets ``(...)``."""
        if isinstance(self, torch.jit.ScriptModule):
            return out_of_script(self).forward(input, linear_weight, target, linear_bias, sample_weight)
        if self._is_leaf(input):
            return symbolic.module_call(self, input, linear_weight, target, linear_bias, sample_weight)
        arguments = {"linear_bias": linear_bias, "sample_weight": sample_weight, **self._options(input)}
        return type(self).function(input, linear_weight, target, **arguments)

    @not_scripted
    def terms(  # type: ignore[override]
        self,
        input: Tensor,
        linear_weight: Tensor,
        target: Tensor,
        linear_bias: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The average's numerator and denominator, which add up over micro-batches and replicas; averages do not."""
        if isinstance(self, torch.jit.ScriptModule):
            return out_of_script(self).terms(input, linear_weight, target, linear_bias, sample_weight)
        arguments = {"linear_bias": linear_bias, "sample_weight": sample_weight, **self._options(input)}
        return type(self).function.terms(input, linear_weight, target, **arguments)


class MultiMarginLoss(_Loss):
    """Multi-class margin loss with p = 1; the margin may differ by true class. See `multi_margin_loss`.

    Example:
        >>> MultiMarginLoss()(torch.tensor([[1.0, 1.5, 0.0, -3.0]]), torch.tensor([0])).item()
        0.375
    """

    function = functional.multi_margin_loss
    reductions = MARGIN_REDUCTIONS
    constants = ("margin",)
    groups = ("process_group", "class_group")

    def __init__(
        self,
        *,
        margin: Any = 1.0,
        ignore_index: int | None = -100,
        reduction: MarginReduction = "mean",
        process_group: ProcessGroup | None = None,
        class_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction, process_group=process_group)
        self._hold("margin", margin)
        check_group(class_group, name="class_group")
        self.class_group = class_group


class CrossEntropyLoss(_Loss):
    """Cross-entropy under hemspec's conventions for weights, ignored positions and dtypes. See `cross_entropy_loss`.

    Example:
        >>> round(CrossEntropyLoss()(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).item(), 4)
        0.6931
    """

    function = functional.cross_entropy_loss

    def __init__(
        self,
        *,
        ignore_index: int | None = -100,
        reduction: Reduction = "mean",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction, process_group=process_group)


class FocalLoss(_Loss):
    """Focal loss, softmax form (not the sigmoid form of torchvision). See `focal_loss`.

    Example:
        >>> round(FocalLoss(gamma=2.0)(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).item(), 4)
        0.1733
    """

    function = functional.focal_loss
    constants = ("gamma", "alpha")

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        alpha: Any = None,
        ignore_index: int | None = -100,
        reduction: Reduction = "mean",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction, process_group=process_group)
        self.gamma = read_number(on_host(gamma, "gamma"), name="gamma")
        self.alpha: Any = None
        if alpha is not None:
            self._hold("alpha", alpha, scalar=False)


class LogitNormLoss(_Loss):
    """LogitNorm loss: cross-entropy of normalised logits. See `logit_norm_loss`.

    Example:
        >>> round(LogitNormLoss(temperature=1.0)(torch.tensor([[3.0, 4.0]]), torch.tensor([0])).item(), 4)
        0.7981
    """

    function = functional.logit_norm_loss
    constants = ("temperature",)

    def __init__(
        self,
        *,
        temperature: float = 0.04,
        ignore_index: int | None = -100,
        reduction: Reduction = "mean",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction, process_group=process_group)
        self.temperature = read_number(on_host(temperature, "temperature"), name="temperature", positive=True)


class LogitAdjustedLoss(_Loss):
    """Logit-adjusted cross-entropy. Predict from the raw logits. See `logit_adjusted_loss`.

    Example:
        >>> criterion = LogitAdjustedLoss(class_counts=[3, 1])
        >>> round(criterion(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).item(), 4)  # -log(1/4)
        1.3863
    """

    function = functional.logit_adjusted_loss
    constants = ("class_counts", "temperature")

    def __init__(
        self,
        *,
        class_counts: Any,
        temperature: float = 1.0,
        ignore_index: int | None = -100,
        reduction: Reduction = "mean",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction, process_group=process_group)
        self._hold("class_counts", class_counts, scalar=False, counts=True)
        self.temperature = read_number(on_host(temperature, "temperature"), name="temperature", positive=True)


class DiceLoss(_Loss):
    """Soft Dice loss over the classes present in each image, softmax inside. See `dice_loss`.

    Example:
        >>> DiceLoss()(torch.zeros(1, 2, 2), torch.tensor([[0, 1]])).item()
        0.5
    """

    function = functional.dice_loss
    constants = ("smooth", "batch")

    def __init__(
        self,
        *,
        smooth: float = 0.0,
        batch: bool = False,
        ignore_index: int | None = -100,
        reduction: Reduction = "mean",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction, process_group=process_group)
        self.smooth = read_number(on_host(smooth, "smooth"), name="smooth")
        self.batch = check_flag(batch, name="batch")
