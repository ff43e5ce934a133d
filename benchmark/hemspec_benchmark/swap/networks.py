"""The networks, in Flax: what people train small images with."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array


def by_patches(x: Array, kernel: Array, strides: Any, padding: Any, *, rhs_dilation: Any, **others: Any) -> Array:
    """A convolution (NHWC, HWIO) as a product of matrices: on a CPU ten times as fast as XLA's inside of a loop."""
    height, width, _, channels = kernel.shape
    reach = [(size - 1) * far + 1 for size, far in zip((height, width), rhs_dilation, strict=True)]
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], reach, strides, padding)
    x = jnp.pad(x, [(0, 0), *padding, (0, 0)])
    sizes = [(size - far) // stride + 1 for size, far, stride in zip(x.shape[1:3], reach, strides, strict=True)]

    def shifted(row: int, column: int) -> Array:
        starts = row * rhs_dilation[0], column * rhs_dilation[1]
        rows, columns = (
            slice(start, start + stride * (size - 1) + 1, stride)
            for start, stride, size in zip(starts, strides, sizes, strict=True)
        )
        return x[:, rows, columns]

    patches = jnp.concatenate([shifted(row, column) for row in range(height) for column in range(width)], axis=-1)
    return patches @ kernel.reshape(-1, channels)


Conv = partial(nn.Conv, conv_general_dilated=by_patches)


class MLP(nn.Module):
    """Two hidden layers of 64."""

    classes: int

    @nn.compact
    def __call__(self, x: Array, training: bool) -> Array:
        """Logits (N, classes)."""
        x = x.reshape(len(x), -1)
        for _ in range(2):
            x = nn.relu(nn.Dense(64)(x))
        return nn.Dense(self.classes)(x)


class CNN(nn.Module):
    """Three convolutions of 16, 32 and 32 channels, the last two with a stride of 2."""

    classes: int
    norm: bool = False

    @nn.compact
    def __call__(self, x: Array, training: bool) -> Array:
        """Logits (N, classes)."""
        for channels, stride in (16, 1), (32, 2), (32, 2):
            x = Conv(channels, (3, 3), strides=stride)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not training, momentum=0.9)(x) if self.norm else x)
        return nn.Dense(self.classes)(x.reshape(len(x), -1))


class ViT(nn.Module):
    """A vision transformer of two layers, on patches of a quarter of the image's width: 16 of them, in 32 channels."""

    classes: int
    width: int = 32

    @nn.compact
    def __call__(self, x: Array, training: bool) -> Array:
        """Logits (N, classes)."""
        side = -(-x.shape[1] // 4)
        x = Conv(self.width, (side, side), strides=side)(x).reshape(len(x), -1, self.width)
        x = x + self.param("position", nn.initializers.normal(0.02), x.shape[1:])
        for _ in range(2):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(num_heads=4)(y, y)
            y = nn.Dense(2 * self.width)(nn.LayerNorm()(x))
            x = x + nn.Dense(self.width)(nn.relu(y))
        return nn.Dense(self.classes)(nn.LayerNorm()(x).mean(axis=1))


class Dilated(nn.Module):
    """Logits at every pixel: four convolutions of 24 channels that see 1, 2, 4 and 1 pixels far."""

    classes: int

    @nn.compact
    def __call__(self, x: Array, training: bool) -> Array:
        """Logits (N, H, W, classes)."""
        for reach in (1, 2, 4, 1):
            x = nn.relu(Conv(24, (3, 3), kernel_dilation=reach)(x))
        return nn.Dense(self.classes)(x)


def build(name: str, classes: int) -> Any:
    """A network by its name in the matrix."""
    return {
        "mlp": MLP(classes),
        "cnn": CNN(classes),
        "cnn-norm": CNN(classes, norm=True),
        "vit": ViT(classes),
        "dilated": Dilated(classes),
    }[name]
