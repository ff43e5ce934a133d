"""The loss of a linear head in PyTorch: in any chunks what the reference gives, and what plain operations give."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F
from torch.autograd import forward_ad

import hemspec
from hemspec.torch import LinearHEMLoss, hem_loss, linear_hem_loss
from hemspec_torch import linear

REDUCTIONS = ("none", "sum", "mean", "active_mean")
INF, NAN = float("inf"), float("nan")


def draw(positions: int, depth: int, classes: int, seed: int = 0) -> tuple[Any, Any, Any, Any]:
    """Features, head, bias and labels whose product is exact in every dtype, with ties."""
    rng = np.random.default_rng(seed)
    numbers = [rng.integers(-2, 3, shape) / 2 for shape in ((positions, depth), (classes, depth), classes)]
    return *numbers, rng.integers(0, classes, positions)


def check(
    x: Any, head: Any, bias: Any, labels: Any, *, dtype: Any = torch.float64, rtol: float = 1e-12, **options: Any
) -> list[Any]:
    """Value and the three gradients as the reference's, which weighs positions as `upstream` does for "none"."""
    factors = [
        None if array is None else torch.tensor(array, dtype=dtype, requires_grad=True) for array in (x, head, bias)
    ]
    chunk_rows = options.pop("chunk_rows", None)
    weight = options.pop("sample_weight", None)
    tensors = {} if weight is None else {"sample_weight": torch.tensor(weight)}
    value = linear_hem_loss(
        factors[0],
        factors[1],
        torch.tensor(labels),
        linear_bias=factors[2],
        chunk_rows=chunk_rows,
        **tensors,
        **options,
    )
    # Every position of "none" has a factor of its own: the reference takes it for a weight.
    upstream = np.ones(value.shape) if value.ndim == 0 else np.arange(1, value.numel() + 1) / 2
    value.backward(torch.tensor(upstream, dtype=value.dtype))
    given = {"bias": bias, "sample_weight": weight, **options}
    reference = hemspec.linear_hem_loss(x, head, labels, **given)
    np.testing.assert_allclose(value.detach().numpy(), reference, rtol, rtol)
    if value.ndim:
        given["sample_weight"] = upstream if weight is None else upstream * weight
    expected = hemspec.linear_hem_loss.gradient(x, head, labels, **given)
    for factor, gradient in zip(factors, expected, strict=True):
        if factor is not None:
            np.testing.assert_allclose(factor.grad.double().numpy(), gradient, rtol, rtol)
    return [None if factor is None else factor.grad for factor in factors]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("positions", [0, 1, 3, 4, 5, 9])
@pytest.mark.parametrize("classes", [2, 7, 8, 9, 33])
def test_any_chunks_give_the_reference(
    positions: int, classes: int, reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "BLOCK", 2 * classes)  # two rows at a time within a chunk
    x, head, bias, labels = draw(positions, 3, classes)
    check(x, head, None, labels, reduction=reduction, chunk_rows=4)
    rng = np.random.default_rng(1)
    weight, margin = rng.integers(0, 3, positions).astype(float), rng.integers(0, 64, classes) / 32
    labels[::3] = -100
    x[labels == -100], x[weight == 0] = NAN, INF
    for rows in (1, 4, None):
        options = {"sample_weight": weight, "margin": margin, "chunk_rows": rows}
        of_x, *_ = check(x, head, bias, labels, reduction=reduction, **options)
        assert not of_x[torch.tensor((labels == -100) | (weight == 0))].any()


def test_a_default_chunk_is_a_part_of_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hemspec.arguments.SMALLEST_CHUNK", 64)
    seen = []
    monkeypatch.setattr(linear, "logits_into", lambda out, *rest: (seen.append(len(out)), plain(out, *rest)))
    plain = linear_logits_into
    check(*draw(200, 3, 16))
    assert seen == [6] * 33 + [2]  # a thirty-second is 6.25


