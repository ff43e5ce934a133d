"""Batches that are larger than memory: a training step that takes its batch in parts, with the gradient of the whole.

An average of the parts' averages is another number than the average over the batch, and so are their gradients: that
is what ``gradient_accumulation_steps`` of Keras's optimizers computes, exact where all parts count equally. Numerators
and denominators add up. So each step here differentiates the numerators of the parts one after the other, adds up
gradients and denominators, and divides once.
"""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import keras
from keras import ops

from hemspec_keras.framework import FRAMEWORK
from hemspec_keras.losses import _Loss

__all__ = ["accumulate_gradients"]

ModelT = TypeVar("ModelT")


def accumulate_gradients(model: ModelT, steps: int) -> ModelT:
    """Let ``fit`` compute the gradient of each batch from `steps` micro-batches, exactly.

    What ``fit`` calls a batch is still what the loss is computed of and what the optimizer sees; only as much memory is
    needed as for a micro-batch, which has every `steps`-th sample. Layers that look at all of a batch (batch
    normalization) see a micro-batch. Works under replicas too.

    Args:
        model: a `keras.Model` with one output, compiled with a loss of ``hemspec.keras`` that has a reduction, without
            loss weights and without losses of its own (regularizers, ``add_loss``; an optimizer's weight decay is
            fine).
        steps: how many micro-batches make a batch, >= 1.

    Returns:
        The model, with another ``train_step`` until it is saved and loaded.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Example:
        >>> from hemspec.keras import HEMLoss
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
        >>> model.compile("sgd", loss=HEMLoss())
        >>> x, y = keras.ops.ones((8, 2)), keras.ops.zeros((8,), "int32")
        >>> log = accumulate_gradients(model, 4).fit(x, y, batch_size=8, verbose=0)  # 2 at a time
    """
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise TypeError(f"steps must be an integer; got {type(steps).__name__}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model; got {type(model).__name__}")
    loss = getattr(model, "loss", None)
    if not isinstance(loss, _Loss) or loss.reduction in ("none", None) or len(getattr(model, "outputs", "1")) > 1:
        raise ValueError(
            "model must have one output and be compiled with a loss of hemspec.keras that has a reduction; got"
            f" {loss!r}, reduction {getattr(loss, 'reduction', None)!r}"
        )
    if model.get_compile_config()["loss_weights"] is not None:
        raise ValueError("model must be compiled without loss_weights")
    if getattr(loss, "batch", False):
        raise ValueError("DiceLoss(batch=True) is the loss of all of a batch at once, no sum over its parts")
    step: Any = {"tensorflow": tensorflow_step, "jax": jax_step, "torch": torch_step}[keras.backend.backend()]
    model.train_step = functools.partial(step, model, loss, steps)
    model.train_function = None  # which may have been traced before
    return model


def terms_of(model: Any, loss: Any, scale: Any, y: Any, y_pred: Any, weight: Any, other_losses: Any) -> list[Any]:
    """What adds up: numerator and denominator, None for that of a sum.

    Both divided by `scale`, the samples of the batch: gradients of the size that averages have suit float16.
    """
    if model.loss is not loss:
        raise ValueError("the model has been compiled with another loss: call accumulate_gradients again")
    if other_losses:
        raise ValueError(f"model must have no losses of its own (regularizers, add_loss); got {len(other_losses)}")
    numerator, denominator = loss._terms(*loss._prepare(y, y_pred, weight))
    if denominator is None:
        return [numerator, None]
    scale = ops.cast(ops.maximum(scale, 1), numerator.dtype)
    return [numerator / scale, denominator / scale]


def part(data: Any, start: int, steps: int) -> tuple[Any, Any, Any]:
    """Every `steps`-th sample: no size has to be known."""
    given = keras.utils.unpack_x_y_sample_weight(data)
    x, y, weight = keras.tree.map_structure(lambda array: None if array is None else array[start::steps], given)
    return x, y, weight


def added(total: Any, new: Any) -> Any:
    """Two structures of tensors or None, added up; at the start there is no total."""
    if total is None:
        return new
    return keras.tree.map_structure(lambda a, b: b if a is None else a if b is None else a + b, total, new)


def divided(values: list[Any], denominator: Any) -> list[Any]:
    """By what all parts counted, 0 where that is nothing."""
    if denominator is None:
        return values
    divisor = ops.where(denominator == 0, ops.ones_like(denominator), denominator)
    return [None if value is None else value / ops.cast(divisor, value.dtype) for value in values]


