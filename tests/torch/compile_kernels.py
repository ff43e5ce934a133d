"""Compiles the kernels for an H100, which needs no GPU: one JSON line for each specialisation of them.

A program of its own, because Triton's interpreter and its compiler exclude each other in a process.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hemspec_torch import fused, kernels

TARGET = GPUTarget("cuda", 90, 32)
DTYPES = {"float32": "fp32", "float64": "fp64", "float16": "fp16", "bfloat16": "bf16", "int64": "i64", "int32": "i32"}
DTYPES["uint8"] = "u8"
OPTIONS = ("num_warps", "enable_fp_fusion", "maxnreg")


def compiled(kernel: Any, arguments: dict[str, Any]) -> Any:
    """As a launch would specialise it: of the arguments, pointers alone are known to be multiples of 16."""
    signature, constants, hints = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        name, value = parameter.name, arguments[parameter.name]
        if parameter.is_constexpr:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = "*" + DTYPES[str(value.dtype).removeprefix("torch.")]
            hints[index,] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
    source = ASTSource(kernel, signature, constants, hints)
    return triton.compile(
        source, target=TARGET, options={name: arguments[name] for name in OPTIONS if name in arguments}
    )


def resources(code: Any) -> dict[str, Any]:
    """Registers and bytes of stack of a thread, and how wide it reads and writes."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = {key: int(number) for key, number in re.findall(r"\b(REG|STACK|SHARED):(\d+)", found)}
    moves = re.findall(r"(ld|st)\.global\S*?(?:\.v([248]))?\.b(8|16|32|64)", code.asm["ptx"])
    wide = Counter(f"{kind} {int(vector or 1) * int(unit)}" for kind, vector, unit in moves)
    return {"registers": usage["REG"], "stack": usage["STACK"], "shared": usage["SHARED"], "bits": wide}


def both(shape: tuple[int, ...], dtype: str, *, hem: bool = True, rich: bool = False) -> dict[str, Any]:
    """The two kernels for logits of a shape; `rich` with everything a call can ask for."""
    z = torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
    z = z.reshape(*shape[:2], -1) if len(shape) > 2 else z
    planned = fused.plan(z.shape, z.stride(), z.dtype)
    labels = torch.empty(planned.positions, dtype=torch.int64, device="meta")
    weights = torch.empty(planned.positions, dtype=torch.float32, device="meta") if rich else None
    vector = rich or dtype == "float64"
    margin: Any = torch.empty(shape[1], dtype=torch.float64, device="meta") if vector else 1.0
    call = fused.Call(labels, weights, margin, -100, "active_mean", hem, True)
    numbers = torch.empty(3, planned.positions, dtype=planned.compute, device="meta")
    indices = torch.empty(2, planned.positions, dtype=torch.int32, device="meta")
    found = fused.Measured(numbers, indices, torch.empty(planned.bits, dtype=torch.uint8, device="meta"))
    forward = fused.forward_arguments(z, call, planned, found)
    above = torch.empty((), dtype=planned.compute, device="meta")
    backward = fused.backward_arguments(z, above, planned, found)
    result: dict[str, Any] = {"shape": shape, "dtype": dtype, "hem": hem, "rich": rich}
    for name, kernel, arguments in (
        ("forward", kernels.forward, forward),
        ("backward", kernels.backward, backward),
    ):
        tile = {key: arguments.get(key) for key in ("POSITIONS", "CLASSES", "RESIDENT", "num_warps")}
        result[name] = tile | resources(compiled(kernel, arguments))
    return result


if __name__ == "__main__":
    for task in json.loads(sys.argv[1]):
        print(json.dumps(both(tuple(task.pop("shape")), **task)), flush=True)
