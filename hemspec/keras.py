"""hemspec for Keras 3: ``from hemspec.keras import HEMLoss``. KERAS_BACKEND is tensorflow, jax or torch."""

try:
    import keras as _keras  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "keras":  # Keras is there, the framework it wants to run on is not, and its own message says so.
        raise
    raise ImportError('hemspec.keras needs Keras: pip install "hemspec[keras]"') from error

from hemspec.margins import margin_from_num_samples, margins_from_class_counts
from hemspec_keras.accumulation import accumulate_gradients
from hemspec_keras.losses import (
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    HEMLoss,
    LogitAdjustedLoss,
    LogitNormLoss,
    MultiMarginLoss,
)
from hemspec_keras.metrics import ActiveFraction, KeptErrors, MarginSatisfied

__all__ = [
    "ActiveFraction",
    "CrossEntropyLoss",
    "DiceLoss",
    "FocalLoss",
    "HEMLoss",
    "KeptErrors",
    "LogitAdjustedLoss",
    "LogitNormLoss",
    "MarginSatisfied",
    "MultiMarginLoss",
    "accumulate_gradients",
    "margin_from_num_samples",
    "margins_from_class_counts",
]
