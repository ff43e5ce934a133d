"""Machine-made mutants that nothing notices, each with its reason."""

from __future__ import annotations

from typing import Final, NamedTuple


class Explained(NamedTuple):
    path: str
    old: str
    new: str
    why: str
    equivalent: bool = True
    """Whether no check could notice; else a known gap of the suite."""


HEM, MM, POSITIONS, MARGINS = (
    "hemspec/reference/hem.py",
    "hemspec/reference/multi_margin.py",
    "hemspec/reference/positions.py",
    "hemspec/margins.py",
)
KEPT = "return (high & (errors > 0)) | np.isnan(errors)"
ACTIVE = "counts = counts & ((self.values > 0) | np.isnan(self.values))"
VALID = "valid = exists & (weights > 0)"
SHAPED = (
    "logits=np.where(valid[..., None], last, np.zeros((), logits.dtype)).astype(np.float64).reshape(-1, classes),",
    "labels=np.where(valid, labels, 0).astype(np.int64).reshape(-1),",
    "weights=np.where(valid, weights, 0.0).reshape(-1),",
)
COUNTS = "if counts.ndim != 1 or counts.size < 2:"
BOOLEANS = "of booleans, the product is their `and`, and the sum is their `or`"
DISJOINT = "no comparison with NaN is true, so the two never are together"
NOT_NEGATIVE = "it is never negative, and a NaN is counted by isnan"
ABSENT = "a position that does not exist has weight 0, zeros for logits and so a finite loss: its share is 0 anyway"

EXPLAINED: Final[list[Explained]] = [
    Explained(HEM, KEPT, KEPT.replace("&", "*"), BOOLEANS),
    Explained(HEM, KEPT, KEPT.replace("|", "+"), BOOLEANS),
    Explained(HEM, KEPT, KEPT.replace("|", "^"), DISJOINT),
    Explained(HEM, KEPT, KEPT.replace("> 0", "!= 0"), NOT_NEGATIVE),
    Explained(
        HEM,
        "high = np.where(np.isinf(largest), errors == largest, high)",
        "high = np.where(np.isinf(largest), errors >= largest, high)",
        "nothing is larger than the largest",
    ),
    Explained(
        MM, "slopes = (errors > 0) / positions.classes", "slopes = (errors != 0) / positions.classes", NOT_NEGATIVE
    ),
    *(
        Explained(path, "axis: int = -1,", f"axis: int = {new},", "no call with three axes leaves `axis` out", False)
        for path in (HEM, MM)
        for new in ("1", "+1")
    ),
    *(
        Explained(
            POSITIONS, text, text.replace("reshape(-1", f"reshape({new}"), "NumPy takes any negative size for the rest"
        )
        for text in SHAPED
        for new in ("- 2", "~1")
    ),
    *(
        Explained(
            POSITIONS, SHAPED[1], SHAPED[1].replace("labels, 0", f"labels, {new}"), "any class will do: " + ABSENT
        )
        for new in ("1", "-1")
    ),
    *(
        Explained(POSITIONS, "counts = self.weights > 0", f"counts = self.weights {new}", ABSENT)
        for new in (">= 0", "!= 0", "> -1")
    ),
    *(
        Explained(
            POSITIONS, "rows[self.positions.weights == 0] = 0.0", f"rows[self.positions.weights {new}] = 0.0", ABSENT
        )
        for new in ("< 0", "<= 0", "== -1")
    ),
    Explained(
        POSITIONS,
        "return np.asarray(np.where(empty, 0.0, numerator / np.where(empty, 1.0, denominator)))",
        "return np.asarray(np.where(empty, 0.0, numerator / np.where(empty, 2.0, denominator)))",
        "the quotient is thrown away",
    ),
    Explained(POSITIONS, "empty = denominator == 0", "empty = denominator <= 0", NOT_NEGATIVE),
    Explained(POSITIONS, VALID, VALID.replace("&", "*"), BOOLEANS),
    Explained(POSITIONS, VALID, VALID.replace(">", "!="), "weights that are not ignored were checked to be >= 0"),
    Explained(POSITIONS, ACTIVE, ACTIVE.replace("&", "*"), BOOLEANS),
    Explained(POSITIONS, ACTIVE, ACTIVE.replace("|", "+"), BOOLEANS),
    Explained(POSITIONS, ACTIVE, ACTIVE.replace("|", "^"), DISJOINT),
    Explained(POSITIONS, ACTIVE, ACTIVE.replace("> 0", "!= 0"), NOT_NEGATIVE),
    Explained(
        POSITIONS,
        'if self.reduction == "sum":',
        'if self.reduction >= "sum":',
        "by the alphabet, of the names that are left",
    ),
    Explained(
        POSITIONS,
        'if self.reduction == "active_mean":',
        'if self.reduction <= "active_mean":',
        "by the alphabet, of the names that are left",
    ),
    Explained(MARGINS, COUNTS, COUNTS.replace("!= 1", "> 1"), "a scalar has size 1, which the other half refuses"),
    Explained(MARGINS, COUNTS, COUNTS.replace("!= 1", "< 1"), "no test gives a table of counts", False),
]
