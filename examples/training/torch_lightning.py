"""Lightning: digits, with gradients accumulated exactly.

    pip install "hemspec[torch]" lightning scikit-learn
    python examples/training/torch_lightning.py

Cross-entropy first, then HEM. Without accumulation one line changes: `return self.criterion(self.model(images),
labels)`. Over `accumulate_grad_batches` batches the averages of an active mean do not add up, since each batch divides
by a number of its own; numerators and denominators do. So `training_step` returns the numerator, and before the
optimizer's step, and before gradients are clipped, the gradient is divided once by the denominators' sum. It is for one
device.

The diagnostics go where Lightning's metrics go; those of the test set are printed. SEED was not chosen for its results.
"""

import lightning as L
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hemspec.torch import HEMLoss, margin_from_num_samples

SEED = 0


class Digits(L.LightningModule):
    """The module as it was, with cross-entropy."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return F.cross_entropy(self.model(images), labels)

    def test_step(self, batch, batch_idx):
        images, labels = batch
        self.log("accuracy", (self.model(images).argmax(dim=1) == labels).float().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class DigitsWithHEM(Digits):
    """The same with HEM."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.criterion = HEMLoss(margin=margin)
        self.denominators = 0.0

    def training_step(self, batch, batch_idx):
        images, labels = batch
        logits = self.model(images)
        numerator, denominator = self.criterion.terms(logits, labels)
        self.denominators += denominator
        self.log_dict(self.criterion.diagnostics(logits, labels))
        return numerator

    def test_step(self, batch, batch_idx):
        super().test_step(batch, batch_idx)
        images, labels = batch
        self.log_dict(self.criterion.diagnostics(self.model(images), labels))

    def on_before_optimizer_step(self, optimizer):
        # Lightning has divided each numerator by the number of batches; the denominator is a number of samples.
        scale = self.trainer.accumulate_grad_batches / self.denominators.clamp(min=1)
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad *= scale
        self.denominators = 0.0


def make_trainer(**options) -> L.Trainer:
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(accelerator="cpu", devices=1, enable_checkpointing=False, **silent, **options)


def fit(name, make_module, train_set, test_set) -> None:
    L.seed_everything(SEED, verbose=False)
    module = make_module()
    order = torch.Generator().manual_seed(SEED)
    trainer = make_trainer(max_epochs=12, accumulate_grad_batches=4, gradient_clip_val=1.0)
    trainer.fit(module, DataLoader(train_set, batch_size=16, shuffle=True, generator=order))
    (figures,) = trainer.test(module, DataLoader(test_set, batch_size=len(test_set)), verbose=False)
    print(f"{name}: accuracy {100 * figures.pop('accuracy'):.1f} %")
    for diagnostic, value in figures.items():
        print(f"    {diagnostic} {value:.3f}")


def main() -> None:
    images, labels = load_digits(return_X_y=True)
    everything = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    indices = train_test_split(range(len(labels)), test_size=0.3, stratify=labels, random_state=SEED)
    train_set, test_set = (torch.utils.data.Subset(everything, chosen) for chosen in indices)
    fit("cross-entropy", Digits, train_set, test_set)
    fit("HEM", lambda: DigitsWithHEM(margin_from_num_samples(len(train_set))), train_set, test_set)


if __name__ == "__main__":
    main()
