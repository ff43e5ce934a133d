"""Keras on JAX, PyTorch or TensorFlow: digits.

    pip install "hemspec[keras]" jax torch scikit-learn
    KERAS_BACKEND=jax python examples/training/keras_any_backend.py
    KERAS_BACKEND=torch python examples/training/keras_any_backend.py

Cross-entropy first, then HEM, and the same script on each: `HEMLoss` runs the code of the framework that Keras runs on.
SEED fixes everything and was not chosen for its results.
"""

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from hemspec.keras import HEMLoss, margin_from_num_samples

SEED = 0
EPOCHS, BATCH_SIZE = 15, 64

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype("float32")
x_train, x_test, y_train, y_test = train_test_split(images, labels, test_size=0.3, stratify=labels, random_state=SEED)


def fit(name: str, loss: keras.losses.Loss) -> None:
    keras.utils.set_random_seed(SEED)
    model = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(128, activation="relu"), keras.layers.Dense(10)]  # logits
    )
    schedule = keras.optimizers.schedules.CosineDecay(0.05, EPOCHS * -(-len(x_train) // BATCH_SIZE))
    sgd = keras.optimizers.SGD(schedule, momentum=0.9, global_clipnorm=1.0)  # clipped: HEM's gradient does not fade
    model.compile(optimizer=sgd, loss=loss, metrics=["accuracy"])
    model.fit(x_train, y_train, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0)
    accuracy = model.evaluate(x_test, y_test, batch_size=540, verbose=0, return_dict=True)["accuracy"]
    print(f"{name}: accuracy {100 * accuracy:.1f} %")


if __name__ == "__main__":
    print(f"Keras {keras.__version__} on {keras.backend.backend()}")
    fit("cross-entropy", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    fit("HEM", HEMLoss(margin=margin_from_num_samples(len(x_train))))
