"""The training examples run as they are, learn under both losses, and accumulate gradients as exactly as they say."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "examples/training"
MINUTES = 4
DIGITS, BYTES, SCENES = {"accuracy": 85.0}, {"accuracy": 30.0}, {"accuracy": 80.0, "mean IoU": 15.0}
"""What each line must say at least, in per cent. An untrained network has 10 % of the digits and 1 % of the bytes; one
that always says "space" has 21 % of the bytes, and one that always says "background" a mean IoU of 8 %."""
EXAMPLES = {  # the slow ones first
    "keras_segmentation": SCENES,
    "torch_huggingface": DIGITS,
    "keras_imbalanced": {"accuracy": 70.0},
    "torch_lightning": DIGITS,
    "keras_any_backend jax": DIGITS,
    "keras_any_backend torch": DIGITS,
    "torch_segmentation": SCENES,
    "jax_flax_nnx": DIGITS,
    "torch_language_model": BYTES,
    "torch_optimizers": DIGITS,
    "torch_timm_style": DIGITS,
    "torch_plain": DIGITS,
    "jax_equinox": DIGITS,
}


def test_every_example_is_here() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == {name.split()[0] for name in EXAMPLES}


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example(example: str, tmp_path: Path) -> None:
    name, *backend = example.split()
    environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    environment |= {"KERAS_BACKEND": backend[0]} if backend else {}
    command = [sys.executable, str(FOLDER / f"{name}.py")]
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60 * MINUTES, check=False
    )
    assert ran.returncode == 0, ran.stderr
    ours = re.findall(r"^\S*(?:hemspec|examples/training)\S*:\d+: \w*Warning.*", ran.stderr, re.MULTILINE)
    assert ours == [], ran.stderr
    assert list(tmp_path.iterdir()) == [], "it leaves files behind"
    lines = dict(re.findall(r"^(cross-entropy|HEM\+?): (.*)", ran.stdout, re.MULTILINE))
    print(example, lines)
    assert next(iter(lines)) == "cross-entropy", ran.stdout
    assert len(lines) > 1, ran.stdout
    for loss, line in lines.items():
        for measure, least in EXAMPLES[example].items():
            found = re.search(rf"{measure} (\d+\.\d) %", line)
            assert found, f"{loss}: {line}"
            assert float(found[1]) >= least, f"{loss}: {line}"
    if backend:
        assert f" on {backend[0]}\n" in ran.stdout


def load(name: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def partly_learned(model: Callable[[Any], Any], size: int) -> tuple[Any, Any]:
    """Random images and labels, of which ever more are what the model says already: batches of unequal activity."""
    torch = pytest.importorskip("torch")
    images = torch.randn(size, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    wrong = torch.linspace(0, 6, size).sin() > 0
    labels[wrong] = (labels[wrong] + 1) % 10
    return images, labels


def check_steps(step: Callable[..., Any], naive: Callable[..., Any], start: Any) -> None:
    """`step(batch_size, batches)` gives the same parameters for many batches as for one; averages do not."""
    whole = step(64, 1)
    size = (whole - start).abs().max()
    assert size > 0
    deviation = ((step(16, 4) - whole).abs().max() / size).item()
    print(f"deviation from the step of the whole batch, relative to the largest change: {deviation:.1e}")
    assert deviation < 1e-5
    assert (naive(16, 4) - whole).abs().max() / size > 1e-3


# 56 make a last batch of 8; 40 make three batches where four are asked for.
@pytest.mark.parametrize("size", [56, 40])
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.filterwarnings("default")
def test_accumulation_in_lightning_is_exact(size: int, clip: float | None) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("lightning")
    example = load("torch_lightning")

    class Naive(example.DigitsWithHEM):  # type: ignore[name-defined, misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            images, labels = batch
            return self.criterion(self.model(images), labels)

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            pass

    def make(kind: type) -> Any:
        torch.manual_seed(0)
        return kind(margin=0.0)

    data = torch.utils.data.TensorDataset(*partly_learned(make(Naive).model, size))

    def step(kind: type, batch_size: int, batches: int) -> Any:
        module = make(kind)
        trainer = example.make_trainer(max_epochs=1, accumulate_grad_batches=batches, gradient_clip_val=clip)
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=batch_size))
        assert trainer.global_step == 1
        return flat(module)

    check_steps(
        lambda *sizes: step(example.DigitsWithHEM, *sizes), lambda *sizes: step(Naive, *sizes), flat(make(Naive))
    )


@pytest.mark.parametrize("size", [56, 40])
@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.filterwarnings("default")
def test_accumulation_in_the_trainer_is_exact(size: int, clip: float, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    example = load("torch_huggingface")
    criterion = example.HEMLoss(margin=0.0)
    images, labels = partly_learned(lambda images: example.make_model()(pixel_values=images).logits, size)
    data = [{"pixel_values": image, "labels": int(label)} for image, label in zip(images, labels, strict=True)]

    def step(kind: type, batch_size: int, batches: int, **options: Any) -> Any:
        model = example.make_model()
        sizes = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": batches}
        arguments = example.make_arguments(
            str(tmp_path), max_steps=1, optim="sgd", learning_rate=0.1, max_grad_norm=clip, **sizes
        )
        trainer = kind(model=model, args=arguments, train_dataset=data, **options)
        trainer.remove_callback(example.PrinterCallback)
        trainer.train()
        return flat(model)

    def average(outputs: Any, labels: Any, num_items_in_batch: Any) -> Any:
        return criterion(outputs.logits, labels) * len(labels) / num_items_in_batch

    check_steps(
        lambda *sizes: step(example.HEMTrainer, *sizes, criterion=criterion),
        lambda *sizes: step(example.Trainer, *sizes, compute_loss_func=average),
        flat(example.make_model()),
    )


def flat(module: Any) -> Any:
    """All parameters, one after another."""
    import torch

    return torch.nn.utils.parameters_to_vector(module.parameters()).detach().clone()
