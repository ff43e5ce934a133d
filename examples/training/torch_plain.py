"""Plain PyTorch: digits.

    pip install "hemspec[torch]" scikit-learn
    python examples/training/torch_plain.py

Cross-entropy first, then HEM: the change is one line, the criterion. Both start from the same weights and see the same
batches. SEED fixes the split, the weights and the batches and was not chosen for its results: one run of one seed says
nothing about the losses. The learning rate is one that suits cross-entropy; it decays, and gradients are clipped:
averaged over the samples that are still active, HEM's gradient does not fade by itself, and SGD needs that.
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hemspec.torch import HEMLoss, margin_from_num_samples

SEED = 0
EPOCHS = 15

images, labels = load_digits(return_X_y=True)
images = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
labels = torch.tensor(labels)
train, test = train_test_split(range(len(labels)), test_size=0.3, stratify=labels, random_state=SEED)


def make_model() -> nn.Module:
    torch.manual_seed(SEED)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),  # logits: no softmax, for either loss
    )


def fit(name: str, criterion: nn.Module) -> None:
    model = make_model()
    order = torch.Generator().manual_seed(SEED)
    batches = DataLoader(TensorDataset(images[train], labels[train]), batch_size=64, shuffle=True, generator=order)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(batches))
    for _ in range(EPOCHS):
        for x, y in batches:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        accuracy = (model(images[test]).argmax(dim=1) == labels[test]).float().mean()
    print(f"{name}: accuracy {100 * accuracy:.1f} %")


if __name__ == "__main__":
    fit("cross-entropy", nn.CrossEntropyLoss())
    fit("HEM", HEMLoss(margin=margin_from_num_samples(len(train))))
