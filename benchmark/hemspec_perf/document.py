"""Results as JSON, and the questions that tables and plots ask of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from hemspec_perf.plan import EVERY_CANDIDATE, Line

Document = dict[str, Any]
SCHEMA: Final = 1


class DocumentError(ValueError):
    """Not a result of this command."""


def new(command: str, options: dict[str, Any], machines: list[Any], tables: list[Any]) -> Document:
    """Everything that was measured, and how."""
    return {"schema": SCHEMA, "command": command, "options": options, "machines": machines, "tables": tables}


def write(document: Document, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read(path: Path) -> Document:
    """Raises DocumentError: what is wrong with the file."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DocumentError(f"cannot read {path}: {error}") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise DocumentError(f"{path} is no result of hemspec-perf with schema {SCHEMA}")
    return document


def line_of(table: dict[str, Any]) -> Line:
    return Line(**table["line"])


def label(name: str) -> str:
    """How a table names a candidate."""
    if name in EVERY_CANDIDATE:
        return EVERY_CANDIDATE[name][0]
    loss, _, variant = name.partition(" ")
    return " ".join([EVERY_CANDIDATE[loss][0], variant.replace("margins", "vector margin")]).strip()
