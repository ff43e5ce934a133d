"""Soft Dice loss, multi-class, softmax inside.

An image is all positions that share an index of the labels' first axis; with no further axes it is one position.
Over its valid positions, with p = softmax(z), weights w and labels y::

    P_c = sum w p_c      T_c = sum w [y = c]      I_c = sum w p_c [y = c]
    l   = 1 - mean over the classes with T_c > 0 of (2 I_c + s) / (P_c + T_c + s)

A class that is absent from the image is left out of the mean, so no epsilon is needed: a class that is present has
T_c > 0. Libraries disagree on absent classes, on smoothing and on axes: compare values before swapping one for another.
segmentation-models-pytorch counts an absent class as 0 in a mean over all C, MONAI keeps the loss it has by itself; the
macro form of kornia 0.9 has our values. The s of optax and of segmentation-models-pytorch is half of ours.

Gradient, for a position of the image and each class c::

    g_c = -w / (number of present classes) * (2 [y = c] / D_c - (2 I_c + s) / D_c^2) [T_c > 0],   D_c = P_c + T_c + s
    dl/dz_c = p_c (g_c - sum over k of p_k g_k)

An image with a bad position (NaN, +inf, or nothing but -inf) is NaN. A class at -inf has p_c = 0, also the true one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hemspec.arguments import REDUCTIONS, Reduction, check_flag, check_reduction, read_number
from hemspec.reference.positions import Evaluation, read_positions, reference_loss


@reference_loss
def dice_loss(
    logits: Any,
    labels: Any,
    *,
    smooth: Any = 0.0,
    batch: bool = False,
    axis: int = -1,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
) -> Evaluation:
    """Soft Dice loss over the classes present in each image, softmax inside.

    Args:
        logits: floating point, any shape with a class axis of size C >= 2.
        labels: integers in [0, C), the shape of the logits without the class axis; the first axis counts images.
        smooth: a number >= 0, added once to numerator and denominator; that of optax and of
            segmentation-models-pytorch is half of it (2 here for their 1).
        batch: treat the whole batch as one image.
        axis, ignore_index: as in `hem_loss`.
        sample_weight: as in `hem_loss`, but weights act inside an image only: one weight for a whole image changes
            nothing at ``smooth=0``, and images are averaged unweighted.
        reduction: ``"mean"`` or ``"sum"`` over the images that have a valid position, or ``"none"``, of shape ``(N,)``
            (a scalar for ``batch=True`` and for logits with a class axis only).

    Returns:
        The loss, float64 for float64 logits, else float32; also ``.gradient(...)`` and ``.terms(...)``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> round(float(dice_loss([[[0.0, 0.0], [0.0, 0.0]]], [[0, 1]])), 4)
        0.5
    """
    check_reduction(reduction, REDUCTIONS)
    check_flag(batch, name="batch")
    s = read_number(smooth, name="smooth")
    positions = read_positions(logits, labels, axis=axis, sample_weight=sample_weight, ignore_index=ignore_index)

    shape = () if batch or not positions.shape else positions.shape[:1]
    image = np.zeros_like(positions.labels) if batch else positions.images
    z, w = positions.logits, positions.weights[:, None]
    with np.errstate(invalid="ignore"):
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
    true = (positions.labels[:, None] == np.arange(positions.classes)).astype(np.float64)

    def per_image(rows: Any) -> Any:
        total = np.zeros((int(np.prod(shape)), positions.classes))
        np.add.at(total, image, rows)
        return total

    predicted, present, overlap = per_image(w * p), per_image(w * true), per_image(w * p * true)
    counted = present > 0
    classes_present = np.maximum(counted.sum(axis=1), 1)[:, None]
    union = np.where(counted, predicted + present + s, 1.0)
    ratio = np.where(counted, (2 * overlap + s) / union, 0.0)
    has_positions = counted.any(axis=1)
    # A bad position may have spoilt only classes that are absent: it still makes the image NaN.
    spoilt = np.isnan(predicted).any(axis=1)
    values = np.where(spoilt, np.nan, np.where(has_positions, 1.0 - (ratio / classes_present).sum(axis=1), 0.0))

    per_class = np.where(counted, 1.0 / (classes_present * union), 0.0)
    g = -w * per_class[image] * (2 * true - ratio[image])
    slopes = p * (g - (p * g).sum(axis=1, keepdims=True))
    return Evaluation(positions, values, has_positions.astype(np.float64), slopes, shape, image, reduction)


gradient = dice_loss.gradient
