"""The verdict's page: what it says is the verdict's, and what it quotes stays text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser

import pytest

pytest.importorskip("hemspec_conformance.plugin")

from hemspec_conformance.adapter import LOSSES
from hemspec_conformance.page import page
from hemspec_conformance.session import Outcome, Status
from hemspec_conformance.verdict import Verdict, said

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Reads a page strictly: every tag is closed in order, every link within it arrives."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[tuple[str, ...], str]] = []
        self.rows: list[list[str]] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append((tuple(self.open), data))
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data.replace("\xa0", " ")

    def inside(self, tag: str) -> str:
        return "".join(word for tags, word in self.words if tag in tags)

    def row(self, name: str, below: str = "") -> list[str]:
        """The cells of the first row of a name, without their spaces, after the row of another name."""
        heads = [row[0] for row in self.rows]
        start = heads.index(below) if below else 0
        return [" ".join(cell.split()) for cell in self.rows[heads.index(name, start)]]

    def links(self) -> list[str]:
        return [attributes["href"] or "" for tag, attributes in self.tags if tag == "a"]

    def ids(self) -> list[str | None]:
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]


def check(
    case: str,
    status: Status = "passed",
    *,
    kind: str = "vector",
    loss: str = "hem_loss",
    mode: str = "eager",
    dtype: str = "float32",
    worst: float = 0.0,
    message: str = "",
) -> Outcome:
    name = "/".join(part for part in (loss or "adapter", case, mode, dtype) if part)
    return Outcome(name, kind, loss, case, mode, dtype, status, worst, 0.001, message)  # type: ignore[arg-type]


def passing(backend: str = "good", extra: Sequence[Outcome] = (), **given: bool) -> Verdict:
    outcomes = [
        check("spec_version", kind="adapter", loss="", mode="", dtype=""),
        *(check(f"case_{n}", worst=0.125 * n) for n in range(5)),
        *(check(f"case_{n}", dtype="bfloat16") for n in range(4)),
        *(check(f"bad_{n}", kind="bad input") for n in range(3)),
        *(check(f"law_{n}", kind="law") for n in range(2)),
        *extra,
    ]
    return Verdict(backend, {"framework": "1.2.3"}, outcomes, seconds=12.0, **given)


FAILED = check("case_9", "failed", loss="dice_loss", mode="jit", message="bad: case_9\n  value: expected 1, got 2")
COLUMN = {loss: number for number, loss in enumerate(LOSSES, 1)}


def test_a_page_is_well_formed_and_needs_nothing_else() -> None:
    expected = check("case_8", "expected failure", message="theirs (https://example.org/1)\nbad: case_8")
    skipped = [check(f"case_{n}", "skipped", mode="jit-cuda", message="no CUDA device") for n in range(30)]
    failed = [check(f"case_{n}", "failed", message="wrong") for n in range(30)]
    for verdicts in ([passing()], [passing(), passing("other", [FAILED, expected, *skipped, *failed])]):
        read = Page(page(verdicts))
        ids = read.ids()
        assert len(set(ids)) == len(ids)
        assert {tag for tag, _ in read.tags}.isdisjoint({"script", "link", "img", "iframe"})
        assert not {"src", "onclick"} & {name for _, attributes in read.tags for name in attributes}
        assert "url(" not in read.source
        assert "@import" not in read.source
        assert {link.removeprefix("#") for link in read.links() if link.startswith("#")} <= set(ids)
        referred = [attributes.get("aria-labelledby") for _, attributes in read.tags]
        assert {name for name in referred if name} <= set(ids)


def test_every_row_of_a_table_has_its_columns() -> None:
    absent = check("", "not offered", loss="dice_loss", mode="", dtype="")
    source = page([passing(), passing("other", [absent, check("case_1", "skipped", mode="jit", message="no GPU")])])
    for table in re.findall(r"<table>.*?</table>", source, re.DOTALL):
        held: list[int] = []
        widths = []
        for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL):
            width = sum(1 for rows in held if rows > 0)
            held = [rows - 1 for rows in held]
            for attributes in re.findall(r"<t[hd]([^>]*)>", row):
                width += int((re.search(r'colspan="(\d+)"', attributes) or [0, 1])[1])
                held.append(int((re.search(r'rowspan="(\d+)"', attributes) or [0, 1])[1]) - 1)
            widths.append(width)
        assert len(set(widths)) == 1


def test_the_counts_are_those_of_the_verdict() -> None:
    verdict = passing()
    read = Page(page([verdict]))
    assert said(verdict) in read.inside("header")
    assert "good (framework 1.2.3) conforms" in read.inside("header")
    assert read.row("float32")[COLUMN["hem_loss"]] == "5 0.50"
    assert read.row("bfloat16")[COLUMN["hem_loss"]] == "4"
    assert read.row("bad input")[COLUMN["hem_loss"]] == "3"
    assert read.row("laws")[COLUMN["hem_loss"]] == "2"
    assert read.row("float32")[COLUMN["focal_loss"]] == "·"
    assert str(verdict.suite["sha256"])[:12] in read.inside("code")
    assert f"{verdict.suite['vectors']} vectors" in read.inside("header")
    assert "Overview" not in read.inside("h2")


def test_a_failure_is_told_in_words_and_shown_whole() -> None:
    read = Page(page([passing("bad", [FAILED, check("case_1", loss="dice_loss", mode="jit")])]))
    assert "✗ bad (framework 1.2.3) DOES NOT CONFORM" in read.inside("header")
    assert "✓" not in read.inside("body")
    assert read.row("float32", below="jit")[COLUMN["dice_loss"]] == "✗ FAILED 1 of 2"
    assert read.row("float32")[COLUMN["hem_loss"]] == "5 0.50"
    assert FAILED.message in read.inside("pre")
    assert "dice_loss/case_9/jit/float32" in read.inside("summary")


def test_a_failure_of_the_adapter_is_told_though_it_has_no_cell() -> None:
    fault = check("losses", "failed", kind="adapter", loss="", mode="", dtype="", message="offers no loss")
    read = Page(page([passing("bad", [fault]), passing()]))
    assert "FAILED 1\xa0of\xa02" in read.inside("dd")
    assert read.row("✗ bad")[-1] == "✗ FAILED 1 of 2"
    assert "offers no loss" in read.inside("pre")


def test_no_failure_is_left_out_however_many_there_are() -> None:
    failures = [check(f"case_{n}", "failed", message=f"message {n}.") for n in range(300)]
    read = Page(page([passing("bad", failures)]))
    assert all(f"message {n}." in read.inside("pre") for n in range(300))
    assert "280 more failures" in read.inside("summary")


def test_several_backends_are_compared() -> None:
    read = Page(page([passing("one"), passing("two", [FAILED]), passing("two")]))
    assert read.row("✓ one")[1:] == ["9 0.50", "·", "·", "·", "·", "·", "·", "3", "2", "1"]
    assert read.row("✗ two")[COLUMN["dice_loss"]] == "✗ FAILED 1 of 1"
    assert read.row("✓ two")[COLUMN["dice_loss"]] == "·"
    assert {"#b1", "#b2", "#b3"} <= set(read.links())
    sentences = [attributes for tag, attributes in read.tags if "verdict" in (attributes.get("class") or "")]
    assert [sentence["class"] for sentence in sentences] == ["verdict good", "verdict bad", "verdict good"]


def test_a_part_is_not_shown_as_conformance_and_nothing_is_not_shown_as_a_pass() -> None:
    part = Page(page([passing(partial=True, full=True)]))
    assert "◐ good (framework 1.2.3) passes the part that was asked" in part.inside("header")
    assert "only a part of the full plan" in part.inside("dd")
    nothing = Page(page([Verdict("empty", {}, [])]))
    assert "✗ empty () was asked nothing" in nothing.inside("header")


def test_what_was_not_asked_is_told() -> None:
    reason = "no CUDA device"
    outcomes = [
        check("", "not offered", loss="dice_loss", mode="", dtype=""),
        check("case_1", "skipped", mode="jit-cuda", message=reason),
        check("case_2", "skipped", mode="jit-cuda", message=reason),
        check("case_1", "skipped", dtype="float16", message="no ml_dtypes"),
        check("case_1", mode="jit"),
    ]
    read = Page(page([passing(extra=outcomes), passing("other")]))
    assert ["jit-cuda 2 skipped: no CUDA device"] in read.rows
    assert read.row("float16")[COLUMN["hem_loss"]] == "1 skipped"
    assert "no ml_dtypes" in [attributes.get("title") for _, attributes in read.tags]
    assert [word for tags, word in read.words if tags[-1:] == ("li",)] == ["2: no CUDA device", "1: no ml_dtypes"]
    assert read.row("✓ good")[COLUMN["dice_loss"]] == "not offered"
    assert read.row("float32")[COLUMN["dice_loss"]] == "not offered"
    assert read.row("float32", below="jit")[COLUMN["dice_loss"]] == "not offered"
    assert "Not offered" in read.inside("h3")
    assert "dice_loss" in read.inside("code")


def test_expected_failures_are_told_with_their_reason() -> None:
    theirs = "their sum (of halves) is wrong (https://example.org/issues?a=1&b=2)"
    outcomes = [check(f"case_{n}", "expected failure", message=f"{theirs}\ngood: case_{n} is off") for n in (7, 8)]
    read = Page(page([passing(extra=outcomes)]))
    assert read.row("float32")[COLUMN["hem_loss"]] == "5 0.50 2 expected"
    assert "https://example.org/issues?a=1&b=2" in read.links()
    assert read.inside("p").count("their sum (of halves) is wrong") == 1
    assert "2 of them" in read.inside("summary")
    assert "good: case_7 is off" in read.inside("pre")
    assert "conforms" in read.inside("header")


@pytest.mark.parametrize(
    "link",
    ["javascript:alert(1)", "data:text/html,hello", "not a link", " javascript:https://x", "https://x onclick=a"],
)
def test_only_the_web_is_linked(link: str) -> None:
    read = Page(page([passing(extra=[check("case_7", "expected failure", message=f"theirs ({link})\nwrong")])]))
    assert all(link.startswith("#") for link in read.links())
    assert f"theirs ({link})" in read.inside("p")


def test_what_an_adapter_says_stays_text() -> None:
    evil = "</pre><script>alert('1')</script>\" onload='x' & $title \ud800 <b>"
    shown = evil.replace("\ud800", "\\ud800")
    outcomes = [
        check(evil, "failed", mode=evil, message=evil),
        check(evil, "skipped", dtype="float16", message=evil),
        check(evil, "skipped", mode="other" + evil, message=evil),
        check(evil, "expected failure", message=f"{evil} (https://example.org/\"onload='x')\n{evil}"),
    ]
    verdict = Verdict(evil, {evil: evil}, outcomes, started=evil, machine={evil: evil})
    source = page([verdict, verdict])
    read = Page(source)
    assert {tag for tag, _ in read.tags}.isdisjoint({"script", "b"})
    assert "onload" not in {name for _, attributes in read.tags for name in attributes}
    assert source.encode("utf-8")
    for tag in ("p", "h2", "dd", "th", "pre", "summary", "li", "caption"):
        assert shown in read.inside(tag), tag
    assert shown in Page(page([verdict])).inside("title")
