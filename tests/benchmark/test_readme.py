"""Tables in a Markdown file are written between its markers, and compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from hemspec_benchmark.readme import ReadmeError, update

TEXT = """# Title

<!-- benchmark: one -->
old
<!-- end -->
between, with a | in it
<!-- benchmark: two-2 -->
<!-- end -->
after
"""
TABLES = {"one": "| a | \\1 |\n", "two-2": "| ü |", "unused": "x"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_tables_are_written_between_the_markers(path: Path) -> None:
    update(path, TABLES, check=False)
    assert path.read_text(encoding="utf-8") == (
        "# Title\n\n<!-- benchmark: one -->\n| a | \\1 |\n<!-- end -->\nbetween, with a | in it\n"
        "<!-- benchmark: two-2 -->\n| ü |\n<!-- end -->\nafter\n"
    )


def test_writing_again_changes_nothing_and_the_check_passes(path: Path) -> None:
    update(path, TABLES, check=False)
    written = path.read_bytes()
    update(path, TABLES, check=True)
    update(path, TABLES, check=False)
    assert path.read_bytes() == written


def test_an_old_table_fails_the_check_and_is_left_as_it_is(path: Path) -> None:
    with pytest.raises(ReadmeError, match=r"out of date.*without --check"):
        update(path, TABLES, check=True)
    assert path.read_text(encoding="utf-8") == TEXT
    update(path, TABLES, check=False)
    with pytest.raises(ReadmeError, match="out of date"):
        update(path, TABLES | {"two-2": "| u |"}, check=True)


def test_a_marker_without_a_table_is_named(path: Path) -> None:
    with pytest.raises(ReadmeError, match="asks for the table 'two-2'; there are one, three"):
        update(path, {"one": "", "three": ""}, check=False)
    assert path.read_text(encoding="utf-8") == TEXT


@pytest.mark.parametrize("text", ["no markers", "<!-- benchmark: one -->\nno end"])
def test_a_file_without_markers_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.md").write_text(text)
    with pytest.raises(ReadmeError, match="has no <!-- benchmark: NAME -->"):
        update(tmp_path / "a.md", TABLES, check=False)
