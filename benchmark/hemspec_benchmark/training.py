"""What a training loop hands back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Training:
    """The record of one training; its clock runs from here to the last epoch.

    With compiling frameworks the first seed of each loss includes the compilation.
    """

    seed: int
    step_losses: list[float] = field(default_factory=list)
    """Losses of the first epoch, step by step: what the agreement of the frameworks is checked on."""
    train_loss: list[float] = field(default_factory=list)
    """After each epoch, the mean of its steps' losses."""
    test_accuracy: list[float] = field(default_factory=list)
    """After each epoch."""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._start = time.perf_counter()

    def epoch(self, losses: Sequence[float], test_accuracy: float) -> None:
        """Note the end of an epoch: the loss of each of its steps, and the accuracy on the test images."""
        if not self.train_loss:
            self.step_losses = [float(value) for value in losses]
        self.train_loss.append(float(np.mean(losses)))
        self.test_accuracy.append(float(test_accuracy))
        self.seconds = time.perf_counter() - self._start
