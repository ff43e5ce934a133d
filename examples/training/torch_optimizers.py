"""Is the swap safe with your optimizer? Plain PyTorch: digits.

    pip install "hemspec[torch]" scikit-learn
    python examples/training/torch_optimizers.py

Averaged over the samples that still have an error, HEM's gradient keeps its size when few of them are left. Adam
divides by that size; SGD does not, and needs a rate that falls and a norm that is clipped, or a plain mean. Everything
else is the same: the network, its initial weights, the batches and the rates, which suit cross-entropy. The accuracies
are means over three seeds, which were not chosen: enough to see a training break, too few to compare losses by a point.
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hemspec.torch import HEMLoss

SEEDS = (0, 1, 2)
EPOCHS = 15
LOSSES = {"CE": nn.CrossEntropyLoss(), "HEM": HEMLoss(), "HEM, mean": HEMLoss(reduction="mean")}
TRAININGS = {  # the optimizer, its rate, whether that falls to 0 by a cosine, the norm that gradients are clipped at
    "SGD, constant rate": ("SGD", 0.1, False, None),
    "SGD, cosine": ("SGD", 0.1, True, None),
    "SGD, cosine, clipped": ("SGD", 0.1, True, 1.0),
    "Adam, constant rate": ("Adam", 2e-3, False, None),
    "Adam, cosine": ("Adam", 2e-3, True, None),
}

images, labels = load_digits(return_X_y=True)
images = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
labels = torch.tensor(labels)


def accuracy(criterion: nn.Module, name: str, rate: float, falls: bool, clip: float | None, seed: int) -> float:
    """Of one training, on the test images, in per cent."""
    train, test = train_test_split(range(len(labels)), test_size=0.3, stratify=labels, random_state=seed)
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )
    batches = DataLoader(TensorDataset(images[train], labels[train]), batch_size=64, shuffle=True)
    options = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=rate, **options)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(batches))
    for _ in range(EPOCHS):
        for x, y in batches:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            if falls:
                schedule.step()
    with torch.no_grad():
        return 100 * (model(images[test]).argmax(dim=1) == labels[test]).double().mean().item()


if __name__ == "__main__":
    print(f"{'accuracy in %':24}" + "".join(f"{loss:>12}" for loss in LOSSES))
    for training, recipe in TRAININGS.items():
        means = [sum(accuracy(loss, *recipe, seed) for seed in SEEDS) / len(SEEDS) for loss in LOSSES.values()]
        print(f"{training:24}" + "".join(f"{mean:12.1f}" for mean in means))
    print("With the last of them:")
    print(f"cross-entropy: accuracy {means[0]:.1f} %")
    print(f"HEM: accuracy {means[1]:.1f} %")
