"""Replications with other networks, which decide nothing: benchmark/PROTOCOL.md, section 9.

A small vision transformer with AdamW on digits and on MNIST, a convolutional network that is trained on MNIST with
cross-entropy and goes on with a hundred digits, and a multilayer perceptron with Adam on rows of numbers.
"""

from __future__ import annotations

from typing import Final

from hemspec_benchmark.arms import CONFIRMING, PRIMARY
from hemspec_benchmark.settings import Cell, Listed
from hemspec_benchmark.swap.matrix import Training

SEEDS: Final = tuple(range(100, 110))

TRANSFORMERS: Final = {
    Training("digits", "vit", "adamw", "cosine", "free"): 0.01,
    Training("mnist", "vit", "adamw", "cosine", "free"): 0.003,
}
"""With the rates that the matrix of the swap chose for cross-entropy."""

FINE_TUNED: Final = Training("digits", "cnn", "momentum", "cosine", "free")
PRETRAINED: Final = Training("mnist", "cnn", "momentum", "cosine", "free")
PRETRAINING_RATE: Final = 0.1
"""The matrix's for MNIST."""
FINE_TUNING_RATES: Final = (0.01, 0.03, 0.1)
"""All of them are shown: a hundred images leave none to choose a rate on."""
TABLE: Final = Training("segments", "mlp", "adam", "cosine", "free")
TABLE_RATES: Final = (0.001, 0.003, 0.01)
TABLE_BATCH: Final = 64
TABLE_EPOCHS: Final = 30
RARE: Final = 50
"""The largest class to the smallest, in the imbalanced part."""
FEW: Final = 100
FEW_BATCH: Final = 20
FEW_EPOCHS: Final = 30


def cells() -> list[Cell]:
    """Training by training. They have a variant, so that they stand beside the comparison."""
    transformers = [f"transformer {training} {rate:g}" for training, rate in TRANSFORMERS.items()]
    tuned = [f"fine-tuning {FINE_TUNED} {rate:g}" for rate in FINE_TUNING_RATES]
    table = [f"table {TABLE} {rate:g}" for rate in TABLE_RATES]
    return [
        Cell("replication", setting, loss, "jax", seed, "replication")
        for setting in (*transformers, *tuned, *table)
        for seed in SEEDS
        for loss in PRIMARY
    ]


def plan() -> Listed:
    """All of them; those of one setting and seed share a compiled program, and what they go on from."""
    return Listed(tuple(cells()), CONFIRMING, ("jax",), "hemspec_benchmark.swap.worker", ("setting", "seed"))
