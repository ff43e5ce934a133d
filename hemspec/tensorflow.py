"""hemspec for TensorFlow: ``from hemspec.tensorflow import hem_loss``. The classes are in ``hemspec.keras``."""

try:
    import tensorflow as _tensorflow  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError('hemspec.tensorflow needs TensorFlow: pip install "hemspec[tensorflow]"') from error

from hemspec.margins import margin_from_num_samples, margins_from_class_counts
from hemspec_tensorflow.diagnostics import hem_diagnostics
from hemspec_tensorflow.functional import (
    cross_entropy_loss,
    dice_loss,
    focal_loss,
    hem_loss,
    logit_adjusted_loss,
    logit_norm_loss,
    multi_margin_loss,
)

__all__ = [
    "cross_entropy_loss",
    "dice_loss",
    "focal_loss",
    "hem_diagnostics",
    "hem_loss",
    "logit_adjusted_loss",
    "logit_norm_loss",
    "margin_from_num_samples",
    "margins_from_class_counts",
    "multi_margin_loss",
]
