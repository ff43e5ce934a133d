"""What a framework has to do for a measurement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class MissingError(Exception):
    """A candidate cannot be had here; the reason."""


@dataclass(frozen=True)
class Steps:
    """A candidate, ready to be timed. Each call makes one step, perhaps without waiting for it."""

    forward: Callable[[], Any]
    both: Callable[[], Any]
    """Value and gradient."""


class Side(Protocol):
    """One framework, with the input of one line."""

    def steps(self, candidate: str, loss: str, writer: str, variant: str, dtype: str) -> Steps:
        """Raises MissingError."""

    def copy(self) -> Callable[[], Any]:
        """A copy of the logits, or the nearest thing that is not optimised away."""

    def wait(self, result: Any) -> None:
        """Until it is computed."""

    def answer(self, candidate: str, steps: Steps) -> tuple[float, Any]:
        """Value and the block's gradient as NumPy arrays, class axis last; summed over the repetitions."""

    def note(self) -> str:
        """What else a reader of the table has to know; may be left out."""

    def peak(self, step: Callable[[], Any]) -> int:
        """Bytes. Raises MissingError."""