linear_logits_into = linear.logits_into


@pytest.mark.parametrize("classes", [4096, 131_072])
def test_many_classes(classes: int) -> None:
    check(*draw(3, 4, classes), rtol=1e-10, reduction="none", chunk_rows=2)


@pytest.mark.parametrize("classes", [4095, 4096, 131_072])
def test_many_equal_errors_stay(classes: int) -> None:
    """In float32 a plain mean of many equal errors can exceed them."""
    factors = (np.zeros((3, 1)), np.zeros((classes, 1)), np.full(classes, 0.1), np.arange(3))
    *_, of_bias = check(*factors, dtype=torch.float32, rtol=2e-5, reduction="sum", margin=0.7, chunk_rows=2)
    assert torch.count_nonzero(of_bias) == classes


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_against_plain_operations_and_autograd(reduction: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, head, bias = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((2, 5, 4), (30, 4), (30,)))
    labels = torch.randint(0, 30, (2, 5), generator=generator)
    for tensor in (x, head, bias):
        tensor.requires_grad_()
    plain = hem_loss(F.linear(x, head, bias).movedim(-1, 1), labels, reduction=reduction)
    ours = linear_hem_loss(x, head, labels, linear_bias=bias, reduction=reduction, chunk_rows=3)
    torch.testing.assert_close(ours, plain)
    upstream = torch.randn(plain.shape, generator=generator, dtype=torch.float64)
    expected = torch.autograd.grad(plain, (x, head, bias), upstream)
    torch.testing.assert_close(torch.autograd.grad(ours, (x, head, bias), upstream, retain_graph=True), expected)
    torch.testing.assert_close(torch.autograd.grad(ours, (x, head, bias), upstream), expected)  # nothing was used up
    assert torch.autograd.gradcheck(
        lambda *t: linear_hem_loss(t[0], t[1], labels, linear_bias=t[2], reduction=reduction, chunk_rows=3),
        (x, head, bias),
    )


def test_a_second_backward() -> None:
    x, head = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((5, 3), (9, 3)))
    labels = torch.arange(5)

    def twice(loss: Any) -> Any:
        gradients = torch.autograd.grad(loss, (x, head), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in gradients), (x, head))

    torch.testing.assert_close(twice(linear_hem_loss(x, head, labels)), twice(hem_loss(F.linear(x, head), labels)))


@pytest.mark.parametrize("asked", [(True, False, False), (False, True, False), (False, False, True)])
def test_each_factor_alone(asked: tuple[bool, ...]) -> None:
    *factors, labels = draw(5, 3, 9)
    given = [torch.tensor(a, requires_grad=wanted) for a, wanted in zip(factors, asked, strict=True)]
    linear_hem_loss(given[0], given[1], torch.tensor(labels), linear_bias=given[2], chunk_rows=2).backward()
    expected = hemspec.linear_hem_loss.gradient(factors[0], factors[1], labels, bias=factors[2])
    for tensor, gradient, wanted in zip(given, expected, asked, strict=True):
        assert (tensor.grad is not None) == wanted
        if wanted:
            np.testing.assert_allclose(tensor.grad, gradient, 1e-12, 1e-12)


def test_without_gradient_no_bits_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    monkeypatch.setattr(linear, "measure", lambda *a: kept.append(whole(*a)) or kept[-1])
    x, head, _, labels = (torch.tensor(a) for a in draw(5, 3, 9))
    with torch.no_grad():
        linear_hem_loss(x, head.requires_grad_(), labels)
    linear_hem_loss(x, head, labels)
    assert [len(bits) for *_, bits in kept] == [0, 5]


whole = linear.measure


