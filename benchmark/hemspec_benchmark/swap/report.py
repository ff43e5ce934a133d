"""What people read of the swap: tables in Markdown, a table for the terminal, the picture."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from matplotlib.figure import Figure
from rich.table import Table

from hemspec_benchmark.readme import table as markdown
from hemspec_benchmark.store import Document, StoreError
from hemspec_benchmark.swap import picture
from hemspec_benchmark.swap.advice import DEFAULT, FIRST, MEAN, Checked, check
from hemspec_benchmark.swap.decide import (
    Difference,
    Summary,
    best_default,
    differences,
    missing,
    summaries,
    summary,
    to_the_better,
    worst,
)
from hemspec_benchmark.swap.matrix import (
    CANDIDATES,
    CHECKING_SEEDS,
    MATRIX,
    NEW_SEEDS,
    RATES,
    SEEDS,
    Training,
    read_setting,
)
from hemspec_benchmark.swap.words import WORDS, named

COLUMNS: Final = ("trainings", "within 1 point", "ahead", "broken", "worst", "in")
PICTURE: Final = "swap"


def whole(document: Document) -> Document:
    """The same, or the reason why nothing can be said of it.

    Raises:
        StoreError: trainings are missing.
    """
    if lacking := missing(document):
        raise StoreError(
            f"{lacking} trainings of the matrix are missing; without them nothing is said of it. Run the same command "
            "again to go on, or put the results of all parts together: hemspec-benchmark merge"
        )
    return document


def tables(document: Document) -> dict[str, str]:
    """In Markdown, by name."""
    made = differences(whole(document))
    checking, new = (differences(document, seeds) for seeds in (CHECKING_SEEDS, NEW_SEEDS))
    # Scenes have the first five seeds alone.
    scenes = [entry for entry in made if entry.training.data == "scenes"]
    seen = [*differences(document, (*SEEDS, *CHECKING_SEEDS)), *scenes]
    lowest, highest = at_ends(document)
    return {
        "swap": markdown(("", *COLUMNS), map(row, summaries(made))),
        "swap-advice": advice_table(check(seen), check(new)),
        "swap-wrong": wrong_sentences(check(new)),
        "swap-first": first_sentence(check(checking, FIRST)),
        "swap-short": short(made),
        "swap-groups": groups_table(made),
        "swap-default": default_table(made),
        "swap-between": between_table(made),
        "swap-ends": "\n".join(map(ends_line, ("lowest", "highest"), (lowest, highest))),
    }


def table(document: Document) -> Table:
    """A line for each candidate, for the terminal."""
    made = Table(title="Instead of cross-entropy, at its rate", caption="shares of the trainings; points of the score")
    made.add_column()
    for column in COLUMNS:
        made.add_column(column, justify="left" if column == "in" else "right")
    for entry in summaries(differences(whole(document))):
        made.add_row(*row(entry))
    return made


def figures(document: Document, names: Collection[str] | None = None) -> dict[str, Figure]:
    """By name, all or those named."""
    if names is not None and PICTURE not in names:
        return {}
    panels = {candidate: name.strip("`") for candidate, name in SAID.items()}
    return {PICTURE: picture.overview(differences(whole(document)), panels)}


def row(found: Summary) -> tuple[str, ...]:
    """A candidate and the columns."""
    shares = (f"{100 * share:.0f} %" for share in (found.within, found.ahead, found.broken))
    worst = points(found.worst), named(found.worst.training)
    return CANDIDATES[found.candidate].label, str(found.trainings), *shares, *worst


GROUPS: Final[Mapping[str, Callable[[Training], bool]]] = {
    "Adam, AdamW": lambda training: training.data != "scenes" and training.optimizer.startswith("adam"),
    "SGD, clipped": lambda training: training.optimizer in ("sgd", "momentum") and training.clipping == "clipped",
    "SGD, not clipped": lambda training: (
        training.data != "scenes" and training.optimizer in ("sgd", "momentum") and training.clipping == "free"
    ),
    "segmentation, Adam": lambda training: training.data == "scenes" and training.optimizer == "adam",
    "segmentation, SGD, momentum": lambda training: training.data == "scenes" and training.optimizer == "momentum",
}
SAID: Final = {candidate: name for name, candidate in (DEFAULT, MEAN)}
"""What people can have without knowing their data, as they write it."""


def short(made: Sequence[Difference]) -> str:
    """The sentences that a README has room for, what speaks against HEM first."""
    lines = []
    for candidate, name in SAID.items():
        found = summary(candidate, [entry for entry in made if entry.candidate == candidate])
        broken, within = (round(share * found.trainings) for share in (found.broken, found.within))
        lines.append(
            f"- {name} broke {broken} of {found.trainings} (more than 5 points behind; at worst "
            f"{points(found.worst)}: {named(found.worst.training)}) and was less than 1 point behind in {within}."
        )
    return "\n".join(lines)


def groups_table(made: Sequence[Difference]) -> str:
    """The default and the mean, where it matters: by optimizer, clipping and task."""
    lines = []
    for group, belongs in GROUPS.items():
        cells = [group]
        for candidate in SAID:
            found = [entry for entry in made if entry.candidate == candidate and belongs(entry.training)]
            within, broken = sum(entry.within for entry in found), sum(entry.broken for entry in found)
            cells.append(f"{within} of {len(found)}; {broken} broken; worst {points(worst(found))}")
        lines.append(cells)
    return markdown(("less than 1 point behind in", *SAID.values()), lines)


def advice_table(made: Sequence[Checked], checking: Sequence[Checked]) -> str:
    """Each line, and in how many trainings it was right: where it was made, and on other seeds."""
    lines = [
        (one.advice.where, one.advice.take, of(one), of(other) if other.trainings else "not checked")
        for one, other in zip(made, checking, strict=True)
    ]
    total, spoken = counted(checking)
    lines.append(("all of these", "", of_all(made), f"{total} of {spoken} ({100 * total / max(1, spoken):.0f} %)"))
    return markdown(("you train with", "take", "right", "on new seeds"), lines)


def of(found: Checked) -> str:
    """``12 of 16``."""
    return f"{found.right} of {found.trainings}"


def of_all(found: Sequence[Checked]) -> str:
    """The same over all lines."""
    right, spoken = counted(found)
    return f"{right} of {spoken}"


def counted(found: Sequence[Checked]) -> tuple[int, int]:
    """In how many trainings all lines together were right, and of how many they speak."""
    return sum(one.right for one in found), sum(one.trainings for one in found)


def first_sentence(checked: Sequence[Checked]) -> str:
    """What became of the first table."""
    right, spoken = counted(checked)
    return (
        f"The first table was right in {right} of {spoken} trainings there, {100 * right / max(1, spoken):.1f} %. "
        f"Wrong:\n\n{wrong_sentences(checked)}"
    )


def wrong_sentences(checking: Iterable[Checked]) -> str:
    """Where the table was wrong on other seeds, by name."""
    wrong = [
        f"- {one.advice.where}: {named(entry.training)}, {points(entry, 2)}" for one in checking for entry in one.wrong
    ]
    return "\n".join(wrong) or "Nowhere."


def default_table(made: Sequence[Difference]) -> str:
    """Those on trial for the bare constructor, the best first; beside it, where each is worst."""
    lines = []
    for found in best_default(made):
        own = [entry for entry in made if entry.candidate == found.candidate]
        images = [entry for entry in own if entry.training.data != "scenes"]
        adam = [entry for entry in own if entry.training.data == "scenes" and entry.training.optimizer == "adam"]
        lines.append(
            (
                CANDIDATES[found.candidate].label,
                *(points(worst(entries)) for entries in (own, images, adam)),
                *(f"{sum(getattr(entry, what) for entry in images)} of {len(images)}" for what in ("within", "broken")),
            )
        )
    head = ("", "worst", "in classification", "in segmentation with Adam", "within 1 point, classification", "broken")
    return markdown(head, lines)


def between_table(made: Sequence[Difference]) -> str:
    """The denominators in between, against the better of the mean and the active mean."""
    lines = []
    compared = to_the_better(made)
    for found in summaries(compared):
        scenes = [entry for entry in compared if entry.candidate == found.candidate and entry.training.data == "scenes"]
        near = f"{sum(entry.within for entry in scenes)} of {len(scenes)}"
        label = CANDIDATES[found.candidate].label
        lines.append((label, f"{100 * found.within:.0f} %", near, points(found.worst), named(found.worst.training)))
    return markdown(("", "within 1 point of the better", "of scenes", "worst", "in"), lines)


def at_ends(document: Document) -> tuple[list[Training], list[Training]]:
    """The trainings whose rate is the lowest of its list, and the highest, so that a better one may lie beyond."""
    chosen = dict(read_setting(entry["setting"]) for entry in document["cells"])
    lowest, highest = (
        sorted(training for training, rate in chosen.items() if rate == end(RATES[training.optimizer]))
        for end in (min, max)
    )
    return lowest, highest


def ends_line(end: str, trainings: Sequence[Training]) -> str:
    """By optimizer, since they share a list of rates."""
    parts = []
    for optimizer, rates in RATES.items():
        found = [training for training in trainings if training.optimizer == optimizer]
        if found:
            rate = min(rates) if end == "lowest" else max(rates)
            names = "; ".join(named(training) for training in found)
            parts.append(f"  - {WORDS[optimizer]}, {rate:g}, {len(found)} trainings: {names}")
    return "\n".join([f"- the {end} of its list, in {len(trainings)} of {len(MATRIX)} trainings", *parts])


def points(found: Difference, digits: int = 1) -> str:
    """With a sign that reads well."""
    return f"{found.points:+.{digits}f}".replace("-", "−") if found.finite else "not finite"
