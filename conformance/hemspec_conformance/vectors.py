"""The frozen vectors: inputs, and the value and gradient that the reference gave for them.

Made by ``python -m hemspec_conformance.vectors`` from the inputs in `hemspec_conformance.cases`; with ``--check`` all
are made again and compared. A vector is never edited, and the command refuses to: a changed meaning is a new version of
the specification.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np

from hemspec import SPEC_VERSION
from hemspec_conformance.adapter import DTYPES, LOSSES, Array, Call, LabelForm
from hemspec_conformance.encoding import decode, encode

GENERATOR: Final = "python -m hemspec_conformance.vectors"
AT_LEAST: Final = 522
"""The vectors of this version of the specification; the number only ever grows."""


WITHDRAWN: Final = {
    f"logit_adjusted_loss: {name}": "it has a class count of 0.5: counts are whole and at least 1"
    for name in ("labels_above_2048", "labels_float_above_2048", "labels_one_hot_above_2048")
}
"""Vectors whose question the specification, where it was clarified since, calls bad input; with the reason. The same
question in good numbers has taken the place of each."""


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
    about_positions: bool = False
    """Is about what stands around a loss's formula, of which every loss has a vector."""
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
    if vector.about_positions:
        data["about_positions"] = True
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
    if call.left_out:
        data["left_out"] = list(call.left_out)
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
        constants={k: decode(v, float) if isinstance(v, list | dict) else v for k, v in data["constants"].items()},
        left_out=tuple(data.get("left_out", ())),
    )
    return Vector(
        data["name"],
        call,
        decode(data["value"], np.float64),
        decode(data["gradient"], np.float64, shape),
        tuple(data["dtypes"]),
        data.get("core", False),
        data.get("about_positions", False),
        data.get("label_form", "ids"),
        data.get("source", ""),
    )


def reference_answer(call: Call) -> tuple[Array, Array]:
    """Value and gradient by the reference, in float64."""
    function = getattr(importlib.import_module("hemspec"), call.loss)
    with np.errstate(all="ignore"):
        value = np.asarray(function(call.logits, call.labels, **call.keywords))
        return value, function.gradient(call.logits, call.labels, **call.keywords)


@dataclass(frozen=True)
class Comparison:
    """The cases as the reference answers them now, beside what is frozen."""

    vectors: tuple[Vector, ...]
    """What to write: a frozen vector keeps its answer to the last digit, which for exp and log is the machine's own."""
    new: tuple[str, ...]
    changed: tuple[str, ...]
    """Frozen vectors with other inputs, with an answer off by more than 1e-12, or no longer made."""


def compare_with_frozen(frozen: Iterable[Vector]) -> Comparison:
    """Answer every case, and hold the answers against the frozen ones."""
    from hemspec_conformance.cases import CASES

    old = {(vector.call.loss, vector.name): vector for vector in frozen}
    vectors, new, changed = [], [], []
    for case in CASES:
        value, gradient = reference_answer(case.call)
        if case.published and not is_published(float(value), case.published):
            raise ValueError(f"{case.name}: the reference gives {value}, but {case.source} says {case.published}")
        vector = Vector(
            case.name,
            case.call,
            value,
            gradient,
            tuple(case.dtypes),
            case.core,
            case.about_positions,
            case.label_form,
            case.source,
        )
        label = f"{case.call.loss}: {case.name}"
        before = old.pop((case.call.loss, case.name), None)
        if before is None:
            new.append(label)
        elif not means_the_same(before, vector):
            changed.append(label)
        else:
            vector = replace(vector, value=before.value, gradient=before.gradient)
        vectors.append(vector)
    gone = [f"{loss}: {name}" for loss, name in old]
    changed += [f"{label} (no longer made)" for label in gone if label not in WITHDRAWN]
    return Comparison(tuple(vectors), tuple(new), tuple(changed))


def means_the_same(a: Vector, b: Vector) -> bool:
    """The same question with the same answer. What kind of case it is, and who worked it out, is not part of that."""

    def inputs(vector: Vector) -> dict[str, Any]:
        answerless = replace(
            vector, value=np.zeros(()), gradient=np.zeros(()), core=False, about_positions=False, source=""
        )
        return to_json(answerless)

    return inputs(a) == inputs(b) and agree(a.value, b.value) and agree(a.gradient, b.gradient)


def agree(a: Array, b: Array) -> bool:
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-12, atol=1e-12, equal_nan=True)


def texts(vectors: Sequence[Vector]) -> dict[str, str]:
    """The text of every vector file, by file name, and of the manifest that counts and signs them."""
    files_ = {}
    manifest: dict[str, Any] = {"spec_version": SPEC_VERSION, "generator": GENERATOR, "files": {}}
    for loss in LOSSES:
        of_loss = [to_json(vector) for vector in vectors if vector.call.loss == loss]
        lines = ",\n".join(json.dumps(data, allow_nan=False) for data in of_loss)
        header = f'"spec_version": {SPEC_VERSION}, "generator": "{GENERATOR}", "loss": "{loss}"'
        name = f"{loss.removesuffix('_loss')}.json"
        files_[name] = f'{{{header}, "vectors": [\n{lines}\n]}}\n'
        digest = hashlib.sha256(files_[name].encode()).hexdigest()
        manifest["files"][name] = {"loss": loss, "vectors": len(of_loss), "sha256": digest}
    files_["manifest.json"] = json.dumps(manifest, indent=1) + "\n"
    return files_


def is_published(value: float, published: str) -> bool:
    """Whether a value is the fraction, or rounds to the decimals, that somebody else printed."""
    if "." not in published:
        return abs(value - float(Fraction(published))) < 1e-12
    return f"{value:.{len(published.split('.')[1])}f}" == published


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
    if len(vectors) < AT_LEAST:
        raise VectorsMissingError(f"{len(vectors)} vectors are left of the {AT_LEAST} of the specification")
    return tuple(vectors)


def frozen_version() -> int:
    """The version of the specification that the frozen vectors are of."""
    version: int = json.loads((files("hemspec_conformance") / "vectors" / "manifest.json").read_text("utf-8"))[
        "spec_version"
    ]
    return version


def main() -> int:
    parser = argparse.ArgumentParser(
        prog=GENERATOR, description="Add vectors for new cases, answered by the reference."
    )
    parser.add_argument("--check", action="store_true", help="compare all with the files instead of writing")
    arguments = parser.parse_args()
    if arguments.check:
        found = compare_with_frozen(load())
        if found.changed or found.new:
            print("\n".join(["the reference gives other vectors now:", *found.changed, *found.new]), file=sys.stderr)
            return 1
        print(f"{len(found.vectors)} vectors checked")
        return 0
    # A new version of the specification starts afresh.
    found = compare_with_frozen(load() if frozen_version() == SPEC_VERSION else ())
    if found.changed:
        advice = "a vector is never edited: a changed meaning is a new SPEC_VERSION, a new case has a new name"
        print("\n".join([f"{advice}. Changed:", *found.changed]), file=sys.stderr)
        return 1
    for name, text in texts(found.vectors).items():
        (Path(__file__).parent / "vectors" / name).write_text(text, "utf-8")
    print(f"{len(found.vectors)} vectors, {len(found.new)} of them new")
    return 0


if __name__ == "__main__":
    sys.exit(main())
