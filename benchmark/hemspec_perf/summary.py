"""All ratios of a result on a page, as Markdown: what the tables say of our losses, without times."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from hemspec_perf.document import Document, label, line_of
from hemspec_perf.plan import Line

SHOWN: Final = ("hem", "mm", "plain-hem")
HEAD_SHOWN: Final = ("linear-hem", "linear-ce")
Tables = list[tuple[Line, dict[str, Any]]]
Cells = dict[tuple[str, str], str]


def summary(document: Document) -> str:
    """Time and memory by shape, our variants, and linear heads; only what was measured."""
    found = [(line_of(table), table) for table in document["tables"] if "results" in table]
    plain = [(line, table) for line, table in found if not line.variants and not line.depth]
    variants = [(line, table) for line, table in found if line.variants]
    heads = [(line, table) for line, table in found if line.depth]
    parts = [
        ("Forward + backward, times the framework's cross-entropy", by_shape(plain, SHOWN, times)),
        ("Memory at the worst moment, times the logits", by_shape(plain, (*SHOWN, "ce"), memory)),
        ("Forward + backward, times the plain float32 call", by_variant(variants)),
        (
            "A linear head: time as a multiple of the product with cross-entropy and with HEM",
            by_shape(heads, HEAD_SHOWN, times),
        ),
        (
            "A linear head: memory, times the logits",
            by_shape(heads, (*HEAD_SHOWN, "unfused-hem", "unfused-ce"), memory),
        ),
    ]
    return "\n".join(f"{title}:\n\n{markdown(cells)}\n" for title, cells in parts if cells)


def by_shape(tables: Tables, names: Iterable[str], cell: Callable[[Line, dict[str, Any]], str]) -> Cells:
    """A row for each candidate in each execution, a column for each shape."""
    cells = {}
    for line, table in tables:
        column = f"{line.shape}, {line.depth} features" if line.depth else line.shape
        for name in names:
            shown = cell(line, table["results"][name]) if name in table["results"] else ""
            if shown:
                cells[f"{where(line)}, {label(name)}", column] = shown
    return cells


def by_variant(tables: Tables) -> Cells:
    """A row for each loss in each execution, a column for each variant."""
    cells = {}
    for line, table in tables:
        for name, result in table["results"].items():
            loss, _, variant = name.partition(" ")
            if variant:
                cells[f"{where(line)}, {line.shape}, {label(loss)}", label(name).partition(" ")[2]] = times(
                    line, result
                )
    return cells


def where(line: Line) -> str:
    device = f" {line.device} {line.dtype}" if line.device != "cpu" or line.dtype != "float32" else ""
    return f"{line.framework} {line.execution}{device}"


def times(line: Line, result: dict[str, Any]) -> str:
    """The ratios, to each that it is compared with."""
    return " / ".join(f"{ratio:.2f}" for ratio in result["both"]["ratios"].values())


def memory(line: Line, result: dict[str, Any]) -> str:
    multiple = result["memory"].get("multiple")
    return "" if multiple is None else f"{multiple:.2f}"


def markdown(cells: Cells) -> str:
    """Rows and columns in the order in which they first come."""
    rows, columns = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
    body = [[row, *(cells.get((row, column), "–") for column in columns)] for row in rows]
    lines = [["", *columns], ["---"] * (len(columns) + 1), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
