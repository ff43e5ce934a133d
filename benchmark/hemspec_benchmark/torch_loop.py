"""The training loop in PyTorch: modules, autograd, `torch.optim`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from sklearn.metrics import accuracy_score
from torch import nn

import hemspec.torch
from hemspec_benchmark.data import Images, Split, training_batches
from hemspec_benchmark.losses import LOSSES
from hemspec_benchmark.network import (
    BATCH_NORM_EPSILON,
    BATCH_NORM_MOMENTUM,
    FLAT,
    POOL_AFTER,
    Array,
    Weights,
    initial_weights,
)
from hemspec_benchmark.settings import HyperParameters
from hemspec_benchmark.training import Training

PACKAGES = ("torch",)


def channels_first(images: Array) -> torch.Tensor:
    """(..., H, W, channels) as PyTorch's (..., channels, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, -3)))


def build_network(weights: Weights) -> nn.Module:
    """The network with these weights."""
    layers: list[nn.Module] = []
    for index, layer in enumerate(weights["convolutions"]):
        before, after = layer["kernel"].shape[2:]
        convolution = nn.Conv2d(before, after, 3, padding=1)
        convolution.weight.data = torch.from_numpy(layer["kernel"].transpose(3, 2, 0, 1).copy())
        convolution.bias.data = torch.from_numpy(layer["bias"].copy())
        layers.append(convolution)
        if layer["scale"] is not None:
            norm = nn.BatchNorm2d(after, eps=BATCH_NORM_EPSILON, momentum=1.0 - BATCH_NORM_MOMENTUM)
            norm.weight.data = torch.from_numpy(layer["scale"].copy())
            norm.bias.data = torch.from_numpy(layer["shift"].copy())
            layers.append(norm)
        layers.append(nn.SiLU())
        if index in POOL_AFTER:
            layers.append(nn.AvgPool2d(2))
    linear = nn.Linear(*weights["kernel"].shape)
    # PyTorch flattens channels first.
    kernel = weights["kernel"].reshape(*FLAT, -1).transpose(2, 0, 1, 3).reshape(weights["kernel"].shape)
    linear.weight.data = torch.from_numpy(kernel.T.copy())
    linear.bias.data = torch.from_numpy(weights["bias"].copy())
    return nn.Sequential(*layers, nn.Flatten(), linear)


@torch.no_grad()
def predict(network: nn.Module, images: Images) -> Array:
    """The logits of images (N, 8, 8, 1), evaluated (not training)."""
    network.eval()
    return network(channels_first(images)).numpy()


def trainings(
    loss: str, seeds: list[int], *, batch_norm: bool, split: Split, settings: HyperParameters
) -> Iterator[Training]:
    """Train with one loss, once for each seed."""
    criterion = LOSSES[loss].build(hemspec.torch, split.class_counts)
    for seed in seeds:
        torch.manual_seed(seed)  # nothing below draws; a safeguard
        images, labels = training_batches(split, seed, settings)
        images, labels = channels_first(images), torch.from_numpy(labels).long()
        network = build_network(initial_weights(seed, batch_norm=batch_norm))
        optimizer = torch.optim.SGD(network.parameters(), settings.learning_rate, momentum=settings.momentum)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda epoch: settings.rate(epoch) / settings.learning_rate
        )
        training = Training(seed)
        for epoch_images, epoch_labels in zip(images, labels, strict=True):
            network.train()
            losses = []
            for x, y in zip(epoch_images, epoch_labels, strict=True):
                optimizer.zero_grad()
                value = criterion(network(x), y)
                value.backward()
                optimizer.step()
                losses.append(value.item())
            schedule.step()
            predictions = predict(network, split.test_images).argmax(axis=1)
            training.epoch(losses, accuracy_score(split.test_labels, predictions))
        yield training
