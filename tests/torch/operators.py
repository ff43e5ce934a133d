"""The checks that PyTorch puts its own operators and modules to, on ours: ``nox -s operators``.

`OpInfo` and `ModuleInfo`, their sample inputs and most checks are PyTorch's own (torch.testing._internal), as its
test_ops, test_ops_gradients, test_ops_fwd_gradients and test_modules drive them. They are no public API: a new PyTorch
may move them. The quick ones, gradients and modules, are among the usual tests.
"""

from __future__ import annotations

import copy
import functools
import io
import itertools
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch._subclasses.fake_utils import CrossRefFakeMode
from torch.library import opcheck
from torch.testing import make_tensor
from torch.testing._internal import composite_compliance
from torch.testing._internal.common_dtype import floating_types_and
from torch.testing._internal.common_modules import FunctionInput, ModuleInfo, ModuleInput
from torch.testing._internal.opinfo.core import OpInfo, SampleInput

import hemspec
import hemspec.torch as ht
from hemspec_torch import linear, linear_operators

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's own, of its own internals
CLASSES = 5
MARGIN = ("hem_loss", "multi_margin_loss")
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "hem_loss": [{}, {"margin": [1.0, 2.0, 0.5, 1.5, 0.25]}],
    "multi_margin_loss": [{}, {"margin": 0.5}],
    "cross_entropy_loss": [{}],
    "focal_loss": [{}, {"gamma": 0.5, "alpha": [1.0, 2.0, 0.5, 1.0, 3.0]}],
    "logit_norm_loss": [{"temperature": 1.0}],
    "logit_adjusted_loss": [{"class_counts": [5, 4, 3, 2, 1]}],
    "dice_loss": [{}, {"smooth": 1.0, "batch": True}],
    "linear_hem_loss": [{}, {"margin": 0.5, "chunk_rows": 2}],
}
EXCEPTIONS = {
    ("*", "conjugate views"): "logits are real: a complex tensor is refused, so there is no lazy conjugate to resolve",
    ("*", "out="): "a loss is a function of Python, not an operator with an out variant",
    ("*", "TorchScript"): "the losses take Python objects (process groups, arrays), which torch.jit.script cannot type",
    ("linear_hem_loss", "composite compliance"): "its backward asks how many rows the chunks have, not a tensor, and"
    " its forward writes chunks into memory of its own: as one operator it is checked by `opcheck` instead",
}
"""What PyTorch does with its own and is not done here, with the reason."""


def samples(
    name: str, op: Any, device: Any, dtype: Any, requires_grad: bool = False, **_: Any
) -> Iterator[SampleInput]:
    make = functools.partial(make_tensor, device=device, dtype=dtype, low=-3, high=3)
    reductions = ["none", "sum", "mean", *(["active_mean"] if name in (*MARGIN, "linear_hem_loss") else [])]
    shapes: list[tuple[int, ...]] = [(4, CLASSES), (2, CLASSES, 3), (CLASSES,), (0, CLASSES)]
    for i, (shape, reduction) in enumerate(itertools.product(shapes, reductions)):
        options = OPTIONS[name][i % len(OPTIONS[name])]
        z = make(shape, requires_grad=requires_grad)
        labels = shape[:1] + shape[2:] if len(shape) > 1 else ()
        given = {"reduction": reduction, **options}
        if name == "linear_hem_loss":
            if len(shape) == 3:
                continue
            head = make((CLASSES, CLASSES), requires_grad=requires_grad)
            yield SampleInput(z, head, torch.randint(0, CLASSES, labels), **given)
            continue
        y = torch.randint(0, CLASSES, labels)
        yield SampleInput(z, y, **given)
        if len(shape) == 2 and shape[0]:
            ignored = y.clone()
            ignored[0] = -100
            yield SampleInput(z, ignored, sample_weight=torch.rand(labels) + 0.5, **given)


OPS = [
    OpInfo(
        f"hemspec.{name}",
        op=getattr(ht, name),
        dtypes=floating_types_and(torch.float16, torch.bfloat16),
        sample_inputs_func=functools.partial(samples, name),
        supports_out=False,
        supports_forward_ad=True,
        supports_fwgrad_bwgrad=True,
        check_batched_grad=True,
        check_batched_gradgrad=True,
        check_batched_forward_grad=True,
        supports_scripting=False,
    )
    for name in OPTIONS
]
each = pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)


def drawn(op: Any, dtype: Any = torch.float64, requires_grad: bool = False) -> Iterator[Any]:
    torch.manual_seed(0)
    return op.sample_inputs("cpu", dtype, requires_grad=requires_grad)


