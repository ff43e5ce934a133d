"""How large a margin to ask for: the paper's two rules.

Source: Spratling and Schütt, "A margin-based replacement for cross-entropy loss", arXiv 2501.12191 (2025).
"""

from __future__ import annotations

import math
import numbers
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hemspec.arguments import read_constant

PAPER_SCALE: Final = 2000.0
"""M in the paper: 2000 training samples ask for a margin of 1."""


def margin_from_num_samples(num_samples: float) -> float:
    """The paper's margin for HEM: ``sqrt(2000 / num_samples)``.

    Args:
        num_samples: size of the whole training set, > 0 (images for classification; for segmentation say
            which you counted, images or pixels).

    Returns:
        The margin, in units of a logit.

    Raises:
        TypeError: `num_samples` is not a number.
        ValueError: `num_samples` is not finite and > 0.

    Example:
        >>> margin_from_num_samples(50_000)
        0.2
    """
    if isinstance(num_samples, bool) or not isinstance(num_samples, numbers.Real | np.number):
        raise TypeError(f"num_samples must be a number; got {num_samples!r}")
    return math.sqrt(PAPER_SCALE / float(read_constant(num_samples, name="num_samples", positive=True)))


def margins_from_class_counts(class_counts: Any) -> npt.NDArray[np.float64]:
    """The paper's margins for HEM+: ``sqrt(2000 / (C * class_counts[y]))`` for each true class y.

    A rare class gets a larger margin. Balanced counts give `margin_from_num_samples` of their sum.

    Args:
        class_counts: training samples per class, shape ``(C,)``, C >= 2, each > 0.

    Returns:
        float64 array of shape ``(C,)``, in units of a logit, to be passed as ``margin``.

    Raises:
        TypeError: the counts are not numbers.
        ValueError: not one axis, fewer than 2 classes, or a count that is not finite and > 0.

    Example:
        >>> margins_from_class_counts([500, 125]).round(3).tolist()
        [1.414, 2.828]
    """
    counts = read_constant(class_counts, name="class_counts", positive=True)
    if counts.ndim != 1 or counts.size < 2:
        raise ValueError(f"class_counts must have shape (C,) with C >= 2; got shape {counts.shape}")
    margins: npt.NDArray[np.float64] = np.sqrt(PAPER_SCALE / (counts.size * counts))
    return margins
