"""Derivatives of every order, mode and nesting, of every loss on every way to compute it, as those of plain formulas.

Beside them: gradients from above of any kind, one or a batch; graphs that are traced; no NaN or infinity on the way.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from torch.autograd.functional import hessian, jacobian
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import hemspec
import hemspec.torch as ht
from hemspec_torch import blocked, functional, selection

# Of PyTorch's by its own transformations, and of the interpreter's by a NaN that it multiplies.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore:Attempted to insert a get_attr Node",
    "ignore:Anomaly Detection has been enabled",
    "ignore:invalid value encountered",
    "ignore:The PyTorch API of nested tensors is in prototype",
)
CLASSES = 5
COUNTS = [1, 2, 3, 4, 5]
HEAD = torch.randn(CLASSES, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def errors(z: Any, y: Any) -> Any:
    return F.relu(z - z.gather(-1, y.unsqueeze(-1)) + 1.0) * (1 - F.one_hot(y, CLASSES))


def hem(z: Any, y: Any) -> Any:
    e = errors(z, y)
    kept = (e > 0) & (e >= e.mean(-1, keepdim=True) - 1e-9)
    return (e * kept).sum(-1) / kept.sum(-1).clamp(min=1)


def margin(z: Any, y: Any) -> Any:
    return errors(z, y).sum(-1) / CLASSES


def entropy(z: Any, y: Any) -> Any:
    return z.logsumexp(-1) - z.gather(-1, y.unsqueeze(-1)).squeeze(-1)


def focal(z: Any, y: Any) -> Any:
    true = F.one_hot(y, CLASSES)
    p = z.softmax(-1)
    return -((p * (1 - true)).sum(-1) ** 2) * (p * true).sum(-1).log()


def logit_norm(z: Any, y: Any) -> Any:
    return entropy(z / (z.norm(dim=-1, keepdim=True) + 1e-7), y)


def adjusted(z: Any, y: Any) -> Any:
    return entropy(z + (torch.tensor(COUNTS, dtype=z.dtype) / sum(COUNTS)).log(), y)


def dice(z: Any, y: Any) -> Any:
    true = F.one_hot(y, CLASSES).to(z.dtype).reshape(len(y), -1, CLASSES)
    p = z.softmax(-1).reshape(true.shape)
    present = true.sum(1) > 0
    ratio = 2 * (p * true).sum(1) / (p.sum(1) + true.sum(1))
    return 1 - (ratio * present).sum(-1) / present.sum(-1)


LOSSES: dict[str, tuple[Callable[..., Any], dict[str, Any], Callable[..., Any]]] = {
    "hem": (ht.hem_loss, {}, hem),
    "multi_margin": (ht.multi_margin_loss, {}, margin),
    "cross_entropy": (ht.cross_entropy_loss, {}, entropy),
    "focal": (ht.focal_loss, {}, focal),
    "logit_norm": (ht.logit_norm_loss, {"temperature": 1.0}, logit_norm),
    "logit_adjusted": (ht.logit_adjusted_loss, {"class_counts": COUNTS}, adjusted),
    "dice": (ht.dice_loss, {}, dice),
}
MARGIN = ("hem", "multi_margin")
# A linear head's features have three dimensions, and its oracle's logits are their product with the head.
LOSSES["linear_hem"] = (
    lambda x, y, **options: ht.linear_hem_loss(x, HEAD, y, **options),
    {},
    lambda x, y: hem(F.linear(x, HEAD), y),
)
WAYS = {
    "small": MARGIN,
    "blocks": MARGIN,
    "kernels": MARGIN,
    "plain": tuple(LOSSES),
}
CASES = [(way, name) for way, names in WAYS.items() for name in names]


@pytest.fixture
def take(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have the losses computed in this way."""

    def way(name: str) -> None:
        if name == "blocks":
            monkeypatch.setattr(blocked, "SMALL", 0)
            monkeypatch.setattr(blocked, "BLOCK", 10)
        elif name == "kernels":
            pytest.importorskip("triton")
            monkeypatch.setattr(selection, "INTERPRETED", True)
        elif name == "plain":
            monkeypatch.setattr(functional, "fast_terms", lambda *_, **__: None)

    return way


