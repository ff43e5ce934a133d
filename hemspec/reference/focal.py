r"""Focal loss, softmax form.

Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, with the softmax probability of the true class.

One position with logits z, label y, focusing parameter g >= 0 and optional class weights a::

    p = softmax(z)_y,   q = 1 - p = sum of the other probabilities
    l = -a_y q^g log p

q is never computed as 1 - p, which would round to 0 while p is still below 1. Its logarithm,
logsumexp over j != y minus logsumexp over all, is exact for all finite logits, so value and gradient are finite for
every g >= 0. Gradient: a_y q^g (1 + g p (-log p)/q) (softmax(z) - onehot(y)), 0 at p = 1.

Infinities: as in cross-entropy; when all rivals are masked q is 0 (and 0^0 = 1), when z_y is -inf q is 1.

Two neighbours that are other losses: one-vs-rest *sigmoid* focal loss, as in torchvision; and the softmax mean of
MONAI and kornia, which also divides by C.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hemspec.arguments import REDUCTIONS, check_reduction, read_number
from hemspec.reference.cross_entropy import cross_entropy
from hemspec.reference.positions import Evaluation, by_position, per_true_class, read_positions, reference_loss


@reference_loss
def focal_loss(
    logits: Any,
    labels: Any,
    *,
    gamma: Any = 2.0,
    alpha: Any = None,
    axis: int = -1,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    reduction: str = "mean",
) -> Evaluation:
    """Focal loss, softmax form: ``-alpha_y (1 - p)^gamma log p`` with p the softmax probability of the true class.

    Not the one-vs-rest sigmoid focal loss of torchvision, and not divided by C as MONAI's and kornia's mean is.

    Args:
        logits: floating point, any shape with a class axis of size C >= 2.
        labels: integers in [0, C), the shape of the logits without the class axis.
        gamma: focusing parameter, a number >= 0; 0 gives cross-entropy.
        alpha: None, or class weights >= 0 of shape ``(C,)``, indexed by the true class.
        axis, sample_weight, ignore_index: as in `hem_loss`.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``. ``alpha`` is a factor of the loss, not a weight of the mean.

    Returns:
        The loss, float64 for float64 logits, else float32; also ``.gradient(...)`` and ``.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> round(float(focal_loss([[0.0, 0.0]], [1], gamma=2.0)), 4)
        0.1733
    """
    check_reduction(reduction, REDUCTIONS)
    g = read_number(gamma, name="gamma")
    positions = read_positions(logits, labels, axis=axis, sample_weight=sample_weight, ignore_index=ignore_index)
    a = 1.0 if alpha is None else per_true_class(alpha, positions, name="alpha", scalar=False)

    z, y = positions.logits, positions.labels
    minus_log_p, slopes = cross_entropy(z, y)
    rows = np.arange(len(z))
    others = z.copy()
    others[rows, y] = -np.inf
    with np.errstate(invalid="ignore", divide="ignore"):
        top = others.max(axis=1)
        rivals = np.where(np.isinf(top), 0.0, top)
        log_q = rivals + np.log(np.exp(others - rivals[:, None]).sum(axis=1)) - (minus_log_p + z[rows, y])
        log_q = np.where(z[rows, y] == -np.inf, 0.0, log_q)
        q_to_g = np.exp(g * log_q) if g > 0 else np.ones_like(log_q)
        # p (-log p) / q tends to 1 as q tends to 0, and to 0 as p tends to 0.
        ratio = np.where(
            log_q == -np.inf, 1.0, np.where(np.isinf(minus_log_p), 0.0, np.exp(-minus_log_p - log_q) * minus_log_p)
        )
        factor = a * q_to_g * (1.0 + g * ratio)
        values, slopes = a * q_to_g * minus_log_p, factor[:, None] * slopes
    return by_position(positions, values, slopes, reduction)


gradient = focal_loss.gradient