def test_infinities_and_nan_of_a_bias() -> None:
    """Each class's infinity is in every row: masked classes, infinite losses, NaN where they meet."""
    for bias in ([-INF, 0, 0, 1], [INF, 0, 0, 1], [-INF, -INF, 0, 1], [INF, INF, 0, 0], [NAN, 0, 0, 0], [-INF] * 4):
        x, head, _, labels = draw(4, 2, 4)
        labels = np.arange(4)
        z = hemspec.hem_loss(x @ head.T + np.array(bias), labels, reduction="none")
        slopes = hemspec.hem_loss.gradient(x @ head.T + np.array(bias), labels, reduction="none")
        b = torch.tensor(bias, dtype=torch.float64, requires_grad=True)
        value = linear_hem_loss(
            torch.tensor(x), torch.tensor(head), torch.tensor(labels), linear_bias=b, reduction="none", chunk_rows=3
        )
        value.backward(torch.ones_like(value))
        np.testing.assert_allclose(value.detach(), z, 1e-12)
        np.testing.assert_allclose(b.grad, slopes.sum(0), 1e-12, 1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves(dtype: Any) -> None:
    """The product is exact; so the loss is float32's, and a gradient is rounded twice at most."""
    x, head, bias, labels = draw(9, 4, 40)
    eps = torch.finfo(dtype).eps
    for factor in check(x, head, bias, labels, dtype=dtype, rtol=2 * eps, reduction="sum", chunk_rows=4):
        assert factor.dtype == dtype
    assert linear_hem_loss(
        torch.tensor(x, dtype=dtype), torch.tensor(head, dtype=dtype), torch.tensor(labels)
    ).dtype == (torch.float32)


def test_autocast_multiplies_in_half() -> None:
    x, head, bias, labels = (torch.tensor(a) for a in draw(9, 4, 40))
    x, head, bias = (t.float().requires_grad_() for t in (x, head, bias))
    with torch.autocast("cpu", torch.bfloat16):
        value = linear_hem_loss(x, head, labels, linear_bias=bias)
        expected = hem_loss(F.linear(x, head, bias), labels)
    torch.testing.assert_close(value, expected)
    for ours, theirs in zip(
        torch.autograd.grad(value, (x, head, bias)), torch.autograd.grad(expected, (x, head, bias)), strict=True
    ):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=1e-3)


def test_terms_add_up_over_micro_batches() -> None:
    x, head, _, labels = (torch.tensor(a) for a in draw(10, 3, 9))
    halves = [linear_hem_loss.terms(x[at], head, labels[at]) for at in (slice(0, 4), slice(4, 10))]
    numerator, denominator = (sum(parts) for parts in zip(*halves, strict=True))
    torch.testing.assert_close(numerator / denominator, linear_hem_loss(x, head, labels))


def test_compiled_without_a_break() -> None:
    x, head, bias, labels = (torch.tensor(a) for a in draw(9, 4, 20))
    labels[2] = -100
    for tensor in (x, head, bias):
        tensor.requires_grad_()

    def loss(x: Any, head: Any, bias: Any, labels: Any) -> Any:
        return linear_hem_loss(x, head, labels, linear_bias=bias, chunk_rows=4)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    value = compiled(x, head, bias, labels)
    torch.testing.assert_close(value, loss(x, head, bias, labels))
    torch.testing.assert_close(
        torch.autograd.grad(value, (x, head, bias)), torch.autograd.grad(loss(x, head, bias, labels), (x, head, bias))
    )
    labels[4] = 77  # cannot be read there
    assert torch.isnan(compiled(x, head, bias, labels))


def test_operators_are_as_they_say() -> None:
    """Their shapes for a compiler, and that they write over nothing."""
    from hemspec_torch import linear_operators  # which a compiled call imports when it is traced

    x, head, bias, labels = (torch.tensor(a) for a in draw(9, 4, 20))
    one, valid = torch.ones(9, dtype=x.dtype), torch.ones(9, dtype=torch.bool)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        linear_operators.measure, (x, head, bias, labels, one, one, valid, 4, True), test_utils=checks
    )
    _, share, active, bits = linear.measure(x, head, bias, labels, one, one, valid, 4, True)
    for asked in ((True, True, True), (False, True, False)):
        given = (x, head, labels, valid, share, active, bits, 4, *asked)
        torch.library.opcheck(linear_operators.differentiate, given, test_utils=checks)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # PyTorch's own, forward mode
