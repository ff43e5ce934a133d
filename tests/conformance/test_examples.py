"""The example ports, and the page that shows one, are what they say. ``nox -s ports`` runs the suite on them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/writing-a-backend.md"
FOLDERS = sorted(path for path in (ROOT / "examples/backends").iterdir() if path.is_dir())
ADAPTER = ROOT / "examples/backends/autograd/hem_autograd_adapter.py"

NOT_THE_LOSSES = {"hemspec.arguments", "hemspec_conformance.adapter"}
"""All that an outsider's port and its adapter need of hemspec."""


def modules(folder: Path) -> tuple[Path, Path]:
    """A port and its adapter."""
    return folder / f"hem_{folder.name}.py", folder / f"hem_{folder.name}_adapter.py"


def imported(module: Path) -> Iterator[str]:
    """What a file imports, each name in full: ``from hemspec import arguments`` is ``hemspec.arguments``."""
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_there_are_ports_to_look_at() -> None:
    assert [folder.name for folder in FOLDERS] == ["autograd", "mlx"]
    for folder in FOLDERS:
        assert sorted(folder.glob("*.py")) == sorted(modules(folder))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_port_takes_no_loss_from_hemspec(folder: Path) -> None:
    for module in modules(folder):
        names = [name for name in imported(module) if name.split(".")[0].startswith("hemspec")]
        assert names, f"{module.name} imports nothing of hemspec: this test looks past it"
        strange = [name for name in names if not any(f"{name}.".startswith(f"{good}.") for good in NOT_THE_LOSSES)]
        assert not strange, f"{module.name} imports {strange}"
        assert not re.search(r"__import__|import_module|\bexec\(|\beval\(", module.read_text("utf-8"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_of_an_example_shadows_no_framework(folder: Path) -> None:
    assert folder.name not in {module.stem for module in modules(folder)}


def test_the_page_shows_the_adapter_as_it_is() -> None:
    shown = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert ADAPTER.read_text("utf-8") in shown


def test_the_adapter_is_short() -> None:
    assert len(ADAPTER.read_text("utf-8").splitlines()) < 50


def test_the_page_counts_the_lines_of_the_port() -> None:
    (said,) = re.findall(r"has (\d+) lines", PAGE.read_text("utf-8"))
    assert int(said) == len(modules(ADAPTER.parent)[0].read_text("utf-8").splitlines())


def test_the_page_shows_the_modes_of_the_mlx_port() -> None:
    adapter = modules(ROOT / "examples/backends/mlx")[1].read_text("utf-8")
    shown = re.search(r"LAZY = .*?\n\)\n", adapter, re.DOTALL)
    assert shown
    assert f"```python\n{shown[0]}```" in PAGE.read_text("utf-8")


def test_the_page_links_to_files_that_are_there() -> None:
    links = re.findall(r"\]\((\.\./[^)#]+)\)", PAGE.read_text("utf-8"))
    assert links
    assert [link for link in links if not (PAGE.parent / link).exists()] == []


def test_the_page_names_every_field_of_a_mode_and_of_an_adapter() -> None:
    adapter = pytest.importorskip("hemspec_conformance.adapter")
    fields = {name for name in adapter.Mode.__dataclass_fields__ if name != "_"}
    functions = {name for name, value in vars(adapter.Adapter).items() if callable(value) and not name.startswith("_")}
    attributes = set(adapter.Adapter.__annotations__) | functions
    rows = re.findall(r"^\| `(\w+)[^`]*` \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert fields | attributes <= set(rows)
    assert set(rows) <= fields | attributes
