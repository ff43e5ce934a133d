"""What the docstrings say with single backticks: a name to link to, or an argument of the function itself."""

from __future__ import annotations

import inspect
import re
from typing import Any

from sphinx.application import Sphinx


def arguments_as_code(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """An argument is no target of a link: it is shown as code."""
    try:
        arguments = set(inspect.signature(obj).parameters)
    except (TypeError, ValueError):
        return
    pattern = re.compile(r"(?<![`:])`(" + "|".join(map(re.escape, arguments)) + r")`(?!`)")
    if arguments:
        lines[:] = [pattern.sub(r"``\1``", line) for line in lines]


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", arguments_as_code)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