def count_samples(data: Any) -> Any:
    return ops.shape(next(array for array in keras.tree.flatten(data) if array is not None))[0]


def logs(model: Any, samples: Any, loss: Any) -> Any:
    """Count the batch in the epoch's loss, by its size, as Keras does."""
    for metric in model.metrics:
        if metric.name == "loss":
            metric.update_state(loss, sample_weight=samples)
    return model.get_metrics_result()


def tensorflow_step(model: Any, loss: Any, steps: int, data: Any) -> Any:
    import tensorflow as tf

    weights, samples, together = model.trainable_weights, count_samples(data), FRAMEWORK.count_replicas() > 1
    scale = FRAMEWORK.replicas.sum_over_replicas(samples) if together else samples
    gradients: Any = None
    terms: Any = None
    for start in range(steps):
        # Nothing else would keep a graph from computing the parts at the same time.
        with tf.control_dependencies([g for g in gradients or [] if g is not None]):
            x, y, weight = part(data, start, steps)
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True)
            new = terms_of(model, loss, scale, y, y_pred, weight, model.losses)
            numerator = model.optimizer.scale_loss(new[0])
        slopes = [None if g is None else tf.convert_to_tensor(g) for g in tape.gradient(numerator, weights)]
        gradients, terms = added(gradients, slopes), added(terms, new)
        model.compute_metrics(x, y, y_pred, sample_weight=weight)
    if together:
        terms = [None if term is None else FRAMEWORK.replicas.sum_over_replicas(term) for term in terms]
    numerator, denominator = terms
    model.optimizer.apply_gradients(zip(divided(gradients, denominator), weights, strict=True))
    return logs(model, samples, *divided([numerator], denominator))


def jax_step(model: Any, loss: Any, steps: int, state: Any, data: Any) -> Any:
    import jax

    weights, others, optimizer_variables, metrics_variables = state
    samples = count_samples(data)
    scale = list(zip(model.optimizer.variables, optimizer_variables, strict=True))
    metrics = list(zip(model.metrics_variables, metrics_variables, strict=True))

    def numerator_of(weights: Any, others: Any, x: Any, y: Any, weight: Any) -> Any:
        y_pred, others, losses = model.stateless_call(weights, others, x, training=True, return_losses=True)
        terms = terms_of(model, loss, samples, y, y_pred, weight, losses)
        with keras.StatelessScope(scale):
            return model.optimizer.scale_loss(terms[0]), (terms, others, y_pred)

    gradients: Any = None
    terms: Any = None
    with keras.StatelessScope(metrics) as scope:
        for start in range(steps):
            x, y, weight = part(data, start, steps)
            # Nothing else would keep a compiler from computing the parts at the same time.
            one_after_the_other: Any = jax.lax.optimization_barrier
            x, y, weight, gradients = one_after_the_other((x, y, weight, gradients))
            slopes, (new, others, y_pred) = jax.grad(numerator_of, has_aux=True)(weights, others, x, y, weight)
            gradients, terms = added(gradients, slopes), added(terms, new)
            model.compute_metrics(x, y, y_pred, sample_weight=weight)
        numerator, denominator = terms
        results = logs(model, samples, *divided([numerator], denominator))
    weights, optimizer_variables = model.optimizer.stateless_apply(
        optimizer_variables, divided(gradients, denominator), weights
    )
    metrics_variables = [scope.get_current_value(variable) for variable, _ in metrics]
    return results, (weights, others, optimizer_variables, metrics_variables)


def torch_step(model: Any, loss: Any, steps: int, data: Any) -> Any:
    import torch

    samples = count_samples(data)
    terms: Any = None
    model.zero_grad()
    for start in range(steps):
        x, y, weight = part(data, start, steps)
        y_pred = model(x, training=True)
        numerator, denominator = terms_of(model, loss, samples, y, y_pred, weight, model.losses)
        model.optimizer.scale_loss(numerator).backward()
        terms = added(terms, [numerator.detach(), denominator])
        model.compute_metrics(x, y, y_pred, sample_weight=weight)
    numerator, denominator = terms
    weights = model.trainable_weights
    with torch.no_grad():
        model.optimizer.apply(divided([weight.value.grad for weight in weights], denominator), weights)
    return logs(model, samples, *divided([numerator], denominator))
