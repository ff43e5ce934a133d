"""What people read of the swap: tables in Markdown, a table for the terminal, the picture."""

from __future__ import annotations

from rich.table import Table

from hemspec_benchmark.swap.decide import Summary
from hemspec_benchmark.swap.matrix import CANDIDATES

COLUMNS = ("trainings", "within 1 point", "ahead", "broken", "worst", "in")


def row(found: Summary) -> tuple[str, ...]:
    """A candidate and the columns."""
    shares = (f"{100 * share:.0f} %" for share in (found.within, found.ahead, found.broken))
    worst = f"{found.worst.points:+.1f}".replace("-", "−") if found.worst.finite else "not finite"
    return CANDIDATES[found.candidate].label, str(found.trainings), *shares, worst, str(found.worst.training)


def table(found: list[Summary]) -> Table:
    """A line for each candidate, for the terminal."""
    made = Table(title="Instead of cross-entropy, at its rate", caption="shares of the trainings; points of the score")
    made.add_column()
    for column in COLUMNS:
        made.add_column(column, justify="left" if column == "in" else "right")
    for entry in found:
        made.add_row(*row(entry))
    return made
