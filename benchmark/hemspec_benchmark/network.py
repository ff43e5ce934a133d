"""The network: its initial weights, and what it computes, in NumPy.

Three 3x3 convolutions (16, 32 and 32 channels, padded to keep the size), each followed by batch norm and SiLU; 2x2
average pooling after the second and the third; a linear layer on the flattened 2 x 2 x 32. Images are (N, H, W,
channels) and kernels (H, W, in, out), as in TensorFlow and JAX; the PyTorch loop transposes.

SiLU and averages because they are smooth. With ReLU and max pooling the frameworks parted at the second step (by 1e-3
at one seed of five): the background gives exact ties in max pooling and some input is always within rounding of ReLU's
kink, and each framework's rounding takes its own side. All of them are right, but such differences would hide those
that this benchmark looks for.

`forward` is to the three networks what the reference is to the losses: the first step of every training is checked
against it.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Final, TypedDict

import numpy as np
import numpy.typing as npt

from hemspec_benchmark.data import CLASSES

Array = npt.NDArray[Any]

CHANNELS: Final = (1, 16, 32, 32)
POOL_AFTER: Final = (1, 2)
"""The convolutions that pooling follows, counted from 0."""
FLAT: Final = (2, 2, CHANNELS[-1])
"""The shape that is flattened: height, width, channels. PyTorch's order is another, see its loop."""
BATCH_NORM_EPSILON: Final = 1e-5
BATCH_NORM_MOMENTUM: Final = 0.9
"""The share of the running statistics that a step keeps. PyTorch calls 1 - 0.9 = 0.1 its momentum.

PyTorch's running variance is the unbiased one, Keras's and flax's is not. This touches evaluation alone, by a factor
of at most 1 + 1/1023 here (64 images of 4 x 4).
"""


class Convolution(TypedDict):
    """Weights of one convolution and, with batch norm, its scale and shift."""

    kernel: Array
    bias: Array
    scale: Array | None
    shift: Array | None


class Weights(TypedDict):
    """All weights of the network."""

    convolutions: list[Convolution]
    kernel: Array
    bias: Array


def initial_weights(seed: int, *, batch_norm: bool) -> Weights:
    """He's normal initialisation for the convolutions, the same without the gain of 2 for the linear layer."""
    rng = np.random.default_rng((seed, 0))

    def normal(shape: tuple[int, ...], gain: float) -> Array:
        return (rng.standard_normal(shape) * np.sqrt(gain / np.prod(shape[:-1]))).astype(np.float32)

    def constant(value: float, size: int) -> Array:
        return np.full(size, value, np.float32)

    return Weights(
        convolutions=[
            Convolution(
                kernel=normal((3, 3, before, after), 2.0),
                bias=constant(0.0, after),
                scale=constant(1.0, after) if batch_norm else None,
                shift=constant(0.0, after) if batch_norm else None,
            )
            for before, after in pairwise(CHANNELS)
        ],
        kernel=normal((math.prod(FLAT), CLASSES), 1.0),
        bias=constant(0.0, CLASSES),
    )


def forward(weights: Weights, images: Array, *, training: bool) -> Array:
    """The logits, in float64. Without `training`, batch norm uses the running statistics at their start: 0 and 1."""
    x = images.astype(np.float64)
    for index, layer in enumerate(weights["convolutions"]):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        x = np.einsum("nhwcij,ijco->nhwo", windows, layer["kernel"], optimize=True) + layer["bias"]
        if layer["scale"] is not None:
            mean = x.mean(axis=(0, 1, 2)) if training else 0.0
            variance = x.var(axis=(0, 1, 2)) if training else 1.0
            x = (x - mean) / np.sqrt(variance + BATCH_NORM_EPSILON) * layer["scale"] + layer["shift"]
        x = x / (1.0 + np.exp(-x))
        if index in POOL_AFTER:
            n, height, width, channels = x.shape
            x = x.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
    return x.reshape(len(x), -1) @ weights["kernel"] + weights["bias"]
