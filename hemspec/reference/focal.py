r"""Focal loss, softmax form.

Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, with the softmax probability of the true class.

One position with logits z, label y, focusing parameter g >= 0 and optional class weights a::

    p = softmax(z)_y,   q = 1 - p = sum of the other probabilities
    l = -a_y q^g log p

q is never computed as 1 - p, which would round to 0 while p is still below 1. Its logarithm,
logsumexp over j != y minus logsumexp over all, is exact for all finite logits, so value and gradient are finite for
every g >= 0. Gradient, with r the softmax over the rivals alone (0 at y)::

    dl/dz = a_y q^g ((softmax(z) - onehot(y)) + g (-log p) (r - softmax(z)))

which is 0 at p = 1.

Infinities: as in cross-entropy; when all rivals are masked q is 0 (and 0^0 = 1), when z_y is -inf q is 1.

Two neighbours that are other losses: one-vs-rest *sigmoid* focal loss, as in torchvision; and the softmax mean of
MONAI and kornia, which also divides by C.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hemspec.arguments import REDUCTIONS, Reduction, check_reduction, read_number
from hemspec.reference.cross_entropy import cross_entropy
from hemspec.reference.positions import Evaluation, Floats, by_position, per_true_class, read_positions, reference_loss


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
    reduction: Reduction = "mean",
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
    rows = np.arange(len(z))
    minus_log_p, slopes = cross_entropy(z, y)  # the slopes are p - onehot(y)

    # Where infinities make q exactly 0 or 1 it is a constant.
    no_rival = np.isneginf(np.where(np.arange(z.shape[1]) == y[:, None], -np.inf, z)).all(axis=1)
    certain = (no_rival | np.isneginf(z[rows, y]))[:, None]
    inner = np.where(certain, 0.0, z)
    with np.errstate(invalid="ignore"):
        inner -= inner.max(axis=1, keepdims=True)
        others = inner.copy()
        others[rows, y] = -np.inf
        log_q = log_sum_exp(others) - log_sum_exp(inner)
        q_to_g = np.where(certain[:, 0], np.where(no_rival & (g > 0), 0.0, 1.0), np.exp(g * log_q))
        log_q_slopes = np.exp(others - log_sum_exp(others)[:, None]) - np.exp(inner - log_sum_exp(inner)[:, None])
        values = a * q_to_g * minus_log_p
        chain = np.where(certain, 0.0, g * minus_log_p[:, None] * log_q_slopes)
        slopes = (a * q_to_g)[:, None] * (slopes + chain)
    return by_position(positions, values, slopes, reduction)


def log_sum_exp(z: Floats) -> Floats:
    """log(sum(exp(z))) for each row, the maximum subtracted first."""
    top = z.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        total: Floats = top[:, 0] + np.log(np.exp(z - top).sum(axis=1))
    return total


gradient = focal_loss.gradient
