"""The inputs of the frozen vectors: what each is there to catch.

Logits are multiples of 1/16 below 8 in size unless a case says otherwise, so that every dtype holds them exactly and
one answer is right for all. Random logits keep every error of HEM and MM at least 1e-3 away from 0 and from the mean
error, so that no rounding can move an entry in or out of the kept set; ties are tested with exact numbers instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hemspec_conformance.adapter import DTYPES, LOSSES, Array, Call, LabelForm

MARGIN_LOSSES = ("hem_loss", "multi_margin_loss")
SINGLE = ("float32", "float64")
"""For numbers that half precision does not hold."""

INF, NAN = np.inf, np.nan


@dataclass(frozen=True)
class Case:
    name: str
    call: Call
    dtypes: Sequence[str] = DTYPES
    core: bool = False
    about_positions: bool = False
    label_form: LabelForm = "ids"
    source: str = ""
    """Where the value comes from, if somebody worked it out who is not the reference."""
    published: str = ""
    """That value, a fraction or as many digits as the source has. The reference has to give it."""


def clear_of_kinks(z: Array, labels: Array, margins: Array) -> bool:
    """Whether no error is near 0 or near its row's mean error. Rows last, labels flat."""
    rows = np.arange(len(z))
    errors = np.maximum(0.0, z - z[rows, labels][:, None] + margins[labels][:, None])
    raw = np.abs(z - z[rows, labels][:, None] + margins[labels][:, None])
    errors[rows, labels] = 0.0
    raw[rows, labels] = 1.0
    from_mean = np.abs(errors - errors.mean(axis=1, keepdims=True))
    return bool(raw.min(initial=1.0) > 1e-3 and from_mean[errors.max(axis=1) > 0].min(initial=1.0) > 1e-3)


def draw(seed: int, shape: Sequence[int], classes: int, margins: Any = 1.03) -> tuple[Array, Array]:
    """Random logits, class axis last, and labels; about half of the positions are easy, so that some are inactive."""
    rng = np.random.default_rng(seed)
    while True:
        z = rng.integers(-48, 48, (*shape, classes)) / 16.0
        y = rng.integers(0, classes, tuple(shape))
        easy = rng.random(tuple(shape)) < 0.4
        lift = np.where(easy, 4.5, 0.0)[..., None] * (np.arange(classes) == y[..., None])
        z = z + lift
        vector = np.broadcast_to(np.asarray(margins, float), (classes,))
        if clear_of_kinks(z.reshape(-1, classes), y.reshape(-1), vector):
            return z, y


def constants_of(loss: str, classes: int) -> dict[str, Any]:
    """Values for the constants that are not the defaults, so that ignoring one is noticed."""
    constants: dict[str, dict[str, Any]] = {
        "hem_loss": {"margin": 1.03},
        "multi_margin_loss": {"margin": 1.03},
        "cross_entropy_loss": {},
        "focal_loss": {"gamma": 1.5, "alpha": 0.5 + np.arange(classes) / 4},
        "logit_norm_loss": {"temperature": 0.25},
        "logit_adjusted_loss": {"class_counts": 1.0 + np.arange(classes) ** 2, "temperature": 1.25},
        "dice_loss": {"smooth": 0.5},
    }
    return constants[loss]


def reductions_of(loss: str) -> tuple[str, ...]:
    return ("none", "sum", "mean", "active_mean") if loss in MARGIN_LOSSES else ("none", "sum", "mean")


def case_maker(loss: str) -> tuple[Callable[..., Case], str, int]:
    """How the cases of a loss are made, its usual reduction, and the first of its seeds."""
    usual = "active_mean" if loss == "hem_loss" else "mean"

    def case(
        name: str, z: Array, y: Array, *, dtypes: Sequence[str] = DTYPES, core: bool = False, **options: Any
    ) -> Case:
        axis, label_form = options.pop("axis", -1), options.pop("label_form", "ids")
        options.setdefault("constants", constants_of(loss, z.shape[-1]))
        options.setdefault("reduction", usual)
        call = Call(loss, np.moveaxis(z, -1, axis), y, axis=axis, **options)
        return Case(name, call, dtypes, core, label_form=label_form)

    return case, usual, 1000 * (1 + list(LOSSES).index(loss))


