"""Keras on PyTorch under DistributedDataParallel: the recipe of docs/site/scale-out/keras.md, in two processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("keras", reason="Keras is not installed")
pytest.importorskip(os.environ["KERAS_BACKEND"], reason="the backend that KERAS_BACKEND names is not installed")
if os.environ["KERAS_BACKEND"] != "torch":
    pytest.skip("DistributedDataParallel belongs to PyTorch", allow_module_level=True)
import keras

from hemspec.keras import CrossEntropyLoss, DiceLoss, HEMLoss

PROCESSES = 2
LOSSES: dict[str, Any] = {
    "hem": HEMLoss(ignore_class=2),
    "mean": HEMLoss(reduction="mean", ignore_class=2),
    "cross_entropy": CrossEntropyLoss(reduction="sum_over_batch_size", ignore_class=2),
    "dice": DiceLoss(ignore_class=2),
    "nothing": HEMLoss(margin=0.0),  # where no position is active
}


def model_and_data() -> tuple[Any, ...]:
    """The same in each process. The second has fewer samples, and none that is active."""
    rng = np.random.default_rng(0)
    kernel = keras.initializers.GlorotUniform(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, kernel_initializer=kernel)])
    x, w = rng.normal(size=(8, 4)).astype(np.float32), rng.uniform(0.5, 2.0, 8).astype(np.float32)
    y = rng.integers(0, 3, 8)
    x[5:] *= 1000
    scores = model.predict(x, verbose=0)
    y[5:] = scores[5:].argmax(-1)
    return model, x, y, w, scores.argmax(-1)


def step_of_a_process(rank: int, loss: Any, model: Any, x: Any, y: Any, w: Any) -> Any:
    import torch
    import torch.distributed as dist

    model.zero_grad()
    mine = slice(0, 5) if rank == 0 else slice(5, 8)
    numerator, denominator = loss.terms(y[mine], model(torch.as_tensor(x[mine])), w[mine])
    total = denominator.clone()
    dist.all_reduce(total)
    # The processes' gradients are averaged.
    (numerator * dist.get_world_size() / torch.where(total == 0, 1.0, total)).backward()
    return [weight.grad.numpy().copy() for weight in model.parameters()]


def run_process(rank: int, port: int, folder: str) -> None:
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=PROCESSES)
    model, x, y, w, predicted = model_and_data()
    parallel = DistributedDataParallel(model)
    gradients = {}
    for name, loss in LOSSES.items():
        labels = predicted if name == "nothing" else y
        for i, gradient in enumerate(step_of_a_process(rank, loss, parallel, x, labels, w)):
            gradients[f"{name}{i}"] = gradient
    np.savez(Path(folder, f"{rank}.npz"), **gradients)
    dist.barrier()
    # Taken apart, DistributedDataParallel may wait for gloo's thread with the lock that the thread waits for.
    os._exit(0)


def test_a_step_is_one_process_s_step(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), port, str(tmp_path)]) for rank in range(PROCESSES)
    ]
    assert [process.wait(120) for process in processes] == [0] * PROCESSES
    model, x, y, w, predicted = model_and_data()
    for name, loss in LOSSES.items():
        model.zero_grad()
        loss(predicted if name == "nothing" else y, model(x), w).backward()
        for i, weight in enumerate(model.parameters()):
            assert name == "nothing" or weight.grad.abs().max() > 1e-3
            for rank in range(PROCESSES):
                got = np.load(tmp_path / f"{rank}.npz")[f"{name}{i}"]
                np.testing.assert_allclose(got, weight.grad.numpy(), rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    run_process(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
