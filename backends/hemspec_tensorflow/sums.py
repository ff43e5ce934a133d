"""Sums of many numbers that come out right, whatever their length, layout and compiler.

TensorFlow adds up all axes but the last one number after the other, the last in 32 lanes, and XLA on a CPU everything
in one: in float32 that drifts by as many roundings as numbers follow each other, and from 2^24 on a 1 is lost. So long
sums go in short runs, then the sums of those in runs again. Plain operations: they can be differentiated at will.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

RUN = 16
"""How many follow each other in a sum that is cut in runs; twice that in one that is not."""
LANES = 32
"""How many sums TensorFlow makes at once along a last axis."""
LONGEST = 1 << 25
"""What a sum whose length a trace does not know is cut for."""


def compiled_by_xla() -> bool:
    """Whether what is being traced is for XLA, as far as tracing can know."""
    if tf.executing_eagerly():
        return False
    return bool(GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()) or tf.config.optimizer.get_jit())


def blocked_sum(x: tf.Tensor, first: int = 0, end: int | None = None) -> tf.Tensor:
    """The sum over the axes from `first` to before `end`, without them."""
    end = x.shape.rank if end is None else end
    sizes = x.shape.as_list()
    lanes = 1 if compiled_by_xla() or math.prod(size or 2 for size in sizes[end:]) > 1 else LANES
    if is_short(sizes[first:end], lanes):
        return tf.reduce_sum(x, list(range(first, end))) if first < end else x
    # What a trace knows the size of is added up first: it needs fewer runs.
    unknown = [axis for axis in range(first, end) if sizes[axis] is None]
    if unknown and unknown[-1] + 1 < end:
        return blocked_sum(blocked_sum(x, unknown[-1] + 1, end), first, unknown[-1] + 1)
    shape = shape_of(x)
    before, count, after = (product(part) for part in (shape[:first], shape[first:end], shape[end:]))
    sums = blocked_sum_of_middle(tf.reshape(x, [before, count, after]), lanes)
    return tf.reshape(sums, shape[:first] + shape[end:])


def is_short(sizes: list[int | None], lanes: int) -> bool:
    """Whether so many can be added up as they are."""
    return None not in sizes and math.prod(size or 0 for size in sizes) <= 2 * RUN * lanes


def blocked_sum_of_middle(x: tf.Tensor, lanes: int) -> tf.Tensor:
    """The sum over the second of three axes, in runs that lie side by side, so that whole vectors are added.

    Where TensorFlow sums in lanes a run is the last axis instead, and half as long for each lane.
    """
    most = LONGEST
    while not is_short([x.shape[1] if x.shape[1] is not None else most], lanes):
        run = RUN * lanes // 2 if lanes > 1 else even_run(x.shape[1])
        before, count, after = shape_of(x)
        if not isinstance(count, int) or count % run:
            x = tf.pad(x, [[0, 0], [0, -count % run], [0, 0]])
        runs = -(-count // run)
        if lanes > 1:
            sums = tf.reduce_sum(tf.reshape(x, [before, runs, run]), 2)
        else:
            sums = tf.reduce_sum(tf.reshape(x, [before, run, runs * after]), 1)
        if not tf.executing_eagerly():
            # Of no effect, since nothing is below the least number; but XLA would merge these sums with the next.
            sums = tf.where(sums < sums.dtype.min, tf.zeros_like(sums), sums)
        x = tf.reshape(sums, [before, runs, after])
        most = -(-most // run)
    return tf.reduce_sum(x, 1)


def even_run(count: int | None) -> int:
    """About `RUN`, so that no run is shorter than others if possible: filling it up takes a copy."""
    even = [] if count is None else [run for run in range(RUN // 2, 2 * RUN + 1) if count % run == 0]
    return min(even, key=lambda run: abs(run - RUN), default=RUN)


def shape_of(x: tf.Tensor) -> list[Any]:
    """The sizes: numbers, but tensors where a trace does not know them."""
    sizes = x.shape.as_list()
    if None not in sizes:
        return list(sizes)
    at_run_time = tf.unstack(tf.shape(x))
    return [there if size is None else size for size, there in zip(sizes, at_run_time, strict=True)]


def product(sizes: list[Any]) -> Any:
    return math.prod(sizes)
