"""The Python of the site's pages: which blocks there are, which framework each belongs to, and how they run.

As a script, ``python pages.py torch``: run the blocks of one framework, page by page, each page in one namespace.
"""

from __future__ import annotations

import doctest
import re
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SITE = Path(__file__).parents[2] / "docs/site"

FRAMEWORKS = {
    **dict.fromkeys(("torch", "lightning", "transformers"), "torch"),
    **dict.fromkeys(("keras", "tensorflow"), "keras-tensorflow"),
    **dict.fromkeys(("jax", "optax", "flax", "equinox"), "jax"),
}
"""What a block imports, and in which process it therefore runs."""
IMPORT = re.compile(rf"^\s*(?:import|from)\s+(?:hemspec\.)?({'|'.join(FRAMEWORKS)})\b", re.MULTILINE)
KERAS_BACKEND = re.compile(r"""KERAS_BACKEND["']\]\s*=\s*["'](\w+)["']""")

FENCE = re.compile(r"^\s*(`{3,}|:{3,})\s*(\S.*)?$")
NOT_RUN = re.compile(r"^\s*<!-- not run: .+ -->$")


@dataclass(frozen=True)
class Block:
    page: str
    line: int  # of its first line of code, from 1
    framework: str
    code: str

    def run(self, namespace: dict[str, Any]) -> None:
        """As it stands; with prompts, as a doctest."""
        if self.code.lstrip().startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(self.code, namespace, self.page, self.page, self.line - 1)
            runner = doctest.DocTestRunner()
            runner.run(test, clear_globs=False)
            namespace.update(test.globs)
            if runner.failures:
                raise AssertionError(f"{runner.failures} examples gave something else")
        else:
            exec(compile("\n" * (self.line - 1) + self.code, self.page, "exec"), namespace)


def blocks(path: Path) -> Iterator[Block]:
    """The blocks ``python`` and ``pycon`` of a page, those after ``<!-- not run: REASON -->`` left out.

    A block without an import of a framework belongs to that of the block before. A tab begins as the page did before
    the tabs, and so does what comes after them.
    """
    page = path.relative_to(SITE).as_posix()
    open_fences: list[tuple[str, str]] = []  # with the framework to go back to
    framework, skip = "numpy", False
    lines = iter(enumerate(path.read_text("utf-8").splitlines(), 1))
    for number, line in lines:
        if NOT_RUN.match(line):
            skip = True
            continue
        fence = FENCE.match(line)
        if not fence:
            skip = skip and not line.strip()
            continue
        marks, what = fence[1], fence[2] or ""
        if open_fences and not what and len(marks) >= len(open_fences[-1][0]) and marks[0] == open_fences[-1][0][0]:
            framework = open_fences.pop()[1]
        elif what.startswith("{"):
            open_fences.append((marks, framework))
        else:
            code = []
            for _, inside in lines:
                if inside.strip() == marks:
                    break
                code.append(inside)
            text = "\n".join(code) + "\n"
            if what in ("python", "pycon") and not skip:
                framework = framework_of(text, framework)
                yield Block(page, number + 1, framework, text)
            skip = False


def framework_of(code: str, before: str) -> str:
    backend = KERAS_BACKEND.search(code)
    if backend:
        return f"keras-{backend[1]}"
    found = IMPORT.search(code)
    if not found:
        return before
    framework = FRAMEWORKS[found[1]]
    return before if framework == "keras-tensorflow" and before.startswith("keras-") else framework


def all_blocks() -> list[Block]:
    return [block for path in sorted(SITE.rglob("*.md")) for block in blocks(path)]


def main(framework: str) -> int:
    failed = 0
    namespaces: dict[str, dict[str, Any]] = {}
    broken: set[str] = set()
    for block in all_blocks():
        if block.framework != framework or block.page in broken:
            continue
        try:
            block.run(namespaces.setdefault(block.page, {"__name__": "page"}))
        except Exception:
            traceback.print_exc()
            print(f"docs/site/{block.page}:{block.line}: this block failed, the page was left there", file=sys.stderr)
            broken.add(block.page)
            failed += 1
    print(f"{len(namespaces)} pages, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
