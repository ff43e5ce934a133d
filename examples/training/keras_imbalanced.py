"""Keras fit: imbalanced digits, and HEM+ from their counts.

    pip install "hemspec[keras]" tensorflow scikit-learn
    python examples/training/keras_imbalanced.py

Cross-entropy first, then HEM and HEM+: the change is one line, the loss. The training set has 120 zeros and ever fewer
of each digit, down to 6 nines; the test set is balanced. HEM+ takes a margin for each class from these counts, larger
for rare ones. SEED fixes everything and was not chosen for its results.
"""

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from hemspec.keras import HEMLoss, margin_from_num_samples, margins_from_class_counts

SEED = 0
EPOCHS, BATCH_SIZE = 30, 32

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
x_train, x_test, y_train, y_test = train_test_split(images, labels, test_size=0.3, stratify=labels, random_state=SEED)
counts = np.geomspace(120, 6, num=10).round().astype(int)
tail = np.concatenate([np.flatnonzero(y_train == digit)[:count] for digit, count in enumerate(counts)])
x_train, y_train = x_train[tail], y_train[tail]


def make_model() -> keras.Model:
    keras.utils.set_random_seed(SEED)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),  # logits: no softmax, for either loss
        ]
    )


def fit(name: str, loss: keras.losses.Loss, diagnostics: list[keras.metrics.Metric] | None = None) -> None:
    model = make_model()
    schedule = keras.optimizers.schedules.CosineDecay(3e-3, EPOCHS * -(-len(x_train) // BATCH_SIZE))
    model.compile(
        optimizer=keras.optimizers.Adam(schedule), loss=loss, metrics=["accuracy"], weighted_metrics=diagnostics
    )
    log = model.fit(x_train, y_train, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0).history
    accuracy = model.evaluate(x_test, y_test, batch_size=540, verbose=0, return_dict=True)["accuracy"]
    print(f"{name}: accuracy {100 * accuracy:.1f} % on balanced data")
    if diagnostics:
        print("    first and last epoch:", {m.name: [round(log[m.name][e], 3) for e in (0, -1)] for m in diagnostics})


if __name__ == "__main__":
    fit("cross-entropy", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    fit("HEM", HEMLoss(margin=margin_from_num_samples(len(x_train))))
    hem_plus = HEMLoss(margin=margins_from_class_counts(counts))
    fit("HEM+", hem_plus, diagnostics=hem_plus.metrics())
