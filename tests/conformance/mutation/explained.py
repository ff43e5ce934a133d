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
TORCH, TORCH_POSITIONS = "hemspec_torch/functional.py", "hemspec_torch/positions.py"
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
T_KEPT = KEPT.replace("np.", "torch.")
T_COUNTED = "counted = (differences.errors > 0) | torch.isnan(differences.errors)"
T_CONSTANT = "c = torch.where(torch.isinf(z_y), 0.0, z_y).detach()"
T_ROWS = "rivals, true = rivals * factor, true * factor"
T_VALID = "valid = exists & ((weights > 0) | bad_weight)"
T_BAD_WEIGHT = "bad_weight = exists & ~(torch.isfinite(weights) & (weights >= 0))"
T_BAD_LABEL = "bad_label = (labels < 0) | (labels >= classes)"
T_BAD = "bad = valid & (bad_label | bad_weight)"
T_LABELS = "labels=torch.where(valid & ~bad_label, labels, 0),"
T_LOGITS = "logits=torch.where(valid.unsqueeze(-1), input.movedim(class_axis, -1), 0.0).to(compute),"
T_DEVICE = 'if tensor.device.type != "cpu" or torch.compiler.is_compiling():'
T_GOOD = "good = torch.isfinite(value) & (value > 0 if positive else value >= 0)"
T_ACTIVE = "counts = counts & ((values > 0) | torch.isnan(values))"
T_AXIS = 'class_axis = check_logits(input.shape, dtype_name(input), 1 if input.ndim > 1 else 0, name="input")'
T_FACTOR = "factor = torch.where(row_is_nan, torch.nan, positions.poison * poison.to(z.dtype)).unsqueeze(-1)"
T_GOT = 'got = "" if torch.compiler.is_compiling() else f"; got {value!r}"  # a symbol cannot be shown'
T_NUMBER = 'if not (value > 0 if positive else value >= 0) or not value < float("inf"):'
TWICE = "the number is looked at once more as a tensor: the same error, and NaN while compiling"
ONE_OR_NAN = "a factor of 1 or NaN divides as it multiplies"
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
    # PyTorch
    *(
        Explained(TORCH, T_CONSTANT, T_CONSTANT.replace("0.0", n), "beside an infinity any number will do")
        for n in ("1.0", "-1.0")
    ),
    *(
        Explained(TORCH, old, old.replace(*change), why)
        for old in (T_KEPT, T_COUNTED)
        for change, why in (
            (("|", "+"), BOOLEANS),
            (("|", "^"), DISJOINT),
            (("> 0", "!= 0"), NOT_NEGATIVE),
        )
    ),
    Explained(TORCH, T_KEPT, T_KEPT.replace("&", "*"), BOOLEANS),
    Explained(
        TORCH,
        "row_is_nan = (torch.isnan(rivals + true) & ~true_class).any(-1)",
        "row_is_nan = (torch.isnan(rivals + true) * ~true_class).any(-1)",
        BOOLEANS,
    ),
    Explained(TORCH, T_ROWS, "rivals, true = rivals / factor, true * factor", ONE_OR_NAN),
    Explained(TORCH, T_ROWS, "rivals, true = rivals * factor, true / factor", ONE_OR_NAN),
    Explained(TORCH, T_ROWS, "rivals, true = rivals * factor, true ** factor", "0 or inf to the 1 or NaN: never 1^NaN"),
    Explained(
        TORCH,
        "high = torch.where(torch.isinf(largest), errors == largest, high)",
        "high = torch.where(torch.isinf(largest), errors >= largest, high)",
        "nothing is larger than the largest",
    ),
    Explained(
        TORCH,
        "total = torch.where(kept, self.rivals, 0.0).sum(-1) + torch.where(count > 0, self.true * count, 0.0)",
        "total = torch.where(kept, self.rivals, 0.0).sum(-1) + torch.where(count != 0, self.true * count, 0.0)",
        "a count is not negative",
    ),
    Explained(
        TORCH_POSITIONS, T_AXIS, T_AXIS.replace("else 0", "else -1"), "the only axis, from the front or the back"
    ),
    Explained(TORCH_POSITIONS, T_AXIS, T_AXIS.replace("> 1", "!= 1"), "a scalar is refused before its axis matters"),
    *(
        Explained(
            TORCH_POSITIONS,
            "weights = torch.where(exists, weights, 0.0)",
            f"weights = torch.where(exists, weights, {new})",
            "not valid, so what it weighs is not added up",
        )
        for new in ("1.0", "-1.0")
    ),
    *(
        Explained(TORCH_POSITIONS, T_LOGITS, T_LOGITS.replace("0.0", new), "any equal logits will do")
        for new in ("1.0", "-1.0")
    ),
    Explained(TORCH_POSITIONS, T_LABELS, T_LABELS.replace("0)", "1)"), "any class will do"),
    *(
        Explained(TORCH_POSITIONS, old, old.replace(a, b, 1), BOOLEANS)
        for old, a, b in (
            (T_BAD_WEIGHT, "exists &", "exists *"),
            (T_BAD_WEIGHT, ") & (", ") * ("),
            (T_VALID, "&", "*"),
            (T_VALID, "|", "+"),
            (T_BAD, "&", "*"),
            (T_BAD, "|", "+"),
            (T_BAD_LABEL, "|", "+"),
            (T_LABELS, "&", "*"),
            (T_GOOD, "&", "*"),
            (T_ACTIVE, "&", "*"),
            (T_ACTIVE, "|", "+"),
        )
    ),
    Explained(TORCH_POSITIONS, T_BAD_LABEL, T_BAD_LABEL.replace("|", "^"), "no label is below 0 and above C"),
    Explained(TORCH_POSITIONS, T_ACTIVE, T_ACTIVE.replace("|", "^"), DISJOINT),
    Explained(TORCH_POSITIONS, T_ACTIVE, T_ACTIVE.replace("> 0", "!= 0"), NOT_NEGATIVE),
    Explained(
        TORCH_POSITIONS,
        "return vector.index_select(0, labels.reshape(-1)).reshape(labels.shape)",
        "return vector.index_select( -1, labels.reshape(-1)).reshape(labels.shape)",
        "the only axis, from the front or the back",
    ),
    Explained(
        TORCH_POSITIONS,
        "return torch.where(empty, 0.0, numerator / torch.where(empty, 1.0, denominator))",
        "return torch.where(empty, 0.0, numerator / torch.where(empty, 2.0, denominator))",
        "the quotient is thrown away",
    ),
    Explained(TORCH_POSITIONS, "empty = denominator == 0", "empty = denominator <= 0", NOT_NEGATIVE),
    *(
        Explained(TORCH_POSITIONS, old, new, "by the alphabet, of the names that are left")
        for old, new in (
            ('if reduction == "sum":', 'if reduction >= "sum":'),
            ('if reduction == "active_mean":', 'if reduction <= "active_mean":'),
        )
    ),
    *(
        Explained(TORCH_POSITIONS, old, old.replace("==", "is"), "PyTorch has one object for each dtype")
        for old in (
            "return np.asarray((tensor.double() if tensor.dtype == torch.bfloat16 else tensor).numpy())",
            "compute = torch.float64 if input.dtype == torch.float64 else torch.float32",
        )
    ),
    Explained(TORCH_POSITIONS, "if vector.ndim == 0:", "if vector.ndim <= 0:", "no tensor has fewer than 0 axes"),
    *(
        Explained(TORCH, T_FACTOR, T_FACTOR.replace("poison * poison", f"poison {new} poison"), ONE_OR_NAN)
        for new in ("/", "//")
    ),
    Explained(
        TORCH,
        T_ROWS,
        "rivals, true = rivals ** factor, true * factor",
        "to the 1 it stays what it is; and where the factor is NaN, `true` spoils the row and the gradient is NaN",
    ),
    Explained(
        TORCH_POSITIONS,
        "return torch.where(empty, 0.0, numerator / torch.where(empty, 1.0, denominator))",
        "return torch.where(empty, 0.0, numerator / torch.where(empty, 0.0, denominator))",
        "the NaN goes back into a sum of which nothing is counted, and `where` stops it there",
    ),
    Explained(TORCH_POSITIONS, T_VALID, T_VALID.replace("> 0", "!= 0"), "a weight below 0 is a bad weight"),
    Explained(
        TORCH_POSITIONS,
        T_GOT,
        T_GOT.replace("if ", "if not "),
        "what an error says, word by word",
    ),
    *(
        Explained(TORCH_POSITIONS, T_NUMBER, T_NUMBER.replace(*change, 1), TWICE)
        for change in (
            ("> 0", "> -1"),
            (">= 0", ">= -1"),
            ("> 0", ">= 0"),
            ("> 0", "!= 0"),
            ('< float("inf")', 'is not float("inf")'),
            ('< float("inf")', '<= float("inf")'),
            ('< float("inf")', '!= float("inf")'),
            (" or ", " and "),
        )
    ),
    # Known gaps: what it would take to notice them is not here, or no port could be asked.
    *(
        Explained(TORCH_POSITIONS, T_DEVICE, T_DEVICE.replace("!=", new), "needs a device that sorts so: a GPU", False)
        for new in (">", "<")
    ),
    *(
        Explained(
            TORCH_POSITIONS, old, old.replace(" and ", " or "), "one readable, the other not: vmap of half", False
        )
        for old in (
            "if readable_exists is not None and readable_weights is not None:",
            "if readable_labels is not None and readable_valid is not None:",
        )
    ),
    Explained(
        TORCH_POSITIONS,
        "if isinstance(value, int | float) and not isinstance(value, bool):",
        "if isinstance(value, int | float) and  isinstance(value, bool):",
        "a compiled margin goes through float32: the suite's graph mode notices with float64 logits, not asked here",
        False,
    ),
    Explained(
        TORCH_POSITIONS,
        "array = value if torch.compiler.is_compiling() else read_constant(value, name=name, positive=positive)",
        "array = value if not torch.compiler.is_compiling() else read_constant(value, name=name, positive=positive)",
        "a margin that is a list of numbers goes through float32 then, and no check gives a list",
        False,
    ),
]
