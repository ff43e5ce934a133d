"""The networks, each written once: a function of the layers that every framework offers.

An architecture calls the methods of a `Layers` object with the names of its layers. NumPy's `Shapes` makes the initial
weights in that way, NumPy's `Forward` is to the networks what the reference is to the losses, and each framework's
learner has a `Layers` of its own. Weights are NumPy arrays by name (``"stem/kernel"``); kernels are (height, width, in,
out) and images (N, height, width, channels), as in TensorFlow and JAX; PyTorch's learner transposes.

The small networks use SiLU and averages because they are smooth. With ReLU and max pooling the frameworks parted at
the second step (by 1e-3 at one seed of five): the background gives exact ties in max pooling and some input is always
within rounding of ReLU's kink, and each framework's rounding takes its own side. All of them are right, but such
differences would hide those that this benchmark looks for. ResNet-18 is the usual one and has its ReLU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Weights = dict[str, Array]
Shape = tuple[int, ...]
T = TypeVar("T")

BATCH_NORM_EPSILON: Final = 1e-5
BATCH_NORM_MOMENTUM: Final = 0.9
"""The share of the running statistics that a step keeps. PyTorch calls 1 - 0.9 = 0.1 its momentum.

The running variance is the plain one, divided by N, as in Keras and NumPy; PyTorch divides by N - 1 and needs a word
of its own (`torch_learner.BatchNorm`). The difference is a factor of at most 1 + 1/1023, in evaluation alone, and still
it was found: in the first full run the AUROC of one loss differed by 0.03 points, significantly.
"""


class Layers(Protocol[T]):
    """What an architecture is made of. A convolution is padded by half its size, so that stride 1 keeps the shape."""

    def convolution(
        self, name: str, x: T, channels: int, *, size: int = 3, stride: int = 1, bias: bool = True
    ) -> T: ...
    def norm(self, name: str, x: T) -> T: ...
    def linear(self, name: str, x: T, outputs: int) -> T: ...
    def silu(self, x: T) -> T: ...
    def relu(self, x: T) -> T: ...
    def halve(self, x: T) -> T:
        """2 x 2 average pooling."""

    def enlarge(self, x: T) -> T:
        """Every pixel becomes 2 x 2 of them."""

    def add(self, x: T, y: T) -> T: ...
    def join(self, x: T, y: T) -> T:
        """Channels side by side."""

    def average(self, x: T) -> T:
        """Over all pixels: (N, channels)."""

    def flatten(self, x: T) -> T:
        """(N, height * width * channels), in this order."""


Architecture = Callable[[Layers[Any], Any, int], Any]
"""The logits of images for so many classes."""


def small(layers: Layers[T], x: T, classes: int, *, batch_norm: bool = True) -> T:
    """Three convolutions of 8, 16 and 32 channels, pooling after the last two, and a linear layer."""
    for name, channels in ("first", 8), ("second", 16), ("third", 32):
        x = layers.convolution(name, x, channels)
        x = layers.silu(layers.norm(f"{name} norm", x) if batch_norm else x)
        if name != "first":
            x = layers.halve(x)
    return layers.linear("head", layers.flatten(x), classes)


def small_without_norm(layers: Layers[T], x: T, classes: int) -> T:
    """The same without batch norm: where a learning rate that is too high shows."""
    return small(layers, x, classes, batch_norm=False)


def unet(layers: Layers[T], x: T, classes: int) -> T:
    """A small U-Net (Ronneberger et al. 2015): logits at every pixel.

    Two halvings, one convolution of 8, 32 and 96 channels at each resolution on the way down and 32 and 8 on the way
    up, batch norm. Most channels are where a pixel stands for the 4 x 4 around it, half a digit.
    """

    def block(name: str, x: T, channels: int) -> T:
        return layers.silu(layers.norm(f"{name} norm", layers.convolution(name, x, channels)))

    fine = block("down fine", x, 8)
    middle = block("down middle", layers.halve(fine), 32)
    x = block("coarse", layers.halve(middle), 96)
    x = block("up middle", layers.join(layers.enlarge(x), middle), 32)
    x = block("up fine", layers.join(layers.enlarge(x), fine), 8)
    return layers.convolution("head", x, classes, size=1)


def resnet18(layers: Layers[T], x: T, classes: int) -> T:
    """ResNet-18 (He et al. 2016) as is usual for images of 32 x 32: a 3 x 3 stem of stride 1, no max pooling."""

    def normed(name: str, x: T, channels: int, *, size: int = 3, stride: int = 1) -> T:
        return layers.norm(f"{name} norm", layers.convolution(name, x, channels, size=size, stride=stride, bias=False))

    x = layers.relu(normed("stem", x, 64))
    before = 64
    for stage, channels in enumerate((64, 128, 256, 512), start=1):
        for block in (1, 2):
            name, stride = f"stage {stage} block {block}", 2 if stage > 1 and block == 1 else 1
            inner = layers.relu(normed(f"{name} a", x, channels, stride=stride))
            inner = normed(f"{name} b", inner, channels)
            skip = normed(f"{name} skip", x, channels, size=1, stride=stride) if channels != before else x
            x, before = layers.relu(layers.add(inner, skip)), channels
    return layers.linear("head", layers.average(x), classes)


ARCHITECTURES: Final[dict[str, Architecture]] = {
    "small": small,
    "small-without-norm": small_without_norm,
    "unet": unet,
    "resnet18": resnet18,
}


def initial_weights(architecture: str, image_shape: Shape, classes: int, seed: int) -> Weights:
    """He's normal initialisation for the convolutions, the same without the gain of 2 for a head."""
    shapes = Shapes(np.random.default_rng((seed, 0)))
    ARCHITECTURES[architecture](shapes, image_shape, classes)
    return shapes.weights


