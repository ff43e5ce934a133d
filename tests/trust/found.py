"""What random calls have found, as they were told: every backend is asked these in every run."""

from __future__ import annotations

import numpy as np

from hemspec_conformance.adapter import Call
from hemspec_conformance.cases import Case

INF = np.inf

FOUND = [
    # The loss was NaN and its gradient 0, in all three frameworks.
    Case(
        "infinite_loss_times_a_class_weight_of_zero",
        Call(
            "focal_loss",
            np.array([[0.0, -INF], [1.0, 0.0]]),
            np.array([1, 0]),
            reduction="none",
            constants={"alpha": np.array([1.75, 0.0])},
        ),
    ),
    # NaN in JAX: XLA multiplies by a reciprocal that it flushes to 0.
    Case(
        "norm_of_the_largest_float32",
        Call("logit_norm_loss", np.array([[4.5, 3.4028234663852886e38, -4.5]]), np.array([0]), reduction="none"),
    ),
    # Keras on PyTorch refused them.
    *(
        Case(
            f"labels_and_weights_of_{dtype}",
            Call(
                "hem_loss",
                np.array([[0.0, 1.0], [2.0, 0.0]]),
                np.array([0, 1], dtype),
                np.array([1, 2], dtype),
                ignore_index=255,
                reduction="sum",
            ),
        )
        for dtype in ("uint16", "uint32", "uint64")
    ),
]
