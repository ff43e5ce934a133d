"""A line as a table for the terminal."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from hemspec_perf.document import label, line_of
from hemspec_perf.plan import EVERY_CANDIDATE


def seconds(value: float) -> str:
    """Three digits and a unit."""
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        if value * factor < 1000:
            return f"{value * factor:.3g} {unit}"
    return f"{value:.3g} s"


def table(found: dict[str, Any]) -> Table:
    """Times with quartiles, ratios, memory, bandwidth; refused candidates with the reason."""
    line = line_of(found)
    if "skipped" in found:
        shown = Table("skipped", title=line.title)  # rich shows no table without columns
        shown.add_row(escape(found["skipped"]))
        return shown
    measured = f"median (quartiles); a copy of the logits takes {seconds(found['copy']['median'])}"
    shown = Table(title=line.title, caption=measured)
    baselines = list(dict.fromkeys(base for result in found["results"].values() for base in result["both"]["ratios"]))
    per_row = line.variants  # each loss has a baseline of its own
    shown.add_column("")
    shown.add_column("forward", justify="right")
    shown.add_column("forward + backward", justify="right")
    for base in ["plain call"] if per_row else [label(base) for base in baselines]:
        shown.add_column(f"/ {base}", justify="right")
    shown.add_column("memory / logits", justify="right")
    shown.add_column("% of copy", justify="right")
    for name, result in found["results"].items():
        both = result["both"]
        ratios = [both["ratios"].get(base) for base in (line.baselines(name) if per_row else baselines)]
        multiple = result["memory"].get("multiple")
        shown.add_row(
            label(name),
            spread(result["forward"]),
            spread(both),
            *["–" if value is None else f"{value:.2f}" for value in ratios],
            "–" if multiple is None else f"{multiple:.2f}",
            "–" if line.depth else f"{both['percent_of_copy']:.0f}",
            style="bold" if not line.variants and EVERY_CANDIDATE[name][2] == "ours" else None,
        )
    if found.get("note"):
        shown.caption = f"{shown.caption}\n{found['note']}"
    for name, reason in found["refused"].items():
        shown.caption = f"{shown.caption}\n[red]{label(name)} has no number: {escape(reason)}[/]"
    return shown


def spread(found: dict[str, Any]) -> str:
    """The median and the quartiles."""
    low, high = seconds(found["low"]), seconds(found["high"])
    if low.split()[1] == high.split()[1]:
        low = low.split()[0]
    return f"{seconds(found['median'])} ({low}–{high})"
