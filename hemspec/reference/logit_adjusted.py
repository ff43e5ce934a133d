"""LA, logit-adjusted cross-entropy.

Source: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021.

One position with logits z, label y, temperature T > 0 and class priors pi = class_counts / sum(class_counts)::

    l = logsumexp(z + T log pi) - (z_y + T log pi_y)

Gradient: softmax(z + T log pi) - onehot(y). Predict from the raw logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hemspec.arguments import (
    REDUCTIONS,
    Reduction,
    check_per_class,
    check_reduction,
    log_prior,
    read_constant,
    read_number,
)
from hemspec.reference.cross_entropy import cross_entropy
from hemspec.reference.positions import Evaluation, by_position, read_positions, reference_loss


@reference_loss
def logit_adjusted_loss(
    logits: Any,
    labels: Any,
    *,
    class_counts: Any,
    temperature: Any = 1.0,
    axis: int = -1,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
) -> Evaluation:
    """Logit-adjusted cross-entropy: cross-entropy of ``z + temperature * log(prior)``. Predict from the raw logits.

    Args:
        logits: floating point, any shape with a class axis of size C >= 2.
        labels: integers in [0, C), the shape of the logits without the class axis.
        class_counts: training samples per class, shape ``(C,)``: whole numbers >= 1, within rounding; the priors are
            their shares. A Series, dict or Counter is put in the order of the classes.
        temperature: a number > 0.
        axis, sample_weight, ignore_index: as in `hem_loss`.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss, float64 for float64 logits, else float32; also ``.gradient(...)`` and ``.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> round(float(logit_adjusted_loss([[0.0, 0.0]], [1], class_counts=[3, 1])), 4)  # -log(1/4)
        1.3863
    """
    check_reduction(reduction, REDUCTIONS)
    t = read_number(temperature, name="temperature", positive=True)
    counts = read_constant(class_counts, name="class_counts", counts=True)
    positions = read_positions(logits, labels, axis=axis, sample_weight=sample_weight, ignore_index=ignore_index)
    check_per_class(counts.shape, positions.classes, name="class_counts", scalar=False)
    z = positions.logits
    with np.errstate(invalid="ignore"):  # the offset goes first, so that adding the prior does not round at its size
        z = z - z.max(axis=1, keepdims=True)
    values, slopes = cross_entropy(z + t * log_prior(counts), positions.labels)
    return by_position(positions, values, slopes, reduction)


gradient = logit_adjusted_loss.gradient