def numbers(loss: str) -> Iterator[Case]:
    """What every loss has to get right in its own formula: reductions, infinities and NaN, large and small numbers."""
    case, usual, seed = case_maker(loss)
    z, y = draw(seed, (6,), 5)
    for reduction in reductions_of(loss):
        yield case(f"random_{reduction}", z, y, reduction=reduction, core=reduction == usual)

    z, y = draw(seed + 6, (4,), 2)
    yield case("two_classes", z, y)

    z, y = draw(seed + 7, (3,), 4)
    masked = z.copy()
    masked[np.arange(3), (y + 1) % 4] = -INF
    if loss != "logit_norm_loss":
        yield case("masked_class", masked, y)
    for name, value, column in (
        ("nan_at_rival", NAN, (y + 1) % 4),
        ("nan_at_true_class", NAN, y),
        ("inf_at_rival", INF, (y + 1) % 4),
        ("inf_at_true_class", INF, y),
        ("minus_inf_at_true_class", -INF, y),
    ):
        bad = z.copy()
        bad[1, column[1]] = value
        yield case(f"{name}_none", bad, y, reduction="none")
        if name == "nan_at_rival":
            yield case(name, bad, y)
    equal = z.copy()
    equal[1] = -INF
    yield case("nothing_but_minus_inf", equal, y, reduction="none")
    both = z.copy()
    both[1, y[1]] = both[1, (y[1] + 1) % 4] = INF
    yield case("inf_at_true_class_and_rival", both, y, reduction="none")

    yield case("all_zero", np.zeros((2, 5)), np.array([0, 3]))
    z, y = draw(seed + 8, (3,), 4)
    yield case("large_offset", z + 4096.0, y, dtypes=SINGLE)
    yield case("large_logits", z * 4096.0, y, constants={**constants_of(loss, 4)})
    yield case("finer_than_float32", z * (1 + 2.0**-30), y, dtypes=("float64",))


