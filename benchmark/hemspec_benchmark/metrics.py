"""What the tasks measure, by scikit-learn wherever it has it. All are fractions; nan where there is nothing to measure.

Logits that are not finite, as after a training that diverged, have no ranking: their rejection is nan, not an error.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    jaccard_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

Floats = npt.NDArray[np.float64]

BINS: Final = 15
"""Of the expected calibration error."""


def rejection(known_logits: npt.ArrayLike, unknown_logits: npt.ArrayLike) -> dict[str, float]:
    """How well the largest logit, and the largest softmax probability, tell known from unknown.

    Known (in-distribution) is the positive class and should score higher.

    - ``auroc``: the probability that a known image scores above an unknown one, ties one half; chance is 0.5.
    - ``aupr``: average precision; chance is the share of known images.
    - ``fpr95``: the share of unknown images accepted at the strictest threshold that accepts 95 % of the known.

    Source: Hendrycks, Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples, ICLR 2017;
    the largest logit: Hendrycks et al., Scaling Out-of-Distribution Detection for Real-World Settings, ICML 2022.

    Args:
        known_logits: (N, C).
        unknown_logits: (M, C).

    Returns:
        ``auroc/max_logit``, ``aupr/max_logit``, ``fpr95/max_logit`` and the same for ``max_softmax``.
    """
    known, unknown = np.asarray(known_logits, np.float64), np.asarray(unknown_logits, np.float64)
    is_known = np.repeat([1, 0], [len(known), len(unknown)])
    logits = np.concatenate([known, unknown])
    if not np.isfinite(logits).all():
        logits = np.full_like(logits, math.nan)
    result = {}
    for name, scores in {"max_logit": logits.max(axis=1), "max_softmax": softmax(logits, axis=1).max(axis=1)}.items():
        ranked = bool(np.isfinite(scores).all())
        result[f"auroc/{name}"] = float(roc_auc_score(is_known, scores)) if ranked else math.nan
        result[f"aupr/{name}"] = float(average_precision_score(is_known, scores)) if ranked else math.nan
        result[f"fpr95/{name}"] = _fpr95(is_known, scores) if ranked else math.nan
    return result


def _fpr95(is_known: Any, scores: Any) -> float:
    false_positives, true_positives, _ = roc_curve(is_known, scores, drop_intermediate=False)
    return float(false_positives[np.argmax(true_positives >= 0.95)])


def calibration(logits: npt.ArrayLike, labels: npt.ArrayLike, temperature: float = 1.0) -> dict[str, float]:
    """Whether the softmax of logits / temperature can be read as probabilities.

    - ``nll``: the mean negative log-likelihood, in nats.
    - ``ece``: the expected calibration error of the largest probability, 15 bins of equal width (Guo et al., On
      Calibration of Modern Neural Networks, ICML 2017).

    nan where a logit is not finite.

    Args:
        logits: (N, C).
        labels: (N,).
        temperature: above 0, see `best_temperature`.
    """
    z, y = np.asarray(logits, np.float64), np.asarray(labels)
    if not np.isfinite(z).all():
        return {"nll": math.nan, "ece": math.nan}
    log_probabilities = log_softmax(z / temperature, axis=1)
    sure = np.exp(log_probabilities.max(axis=1))
    right = z.argmax(axis=1) == y
    bins = np.minimum((BINS * sure).astype(int), BINS - 1)
    gaps = [abs(float(np.sum(right[bins == b]) - np.sum(sure[bins == b]))) for b in range(BINS)]
    return {"nll": float(-log_probabilities[np.arange(len(y)), y].mean()), "ece": sum(gaps) / len(y)}


def best_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """By what logits (N, C) have to be divided for the smallest negative log-likelihood of labels (N,); 0.01 to 100."""
    z, y = np.asarray(logits, np.float64), np.asarray(labels)
    if not np.isfinite(z).all():
        return math.nan
    found = minimize_scalar(lambda log: calibration(z, y, math.exp(log))["nll"], bounds=np.log([0.01, 100.0]))
    return math.exp(found.x)


def recalls(labels: npt.ArrayLike, predictions: npt.ArrayLike, num_classes: int) -> Floats:
    """The recall of each class, (C,): the share of its images that were recognised, nan where it has none."""
    result: Floats = recall_score(
        labels, predictions, labels=np.arange(num_classes), average=None, zero_division=math.nan
    )
    return result


def balanced(labels: npt.ArrayLike, predictions: npt.ArrayLike, class_counts: npt.ArrayLike) -> dict[str, float]:
    """Recall averaged over classes: all of them, and those with many, medium and few training images.

    Many, medium and few are thirds of the classes by `class_counts` (of ten classes: 4, 3, 3). The usual bounds, more
    than 100 and fewer than 20 images (Liu et al., Large-Scale Long-Tailed Recognition in an Open World, CVPR 2019),
    would leave groups empty on small data.

    Args:
        labels: (N,), of the test images.
        predictions: (N,).
        class_counts: (C,), of the training images.

    Returns:
        ``balanced_accuracy``, ``many``, ``medium``, ``few``.
    """
    counts = np.asarray(class_counts)
    recall = recalls(labels, predictions, len(counts))
    groups = np.array_split(np.argsort(-counts, kind="stable"), 3)
    return {"balanced_accuracy": _mean(recall)} | {
        name: _mean(recall[group]) for name, group in zip(("many", "medium", "few"), groups, strict=True)
    }


def continual(matrix: npt.ArrayLike) -> dict[str, float]:
    """What is known at the end of a sequence, and what was known before and is not any more.

    - ``average_accuracy``: the mean of the last row.
    - ``forgetting``: over all experiences but the last, the mean of the best accuracy before the last training minus
      the accuracy after it; negative where later training helped. nan for a single experience.

    Source: Chaudhry et al., Riemannian Walk for Incremental Learning, ECCV 2018; scikit-learn has neither.

    Args:
        matrix: (E, E), the accuracy on experience j after training on experience i in ``matrix[i][j]``.

    Raises:
        ValueError: the matrix is not square.
    """
    accuracy = np.asarray(matrix, np.float64)
    if accuracy.ndim != 2 or accuracy.shape[0] != accuracy.shape[1] or not accuracy.size:
        raise ValueError(f"matrix must be square, (experiences, experiences), got shape {accuracy.shape}")
    last = len(accuracy) - 1
    lost = [accuracy[j:last, j].max() - accuracy[last, j] for j in range(last)]
    return {"average_accuracy": float(accuracy[last].mean()), "forgetting": _mean(np.array(lost))}


def segmentation(confusion: npt.ArrayLike) -> dict[str, float]:
    """Of one confusion matrix over all labelled pixels of the test set, not of a mean over images.

    The intersection over union of a class counts its pixels in truth or prediction; one that is in neither is nan and
    left out of the mean.

    Source: Everingham et al., The PASCAL Visual Object Classes Challenge: A Retrospective, IJCV 2015.

    Args:
        confusion: (C, C) pixel counts, rows the truth, as `sklearn.metrics.confusion_matrix` makes it.

    Returns:
        ``miou``, ``pixel_accuracy`` and ``iou/0`` ... ``iou/<C - 1>``.
    """
    pixels = np.asarray(confusion)
    classes = np.arange(len(pixels))
    if not pixels.any():
        return dict.fromkeys(["miou", "pixel_accuracy", *(f"iou/{c}" for c in classes)], math.nan)
    truth, predicted = (index.ravel() for index in np.indices(pixels.shape))
    weights = pixels.ravel()
    iou = jaccard_score(truth, predicted, labels=classes, average=None, sample_weight=weights, zero_division=0)
    iou = np.where(pixels.sum(axis=0) + pixels.sum(axis=1) > 0, iou, math.nan)
    accuracy = accuracy_score(truth, predicted, sample_weight=weights)
    return {"miou": _mean(iou), "pixel_accuracy": float(accuracy)} | {
        f"iou/{c}": float(value) for c, value in enumerate(iou)
    }


def _mean(values: Any) -> float:
    """Without the nan; nan where nothing is left."""
    finite = values[~np.isnan(values)]
    return float(finite.mean()) if finite.size else math.nan
