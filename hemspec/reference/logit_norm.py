"""LogitNorm: cross-entropy of logits of unit norm, sharpened by a temperature.

Source: Wei et al., "Mitigating Neural Network Overconfidence with Logit Normalization", ICML 2022.

One position with logits z, label y and temperature T > 0::

    u = z / ((||z||_2 + 1e-7) * T)
    l = logsumexp(u) - u_y

The norm is taken of z / max|z|, so that no finite logits overflow. Gradient, with r = softmax(u) - onehot(y) and
v = z / ||z||::

    dl/dz = (r - v (v . r) ||z|| / (||z|| + 1e-7)) / ((||z|| + 1e-7) T)

the subgradient of the norm at z = 0 is 0, so there it is r / (1e-7 T). Any infinity gives NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hemspec.arguments import REDUCTIONS, Reduction, check_reduction, read_number
from hemspec.reference.cross_entropy import cross_entropy
from hemspec.reference.positions import Evaluation, by_position, read_positions, reference_loss

EPSILON = 1e-7


@reference_loss
def logit_norm_loss(
    logits: Any,
    labels: Any,
    *,
    temperature: Any = 0.04,
    axis: int = -1,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
) -> Evaluation:
    """LogitNorm loss: cross-entropy of ``z / ((||z|| + 1e-7) * temperature)``.

    Args:
        logits: floating point, any shape with a class axis of size C >= 2.
        labels: integers in [0, C), the shape of the logits without the class axis.
        temperature: a number > 0.
        axis, sample_weight, ignore_index: as in `hem_loss`.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss, float64 for float64 logits, else float32; also ``.gradient(...)`` and ``.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> round(float(logit_norm_loss([[3.0, 4.0]], [0], temperature=1.0)), 4)
        0.7981
    """
    check_reduction(reduction, REDUCTIONS)
    t = read_number(temperature, name="temperature", positive=True)
    positions = read_positions(logits, labels, axis=axis, sample_weight=sample_weight, ignore_index=ignore_index)

    z = positions.logits
    with np.errstate(invalid="ignore", over="ignore"):
        scale = np.abs(z).max(axis=1, keepdims=True)
        scale = np.where(scale == 0, 1.0, scale)
        length = np.sqrt(((z / scale) ** 2).sum(axis=1, keepdims=True))
        sharp = (length + EPSILON / scale) * t  # (||z|| + epsilon) T in units of `scale`
        values, r = cross_entropy(z / scale / sharp, positions.labels)
        v = z / scale / np.where(length == 0, 1.0, length)
        along = v * (v * r).sum(axis=1, keepdims=True) * length / (length + EPSILON / scale)
        slopes = (r - along) / (sharp * scale)
    return by_position(positions, values, slopes, reduction)


gradient = logit_norm_loss.gradient
