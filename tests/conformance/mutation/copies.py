"""A private copy of a package with edited sources, and the suite's adapter on top of it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple


class Edit(NamedTuple):
    """`old` becomes `new` in one file of a package; `old` has to be there exactly once."""

    path: str
    old: str
    new: str


class EditDoesNotApplyError(ValueError):
    """The code that an edit is about has changed: the edit has to be written again."""


def sources(*packages: str) -> dict[str, str]:
    """The text of every module of the packages, by its path: ``hemspec/reference/hem.py``."""
    texts = {}
    for package in packages:
        folder = Path(str(importlib.import_module(package).__file__)).parent
        for path in folder.rglob("*.py"):
            texts[path.relative_to(folder.parent).as_posix()] = path.read_text("utf-8")
    return texts


def edited(texts: Mapping[str, str], edits: Sequence[Edit]) -> dict[str, str]:
    result = dict(texts)
    for path, old, new in edits:
        count = result[path].count(old)
        if count != 1 or old == new:
            raise EditDoesNotApplyError(f"{path} has this {count} times instead of once:\n{old}")
        result[path] = result[path].replace(old, new)
    return result


class TextImporter(MetaPathFinder, SourceLoader):
    """Imports packages from texts instead of files."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts
        self.packages = {path.partition("/")[0] for path in texts}

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in self.packages:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def get_filename(self, fullname: str) -> str:
        module = fullname.replace(".", "/")
        for path in (f"{module}.py", f"{module}/__init__.py"):
            if path in self.texts:
                return path
        raise ImportError(f"{fullname} is not in the copy")

    def get_data(self, path: str) -> bytes:
        if path not in self.texts:
            raise OSError(path)
        return self.texts[path].encode()

    @staticmethod
    def source_to_code(data: Any, path: Any = "<string>") -> CodeType:  # type: ignore[override]
        return compiled(data, path)


@cache
def compiled(source: bytes, path: str) -> CodeType:
    """Of a package all files but one are the same in every copy."""
    return compile(source, path, "exec", dont_inherit=True)


@contextmanager
def without(packages: Collection[str]) -> Iterator[None]:
    """Nothing of the packages is imported inside; what was, is put back afterwards."""

    def take() -> dict[str, ModuleType]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in packages}

    real = take()
    try:
        yield
    finally:
        take()
        sys.modules.update(real)


def adapter_of(texts: Mapping[str, str], target: str = "numpy") -> Any:
    """The suite's adapter of a target, whose imports found these texts."""
    importer = TextImporter(texts)
    spec = importlib.util.find_spec(f"hemspec_conformance.adapters.{target}")
    assert spec is not None
    assert spec.loader is not None
    with without(importer.packages):
        sys.meta_path.insert(0, importer)
        try:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        finally:
            sys.meta_path.remove(importer)
    return module
