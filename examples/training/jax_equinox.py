"""Equinox and optax: digits.

    pip install "hemspec[jax]" equinox optax scikit-learn
    python examples/training/jax_equinox.py

Cross-entropy first, then HEM: the change is one line, the loss function. The model takes one image, the loss a batch:
`vmap` the model, not the loss, whose average is over the active samples of the whole batch. SEED fixes split, weights
and batches and was not chosen for its results.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from hemspec.jax import hem_loss, margin_from_num_samples

SEED = 0
EPOCHS, BATCH_SIZE = 15, 64

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
x_train, x_test, y_train, y_test = train_test_split(images, labels, test_size=0.3, stratify=labels, random_state=SEED)
UPDATES = len(x_train) // BATCH_SIZE


def fit(name: str, criterion) -> None:
    model = eqx.nn.MLP(64, 10, width_size=128, depth=1, key=jax.random.key(SEED))
    schedule = optax.cosine_decay_schedule(0.05, EPOCHS * UPDATES)
    # Clipped, because averaged over the active samples HEM's gradient does not fade.
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(schedule, momentum=0.9))
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state, x, y):
        loss, grads = eqx.filter_value_and_grad(lambda model: criterion(jax.vmap(model)(x), y))(model)
        updates, state = optimizer.update(grads, state)
        return eqx.apply_updates(model, updates), state, loss

    random = np.random.default_rng(SEED)
    for _ in range(EPOCHS):
        for batch in random.permutation(len(x_train))[: UPDATES * BATCH_SIZE].reshape(UPDATES, BATCH_SIZE):
            model, state, _ = step(model, state, x_train[batch], y_train[batch])
    accuracy = jnp.mean(jax.vmap(model)(x_test).argmax(axis=-1) == y_test)
    print(f"{name}: accuracy {100 * accuracy:.1f} %")


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


if __name__ == "__main__":
    fit("cross-entropy", cross_entropy)
    fit("HEM", partial(hem_loss, margin=margin_from_num_samples(len(x_train))))
