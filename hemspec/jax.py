"""hemspec for JAX: ``from hemspec.jax import HEMLoss``."""

try:
    import jax as _jax  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError('hemspec.jax needs JAX: pip install "hemspec[jax]"') from error

from hemspec.margins import margin_from_num_samples, margins_from_class_counts
from hemspec_jax.classes import (
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    HEMLoss,
    LinearHEMLoss,
    LogitAdjustedLoss,
    LogitNormLoss,
    MultiMarginLoss,
)
from hemspec_jax.diagnostics import hem_diagnostics
from hemspec_jax.functional import (
    cross_entropy_loss,
    dice_loss,
    focal_loss,
    hem_loss,
    logit_adjusted_loss,
    logit_norm_loss,
    multi_margin_loss,
)
from hemspec_jax.linear import linear_hem_loss

__all__ = [
    "CrossEntropyLoss",
    "DiceLoss",
    "FocalLoss",
    "HEMLoss",
    "LinearHEMLoss",
    "LogitAdjustedLoss",
    "LogitNormLoss",
    "MultiMarginLoss",
    "cross_entropy_loss",
    "dice_loss",
    "focal_loss",
    "hem_diagnostics",
    "hem_loss",
    "linear_hem_loss",
    "logit_adjusted_loss",
    "logit_norm_loss",
    "margin_from_num_samples",
    "margins_from_class_counts",
    "multi_margin_loss",
]
