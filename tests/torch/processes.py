"""The losses in several processes, compared with one that has everything; `test_processes` says what must hold.

A program of its own: it imports PyTorch once, and forks before anything has run. Prints JSON: how far off each check
is, in the worst of the processes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

import hemspec
import hemspec.torch as ht

CLASSES, PIXELS = 4, 3
MARGINS = [0.05, 0.1, 0.2, 0.02]
BATCHES: dict[int, list[dict[str, int]]] = {
    2: [{"normal": 5, "other": 2}, {"normal": 4, "inactive": 3}, {"ignored": 3, "normal": 2}],
    3: [{"normal": 4, "inactive": 2, "ignored": 3}, {"empty": 0, "normal": 3, "weightless": 2}],
}
"""For each number of processes: what each has of a batch, and how much of it."""


def criteria(group: Any) -> dict[str, Any]:
    """Every loss with every reduction that can be summed."""
    margin_losses = {
        "hem": lambda **options: ht.HEMLoss(margin=0.1, **options),
        "hem+": lambda **options: ht.HEMLoss(margin=MARGINS, **options),
        "linear hem": lambda **options: ht.LinearHEMLoss(margin=0.1, chunk_rows=4, **options),
        "multi margin": lambda **options: ht.MultiMarginLoss(margin=0.1, **options),
    }
    others = {
        "cross entropy": ht.CrossEntropyLoss,
        "focal": lambda **options: ht.FocalLoss(alpha=[1.0, 2.0, 0.5, 1.0], **options),
        "logit norm": lambda **options: ht.LogitNormLoss(temperature=0.5, **options),
        "logit adjusted": lambda **options: ht.LogitAdjustedLoss(class_counts=[9, 3, 5, 1], **options),
        "dice": lambda **options: ht.DiceLoss(smooth=0.1, **options),
    }
    found = {
        f"{name}, {reduction}": make(reduction=reduction, process_group=group)
        for makers, reductions in ((margin_losses, ("active_mean", "mean", "sum")), (others, ("mean", "sum")))
        for name, make in makers.items()
        for reduction in reductions
    }
    return found | {"dice of the batch, mean": ht.DiceLoss(batch=True, process_group=group)}


class Network(nn.Module):
    """Two layers, and the loss: of the logits, or of the features and the head."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(6, 5, dtype=dtype), nn.Linear(5, CLASSES, dtype=dtype)

    def logits(self, x: Any) -> Any:
        return self.head(torch.tanh(3 * self.body(x))).movedim(-1, 1)

    def forward(self, x: Any, y: Any, w: Any, loss: Callable[..., Any], linear: bool) -> Any:
        if linear:
            return loss(torch.tanh(3 * self.body(x)), self.head.weight, y, self.head.bias, w)
        return loss(self.logits(x), y, w)


