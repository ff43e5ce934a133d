"""The frozen vectors: inputs, and the value and gradient that the reference gave for them.

Made by ``python -m hemspec_conformance.vectors`` from the inputs in `hemspec_conformance.cases`; with ``--check`` they
are made again and compared. A vector is never edited: a changed meaning is a new version of the specification.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import sys
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np

from hemspec import SPEC_VERSION
from hemspec_conformance.adapter import DTYPES, LOSSES, Array, Call, LabelForm
from hemspec_conformance.encoding import decode, encode

GENERATOR: Final = "python -m hemspec_conformance.vectors"


@dataclass(frozen=True)
class Vector:
    """A call, and its answer in float64."""

    name: str
    call: Call
    value: Array
    gradient: Array
    dtypes: tuple[str, ...] = DTYPES
    """The dtypes that hold the logits exactly, so that the same answer is right in all of them."""
    core: bool = False
    """Runs in every dtype even in modes that are slow to compile."""
    label_form: LabelForm = "ids"
    """How the labels, which are class indices here, are given to the backend; a form it does not take is not asked."""
    source: str = ""
    """Where the value was worked out or published, if somewhere else than in the reference."""


class VectorsMissingError(RuntimeError):
    """The frozen vectors are not what the manifest says. A suite without its vectors must not pass."""


def to_json(vector: Vector) -> dict[str, Any]:
    call = vector.call
    data: dict[str, Any] = {"name": vector.name, "dtypes": list(vector.dtypes)}
    if vector.core:
        data["core"] = True
    if vector.label_form != "ids":
        data["label_form"] = vector.label_form
    if vector.source:
        data["source"] = vector.source
    data["logits"] = {"shape": list(call.logits.shape), "data": encode(call.logits)}
    data["labels"] = {"shape": list(call.labels.shape), "dtype": call.labels.dtype.name, "data": encode(call.labels)}
    if call.sample_weight is not None:
        data["sample_weight"] = {"dtype": call.sample_weight.dtype.name, "data": encode(call.sample_weight)}
    data["axis"], data["ignore_index"], data["reduction"] = call.axis, call.ignore_index, call.reduction
    data["constants"] = {k: encode(v) if isinstance(v, np.ndarray) else v for k, v in call.constants.items()}
    data["value"], data["gradient"] = encode(vector.value), encode(vector.gradient)
    return data


def from_json(loss: str, data: dict[str, Any]) -> Vector:
    weight = data.get("sample_weight")
    shape, label_shape = tuple(data["logits"]["shape"]), tuple(data["labels"]["shape"])
    call = Call(
        loss,
        logits=decode(data["logits"]["data"], np.float64, shape),
        labels=decode(data["labels"]["data"], data["labels"]["dtype"], label_shape),
        sample_weight=None if weight is None else decode(weight["data"], weight["dtype"]),
        axis=data["axis"],
        ignore_index=data["ignore_index"],
        reduction=data["reduction"],
        constants={k: np.array(v, float) if isinstance(v, list) else v for k, v in data["constants"].items()},
    )
    return Vector(
        data["name"],
        call,
        decode(data["value"], np.float64),
        decode(data["gradient"], np.float64, shape),
        tuple(data["dtypes"]),
        data.get("core", False),
        data.get("label_form", "ids"),
        data.get("source", ""),
    )


def reference_answer(call: Call) -> tuple[Array, Array]:
    """Value and gradient by the reference, in float64."""
    function = getattr(importlib.import_module("hemspec"), call.loss)
    arguments = {
        "sample_weight": call.sample_weight,
        "axis": call.axis,
        "ignore_index": call.ignore_index,
        "reduction": call.reduction,
        **call.constants,
    }
    with np.errstate(all="ignore"):
        value = np.asarray(function(call.logits, call.labels, **arguments))
        return value, function.gradient(call.logits, call.labels, **arguments)


def generate() -> dict[str, str]:
    """The text of every vector file, by file name, and of the manifest that counts and signs them."""
    from hemspec_conformance.cases import CASES

    texts = {}
    manifest: dict[str, Any] = {"spec_version": SPEC_VERSION, "generator": GENERATOR, "files": {}}
    for loss in LOSSES:
        vectors = []
        for case in (case for case in CASES if case.call.loss == loss):
            value, gradient = reference_answer(case.call)
            vectors.append(to_json(Vector(case.name, case.call, value, gradient, tuple(case.dtypes), case.core)))
        lines = ",\n".join(json.dumps(vector, allow_nan=False) for vector in vectors)
        header = f'"spec_version": {SPEC_VERSION}, "generator": "{GENERATOR}", "loss": "{loss}"'
        name = f"{loss.removesuffix('_loss')}.json"
        texts[name] = f'{{{header}, "vectors": [\n{lines}\n]}}\n'
        digest = hashlib.sha256(texts[name].encode()).hexdigest()
        manifest["files"][name] = {"loss": loss, "vectors": len(vectors), "sha256": digest}
    texts["manifest.json"] = json.dumps(manifest, indent=1) + "\n"
    return texts


@cache
def load() -> tuple[Vector, ...]:
    """Every frozen vector, after counting them and checking their checksums."""
    folder = files("hemspec_conformance") / "vectors"
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    if manifest["spec_version"] != SPEC_VERSION:
        raise VectorsMissingError(f"vectors of spec version {manifest['spec_version']}, hemspec has {SPEC_VERSION}")
    vectors: list[Vector] = []
    for name, entry in manifest["files"].items():
        text = (folder / name).read_text("utf-8")
        if hashlib.sha256(text.encode()).hexdigest() != entry["sha256"]:
            raise VectorsMissingError(f"{name} is not the file that the manifest signed: vectors are never edited")
        found = [from_json(entry["loss"], data) for data in json.loads(text)["vectors"]]
        if not found or len(found) != entry["vectors"]:
            raise VectorsMissingError(f"{name} holds {len(found)} vectors, the manifest counts {entry['vectors']}")
        vectors.extend(found)
    if {vector.call.loss for vector in vectors} != set(LOSSES):
        raise VectorsMissingError("a loss has no vectors")
    return tuple(vectors)


def differences() -> list[str]:
    """The frozen vectors that the reference would not give again: other inputs, or an answer off by more than 1e-12.

    Not compared as text: the last digit of exp and log is the machine's own.
    """
    frozen = {(vector.call.loss, vector.name): vector for vector in load()}
    stale = []
    for name, text in generate().items():
        if name == "manifest.json":
            continue
        fresh = json.loads(text)
        for data in fresh["vectors"]:
            vector = from_json(fresh["loss"], data)
            old = frozen.pop((vector.call.loss, vector.name), None)
            inputs = {k: v for k, v in data.items() if k not in ("value", "gradient")}
            if (
                old is None
                or {k: v for k, v in to_json(old).items() if k in inputs} != inputs
                or not agree(old.value, vector.value)
                or not agree(old.gradient, vector.gradient)
            ):
                stale.append(f"{vector.call.loss}: {vector.name}")
    return stale + [f"{loss}: {name} (no longer made)" for loss, name in frozen]


def agree(a: Array, b: Array) -> bool:
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-12, atol=1e-12, equal_nan=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog=GENERATOR, description="Make the frozen vectors from the reference.")
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    arguments = parser.parse_args()
    if arguments.check:
        stale = differences()
        if stale:
            print("\n".join(["the reference gives other vectors now:", *stale]), file=sys.stderr)
            return 1
    else:
        for name, text in generate().items():
            (Path(__file__).parent / "vectors" / name).write_text(text, "utf-8")
    print(f"{len(load())} vectors {'checked' if arguments.check else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
