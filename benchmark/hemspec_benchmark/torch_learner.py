"""Training in PyTorch: modules, autograd, `torch.optim`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hemspec.torch
from hemspec_benchmark.learner import Build, Objective, in_batches, median_seconds
from hemspec_benchmark.losses import LOSSES
from hemspec_benchmark.network import ARCHITECTURES, BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM, Array, Weights


class BatchNorm(nn.BatchNorm2d):
    """Batch norm whose running variance is the plain one, as in the other frameworks, where PyTorch's is unbiased."""

    running_var: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        kept = BATCH_NORM_MOMENTUM * self.running_var
        normed: Tensor = super().forward(x)
        count = x.numel() // x.shape[1]
        self.running_var = kept + (self.running_var - kept) * ((count - 1) / count)
        return normed


class Network(nn.Module):
    """An architecture with its weights; images and feature maps are (N, channels, height, width)."""

    def __init__(self, build: Build, weights: Weights) -> None:
        super().__init__()
        self.architecture, self.classes = ARCHITECTURES[build.architecture], build.classes
        self.weights, self.norms = nn.ParameterDict(), nn.ModuleDict()
        for name, array in weights.items():
            layer, _, kind = name.rpartition("/")
            if kind == "scale":
                self.norms[layer] = BatchNorm(len(array), BATCH_NORM_EPSILON, 1.0 - BATCH_NORM_MOMENTUM)
            elif kind != "shift":
                order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim]
                self.weights[name] = nn.Parameter(torch.from_numpy(array.transpose(order).copy()))
        for layer, norm in self.norms.items():
            norm.weight.data = torch.from_numpy(weights[f"{layer}/scale"].copy())
            norm.bias.data = torch.from_numpy(weights[f"{layer}/shift"].copy())

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.architecture(self, images, self.classes)
        return logits

    def convolution(
        self, name: str, x: Tensor, channels: int, *, size: int = 3, stride: int = 1, bias: bool = True
    ) -> Tensor:
        shift = self.weights[f"{name}/bias"] if bias else None
        return F.conv2d(x, self.weights[f"{name}/kernel"], shift, stride, padding=size // 2)

    def norm(self, name: str, x: Tensor) -> Tensor:
        normed: Tensor = self.norms[name](x)
        return normed

    def linear(self, name: str, x: Tensor, outputs: int) -> Tensor:
        return F.linear(x, self.weights[f"{name}/kernel"], self.weights[f"{name}/bias"])

    def silu(self, x: Tensor) -> Tensor:
        return F.silu(x)

    def relu(self, x: Tensor) -> Tensor:
        return F.relu(x)

    def halve(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)

    def enlarge(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="nearest")

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([x, y], dim=1)

    def average(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))

    def flatten(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


def device() -> str:
    """What trains: the name of a GPU, or ``"cpu"``."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


class Learner:
    """See `hemspec_benchmark.learner.Learner`."""

    def __init__(self, build: Build) -> None:
        self.build = build
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Float32 means float32, also where an accelerator would rather round.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self.criterion = LOSSES[build.loss].build(hemspec.torch, build.counts).to(self.device)

    def start(self, weights: Weights) -> None:
        torch.manual_seed(0)  # nothing below draws; a safeguard
        self.network: nn.Module = Network(self.build, weights).to(self.device)
        trained, decay = self.network.parameters(), self.build.weight_decay
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.Adam(trained, 0.0, weight_decay=decay)
            if self.build.optimizer == "adam"
            else torch.optim.SGD(trained, 0.0, momentum=self.build.momentum, weight_decay=decay)
        )

    def fit(self, images: Array, labels: Array, rate: float, groups: Array | None = None) -> tuple[Array, Array]:
        self.network.train()
        self.optimizer.param_groups[0]["lr"] = rate
        x, y = self._images(images), self._labels(labels)
        heads = None if groups is None else self._labels(groups)
        losses, norms = [], []
        for step in range(len(x)):
            self.optimizer.zero_grad()
            logits = self._forward(x[step])
            if heads is not None:
                logits = logits.reshape(len(logits), self.build.heads, -1)[torch.arange(len(logits)), heads[step]]
            loss = self._loss(logits, y[step])
            loss.backward()
            norms.append(nn.utils.get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None]))
            if self.build.clip is not None:
                nn.utils.clip_grads_with_norm_(self.network.parameters(), self.build.clip, norms[-1])
            self.optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses).cpu().numpy(), torch.stack(norms).cpu().numpy()

    def logits(self, images: Array) -> Array:
        def evaluate(images: Array) -> tuple[Array]:
            with torch.no_grad():
                return (self._numpy(self._forward(self._images(images))),)

        self.network.eval()
        return in_batches(evaluate, self.build.evaluation_batch, images)[0]

    def input_gradient(self, images: Array, labels: Array, objective: Objective) -> tuple[Array, Array]:
        def attack(images: Array, labels: Array) -> tuple[Array, Array]:
            x, y = self._images(images).requires_grad_(), self._labels(labels)
            logits = self._forward(x)
            value = margin(logits, y) if objective == "margin" else self._loss(logits, y)
            (gradient,) = torch.autograd.grad(value, x)
            return self._numpy(logits.detach()), self._numpy(gradient)

        self.network.eval()
        logits, gradient = in_batches(attack, self.build.evaluation_batch, images, labels)
        return logits, gradient

    def loss_seconds(self, logits: Array, labels: Array) -> float:
        z, y = torch.from_numpy(logits).to(self.device).requires_grad_(), self._labels(labels)
        return median_seconds(lambda: torch.autograd.grad(self._loss(z, y), z)[0].cpu())

    def _loss(self, logits: Tensor, labels: Tensor) -> Any:
        if self.build.over_batch and logits.ndim == 2:
            logits, labels = logits.T[None], labels[None]
        return self.criterion(logits, labels)

    def _forward(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.build.mixed_precision):
            logits: Tensor = self.network(x)
        return logits

    def _images(self, images: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, -3))).to(self.device)

    def _labels(self, labels: Array) -> Tensor:
        return torch.from_numpy(labels).long().to(self.device)

    @staticmethod
    def _numpy(x: Tensor) -> Array:
        """Channels last, as NumPy has them here."""
        return x.movedim(1, -1).float().cpu().numpy()


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest other logit minus the true one, summed."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return (others.amax(dim=1) - logits.gather(1, labels[:, None])[:, 0]).sum()
