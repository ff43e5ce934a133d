"""A training that is followed epoch by epoch, in JAX: see `hemspec_benchmark.swap.selection`."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hemspec_benchmark.settings import Cell
from hemspec_benchmark.swap.data import divided
from hemspec_benchmark.swap.selection import FOLLOWED, Selection, best, candidate, read
from hemspec_benchmark.swap.training import Course, Loss, objective, predict, rates
from hemspec_benchmark.tasks import Outcome


@partial(jax.jit, static_argnames="network")
def monitors(network: Any, variables: Any, images: Array, labels: Array, loss: Loss) -> tuple[Array, Array, Array]:
    """The loss as it is trained with, the same with a plain mean, the accuracy."""
    logits = network.apply(variables, images, False)
    mean = loss._replace(share=jnp.float32(1.0))
    return objective(logits, labels, loss), objective(logits, labels, mean), jnp.mean(logits.argmax(-1) == labels)


def run(cell: Cell, protocol: Selection) -> Outcome:
    """Train, and measure after each epoch; the curves are in the details."""
    training, rate, how = read(cell.setting)
    course = Course.of(training, candidate(cell.loss), cell.seed, "validation", protocol.matrix)
    tested = divided(training.data, cell.seed, "test", protocol.matrix)
    batch_size, _ = protocol.matrix.length(training.data)
    order = course.order(batch_size, protocol.epochs).reshape(protocol.epochs, -1, batch_size)
    schedule = training.schedule if how == FOLLOWED else "constant"
    scale = rates(schedule, rate, order[..., 0].size, protocol.matrix).reshape(protocol.epochs, -1)

    state, finite, waited_since, factor = course.begin(), True, 0, np.float32(1.0)
    curves: dict[str, list[float]] = {"loss": [], "mean": [], "accuracy": [], "test": []}
    for epoch in range(protocol.epochs):
        state, unbroken = course.advance(state, order[epoch], factor * scale[epoch])
        finite &= unbroken
        reached = monitors(
            course.network, state.variables, course.data.test_images, course.data.test_labels, course.loss
        )
        right = np.asarray(predict(course.network, state.variables, tested.test_images)) == tested.test_labels
        for name, value in zip(curves, (*reached, right.mean()), strict=True):
            curves[name].append(float(value))
        if how != FOLLOWED:
            monitor = how.removeprefix("plateau-")
            waited_since = max(waited_since, best(curves[monitor], monitor))
            if epoch - waited_since >= protocol.patience:
                factor, waited_since = factor * np.float32(protocol.factor), epoch
    return Outcome({"score": curves["test"][-1], "finite": float(finite)}, curves)
