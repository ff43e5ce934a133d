"""hemspec for PyTorch: ``from hemspec.torch import HEMLoss``."""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError('hemspec.torch needs PyTorch: pip install "hemspec[torch]"') from error

from hemspec.margins import margin_from_num_samples, margins_from_class_counts
from hemspec_torch.diagnostics import hem_diagnostics
from hemspec_torch.functional import (
    cross_entropy_loss,
    dice_loss,
    focal_loss,
    hem_loss,
    logit_adjusted_loss,
    logit_norm_loss,
    multi_margin_loss,
)
from hemspec_torch.linear import linear_hem_loss
from hemspec_torch.modules import (
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    HEMLoss,
    LinearHEMLoss,
    LogitAdjustedLoss,
    LogitNormLoss,
    MultiMarginLoss,
)

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