def positions(loss: str) -> Iterator[Case]:
    """What stands around the formula: shapes, the class axis, weights, ignored positions, labels of every kind."""
    case, usual, seed = case_maker(loss)
    z, y = draw(seed + 1, (6,), 5)
    w = np.array([2.0, 0.0, 0.5, 1.0, 1.25, 0.0])
    z_masked, y_masked = z.copy(), y.copy()
    z_masked[1], y_masked[1] = [NAN, INF, -INF, 0.0, 1.0], 99
    for reduction in ("none", "sum", usual):
        yield case(
            f"weights_{reduction}_nan_and_bad_label_at_weight_0",
            z_masked,
            y_masked,
            sample_weight=w,
            reduction=reduction,
        )
    # Weights that add up to less than 1: a denominator clamped at 1 against 0/0 is wrong for them.
    yield case("weights_sum_below_1", z, y, sample_weight=np.array([0.125, 0.0, 0.0625, 0.25, 0.0625, 0.25]))
    # Half precision does not hold these: weights are cast to the compute dtype, not to that of the logits.
    fine = np.array([0.3, 1.7, 0.01, 257.0, 2049.0, 1.1])
    yield case("weights_finer_than_half_precision", z, y, sample_weight=fine, reduction="none")
    yield case("weights_boolean", z, y, sample_weight=w > 0)
    yield case("weights_integer", z, y, sample_weight=np.array([2, 0, 1, 1, 3, 0]))

    z, y = draw(seed + 2, (6,), 5)
    y_ignored = y.copy()
    y_ignored[[0, 3]] = -100
    z_ignored = z.copy()
    z_ignored[0], z_ignored[3] = NAN, [INF, -INF, NAN, 0.0, INF]
    yield case("ignored_nan_and_inf", z_ignored, y_ignored, core=True)
    yield case("ignored_nan_and_inf_none", z_ignored, y_ignored, reduction="none")
    if usual != "mean":  # an ignored position is not active, so only the plain mean shows whether it is counted
        yield case("ignored_nan_and_inf_mean", z_ignored, y_ignored, reduction="mean")
    yield case("ignored_valid_class_still_competes", z, np.array([1, 0, 1, 2, 4, 3]), ignore_index=1)
    yield case("ignore_index_off", z, y, ignore_index=None)
    yield case("ignored_and_weighted", z_ignored, y_ignored, sample_weight=np.array([NAN, 2.0, 0.0, INF, 0.5, 1.0]))

    z, y = draw(seed + 3, (3, 3), 4)
    y[0, 1] = -100
    yield case("sequence_weights_per_sample_square", z, y, sample_weight=np.array([1.0, 2.0, 0.0]))
    yield case("sequence_weights_per_position", z, y, sample_weight=np.array([[1, 0, 2], [1, 1, 0], [3, 1, 1]]))
    z, y = draw(seed + 4, (2, 2, 3), 4)
    yield case("image_channels_first", z, y, axis=1, core=loss == "hem_loss")
    yield case("image_channels_first_none", z, y, axis=1, reduction="none", sample_weight=np.array([1.0, 0.5]))
    yield case("image_channels_last", z, y)
    # Where sizes agree, a port that takes the wrong axis does not crash: it is only wrong.
    z, y = draw(seed + 9, (3, 3), 3)
    yield case("as_many_classes_as_positions", z[0], y[0])
    yield case("cube_channels_first", z, y, axis=1)
    yield case("cube_channels_last", z, y)
    z, y = draw(seed + 5, (), 5)
    yield case("one_position_without_axis", z, y)
    yield case("one_position_without_axis_none", z, y, reduction="none")
    z, y = draw(seed + 7, (3,), 4)
    nothing = np.full(3, -100)
    yield case("nothing_valid_all_ignored", np.full_like(z, NAN), nothing)
    yield case("nothing_valid_all_weights_0", z, y, sample_weight=np.zeros(3))
    yield case("nothing_valid_none", z, nothing, reduction="none")
    yield case("no_positions", z[:0], y[:0])
    yield case("no_positions_none", z[:0], y[:0], reduction="none")

    z, y = draw(seed + 8, (3,), 4)
    wide = np.zeros((2, 300))
    wide[0, [7, 257]], wide[1, [299, 43, 0]] = [2.0, 0.5], [1.0, 3.0, 2.5]
    yield case("labels_above_256", wide, np.array([257, 299]), core=loss in MARGIN_LOSSES)
    far = np.zeros((1, 2100))
    far[0, [7, 43, 2048, 2049]] = [2.0, 3.0, 0.5, 1.0]  # float16 holds whole numbers up to 2048
    few = constants_of(loss, 2100)
    for name, vector in few.items():
        if isinstance(vector, np.ndarray):
            few[name] = np.ones(2100)
            few[name][[43, 2048, 2049]] = [2.0, 4.0, 0.5]
    above = "labels_above_2048"
    if loss == "logit_adjusted_loss":  # counts are whole: the same shares, of twice as many samples
        few["class_counts"], above = 2 * few["class_counts"], "whole_counts_above_2048"
    yield case(above, far, np.array([2049]), constants=few, core=loss in MARGIN_LOSSES)
    bytes_ = wide[:, :200]
    labels = np.array([156, 7], np.uint8)
    yield case("labels_uint8_156_is_not_ignored", bytes_, labels)
    yield case("labels_int8_ignored", bytes_, np.array([-100, 7], np.int8))
    yield case("labels_int16", z, y.astype(np.int16))

    # What counts when nothing is said: -100 is ignored, classes come last, HEM averages over the active positions.
    z, y = draw(seed + 13, (6,), 5)
    y[4] = -100
    needed = {k: v for k, v in constants_of(loss, 5).items() if k == "class_counts"}
    yield case("all_defaults", z, y, constants=needed, left_out=("axis", "ignore_index", "reduction"))

    # Forms that Keras users have; backends that take class indices alone are not asked.
    z, y = draw(seed + 10, (6,), 5)
    some = np.where(np.arange(6) == 2, -100, y)
    yield case("labels_column", z, some, label_form="column", core=loss == "hem_loss")
    yield case("labels_one_hot", z, y, label_form="one_hot", core=loss == "hem_loss")
    yield case("labels_float", z, some, label_form="float")
    yield case(
        above.replace("above", "float_above"),
        far,
        np.array([2049]),
        constants=few,
        label_form="float",
        core=loss == "hem_loss",
    )
    yield case(above.replace("above", "one_hot_above"), far, np.array([2049]), constants=few, label_form="one_hot")
    # Where the sizes agree an axis that should not be there can pass for another one.
    z, y = draw(seed + 11, (3, 3), 3)
    yield case("labels_column_cube", z, y, label_form="column", sample_weight=np.array([1.0, 2.0, 0.5]))
    yield case("labels_one_hot_cube", z, y, label_form="one_hot", sample_weight=np.array([1.0, 2.0, 0.5]))
    z, y = draw(seed + 12, (3,), 3)
    yield case("labels_one_hot_square", z, y, label_form="one_hot")


