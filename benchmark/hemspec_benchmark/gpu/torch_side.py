"""ResNet-18 and a vision transformer in PyTorch."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from hemspec_benchmark import batches, datasets
from hemspec_benchmark.datasets import Dataset
from hemspec_benchmark.gpu.plan import epochs
from hemspec_benchmark.learner import Build
from hemspec_benchmark.losses import LOSSES
from hemspec_benchmark.network import initial_weights
from hemspec_benchmark.settings import Cell, Protocol
from hemspec_benchmark.swap.matrix import Matrix, Training, read_setting
from hemspec_benchmark.swap.measured import clean_and_far
from hemspec_benchmark.tasks import Outcome
from hemspec_benchmark.torch_learner import Learner
from hemspec_benchmark.training import ORDER, Record, fit

WIDTH, LAYERS, HEADS = 64, 4, 4


def run(cell: Cell, protocol: Protocol) -> Outcome:
    """Clean accuracy and far unknowns after one training."""
    training, rate = read_setting(cell.setting)
    data = datasets.divided(training.data, cell.seed)
    learner = begun(training, data, cell.loss, cell.seed)
    recipe, length, rng = protocol.classification, epochs(protocol, training), np.random.default_rng((cell.seed, ORDER))
    record = Record()
    for epoch in range(length):
        parts = batches.epoch(data.train_images, data.train_labels, recipe.batch_size, rng, shift=data.shift)
        fit(learner, parts, rate * recipe.rate(epoch, length) / recipe.learning_rate, record)
    return Outcome(clean_and_far(learner.logits, data))


def begun(training: Training, data: Dataset, loss: str, seed: int) -> Learner:
    """A network before its first step."""
    build = Build(
        architecture=training.network,
        image_shape=data.train_images.shape[1:],
        classes=data.num_classes,
        loss=loss,
        class_counts=LOSSES[loss].needs(data.class_counts),
    )
    if training.network == "vit":
        return Transformed(build, seed)
    learner = Learner(build)
    learner.start(initial_weights(training.network, build.image_shape, build.classes, seed))
    return learner


class Transformed(Learner):
    """A learner with a vision transformer and AdamW."""

    def __init__(self, build: Build, seed: int) -> None:
        super().__init__(build)
        torch.manual_seed(seed)
        self.network = VisionTransformer(build.image_shape[0], build.image_shape[2], build.classes).to(self.device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), 0.0, weight_decay=Matrix().weight_decay)


class VisionTransformer(nn.Module):
    """On patches of a seventh of the image's width, at least 2 pixels: MNIST has 49 of them."""

    def __init__(self, size: int, channels: int, classes: int) -> None:
        super().__init__()
        side = max(2, size // 7)
        self.patches = nn.Conv2d(channels, WIDTH, side, side)
        self.position = nn.Parameter(0.02 * torch.randn((size // side) ** 2, WIDTH))
        # Not `nn.TransformerEncoder`, whose layers all begin with the same weights.
        layer = partial(nn.TransformerEncoderLayer, WIDTH, HEADS, 2 * WIDTH, dropout=0.0, activation="gelu")
        layers = [layer(batch_first=True, norm_first=True) for _ in range(LAYERS)]
        self.encoder = nn.Sequential(*layers, nn.LayerNorm(WIDTH))
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, channels, size, size)."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.position
        logits: Tensor = self.head(self.encoder(tokens).mean(dim=1))
        return logits
