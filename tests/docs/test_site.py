"""The site as it was built: every link leads somewhere, nothing comes from another host, nothing is left out."""

from __future__ import annotations

import importlib.util
import zlib
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

BUILT = Path(__file__).parents[2] / "results/site"
PAGES = sorted(path.relative_to(BUILT).as_posix() for path in BUILT.rglob("*.html"))
LOADING = {"script", "img", "link", "iframe", "source", "video", "audio", "object", "embed", "use", "image"}


class Page(HTMLParser):
    """Ids, links, and what a page loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[tuple[str, str]] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.ids.add(value)
            if name in ("href", "src", "xlink:href", "srcset", "data") and value:
                self.links.append((tag, value))


@cache
def page(name: str) -> Page:
    return Page(BUILT / name)


def test_there_is_a_site() -> None:
    assert "index.html" in PAGES, f"nothing is built in {BUILT}: nox -s docs"
    assert "benchmark-report.html" in PAGES


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere_and_nothing_is_fetched(name: str) -> None:
    wrong = []
    for tag, link in page(name).links:
        parts = urlsplit(link)
        if parts.scheme in ("data", "mailto"):
            continue
        if parts.scheme or parts.netloc:
            wrong += [f"loads {link}"] if tag in LOADING else []
            continue
        target = (BUILT / name).parent / unquote(parts.path) if parts.path else BUILT / name
        target = target / "index.html" if target.is_dir() else target
        if not target.resolve().exists():
            wrong.append(f"{link} is not there")
        elif parts.fragment and target.suffix == ".html":
            ids = page(target.resolve().relative_to(BUILT.resolve()).as_posix()).ids
            wrong += [] if unquote(parts.fragment) in ids else [f"{link} has no such place"]
    assert not wrong


def test_stylesheets_and_scripts_name_no_other_host() -> None:
    for path in BUILT.rglob("*.css"):
        text = path.read_text("utf-8")
        assert "url(http" not in text, path
        assert "url(//" not in text, path
        assert "@import" not in text, path


@pytest.mark.parametrize("module", ["hemspec", "hemspec.torch", "hemspec.keras", "hemspec.jax", "hemspec.tensorflow"])
def test_every_exported_name_is_documented(module: str) -> None:
    inventory = (BUILT / "objects.inv").read_bytes().split(b"\n", 4)[4]
    documented = {line.split(" ")[0] for line in zlib.decompress(inventory).decode().splitlines()}
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    # Read, not imported: one framework a process.
    source = Path(spec.origin).read_text("utf-8")
    exported = eval(source[source.index("__all__ = ") + len("__all__ = ") :].split("]")[0] + "]")
    assert exported
    assert [name for name in exported if name != "__version__" and f"{module}.{name}" not in documented] == []