BY_HAND: Sequence[tuple[str, list[float], float, str, str]] = (
    ("all_equal", [0, 0, 0], 1.0, "1", "2/3"),
    ("satisfied_at_the_kink", [2, 1, 0], 1.0, "0", "0"),
    ("one_error", [1, 1.5, 0, -3], 1.0, "3/2", "3/8"),
    ("smallest_dropped", [0, 2, 1, 0.2], 1.0, "5/2", "31/20"),
    ("masked_classes_count_in_the_mean", [0, 2, 1, 0.2, -INF, -INF], 1.0, "31/15", "31/30"),
    ("margin_0", [0, 1, 1, 1, -9], 0.0, "1", "3/5"),
    ("error_equal_to_the_mean_stays", [0, 3, 5, 6, 5, 1, 1], 0.0, "19/4", "3"),
)
"""Logits with label 0, margin, HEM, MM: the table of the specification."""


def margin_cases(loss: str) -> Iterator[Case]:
    """The table worked by hand, ties, infinities, per-class margins, and the rounding trap."""

    def one(name: str, z: Any, margin: Any = 1.0, y: int = 0, **options: Any) -> Case:
        dtypes, core = options.pop("dtypes", DTYPES), options.pop("core", False)
        source, published = options.pop("source", ""), options.pop("published", "")
        call = Call(
            loss, np.array([z], float), np.array([y]), reduction="mean", constants={"margin": margin}, **options
        )
        return Case(name, call, dtypes, core, source=source, published=published)

    for name, row, margin, hem, mm in BY_HAND:
        value = hem if loss == "hem_loss" else mm
        dtypes = SINGLE if 0.2 in row else DTYPES
        yield one(f"by_hand_{name}", row, margin, dtypes=dtypes, source="worked by hand", published=value)
    # A batch whose four losses by hand are (1, 0, 1.5, 2.5) for HEM; unused classes are masked.
    batch = np.array([[0, 0, 0, -INF], [2, 1, 0, -INF], [1, 1.5, 0, -3], [0, 2, 1, 0.2]])
    for reduction in ("mean", "active_mean", "sum"):
        for weight in (None, np.array([2.0, 1.0, 0.0, 1.0])):
            call = Call(loss, batch, np.zeros(4, int), weight, reduction=reduction, constants={"margin": 1.0})
            yield Case(f"by_hand_batch_{'weighted_' if weight is not None else ''}{reduction}", call, SINGLE)

    yield one("kink_among_errors", [1.0, 0.0, 2.0, 0.5, -4.0], 1.0)
    yield one("ties_above_the_mean", [0, 4, 4, 4, 1, 1, -20], 0.0)
    yield one("ties_at_the_mean_of_three", [0, 1, 2, 3, 0, 0, 0, 0, 3], 0.0)
    yield one("equal_errors_of_seven", [0.0, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5], 1.0)
    yield one("equal_errors_of_49", [0.25] + [1.75] * 48, 1.0)
    yield one("minus_inf_at_true_class_and_rival", [-INF, 0.0, -INF, 1.0])
    yield one("only_true_class_finite", [0.0, -INF, -INF, -INF])
    yield one("two_infinite_rivals", [0.0, INF, INF, 3.0])
    yield one("far_satisfied", [30.0, -30.0, 0.0, 1.0])
    yield Case("default_margin", Call(loss, np.array([[0.0, 2.0, 1.0, -0.75]]), np.array([0]), reduction="mean"))
    broken = np.array([[9.0, 0.0, 1.0], [0.0, NAN, 1.0], [0.0, 1.0, -3.0]])
    for name, rows in (("nan_is_active", broken), ("nan_alone_is_active", broken[:2])):
        labels = np.array([0, 2, 0])[: len(rows)]
        yield Case(name, Call(loss, rows, labels, reduction="active_mean", constants={"margin": 1.0}))
    # The mean error is 5.0017, which half precision rounds to 5: there the error of 5 would stay.
    below = [0.0, 5.0, *[6.0] * 17, *[4.375] * 7, *[4.3125] * 11]
    yield one("error_a_little_below_the_mean", below, 0.0)
    # Three classes lie a little beyond the margin: below the clamp they would pull the mean under the error of 0.5.
    yield one("classes_a_little_beyond_the_margin", [0.0, 2.0, -0.5, -1.75, -1.75, -1.75])
    nothing_active = Call(
        loss,
        np.array([[9.0, 0.0, 1.0], [0.0, 9.0, 1.0]]),
        np.array([0, 1]),
        reduction="active_mean",
        constants={"margin": 1.0},
    )
    yield Case("nothing_active", nothing_active)

    margins = np.array([0.0, 2.53, 1.03, 0.28, 4.03])
    z, y = draw(77, (8,), 5, margins)
    y_all = np.array([0, 1, 2, 3, 4, 1, 4, 0])
    seed = 78
    while not clear_of_kinks(z, y_all, margins):
        z, y = draw(seed, (8,), 5, margins)
        seed += 1
    for reduction in ("none", "active_mean", "mean"):
        call = Call(loss, z, y_all, reduction=reduction, constants={"margin": margins})
        yield Case(f"margin_per_true_class_{reduction}", call, core=reduction == "active_mean")
    z, y = draw(99, (2, 3), 5, margins)
    call = Call(loss, np.moveaxis(z, -1, 1), y, axis=1, reduction="mean", constants={"margin": margins})
    yield Case("margin_per_true_class_channels_first", call)

    # The rounding trap: a mean of 32,768 equal errors, summed in float32 or float16, can come out above them all.
    trap = np.full((2, 32768), 1.375)
    trap[0, 5], trap[1, 32767] = 0.125, 0.25
    call = Call(loss, trap, np.array([5, 32767]), reduction="none", constants={"margin": 0.1})
    yield Case("equal_errors_of_32768", call, core=True)
    above = trap.copy()
    above[0, 9] += 2.0**-7
    call = Call(loss, above, np.array([5, 32767]), reduction="none", constants={"margin": 0.1})
    yield Case("one_error_a_little_larger_of_32768", call, core=True)
    # As many classes as a language model has tokens, and one row of them: whatever is cut into blocks is cut here.
    wide = np.full((1, 131_072), 1.375)
    wide[0, 0], wide[0, 99_999] = 0.125, -6.0
    call = Call(loss, wide, np.array([0]), reduction="none", constants={"margin": 0.1})
    yield Case("equal_errors_of_131072", call)


