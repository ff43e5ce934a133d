"""The kernels for a GPU, on one or in Triton's interpreter: with any tiles and strides what the reference gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import hemspec
import hemspec.torch
from hemspec_torch import fused, selection

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
LOSSES = ("hem_loss", "multi_margin_loss")
REDUCTIONS = ("none", "sum", "mean", "active_mean")
needs_gpu = pytest.mark.skipif(not CUDA, reason="PyTorch finds no CUDA device")


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(selection, "INTERPRETED", not CUDA)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the interpreter computes in NumPy, where inf - inf warns
        yield


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Up to 64 float32 stay resident; beyond, 32 are looked at in turn, from 128 on 64."""
    for name, size in {"RESIDENT": 256, "CHUNK": 128, "LONG": 512, "SHORT": 64, "RUN": 8, "WRITTEN": 64}.items():
        monkeypatch.setattr(fused, name, size)
    fused.plan.cache_clear()
    yield
    fused.plan.cache_clear()


def draw(shape: tuple[int, ...], seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    logits = rng.integers(-48, 48, shape) / 16  # ties are exact, and frequent
    return logits.astype(np.float32), rng.integers(0, shape[1], (shape[0], *shape[2:]))


def is_fused(value: Any) -> bool:
    """The gradient comes from the kernels, through a division or none."""
    step = value.grad_fn
    while step is not None and "KeptErrors" not in step.name():
        step = step.next_functions[0][0] if step.next_functions else None
    return step is not None


def on_device(array: Any) -> Any:
    return None if array is None else torch.as_tensor(array).to(DEVICE)


def check(loss: str, logits: Any, labels: Any, *, z: Any = None, rtol: float = 2e-6, **options: Any) -> Any:
    """Value and gradient as the reference's, the gradient scaled differently at every position for "none"."""
    z = on_device(logits).requires_grad_() if z is None else z
    weight, margin = options.pop("sample_weight", None), options.pop("margin", 1.0)
    given = {"sample_weight": on_device(weight), "margin": on_device(margin) if np.ndim(margin) else margin}
    value = getattr(hemspec.torch, loss)(z, on_device(labels), **given, **options)
    assert is_fused(value)
    upstream = np.linspace(0.5, 2.0, value.numel(), dtype=logits.dtype).reshape(value.shape)
    (gradient,) = torch.autograd.grad(value, z, on_device(upstream).to(value.dtype))
    reference, options = getattr(hemspec, loss), {"axis": 1, "sample_weight": weight, "margin": margin, **options}
    expected = reference(logits, labels, **options)
    np.testing.assert_allclose(value.detach().double().cpu().numpy(), expected, rtol, 2e-6)
    scale = np.expand_dims(upstream, 1) if upstream.ndim else upstream
    expected = reference.gradient(logits, labels, **options) * scale
    assert gradient.dtype == z.dtype
    np.testing.assert_allclose(gradient.double().cpu().numpy(), expected, max(rtol, torch.finfo(z.dtype).eps), 1e-6)
    return value


ROWS = [(1, 7), (8, 7), (9, 8), (3, 64), (2, 40), (2, 65), (2, 97), (1, 104), (1, 128), (1, 129)]
PIXELS = [(2, 7, 17), (1, 64, 8), (3, 5, 2, 13), (2, 65, 9), (3, 7, 1)]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [*ROWS, *PIXELS])
@pytest.mark.usefixtures("small_tiles")
def test_any_tiles_give_the_reference(shape: tuple[int, ...], loss: str) -> None:
    logits, labels = draw(shape)
    check(loss, logits, labels, reduction="none")
    rng = np.random.default_rng(1)
    weight = rng.integers(0, 3, labels.shape).astype(np.float32)
    broken, ignored = logits.copy(), labels.copy()
    ignored.flat[::3] = -100
    np.moveaxis(broken, 1, -1)[ignored == -100] = np.nan
    np.moveaxis(broken, 1, -1)[weight == 0] = np.inf
    margin = rng.integers(0, 64, shape[1]) / 32
    check(loss, broken, ignored, sample_weight=weight, margin=margin)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_reductions(loss: str, reduction: str) -> None:
    logits, labels = draw((6, 9, 2, 3))
    labels[::2] = -100
    weight = np.arange(6) % 3
    for given in (None, weight, weight > 0, np.tile(weight[:, None, None], (2, 3)) / 2):
        check(loss, logits, labels, reduction=reduction, sample_weight=given)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(2, 1000), (1, 16_384), (1, 16_385), (1, 131_072)])
