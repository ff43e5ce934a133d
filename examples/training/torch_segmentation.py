"""Segmentation in PyTorch: digits on photographs.

    pip install "hemspec[torch,benchmark]"
    python examples/training/torch_segmentation.py

Cross-entropy first, then HEM and HEM+: the change is one line, the criterion. Scenes of real digits on patches of real
photographs, 11 classes with the background, which covers 85 % of the pixels; a border is not labelled (`ignore_index`).
Logits are (N, C, H, W) and masks (N, H, W), as for `nn.CrossEntropyLoss`. HEM+ has a margin for each class, larger for
rare ones. SEED was not chosen for its results, and a training this short is not finished under any loss.
"""

import torch
from torch import nn

from hemspec.torch import HEMLoss, margin_from_num_samples, margins_from_class_counts
from hemspec_benchmark.datasets import digits
from hemspec_benchmark.scenes import scenes

SEED = 0
EPOCHS = 8

data = scenes(digits(), SEED, train=256, test=64)
images, test_images = (torch.tensor(x).movedim(-1, 1) for x in (data.train_images, data.test_images))
masks, test_masks = (torch.tensor(y, dtype=torch.long) for y in (data.train_labels, data.test_labels))


def make_model() -> nn.Module:
    torch.manual_seed(SEED)
    layers: list[nn.Module] = []
    for before, after, dilation in (1, 16, 1), (16, 32, 2), (32, 32, 3):
        layers += [nn.Conv2d(before, after, 3, padding="same", dilation=dilation), nn.BatchNorm2d(after), nn.SiLU()]
    return nn.Sequential(*layers, nn.Conv2d(32, data.num_classes, 1))


def fit(name: str, criterion: nn.Module) -> None:
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    random = torch.Generator().manual_seed(SEED)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images), generator=random).split(16):
            optimizer.zero_grad()
            criterion(model(images[batch]), masks[batch]).backward()
            optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        predicted = model(test_images).argmax(dim=1)
    labelled = test_masks != -100
    confusion = torch.zeros(data.num_classes, data.num_classes)
    confusion.index_put_((test_masks[labelled], predicted[labelled]), torch.tensor(1.0), accumulate=True)
    correct = confusion.diagonal()
    iou = (correct / (confusion.sum(0) + confusion.sum(1) - correct)).mean()
    print(f"{name}: accuracy {100 * correct.sum() / confusion.sum():.1f} %, mean IoU {100 * iou:.1f} %")


if __name__ == "__main__":
    counts = data.class_counts
    fit("cross-entropy", nn.CrossEntropyLoss())
    fit("HEM", HEMLoss(margin=margin_from_num_samples(counts.sum())))
    fit("HEM+", HEMLoss(margin=margins_from_class_counts(counts)))