def test_transformations_see_all_logits() -> None:
    x, head, _, labels = (torch.tensor(a) for a in draw(6, 3, 9))
    expected = linear_hem_loss(x, head, labels, reduction="none")
    mapped = torch.func.vmap(lambda x, y: linear_hem_loss(x, head, y, reduction="sum"))(x, labels)
    torch.testing.assert_close(mapped, expected)
    gradient = torch.func.grad(lambda h: linear_hem_loss(x, h, labels))(head)
    torch.testing.assert_close(gradient, torch.tensor(hemspec.linear_hem_loss.gradient(x, head, labels).weight))
    with forward_ad.dual_level():
        value = linear_hem_loss(x, forward_ad.make_dual(head, head), labels)
        torch.testing.assert_close(forward_ad.unpack_dual(value).tangent, (gradient * head).sum())


def test_the_module() -> None:
    head = torch.nn.Linear(3, 4)
    x, labels = torch.randn(2, 5, 3), torch.randint(0, 4, (2, 5))
    criterion = LinearHEMLoss(margin=[1.0, 0.5, 2.0, 0.1], chunk_rows=3)
    weight = torch.rand(2)
    options = {"linear_bias": head.bias, "margin": criterion.margin, "sample_weight": weight}
    expected = linear_hem_loss(x, head.weight, labels, chunk_rows=3, **options)  # other chunks are other roundings
    clone = pickle.loads(pickle.dumps(criterion)).half()
    assert torch.equal(clone(x, head.weight, labels, head.bias, weight), expected)
    numerator, denominator = clone.terms(x, head.weight, labels, head.bias, weight)
    torch.testing.assert_close(numerator / denominator, expected)
    assert "chunk_rows=3" in repr(criterion)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"input": [[1.0]]}, TypeError, "input must be a torch.Tensor"),
        ({"input": torch.zeros(4, 3, dtype=torch.int64)}, TypeError, "input must be floating point"),
        ({"linear_weight": torch.zeros(3, 9)}, ValueError, r"linear_weight must have shape \(C, D\) with D = 3"),
        ({"linear_weight": torch.zeros(9, 3).bfloat16()}, TypeError, "linear_weight must have the dtype of input"),
        ({"linear_bias": torch.zeros(3)}, ValueError, r"linear_bias must have shape \(9,\)"),
        ({"target": torch.zeros(4)}, TypeError, "target must hold integer class indices"),
        ({"target": torch.zeros(4, 3).long()}, ValueError, "target must have the shape of the logits without"),
        ({"target": torch.full((4,), 9)}, ValueError, r"target must lie in \[0, 9\)"),
        ({"sample_weight": torch.ones(3)}, ValueError, "sample_weight must have the shape of the labels"),
        ({"sample_weight": -torch.ones(4)}, ValueError, "sample_weight must be finite and >= 0"),
        ({"margin": -1.0}, ValueError, "margin must be finite and >= 0"),
        ({"margin": [1.0, 2.0]}, ValueError, "margin must be a number or a vector"),
        ({"reduction": "average"}, ValueError, "reduction must be one of"),
        ({"chunk_rows": 0}, ValueError, "chunk_rows must be at least 1"),
        ({"chunk_rows": 2.0}, TypeError, "chunk_rows must be an integer or None"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, Any], error: Any, said: str) -> None:
    given = {"input": torch.zeros(4, 3), "linear_weight": torch.zeros(9, 3), "target": torch.zeros(4).long()}
    with pytest.raises(error, match=said):
        linear_hem_loss(**{**given, **change})