def test_the_usual_tiles_give_the_reference(shape: tuple[int, ...], loss: str) -> None:
    check(loss, *draw(shape), rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 4096), (2, 4095), (2, 131_072), (1, 5000, 2)])
def test_equal_errors_stay(shape: tuple[int, ...]) -> None:
    """In float32 a plain mean of many equal errors can exceed them. A slightly larger error must not stand alone."""
    logits, labels = np.full(shape, 0.1, np.float32), np.zeros((shape[0], *shape[2:]), np.int64)
    logits[-1, -1] = np.nextafter(np.float32(0.1), np.float32(1))
    check("hem_loss", logits, labels, reduction="none", margin=0.7, rtol=1e-5)


@pytest.mark.parametrize("repeats", [1, 10, 30])
@pytest.mark.usefixtures("small_tiles")
def test_an_error_equal_to_the_mean_stays(repeats: int) -> None:
    """Of 0, 3, 5, 6, 5, 1, 1 the 3 is the mean, however often that is repeated; a seventh of it is not exact."""
    logits = np.tile(np.array([0, 3, 5, 6, 5, 1, 1], np.float32), (2, repeats))
    value = check("hem_loss", logits, np.array([0, 0]), margin=0.0, reduction="none")
    assert value.tolist() == [4.75, 4.75]


