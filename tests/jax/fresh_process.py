"""What a process of its own makes of exported programs, and of the same training: ``fresh_process.py FOLDER``.

It reads ``*.exported`` and ``inputs.npz`` and writes ``outputs.npz``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def call_exported(folder: Path, inputs: dict[str, Any], sizes: tuple[int, ...]) -> dict[str, Any]:
    """By program, batch size and place: the results for the first so many samples."""
    found = {}
    for path in sorted(folder.glob("*.exported")):
        call = jax.export.deserialize(path.read_bytes()).call
        for size in sizes:
            batch = [inputs[name][:size] for name in ("x", "y", "w")]
            for place, result in enumerate(jax.tree.leaves(call(inputs["head"], *batch))):
                found[f"{path.stem} {size} {place}"] = np.asarray(result)
    return found


def train(inputs: dict[str, Any]) -> dict[str, Any]:
    """Two steps with each of some losses."""
    import hemspec.jax

    losses = {name: getattr(hemspec.jax, name) for name in ("hem_loss", "multi_margin_loss", "focal_loss", "dice_loss")}

    @jax.jit
    def steps(head: Any, x: Any, y: Any, w: Any) -> dict[str, Any]:
        def loss_of(name: str, head: Any) -> Any:
            return losses[name](jnp.matmul(x, head), y, sample_weight=w)

        heads = dict.fromkeys(losses, head)
        for _ in range(2):
            heads = {name: head - 0.1 * jax.grad(lambda h, n=name: loss_of(n, h))(head) for name, head in heads.items()}
        return heads

    return {name: np.asarray(head) for name, head in steps(*(inputs[name] for name in ("head", "x", "y", "w"))).items()}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    inputs = dict(np.load(folder / "inputs.npz"))
    found = call_exported(folder, inputs, (1, 6, 40))
    assert not any(name.startswith("hemspec") for name in sys.modules), "an exported program needs no hemspec"
    np.savez(folder / "outputs.npz", **found, **train(inputs))
