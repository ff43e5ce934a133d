"""Mistakes that ports of these losses make, each as a small edit of the reference.

Some were read in public code, the others are what a port in a hurry would do. An edit that no longer applies is an
error, so that a mistake cannot silently leave the catalogue. `Mutant.accepts` marks the ones about bad arguments: a
check is missing and something plausible comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from hemspec_conformance.adapter import LOSSES
from mutation.copies import Edit

HEM, MM, CE, FOCAL, LOGIT_NORM, LA, DICE = (
    "hem_loss",
    "multi_margin_loss",
    "cross_entropy_loss",
    "focal_loss",
    "logit_norm_loss",
    "logit_adjusted_loss",
    "dice_loss",
)
MARGIN: Final = (HEM, MM)
SOFTMAX: Final = (CE, FOCAL, LOGIT_NORM, LA)
BY_POSITION: Final = (*MARGIN, *SOFTMAX)
ALL: Final = tuple(LOSSES)


class Mutant(NamedTuple):
    name: str
    why: str
    losses: tuple[str, ...]
    """Those that become wrong: each of them has to be noticed by itself."""
    edits: tuple[Edit, ...]
    accepts: bool = False

    @property
    def gradient_alone(self) -> bool:
        """Whether every value is right."""
        return self.why.startswith("right value")


class Group(list[Mutant]):
    """The mutants of one file."""

    def __init__(self, path: str, losses: Sequence[str]) -> None:
        super().__init__()
        self.path, self.losses = path, losses

    def add(
        self,
        name: str,
        why: str,
        *texts: str,
        losses: Sequence[str] = (),
        path: str = "",
        also: Sequence[Edit] = (),
        accepts: bool = False,
    ) -> None:
        """`texts` are old and new."""
        old, new = texts
        edits = (Edit(path or self.path, old, new), *also)
        self.append(Mutant(name, why, tuple(losses or self.losses), edits, accepts))


# --- HEM ------------------------------------------------------------------------------------------------------------

hem = Group("hemspec/reference/hem.py", [HEM])
THRESHOLD: Final = "high = errors.shape[1] * shortfall <= shortfall.sum(axis=1, keepdims=True)"
COMPETING: Final = "errors: Floats = np.maximum(0.0, (z - z[rows, y][:, None]) + margins[:, None])"
SLOPE_AT_TRUE: Final = "slopes[np.arange(len(size)), positions.labels] = -1.0 * kept.any(axis=1)"

hem.add(
    "hem_mean_of_positive_errors",
    "the threshold averages the errors > 0 instead of all C (a public port does)",
    THRESHOLD,
    "high = errors * np.maximum((errors > 0).sum(axis=1, keepdims=True), 1) >= errors.sum(axis=1, keepdims=True)",
)
hem.add(
    "hem_mean_of_rivals",
    "the zero at the true class is left out of the mean: C - 1 errors",
    THRESHOLD,
    "high = (errors.shape[1] - 1) * errors >= errors.sum(axis=1, keepdims=True)",
)
hem.add(
    "hem_masked_classes_left_out_of_the_mean",
    "the mean runs over the classes that are not at -inf: rivals and their number are taken after the mask",
    "kept = kept_errors(errors)",
    "kept = np.where(np.isneginf(positions.logits).any(axis=1)[:, None], errors * np.maximum(np.isfinite("
    "positions.logits).sum(axis=1, keepdims=True), 1) >= errors.sum(axis=1, keepdims=True), kept_errors(errors))"
    " & ((errors > 0) | np.isnan(errors))",
)
hem.add("hem_greater", "`>` for `>=`: errors equal to the mean are dropped", THRESHOLD, THRESHOLD.replace("<=", "<"))
hem.add(
    "hem_mean_in_float32_plain_loop",
    "the mean is summed one by one in float32 and compared: equal errors fall below their own mean",
    THRESHOLD,
    "high = errors.astype(np.float32) >= np.cumsum(errors.astype(np.float32), axis=1)[:, -1:]"
    " / np.float32(errors.shape[1])",
)
hem.add(
    "hem_mean_in_half_precision",
    "the mean is summed in float16 and compared",
    THRESHOLD,
    "high = errors.astype(np.float16) >= errors.astype(np.float16).mean(axis=1, dtype=np.float16, keepdims=True)",
)
hem.add(
    "hem_mean_times_reciprocal",
    "the mean is the sum times 1/C in float32, as compilers write it: ties come apart",
    THRESHOLD,
    "high = errors.astype(np.float32) >= errors.sum(axis=1, keepdims=True).astype(np.float32)"
    " * (np.float32(1) / np.float32(errors.shape[1]))",
)
hem.add(
    "hem_mean_before_the_clamp",
    "the mean runs over the differences before max(0, .), negative ones included",
    "kept = kept_errors(errors)",
    "raw = positions.logits - positions.logits[np.arange(len(errors)), positions.labels][:, None] + 1.0\n"
    "    kept = (errors >= raw.mean(axis=1, keepdims=True)) & (errors > 0) | np.isnan(errors)",
)
hem.add(
    "hem_mean_of_slightly_negative_errors",
    "the threshold clamps the differences at -1 instead of 0, as a leaky relu would",
    "kept = kept_errors(errors)",
    "raw = positions.logits - positions.logits[np.arange(len(errors)), positions.labels][:, None]\n"
    "    raw += per_true_class(margin, positions, name='margin')[:, None]\n"
    "    own = np.arange(positions.classes) == positions.labels[:, None]\n"
    "    kept = kept_errors(np.where(own, 0.0, np.maximum(raw, -1.0)))",
)
hem.add(
    "hem_mean_of_the_batch",
    "one threshold for the whole batch: mean() without an axis",
    "high = np.where(np.isinf(largest), errors == largest, high)",
    "high = np.where(np.isinf(largest), errors == largest, errors >= np.nanmean(errors) if errors.size else high)",
)
hem.add(
    "hem_median",
    "the threshold is the median, not the mean",
    THRESHOLD,
    "high = errors >= np.median(errors, axis=1, keepdims=True)",
)
hem.add(
    "hem_largest_alone",
    "only the largest error is kept: Crammer and Singer's loss",
    THRESHOLD,
    "high = errors == largest",
)
hem.add(
    "hem_all_positive_errors",
    "every error > 0 is kept: no threshold",
    THRESHOLD,
    "high = np.ones(errors.shape, bool)",
)
hem.add(
    "hem_infinite_errors_not_told_apart",
    "inf - inf in the threshold: an infinite error drops itself",
    "high = np.where(np.isinf(largest), errors == largest, high)",
    "",
)
hem.add(
    "hem_nan_not_kept",
    "membership without isnan: a NaN is an error of 0",
    "return (high & (errors > 0)) | np.isnan(errors)",
    "return high & (errors > 0)",
)
hem.add(
    "hem_satisfied_position_has_a_gradient",
    "membership without e > 0: all errors 0 are all at the mean, and all get a gradient",
    "return (high & (errors > 0)) | np.isnan(errors)",
    "return high | np.isnan(errors)",
)
hem.add(
    "hem_true_class_left_in",
    "the error of the true class with itself, the margin, is not removed",
    "    errors[rows, y] = 0.0\n",
    "",
    losses=MARGIN,
)
hem.add(
    "hem_margin_of_the_competing_class",
    "margins are indexed by the competing class (a public port does)",
    COMPETING,
    "errors: Floats = np.maximum(0.0, (z - z[rows, y][:, None]) + margins)",
    losses=MARGIN,
    also=(
        Edit(
            "hemspec/reference/positions.py",
            "return np.broadcast_to(constant, (positions.classes,))[positions.labels]",
            "if name == 'margin':\n        return np.broadcast_to(constant, (positions.classes,))\n"
            "    return np.broadcast_to(constant, (positions.classes,))[positions.labels]",
        ),
    ),
)
hem.add(
    "hem_margin_added_to_z_first",
    "(z_j + m) - z_y rounds at the size of the logits; a graph optimiser may do it too",
    COMPETING,
    "errors: Floats = np.maximum(0.0, (z + margins[:, None]) - z[rows, y][:, None])",
    losses=MARGIN,
)
hem.add(
    "hem_margin_subtracted",
    "the margin has the wrong sign",
    COMPETING,
    COMPETING.replace("+ margins", "- margins"),
    losses=MARGIN,
)
hem.add(
    "hem_margin_ignored", "the margin is always 1", COMPETING, COMPETING.replace("margins[:, None]", "1"), losses=MARGIN
)
hem.add(
    "hem_margin_in_half_precision",
    "`.half()` on a module rounds its margin buffer",
    COMPETING,
    COMPETING.replace("margins[:, None]", "margins.astype(np.float16)[:, None]"),
    losses=MARGIN,
)
hem.add(
    "hem_sign_of_the_difference",
    "z_y - z_j: right answers are punished",
    COMPETING,
    "errors: Floats = np.maximum(0.0, (z[rows, y][:, None] - z) + margins[:, None])",
    losses=MARGIN,
)
hem.add("hem_errors_squared", "the p = 2 form of the margin error", COMPETING, f"{COMPETING} ** 2", losses=MARGIN)
hem.add(
    "hem_soft_errors",
    "softplus for max(0, .)",
    COMPETING,
    "errors: Floats = np.logaddexp(0.0, (z - z[rows, y][:, None]) + margins[:, None])",
    losses=MARGIN,
)
hem.add(
    "hem_infinities_made_finite",
    "nan_to_num on the logits: a broken position looks like a large loss",
    COMPETING,
    "z = np.nan_to_num(z)\n        " + COMPETING,
    losses=MARGIN,
)
hem.add(
    "hem_nan_lost_in_max",
    "fmax(0, NaN) is 0, as some max instructions have it",
    COMPETING,
    COMPETING.replace("np.maximum", "np.fmax"),
    losses=MARGIN,
)
hem.add(
    "hem_errors_rounded_to_half",
    "differences in half precision, accumulated in float32",
    COMPETING,
    COMPETING + "\n        errors = errors.astype(np.float16).astype(np.float64)",
    losses=MARGIN,
)
hem.add(
    "hem_divided_by_classes",
    "the kept errors are divided by C instead of by their number",
    "size = np.maximum(kept.sum(axis=1), 1)",
    "size = np.full(len(kept), positions.classes)",
)
hem.add(
    "hem_divided_by_positive_errors",
    "the kept errors are divided by the number of errors > 0",
    "size = np.maximum(kept.sum(axis=1), 1)",
    "size = np.maximum((errors > 0).sum(axis=1), 1)",
)
hem.add(
    "hem_not_divided",
    "the kept errors are summed",
    "size = np.maximum(kept.sum(axis=1), 1)",
    "size = np.ones(len(kept))",
)
hem.add(
    "hem_epsilon_in_the_count",
    "the authors' 1e-6 in the denominator",
    "size = np.maximum(kept.sum(axis=1), 1)",
    "size = np.maximum(kept.sum(axis=1), 1) + 1e-6",
)
hem.add(
    "hem_gradient_through_the_threshold",
    "right value; the mean error in the threshold is not detached: it is subtracted and added back",
    "slopes = kept / size[:, None]",
    "slopes = kept / size[:, None] - (errors > 0) / positions.classes",
)
hem.add(
    "hem_gradient_all_positive_errors",
    "right value, and the gradient of the mean over all errors > 0",
    "slopes = kept / size[:, None]",
    "slopes = ((errors > 0) | kept) / np.maximum(((errors > 0) | kept).sum(axis=1, keepdims=True), 1)",
)
hem.add(
    "hem_gradient_not_divided",
    "right value; each kept class has gradient 1, the true one minus their number",
    "slopes = kept / size[:, None]",
    "slopes = kept * 1.0",
    also=(
        Edit("hemspec/reference/hem.py", SLOPE_AT_TRUE, SLOPE_AT_TRUE.replace("-1.0 * kept.any", "-1.0 * kept.sum")),
    ),
)
hem.add(
    "hem_gradient_missing_at_the_true_class",
    "right value; z_y was taken from a detached copy",
    SLOPE_AT_TRUE,
    "pass",
)
hem.add(
    "hem_gradient_at_true_class_of_satisfied_positions",
    "right value; -1 at the true class even where nothing is kept",
    SLOPE_AT_TRUE,
    "slopes[np.arange(len(size)), positions.labels] = -1.0",
)
hem.add(
    "hem_gradient_only_of_the_largest",
    "right value; the gradient of a max picks one of several equal errors",
    "slopes = kept / size[:, None]",
    "slopes = np.where(kept, np.arange(positions.classes) == kept.argmax(axis=1)[:, None], 0) * 1.0",
)

# --- MM -------------------------------------------------------------------------------------------------------------

mm = Group("hemspec/reference/multi_margin.py", [MM])
mm.add(
    "mm_divided_by_rivals",
    "divided by C - 1",
    "return by_position(positions, errors.sum(axis=1) / positions.classes, slopes, reduction)",
    "scale = positions.classes / (positions.classes - 1)\n"
    "    return by_position(positions, errors.sum(axis=1) / (positions.classes - 1), slopes * scale, reduction)",
)
mm.add(
    "mm_not_divided",
    "the sum over the classes, as other libraries' multi-class hinge has it",
    "return by_position(positions, errors.sum(axis=1) / positions.classes, slopes, reduction)",
    "return by_position(positions, errors.sum(axis=1), slopes * positions.classes, reduction)",
)
mm.add(
    "mm_divided_by_positive_errors",
    "divided by the number of errors > 0",
    "return by_position(positions, errors.sum(axis=1) / positions.classes, slopes, reduction)",
    "return by_position(positions, errors.sum(axis=1) / np.maximum((errors > 0).sum(axis=1), 1), slopes, reduction)",
)
mm.add(
    "mm_gradient_at_the_kink",
    "right value; the gradient of max(0, 0) is 1, as with relu written by >=",
    "slopes = (errors > 0) / positions.classes",
    "raw = positions.logits - positions.logits[np.arange(len(errors)), positions.labels][:, None]\n"
    "    raw += per_true_class(margin, positions, name='margin')[:, None]\n"
    "    slopes = (raw >= 0) / positions.classes\n"
    "    slopes[np.arange(len(slopes)), positions.labels] = 0",
)
mm.add(
    "mm_half_a_gradient_at_the_kink",
    "right value; the gradient of max(0, 0) is 1/2, as with maximum() in JAX",
    "slopes = (errors > 0) / positions.classes",
    "raw = positions.logits - positions.logits[np.arange(len(errors)), positions.labels][:, None]\n"
    "    raw += per_true_class(margin, positions, name='margin')[:, None]\n"
    "    slopes = ((raw > 0) + 0.5 * (raw == 0)) / positions.classes\n"
    "    slopes[np.arange(len(slopes)), positions.labels] = 0",
)
mm.add(
    "mm_gradient_at_true_class_not_added_up",
    "right value; -1/C at the true class whatever the number of errors",
    "= -slopes.sum(axis=1)",
    "= -1.0 / positions.classes * (errors > 0).any(axis=1)",
)
mm.add(
    "mm_gradient_of_the_sum",
    "right value; the gradient lacks the 1/C",
    "slopes = (errors > 0) / positions.classes",
    "slopes = (errors > 0) * 1.0",
)

# --- CE -------------------------------------------------------------------------------------------------------------

ce = Group("hemspec/reference/cross_entropy.py", [CE])
CE_VALUE: Final = "values = np.log(total) - shifted[rows, y]"
CE_SLOPE: Final = "slopes[rows, y] -= 1.0"
ce.add(
    "ce_maximum_not_subtracted",
    "exp overflows",
    "shifted = z - z.max(axis=1, keepdims=True)",
    "shifted = z",
    losses=(CE, FOCAL),  # LA subtracts it once more
)
ce.add(
    "ce_maximum_of_the_batch_subtracted",
    "max() without an axis: a row far below another one underflows",
    "shifted = z - z.max(axis=1, keepdims=True)",
    "shifted = z - z.max(initial=-np.inf)",
    losses=SOFTMAX,
)
ce.add(
    "ce_label_smoothing",
    "a default label smoothing of 0.1",
    CE_VALUE,
    "values = np.log(total) - 0.9 * shifted[rows, y] - 0.1 * shifted.mean(axis=1)",
    losses=SOFTMAX,
)
ce.add(
    "ce_probability_clipped",
    "log of the probability clipped at 1e-7, as Keras does with probabilities",
    CE_VALUE,
    "values = -np.log(np.maximum(exponentials[rows, y] / total, 1e-7))",
    losses=(CE, FOCAL),
)
ce.add(
    "ce_epsilon_in_the_logarithm",
    "log(p + 1e-8)",
    CE_VALUE,
    "values = -np.log(exponentials[rows, y] / total + 1e-8)",
    losses=SOFTMAX,
)
ce.add(
    "ce_one_hot_times_log_softmax",
    "one-hot labels times log-probabilities: 0 * inf is NaN at a masked class",
    CE_VALUE,
    "values = -((np.arange(z.shape[1]) == y[:, None]) * (shifted - np.log(total)[:, None])).sum(axis=1)",
    losses=(CE, FOCAL, LA),
)
ce.add(
    "ce_nan_ignored_in_the_sum",
    "a NaN-skipping sum: a NaN at a rival class gives a number",
    "total = exponentials.sum(axis=1)",
    "total = np.nansum(exponentials, axis=1)",
    also=(
        Edit(
            "hemspec/reference/cross_entropy.py",
            "shifted = z - z.max(axis=1, keepdims=True)",
            "shifted = z - np.fmax.reduce(z, axis=1, keepdims=True)",
        ),
    ),
)
ce.add(
    "ce_infinite_logit_wins",
    "+inf is given probability 1 instead of NaN",
    "shifted = z - z.max(axis=1, keepdims=True)",
    "z = np.where(np.isposinf(z).any(axis=1, keepdims=True), np.where(np.isposinf(z), 0.0, -np.inf), z)\n"
    "        shifted = z - z.max(axis=1, keepdims=True)",
)
ce.add(
    "ce_in_half_precision",
    "the softmax runs in float16",
    "exponentials = np.exp(shifted)",
    "exponentials = np.exp(shifted.astype(np.float16)).astype(np.float64)",
    losses=SOFTMAX,
)
ce.add(
    "ce_divided_by_classes",
    "mean over the classes as well: an unreduced loss of shape (N, C) was averaged",
    CE_VALUE,
    "values = (np.log(total) - shifted[rows, y]) / z.shape[1]",
    losses=SOFTMAX,
)
ce.add("ce_bits", "the logarithm to base 2", CE_VALUE, CE_VALUE.replace("np.log", "np.log2"), losses=SOFTMAX)
ce.add(
    "ce_gradient_without_the_label",
    "right value; the gradient is that of logsumexp alone",
    CE_SLOPE,
    "pass",
    losses=(*SOFTMAX,),
)
ce.add(
    "ce_gradient_smoothed",
    "right value; the gradient is that of smoothed labels",
    CE_SLOPE,
    "slopes[rows, y] -= 0.9\n    slopes -= 0.1 / z.shape[1]",
    losses=SOFTMAX,
)
ce.add(
    "ce_gradient_sign",
    "right value; a custom backward with the sign turned round",
    CE_SLOPE,
    "slopes[rows, y] -= 1.0\n    slopes = -slopes",
    losses=SOFTMAX,
)

# --- Focal ----------------------------------------------------------------------------------------------------------

focal = Group("hemspec/reference/focal.py", [FOCAL])
FOCAL_VALUE: Final = "values = a * q_to_g * minus_log_p"
FOCAL_SLOPE: Final = "slopes = (a * q_to_g)[:, None] * (slopes + chain)"
ALPHA: Final = 'a = 1.0 if alpha is None else per_true_class(alpha, positions, name="alpha", scalar=False)'
focal.add(
    "focal_divided_by_classes",
    "the mean of a (N, C) array, as MONAI and kornia have it",
    FOCAL_VALUE,
    FOCAL_VALUE + " / z.shape[1]",
    also=(Edit("hemspec/reference/focal.py", FOCAL_SLOPE, FOCAL_SLOPE + " / z.shape[1]"),),
)
focal.add(
    "focal_alpha_weighs_the_mean",
    "alpha goes into the denominator, as class weights do in torch's cross_entropy",
    "return by_position(positions, values, slopes, reduction)",
    "evaluation = by_position(positions, values, slopes, reduction)\n"
    "    if reduction == 'mean' and alpha is not None:\n"
    "        from dataclasses import replace\n\n"
    "        safe = np.where(np.asarray(a) == 0, 1.0, a)\n"
    "        return replace(evaluation, weights=evaluation.weights * a, values=values / safe,"
    " slopes=slopes / safe[:, None])\n"
    "    return evaluation",
)
focal.add(
    "focal_alpha_of_foreground_and_background",
    "alpha of the binary form: 1 - alpha for class 0",
    ALPHA,
    ALPHA + "\n    if alpha is not None:\n        a = np.where(positions.labels == 0, 1 - a, a)",
)
focal.add("focal_alpha_ignored", "alpha is not used", FOCAL_VALUE, "values = q_to_g * minus_log_p")
focal.add(
    "focal_alpha_normalised",
    "alpha is divided by its sum",
    ALPHA,
    ALPHA + "\n    if alpha is not None:\n        a = a / np.sum(alpha)",
)
focal.add(
    "focal_alpha_by_position",
    "alpha is indexed by the place in the batch",
    ALPHA,
    ALPHA + "\n    if alpha is not None:\n        a = np.resize(np.asarray(alpha, float), len(a))",
)
focal.add(
    "focal_p_for_1_minus_p",
    "p^g instead of (1 - p)^g",
    "np.exp(g * log_q))",
    "np.exp(-g * minus_log_p))",
)
focal.add(
    "focal_gamma_in_whole_numbers",
    "gamma is made an int",
    'g = read_number(gamma, name="gamma")',
    'g = int(read_number(gamma, name="gamma"))',
)
focal.add(
    "focal_gamma_always_2",
    "gamma is not used",
    'g = read_number(gamma, name="gamma")',
    'g = read_number(gamma, name="gamma") * 0 + 2.0',
)
focal.add(
    "focal_1_minus_p_in_float32",
    "1 - p by subtraction rounds to 0, or to float32's digits, when p is near 1",
    "log_q = log_sum_exp(others) - log_sum_exp(inner)",
    "log_q = np.log((1 - np.exp(-minus_log_p).astype(np.float32)).astype(np.float64))",
)
focal.add(
    "focal_epsilon",
    "(1 - p + 1e-6)^g",
    "np.exp(g * log_q))",
    "(np.exp(log_q) + 1e-6) ** g)",
)
focal.add(
    "focal_zero_to_the_zero",
    "0^0 is taken for 0 when all rivals are masked and gamma is 0: right value, and NaN or nothing in the gradient",
    "np.where(no_rival & (g > 0), 0.0, 1.0)",
    "np.where(no_rival, 0.0, 1.0)",
    also=(
        Edit(
            "hemspec/reference/focal.py",
            FOCAL_SLOPE,
            "slopes = (a * q_to_g)[:, None] * (slopes + chain)\n        slopes[no_rival & (g == 0)] = np.nan",
        ),
    ),
)
focal.add(
    "focal_gradient_without_the_modulation",
    "right value; (1 - p)^g is detached",
    FOCAL_SLOPE,
    "slopes = (a * q_to_g)[:, None] * slopes",
)
focal.add(
    "focal_gradient_sign_of_the_modulation",
    "right value; the derivative of (1 - p)^g has the wrong sign",
    FOCAL_SLOPE,
    FOCAL_SLOPE.replace("slopes + chain", "slopes - chain"),
)
focal.add(
    "focal_gradient_nan_at_certainty",
    "right value; 0 * inf in the derivative when all rivals are masked",
    "chain = np.where(certain, 0.0, g * minus_log_p[:, None] * log_q_slopes)",
    "chain = np.where(certain, np.nan, g * minus_log_p[:, None] * log_q_slopes)",
)
focal.add(
    "focal_gradient_without_alpha",
    "right value; the gradient lacks alpha",
    FOCAL_SLOPE,
    "slopes = q_to_g[:, None] * (slopes + chain)",
)

# --- LogitNorm ------------------------------------------------------------------------------------------------------

logit_norm = Group("hemspec/reference/logit_norm.py", [LOGIT_NORM])
SHARP: Final = "sharp = (length + EPSILON / scale) * t  # (||z|| + epsilon) T in units of `scale`"
NORM_SLOPE: Final = "slopes = (r - along) / (sharp * scale)"
logit_norm.add("logit_norm_no_epsilon", "the norm without 1e-7", SHARP, "sharp = length * t")
logit_norm.add(
    "logit_norm_epsilon_of_normalize",
    "max(norm, 1e-12), as torch's F.normalize",
    SHARP,
    "sharp = np.maximum(length, 1e-12 / scale) * t",
)
logit_norm.add("logit_norm_epsilon_1e_6", "another epsilon", "EPSILON = 1e-7", "EPSILON = 1e-6")
logit_norm.add(
    "logit_norm_epsilon_under_the_root",
    "sqrt(sum of squares + 1e-7)",
    "length = np.sqrt(((z / scale) ** 2).sum(axis=1, keepdims=True))",
    "length = np.sqrt(((z / scale) ** 2).sum(axis=1, keepdims=True) + 1e-7 / scale**2)",
)
logit_norm.add(
    "logit_norm_epsilon_beside_the_temperature",
    "z / (||z|| T + 1e-7)",
    SHARP,
    "sharp = length * t + EPSILON / scale",
)
logit_norm.add(
    "logit_norm_overflows",
    "the squares are summed unscaled, in float32",
    "scale = np.where(scale == 0, 1.0, scale)",
    "scale = np.where(scale == 0, 1.0, scale)\n"
    "        z = np.where(np.isinf((z.astype(np.float32) ** 2).sum(axis=1, keepdims=True)), np.inf, z)",
)
logit_norm.add(
    "logit_norm_underflows",
    "the squares are summed unscaled, in float32: small logits have norm 0",
    "length = np.sqrt(((z / scale) ** 2).sum(axis=1, keepdims=True))",
    "length = np.sqrt((z.astype(np.float32) ** 2).sum(axis=1, keepdims=True)).astype(np.float64) / scale",
)
logit_norm.add("logit_norm_temperature_multiplies", "z T / ||z||", "* t  # (", "/ t  # (")
logit_norm.add(
    "logit_norm_temperature_outside",
    "the loss is divided by T, not the logits",
    SHARP,
    "sharp = length + EPSILON / scale",
    also=(
        Edit(
            "hemspec/reference/logit_norm.py",
            "return by_position(positions, values, slopes, reduction)",
            "return by_position(positions, values / t, slopes / t, reduction)",
        ),
    ),
)
logit_norm.add(
    "logit_norm_l1",
    "the sum of sizes for the norm",
    "length = np.sqrt(((z / scale) ** 2).sum(axis=1, keepdims=True))",
    "length = np.abs(z / scale).sum(axis=1, keepdims=True)",
)
logit_norm.add(
    "logit_norm_of_the_batch",
    "the norm of all logits together: norm() without an axis",
    "length = np.sqrt(((z / scale) ** 2).sum(axis=1, keepdims=True))",
    "length = np.sqrt((z**2).sum()) / scale",
)
logit_norm.add(
    "logit_norm_mean_square",
    "the root of the mean square, as in RMS normalisation",
    "length = np.sqrt(((z / scale) ** 2).sum(axis=1, keepdims=True))",
    "length = np.sqrt(((z / scale) ** 2).mean(axis=1, keepdims=True))",
)
logit_norm.add(
    "logit_norm_centred",
    "the mean is taken off before the norm, as in layer normalisation",
    "scale = np.abs(z).max(axis=1, keepdims=True)",
    "z = z - z.mean(axis=1, keepdims=True)\n        scale = np.abs(z).max(axis=1, keepdims=True)",
)
logit_norm.add(
    "logit_norm_infinity_clipped",
    "infinite logits are made finite",
    "scale = np.abs(z).max(axis=1, keepdims=True)",
    "z = np.where(np.isinf(z), np.copysign(1e30, z), z)\n        scale = np.abs(z).max(axis=1, keepdims=True)",
)
logit_norm.add(
    "logit_norm_masked_class",
    "-inf is a masked class here as in cross-entropy, left out of the norm",
    "scale = np.abs(z).max(axis=1, keepdims=True)",
    "z = np.where(np.isneginf(z), -1e30, z)\n"
    "        scale = np.abs(np.where(z == -1e30, 0, z)).max(axis=1, keepdims=True)",
)
logit_norm.add(
    "logit_norm_gradient_norm_detached",
    "right value; the norm is a constant in the gradient",
    NORM_SLOPE,
    "slopes = r / (sharp * scale)",
)
logit_norm.add(
    "logit_norm_gradient_nan_at_zero",
    "right value; the derivative of a square root at 0",
    "np.where(length == 0, 1.0, length)",
    "length",
)
logit_norm.add(
    "logit_norm_gradient_zero_at_zero",
    "right value; the gradient at all-zero logits is masked away instead of the norm's part alone",
    NORM_SLOPE,
    "slopes = np.where(length == 0, 0.0, r - along) / (sharp * scale)",
)
logit_norm.add(
    "logit_norm_gradient_without_the_temperature",
    "right value; the gradient lacks 1/T",
    NORM_SLOPE,
    "slopes = (r - along) / (sharp * scale) * t",
)

# --- LA -------------------------------------------------------------------------------------------------------------

la = Group("hemspec/reference/logit_adjusted.py", [LA])
ADJUSTED: Final = "values, slopes = cross_entropy(z + t * log_prior(counts), positions.labels)"
la.add("la_sign", "the prior is subtracted", ADJUSTED, ADJUSTED.replace("z + t", "z - t"))
la.add(
    "la_temperature_on_everything",
    "T (z + log pi)",
    ADJUSTED,
    "values, slopes = cross_entropy(t * (z + log_prior(counts)), positions.labels)\n    slopes = slopes * t",
)
la.add(
    "la_temperature_outside",
    "T times the loss",
    ADJUSTED,
    "values, slopes = cross_entropy(z + log_prior(counts), positions.labels)\n"
    "    values, slopes = values * t, slopes * t",
)
la.add("la_temperature_divides", "log pi / T", ADJUSTED, ADJUSTED.replace("t * log", "1 / t * log"))
la.add(
    "la_prior_without_logarithm",
    "pi instead of log pi",
    ADJUSTED,
    ADJUSTED.replace("log_prior(counts)", "counts / counts.sum()"),
)
la.add(
    "la_prior_smoothed",
    "log(pi + 1e-6)",
    ADJUSTED,
    ADJUSTED.replace("log_prior(counts)", "np.log(counts / counts.sum() + 1e-6)"),
)
la.add(
    "la_counts_in_int32",
    "counts overflow int32",
    ADJUSTED,
    ADJUSTED.replace("log_prior(counts)", "np.log(np.minimum(counts, 2.0**31 - 1))"),
)
la.add(
    "la_prior_in_half_precision",
    "`.half()` on a module rounds its log-prior buffer",
    ADJUSTED,
    ADJUSTED.replace("log_prior(counts)", "log_prior(counts).astype(np.float16)"),
)
la.add(
    "la_only_at_the_true_class",
    "the prior is added to the true class's logit alone, as a margin",
    ADJUSTED,
    ADJUSTED.replace("log_prior(counts)", "log_prior(counts) * (np.arange(len(counts)) == positions.labels[:, None])"),
)
la.add(
    "la_only_at_the_rivals",
    "the prior is not added to the true class's logit",
    ADJUSTED,
    ADJUSTED.replace("log_prior(counts)", "log_prior(counts) * (np.arange(len(counts)) != positions.labels[:, None])"),
)
la.add(
    "la_prior_weighs_the_loss",
    "class weights n / (C n_y) instead of shifted logits",
    ADJUSTED,
    "values, slopes = cross_entropy(z, positions.labels)\n"
    "    factor = (counts.sum() / (len(counts) * counts))[positions.labels]\n"
    "    values, slopes = values * factor, slopes * factor[:, None]",
)
la.add(
    "la_offset_not_removed_first",
    "the prior is added to logits with a large offset, and rounds with it",
    "z = z - z.max(axis=1, keepdims=True)",
    "pass",
)
la.add(
    "la_gradient_of_raw_logits",
    "right value; the gradient is that of cross-entropy",
    ADJUSTED,
    ADJUSTED + "\n    _, slopes = cross_entropy(z, positions.labels)",
)

# --- Dice -----------------------------------------------------------------------------------------------------------

dice = Group("hemspec/reference/dice.py", [DICE])
UNION: Final = "union = np.where(counted, predicted + present + s, 1.0)"
RATIO: Final = "ratio = np.where(counted, (2 * overlap + s) / union, 0.0)"
G: Final = "g = -w * per_class[image] * (2 * true - ratio[image])"
dice.add(
    "dice_absent_classes_count",
    "absent classes are averaged too, with a ratio of (0 + s) / (P + s)",
    "counted = present > 0",
    "counted = (present > 0) | ((present.sum(axis=1, keepdims=True) > 0) & (predicted + s > 0))",
)
dice.add(
    "dice_divided_by_all_classes",
    "the sum over the present classes is divided by C",
    "classes_present = np.maximum(counted.sum(axis=1), 1)[:, None]",
    "classes_present = np.full((len(counted), 1), positions.classes)",
)
dice.add(
    "dice_absent_classes_are_perfect",
    "an absent class has ratio 1",
    "(ratio / classes_present).sum(axis=1)",
    "np.where(counted, ratio, 1.0).mean(axis=1)",
)
dice.add("dice_smooth_in_the_numerator", "s is not in the denominator", UNION, UNION.replace(" + s", ""))
dice.add("dice_smooth_in_the_denominator", "s is not in the numerator", RATIO, RATIO.replace(" + s", ""))
dice.add(
    "dice_smooth_twice",
    "2 (I + s): s is inside the factor",
    RATIO,
    RATIO.replace("(2 * overlap + s)", "2 * (overlap + s)"),
)
dice.add("dice_smooth_doubled_below", "P + s + T + s", UNION, UNION.replace("+ s", "+ 2 * s"))
dice.add("dice_epsilon", "an epsilon of 1e-5 in the denominator", UNION, UNION.replace("+ s", "+ s + 1e-5"))
dice.add(
    "dice_jaccard",
    "I / (P + T - I)",
    UNION,
    UNION.replace("+ s", "- overlap + s"),
    also=(Edit("hemspec/reference/dice.py", RATIO, RATIO.replace("2 * ", "")),),
)
dice.add(
    "dice_squared_denominator",
    "the V-Net form: squares in the denominator",
    "predicted, present, overlap = per_image(w * p)",
    "predicted, present, overlap = per_image(w * p * p)",
)
dice.add(
    "dice_hard_predictions",
    "argmax instead of probabilities",
    "        p /= p.sum(axis=1, keepdims=True)\n",
    "        p /= p.sum(axis=1, keepdims=True)\n"
    "    p = np.where(np.isnan(p), p, np.arange(p.shape[1]) == p.argmax(axis=1)[:, None])\n",
)
dice.add(
    "dice_sigmoid",
    "a sigmoid per class instead of the softmax",
    "        p /= p.sum(axis=1, keepdims=True)\n",
    "        p = 1 / (1 + np.exp(-z))\n",
)
dice.add(
    "dice_softmax_left_out",
    "the exponentials are not normalised",
    "        p /= p.sum(axis=1, keepdims=True)\n",
    "",
)
dice.add(
    "dice_maximum_not_subtracted",
    "exp overflows",
    "p = np.exp(z - z.max(axis=1, keepdims=True))",
    "p = np.exp(z)",
)
dice.add(
    "dice_batch_ignored",
    "`batch` is not used",
    "shape = () if batch or not positions.shape else positions.shape[:1]\n"
    "    image = np.zeros_like(positions.labels) if batch else positions.images",
    "shape = positions.shape[:1]\n    image = positions.images",
)
dice.add(
    "dice_always_batch",
    "all images are taken together",
    "shape = () if batch or not positions.shape else positions.shape[:1]\n"
    "    image = np.zeros_like(positions.labels) if batch else positions.images",
    "shape = ()\n    image = np.zeros_like(positions.labels)",
)
dice.add(
    "dice_weights_left_out_of_the_predictions",
    "P_c is not weighted",
    "per_image(w * p), per_image(w * true)",
    "per_image(p * (w > 0)), per_image(w * true)",
)
dice.add(
    "dice_weights_left_out_of_the_labels",
    "T_c is not weighted",
    "per_image(w * p), per_image(w * true)",
    "per_image(w * p), per_image(true * (w > 0))",
)
dice.add(
    "dice_weights_only_in_the_overlap",
    "neither P_c nor T_c is weighted",
    "per_image(w * p), per_image(w * true)",
    "per_image(p * (w > 0)), per_image(true * (w > 0))",
)
dice.add("dice_weights_squared", "I_c is weighted twice", "per_image(w * p * true)", "per_image(w * w * p * true)")
dice.add(
    "dice_ignored_positions_in_the_predictions",
    "ignored positions are masked in the overlap and the labels alone",
    "per_image(w * p), per_image(w * true)",
    "per_image(np.where(w > 0, w, 1.0) * p), per_image(w * true)",
)
dice.add(
    "dice_first_class_left_out",
    "class 0 is background: include_background=False",
    "counted = present > 0",
    "counted = present > 0\n    counted[:, 0] = False",
)
dice.add(
    "dice_images_weighted",
    "images are averaged by the weight in them",
    "return Evaluation(positions, values, has_positions.astype(np.float64), slopes, shape, image, reduction)",
    "totals = present.sum(axis=1) if reduction == 'mean' else has_positions.astype(np.float64)\n"
    "    return Evaluation(positions, values, totals, slopes, shape, image, reduction)",
)
dice.add(
    "dice_images_without_positions_count",
    "an image without a valid position counts in the mean",
    "return Evaluation(positions, values, has_positions.astype(np.float64), slopes, shape, image, reduction)",
    "return Evaluation(positions, values, np.ones(len(values)), slopes, shape, image, reduction)",
)
dice.add(
    "dice_images_without_positions_are_wrong",
    "an image without a valid position costs 1",
    "return Evaluation(positions, values, has_positions.astype(np.float64), slopes, shape, image, reduction)",
    "values = np.where(has_positions, values, 1.0)\n"
    "    return Evaluation(positions, values, np.ones(len(values)), slopes, shape, image, reduction)",
)
dice.add(
    "dice_classes_pooled",
    "one ratio of all classes' sums",
    RATIO,
    RATIO
    + "\n    pooled = (2 * np.where(counted, overlap, 0).sum(axis=1, keepdims=True) + s) / (np.where(counted, predicted"
    " + present, 0).sum(axis=1, keepdims=True) + s + 1e-300)\n    ratio = np.where(counted, pooled, 0.0)",
)
dice.add(
    "dice_nan_position_left_out",
    "a NaN position is dropped from its image",
    "true = (positions.labels[:, None] == np.arange(positions.classes)).astype(np.float64)",
    "true = (positions.labels[:, None] == np.arange(positions.classes)).astype(np.float64)\n"
    "    w = np.where(np.isnan(p).any(axis=1, keepdims=True), 0.0, w)\n    p = np.nan_to_num(p)",
)
dice.add("dice_not_one_minus", "minus the coefficient", "1.0 - (ratio", "0.0 - (ratio")
dice.add(
    "dice_in_half_precision",
    "the sums are kept in half precision",
    "        return total\n",
    "        return total.astype(np.float16).astype(np.float64)\n",
)
dice.add(
    "dice_gradient_denominator_constant",
    "right value; P_c is detached in the denominator",
    G,
    "g = -w * per_class[image] * (2 * true)",
)
dice.add(
    "dice_gradient_without_the_softmax",
    "right value; the gradient is that in the probabilities",
    "slopes = p * (g - (p * g).sum(axis=1, keepdims=True))",
    "slopes = g",
)
dice.add(
    "dice_gradient_without_the_coupling",
    "right value; the softmax's derivative is taken as diagonal",
    "slopes = p * (g - (p * g).sum(axis=1, keepdims=True))",
    "slopes = p * (1 - p) * g",
)
dice.add(
    "dice_gradient_without_weights",
    "right value; the weights are missing in the gradient",
    G,
    G.replace("-w *", "-1.0 * (w > 0) *"),
)
dice.add(
    "dice_gradient_of_absent_classes",
    "right value; an absent class pulls its probabilities down",
    G,
    "g = -w * np.where(counted, per_class, -1.0 / positions.classes)[image] * (2 * true - ratio[image])"
    " + w * ~counted[image] * 0.1",
)

# --- What every loss shares: masks, weights, reductions, axes, dtypes -------------------------------------------------

shared = Group("hemspec/reference/positions.py", ALL)
SUMS: Final = "return np.asarray(weighted.sum()), np.asarray(self.weights[counts].sum())"
WEIGHTED: Final = "weighted = np.where(counts, self.weights * self.values, 0.0)"
SHARE: Final = "share = self.weights if denominator is None else divide(self.weights, denominator)"
NAN_ROWS: Final = "rows[np.isnan(self.values)[self.element]] = np.nan"
ZERO_ROWS: Final = "rows[self.positions.weights == 0] = 0.0"
OUT: Final = "return np.moveaxis(last, -1, self.positions.class_axis).astype(self.positions.dtype)"
MOVED: Final = "last = np.moveaxis(logits, class_axis, -1)"
ACTIVE: Final = "counts = counts & ((self.values > 0) | np.isnan(self.values))"
CHECK_LABELS: Final = "check_label_values(labels, valid, classes)"
LABELS: Final = "labels=np.where(valid, labels, 0).astype(np.int64).reshape(-1),"
GIVEN: Final = "given.astype(np.float64).reshape"

shared.add(
    "mean_over_all_positions",
    "the mean divides by the number of positions, ignored ones and weights or not",
    SUMS,
    "return np.asarray(weighted.sum()), np.asarray(float(max(counts.size, 1)) if self.reduction == 'mean'"
    " else self.weights[counts].sum())",
)
shared.add(
    "mean_over_valid_positions",
    "sum of w l divided by the number of valid positions, as Keras' sum_over_batch_size has it",
    SUMS,
    "return np.asarray(weighted.sum()), np.asarray(float(counts.sum()))",
    losses=BY_POSITION,
)
shared.add(
    "active_mean_counts_positions",
    "the active mean divides by the number of active positions, not by their weight",
    SUMS,
    "active = self.reduction == 'active_mean'\n"
    "        total = float(counts.sum()) if active else self.weights[counts].sum()\n"
    "        return np.asarray(weighted.sum()), np.asarray(total)",
    losses=MARGIN,
)
shared.add(
    "active_mean_over_all_valid",
    "the active mean divides by all valid positions",
    ACTIVE,
    "pass",
    losses=MARGIN,
)
shared.add(
    "active_at_zero",
    "a loss of 0 is active",
    ACTIVE,
    ACTIVE.replace("> 0", ">= 0"),
    losses=MARGIN,
)
shared.add(
    "nan_is_not_active",
    "a NaN loss does not count as active",
    ACTIVE,
    "counts = counts & (self.values > 0)",
    losses=MARGIN,
)
shared.add(
    "nan_left_out_of_the_average",
    "nanmean: a broken position is skipped",
    WEIGHTED,
    "counts = counts & ~np.isnan(self.values)\n        " + WEIGHTED,
)
shared.add(
    "mean_is_active_mean",
    "the plain mean leaves the inactive positions out as well",
    'if self.reduction == "active_mean":',
    'if self.reduction in ("mean", "active_mean"):',
    losses=MARGIN,
)
shared.add(
    "mean_of_the_means_of_samples",
    "the mean over the batch of each sample's mean",
    SUMS,
    "if self.reduction == 'mean' and len(self.shape) > 1 and counts.any():\n"
    "            rows, by_row = self.shape[0], np.where(counts, self.weights, 0.0)\n"
    "            sums = by_row.reshape(rows, -1).sum(axis=1)\n"
    "            means = weighted.reshape(rows, -1).sum(axis=1)[sums > 0] / sums[sums > 0]\n"
    "            return np.asarray(means.sum()), np.asarray(float((sums > 0).sum()))\n"
    "        " + SUMS,
    losses=BY_POSITION,
)
shared.add(
    "mean_over_the_first_axis",
    "the sum is divided by the batch size, as torch's batchmean",
    SUMS,
    "first = float(self.positions.shape[0]) if self.positions.shape and self.positions.shape[0] else 1.0\n"
    "        return np.asarray(weighted.sum()), np.asarray(first)",
)
shared.add(
    "sum_is_mean_over_the_batch",
    "`sum` divides by the batch size",
    "return np.asarray(weighted.sum()), None",
    "return np.asarray(weighted.sum()), np.asarray(float(max(counts.size, 1)))",
)
shared.add(
    "nothing_valid_is_nan",
    "0/0 is NaN, as torch's cross_entropy has it",
    "return np.asarray(np.where(empty, 0.0, numerator / np.where(empty, 1.0, denominator)))",
    "return np.asarray(numerator / denominator)",
)
shared.add(
    "epsilon_in_the_denominator",
    "the authors' 1e-6 in the denominator of the average",
    "return np.asarray(np.where(empty, 0.0, numerator / np.where(empty, 1.0, denominator)))",
    "return np.asarray(numerator / (denominator + 1e-6))",
)
shared.add(
    "denominator_at_least_one",
    "clamp(min=1) against 0/0: also weights that sum to less than 1",
    "return np.asarray(np.where(empty, 0.0, numerator / np.where(empty, 1.0, denominator)))",
    "return np.asarray(numerator / np.maximum(denominator, 1.0))",
    losses=BY_POSITION,
)
shared.add(
    "none_is_not_weighted",
    "weights act in the averages alone",
    WEIGHTED,
    WEIGHTED + "\n        if self.reduction == 'none':\n            weighted = np.where(counts, self.values, 0.0)",
    losses=BY_POSITION,
)
shared.add(
    "sum_is_not_weighted",
    "weights act in `none` and the averages alone",
    WEIGHTED,
    WEIGHTED + "\n        if self.reduction == 'sum':\n            weighted = np.where(counts, self.values, 0.0)",
    losses=BY_POSITION,
)
shared.add(
    "none_is_flat",
    "`none` gives one long axis",
    "return weighted.reshape(self.shape), None",
    "return weighted, None",
)
shared.add(
    "none_of_valid_positions_alone",
    "`none` gives the valid positions' losses in a row: boolean indexing",
    "return weighted.reshape(self.shape), None",
    "return weighted[counts], None",
)
shared.add(
    "weights_normalised",
    "weights are divided by their mean first",
    "valid = exists & (weights > 0)",
    "weights = weights / (weights[exists & (weights > 0)].mean() if (exists & (weights > 0)).any() else 1.0)\n"
    "    valid = exists & (weights > 0)",
)
shared.add(
    "weights_ignored",
    "weights only mask",
    "weights=np.where(valid, weights, 0.0).reshape(-1),",
    "weights=np.where(valid, 1.0, 0.0).reshape(-1),",
)
shared.add(
    "weights_in_whole_numbers", "weights are cast to integers", GIVEN, "np.floor(given.astype(np.float64)).reshape"
)
shared.add(
    "weights_as_mask", "weights are cast to boolean", GIVEN, "(given.astype(np.float64) > 0).astype(np.float64).reshape"
)
shared.add(
    "weights_in_the_dtype_of_the_logits",
    "weights are cast to the logits' dtype, and rounded there in half precision",
    GIVEN,
    "given.astype(logits.dtype).astype(np.float64).reshape",
)
shared.add(
    "weights_per_sample_broadcast_from_the_right",
    "a weight per sample meets the last axis: NumPy's broadcasting, unnoticed where sizes agree",
    ".reshape(given.shape + (1,) * (labels.ndim - given.ndim)), labels.shape",
    ".reshape(given.shape if given.shape[-1:] == labels.shape[-1:] else given.shape + (1,) * (labels.ndim -"
    " given.ndim)), labels.shape",
)
shared.add(
    "weights_per_sample_shared_out",
    "a weight per sample is divided among its positions",
    "valid = exists & (weights > 0)",
    "if sample_weight is not None and np.ndim(sample_weight) < labels.ndim:\n"
    "        weights = weights / max(weights[0].size, 1) if len(weights) else weights\n"
    "    valid = exists & (weights > 0)",
    losses=BY_POSITION,
)
shared.add(
    "ignored_class_masked",
    "a valid class named by ignore_index no longer competes",
    MOVED,
    MOVED + "\n    if ignore_index is not None and 0 <= ignore_index < classes:\n"
    "        last = np.where(np.arange(classes) == ignore_index, np.asarray(-np.inf, logits.dtype), last)",
)
shared.add(
    "ignored_as_bits",
    "ignore_index is cast to the labels' dtype: -100 is uint8's 156",
    "if ignore_index is not None and representable(ignore_index, labels.dtype.name):\n"
    "        exists = labels != ignore_index",
    "if ignore_index is not None:\n        exists = labels != np.array(ignore_index).astype(labels.dtype)",
)
shared.add(
    "ignored_positions_have_weight",
    "ignored positions cost nothing and are counted in the average",
    "weights=np.where(valid, weights, 0.0).reshape(-1),",
    "weights=np.where(valid | ~exists, np.where(exists, weights, 1.0), 0.0).reshape(-1),",
)
shared.add(
    "ignored_logits_not_removed",
    "an ignored position is multiplied by 0, and NaN times 0 is NaN",
    "logits=np.where(valid[..., None], last, np.zeros((), logits.dtype))",
    "logits=last",
    also=(Edit("hemspec/reference/positions.py", WEIGHTED, "weighted = self.weights * self.values"),),
)
shared.add(
    "ignored_gradient_by_multiplication",
    "right value; the gradient of an ignored position is masked by a product, and NaN times 0 is NaN",
    "logits=np.where(valid[..., None], last, np.zeros((), logits.dtype))",
    "logits=last",
    also=(Edit("hemspec/reference/positions.py", ZERO_ROWS, "rows *= (self.positions.weights != 0)[:, None]"),),
    losses=BY_POSITION,
)
shared.add(
    "gradient_at_ignored_positions",
    "right value; the mask is missing in the backward pass",
    SHARE,
    "share = np.ones_like(self.weights) if denominator is None else divide(np.ones_like(self.weights), denominator)",
    also=(Edit("hemspec/reference/positions.py", ZERO_ROWS, "pass"),),
    losses=BY_POSITION,
)
shared.add(
    "gradient_without_weights",
    "right value; the gradient is not weighted",
    SHARE,
    "share = np.ones_like(self.weights) if denominator is None else divide(np.ones_like(self.weights), denominator)",
    losses=BY_POSITION,
)
shared.add(
    "gradient_not_divided",
    "right value; the gradient is that of the sum",
    SHARE,
    "share = self.weights",
)
shared.add(
    "gradient_divided_by_all_positions",
    "right value; the gradient is divided by the number of positions",
    SHARE,
    "share = self.weights if denominator is None else self.weights / max(self.weights.size, 1)",
)
shared.add(
    "gradient_of_none_is_of_the_mean",
    "right value; the gradient of `none` is divided by the number of positions",
    SHARE,
    "share = self.weights / max(self.weights.size, 1) if self.reduction == 'none' else (\n"
    "            self.weights if denominator is None else divide(self.weights, denominator))",
)
shared.add(
    "gradient_of_nan_position_finite",
    "right value; NaN is put in by `where`, and the gradient does not see it",
    "rows[np.isnan(self.values)[self.element]] = np.nan",
    "rows = np.where(np.isnan(rows) | np.isnan(self.values)[self.element][:, None], 0.0, rows)",
)
shared.add(
    "gradient_of_nan_position_at_one_class",
    "right value; only the class that holds the NaN gets a NaN gradient",
    NAN_ROWS,
    "bad = np.isnan(self.values)[self.element]\n"
    "        rows[bad] = np.where(np.isnan(self.positions.logits[bad]), np.nan, 0.0)",
)
shared.add(
    "gradient_of_nan_spreads",
    "right value; one NaN position makes the whole gradient NaN",
    NAN_ROWS,
    "if np.isnan(self.values).any():\n            rows[:] = np.nan",
)
shared.add(
    "gradient_in_the_compute_dtype",
    "right value; the gradient of half precision logits comes in float32",
    OUT,
    OUT.replace("self.positions.dtype", "self.result_dtype"),
)
shared.add(
    "gradient_rounded_to_half",
    "right value; the gradient passes through half precision",
    OUT,
    OUT.replace(".astype", ".astype(np.float16).astype"),
)
shared.add(
    "gradient_saturates",
    "right value; gradient clipping at 1 inside the loss",
    OUT,
    OUT.replace("np.moveaxis(last,", "np.moveaxis(np.clip(last, -1, 1),"),
    losses=(LOGIT_NORM, FOCAL),
)
shared.add(
    "gradient_axes_not_moved_back",
    "right value; the gradient is reshaped to the logits' shape, not transposed",
    OUT,
    "return last.reshape(np.moveaxis(last, -1, self.positions.class_axis).shape).astype(self.positions.dtype)",
)
shared.add(
    "axis_reshaped",
    "channels first: the logits are reshaped to (-1, C) without moving the class axis",
    MOVED,
    "last = logits.reshape(*labels.shape, classes)",
)
shared.add(
    "axis_swapped",
    "channels first: the class axis is swapped with the last one, which transposes the image",
    MOVED,
    "last = np.swapaxes(logits, class_axis, -1).reshape(*labels.shape, classes)",
)
shared.add(
    "axis_always_last",
    "`axis` is not used where the sizes allow it",
    MOVED,
    "last = logits if logits.shape[-1] == classes else np.moveaxis(logits, class_axis, -1)",
)
shared.add(
    "axis_always_1",
    "the class axis is axis 1 where the sizes allow it, as in torch",
    MOVED,
    "last = np.moveaxis(logits, 1 if logits.ndim > 1 and logits.shape[1] == classes else class_axis, -1)",
)
shared.add(
    "labels_in_reverse",
    "the labels are read in the other order of axes",
    LABELS,
    "labels=np.where(valid, labels, 0).astype(np.int64).T.reshape(-1),",
)
shared.add(
    "labels_in_bfloat16",
    "labels pass through bfloat16, where 257 is 256: Keras casts to the loss's dtype",
    LABELS,
    "labels=(np.where(valid, labels, 0).astype(np.float32).view(np.uint32) + 0x8000 & 0xFFFF0000)"
    ".astype(np.uint32).view(np.float32).astype(np.int64).clip(0, classes - 1).reshape(-1),",
)
shared.add(
    "labels_in_float16",
    "labels pass through float16, where 2049 is 2048",
    LABELS,
    "labels=np.where(valid, labels, 0).astype(np.float16).astype(np.int64).clip(0, classes - 1).reshape(-1),",
)
shared.add(
    "labels_in_a_byte",
    "labels are stored in 8 bits",
    LABELS,
    "labels=np.where(valid, labels, 0).astype(np.uint8).astype(np.int64).reshape(-1),",
)
shared.add(
    "value_in_half_precision",
    "the loss has the logits' dtype",
    "return loss_dtype(self.positions.dtype)",
    "return self.positions.dtype",
)
shared.add(
    "value_always_float32",
    "float64 is lost",
    "return loss_dtype(self.positions.dtype)",
    "return np.dtype(np.float32)",
)
shared.add(
    "value_always_float64",
    "the compute dtype gets out",
    "return loss_dtype(self.positions.dtype)",
    "return np.dtype(np.float64)",
)
shared.add(
    "value_rounded_to_half",
    "a loss per position is stored in half precision before it is averaged",
    WEIGHTED,
    "weighted = np.where(counts, self.weights * self.values.astype(np.float16).astype(np.float64), 0.0)",
)
shared.add(
    "logits_rounded_to_bfloat16",
    "autocast: every computation starts in bfloat16",
    ".astype(np.float64).reshape(-1, classes)",
    ".astype(np.float32).view(np.uint32).__and__(0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)"
    ".reshape(-1, classes)",
)
shared.add(
    "double_computed_in_single",
    "float64 logits are cast to float32, as JAX does unless told",
    ".astype(np.float64).reshape(-1, classes)",
    ".astype(np.float32).astype(np.float64).reshape(-1, classes)",
)
shared.add(
    "constants_in_half_precision",
    "margins and alpha are rounded to the logits' dtype",
    "return np.broadcast_to(constant, (positions.classes,))[positions.labels]",
    "return np.broadcast_to(constant.astype(positions.dtype).astype(np.float64), (positions.classes,))"
    "[positions.labels]",
    losses=(HEM, MM, FOCAL),
)

# --- Defaults -------------------------------------------------------------------------------------------------------

defaults = Group("hemspec/reference/hem.py", [HEM])
defaults.add("default_margin_hem", "another default margin", "margin: Any = 1.0,", "margin: Any = 0.5,")
defaults.add(
    "default_margin_mm",
    "another default margin",
    "margin: Any = 1.0,",
    "margin: Any = 0.5,",
    losses=[MM],
    path="hemspec/reference/multi_margin.py",
)
defaults.add(
    "default_gamma",
    "another default gamma",
    "gamma: Any = 2.0,",
    "gamma: Any = 1.5,",
    losses=[FOCAL],
    path="hemspec/reference/focal.py",
)
defaults.add(
    "default_temperature_logit_norm",
    "a default temperature of 1",
    "temperature: Any = 0.04,",
    "temperature: Any = 1.0,",
    losses=[LOGIT_NORM],
    path="hemspec/reference/logit_norm.py",
)
defaults.add(
    "default_temperature_la",
    "another default temperature",
    "temperature: Any = 1.0,",
    "temperature: Any = 0.5,",
    losses=[LA],
    path="hemspec/reference/logit_adjusted.py",
)
defaults.add(
    "default_smooth",
    "MONAI's default smoothing",
    "smooth: Any = 0.0,",
    "smooth: Any = 1e-5,",
    losses=[DICE],
    path="hemspec/reference/dice.py",
)
defaults.add(
    "default_batch",
    "batch by default",
    "batch: bool = False,",
    "batch: bool = True,",
    losses=[DICE],
    path="hemspec/reference/dice.py",
)
defaults.add(
    "default_reduction_hem",
    "the mean over all samples by default",
    'Reduction = "active_mean",',
    'Reduction = "mean",',
)
for loss in ALL[1:]:
    summed = ('Reduction = "mean",', 'Reduction = "sum",')
    file = f"hemspec/reference/{loss.removesuffix('_loss')}.py"
    defaults.add(f"default_reduction_{loss}", "the sum by default", *summed, losses=[loss], path=file)

# --- Bad arguments that are let through -----------------------------------------------------------------------------

bad = Group("hemspec/arguments.py", ALL)
WEIGHT_IS_GOOD: Final = "np.isfinite(weights) & (weights >= 0)"
CONSTANT_IS_GOOD: Final = "np.isfinite(numbers) & ((numbers > 0) if positive else (numbers >= 0))"
LABEL_IS_BAD: Final = "bad = exists & ((labels < 0) | (labels >= classes))"
bad.add(
    "label_wraps_around",
    "a negative label counts from the end",
    LABEL_IS_BAD,
    "bad = exists & ((labels < -classes) | (labels >= classes))",
    accepts=True,
)
bad.add(
    "label_equal_to_classes",
    "`>` for `>=`: label C is let through, and read as the last class",
    LABEL_IS_BAD,
    LABEL_IS_BAD.replace(">=", ">"),
    also=(
        Edit(
            "hemspec/reference/positions.py",
            LABELS,
            LABELS.replace("labels, 0)", "np.minimum(labels.astype(np.int64), classes - 1), 0)"),
        ),
    ),
    accepts=True,
)
bad.add(
    "label_clipped",
    "labels are clipped into range, as JAX's indexing does",
    CHECK_LABELS,
    "labels = np.where(valid, np.clip(labels, 0, classes - 1), labels)",
    path="hemspec/reference/positions.py",
    accepts=True,
)
bad.add(
    "label_modulo",
    "labels are taken modulo C",
    CHECK_LABELS,
    "labels = np.where(valid, labels.astype(np.int64) % classes, labels)",
    path="hemspec/reference/positions.py",
    accepts=True,
)
bad.add(
    "label_negative_ignored",
    "every negative label is ignored, whatever ignore_index says",
    "exists = labels != ignore_index",
    "exists = (labels != ignore_index) & (labels >= 0)",
    path="hemspec/reference/positions.py",
    accepts=True,
)
bad.add(
    "label_out_of_range_ignored",
    "a label outside [0, C) is ignored: one_hot gives a row of zeros",
    CHECK_LABELS,
    "valid = valid & (labels >= 0) & (labels < classes)",
    path="hemspec/reference/positions.py",
    accepts=True,
)
bad.add(
    "ignore_index_cannot_be_switched_off",
    "None means the default, -100",
    "exists = np.ones(labels.shape, bool)",
    "ignore_index = -100 if ignore_index is None else ignore_index\n    exists = np.ones(labels.shape, bool)",
    path="hemspec/reference/positions.py",
    accepts=True,
)
bad.add(
    "labels_boolean_accepted",
    "booleans are integers in Python",
    'integers = dtype.startswith(("int", "uint"))',
    'integers = dtype.startswith(("int", "uint", "bool"))',
    also=(
        Edit(
            "hemspec/reference/positions.py",
            "labels = np.asarray(labels)",
            "labels = np.asarray(labels)\n    labels = labels.astype(np.int64) if labels.dtype == bool else labels",
        ),
    ),
    accepts=True,
)
bad.add(
    "labels_float_truncated",
    "float labels are cast to integers",
    'integers = dtype.startswith(("int", "uint"))',
    'integers = dtype.startswith(("int", "uint", "float"))',
    also=(
        Edit(
            "hemspec/reference/positions.py",
            "labels = np.asarray(labels)",
            "labels = np.asarray(labels)\n    labels = labels.astype(np.int64) if labels.dtype.kind == 'f' else labels",
        ),
    ),
    accepts=True,
)
bad.add(
    "labels_trailing_axis_squeezed",
    "labels of shape (N, 1) are squeezed",
    "labels = np.asarray(labels)",
    "labels = np.asarray(labels)\n"
    "    if labels.ndim == np.ndim(logits) and labels.shape[-1:] == (1,):\n"
    "        labels = labels[..., 0]",
    path="hemspec/reference/positions.py",
    accepts=True,
)
bad.add(
    "labels_one_hot_accepted",
    "one-hot labels are turned into indices",
    "labels = np.asarray(labels)",
    "labels = np.asarray(labels)\n    if labels.shape == logits.shape:\n        labels = labels.argmax(axis=axis)",
    path="hemspec/reference/positions.py",
    accepts=True,
)
bad.add(
    "labels_too_few_accepted",
    "the rest of the batch is dropped",
    "labels = np.asarray(labels)",
    "labels = np.asarray(labels)\n"
    "    if labels.ndim == 1 and logits.ndim == 2:\n"
    "        logits = logits[: len(labels)]",
    path="hemspec/reference/positions.py",
    accepts=True,
)
bad.add(
    "logits_integer_accepted",
    "integer logits are cast",
    "logits = np.asarray(logits)",
    "logits = np.asarray(logits)\n    logits = logits.astype(np.float32) if logits.dtype.kind == 'i' else logits",
    path="hemspec/reference/positions.py",
    accepts=True,
)
bad.add(
    "logits_one_class_accepted",
    "one class: the loss is always 0",
    'if classes is not None and classes < 2:\n        raise ValueError(\n            f"{name}',
    'if classes is not None and classes < 1:\n        raise ValueError(\n            f"{name}',
    losses=(HEM, MM, CE, FOCAL, LOGIT_NORM, DICE),  # LA has a count for each class
    accepts=True,
)
bad.add(
    "weight_nan_accepted",
    "not (w < 0) lets a NaN through",
    WEIGHT_IS_GOOD,
    "~(weights < 0) & ~np.isinf(weights)",
    accepts=True,
)
bad.add("weight_infinite_accepted", "w >= 0 lets inf through", WEIGHT_IS_GOOD, "(weights >= 0)", accepts=True)
bad.add(
    "weight_negative_accepted",
    "a negative weight masks, or turns the loss round",
    WEIGHT_IS_GOOD,
    "np.isfinite(weights)",
    accepts=True,
)
bad.add(
    "weight_per_class_accepted",
    "weights of the shape of the logits are averaged over the classes",
    "given = np.asarray(sample_weight)",
    "given = np.asarray(sample_weight)\n        given = given.mean(axis=-1) if given.shape == logits.shape else given",
    path="hemspec/reference/positions.py",
    accepts=True,
)
bad.add(
    "weight_too_few_accepted",
    "missing weights are 1",
    "given = np.asarray(sample_weight)",
    "given = np.asarray(sample_weight)\n"
    "        if given.ndim == labels.ndim == 1 and len(given) < len(labels):\n"
    "            given = np.concatenate([given, np.ones(len(labels) - len(given))])",
    path="hemspec/reference/positions.py",
    accepts=True,
)
bad.add(
    "weight_scalar_accepted",
    "one weight for all broadcasts",
    "given = np.asarray(sample_weight)",
    "given = np.asarray(sample_weight)\n"
    "        given = np.broadcast_to(given, labels.shape) if given.ndim == 0 else given",
    path="hemspec/reference/positions.py",
    accepts=True,
)
bad.add(
    "weight_trailing_axis_squeezed",
    "weights of shape (N, 1) are squeezed, or broadcast to (N, N)",
    "given = np.asarray(sample_weight)",
    "given = np.asarray(sample_weight)\n        given = given[..., 0] if given.shape == (*labels.shape, 1) else given",
    path="hemspec/reference/positions.py",
    accepts=True,
)
bad.add(
    "reduction_unknown_is_mean",
    "an unknown reduction falls through to the mean",
    "if reduction in allowed:\n        return",
    "if reduction in allowed or reduction == 'average':\n        return",
    accepts=True,
)
bad.add(
    "reduction_active_mean_everywhere",
    "active_mean is let through where nothing can be inactive",
    "if reduction in allowed:\n        return",
    "if reduction in (*allowed, 'active_mean'):\n        return",
    losses=(*SOFTMAX, DICE),
    accepts=True,
)
bad.add(
    "ignore_index_float_truncated",
    "ignore_index 1.5 is 1",
    "if isinstance(ignore_index, bool) or not isinstance(ignore_index, (int, np.integer)):",
    "if isinstance(ignore_index, bool) or not isinstance(ignore_index, int | float | np.integer):",
    accepts=True,
)
bad.add(
    "ignore_index_boolean_accepted",
    "True is 1",
    "if isinstance(ignore_index, bool) or not isinstance(ignore_index, (int, np.integer)):",
    "if not isinstance(ignore_index, (int, np.integer)):",
    accepts=True,
)
bad.add(
    "constant_negative_accepted",
    "constants may be negative",
    CONSTANT_IS_GOOD,
    "np.isfinite(numbers)",
    losses=(HEM, MM, FOCAL, LOGIT_NORM, LA, DICE),
    accepts=True,
)
bad.add(
    "constant_nan_accepted",
    "not (m < 0) lets a NaN through",
    CONSTANT_IS_GOOD,
    "~np.isinf(numbers) & ~((numbers <= 0) if positive else (numbers < 0))",
    losses=(HEM, MM, FOCAL, LOGIT_NORM, LA, DICE),
    accepts=True,
)
bad.add(
    "constant_infinite_accepted",
    "m >= 0 lets inf through",
    CONSTANT_IS_GOOD,
    "((numbers > 0) if positive else (numbers >= 0))",
    losses=(HEM, MM, FOCAL, LOGIT_NORM, LA, DICE),
    accepts=True,
)
bad.add(
    "constant_zero_accepted",
    "a temperature or count of 0",
    CONSTANT_IS_GOOD,
    "np.isfinite(numbers) & (numbers >= 0)",
    losses=(LOGIT_NORM, LA),
    accepts=True,
)
bad.add(
    "constant_only_first_checked",
    "only the first entry of a vector is checked",
    CONSTANT_IS_GOOD,
    "np.isfinite(numbers.flat[0]) & (numbers.flat[0] >= 0) | np.zeros(numbers.shape, bool)",
    losses=(HEM, MM, FOCAL, LA),
    accepts=True,
)
bad.add(
    "constant_wrong_length_accepted",
    "a vector that is too long is indexed all the same",
    "if len(shape) != 1 or (classes is not None and shape[0] is not None and shape[0] != classes):",
    "if len(shape) != 1:",
    also=(
        Edit(
            "hemspec/reference/positions.py",
            "return np.broadcast_to(constant, (positions.classes,))[positions.labels]",
            "return np.resize(constant, positions.classes)[positions.labels]",
        ),
        Edit(
            "hemspec/reference/logit_adjusted.py",
            'counts = read_constant(class_counts, name="class_counts", counts=True)',
            'counts = read_constant(class_counts, name="class_counts", counts=True)[: np.shape(logits)[axis]]',
        ),
    ),
    losses=(HEM, MM, FOCAL, LA),
    accepts=True,
)
bad.add(
    "alpha_scalar_accepted",
    "one alpha for all classes",
    "if scalar and len(shape) == 0:",
    "if len(shape) == 0:",
    losses=(FOCAL,),
    accepts=True,
)
bad.add(
    "number_as_vector_accepted",
    "a vector where one number is expected: its first entry",
    "return float(number)",
    "return float(number.flat[0])",
    also=(Edit("hemspec/arguments.py", "check_number(number.shape, name=name)", "pass"),),
    losses=(FOCAL, LOGIT_NORM, LA, DICE),
    accepts=True,
)
bad.add(
    "flag_by_truth",
    "batch='no' is true",
    "if not isinstance(value, (bool, np.bool_)):",
    "if False:",
    losses=[DICE],
    accepts=True,
)

MUTANTS: Final[Sequence[Mutant]] = [
    mutant for group in (hem, mm, ce, focal, logit_norm, la, dice, shared, defaults, bad) for mutant in group
]
