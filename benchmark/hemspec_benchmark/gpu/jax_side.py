"""Many seeds of the digits network in JAX, fifty trainings in one program."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hemspec_benchmark.gpu.plan import AT_ONCE, epochs
from hemspec_benchmark.network import Array
from hemspec_benchmark.settings import Cell, Protocol
from hemspec_benchmark.swap.matrix import CANDIDATES, Matrix, read_setting
from hemspec_benchmark.swap.measured import clean_and_far
from hemspec_benchmark.swap.training import Course, State, logits, rates, train
from hemspec_benchmark.tasks import Outcome

MATRIX = Matrix()


def run(cell: Cell, protocol: Protocol) -> Outcome:
    """Clean accuracy and far unknowns of one seed; the first that is asked for trains its whole block."""
    first = cell.seed - cell.seed % AT_ONCE
    courses, networks = trained(cell.setting, cell.loss, range(first, first + AT_ONCE), protocol)
    place = cell.seed - first
    course, variables = courses[place], jax.tree.map(lambda leaf: leaf[place], networks)
    return Outcome(clean_and_far(lambda images: np.asarray(logits(course.network, variables, images)), course.data))


@lru_cache(maxsize=1)
def trained(setting: str, loss: str, seeds: range, protocol: Protocol) -> tuple[list[Course], Any]:
    """Every seed's training, each on its own division of the data, and the networks at the end, stacked."""
    training, rate = read_setting(setting)
    courses = [Course.of(training, CANDIDATES[loss], seed, "test", MATRIX) for seed in seeds]
    orders = [course.order(protocol.classification.batch_size, epochs(protocol, training)) for course in courses]
    first = courses[0]

    def one(state: State, images: Array, labels: Array, order: Array) -> Any:
        scale = rates(training.schedule, rate, len(orders[0]), MATRIX)
        return train(first.network, first.adaptive, state, images, labels, order, scale, first.loss, first.step)

    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(course.begin() for course in courses))
    images, labels = (
        np.stack([getattr(course.data, name) for course in courses]) for name in ("train_images", "train_labels")
    )
    end, _ = jax.vmap(one)(states, images, labels, np.stack(orders))
    return courses, end.variables
