"""What the conformance suite has to know of hem_mlx."""

from importlib.metadata import version
from typing import Any

import hem_mlx
import mlx.core as mx
import numpy as np

from hemspec_conformance.adapter import Call, Mode

mx.set_default_device(mx.cpu)  # as the modes say; MLX has no float64 elsewhere

name = "mlx"
spec_version = 1
losses = ("hem_loss", "multi_margin_loss", "cross_entropy_loss")
LAZY = {"dtypes": ("float32", "bfloat16", "float16", "float64"), "reads_values": False}
modes = (
    Mode(**LAZY),
    Mode(**LAZY, layout="channels_first"),
    Mode("vmap", **LAZY, per_example=True),
    Mode("compile", **LAZY, coverage="core"),
)


def versions() -> dict[str, str]:
    return {"mlx": version("mlx")}


def from_numpy(array: Any, mode: Mode) -> mx.array:
    return mx.array(array, mx.bool_ if array.dtype == bool else getattr(mx, array.dtype.name))


def to_numpy(array: mx.array) -> Any:
    if array.dtype != mx.bfloat16:
        return np.array(array)
    import ml_dtypes

    return np.array(array.astype(mx.float32)).astype(ml_dtypes.bfloat16)


def value_and_gradient(call: Call, mode: Mode) -> tuple[mx.array, mx.array]:
    return weighted(call, mode, None)


def gradient(call: Call, mode: Mode, upstream: mx.array) -> mx.array:
    return weighted(call, mode, upstream)[1]


def weighted(call: Call, mode: Mode, upstream: mx.array | None) -> tuple[mx.array, mx.array]:
    """The loss, and the gradient of its sum or of the sum that is weighted by what comes from above."""

    def loss(logits: mx.array, labels: mx.array, *weight: mx.array) -> mx.array:
        keywords = {**call.keywords, "sample_weight": weight[0]} if weight else call.keywords
        return getattr(hem_mlx, call.loss)(logits, labels, **keywords)

    def of_one(*example: mx.array) -> mx.array:  # with a batch axis of 1, so that the classes are where call.axis says
        value = loss(*(array[None] for array in example))
        return value if call.reduction == "sum" else value[0]

    def total(*arrays: mx.array) -> tuple[mx.array, mx.array]:
        value = mx.vmap(of_one)(*arrays) if mode.per_example else loss(*arrays)
        value = value.sum() if call.reduction == "sum" else value
        return (value if upstream is None else value * upstream).sum(), value

    arrays = [array for array in (call.logits, call.labels, call.sample_weight) if array is not None]
    evaluate = mx.value_and_grad(total)
    (_, value), gradient = (mx.compile(evaluate) if mode.execution == "compile" else evaluate)(*arrays)
    return value, gradient