def draw(name: str, shape: tuple[int, ...], seed: int = 0) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    shape = (shape[0], 3) if name == "linear_hem" else shape
    z = torch.randn(shape, generator=generator, dtype=torch.float64)
    return z, torch.randint(0, CLASSES, (shape[0], *shape[2:]), generator=generator)


def pair(name: str, y: Any, reduction: str) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """The loss of logits alone, and what it has to be."""
    loss, options, formula = LOSSES[name]

    def oracle(z: Any) -> Any:
        values = formula(z if name == "linear_hem" else z.movedim(1, -1), y)
        if reduction == "none":
            return values
        return values.sum() / (torch.count_nonzero(values) if reduction == "active_mean" else values.numel())

    return lambda z: loss(z, y, reduction=reduction, **options), oracle


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def squared(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function of the loss that is not linear."""
    return lambda z: (f(z) ** 2).sum()


@pytest.mark.finding(11)
@pytest.mark.parametrize(("shape", "reduction"), [((3, CLASSES), "none"), ((2, CLASSES, 2), "average")], ids=str)
@pytest.mark.parametrize(("way", "name"), CASES)
def test_derivatives_of_any_order_mode_and_nesting(
    way: str, name: str, shape: tuple[int, ...], reduction: str, take: Callable[[str], None]
) -> None:
    take(way)
    if len(shape) > 2 and way == "kernels":
        shape, reduction = shape[:2], "average"  # the interpreter is slow
    z, y = draw(name, shape)
    if reduction == "average":
        reduction = "active_mean" if name in (*MARGIN, "linear_hem") else "mean"
    loss, oracle = pair(name, y, reduction)
    expected = jacobian(oracle, z)
    same(loss(z), oracle(z))
    same(jacobian(loss, z, vectorize=True), expected)
    same(jacobian(loss, z, vectorize=True, create_graph=True).detach(), expected)
    same(jacobian(loss, z, vectorize=True, strategy="forward-mode"), expected)
    same(torch.func.jacrev(loss)(z), expected)
    same(torch.func.jacfwd(loss)(z), expected)
    if way != "kernels":
        same(hessian(lambda z: loss(z).sum(), z), hessian(lambda z: oracle(z).sum(), z))

    f = squared(loss)
    slope, second = jacobian(squared(oracle), z), hessian(squared(oracle), z)
    same(hessian(f, z, vectorize=True), second)
    if way == "kernels":
        return
    same(hessian(f, z, vectorize=True, outer_jacobian_strategy="forward-mode"), second)
    if way == "plain":  # where torch.func ends up from every way
        same(torch.func.hessian(f)(z), second)
        same(torch.func.jacrev(torch.func.jacrev(f))(z), second)
        same(torch.func.linearize(f, z)[1](z), (slope * z).sum())
    same(torch.func.grad(lambda z: torch.func.grad_and_value(f)(z)[1])(z), slope)
    leaf = z.clone().requires_grad_()
    (first,) = torch.autograd.grad(f(leaf), leaf, create_graph=True)
    (penalty,) = torch.autograd.grad((first**2).sum(), leaf)
    same(penalty, 2 * torch.einsum("i,ij->j", slope.flatten(), second.reshape(z.numel(), -1)).view_as(z))


@pytest.mark.finding(11)
@pytest.mark.parametrize("name", ["hem", "multi_margin", "linear_hem", "focal"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_what_gradcheck_asks(name: str, reduction: str, take: Callable[[str], None]) -> None:
    take("blocks")
    z, y = draw(name, (3, CLASSES))
    loss, z = pair(name, y, reduction)[0], z.requires_grad_()
    assert torch.autograd.gradcheck(
        loss, z, check_batched_grad=True, check_forward_ad=True, check_batched_forward_grad=True
    )
    assert torch.autograd.gradgradcheck(loss, z, check_batched_grad=True, check_fwd_over_rev=True)


@pytest.mark.finding(11)
@pytest.mark.parametrize(("way", "name"), CASES)
def test_gradients_from_above_of_any_kind(way: str, name: str, take: Callable[[str], None]) -> None:
    """The gradient is linear in them: scaled, different everywhere, without an order in memory, nothing, a batch."""
    take(way)
    z, y = draw(name, (4, CLASSES))
    y[1] = -100
    weight = torch.tensor([1.0, 1.0, 0.0, 2.0])
    loss, options, _ = LOSSES[name]
    z.requires_grad_()
    values = loss(z, y, reduction="none", sample_weight=weight, **options)
    rows = torch.stack([torch.autograd.grad(values, z, e, retain_graph=True)[0] for e in torch.eye(4).double()])
    scales = torch.tensor([3.0, 5.0, -7.0, 1e6], dtype=torch.float64)
    for above in (
        scales,
        torch.stack([scales, scales], 1)[:, 0],
        scales[:1].expand(4),
        torch.zeros(4).double(),
        scales.flip(0),
    ):
        (found,) = torch.autograd.grad(values, z, above, retain_graph=True)
        same(found, torch.einsum("p,pij->ij", above, rows))
    above = torch.stack([scales, scales.flip(0), -scales])
    for graph in (False, True):
        (found,) = torch.autograd.grad(values, z, above, retain_graph=True, is_grads_batched=True, create_graph=graph)
        same(found.detach(), torch.einsum("bp,pij->bij", above, rows))
    for bad in (torch.nan, torch.inf):  # what does not exist stays 0 whatever comes from above
        (found,) = torch.autograd.grad(
            values, z, torch.tensor([1.0, bad, bad, 1.0], dtype=torch.float64), retain_graph=True
        )
        same(found, rows[0] + rows[3])


@pytest.mark.finding(11)
@pytest.mark.parametrize("way", ["small", "blocks", "kernels", "linear"])
def test_half_precision_is_rounded_once_in_a_batch_too(way: str, take: Callable[[str], None]) -> None:
    """Factors that half precision cannot hold, of which the product can be held."""
    take(way)
    x, y = draw("hem", (4, CLASSES))
    head = torch.eye(CLASSES, dtype=torch.float16)
    z = x.half().requires_grad_()
    weight = torch.full((4,), 1e-6)

    def loss(z: Any) -> Any:
        given: dict[str, Any] = {"reduction": "none", "sample_weight": weight}
        return ht.linear_hem_loss(z, head, y, **given) if way == "linear" else ht.hem_loss(z, y, **given)

    values = loss(z)
    above = torch.full((2, 4), 3e6)
    (one,) = torch.autograd.grad(values, z, above[0], retain_graph=True)
    (batch,) = torch.autograd.grad(values, z, above, is_grads_batched=True, retain_graph=True)
    (graph,) = torch.autograd.grad(values, z, above[0], create_graph=True)
    assert one.abs().max() > 0.5
    assert one.dtype == batch.dtype == graph.dtype == torch.float16
    for found in (*batch, graph.detach()):
        torch.testing.assert_close(found, one, rtol=2e-3, atol=0)


class Finite(TorchDispatchMode):
    """Stops at the first operation that gives a NaN or an infinity. Memory that nobody has written yet may hold any,
    and so may a view of it.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(() if "empty" in func.name() or func.is_view else result):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                assert torch.isfinite(tensor).all(), f"{func.name()} gave {tensor}"
        return result


@pytest.mark.finding(10)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e30])
@pytest.mark.parametrize(("way", "name"), [case for case in CASES if case[0] != "kernels"])
def test_finite_logits_meet_no_nan_and_no_infinity(
    way: str, name: str, scale: float, take: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    take(way)
    # While somebody looks, plain operations take over. Here what is looked at is what they take over from.
    monkeypatch.setattr(blocked, "is_plain", lambda tensor, device="cpu": True)
    loss, options, _ = LOSSES[name]
    for dtype in (torch.float32, torch.float64) if scale == 1.0 else (torch.float32,):
        z, y = draw(name, (4, CLASSES))
        y[1] = -100
        z = (z * scale).to(dtype).requires_grad_()
        if name == "linear_hem":
            options = {"linear_weight": HEAD.to(dtype)}
            loss = lambda z, y, linear_weight, **given: ht.linear_hem_loss(z, linear_weight, y, **given)  # noqa: E731
        for weight in (None, torch.tensor([1.0, 0.0, 2.0, 0.0]), torch.zeros(4)):
            for reduction in ("none", "mean"):
                given = {"sample_weight": weight, "reduction": reduction}
                with Finite(), torch.autograd.detect_anomaly(check_nan=True):
                    loss(z, y, **given, **options).sum().backward()
        with Finite():
            loss(z[:0], y[:0], **options).backward()
            if name == "hem":
                ht.hem_diagnostics(z.detach(), y)


@pytest.mark.finding(10)
def test_focal_where_the_true_class_is_certain_or_impossible() -> None:
    """Without infinities of its own it gives what it gave: gradient 0 at p = 1, masked classes, an infinite z_y."""
    logits = np.array([[90.0, 0, 0], [1e5, 0, 0], [0, -np.inf, -np.inf], [0, 1, -np.inf], [-np.inf, 1, 2]])
    labels = np.zeros(5, int)
    for gamma in (0.0, 0.5, 2.0):
        for dtype in (np.float32, np.float64):
            z = torch.tensor(logits.astype(dtype), requires_grad=True)
            values = ht.focal_loss(z, torch.tensor(labels), gamma=gamma, reduction="none")
            values.sum().backward()
            given = {"gamma": gamma, "reduction": "none"}
            with np.errstate(all="ignore"):
                expected = hemspec.focal_loss(logits.astype(dtype), labels, **given)
                gradient = hemspec.focal_loss.gradient(logits.astype(dtype), labels, **given)
            np.testing.assert_allclose(values.detach().numpy(), expected, 1e-5, 1e-30)
            np.testing.assert_allclose(z.grad.numpy(), gradient, 1e-5, 1e-30)


@pytest.mark.finding(12)
@pytest.mark.parametrize("name", LOSSES)
def test_compiled_with_a_mask_that_says_how_many_positions(name: str) -> None:
    torch._dynamo.reset()
    loss, options, _ = LOSSES[name]
    z, y = draw(name, (6, CLASSES))

    def masked(z: Any, mask: Any) -> Any:
        return loss(z[mask], y[mask], **options)

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(masked, fullgraph=True, backend="aot_eager")
        for mask in (torch.arange(6) % 2 == 0, torch.zeros(6, dtype=torch.bool)):
            leaves = z.clone().requires_grad_(), z.clone().requires_grad_()
            values = compiled(leaves[0], mask), masked(leaves[1], mask)
            for value in values:
                value.backward()
            same(*values)
            same(leaves[0].grad, leaves[1].grad)


@pytest.mark.finding(16)
@pytest.mark.parametrize("name", LOSSES)
def test_checkpoints_that_save_everything_or_nothing(name: str) -> None:
    loss, options, _ = LOSSES[name]
    z, y = draw(name, (4, CLASSES))

    def gradient(f: Callable[[Any], Any]) -> Any:
        leaf = z.clone().requires_grad_()
        f(leaf).backward()
        return leaf.grad

    def head(z: Any) -> Any:
        return loss(z * 2, y, **options)

    expected = gradient(head)
    for reentrant in (False, True):
        same(gradient(functools.partial(checkpoint, head, use_reentrant=reentrant)), expected)
    for policy in CheckpointPolicy:
        contexts = functools.partial(create_selective_checkpoint_contexts, lambda *_, policy=policy, **__: policy)
        same(gradient(functools.partial(checkpoint, head, use_reentrant=False, context_fn=contexts)), expected)


@pytest.mark.finding(16)
@pytest.mark.parametrize("mode", ["real", "symbolic"])  # fake is symbolic without symbols
@pytest.mark.parametrize("name", LOSSES)
def test_a_graph_that_is_traced_is_that_of_any_logits(name: str, mode: str) -> None:
    loss, options, _ = LOSSES[name]
    z, y = draw(name, (4, CLASSES))
    options = {key: torch.tensor(value) if isinstance(value, list) else value for key, value in options.items()}
    given = {key: value for key, value in options.items() if isinstance(value, torch.Tensor)}
    if name == "linear_hem":
        loss, given = ht.linear_hem_loss, {"linear_weight": HEAD}

    def call(z: Any, y: Any, given: dict[str, Any]) -> Any:
        return loss(z, target=y, **{**options, **given})

    def gradient(z: Any, y: Any, given: dict[str, Any]) -> Any:
        return torch.autograd.grad(call(z, y, given), z)[0]

    other = draw(name, (4, CLASSES), seed=1)
    same(make_fx(call, tracing_mode=mode)(z, y, given)(*other, given), call(*other, given))
    other[0].requires_grad_()
    traced = make_fx(gradient, tracing_mode=mode)(z.requires_grad_(), y, given)
    same(traced(*other, given), gradient(*other, given))


@pytest.mark.finding(16)
@pytest.mark.parametrize("name", LOSSES)
def test_tensors_that_are_not_dense_are_refused_with_advice(name: str) -> None:
    loss, options, _ = LOSSES[name]
    z, y = draw(name, (4, CLASSES))
    for layout in (torch.strided, torch.jagged):
        parts = torch.nested.nested_tensor([z[:1], z[1:]], layout=layout)
        labels = torch.nested.nested_tensor([y[:1], y[1:]], layout=layout)
        with pytest.raises(TypeError, match=r"input must be a dense tensor; got a nested one \(take torch.cat\(input"):
            loss(parts, labels, **options)
        same(loss(torch.cat(parts.unbind()), torch.cat(labels.unbind()), **options), loss(z, y, **options))
    with pytest.raises(TypeError, match=r"input must be a dense tensor; got one of layout sparse_coo.*to_dense"):
        loss(z.to_sparse(), y, **options)
    with pytest.raises(TypeError, match="target must be a dense tensor"):
        loss(z, y.to_sparse(), **options)
    with pytest.raises(TypeError, match="sample_weight must be a dense tensor"):
        loss(z, y, sample_weight=torch.ones(4).to_sparse(), **options)


class Named(torch.Tensor):
    """A subclass that changes nothing."""


@pytest.mark.finding(16)
@pytest.mark.parametrize("name", LOSSES)
def test_subclasses_and_devices_without_values(name: str) -> None:
    loss, options, _ = LOSSES[name]
    z, y = draw(name, (4, CLASSES))
    same(loss(z.as_subclass(Named), y, **options).as_subclass(torch.Tensor), loss(z, y, **options))
    if name != "linear_hem":  # whose head lies elsewhere
        nowhere = z.to("meta").requires_grad_()
        value = loss(nowhere, y.to("meta"), **options)
        value.backward()
        assert (value.shape, value.device.type, nowhere.grad.shape) == ((), "meta", z.shape)


@pytest.mark.finding(26)
@pytest.mark.parametrize(("way", "name"), CASES)
def test_what_is_handed_in_comes_back_unchanged(way: str, name: str, take: Callable[[str], None]) -> None:
    take(way)
    loss, options, _ = LOSSES[name]
    z, y = draw(name, (4, CLASSES))
    weight, above = torch.tensor([1.0, 2.0, 0.0, 0.5]), torch.linspace(1, 2, 4, dtype=torch.float64)
    given = (z, y, weight, above)
    before = [tensor.clone() for tensor in given]
    leaf = z.detach().requires_grad_()
    loss(leaf, y, sample_weight=weight, reduction="none", **options).backward(above)
    for tensor, copy in zip(given, before, strict=True):
        assert torch.equal(tensor, copy)


@pytest.mark.finding(28)
@pytest.mark.parametrize(("way", "name"), [case for case in CASES if case[1] != "dice"])
def test_labels_are_compared_in_64_bits(way: str, name: str, take: Callable[[str], None]) -> None:
    """2^32 is not class 0, and neither 100 nor 156 is -100, which a byte cannot tell apart."""
    take(way)
    loss, options, _ = LOSSES[name]
    z, _ = draw(name, (2, CLASSES))
    for bad in (2**31, 2**32, -(2**32), 2**32 - 100, 100):
        for ignored in (-100, None):
            y = torch.tensor([bad, 0])
            if way == "kernels":  # which cannot read what they are given
                assert loss(z, y, ignore_index=ignored, reduction="none", **options).isnan().tolist() == [True, False]
            else:
                with pytest.raises(ValueError, match="target"):
                    loss(z, y, ignore_index=ignored, **options)
    for dtype, bad in ((torch.uint8, 156), (torch.int8, 100)):
        y = torch.tensor([bad, 0], dtype=dtype)
        if way == "kernels":
            assert loss(z, y, reduction="none", **options).isnan().tolist() == [True, False]
        else:
            with pytest.raises(ValueError, match="target"):
                loss(z, y, **options)
    for dtype in (torch.int8, torch.int16, torch.int32):
        y = torch.tensor([-100, 1], dtype=dtype)
        same(loss(z, y, reduction="sum", **options), loss(z[1:], y[1:].long(), reduction="sum", **options))
