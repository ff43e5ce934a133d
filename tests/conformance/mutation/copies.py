"""A private copy of the whole `hemspec` package with edited sources, and the suite's NumPy adapter on top of it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import hemspec

PACKAGE = Path(hemspec.__file__).parent
ADAPTER = "hemspec_conformance.adapters.numpy"


class Edit(NamedTuple):
    """`old` becomes `new` in one file of the package; `old` has to be there exactly once."""

    path: str
    old: str
    new: str


class EditDoesNotApplyError(ValueError):
    """The code that an edit is about has changed: the edit has to be written again."""


def sources() -> dict[str, str]:
    """The text of every module of the package, by its path below it."""
    return {path.relative_to(PACKAGE).as_posix(): path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}


def edited(texts: Mapping[str, str], edits: Sequence[Edit]) -> dict[str, str]:
    result = dict(texts)
    for path, old, new in edits:
        count = result[path].count(old)
        if count != 1 or old == new:
            raise EditDoesNotApplyError(f"{path} has this {count} times instead of once:\n{old}")
        result[path] = result[path].replace(old, new)
    return result


class TextImporter(MetaPathFinder, SourceLoader):  # type: ignore[misc]  # typeshed: their two source_to_code
    """Imports `hemspec` from texts instead of files."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "hemspec":
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def get_filename(self, fullname: str) -> str:
        module = "/".join(fullname.split(".")[1:])
        for path in (f"{module}.py", f"{module}/__init__.py" if module else "__init__.py"):
            if path in self.texts:
                return path
        raise ImportError(f"{fullname} is not in the copy")

    def get_data(self, path: str) -> bytes:
        if path not in self.texts:
            raise OSError(path)
        return self.texts[path].encode()


@contextmanager
def without_hemspec() -> Iterator[None]:
    """Nothing of `hemspec` is imported inside; what was, is put back afterwards."""

    def take() -> dict[str, ModuleType]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "hemspec"}

    real = take()
    try:
        yield
    finally:
        take()
        sys.modules.update(real)


def adapter_of(texts: Mapping[str, str]) -> Any:
    """The suite's NumPy adapter, whose `import hemspec` found these texts."""
    importer = TextImporter(texts)
    spec = importlib.util.find_spec(ADAPTER)
    assert spec is not None
    assert spec.loader is not None
    with without_hemspec():
        sys.meta_path.insert(0, importer)
        try:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        finally:
            sys.meta_path.remove(importer)
    return module