def softmax_cases(loss: str) -> Iterator[Case]:
    """Corners of the losses with a softmax."""

    def rows(
        name: str, z: Any, y: Any, dtypes: Sequence[str] = DTYPES, reduction: str = "none", **constants: Any
    ) -> Case:
        call = Call(loss, np.array(z, float), np.array(y), reduction=reduction, constants=constants)
        return Case(name, call, dtypes)

    sure = [[120.0, 0.0, -4.0], [0.0, 120.0, 1.0], [0.0, 0.0, 0.0]]
    z, y = draw(7, (4,), 4)
    if loss == "cross_entropy_loss":
        yield rows("sure_and_surely_wrong", sure, [0, 0, 2])
        yield rows("logits_of_1e30", [[1e30, -1e30, 0.0], [1e30, 1e30, 0.0]], [1, 0], SINGLE)
    elif loss == "focal_loss":
        for gamma in (0.0, 0.5, 1.0, 2.0, 5.0):
            yield rows(f"gamma_{gamma}", z, y, gamma=gamma)
            yield rows(f"gamma_{gamma}_sure_and_surely_wrong", sure, [0, 0, 2], gamma=gamma)
        for gamma in (0.0, 0.5, 2.0):
            yield rows(f"gamma_{gamma}_all_rivals_masked", [[0.5, -INF, -INF]], [0], gamma=gamma)
        yield rows("alpha_of_true_class", z, [0, 1, 2, 3], reduction="mean", alpha=np.array([0.0, 1.0, 2.0, 0.25]))
    elif loss == "logit_norm_loss":
        yield rows("temperature_default", z, y)
        yield rows("logits_of_1e20", [[1e20, -2e20, 3e20]], [1], SINGLE, temperature=1.0)
        yield rows("logits_of_1e-20", [[1e-20, -2e-20, 3e-20]], [1], SINGLE, temperature=1.0)
        yield rows("zero_beside_others", [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]], [1, 2], SINGLE, temperature=1.0)
    elif loss == "logit_adjusted_loss":
        yield rows("long_tail", z, y, class_counts=np.array([5000.0, 500.0, 50.0, 5.0]))
        yield rows("counts_that_overflow_int32", z, y, class_counts=np.array([3e9, 2e9, 4e9, 1e9]), temperature=0.5)


