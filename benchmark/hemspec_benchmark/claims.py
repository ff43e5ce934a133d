"""The claims of the paper's abstract (arXiv 2501.12191v1), and the rule that says which of them hold here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from hemspec_benchmark.statistics import (
    REFERENCE,
    Difference,
    Document,
    Measure,
    correct,
    difference,
    family,
    losses,
    primary,
)

MUCH: Final = 0.05
"""A difference that is called large: 5 points."""
ALIKE: Final = 0.02
"""Differences within 2 points are called alike."""
INSIGNIFICANT: Final = 0.01
"""What clean accuracy may lose: less, because it is nearly perfect, 1 point."""

RULE: Final = (
    "A claim is decided by the primary measures of its tasks, each a paired difference between two losses: frameworks "
    "averaged, seeds as the unit.",
    "Of a directional claim (better, worse) a measure is for it where the difference goes its way and is significant "
    "at 5 % after Holm's correction, and against it where the difference is significant the other way.",
    f"“Much” also asks for a difference of at least {100 * MUCH:g} points.",
    "“No more than an insignificant bit”: for, where the 95 % interval lies above "
    f"−{100 * INSIGNIFICANT:g} point and the difference is not significantly negative; against, where it is.",
    f"“Alike”: for, where the 95 % interval lies inside ±{100 * ALIKE:g} points; against, where it is wholly outside. "
    "That a difference is not significant does not make it alike: few seeds would do that.",
    "A claim holds where at least half of its measures are for it and none is against it. It does not hold where at "
    "least half are against it and none is for it. It is mixed where there are some of both, otherwise undecided. "
    "Measures that were not taken, or with a single seed, count as neither.",
    "Comparisons with cross-entropy are corrected together, all losses in all primary measures; comparisons with other "
    "losses are corrected in a family of their own. Intervals are not corrected.",
    "Fewer than six values that are all equal have no interval. This was added when two seeds of the full run were "
    "there; all else was fixed before it, though a first trial of six seeds in PyTorch was known.",
)
"""Fixed before the full run, apart from what the last sentence says."""

VARIANTS: Final = ("hem", "hem-mean", "hem-plus")
"""The paper's HEM, averaged over the active samples; HEM with a plain mean; HEM+."""

CONTINUAL: Final = tuple(f"{scenario}-{way}" for scenario in ("class", "task", "domain") for way in ("naive", "replay"))
REJECTION: Final = ("near", "far-photographs", "far-noise")
IMBALANCE: Final = ("ratio-10", "ratio-50", "ratio-100")
EVERYTHING: Final = ("clean", "corrupted", *REJECTION, "pgd", *IMBALANCE, *CONTINUAL, "miou")


@dataclass(frozen=True)
class Claim:
    """What the abstract says, in our words and about HEM: "worse" means that HEM is worse than the other loss."""

    text: str
    measures: tuple[str, ...]
    """Names of the primary measures that decide."""
    against: str = REFERENCE
    relation: Literal["better", "worse", "alike", "no worse"] = "better"
    by: float = 0.0
    """Of "better" and "worse" the least difference that counts, of "alike" and "no worse" the largest."""


CLAIMS: Final = (
    Claim("HEM rejects unknown classes better than cross-entropy", REJECTION),
    Claim("HEM is more robust to adversarial attacks than cross-entropy", ("pgd",)),
    Claim("HEM learns better from imbalanced data than cross-entropy", IMBALANCE),
    Claim("HEM is better at continual learning than cross-entropy", CONTINUAL),
    Claim("HEM is better at semantic segmentation than cross-entropy", ("miou",)),
    Claim(
        "On clean images HEM loses no more than an insignificant bit", ("clean",), relation="no worse", by=INSIGNIFICANT
    ),
    Claim("LogitNorm and HEM are alike at rejecting unknown classes", REJECTION, "logitnorm", "alike", ALIKE),
    Claim("LogitNorm is much worse than HEM at continual learning", CONTINUAL, "logitnorm", "better", MUCH),
    Claim("LogitNorm is much worse than HEM at semantic segmentation", ("miou",), "logitnorm", "better", MUCH),
    Claim("Logit adjustment is better than HEM on imbalanced data", IMBALANCE, "la", "worse"),
    Claim("Logit adjustment is worse than HEM at rejecting unknown classes", REJECTION, "la"),
    Claim("Logit adjustment is worse than HEM at semantic segmentation", ("miou",), "la"),
    Claim("Dice is worse than HEM throughout", EVERYTHING, "dice"),
    Claim("Dice is worse than HEM even at semantic segmentation", ("miou",), "dice"),
    Claim("HEM can replace cross-entropy in general, with what was tuned for cross-entropy", EVERYTHING),
)


@dataclass(frozen=True)
class Evidence:
    """One measure of a claim."""

    difference: Difference
    stance: int
    """1 for the claim, -1 against it, 0 neither."""


@dataclass(frozen=True)
class Verdict:
    """What became of a claim, for one variant of HEM."""

    claim: Claim
    variant: str
    evidence: tuple[Evidence, ...]

    @property
    def votes_for(self) -> int:
        """Measures for the claim."""
        return sum(entry.stance == 1 for entry in self.evidence)

    @property
    def votes_against(self) -> int:
        """Measures against it."""
        return sum(entry.stance == -1 for entry in self.evidence)

    @property
    def text(self) -> str:
        """By the `RULE`."""
        half = len(self.claim.measures) / 2
        if self.votes_for and self.votes_against:
            return "mixed"
        if self.votes_for >= half:
            return "holds"
        if self.votes_against >= half:
            return "does not hold"
        return "undecided" if self.evidence else "not measured"


def verdicts(document: Document) -> list[dict[str, Verdict]]:
    """One row for each claim: by variant of HEM, those that the document has."""
    tests = comparisons(document)
    return [
        {variant: judge(claim, variant, tests) for variant in VARIANTS if variant in losses(document)}
        for claim in CLAIMS
    ]


def judge(claim: Claim, variant: str, tests: dict[tuple[str, str, str], Difference]) -> Verdict:
    """Apply the rule to one variant; `tests` by measure, loss and the loss it is compared with."""
    found = [tests[key] for name in claim.measures if (key := (name, variant, claim.against)) in tests]
    return Verdict(claim, variant, tuple(Evidence(entry, stance(claim, entry)) for entry in found))


def stance(claim: Claim, found: Difference) -> int:
    """Whether one difference is for the claim (1), against it (-1) or neither (0)."""
    low, high = found.estimate.low, found.estimate.high
    if claim.relation in ("better", "worse"):
        way = found.direction if claim.relation == "better" else -found.direction
        return way if way < 0 or abs(found.gain) >= claim.by else 0
    if low is None or high is None:
        return 0
    if claim.relation == "no worse":
        return -1 if found.direction < 0 else int(low > -claim.by)
    return 1 if -claim.by < low and high < claim.by else -1 if low > claim.by or high < -claim.by else 0


def comparisons(document: Document) -> dict[tuple[str, str, str], Difference]:
    """All corrected differences that the claims need, by measure, loss and the loss it is compared with."""
    by_name: dict[str, Measure] = {measure.name: measure for measure in primary(document)}
    pairs = {(name, claim.against) for claim in CLAIMS for name in claim.measures if claim.against != REFERENCE}
    found = [
        difference(document, by_name[name], variant, against) for name, against in sorted(pairs) for variant in VARIANTS
    ]
    others = correct([entry for entry in found if entry])
    return {(entry.measure.name, entry.loss, entry.against): entry for entry in [*family(document).values(), *others]}
