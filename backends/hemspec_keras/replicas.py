"""One loss of a batch that a strategy of ``tf.distribute`` has divided among replicas.

Keras's optimizers add up the replicas' gradients, and its log averages the replicas' losses, times their number, by
their sizes. Both come out right when the loss of each replica is an equal share of the whole batch's, with the
gradient of what the replica itself put into it.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from hemspec.loss_function import loss_function
from hemspec_tensorflow.functional import dice_terms
from hemspec_tensorflow.positions import divide


def count_replicas() -> int:
    """How many replicas compute this loss together: 1 outside of ``strategy.run``, where a batch is whole."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else int(context.num_replicas_in_sync)


def sum_over_replicas(terms: Any) -> Any:
    """Each tensor summed over the replicas; so is its gradient."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, terms)


def equal_share(numerator: tf.Tensor, denominator: tf.Tensor | None) -> tf.Tensor:
    """The whole batch's loss divided by the number of replicas. None for a denominator of 1."""
    replicas = count_replicas()

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def share(numerator: tf.Tensor) -> Any:
        return sum_over_replicas(numerator) / replicas, lambda upstream: upstream

    if denominator is None:
        return share(numerator)
    return divide(share(numerator), sum_over_replicas(denominator))


@loss_function(divide)
def dice_loss(
    logits: Any, labels: Any, *, smooth: Any, batch: bool, reduction: str = "mean", **options: Any
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Dice of one image of which each replica holds a part: an equal share of it, and of its number."""
    terms = dice_terms(logits, labels, smooth, batch, reduction, over_parts=sum_over_replicas, **options)
    numerator, denominator = (None if term is None else term / count_replicas() for term in terms)
    return numerator, denominator