def dice_cases() -> Iterator[Case]:
    """Images: absent classes, weights inside them, smoothing, images without a valid position."""

    def image(name: str, z: Array, y: Array, core: bool = False, **options: Any) -> Case:
        options.setdefault("constants", {})
        return Case(name, Call("dice_loss", z, y, **options), DTYPES, core)

    z, y = draw(31, (3, 2, 4), 5)
    y[0] = np.array([[1, 1, 3, 3], [1, 3, 3, 1]])
    partly = y.copy()
    partly[1], partly[2, 0] = -100, [-100, 0, -100, 4]
    w = np.array([[[1, 2, 0, 1], [0.5, 1, 1, 3]]] * 3)
    for reduction in reductions_of("dice_loss"):
        yield image(f"absent_classes_{reduction}", z, y, reduction=reduction)
        yield image(f"image_without_positions_{reduction}", z, partly, reduction=reduction)
        yield image(f"batch_{reduction}", z, partly, reduction=reduction, constants={"batch": True})
    yield image("weights_in_images", z, partly, sample_weight=w, core=True)
    yield image("weight_of_whole_images_changes_nothing", z, y, sample_weight=np.array([3.0, 0.5, 1.0]))
    yield image(
        "weight_of_whole_images_in_a_batch", z, y, sample_weight=np.array([3.0, 0.5, 1.0]), constants={"batch": True}
    )
    yield image("smooth", z, partly, sample_weight=w, constants={"smooth": 1.0, "batch": True})
    bad = z.copy()
    bad[1, 0, 2, 0] = NAN
    yield image("nan_spoils_its_image_alone", bad, y, reduction="none")
    # What does not exist has no gradient, also in an image that is NaN.
    absent, w = y.copy(), np.ones(y.shape)
    absent[1, 0, 0], w[1, 1, 3] = -100, 0.0
    yield image("nan_image_with_absent_positions", bad, absent, sample_weight=w, reduction="none")
    masked = z.copy()
    masked[0, 1, 1, 3] = -INF
    yield image("minus_inf_at_true_class_of_one_pixel", masked, y, reduction="none")


def published_cases() -> Iterator[Case]:
    """Numbers that others printed, and a few worked by hand."""

    def one(loss: str, name: str, z: Any, y: Any, source: str, published: str, **options: Any) -> Case:
        call = Call(loss, np.array(z, float), np.array(y), **options)
        return Case(f"published_{name}", call, SINGLE, source=source, published=published)

    yield one(
        "multi_margin_loss",
        "pytorch_documentation",
        [[0.1, 0.2, 0.4, 0.8]],
        [3],
        "https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiMarginLoss.html",
        "0.3250",
        constants={"margin": 1.0},
    )
    with np.errstate(divide="ignore"):  # the documentation has probabilities, one of them 0
        log_p = np.log(np.array([[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]]))
    keras = "https://keras.io/api/losses/probabilistic_losses/#sparsecategoricalcrossentropy-class"
    yield one("cross_entropy_loss", "keras_documentation", log_p, [1, 2], keras, "1.177")
    # p_t = 0.9: a loss 100 times below cross-entropy's, which is -log 0.9 = 0.10536.
    yield one(
        "focal_loss",
        "a_hundredth_at_0.9",
        [[np.log(9.0), 0.0]],
        [0],
        "Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, section 3.2",
        "0.0010536",
        constants={"gamma": 2.0},
    )
    # (3, 4) / 5 = (0.6, 0.8), and log(1 + exp(0.2)).
    logit_norm = {"constants": {"temperature": 1.0}}
    yield one("logit_norm_loss", "three_four_five", [[3.0, 4.0]], [0], "worked by hand", "0.7981389", **logit_norm)
    # Equal logits leave the priors: -log(1/4).
    yield one(
        "logit_adjusted_loss",
        "priors_alone",
        [[0.0, 0.0]],
        [1],
        "worked by hand",
        "1.386294",
        constants={"class_counts": np.array([3.0, 1.0])},
    )
    # Two pixels of two classes, all probabilities 1/2: 2 * (1/2) / (1 + 1) for each class.
    yield one("dice_loss", "two_pixels", [[[0.0, 0.0], [0.0, 0.0]]], [[0, 1]], "worked by hand", "1/2")


CASES: Sequence[Case] = [
    *(case for loss in LOSSES for case in numbers(loss)),
    *(replace(case, about_positions=True) for loss in LOSSES for case in positions(loss)),
    *(case for loss in MARGIN_LOSSES for case in margin_cases(loss)),
    *(
        case
        for loss in ("cross_entropy_loss", "focal_loss", "logit_norm_loss", "logit_adjusted_loss")
        for case in softmax_cases(loss)
    ),
    *dice_cases(),
    *published_cases(),
]
