"""Flax NNX and optax: digits.

    pip install "hemspec[jax]" flax optax scikit-learn
    python examples/training/jax_flax_nnx.py

Cross-entropy first, then HEM: the change is one line, the loss function. Both start from the same weights and see the
same batches. SEED fixes all of it and was not chosen for its results.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from hemspec.jax import HEMLoss, margin_from_num_samples

SEED = 0
EPOCHS, BATCH_SIZE = 12, 64

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
x_train, x_test, y_train, y_test = train_test_split(images, labels, test_size=0.3, stratify=labels, random_state=SEED)
UPDATES = len(x_train) // BATCH_SIZE


class Network(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.second = nnx.Conv(16, 32, (3, 3), rngs=rngs)
        self.head = nnx.Linear(32 * 4 * 4, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.max_pool(nnx.relu(self.first(x)), (2, 2), (2, 2))
        x = nnx.relu(self.second(x))
        return self.head(x.reshape(len(x), -1))  # logits: no softmax, for either loss


def fit(name: str, criterion) -> None:
    model = Network(rngs=nnx.Rngs(SEED))
    schedule = optax.cosine_decay_schedule(0.05, EPOCHS * UPDATES)
    # Clipped, because averaged over the active samples HEM's gradient does not fade.
    sgd = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(schedule, momentum=0.9))
    optimizer = nnx.Optimizer(model, sgd, wrt=nnx.Param)

    @nnx.jit
    def train_step(model: Network, optimizer: nnx.Optimizer, x: jax.Array, y: jax.Array) -> jax.Array:
        loss, grads = nnx.value_and_grad(lambda model: criterion(model(x), y))(model)
        optimizer.update(model, grads)
        return loss

    random = np.random.default_rng(SEED)
    for _ in range(EPOCHS):
        for batch in random.permutation(len(x_train))[: UPDATES * BATCH_SIZE].reshape(UPDATES, BATCH_SIZE):
            train_step(model, optimizer, x_train[batch], y_train[batch])
    logits = model(x_test)
    print(f"{name}: accuracy {100 * jnp.mean(logits.argmax(axis=-1) == y_test):.1f} %")
    if isinstance(criterion, HEMLoss):
        figures = criterion.diagnostics(logits, y_test)
        print("    on the test set:", {key: round(float(value), 3) for key, value in figures.items()})


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


if __name__ == "__main__":
    fit("cross-entropy", cross_entropy)
    fit("HEM", HEMLoss(margin=margin_from_num_samples(len(x_train))))
