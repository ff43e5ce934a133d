"""In the style of timm: digits.

    pip install "hemspec[torch]" scikit-learn
    python examples/training/torch_timm_style.py

Cross-entropy first, then HEM, in a loop as timm's train.py has it: autocast in bfloat16, a cosine schedule with
warm-up, clipped gradients, augmentation (random shifts), and an exponential moving average of the weights, which is
evaluated. Mixup, CutMix and label smoothing stay off: HEM takes one class for each image. timm itself is not imported,
since it needs torchvision; in its train.py the line that changes is

    train_loss_fn = HEMLoss(margin=margin_from_num_samples(len(dataset_train)))

with `--smoothing 0 --mixup 0 --cutmix 0`. SEED was not chosen for its results.
"""

import math

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hemspec.torch import HEMLoss, margin_from_num_samples

SEED = 0
EPOCHS, WARMUP_EPOCHS, BATCH_SIZE = 15, 2, 64
LR, WEIGHT_DECAY, CLIP_GRAD, EMA_DECAY = 3e-3, 0.05, 5.0, 0.98

images, labels = load_digits(return_X_y=True)
images = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
labels = torch.tensor(labels)
train, test = train_test_split(torch.arange(len(labels)), test_size=0.3, stratify=labels, random_state=SEED)
UPDATES = len(train) // BATCH_SIZE


def make_model() -> nn.Module:
    torch.manual_seed(SEED)
    layers: list[nn.Module] = []
    for before, after in (1, 16), (16, 32):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.GELU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 4 * 4, 10))


def schedule(step: int) -> float:
    """Warm-up, then a cosine: the factor of the learning rate."""
    warmup, total = WARMUP_EPOCHS * UPDATES, EPOCHS * UPDATES
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def fit(name: str, train_loss_fn: nn.Module) -> None:
    model = make_model()
    model_ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY), use_buffers=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    random = torch.Generator().manual_seed(SEED)
    for _ in range(EPOCHS):
        model.train()
        order = train[torch.randperm(len(train), generator=random)]
        for batch in order[: UPDATES * BATCH_SIZE].split(BATCH_SIZE):  # drop_last
            shift = torch.randint(-1, 2, (2,), generator=random).tolist()
            x = images[batch].roll(shift, dims=(2, 3))
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = train_loss_fn(model(x), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP_GRAD)
            optimizer.step()
            scheduler.step()
            model_ema.update_parameters(model)
    model_ema.eval()
    with torch.inference_mode():
        accuracy = (model_ema(images[test]).argmax(dim=1) == labels[test]).float().mean()
    print(f"{name}: accuracy {100 * accuracy:.1f} %")


if __name__ == "__main__":
    fit("cross-entropy", nn.CrossEntropyLoss())
    fit("HEM", HEMLoss(margin=margin_from_num_samples(len(train))))