def part(kind: str, size: int, seed: int) -> tuple[Any, ...]:
    """What a process has: pixels of images, their labels and weights, in float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(400, PIXELS, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(0, CLASSES, (400, PIXELS), generator=generator)
    w = torch.randint(0, 3, (400, PIXELS), generator=generator).double() + 0.25
    y[torch.rand(400, PIXELS, generator=generator) < 0.2] = -100
    if kind == "ignored":
        y.fill_(-100)
    elif kind == "weightless":
        w.zero_()
    elif kind == "inactive":  # every competing class is further away than any margin
        top = Network(torch.float64).logits(x).topk(2, dim=1)
        far = ((top.values[:, 0] - top.values[:, 1]) > 0.25).all(1)
        x, y, w = x[far], top.indices[:, 0][far], w[far]
    assert len(x) >= size
    return x[:size], y[:size], w[:size]


def parameters(module: nn.Module) -> list[Any]:
    """Their gradients, whole."""
    found = [p.grad for p in module.parameters()]
    return [g.full_tensor() if isinstance(g, DTensor) else g.clone() for g in found]


def deviation(found: list[Any], expected: list[Any]) -> float:
    """The largest difference, by the largest of what was expected."""
    size = max((float(e.detach().abs().max()) for e in expected), default=0.0)
    off = max(float((f.detach() - e.detach()).abs().max()) for f, e in zip(found, expected, strict=True))
    return off / size if size else off


def replicas(rank: int, processes: int) -> Iterator[tuple[str, float]]:
    """One step in DDP and FSDP2, of one batch and in two micro-batches, beside one of the whole batch alone."""
    group = dist.group.WORLD
    mesh = init_device_mesh("cpu", (processes,))
    spread, local = criteria(group), criteria(None)
    for dtype in (torch.float32, torch.float64):
        alone = Network(dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = {"DDP": DistributedDataParallel(Network(dtype)), "FSDP2": fully_shard(Network(dtype), mesh=mesh)}
        for number, kinds in enumerate(BATCHES[processes]):
            parts = [part(kind, size, 10 * number + i) for i, (kind, size) in enumerate(kinds.items())]
            mine = tuple(t.to(dtype) if t.is_floating_point() else t for t in parts[rank])
            whole = tuple(torch.cat(ts) for ts in zip(*parts, strict=True))
            whole = tuple(t.to(dtype) if t.is_floating_point() else t for t in whole)
            check_parts(parts, kinds)
            for name, criterion in spread.items():
                linear = isinstance(criterion, ht.LinearHEMLoss)
                alone.zero_grad()
                loss = alone(*whole, local[name], linear)
                loss.backward()
                expected = [loss, *parameters(alone)]
                label = f"{name}, {str(dtype).removeprefix('torch.')}"
                for kind, module in wrapped.items():
                    if kind == "FSDP2" and dtype == torch.float64:
                        continue
                    module.zero_grad()
                    loss = module(*mine, criterion, linear)
                    loss.backward()
                    yield f"{kind}, {label}", deviation([loss, *parameters(module)], expected)
                    if "of the batch" not in name:  # which does not add up over micro-batches
                        found = accumulated(module, mine, criterion, linear)
                        yield f"{kind} accumulating, {label}", deviation(found, expected)
                if name in ("hem, active_mean", "cross entropy, mean"):
                    module = wrapped["DDP"]
                    module.zero_grad()
                    module(*mine, local[name], linear).backward()
                    yield f"averages of averages, {name}", deviation(parameters(module), expected[1:])


def check_parts(parts: list[Any], kinds: dict[str, int]) -> None:
    """That the parts are what they are called."""
    network = Network(torch.float64)
    for (x, y, w), kind in zip(parts, kinds, strict=True):
        numerator, active = ht.hem_loss.terms(network.logits(x), y, margin=0.1, sample_weight=w)
        _, valid = ht.hem_loss.terms(network.logits(x), y, margin=0.1, sample_weight=w, reduction="mean")
        assert (valid > 0) == (kind in ("normal", "other", "inactive")), kind
        assert (active > 0) == (numerator > 0) == (kind in ("normal", "other")), kind


def unusual(rank: int, processes: int) -> Iterator[tuple[str, float]]:
    """NaN and infinities of some processes reach all of them, as those of some positions reach the whole."""
    logits, labels = broken((40, 7), seed=3)
    rows = [slice(0, 13), slice(13, 40)] if processes == 2 else [slice(0, 13), slice(13, 30), slice(30, 40)]
    for reduction in ("active_mean", "mean", "sum"):
        for kept in (slice(0, 40), slice(4, 40), slice(12, 40)):  # with NaN, with infinities, with neither
            y = np.where(np.isin(np.arange(40), np.arange(40)[kept]), labels, -100)
            with np.errstate(all="ignore"):
                exact = hemspec.hem_loss(logits, y, reduction=reduction)
                gradient = hemspec.hem_loss.gradient(logits, y, reduction=reduction)
            z = torch.tensor(logits)[rows[rank]].requires_grad_()
            loss = ht.hem_loss(z, torch.tensor(y)[rows[rank]], reduction=reduction, process_group=dist.group.WORLD)
            loss.backward()
            slope = z.grad / processes
            yield (
                f"from {kept.start} on, {reduction}",
                max(compare(loss.detach(), exact), compare(slope, gradient[rows[rank]])),
            )


def accumulated(module: Any, batch: Any, criterion: Any, linear: bool) -> list[Any]:
    """The loss and the gradients of two micro-batches, by the recipe: numerators backward, one division at the end."""
    module.zero_grad()
    value, denominator = torch.zeros(()), torch.zeros(())
    micro = list(zip(*(t.tensor_split(2) for t in batch), strict=True))
    for i, arguments in enumerate(micro):
        last = i == len(micro) - 1
        ddp = isinstance(module, DistributedDataParallel)
        if not ddp:
            module.set_requires_gradient_sync(last)
        with contextlib.nullcontext() if last or not ddp else module.no_sync():
            if criterion.reduction == "sum":
                numerator, terms = module(*arguments, criterion, linear), torch.ones(())
            else:
                numerator, terms = module(*arguments, criterion.terms, linear)
            numerator.backward()
        value = value + numerator.detach()
        denominator = denominator + terms if criterion.reduction != "sum" else terms
    return [value / denominator, *(g / denominator for g in parameters(module))]


def compiled(rank: int, processes: int) -> Iterator[tuple[str, float]]:
    """Losses in one graph, for batches of every size, with what the processes exchange in it."""
    group = dist.group.WORLD
    spread = criteria(group)
    losses = {name: spread[name] for name in ("hem, active_mean", "cross entropy, sum", "dice of the batch, mean")}
    losses["class shards"] = ht.HEMLoss(class_group=group, process_group=group)
    for name, criterion in losses.items():
        torch.manual_seed(0)
        torch._dynamo.reset()
        graphs: list[Any] = []

        def count(graph: Any, inputs: Any, graphs: list[Any] = graphs) -> Any:
            graphs.append(graph)
            return graph.forward

        step = torch.compile(criterion, fullgraph=True, dynamic=True, backend=count)
        for size in (5, 8):
            z, y = torch.randn(size, CLASSES, requires_grad=True), torch.randint(0, CLASSES, (size,))
            twin = z.detach().clone().requires_grad_()
            values = [step(z, y), criterion(twin, y)]
            for value in values:
                value.backward()
            yield f"{name}", deviation([values[0], z.grad], [values[1], twin.grad])
        yield "graphs beyond the first", float(len(graphs) - 1)


def broken(shape: tuple[int, ...], seed: int) -> tuple[Any, Any]:
    """Logits with exact ties, labels with ignored ones among them, and positions for each kind of infinity and NaN."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(-48, 48, shape) / 16
    labels = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    rows, flat = np.moveaxis(logits, 1, -1).reshape(-1, shape[1]).copy(), labels.reshape(-1)
    kinds = itertools.product((np.nan, np.inf, -np.inf), (True, False), (True, False))
    for i, (bad, at_true, twice) in enumerate(kinds):
        if i < len(rows):
            rows[i, (flat[i] + (not at_true)) % shape[1]] = bad
            if twice:
                rows[i, (flat[i] + 2) % shape[1]] = bad
    if len(rows) > 16:
        rows[12], flat[12] = np.nan, -100
        rows[13] = rows[13].max() - 1  # all errors are equal
        rows[14], rows[14, flat[14]] = -np.inf, 0.0  # all others are masked
        rows[15], flat[15] = [0, 3, 5, 6, 5, 1, 1, *[0] * shape[1]][: shape[1]], 0
    return np.moveaxis(rows.reshape(*labels.shape, shape[1]), -1, 1).copy(), flat.reshape(labels.shape)