def differentiable(sample: Any) -> list[Any]:
    return [t for t in (sample.input, *sample.args) if isinstance(t, torch.Tensor) and t.requires_grad]


def gradients(op: Any, sample: Any) -> tuple[Any, ...]:
    value = op(sample.input, *sample.args, **sample.kwargs)
    above = torch.linspace(1, 2, value.numel(), dtype=value.dtype).reshape(value.shape)
    return value.detach(), *torch.autograd.grad(value, differentiable(sample), above)


def same(found: Any, expected: Any, **_: Any) -> None:
    torch.testing.assert_close(found, expected, equal_nan=True)


@each
def test_dtypes(op: Any) -> None:
    """Every dtype that the entry claims, forward and backward, and no other."""
    for dtype in op.dtypes:
        for sample in drawn(op, dtype, requires_grad=True):
            value, *found = gradients(op, sample)
            assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert all(g.dtype == dtype and g.isfinite().all() for g in found)
    for dtype in (torch.int64, torch.bool, torch.complex64):
        sample = next(drawn(op))
        with pytest.raises(TypeError, match="floating point"):
            op(sample.input.to(dtype), *sample.args, **sample.kwargs)


@each
@pytest.mark.parametrize("order", ["first", "second"])
def test_gradients(op: Any, order: str) -> None:
    """Reverse, forward, batched; of the gradient reverse over reverse and forward over reverse."""
    for sample in drawn(op, requires_grad=True):
        given = differentiable(sample)
        if not sample.input.numel():
            continue

        def call(*tensors: Any, sample: Any = sample) -> Any:
            rest = sample.args[len(tensors) - 1 :]
            return op(*tensors, *rest, **sample.kwargs)

        if order == "first":
            assert torch.autograd.gradcheck(
                call,
                given,
                check_batched_grad=op.check_batched_grad,
                check_forward_ad=op.supports_forward_ad,
                check_batched_forward_grad=op.check_batched_forward_grad,
                fast_mode=True,
            )
        else:
            assert torch.autograd.gradgradcheck(
                call, given, check_batched_grad=True, check_fwd_over_rev=op.supports_fwgrad_bwgrad, fast_mode=True
            )


@each
def test_noncontiguous_and_negative_views(op: Any) -> None:
    for sample in drawn(op, requires_grad=True):
        value, *expected = gradients(op, sample)
        scattered = sample.noncontiguous()
        same(gradients(op, scattered), (value, *expected))
        negative = sample.transform(
            lambda t: torch._neg_view(-t.detach()).requires_grad_(t.requires_grad) if t.is_floating_point() else t
        )
        assert negative.input.is_neg()
        same(gradients(op, negative), (value, *expected))


@each
def test_fake_tensors(op: Any) -> None:
    """The same shapes, dtypes and strides as real ones, of every operation on the way."""
    for sample in drawn(op, requires_grad=True):
        real = gradients(op, sample)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = gradients(op, sample.transform(lambda t: mode.from_tensor(t) if isinstance(t, torch.Tensor) else t))
        for f, r in zip(fake, real, strict=True):
            assert (f.shape, f.dtype, f.device) == (r.shape, r.dtype, r.device)
        with CrossRefFakeMode():
            same(gradients(op, sample), real)


@each
def test_vmap(op: Any) -> None:
    """Mapped over each argument alone and all together, as one by one."""
    for sample in drawn(op):
        if not sample.input.numel() or "sample_weight" in sample.kwargs:
            continue
        tensors = (sample.input, *sample.args)
        others = tuple(t + 0.5 if t.is_floating_point() else (t + 1) % CLASSES for t in tensors)
        for mapped in itertools.product((None, 0), repeat=len(tensors)):
            if not any(axis == 0 for axis in mapped):
                continue
            parts = zip(tensors, others, mapped, strict=True)
            stacked = [t if axis is None else torch.stack([t, o]) for t, o, axis in parts]
            found = torch.func.vmap(functools.partial(op, **sample.kwargs), in_dims=mapped)(*stacked)
            for i in range(2):
                one = [t if axis is None else t[i] for t, axis in zip(stacked, mapped, strict=True)]
                same(found[i], op(*one, **sample.kwargs))


