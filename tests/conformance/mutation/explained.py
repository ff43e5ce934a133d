"""Machine-made mutants that nothing notices, each with its reason.

Where a function holds the expression more than once, the explanation is about each of them.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Explained(NamedTuple):
    path: str
    function: str
    old: str
    new: str
    why: str
    test: str = ""
    """The unit test that notices, where the suite has no way to ask."""
    gap: bool = False
    """Whether something could notice and nothing does; else no check could."""


class Group(list[Explained]):
    """Those of one function."""

    def __init__(self, path: str, function: str) -> None:
        super().__init__()
        self.path, self.function = path, function

    def add(self, old: str, *new: str, why: str, test: str = "", gap: bool = False) -> Group:
        self.extend(Explained(self.path, self.function, old, other, why, test, gap) for other in new)
        return self


HEM, MM, POSITIONS = (f"hemspec/reference/{name}.py" for name in ("hem", "multi_margin", "positions"))
NOT_NEGATIVE = "it is never negative, and a NaN is counted by isnan"
ANY_NEGATIVE = "NumPy takes any negative size for the rest"
ABSENT = "a position that does not exist has weight 0 and a finite loss: its share is 0 anyway"
THROWN_AWAY = "what is put where the denominator is 0 is thrown away"
LAST = "np.where(valid[..., None], last, np.zeros((), logits.dtype)).astype(np.float64)"

TORCH, TORCH_POSITIONS = "hemspec_torch/functional.py", "hemspec_torch/positions.py"
ROUNDS_TOO_LITTLE = "without rounding both sides move by the same; sums on a CPU, in pairs, round too little to show it"
NEEDS_PROCESSES = "only several processes have a group"
COMPILING = "what is run only while compiling is not asked here; the suite's graph mode does"

EXPLAINED: Final[list[Explained]] = [
    *Group(HEM, "kept_errors")
    .add("errors > 0", "errors != 0", why=NOT_NEGATIVE)
    .add("errors == largest", "errors >= largest", why="nothing is larger than the largest")
    .add(
        "errors.max(axis=1, keepdims=True)",
        "errors.min(axis=1, keepdims=True)",
        why=ROUNDS_TOO_LITTLE,
        gap=True,
    ),
    *Group(MM, "multi_margin_loss").add("errors > 0", "errors != 0", why=NOT_NEGATIVE),
    *Group(POSITIONS, "read_positions")
    .add(f"{LAST}.reshape(-1, classes)", f"{LAST}.reshape(-2, classes)", why=ANY_NEGATIVE)
    .add(
        "np.where(valid, labels, 0).astype(np.int64).reshape(-1)",
        "np.where(valid, labels, 0).astype(np.int64).reshape(-2)",
        why=ANY_NEGATIVE,
    )
    .add("np.where(valid, weights, 0.0).reshape(-1)", "np.where(valid, weights, 0.0).reshape(-2)", why=ANY_NEGATIVE)
    .add("np.where(valid, labels, 0)", "np.where(valid, labels, 1)", "np.where(valid, labels, -1)", why=ABSENT)
    .add("np.zeros((), logits.dtype)", "np.ones((), logits.dtype)", why=ABSENT)
    .add("weights > 0", "weights != 0", why="weights that are not ignored were checked to be >= 0")
    .add(
        "ignore_index is not None and representable(ignore_index, labels.dtype.name)",
        "((ignore_index is not None))",
        why="NumPy 2 compares integers as integers, whatever their dtypes; NumPy 1 does not",
    ),
    *Group(POSITIONS, "Evaluation.terms")
    .add("self.weights > 0", "self.weights >= 0", "self.weights != 0", "self.weights > -1", why=ABSENT)
    .add("self.values > 0", "self.values != 0", why=NOT_NEGATIVE)
    .add(
        "counts & ((self.values > 0) | np.isnan(self.values))",
        "((self.values > 0) | np.isnan(self.values))",
        why=ABSENT,
    ),
    *Group(POSITIONS, "Evaluation.gradient").add(
        "self.positions.weights == 0", "self.positions.weights <= 0", why="no weight is below 0"
    ),
    *Group(POSITIONS, "divide")
    .add("denominator == 0", "denominator <= 0", why="no sum of weights is below 0")
    .add(
        "np.where(empty, 1.0, denominator)",
        *(f"np.where(empty, {n}, denominator)" for n in ("0.0", "2.0")),
        why=THROWN_AWAY,
    ),
    *Group(POSITIONS, "reference_loss.terms").add(
        "check_terms_reduction(evaluation.reduction)",
        "pass",
        why="no adapter is asked for terms",
        test="tests/test_reference.py",
    ),
    # PyTorch
    *Group(TORCH, "margin_differences")
    .add("torch.where(torch.isinf(z_y), 0.0, z_y)", "torch.where(torch.isinf(z_y), 1.0, z_y)", why="any number will do")
    .add("true * factor", "true / factor", why="a factor of 1 or NaN divides as it multiplies"),
    *Group(TORCH, "kept_errors")
    .add("infinite & (errors == largest)", "(errors == largest)", why="the largest error is kept in any case")
    .add("errors == largest", "errors >= largest", why="nothing is larger than the largest")
    .add("errors.amax(-1, keepdim=True)", "errors.amin(-1, keepdim=True)", why=ROUNDS_TOO_LITTLE, gap=True),
    *(
        Explained(
            TORCH,
            loss,
            "check_process_group(process_group, reduction)",
            "pass",
            NEEDS_PROCESSES,
            "tests/torch/test_use.py",
        )
        for loss in ("hem_loss", "multi_margin_loss")
    ),
    *Group(TORCH_POSITIONS, "read")
    .add("tensor.detach()", "tensor", why="no tensor that requires a gradient comes here")
    .add(
        'tensor.device.type != "cpu" or torch.compiler.is_compiling()',
        '((tensor.device.type != "cpu"))',
        why=COMPILING,
        gap=True,
    ),
    *Group(TORCH_POSITIONS, "read_targets").add(
        "1 if input.ndim > 1 else 0", "1 if input.ndim > 1 else -1", why="the only axis, from the front or the back"
    ),
    *Group(TORCH_POSITIONS, "add_up").add("values > 0", "values != 0", why=NOT_NEGATIVE),
    *Group("hemspec_torch/traced.py", "KeptMean.forward").add(
        "errors.amax(-1)", "errors.amin(-1)", why=ROUNDS_TOO_LITTLE, gap=True
    ),
    *Group("hemspec_torch/traced.py", "stored").add(
        'z.device.type == "cpu" and z.stride(-1) == 1 and z.shape[-1] >= MANY',
        "((z.stride(-1) == 1) and (z.shape[-1] >= MANY))",
        why="speed alone",
    ),
    *Group("hemspec_torch/blocked.py", "<module>").add("1 << 19", "1 >> 19", why="speed alone"),
    *Group("hemspec_torch/blocked.py", "slopes_at_kept").add(
        "z.ndim == 2", "z.ndim <= 2", why="no logits of fewer axes come here"
    ),
    *Group("hemspec_torch/blocked.py", "in_blocks").add(
        "len(numbers) <= step", "len(numbers) == step", why="splitting gives the same single block; speed alone"
    ),
    *Group(TORCH_POSITIONS, "are_good")
    .add(
        "numbers > 0",
        "numbers >= 0",
        "numbers != 0",
        "numbers <= 0",
        "numbers > 1",
        "numbers > -1",
        why=COMPILING,
        gap=True,
    )
    .add(
        "numbers >= 0",
        "numbers > 0",
        "numbers == 0",
        "numbers < 0",
        "numbers >= 1",
        "numbers >= -1",
        why=COMPILING,
        gap=True,
    ),
]