def compare(found: Any, expected: Any) -> float:
    """The largest difference, by the larger of 1 and the largest expected; NaN and infinities have to be the same."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.where(finite, 0, found), np.where(finite, 0, expected))
    size = max(1.0, np.abs(expected[finite]).max(initial=0.0))
    return float(np.abs(found[finite] - expected[finite]).max(initial=0.0)) / size


def class_shards(rank: int, processes: int) -> Iterator[tuple[str, float]]:
    """Logits cut over the classes, by sizes of every kind, beside the reference of them all."""
    rng, last = np.random.default_rng(0), {2: [3, 7], 3: [4, 0, 6]}[processes]
    cuts = {"chunks": None, "one class": [1] * (processes - 1) + [11 - processes], "uneven": last}
    shapes = [(40, 10), (5, 10, 2, 3), (10,), (3, 700), (0, 10)]
    for loss, (number, shape) in itertools.product(("hem_loss", "multi_margin_loss"), enumerate(shapes)):
        logits, labels = broken((1, *shape) if len(shape) == 1 else shape, seed=number)
        logits, labels = logits.reshape(shape), labels.reshape(shape[:1] * (len(shape) > 1) + shape[2:])
        axis, weight = min(1, len(shape) - 1), rng.integers(0, 3, labels.shape).astype(np.float64)
        margins = rng.integers(0, 64, shape[axis]) / 32
        for reduction, dtype in itertools.product(("none", "sum", "mean", "active_mean"), ("float32", "float64")):
            for margin, w in ((1.0, None), (margins, weight)):
                given = {"margin": margin, "reduction": reduction}
                with np.errstate(all="ignore"):
                    numbers = {"axis": axis, "sample_weight": w, **given}
                    exact = getattr(hemspec, loss)(logits.astype(dtype), labels, **numbers)
                    gradient = getattr(hemspec, loss).gradient(logits.astype(dtype), labels, **numbers)
                given |= {"sample_weight": None if w is None else torch.tensor(w), "class_group": dist.group.WORLD}
                for cut, sizes in cuts.items() if shape[axis] == 10 else [("chunks", None)]:
                    z = torch.tensor(logits, dtype=getattr(torch, dtype))
                    shards = list(z.chunk(processes, axis) if sizes is None else z.split(sizes, axis))
                    mine = shards[rank].clone().requires_grad_()
                    value = getattr(ht, loss)(mine, torch.tensor(labels), **given)
                    value.sum().backward()
                    start = sum(shard.shape[axis] for shard in shards[:rank])
                    slope = np.take(gradient, range(start, start + mine.shape[axis]), axis)
                    off = max(compare(value.detach(), exact), compare(mine.grad, slope))
                    yield f"{loss}, {reduction}, {cut}, {dtype}", off
    yield from halves(rank, processes)
    yield from shards_of_a_network(rank, processes)


def halves(rank: int, processes: int) -> Iterator[tuple[str, float]]:
    """Half precision is computed in float32, here too; diagnostics; the two groups in one call; bad labels."""
    group = dist.group.WORLD
    logits, labels = broken((40, 10), seed=7)
    y = torch.tensor(labels)
    for dtype in (torch.bfloat16, torch.float16):
        z = torch.tensor(logits, dtype=dtype)
        mine = z.tensor_split(processes, 1)[rank].clone().requires_grad_()
        value = ht.hem_loss(mine, y, class_group=group, reduction="none")
        value.sum().backward()
        whole = z.clone().requires_grad_()
        expected = ht.hem_loss(whole, y, reduction="none")
        expected.sum().backward()
        assert value.dtype == torch.float32
        slope = whole.grad.tensor_split(processes, 1)[rank]
        assert mine.grad.dtype == dtype
        off = max(compare(value.detach(), expected.detach()), compare(mine.grad.float(), slope.float()))
        yield f"hem_loss, {str(dtype).removeprefix('torch.')}", off

    finite = np.nan_to_num(logits, nan=0.5, posinf=3.0, neginf=-3.0)
    for numbers in (finite, logits):
        z, w = torch.tensor(numbers), torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        with np.errstate(all="ignore"):
            exact = hemspec.hem_diagnostics(numbers, labels, sample_weight=w.numpy())
        shard = z.tensor_split(processes, 1)[rank]
        found = ht.HEMLoss(class_group=group).diagnostics(shard, y, w)
        rows = [t.tensor_split(processes)[rank] for t in (z, y, w)]
        by_rows = ht.HEMLoss(process_group=group).diagnostics(*rows)
        for name, value in exact.items():
            yield f"diagnostics over classes, {name}", compare(found[name], value)
            yield f"diagnostics over replicas, {name}", compare(by_rows[name], value)

    y[3] = 10
    with pytest.raises(ValueError, match=r"target must lie in \[0, 10\) at every valid position; got 10 at index 3"):
        ht.hem_loss(torch.tensor(logits).tensor_split(processes, 1)[rank], y, class_group=group)
    with pytest.raises(ValueError, match=rf"margin must be .* one entry per class, shape \({2 * processes},\)"):
        ht.hem_loss(torch.zeros(4, 2), y[:4] * 0, margin=[1.0, 2.0], class_group=group)


class Traffic(TorchDispatchMode):
    """Counts what collectives send."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.bytes = 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace in ("c10d", "_c10d_functional", "c10d_functional") and "wait" not in str(function):
            tensors = args[0] if isinstance(args[0], list | tuple) else [args[0]]
            self.calls += 1
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return function(*args, **(kwargs or {}))


