"""The framework Keras runs on, and what the losses need of it. Nothing else in this package knows which one it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from hemspec.loss_function import Diagnostics, LossFunction


@dataclass(frozen=True)
class Framework:
    """How to call its losses, how to read a value without a synchronisation, and what replicas have to share."""

    functions: Any
    hem_diagnostics: Diagnostics[..., Any]
    call: Callable[..., Any]
    """``call(function, y_pred, labels, axis=..., sample_weight=..., ...)``"""
    read: Callable[[Any], Any]
    replicas: Any = None
    """The module `hemspec_keras.replicas` where a loss may be computed by several of them, each with its own part."""
    usable: Callable[[Any], Any] = lambda tensor: tensor
    """A tensor of a dtype that the framework can compute with."""

    def count_replicas(self) -> int:
        return 1 if self.replicas is None else int(self.replicas.count_replicas())


def select_framework(name: str) -> Framework:
    """The framework of a Keras backend, by the backend's name."""
    if name == "tensorflow":
        from hemspec_keras import replicas
        from hemspec_tensorflow import functional as tensorflow_functions
        from hemspec_tensorflow.diagnostics import hem_diagnostics as tensorflow_diagnostics
        from hemspec_tensorflow.positions import read as read_tensorflow

        return Framework(tensorflow_functions, tensorflow_diagnostics, call_directly, read_tensorflow, replicas)
    if name == "jax":
        from hemspec_jax import functional as jax_functions
        from hemspec_jax.diagnostics import hem_diagnostics as jax_diagnostics
        from hemspec_jax.positions import read as read_jax

        return Framework(jax_functions, jax_diagnostics, call_directly, read_jax)
    if name == "torch":
        import torch

        from hemspec_torch import functional as torch_functions
        from hemspec_torch.diagnostics import hem_diagnostics as torch_diagnostics
        from hemspec_torch.positions import read as read_torch

        def call_torch(
            function: Callable[..., Any], y_pred: Any, labels: Any, *, axis: int, sample_weight: Any, **options: Any
        ) -> Any:
            """The class axis is the second one, and arguments are tensors alone; Keras would refuse some dtypes."""
            if isinstance(sample_weight, np.ndarray):
                sample_weight = torch.as_tensor(sample_weight, device=y_pred.device)
            labels = torch.as_tensor(labels, device=y_pred.device)
            usual = min(1, y_pred.ndim - 1)
            if axis == usual:
                return function(y_pred, labels, sample_weight=sample_weight, **options)
            return function(y_pred.movedim(axis, usual), labels, sample_weight=sample_weight, **options)

        def signed(tensor: torch.Tensor) -> torch.Tensor:
            """PyTorch has unsigned integers of more than 8 bits, and hardly an operation on them."""
            if tensor.dtype == torch.uint64:
                bits = tensor.view(torch.int64)
                return torch.where(bits < 0, torch.iinfo(torch.int64).max, bits)
            return tensor.to(torch.int64) if tensor.dtype in (torch.uint16, torch.uint32) else tensor

        return Framework(torch_functions, torch_diagnostics, call_torch, read_torch, usable=signed)
    raise ImportError(
        f"hemspec.keras runs on Keras's backends 'tensorflow', 'jax' and 'torch'; KERAS_BACKEND is {name!r}"
    )


def call_directly(function: Callable[..., Any], y_pred: Any, labels: Any, **options: Any) -> Any:
    """TensorFlow and JAX take the class axis as an argument, and NumPy arrays as they are."""
    return function(y_pred, labels, **options)


FRAMEWORK = select_framework(keras.backend.backend())


def loss_function_named(name: str) -> LossFunction[..., Any]:
    """The framework's loss of that name."""
    function: LossFunction[..., Any] = getattr(FRAMEWORK.functions, name)
    return function


def read(array: Any) -> npt.NDArray[Any] | None:
    """The values in NumPy, where they can be had without a synchronisation; None while tracing or on an accelerator."""
    values = FRAMEWORK.read(array) if ops.is_tensor(array) else np.asarray(array)
    return values if isinstance(values, np.ndarray) else None


def as_array(value: Any, name: str) -> Any:
    """A tensor as it is; whatever else holds numbers in NumPy, where nothing rounds it or narrows it to 32 bits."""
    if isinstance(value, keras.Variable):
        return value.value
    check_dense(value, name)
    if ops.is_tensor(value):
        return FRAMEWORK.usable(value)
    try:
        array = np.asarray(value)
    except ValueError as error:  # nested lists of different lengths
        raise ValueError(f"{name} must be a tensor or an array: {error}; {PAD}") from error
    if array.dtype == object:
        hint = f" of objects; if they are rows of different lengths, {PAD}" if array.ndim else ""
        raise TypeError(f"{name} must be a tensor or an array; got {type(value).__name__}{hint}")
    return array


PAD: Final = (
    "pad the rows to one length and say what is padding: a label that ignore_class names, a mask of the logits, or"
    " sample_weight 0"
)


def check_dense(value: Any, name: str) -> None:
    """Refuse ragged and sparse tensors, which frameworks pass on as tensors and then fail on in words of their own."""
    kind = type(value).__name__
    if kind == "RaggedTensor":
        how = f"{name}.to_tensor(default_value=-1) with ignore_class=-1" if name == "y_true" else f"{name}.to_tensor()"
        raise TypeError(f"{name} must be a dense tensor; got a RaggedTensor: {PAD}; for example {how}")
    if getattr(value, "is_nested", False):  # PyTorch's name for ragged
        how = f"torch.nested.to_padded_tensor({name}, {'-1) with ignore_class=-1' if name == 'y_true' else '0)'}"
        raise TypeError(f"{name} must be a dense tensor; got a nested tensor: {PAD}; for example {how}")
    sparse = kind == "SparseTensor" or getattr(value, "is_sparse", False) or getattr(value, "is_sparse_csr", False)
    if sparse or hasattr(value, "todense"):  # of TensorFlow, PyTorch; of JAX or SciPy
        how = "tf.sparse.to_dense" if kind == "SparseTensor" else "its to_dense()" if sparse else "its todense()"
        raise TypeError(f"{name} must be a dense tensor; got a sparse one ({kind}), which {how} makes dense")


def dtype_name(array: Any) -> str:
    return str(getattr(array.dtype, "name", array.dtype)).removeprefix("torch.")


LEFT_OPEN: Final = (
    "TensorFlow leaves it open where a tf.data pipeline does (tf.ensure_shape sets it), and when an earlier call of fit"
    " or evaluate had arrays of other shapes, since it makes one step for all of them: give labels and weights the same"
    " form in all calls, or compile the model again"
)
"""Why a step may know less than the arrays that are handed in."""


def static_shape(array: Any, name: str) -> tuple[int | None, ...]:
    """The sizes, None where a trace does not know one (TensorFlow). It must know how many there are."""
    if getattr(array.shape, "rank", 0) is None:
        raise ValueError(f"{name} must have a known number of axes; {LEFT_OPEN}")
    return tuple(array.shape)
