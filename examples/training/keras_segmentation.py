"""Segmentation in Keras: digits on photographs.

    pip install "hemspec[keras,benchmark]" tensorflow
    python examples/training/keras_segmentation.py

Cross-entropy first, then HEM+: the change is one line, the loss. Scenes of real digits on patches of real photographs,
11 classes with the background, which covers 85 % of the pixels; a border is not labelled (`ignore_class`). HEM+ has a
margin for each class, larger for rare ones. SEED was not chosen for its results, and a training this short is not
finished under any loss.
"""

import keras
import numpy as np

from hemspec.keras import HEMLoss, margins_from_class_counts
from hemspec_benchmark.datasets import digits
from hemspec_benchmark.scenes import scenes

SEED = 0
EPOCHS, BATCH_SIZE, IGNORED = 8, 16, -100

data = scenes(digits(), SEED, train=256, test=64)


def make_model() -> keras.Model:
    keras.utils.set_random_seed(SEED)
    layers = keras.layers
    blocks = []
    for channels, dilation in (16, 1), (24, 2), (24, 3):
        blocks += [
            layers.Conv2D(channels, 3, padding="same", dilation_rate=dilation),
            layers.BatchNormalization(momentum=0.9),
            layers.Activation("silu"),
        ]
    return keras.Sequential([keras.Input(data.train_images.shape[1:]), *blocks, layers.Conv2D(data.num_classes, 1)])


def fit(name: str, loss: keras.losses.Loss) -> None:
    model = make_model()
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, EPOCHS * len(data.train_images) // BATCH_SIZE)
    model.compile(optimizer=keras.optimizers.Adam(schedule), loss=loss)
    model.fit(data.train_images, data.train_labels, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0)
    predicted = model.predict(data.test_images, batch_size=64, verbose=0).argmax(axis=-1)
    labelled = data.test_labels != IGNORED
    confusion = np.zeros((data.num_classes, data.num_classes))
    np.add.at(confusion, (data.test_labels[labelled], predicted[labelled]), 1)
    correct = confusion.diagonal()
    iou = (correct / (confusion.sum(axis=0) + confusion.sum(axis=1) - correct)).mean()
    print(f"{name}: accuracy {100 * correct.sum() / confusion.sum():.1f} %, mean IoU {100 * iou:.1f} %")


if __name__ == "__main__":
    fit("cross-entropy", keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=IGNORED))
    fit("HEM+", HEMLoss(margin=margins_from_class_counts(data.class_counts), ignore_class=IGNORED))
