"""The diagnostics of PyTorch beside those of the reference, and in what form a training loop gets them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import hemspec
import hemspec.torch as ht

NAMES = ["active_fraction", "kept_errors", "margin_satisfied"]


def draw(shape: tuple[int, ...], dtype: str, seed: int = 0) -> tuple[Any, Any, Any]:
    """Multiples of 1/16, so that ties are exact and frequent."""
    rng = np.random.default_rng(seed)
    logits, labels = rng.integers(-32, 32, shape) / 16, rng.integers(0, shape[1], (shape[0], *shape[2:]))
    labels.reshape(-1)[::5] = -100
    return logits.astype(dtype), labels, rng.integers(0, 3, labels.shape) / 2


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(40, 6), (3, 6, 4, 2), (8, 300)])
def test_as_the_reference(shape: tuple[int, ...], dtype: str, weighted: bool) -> None:
    logits, labels, weight = draw(shape, dtype)
    margin = np.arange(shape[1]) / 16
    given = {"margin": margin, "sample_weight": weight if weighted else None}
    expected = hemspec.hem_diagnostics.terms(logits, labels, axis=1, **given)
    given["sample_weight"] = torch.tensor(weight) if weighted else None
    found = ht.hem_diagnostics.terms(torch.tensor(logits), torch.tensor(labels), **given)
    assert list(found) == NAMES
    for name in NAMES:
        assert [t.item() for t in found[name]] == [float(t) for t in expected[name]], name  # sums of halves are exact
        assert found[name][0].dtype == (torch.float64 if dtype == "float64" else torch.float32)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at_true", [False, True])
def test_infinities_and_nan_as_the_reference(bad: float, at_true: bool) -> None:
    logits, labels, _ = draw((10, 6), "float32")
    logits[1, (labels[1] + (not at_true)) % 6] = bad
    logits[5] = np.nan  # is ignored
    with np.errstate(all="ignore"):
        expected = hemspec.hem_diagnostics(logits, labels)
    found = ht.hem_diagnostics(torch.tensor(logits), torch.tensor(labels))
    np.testing.assert_array_equal([found[name] for name in NAMES], [expected[name] for name in NAMES])


def test_of_a_loss_by_name_without_gradient_and_added_up() -> None:
    logits, labels, weight = (torch.tensor(array) for array in draw((12, 6), "float64"))
    criterion = ht.HEMLoss(margin=2.0, ignore_index=3)
    labels[labels == -100] = 3
    given = {"margin": 2.0, "ignore_index": 3}
    whole = criterion.diagnostics(logits.requires_grad_(), labels, weight)
    assert whole == ht.hem_diagnostics(logits, labels, sample_weight=weight, **given)
    assert whole == ht.LinearHEMLoss(**given).diagnostics(logits, labels, weight)
    assert not any(value.requires_grad for value in whole.values())
    parts = [
        ht.hem_diagnostics.terms(logits[rows], labels[rows], sample_weight=weight[rows], **given)
        for rows in (slice(0, 5), slice(5, 12))
    ]
    for name, value in whole.items():
        numerators, denominators = zip(*(part[name] for part in parts), strict=True)
        torch.testing.assert_close(sum(numerators) / sum(denominators), value)
    _, active = ht.hem_loss.terms(logits, labels, sample_weight=weight, **given)
    assert ht.hem_diagnostics.terms(logits, labels, sample_weight=weight, **given)["active_fraction"][0] == active


def test_nothing_to_count_is_0_and_arguments_are_checked() -> None:
    assert list(ht.hem_diagnostics(torch.ones(2, 3), torch.full((2,), -100)).values()) == [0, 0, 0]
    assert list(ht.hem_diagnostics(torch.ones(0, 3), torch.zeros(0, dtype=torch.int64)).values()) == [0, 0, 0]
    with pytest.raises(ValueError, match=r"target must lie in \[0, 3\)"):
        ht.hem_diagnostics(torch.ones(2, 3), torch.tensor([0, 3]))
    bad = torch.func.vmap(lambda z, y: ht.hem_diagnostics(z, y)["kept_errors"])(torch.ones(2, 3), torch.tensor([0, 3]))
    assert bad.isnan().tolist() == [False, True]
