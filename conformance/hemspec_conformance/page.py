"""The verdict as a static page: one file that needs nothing else, for the authors of a port to show around."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from string import Template
from typing import Final

from hemspec_conformance.adapter import LOSSES
from hemspec_conformance.session import Outcome
from hemspec_conformance.tolerances import STEPS
from hemspec_conformance.verdict import MESSAGES_SHOWN, Cell, Verdict, by_reason, cells, said, short

KINDS: Final = {"vector": "vectors", "bad input": "bad input", "law": "laws", "adapter": "adapter"}
GRAVITY: Final = {"failed": "bad", "expected failure": "odd", "passed": "good"}
"""How a cell looks: as the gravest of what is in it."""

STYLE: Final = """\
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --quiet: #57606a; --line: #d8dee4; --band: #f3f5f7;
  --link: #0a58ca; --good: #11622b; --good-back: #eaf6ed; --bad: #a40e26; --bad-back: #ffe3e0; --odd: #744800;
  --odd-back: #fdf1d3; }
@media (prefers-color-scheme: dark) { :root { --back: #0f1317; --text: #e4e7eb; --quiet: #9da7b3; --line: #2d343c;
  --band: #1a2027; --link: #82b1ff; --good: #7ddc97; --good-back: #12261a; --bad: #ff9c94; --bad-back: #431a1c;
  --odd: #eabf6c; --odd-back: #2f2611; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 4rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.35rem; margin: 3.5rem 0 .75rem; padding-top: .75rem; border-top: 2px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
h1, h2, pre, code, dd, .verdict { overflow-wrap: anywhere; }
a { color: var(--link); }
code, pre { font: .9em/1.45 ui-monospace, SFMono-Regular, Consolas, monospace; }
pre { margin: .5rem 0 1rem; padding: .75rem 1rem; background: var(--band); border-radius: 6px; white-space: pre-wrap; }
small, .quiet { color: var(--quiet); }
td small { display: inline-block; min-width: 2em; } #overview-table ~ tbody small:empty { display: none; }
td .note { display: block; color: inherit; font-weight: 400; } dd .note::before { content: "· "; }
.good { color: var(--good); } .bad { color: var(--bad); } .odd { color: var(--odd); } .none { color: var(--quiet); }
.verdict { margin: .75rem 0; padding: .7rem 1rem; border-left: .3rem solid; border-radius: 6px; font-weight: 600; }
.verdict.good, td.good { background: var(--good-back); } .verdict.bad, td.bad { background: var(--bad-back); }
.verdict.odd, td.odd { background: var(--odd-back); }
.bad a, .verdict a { color: inherit; } .verdict a:not(:hover) { text-decoration: none; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.25rem; margin: .75rem 0; }
dt { color: var(--quiet); } dd { margin: 0; }
.scroll { overflow-x: auto; margin: 1.25rem 0; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: .875rem;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
caption { text-align: left; padding: .6rem; white-space: normal; color: var(--quiet); }
caption span, .mode span { position: sticky; left: .6rem; display: inline-block; max-width: calc(100vw - 4.5rem); }
th, td { padding: .25rem .6rem; border-top: 1px solid var(--line); text-align: right; font-weight: 400; width: 12%; }
th:first-child { position: sticky; left: 0; background: var(--back); text-align: left; }
thead th, thead th:first-child, .mode th:first-child { background: var(--band); font-weight: 600; }
.mode span { white-space: normal; } .mode small { margin-left: .75rem; font-weight: 400; }
td.bad { font-weight: 600; white-space: normal; }
summary { cursor: pointer; padding: .15rem 0; margin-left: 1.25rem; list-style-position: outside; }
details > pre, details > details { margin-left: 1.25rem; }
ul { padding-left: 1.25rem; }
@media (max-width: 40rem) { body { padding: 1.25rem .75rem 3rem; } dl { gap: .3rem .75rem; } }
@media print { .scroll { overflow: visible; } }
"""

PAGE: Final = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<header>
<h1>$title</h1>
<p class="quiet">$suite</p>
$verdicts
</header>
<main>
$sections
</main>
<footer>
$legend
</footer>
</body>
</html>
""")

LEGEND: Final = Template("""\
<h2 id="legend">What the words mean</h2>
<dl>
<dt>104 <small>0.44</small></dt>
<dd>So many checks passed. The small number is the worst error among them in units of the tolerance: 1 is the limit.
There is none where nothing is measured or every answer is exact.</dd>
<dt class="bad">✗ FAILED 3 of 104</dt>
<dd>Three of the 104 checks got something that the specification does not allow. One is enough not to conform.</dd>
<dt class="odd">3 expected</dt>
<dd>Expected failures: known to fail for a reason outside the port, which is reported elsewhere. If one passes, that
is a failure.</dd>
<dt>3 skipped</dt><dd>Could not be asked where this ran.</dd>
<dt>not offered</dt><dd>The backend does not have the loss.</dd>
<dt>·</dt><dd>The plan has nothing to ask there.</dd>
<dt>Vectors</dt>
<dd>Frozen calls with the reference's loss and gradient. They make up the rows named after a floating-point type.</dd>
<dt>Bad input</dt>
<dd>Calls that must raise an error naming the argument or, where a trace cannot see the value, give NaN.</dd>
<dt>Laws</dt><dd>What must hold between answers to random calls, whatever they are.</dd>
<dt>Adapter</dt><dd>What the adapter says of itself, and that it hands arrays over and back unchanged.</dd>
</dl>
<h3>Tolerance</h3>
<p>An answer is computed in float32 (float64 for float64 logits) and, for a gradient, rounded to the type of the
logits. It passes within</p>
<pre>|got − expected| ≤ steps · ε(computed) · max(1, largest |expected|)
                 + ε(returned) · |expected| + tiny(returned)</pre>
<p>where ε is the distance from 1 to the next number of a type and tiny the smallest number that it keeps. The steps are
the roundings of a careful implementation: $steps, and never fewer than the square root of the number of classes. They
are the same for every backend and are never loosened to make one pass.</p>
<h3>What to do</h3>
<p>To follow a failure with a debugger, run that check alone, by its name in the list of failures:</p>
<pre>hemspec-conformance --backend MODULE --only 'hem_loss/CASE/eager/float32' --workers 0</pre>
<p>The command's exit status is 0 if nothing failed and something passed, 1 if not, and 2 if the backend or a file could
not be read.</p>
""")


def page(verdicts: Sequence[Verdict]) -> str:
    """The verdicts, which are of one suite, as an HTML document."""
    suite = verdicts[0].suite
    checksum = str(suite["sha256"])
    several = len(verdicts) > 1
    return PAGE.substitute(
        title=f"hemspec conformance{'' if several else ': ' + text(verdicts[0].backend)}",
        style=STYLE,
        suite=f"hemspec {text(suite['hemspec'])} · specification {text(suite['spec_version'])} ·"
        f' {text(suite["vectors"])} vectors · checksum <code title="{text(checksum)}">{text(checksum[:12])}</code>',
        verdicts="\n".join(sentence(verdict, f"b{n}" if several else "") for n, verdict in enumerate(verdicts, 1)),
        sections="\n".join(
            [
                *([overview(verdicts)] if several else []),
                *(section(verdict, f"b{n}") for n, verdict in enumerate(verdicts, 1)),
            ]
        ),
        legend=LEGEND.substitute(steps=", ".join(f"{steps} for {short(loss)}" for loss, steps in STEPS.items())),
    )


def text(string: object) -> str:
    """Anything as text of the page; half a surrogate pair could not be written to a file."""
    return html.escape(str(string).encode("utf-8", "backslashreplace").decode("utf-8"))


def sign(verdict: Verdict) -> tuple[str, str]:
    """How a verdict looks, and a symbol for it: a part that passes is not yet conformance."""
    if not verdict.conforms:
        return "bad", "✗"
    return ("odd", "◐") if verdict.partial else ("good", "✓")


def sentence(verdict: Verdict, anchor: str) -> str:
    look, symbol = sign(verdict)
    said_of_it = f'<a href="#{anchor}">{text(said(verdict))}</a>' if anchor else text(said(verdict))
    return f'<p class="verdict {look}"><span aria-hidden="true">{symbol}</span> {said_of_it}</p>'


def entry(tag: str, cell: Cell, failures: str, reason: str = "") -> str:
    """A group of checks in numbers and words; `reason` says why some were skipped."""
    n = cell.counts
    look = next((look for status, look in GRAVITY.items() if n[status]), "none")
    parts = []
    if n["failed"]:
        parts.append(f'<a href="#{failures}">✗&nbsp;FAILED {n["failed"]}&nbsp;of&nbsp;{n.total()}</a>')
    elif n["passed"]:
        parts.append(f"{n['passed']} <small>{f'{cell.worst:.2f}' if cell.worst else ''}</small>")
    if n["expected failure"]:
        parts.append(f'<small class="note">{n["expected failure"]} expected</small>')
    if n["skipped"]:
        title = f' title="{text(reason)}"' if reason else ""
        parts.append(f'<small class="note"{title}>{n["skipped"]} skipped</small>')
    if n["not offered"]:
        parts.append("not offered")
    return f'<{tag} class="{look}">{" ".join(parts) or "·"}</{tag}>'


def table(anchor: str, caption: str, columns: Iterable[str], bodies: Iterable[str]) -> str:
    """A table that scrolls by itself where it is too wide."""
    head = "".join(f'<th scope="col">{text(column)}</th>' for column in columns)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{anchor}">\n<table>\n'
        f'<caption id="{anchor}"><span>{caption}</span></caption>\n<thead><tr>{head}</tr></thead>\n'
        + "\n".join(f"<tbody>\n{body}\n</tbody>" for body in bodies)
        + "\n</table>\n</div>"
    )


def overview(verdicts: Sequence[Verdict]) -> str:
    rows = []
    for number, verdict in enumerate(verdicts, 1):
        look, symbol = sign(verdict)
        by_loss = cells((o for o in verdict.outcomes if o.kind == "vector"), "loss")
        by_kind = cells(verdict.outcomes, "kind")
        found = [by_loss.get((loss,), Cell()) for loss in LOSSES]
        found += [by_kind.get((kind,), Cell()) for kind in KINDS if kind != "vector"]
        rows.append(
            f'<tr><th scope="row" class="{look}">{symbol} <a href="#b{number}">{text(verdict.backend)}</a></th>'
            + "".join(entry("td", cell, f"b{number}-failures") for cell in found)
            + "</tr>"
        )
    caption = "Vectors passed by loss, and the other checks by kind; in small type the worst error / tolerance."
    columns = ["backend", *map(short, LOSSES), *(word for kind, word in KINDS.items() if kind != "vector")]
    body = "\n".join(rows)
    return f'<h2 id="overview">Overview</h2>\n{table("overview-table", caption, columns, [body])}'


def section(verdict: Verdict, anchor: str) -> str:
    """All about one backend."""
    look, symbol = sign(verdict)
    parts = [f'<h2 id="{anchor}"><span class="{look}" aria-hidden="true">{symbol}</span> {text(verdict.backend)}</h2>']
    parts += [facts(verdict, anchor), matrix(verdict, anchor), failed(verdict, anchor), expected(verdict)]
    skipped = cells((o for o in verdict.outcomes if o.status == "skipped"), "message")
    if skipped:
        parts.append("<h3>Skipped</h3>\n<ul>")
        parts += [f"<li>{cell.counts['skipped']}: {text(reason)}</li>" for (reason,), cell in skipped.items()]
        parts.append("</ul>")
    absent = [o.loss for o in verdict.outcomes if o.status == "not offered"]
    if absent:
        parts.append(f"<h3>Not offered</h3>\n<p>{', '.join(f'<code>{text(loss)}</code>' for loss in absent)}</p>")
    return f'<section aria-labelledby="{anchor}">\n' + "\n".join(filter(None, parts)) + "\n</section>"


def facts(verdict: Verdict, anchor: str) -> str:
    by_kind = cells((o for o in verdict.outcomes if o.status != "not offered"), "kind")
    modes = dict.fromkeys(o.mode for o in verdict.outcomes if o.mode)
    plan = "the full plan" if verdict.full else "the usual plan"
    day, _, time = verdict.started.partition("T")
    known = {
        "Versions": ", ".join(f"{package} {version}" for package, version in verdict.versions.items()),
        "Machine": ", ".join(f"{what} {which}" for what, which in verdict.machine.items()),
        "Run": f"{day} {time}, {verdict.seconds:.0f} s",
        "Asked": f"only a part of {plan}" if verdict.partial else plan,
        "Modes": f"{len(modes)}: {', '.join(modes)}" if modes else "none",
    }
    entries = [f"<dt>{name}</dt><dd>{text(fact)}</dd>" for name, fact in known.items()]
    entries += [
        f"<dt>{word.capitalize()}</dt>{entry('dd', by_kind.get((kind,), Cell()), f'{anchor}-failures')}"
        for kind, word in KINDS.items()
    ]
    return "<dl>\n" + "\n".join(entries) + "\n</dl>"


def matrix(verdict: Verdict, anchor: str) -> str:
    """Loss by mode and dtype; bad input and laws are rows of their own. A mode that was skipped is a line."""
    asked = [o for o in verdict.outcomes if o.mode and o.loss]
    found = cells((o for o in asked if o.kind == "vector"), "mode", "dtype", "loss")
    found |= cells((o for o in asked if o.kind != "vector"), "mode", "kind", "loss")
    reasons = {(o.mode, o.dtype if o.kind == "vector" else o.kind): o.message for o in asked if o.status == "skipped"}
    absent = {o.loss for o in verdict.outcomes if o.status == "not offered"}
    bodies = []
    for (mode,), whole in cells(asked, "mode").items():
        rows = list(dict.fromkeys(row for of_mode, row, _ in found if of_mode == mode))
        why = {reasons.get((mode, row), "") for row in rows}
        note = ""
        if len(why) == 1 and whole.counts["skipped"] == whole.counts.total():
            note, rows = f" <small>{whole.counts['skipped']} skipped: {text(why.pop())}</small>", []
        name = f'<th scope="rowgroup" colspan="{len(LOSSES) + 1}"><span>{text(mode)}{note}</span></th>'
        lines = [f'<tr class="mode">{name}</tr>']
        for row in rows:
            line = f'<tr><th scope="row">{text(KINDS.get(row, row))}</th>'
            for loss in LOSSES:
                if loss not in absent:
                    cell = found.get((mode, row, loss), Cell())
                    line += entry("td", cell, f"{anchor}-failures", reasons.get((mode, row), ""))
                elif row == rows[0]:
                    line += f'<td class="none" rowspan="{len(rows)}">not offered</td>'
            lines.append(f"{line}</tr>")
        bodies.append("\n".join(lines))
    if not bodies:
        return ""
    caption = f"{text(verdict.backend)}: checks passed, and in small type the worst error / tolerance."
    return table(f"{anchor}-matrix", caption, ["mode", *map(short, LOSSES)], bodies)


def failed(verdict: Verdict, anchor: str) -> str:
    """Every failure with its whole message; beyond the first of them, behind a fold."""
    found = [details(o, o.message) for o in verdict.outcomes if o.status == "failed"]
    if not found:
        return ""
    first, rest = found[:MESSAGES_SHOWN], found[MESSAGES_SHOWN:]
    if rest:
        first.append(f"<details><summary>{len(rest)} more failures</summary>\n" + "\n".join(rest) + "\n</details>")
    return f'<h3 id="{anchor}-failures">Failures</h3>\n' + "\n".join(first)


def expected(verdict: Verdict) -> str:
    """The expected failures by their reason, the first line of the message."""
    reasons = by_reason(verdict)
    if not reasons:
        return ""
    parts = ["<h3>Expected failures</h3>"]
    for reason, outcomes in reasons.items():
        found = [details(outcome, outcome.message.partition("\n")[2]) for outcome in outcomes]
        parts.append(f"<p>{linked(reason)}</p>")
        parts.append(f"<details><summary>{len(found)} of them</summary>\n" + "\n".join(found) + "\n</details>")
    return "\n".join(parts)


def details(outcome: Outcome, message: str) -> str:
    return f"<details><summary><code>{text(outcome.id)}</code></summary><pre>{text(message)}</pre></details>"


def linked(reason: str) -> str:
    """`reason (link)`, with the link to follow where it leads to the web."""
    match = re.fullmatch(r"(.*) \((https?://\S+)\)", reason, re.IGNORECASE)
    if not match:
        return text(reason)
    return f'{text(match[1])} (<a rel="noopener noreferrer" href="{text(match[2])}">{text(match[2])}</a>)'
