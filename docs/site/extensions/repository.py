"""Files of the repository as parts of the site: documents with their links set right, scripts as sections, and what
the benchmark measured as its page has it, where a test keeps it up to date.

Comments in a page say what goes in their place, and a name that is not found ends the build::

    <!-- scripts: examples/training -->                       a section for each script
    <!-- measures: mean IoU | clean accuracy: CE | HEM -->    rows and columns of the table of measures
    <!-- findings: gradient's norm | The frameworks agree --> the findings in which these words are
    <!-- api: hemspec.torch -->                               everything the module exports
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

ROOT = Path(__file__).parents[3]
PAGES = {
    "README.md": "/index.md",
    "CHANGELOG.md": "/changelog.md",
    "CONTRIBUTING.md": "/contributing.md",
    "docs/perf.md": "/performance.md",
    "docs/writing-a-backend.md": "/writing-a-backend.md",
}
"""What is a page of the site, as well as a file to be read where the repository is."""

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def links_of_the_site(app: Sphinx, path: Path, parent: str, content: list[str]) -> None:
    """In an included document: links to pages become the site's, to other files downloads, to folders plain text."""
    document = Path(os.path.normpath(Path(app.srcdir) / path))

    def replaced(match: re.Match[str]) -> str:
        mark, text, link, anchor = match[1], match[2], match[3], match[4] or ""
        if re.match(r"[a-z]+:", link):
            return match[0]
        target = Path(os.path.normpath(document.parent / link))
        if not target.exists():
            raise ExtensionError(f"{document} links to {link}, which does not exist")
        name = target.relative_to(ROOT).as_posix()
        if name in PAGES:
            return f"[{text}]({PAGES[name]}{anchor})"
        if Path(app.srcdir) in target.parents:
            return f"{mark}[{text}](/{target.relative_to(app.srcdir).as_posix()}{anchor})"
        if target.is_dir():
            return text
        return (
            f"{mark}[{text}]({os.path.relpath(target, app.srcdir)})"  # those who include are pages of the first level
        )

    content[0] = LINK.sub(replaced, content[0])


def written(app: Sphinx, page: str, source: list[str]) -> None:
    """Put what the comments ask for in their place."""

    def replaced(match: re.Match[str]) -> str:
        return WRITERS[match[1]](app, match[2])

    source[0] = re.sub(rf"^<!-- ({'|'.join(WRITERS)}): (.+) -->$", replaced, source[0], flags=re.MULTILINE)


FRAMEWORKS = ("torch", "keras", "jax", "tensorflow")


def by_framework(name: str) -> tuple[int, bool, str]:
    """The order of files named ``torch_lightning``, ``torch_plain`` or ``torch``: by framework, the plain one first."""
    framework, _, setting = name.partition("_")
    place = FRAMEWORKS.index(framework) if framework in FRAMEWORKS else len(FRAMEWORKS)
    return place, setting not in ("", "plain"), name


def scripts(app: Sphinx, folder: str) -> str:
    files = sorted((ROOT / folder).glob("*.py"), key=lambda file: by_framework(file.stem))
    return "\n".join(section(file, app) for file in files if not file.name.startswith("_"))


def section(file: Path, app: Sphinx) -> str:
    tree = ast.parse(file.read_text("utf-8"))
    text = ast.get_docstring(tree)
    if not text:
        raise ExtensionError(f"{file} has no docstring to take a title from")
    title, _, rest = text.partition("\n")
    name = file.relative_to(ROOT).as_posix()
    shown = os.path.relpath(file, app.srcdir)
    return (
        f"## {title.rstrip('.')}\n\n" + rest.strip("\n") + f"\n\n```{{literalinclude}} {shown}\n"
        f":language: python\n:caption: {name}\n:lines: {tree.body[1].lineno}-\n```\n"
    )


def measured(block: str) -> list[str]:
    """The lines of one of the blocks that the benchmark writes into its page."""
    text = (ROOT / "docs/site/benchmark.md").read_text("utf-8")
    found = re.search(rf"<!-- benchmark: {block} -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    if not found:
        raise ExtensionError(f"the page of the benchmark has no block {block!r}")
    return found[1].splitlines()


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def measures(app: Sphinx, asked: str) -> str:
    rows, columns = ([name.strip() for name in part.split("|")] for part in asked.rsplit(":", 1))
    header, _, *table = map(cells, measured("measures"))
    by_name = {row[0]: row for row in table}
    unknown = [name for name in rows if name not in by_name] + [name for name in columns if name not in header]
    if unknown:
        raise ExtensionError(f"the table of measures has no {', '.join(unknown)}")
    chosen = [0, *map(header.index, columns)]
    lines = [[header[i] for i in chosen], ["---"] * len(chosen), *([by_name[name][i] for i in chosen] for name in rows)]
    table_text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"::::{{div}} numbers\n\n{table_text}\n\n::::\n"


def findings(app: Sphinx, asked: str) -> str:
    sentences = measured("findings")
    lines = []
    for words in (part.strip() for part in asked.split("|")):
        found = [sentence for sentence in sentences if words in sentence]
        if not found:
            raise ExtensionError(f"none of the findings says {words!r}")
        lines += [sentence for sentence in found if sentence not in lines]
    return "\n".join(lines) + "\n"


LOSSES = ("hem", "linearhem", "multimargin", "crossentropy", "focal", "logitnorm", "logitadjusted", "dice")
"""The order in which they are told."""


def api(app: Sphinx, module: str) -> str:
    exported = importlib.import_module(module)

    def order(name: str) -> tuple[int, str]:
        stem = name.lower().replace("_", "").removesuffix("loss")
        return LOSSES.index(stem) if stem in LOSSES else len(LOSSES), name

    groups: dict[str, list[str]] = {"Classes": [], "Functions": [], "Margins": [], "Constants": []}
    for name in sorted(exported.__all__, key=order):
        value = getattr(exported, name)
        if inspect.isclass(value):
            lines = ["autoclass:: " + name, "   :members:", "   :special-members: __call__"]
            # What the frameworks' own base classes say is theirs to document.
            lines += [
                "   :inherited-members: Module, Loss, Metric, object",
                "   :exclude-members: function, call, extra_repr",
            ]
            groups["Classes"].append("\n".join(lines))
        elif callable(value):
            groups["Margins" if name.startswith("margin") else "Functions"].append("autofunction:: " + name)
        elif name != "__version__":
            groups["Constants"].append("autodata:: " + name)
    text = [f"```{{eval-rst}}\n.. automodule:: {module}\n```"]
    for title, entries in groups.items():
        if entries:
            entries = [f".. currentmodule:: {module}", *(f".. {entry}" for entry in entries)]
            text.append(f"## {title}\n\n```{{eval-rst}}\n" + "\n\n".join(entries) + "\n```")
    return "\n\n".join(text) + "\n"


def pages(app: Sphinx, folder: str) -> str:
    """The table of contents of a folder that may still be empty."""
    names = {path.stem for path in (Path(app.srcdir) / folder).glob("*.md")} - {"index"}
    lines = ["```{toctree}", ":maxdepth: 1", "", *sorted(names, key=by_framework), "```"]
    return "\n".join(lines) if names else ""


WRITERS = {"pages": pages, "scripts": scripts, "measures": measures, "findings": findings, "api": api}


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("include-read", links_of_the_site)
    app.connect("source-read", written)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