@pytest.mark.parametrize("high", [slice(0, 5), slice(40, 45), slice(30, 34), slice(95, 97), slice(32, 97)])
@pytest.mark.parametrize("size", [1.0, 1e-3, 3e4])
@pytest.mark.usefixtures("small_tiles")
def test_wherever_the_large_errors_are(high: slice, size: float) -> None:
    """The threshold is measured from the largest error of the first tile, be it 0 or the largest of all."""
    logits = np.zeros((1, 97), np.float32)
    logits[:, high] = size * np.linspace(0.75, 1.0, high.stop - high.start)
    check("hem_loss", logits, np.array([17]), margin=0.0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("classes", [5, 64, 97])
@pytest.mark.usefixtures("small_tiles")
def test_what_is_not_finite(classes: int, loss: str) -> None:
    logits, labels = draw((12, classes))
    labels[:], far = 1, classes - 1
    inf, nan = np.inf, np.nan
    for row, (true, rival) in enumerate([(0, nan), (nan, 0), (0, inf), (0, -inf), (inf, 0), (-inf, 0), (inf, inf)]):
        logits[row, [1, far]] = true, rival
    logits[7, [1, far]] = -inf, -inf
    logits[8, [0, 2, far]] = inf
    logits[9, [0, far]] = inf, nan
    logits[10, :] = -inf
    logits[11, [0, far]] = 1e36, -1e36
    check(loss, logits, labels, reduction="none", margin=0.5)
    check(loss, logits[3:7:2], labels[3:7:2])


@pytest.mark.usefixtures("small_tiles")
def test_the_smallest_errors_count() -> None:
    """The mean error underflows to 0, and only errors above 0 are kept."""
    logits = np.array([[0.0, 2.0**-149, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    check("hem_loss", logits, np.array([0, 0]), margin=0.0, reduction="none")


def strided(shape: tuple[int, ...], order: tuple[int, ...], step: int) -> tuple[Any, Any]:
    """The shape's axes in some order in memory, with gaps."""
    logits, labels = draw(shape)
    memory = torch.zeros([shape[axis] * step for axis in order], device=DEVICE)
    back = [order.index(axis) for axis in range(len(shape))]
    z = memory.permute(back)[tuple(slice(None, None, step) for _ in shape)]
    z.copy_(on_device(logits))
    return z.requires_grad_(), (logits, labels)


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize(
    ("shape", "order"),
    [
        ((5, 70), (0, 1)),
        ((5, 70), (1, 0)),
        ((16, 8), (1, 0)),
        ((3, 9, 4), (0, 2, 1)),
        ((3, 9, 4), (1, 0, 2)),
        ((3, 9, 4), (2, 1, 0)),
        ((2, 16, 4, 4), (0, 2, 3, 1)),
        ((2, 16, 4, 4), (3, 0, 1, 2)),
        ((7,), (0,)),
    ],
)
@pytest.mark.usefixtures("small_tiles")
def test_any_order_in_memory(shape: tuple[int, ...], order: tuple[int, ...], step: int) -> None:
    if len(shape) == 1:
        z, (logits, labels) = strided((1, 7), (0, 1), step)
        assert is_fused(hemspec.torch.hem_loss(z[0], on_device(labels)[0]))
        return
    z, (logits, labels) = strided(shape, order, step)
    check("hem_loss", logits, labels, z=z, reduction="none")


def test_broadcast_logits() -> None:
    logits, labels = draw((1, 9, 1))
    z = on_device(logits).expand(3, 9, 4).requires_grad_()
    labels = np.tile(labels, (3, 4))
    check("hem_loss", np.broadcast_to(logits, (3, 9, 4)), labels, z=z)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64"])
def test_labels_of_any_dtype(dtype: str) -> None:
    """As an uint8 156 has the bits of -100, and it is a class like any other."""
    logits, labels = draw((6, 120 if dtype == "int8" else 200))
    labels[2] = 100 if dtype == "int8" else 156
    check("hem_loss", logits, labels.astype(dtype), reduction="none")
    check("hem_loss", logits, labels.astype(dtype), reduction="none", ignore_index=int(labels[2]))


@pytest.mark.parametrize("bad", [-1, 9, -100, 2**40])
def test_a_bad_label_is_nan(bad: int) -> None:
    logits, labels = draw((6, 9))
    labels[3] = bad
    z = on_device(logits).requires_grad_()
    value = hemspec.torch.hem_loss(z, on_device(labels), ignore_index=None, reduction="none")
    value.sum().backward()
    assert value.isnan().nonzero().tolist() == [[3]]
    assert z.grad.isnan().all(1).tolist() == z.grad.isnan().any(1).tolist() == [i == 3 for i in range(6)]
    weight = on_device(np.arange(6) != 3)
    assert hemspec.torch.hem_loss(z, on_device(labels), ignore_index=None, sample_weight=weight).isfinite()


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_a_bad_weight_or_margin_is_nan(bad: float) -> None:
    logits, labels = draw((6, 9))
    z, weight, margin = on_device(logits).requires_grad_(), torch.ones(6, device=DEVICE), torch.ones(9, device=DEVICE)
    weight[2] = margin[4] = bad
    for options, rows in (({"sample_weight": weight}, [2]), ({"margin": margin}, list(range(6)))):
        for reduction in ("none", "mean"):
            value = hemspec.torch.hem_loss(z, on_device(labels), reduction=reduction, **options)
            assert value.isnan().sum() == (len(rows) if reduction == "none" else 1)
            (gradient,) = torch.autograd.grad(value.sum(), z)
            assert gradient[rows].isnan().all()
    ignored = torch.full((6,), -100, device=DEVICE)
    assert hemspec.torch.hem_loss(z, ignored, margin=margin) == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("shape", [(6, 9), (2, 70), (2, 9, 5)])
@pytest.mark.usefixtures("small_tiles")
def test_other_dtypes(shape: tuple[int, ...], dtype: str) -> None:
    logits, labels = draw(shape)
    z = on_device(logits).to(getattr(torch, dtype)).requires_grad_()
    value = check("hem_loss", logits, labels, z=z, reduction="sum", margin=0.1)
    assert value.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    check("hem_loss", logits, labels, z=z, reduction="none", margin=np.full(shape[1], 0.1))


def test_float64_is_float64_throughout() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(3, 9)), np.array([0, 4, 8])
    check("hem_loss", logits, labels, margin=0.1, rtol=1e-14)


def test_a_second_derivative_and_a_second_backward() -> None:
    """Piecewise linear: the gradient of the gradient's norm comes through what the logits come from alone."""
    logits, labels = draw((6, 9))
    x = on_device(logits).double().requires_grad_()
    value = hemspec.torch.hem_loss(x**2, on_device(labels), reduction="none")
    upstream = torch.ones_like(value, requires_grad=True)
    (first,) = torch.autograd.grad(value, x, upstream, create_graph=True)
    second, in_upstream = torch.autograd.grad((first**2).sum(), (x, upstream), retain_graph=True)
    slope = hemspec.hem_loss.gradient(logits.astype(np.float64) ** 2, labels, reduction="none")
    np.testing.assert_allclose(first.detach().cpu(), slope * 2 * logits, 1e-12, 1e-12)
    np.testing.assert_allclose(second.cpu(), 2 * (slope * 2) ** 2 * logits, 1e-12, 1e-12)
    np.testing.assert_allclose(in_upstream.cpu(), 2 * ((slope * 2 * logits) ** 2).sum(1), 1e-12, 1e-12)
    again = torch.autograd.grad(value, x, torch.ones_like(value), retain_graph=True)[0]
    assert torch.equal(first, again)


def test_a_second_derivative_of_pixels() -> None:
    logits, labels = draw((2, 9, 2, 3))
    x = on_device(logits).double().requires_grad_()
    for reduction in ("none", "mean"):
        value = hemspec.torch.hem_loss(x, on_device(labels), reduction=reduction)
        upstream = torch.full_like(value, 2.0, requires_grad=True)
        (first,) = torch.autograd.grad(value, x, upstream, create_graph=True)
        (plain,) = torch.autograd.grad(value, x, torch.full_like(value, 2.0), retain_graph=True)
        torch.testing.assert_close(first, plain)
        (in_upstream,) = torch.autograd.grad(first.abs().sum(), upstream)
        torch.testing.assert_close(2 * in_upstream.sum(), first.abs().sum())


def test_the_logits_are_not_overwritten_and_may_be_afterwards() -> None:
    logits, labels = draw((6, 9))
    z = on_device(logits).requires_grad_()
    value = hemspec.torch.hem_loss(z, on_device(labels))
    value.backward()
    assert torch.equal(z.detach().cpu(), torch.tensor(logits))
    moved = z * 1.0
    value = hemspec.torch.hem_loss(moved, on_device(labels))
    moved.zero_()  # backward has a bit for each of them, and does not look
    (gradient,) = torch.autograd.grad(value, z)
    assert torch.equal(gradient, z.grad)


def test_what_does_not_exist_stays_0_whatever_comes_from_above() -> None:
    z = torch.zeros(3, 4, device=DEVICE, requires_grad=True)
    value = hemspec.torch.hem_loss(z, on_device(np.array([0, -100, 1])), margin=0.0, reduction="none")
    value.backward(torch.full((3,), torch.nan, device=DEVICE))
    assert z.grad.tolist() == [[0.0] * 4] * 3


def test_no_gradient_is_asked_for() -> None:
    logits, labels = draw((6, 9))
    expected = hemspec.hem_loss(logits, labels)
    with torch.no_grad():
        value = hemspec.torch.hem_loss(on_device(logits).requires_grad_(), on_device(labels))
    assert not value.requires_grad
    np.testing.assert_allclose(value.cpu(), expected, 2e-6)


def test_mapped_calls_are_left_to_plain_operations() -> None:
    logits, labels = draw((4, 9))
    z, y = on_device(logits), on_device(labels)
    mapped = torch.func.vmap(lambda a, b: hemspec.torch.hem_loss(a[None], b[None], reduction="sum"))(z, y)
    np.testing.assert_allclose(mapped.cpu(), hemspec.hem_loss(logits, labels, reduction="none"), 2e-6)


def test_kernels_that_do_not_run_are_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """No C compiler for Triton's launcher, say: the loss is computed all the same, and said once."""
    calls = []

    def fail(*_: Any, **__: Any) -> None:
        calls.append(1)
        raise fused.KernelError("no C compiler")

    logits, labels = draw((4, 9))
    monkeypatch.setattr(selection, "INTERPRETED", False)
    monkeypatch.setattr(selection, "broken", set())
    monkeypatch.setattr(selection, "gpu_of", lambda tensor: 0)
    monkeypatch.setattr(fused, "margin_terms", fail)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    selection.kernels.cache_clear()
    z, y = on_device(logits), on_device(labels)
    with pytest.warns(UserWarning, match="plain operations.*no C compiler"):
        value = hemspec.torch.hem_loss(z, y)
    assert hemspec.torch.hem_loss(z, y) == value
    np.testing.assert_allclose(value.cpu(), hemspec.hem_loss(logits, labels), 2e-6)
    assert len(calls) == 1
    selection.kernels.cache_clear()


def test_import_brings_no_triton() -> None:
    code = "import sys, hemspec.torch; assert not {'triton', 'hemspec_torch.fused', 'torch._dynamo'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_triton_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    selection.kernels.cache_clear()
    assert selection.kernels(0) is fused
    selection.kernels.cache_clear()
    monkeypatch.delattr("hemspec_torch.fused")
    monkeypatch.setitem(sys.modules, "hemspec_torch.fused", None)
    assert selection.kernels(0) is None
    selection.kernels.cache_clear()


COMPILED = [
    {"shape": [8192, 1000], "dtype": "bfloat16"},
    {"shape": [8192, 1001], "dtype": "float16", "hem": False},
    {"shape": [8192, 8192], "dtype": "float32", "rich": True},
    {"shape": [8192, 16_000], "dtype": "float32"},
    {"shape": [8192, 16_384], "dtype": "bfloat16"},
    {"shape": [8192, 32_000], "dtype": "float32"},
    {"shape": [32_768, 131_072], "dtype": "bfloat16", "rich": True},
    {"shape": [64, 200], "dtype": "float64", "rich": True},
    {"shape": [8, 21, 256, 256], "dtype": "bfloat16", "rich": True},
    {"shape": [8, 150, 256, 256], "dtype": "float32"},
]


def test_an_h100_gets_what_it_can_run_fast() -> None:
    """Compiled to machine code, which takes no GPU: nothing is spilled, and rows are read 16 bytes at a time.

    Of the registers of a multiprocessor, 65,536, two of the largest resident tiles take no more than there are.
    """
    program = Path(__file__).with_name("compile_kernels.py")
    result = subprocess.run(
        [sys.executable, "-W", "ignore", str(program), json.dumps(COMPILED)],
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(found) == len(COMPILED)
    for case in found:
        for kernel in (case["forward"], case["backward"]):
            assert kernel["stack"] == 0, case
            alone = not case["forward"]["RESIDENT"]
            assert kernel["registers"] * 32 * kernel["num_warps"] * (1 if alone else 2) <= 65_536, case
        by_rows = len(case["shape"]) == 2 and case["shape"][1] % 8 == 0
        assert ("ld 128" in case["forward"]["bits"]) == by_rows, case
        assert ("st 128" in case["backward"]["bits"]) == (by_rows or len(case["shape"]) > 2), case


@needs_gpu
def test_nothing_waits_for_the_gpu() -> None:
    logits, labels = draw((64, 100))
    z, y, weight = on_device(logits).requires_grad_(), on_device(labels), torch.rand(64, device=DEVICE)
    margin = torch.ones(100, device=DEVICE)

    def step() -> None:
        for reduction in REDUCTIONS:
            hemspec.torch.hem_loss(z, y, sample_weight=weight, margin=margin, reduction=reduction).sum().backward()
            hemspec.torch.hem_loss(z, y).backward()

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
def test_a_cuda_graph() -> None:
    logits, labels = draw((64, 100))
    z, y = on_device(logits).requires_grad_(), on_device(labels)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            torch.autograd.grad(hemspec.torch.hem_loss(z, y), z)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = hemspec.torch.hem_loss(z, y)
        (gradient,) = torch.autograd.grad(value, z)
    logits, labels = draw((64, 100), seed=1)
    with torch.no_grad():
        z.copy_(on_device(logits))
    y.copy_(on_device(labels))
    graph.replay()
    np.testing.assert_allclose(value.detach().cpu(), hemspec.hem_loss(logits, labels), 2e-6)
    np.testing.assert_allclose(gradient.cpu(), hemspec.hem_loss.gradient(logits, labels), 2e-6, 1e-8)


@needs_gpu
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("shape", [(4096, 1000), (1024, 32_000), (4, 21, 256, 256)])
def test_no_more_memory_than_cross_entropy(shape: tuple[int, ...], dtype: str) -> None:
    z = torch.randn(shape, device=DEVICE).to(getattr(torch, dtype)).requires_grad_()
    y = torch.randint(shape[1], (shape[0], *shape[2:]), device=DEVICE)

    def peak(loss: Any) -> int:
        torch.autograd.grad(loss(z, y), z)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        torch.autograd.grad(loss(z, y), z)
        return int(torch.cuda.max_memory_allocated() - before)

    assert peak(hemspec.torch.hem_loss) <= peak(torch.nn.functional.cross_entropy)
