"""Keyword arguments of other losses' constructors, which a configuration may still hold after the class was swapped.

Neutral values, those that switch a thing off, pass. For any other there is a sentence that says what to do instead.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final

CLASS_WEIGHTS: Final = (
    "weights go by sample, as sample_weight of the call: class_weights[labels.clip(0, C - 1)], clipped since an ignored"
    " label has no weight to look up; or a margin for each class, margin=margins_from_class_counts(counts)"
)
SMOOTHING: Final = "its labels are certain, so leave label smoothing at 0; it is the margin that limits confidence"

FOREIGN: Final[dict[str, tuple[tuple[Any, ...], str]]] = {
    "weight": ((None,), CLASS_WEIGHTS),
    "class_weight": ((None,), CLASS_WEIGHTS),
    "class_weights": ((None,), CLASS_WEIGHTS),
    "pos_weight": ((None,), CLASS_WEIGHTS),
    "label_smoothing": ((None, 0), SMOOTHING),
    "smoothing": ((None, 0), SMOOTHING),
    "size_average": ((None,), "say reduction='mean' or reduction='sum'"),
    "reduce": ((None,), "say reduction='none' for the loss of each position"),
    "p": ((1,), "the errors are not raised to a power"),
}
"""For each keyword its neutral values, and what takes the place of the others."""


def with_foreign_keywords(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that lets neutral foreign keywords pass and says of others what to do instead.

    One that takes any keyword, in a class derived from ours, has its own mind about them.
    """
    own = inspect.signature(init).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
        return init

    @functools.wraps(init)
    def constructor(self: Any, *args: Any, **kwargs: Any) -> None:
        for name in [name for name in kwargs if name in FOREIGN and name not in own]:
            value = kwargs.pop(name)
            neutral, instead = FOREIGN[name]
            if not any(value is other or (isinstance(value, (int, float)) and value == other) for other in neutral):
                raise TypeError(f"{type(self).__name__} has no {name}: {instead}")
        init(self, *args, **kwargs)

    return constructor
