"""What the conformance suite has to know of hem_autograd."""

from importlib.metadata import version
from typing import Any

import hem_autograd
import numpy as np
from autograd import make_vjp

from hemspec_conformance.adapter import Call, Mode

name = "autograd"
spec_version = 1
losses = ("hem_loss", "multi_margin_loss", "cross_entropy_loss")
DTYPES = ("float32", "float64", "float16")
modes = (
    Mode(dtypes=DTYPES),
    Mode(dtypes=DTYPES, layout="channels_first"),
    Mode(dtypes=DTYPES, layout="strided", refusals=False),
)


def versions() -> dict[str, str]:
    return {"autograd": version("autograd"), "numpy": np.__version__}


def from_numpy(array: Any, mode: Mode) -> Any:
    return array


def to_numpy(array: Any) -> Any:
    return array


def value_and_gradient(call: Call, mode: Mode) -> tuple[Any, Any]:
    gradient_of, value = backward(call)
    return value, gradient_of(np.ones_like(value))


def gradient(call: Call, mode: Mode, upstream: Any) -> Any:
    gradient_of, _ = backward(call)
    return gradient_of(upstream)


def backward(call: Call) -> tuple[Any, Any]:
    loss = getattr(hem_autograd, call.loss)
    return make_vjp(lambda logits: loss(logits, call.labels, **call.keywords))(call.logits)