@each
def test_composite_compliance(op: Any) -> None:
    """No value is read and nothing is written behind the dispatcher's back, whatever arguments are a subclass."""
    if op.name == "hemspec.linear_hem_loss":
        pytest.skip(EXCEPTIONS["linear_hem_loss", "composite compliance"])
    for sample in drawn(op, requires_grad=True):
        args = (sample.input, *sample.args)
        composite_compliance.check_with_mode(op, args, sample.kwargs, same)
        composite_compliance.check_all_permutations(op, args, sample.kwargs, same)
        composite_compliance.check_backward_formula(op.get_op(), args, sample.kwargs, assert_equal_fn=same)
        composite_compliance.check_forward_ad_formula(op.get_op(), args, sample.kwargs, assert_equal_fn=same)


@pytest.mark.parametrize("op", OPS[:-1], ids=lambda op: op.name)
def test_extremal_values(op: Any) -> None:
    """NaN and infinities give what the reference gives."""
    name = op.name.split(".")[1]
    z, y = torch.randn(6, CLASSES, dtype=torch.float64), torch.arange(6) % CLASSES
    for bad, at_true, options in itertools.product((np.nan, np.inf, -np.inf), (True, False), OPTIONS[name]):
        logits = z.clone()
        logits[2, y[2] if at_true else (y[2] + 1) % CLASSES] = bad
        with np.errstate(all="ignore"):
            expected = getattr(hemspec, name)(logits.numpy(), y.numpy(), reduction="none", **options)
        found = op(logits, y, reduction="none", **options)
        np.testing.assert_allclose(found.numpy(), expected, 1e-9, 1e-12)


@pytest.mark.parametrize("bias", [False, True])
def test_operators_of_the_linear_head(bias: bool) -> None:
    """Schema, fake kernel and tracing of what a compiler gets."""
    x, weight = torch.randn(6, 3), torch.randn(CLASSES, 3)
    b = torch.randn(CLASSES) if bias else None
    y, ones = torch.arange(6) % CLASSES, torch.ones(6)
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    opcheck(linear_operators.measure, (x, weight, b, y, ones, ones, ones > 0, 4, True), test_utils=tests)
    _, share, active, bits = linear.measure(x, weight, b, y, ones, ones, ones > 0, 4, True)
    given = (x, weight, y, ones > 0, share, active, bits, 4, True, True, bias)
    opcheck(linear_operators.differentiate, given, test_utils=tests)


def module_samples(options: list[dict[str, Any]], *_: Any, dtype: Any, requires_grad: bool, **__: Any) -> Any:
    z = make_tensor((4, CLASSES), device="cpu", dtype=dtype, requires_grad=requires_grad)
    y = torch.randint(0, CLASSES, (4,))
    return [
        ModuleInput(FunctionInput(reduction=reduction, **given), FunctionInput(z, y))
        for given, reduction in itertools.product(options, ("none", "sum", "mean"))
    ]


MODULES = [
    ModuleInfo(getattr(ht, cls), module_inputs_func=functools.partial(module_samples, OPTIONS[name]))
    for name, cls in {
        "hem_loss": "HEMLoss",
        "multi_margin_loss": "MultiMarginLoss",
        "cross_entropy_loss": "CrossEntropyLoss",
        "focal_loss": "FocalLoss",
        "logit_norm_loss": "LogitNormLoss",
        "logit_adjusted_loss": "LogitAdjustedLoss",
        "dice_loss": "DiceLoss",
    }.items()
]


@pytest.mark.parametrize("info", MODULES, ids=lambda info: info.name)
def test_modules(info: Any) -> None:
    """Forward, repr, pickle, deepcopy, saving, casts, both modes, both orders of gradients, as in test_modules."""
    inputs = info.module_inputs_func(info, dtype=torch.float64, requires_grad=True)
    for case in inputs:
        module = info.module_cls(*case.constructor_input.args, **case.constructor_input.kwargs)
        args = case.forward_input.args
        expected = module(*args)
        assert type(module).__name__ in repr(module)
        assert str(module)
        buffer = io.BytesIO()
        torch.save(module.state_dict(), buffer)
        buffer.seek(0)
        copies = [pickle.loads(pickle.dumps(module)), copy.deepcopy(module), copy.deepcopy(module).eval()]
        copies += [copy.deepcopy(module).to(dtype) for dtype in (torch.float16, torch.float32, torch.float64)]
        copies[0].load_state_dict(torch.load(buffer))
        for other in copies:
            same(other(*args), expected)
        z = args[0]
        scattered = torch.stack([z.detach(), z.detach()], -1)[..., 0].requires_grad_()
        same(module(scattered, *args[1:]), expected)
        assert torch.autograd.gradcheck(lambda z: module(z, args[1]), z, check_batched_grad=True, fast_mode=True)  # noqa: B023
        assert torch.autograd.gradgradcheck(lambda z: module(z, args[1]), z, check_batched_grad=True, fast_mode=True)  # noqa: B023
