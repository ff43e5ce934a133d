"""hemspec: classification losses specified once, mirrored exactly in every framework.

This package needs NumPy alone. Its functions are the reference that defines each loss, values and gradients; the
losses to train with are in ``hemspec.torch``, ``hemspec.tensorflow``, ``hemspec.jax`` and ``hemspec.keras``.
"""

from hemspec.margins import margin_from_num_samples, margins_from_class_counts
from hemspec.reference.cross_entropy import cross_entropy_loss
from hemspec.reference.diagnostics import hem_diagnostics
from hemspec.reference.dice import dice_loss
from hemspec.reference.focal import focal_loss
from hemspec.reference.hem import hem_loss
from hemspec.reference.linear_hem import linear_hem_loss
from hemspec.reference.logit_adjusted import logit_adjusted_loss
from hemspec.reference.logit_norm import logit_norm_loss
from hemspec.reference.multi_margin import multi_margin_loss

__version__ = "0.1.0"

SPEC_VERSION = 1
"""The version of the specification that this code, its vectors and its backends implement."""

__all__ = [
    "SPEC_VERSION",
    "__version__",
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