def shards_of_a_network(rank: int, processes: int) -> Iterator[tuple[str, float]]:
    """A DTensor as a class-parallel head gives it, sharded as torch.chunk does it, and what it costs."""
    mesh = init_device_mesh("cpu", (processes,))
    for classes in (10, 2 * processes + 1, 1000):
        generator = torch.Generator().manual_seed(classes)
        z, y = torch.randn(20, classes, generator=generator), torch.randint(0, classes, (20,), generator=generator)
        w = torch.rand(20, generator=generator)
        y[0] = -100
        for name in ("hem_loss", "multi_margin_loss"):
            whole = z.clone().requires_grad_()
            expected = getattr(ht, name)(whole, y, sample_weight=w)
            expected.backward()
            sharded = distribute_tensor(z, mesh, [Shard(1)]).requires_grad_()
            for target in (y, distribute_tensor(y, mesh, [Replicate()])):
                sharded.grad = None
                with Traffic() as traffic:
                    value = getattr(ht, name)(sharded, target, sample_weight=w)
                    value.backward()
                assert sharded.grad.placements == (Shard(1),)
                off = deviation([value, sharded.grad.full_tensor()], [expected, whole.grad])
                yield f"{name}, DTensor", off
                assert traffic.calls == 3
                yield "bytes beyond six numbers a position", float(traffic.bytes - 6 * 4 * len(y))
            mine = sharded.to_local().detach().requires_grad_()
            with Traffic() as traffic:
                getattr(ht, name)(mine, y, sample_weight=w, class_group=mesh.get_group()).backward()
            assert traffic.calls == 4
            yield (
                "bytes beyond six numbers a position and one a process",
                float(traffic.bytes - 6 * 4 * len(y) - 8 * processes),
            )
    with Traffic() as traffic:  # that it would see the logits
        sharded.full_tensor()
    assert traffic.bytes >= z[:, : classes // processes].numel() * 4

    for placement in (Replicate(), Shard(0)):
        for loss in (ht.hem_loss, ht.cross_entropy_loss, ht.hem_diagnostics):
            with pytest.raises((TypeError, ValueError), match=r"to_local\(\)"):
                loss(distribute_tensor(z, mesh, [placement]), y)


def mesh_of_both(rank: int, processes: int) -> Iterator[tuple[str, float]]:
    """Two replicas of a head that is shared by two processes: both groups, or a DTensor and one."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "classes"))
    generator = torch.Generator().manual_seed(0)
    z, y = torch.randn(9, 7, 2, generator=generator), torch.randint(0, 7, (9, 2), generator=generator)
    y[0], y[5:] = -100, z[5:].argmax(1)
    w = torch.rand(9, generator=generator)
    rows, columns = (slice(0, 5), slice(5, 9))[rank // 2], (slice(0, 4), slice(4, 7))[rank % 2]
    for name, reduction in itertools.product(("hem_loss", "multi_margin_loss"), ("active_mean", "mean", "sum")):
        whole = z.clone().requires_grad_()
        expected = getattr(ht, name)(whole, y, sample_weight=w, reduction=reduction)
        expected.backward()
        given = {"sample_weight": w[rows], "reduction": reduction, "process_group": mesh.get_group("data")}
        mine = z[rows, columns].clone().requires_grad_()
        value = getattr(ht, name)(mine, y[rows], class_group=mesh.get_group("classes"), **given)
        value.backward()
        # An average over the replicas halves the gradient.
        slope = whole.grad[rows, columns]
        yield f"{name}, {reduction}, both groups", deviation([value, mine.grad / 2], [expected, slope])
        sharded = DTensor.from_local(
            z[rows, columns].clone(), mesh["classes"], [Shard(1)], shape=z[rows].shape, stride=z[rows].stride()
        ).requires_grad_()
        value = getattr(ht, name)(sharded, y[rows], **given)
        value.backward()
        found = [value, sharded.grad.to_local() / 2]
        yield f"{name}, {reduction}, DTensor and group", deviation(found, [expected, slope])
    sharded = distribute_tensor(z, mesh, [Replicate(), Shard(1)]).requires_grad_()
    ht.hem_loss(sharded, y, sample_weight=w).backward()
    whole = z.clone().requires_grad_()
    ht.hem_loss(whole, y, sample_weight=w).backward()
    yield "hem_loss, mesh of two axes", deviation([sharded.grad.to_local()], [whole.grad[:, columns]])


CHECKS: dict[str, tuple[tuple[int, ...], Any]] = {
    "replicas": ((2, 3), replicas),
    "unusual": ((2, 3), unusual),
    "compiled": ((2,), compiled),
    "class shards": ((2, 3), class_shards),
    "mesh": ((4,), mesh_of_both),
}


def process(rank: int, processes: int, folder: Path) -> None:
    """All checks for so many processes, in one of them."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=processes)
    found: dict[str, float] = {}
    try:
        for title, (worlds, check) in CHECKS.items():
            if processes in worlds:
                for name, off in check(rank, processes):
                    found[f"{title}: {name}"] = max(off, found.get(f"{title}: {name}", 0.0))
        (folder / f"{rank}.json").write_text(json.dumps(found))
        dist.barrier()  # none leaves while another still listens
    except BaseException:
        traceback.print_exc()
    # Without taking it apart: the destructor of DDP joins gloo's threads, and may wait for ever.
    os._exit(0 if (folder / f"{rank}.json").exists() else 1)


def main() -> None:
    context = multiprocessing.get_context("fork")
    result = {}
    for processes in (2, 3, 4):
        with tempfile.TemporaryDirectory() as folder:
            running = [context.Process(target=process, args=(r, processes, Path(folder))) for r in range(processes)]
            for one in running:
                one.start()
            for one in running:
                one.join()
            if any(one.exitcode for one in running):
                sys.exit(f"of {processes} processes some failed")
            ranks = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
        assert len(ranks) == processes
        result[processes] = {name: max(rank[name] for rank in ranks) for name in ranks[0]}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
