"""How large a margin to ask for: the paper's two rules.

Source: Spratling and Schütt, "A margin-based replacement for cross-entropy loss", arXiv 2501.12191 (2025).
"""

from __future__ import annotations

import math
import numbers
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hemspec.arguments import advice_on_text, read_constant

PAPER_SCALE: Final = 2000.0
"""M in the paper: 2000 training samples ask for a margin of 1."""


def margin_from_num_samples(num_samples: float) -> float:
    """The paper's margin for HEM: ``sqrt(2000 / num_samples)``.

    Args:
        num_samples: size of the whole training set, >= 1 (images for classification; for segmentation say
            which you counted, images or pixels).

    Returns:
        The margin, in units of a logit.

    Raises:
        TypeError: `num_samples` is not a number.
        ValueError: `num_samples` is not finite, or below 1: a share of something is no size.

    Example:
        >>> margin_from_num_samples(50_000)
        0.2
    """
    if isinstance(num_samples, bool) or not isinstance(num_samples, numbers.Real | np.number):
        advice = advice_on_text(num_samples) if isinstance(num_samples, str) else ""
        raise TypeError(f"num_samples must be a number; got {num_samples!r}{advice}")
    size = float(read_constant(num_samples, name="num_samples", positive=True))
    if size < 1:
        raise ValueError(f"num_samples must be >= 1, the size of the whole training set; got {size!r}, a share of it?")
    return math.sqrt(PAPER_SCALE / size)


def margins_from_class_counts(class_counts: Any) -> npt.NDArray[np.float64]:
    """The paper's margins for HEM+: ``sqrt(2000 / (C * class_counts[y]))`` for each true class y.

    A rare class gets a larger margin. Balanced counts give `margin_from_num_samples` of their sum.

    Args:
        class_counts: training samples per class, shape ``(C,)``, C >= 2: whole numbers >= 1, not shares. A pandas
            Series, a dict or a Counter, which say themselves what they count, are put in the order of the classes;
            their index has to be exactly 0 to C-1.

    Returns:
        float64 array of shape ``(C,)``, in units of a logit, to be passed as ``margin``.

    Raises:
        TypeError: the counts are not numbers.
        ValueError: not one axis, fewer than 2 classes, a count that is not finite, not whole or below 1, or an index
            that is not the classes.

    Example:
        >>> margins_from_class_counts([500, 125]).round(3).tolist()
        [1.414, 2.828]
        >>> margins_from_class_counts({1: 125, 0: 500}).round(3).tolist()
        [1.414, 2.828]
    """
    counts = read_constant(class_counts, name="class_counts", counts=True)
    if counts.ndim != 1 or counts.size < 2:
        raise ValueError(f"class_counts must have shape (C,) with C >= 2; got shape {counts.shape}")
    margins: npt.NDArray[np.float64] = np.sqrt(PAPER_SCALE / (counts.size * counts))
    return margins
