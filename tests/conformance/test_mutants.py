"""The reference with one mistake at a time: the conformance suite notices each, in the loss that it makes wrong.

``pytest tests/conformance/test_mutants.py -s`` prints who noticed what.
"""

from __future__ import annotations

from functools import cache

import pytest

pytest.importorskip("hemspec_conformance.plugin")
pytest.importorskip("ml_dtypes", reason="the vectors run in bfloat16 too")

from mutation import copies, verdict
from mutation.catalogue import MUTANTS, Mutant

from hemspec_conformance.adapter import LOSSES

ENOUGH = 9
"""A case fails in four dtypes at the most, so after nine failures it is known that more than two cases notice."""

AWAITED = {
    "hem_mean_in_half_precision": "error_a_little_below_the_mean",
    "hem_mean_of_slightly_negative_errors": "classes_a_little_beyond_the_margin",
    "nan_is_not_active": "nan_is_active",
    "denominator_at_least_one": "weights_sum_below_1",
    "weights_in_the_dtype_of_the_logits": "weights_finer_than_half_precision",
    "labels_in_float16": "labels_above_2048",
    "double_computed_in_single": "finer_than_float32",
    "default_margin_hem": "default_margin",
    "default_margin_mm": "default_margin",
    "ignore_index_cannot_be_switched_off": "ignore_index_off_none",
    "weight_scalar_accepted": "weights_scalar",
    "weight_trailing_axis_squeezed": "weights_trailing_axis",
    "ignore_index_boolean_accepted": "ignore_index_boolean",
    "alpha_scalar_accepted": "alpha_scalar",
    "number_as_vector_accepted": "gamma_vector",
    "flag_by_truth": "batch_not_a_flag",
}
"""Mutants that nobody notices yet, and the case that the suite lacks."""

SOURCES = copies.sources("hemspec")


def awaited(mutant: Mutant) -> bool:
    return mutant.name in AWAITED and AWAITED[mutant.name] not in verdict.cases()


@cache
def failures(mutant: Mutant) -> dict[str, list[str]]:
    """What the suite says, for each loss that the mutant makes wrong."""
    port = copies.adapter_of(copies.edited(SOURCES, mutant.edits))
    about = ["bad arguments"] if mutant.accepts else ["answers", "bad arguments"]
    return {loss: verdict.failures(port, [loss], about=about, first=ENOUGH) for loss in mutant.losses}


def telling(mutant: Mutant, messages: list[str]) -> list[str]:
    """The messages that name the mistake: a wrong answer, or a bad argument that got one. A crash does not."""
    names_it = verdict.is_acceptance if mutant.accepts else verdict.is_difference
    return [message for message in messages if names_it(message)]


def test_the_copy_without_a_mistake_passes() -> None:
    assert verdict.failures(copies.adapter_of(SOURCES)) == []


def test_an_edit_that_no_longer_applies_is_an_error() -> None:
    for old in ("this is nowhere", "import", "errors[rows, y] = 0.0"):
        with pytest.raises(copies.EditDoesNotApplyError, match="instead of once"):
            copies.edited(SOURCES, [copies.Edit("hemspec/reference/hem.py", old, "errors[rows, y] = 0.0")])


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_killed(mutant: Mutant) -> None:
    if awaited(mutant):
        pytest.xfail(f"the suite lacks {AWAITED[mutant.name]}")
    for loss, found in failures(mutant).items():
        named = telling(mutant, found)
        assert named, f"{loss} with this mistake passes: {mutant.why}\n{found}"
        assert not [message for message in found if verdict.is_crash(message)], f"{loss} crashes: {mutant.why}\n{found}"
        if mutant.gradient_alone:
            assert not [message for message in named if "\n  value" in message], "the value is wrong too"


def test_every_mutant_is_killed() -> None:
    """The rate, and who noticed what: 100% of a catalogue that covers every loss."""
    asked = [mutant for mutant in MUTANTS if not awaited(mutant)]
    dead = [mutant for mutant in asked if all(telling(mutant, found) for found in failures(mutant).values())]
    print(f"\n{'mutant':48} {'loss':20} failing  first failing case")
    for mutant in asked:
        for loss, found in failures(mutant).items():
            names = sorted({verdict.case_of(message) for message in found})
            count = f"{len(found)}{'+' if len(found) == ENOUGH else ''}"
            first = verdict.case_of(found[0]) if found else "SURVIVES"
            print(f"{mutant.name:48} {loss:20} {count:>7}  {first}{' alone' if len(names) == 1 else ''}")
    print(f"{len(dead)} of {len(asked)} mutants killed")
    assert dead == asked
    assert len({mutant.name for mutant in asked}) >= 200
    assert sum(mutant.gradient_alone for mutant in asked) >= 30
    assert sum(mutant.accepts for mutant in asked) >= 20
    for loss in LOSSES:
        assert sum(loss in mutant.losses for mutant in asked) >= 50, loss
