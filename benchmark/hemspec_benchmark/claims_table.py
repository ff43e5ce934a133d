"""The claims, in Markdown for the pages and as lines for the terminal, from the document alone."""

from __future__ import annotations

from typing import Final

from hemspec_benchmark import readme
from hemspec_benchmark.composites import Results
from hemspec_benchmark.findings import p_value, signed
from hemspec_benchmark.inference import MOST_SEEDS, Paired
from hemspec_benchmark.store import Document, StoreError
from hemspec_benchmark.verdicts import FIRST, REPLACES, SECOND, Verdict, decide, replaces

HEAD: Final = ("claim", "verdict", "points [95 %]", "p", "seeds", "would decide", "beside")


def results(document: Document) -> Results:
    """The document, if it is whole.

    Raises:
        StoreError: cells are missing; without them no difference is looked at.
    """
    found = Results(document)
    if found.missing:
        raise StoreError(f"{found.missing} cells of the run are missing; before all are there no claim is decided")
    return found


def rows(document: Document) -> list[tuple[str, ...]]:
    """A line for each claim: the first family, the second, and the claim of all together."""
    found = results(document)
    verdicts = [*decide(found, FIRST, "paper"), *decide(found, SECOND, "best rate")]
    word, answers = replaces(found)
    weakest = [f"{answer.question.text}: {answer.word}" for answer in answers.values() if answer.word != "holds"]
    left = max(found.left.values())
    return [*(row(verdict, left) for verdict in verdicts), (REPLACES, word, "", "", "", "", "; ".join(weakest))]


def row(verdict: Verdict, left: float) -> tuple[str, ...]:
    """Of several differences the one that speaks least for the claim."""
    decisive = verdict.answer.decisive
    needed = ""
    if verdict.word == "open":
        needed = str(verdict.needed) if verdict.needed is not None else f"more than {MOST_SEEDS:,}"
    return (
        verdict.claim.question.text,
        verdict.word,
        interval(decisive),
        p_value(verdict.answer.corrected),
        str(decisive.count),
        needed,
        "; ".join(notes(verdict, left)),
    )


def notes(verdict: Verdict, left: float) -> list[str]:
    """What the protocol wants said beside a decision; `left` is what our attack leaves more than AutoAttack at most."""
    said = [f"{name}: {word}" for name, word in verdict.otherwise.items() if word != verdict.word]
    if verdict.turned:
        said.append(f"overlapping splits corrected for: {verdict.turned}")
    if verdict.claim.comparisons[0].composite == "attack":
        less = f"up to {100 * left:.1f} points less than ours" if left > 0 else "no less"
        said.append(f"AutoAttack leaves {less}")
    return said


def interval(found: Paired) -> str:
    """``+1.2 [+0.3, +2.1]``, in points."""
    mean, low, high = map(signed, (found.mean, *found.interval))
    return f"{mean} [{low}, {high}]"


def markdown(document: Document) -> str:
    """For a page."""
    return readme.table(HEAD, rows(document))


def lines(document: Document) -> list[str]:
    """For the terminal, a line for each claim; what the decision hangs on stands in brackets."""
    found = rows(document)
    wide = max(len(line[2]) for line in found)
    made = []
    for text, word, effect, p, seeds, needed, beside in found:
        numbers = f"{effect:{wide}}  p {p:7}  {seeds:>2} seeds" if effect else ""
        decide = f"; {needed} seeds would decide" if needed else ""
        made.append(f"{word:13}  {numbers:{wide + 21}}  {text}{decide}{f' ({beside})' if beside else ''}")
    return made
