"""Tables in a Markdown file, between markers that name them: written from a result, or compared with it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    columns = list(head)
    lines = [columns, ["---"] * len(columns), *(list(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class ReadmeError(ValueError):
    """The file has no such markers, or its tables are not what was measured."""


def update(path: Path, tables: dict[str, str], *, check: bool) -> None:
    """Put each table between ``<!-- benchmark: NAME -->`` and ``<!-- end -->``; with `check`, compare.

    Raises:
        ReadmeError: a marker names no table, there are none, or (with `check`) a table is out of date.
    """
    text = path.read_text(encoding="utf-8")
    found = []

    def replaced(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in tables:
            raise ReadmeError(f"{path} asks for the table {name!r}; there are {', '.join(tables)}")
        found.append(name)
        return f"{match['start']}\n{tables[name].strip()}\n{match['end']}"

    pattern = r"(?P<start><!-- benchmark: (?P<name>[\w-]+) -->)\n.*?(?P<end><!-- end -->)"
    new = re.sub(pattern, replaced, text, flags=re.DOTALL)
    if not found:
        raise ReadmeError(f"{path} has no <!-- benchmark: NAME --> ... <!-- end -->")
    if check and new != text:
        raise ReadmeError(f"the benchmark's tables in {path} are out of date: run the same without --check")
    if not check:
        path.write_text(new, encoding="utf-8")