def forward(architecture: str, weights: Weights, images: Array, *, training: bool) -> Array:
    """The logits, in float64. Without `training`, batch norm uses the running statistics at their start: 0 and 1."""
    classes = next(len(array) for name, array in weights.items() if name == "head/bias")
    logits: Array = ARCHITECTURES[architecture](Forward(weights, training), images.astype(np.float64), classes)
    return logits


@dataclass
class Shapes:
    """Passes on the shape of one image and makes the weights on the way, in the order in which they are used."""

    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.weights: Weights = {}

    def convolution(
        self, name: str, x: Shape, channels: int, *, size: int = 3, stride: int = 1, bias: bool = True
    ) -> Shape:
        height, width, before = x
        gain = 1.0 if name == "head" else 2.0
        self.weights[f"{name}/kernel"] = self._normal((size, size, before, channels), gain)
        if bias:
            self.weights[f"{name}/bias"] = np.zeros(channels, np.float32)
        return (-(-height // stride), -(-width // stride), channels)

    def norm(self, name: str, x: Shape) -> Shape:
        self.weights[f"{name}/scale"] = np.ones(x[-1], np.float32)
        self.weights[f"{name}/shift"] = np.zeros(x[-1], np.float32)
        return x

    def linear(self, name: str, x: Shape, outputs: int) -> Shape:
        self.weights[f"{name}/kernel"] = self._normal((x[0], outputs), 1.0)
        self.weights[f"{name}/bias"] = np.zeros(outputs, np.float32)
        return (outputs,)

    def silu(self, x: Shape) -> Shape:
        return x

    def relu(self, x: Shape) -> Shape:
        return x

    def halve(self, x: Shape) -> Shape:
        height, width, channels = x
        if height % 2 or width % 2:
            raise ValueError(f"the network halves its images; {height} x {width} cannot be halved")
        return (height // 2, width // 2, channels)

    def enlarge(self, x: Shape) -> Shape:
        return (2 * x[0], 2 * x[1], x[2])

    def add(self, x: Shape, y: Shape) -> Shape:
        return x

    def join(self, x: Shape, y: Shape) -> Shape:
        return (*x[:2], x[2] + y[2])

    def average(self, x: Shape) -> Shape:
        return x[-1:]

    def flatten(self, x: Shape) -> Shape:
        return (x[0] * x[1] * x[2],)

    def _normal(self, shape: Shape, gain: float) -> Array:
        deviation = np.sqrt(gain / np.prod(shape[:-1]))
        return np.asarray(self.rng.standard_normal(shape) * deviation, np.float32)


@dataclass(frozen=True)
class Forward:
    """The layers in NumPy, in the plainest way."""

    weights: Weights
    training: bool

    def convolution(
        self, name: str, x: Array, channels: int, *, size: int = 3, stride: int = 1, bias: bool = True
    ) -> Array:
        half = size // 2
        padded = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))[:, ::stride, ::stride]
        x = np.asarray(np.einsum("nhwcij,ijco->nhwo", windows, self.weights[f"{name}/kernel"], optimize=True))
        return x + self.weights[f"{name}/bias"] if bias else x

    def norm(self, name: str, x: Array) -> Array:
        mean = x.mean(axis=(0, 1, 2)) if self.training else 0.0
        variance = x.var(axis=(0, 1, 2)) if self.training else 1.0
        x = np.asarray((x - mean) / np.sqrt(variance + BATCH_NORM_EPSILON))
        return x * self.weights[f"{name}/scale"] + self.weights[f"{name}/shift"]

    def linear(self, name: str, x: Array, outputs: int) -> Array:
        return x @ self.weights[f"{name}/kernel"] + self.weights[f"{name}/bias"]

    def silu(self, x: Array) -> Array:
        return x / (1.0 + np.exp(-x))

    def relu(self, x: Array) -> Array:
        return np.maximum(x, 0.0)

    def halve(self, x: Array) -> Array:
        n, height, width, channels = x.shape
        pooled: Array = x.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
        return pooled

    def enlarge(self, x: Array) -> Array:
        return x.repeat(2, axis=1).repeat(2, axis=2)

    def add(self, x: Array, y: Array) -> Array:
        return x + y

    def join(self, x: Array, y: Array) -> Array:
        return np.concatenate([x, y], axis=-1)

    def average(self, x: Array) -> Array:
        averaged: Array = x.mean(axis=(1, 2))
        return averaged

    def flatten(self, x: Array) -> Array:
        return x.reshape(len(x), -1)
