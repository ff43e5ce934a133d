"""The class axis of logits: whole, or in equal shards over a mapped axis, as a class-parallel head leaves it.

What goes over the mapped axis has the size of the labels: a maximum, sums, counts, the true class's logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax


class ClassAxis(NamedTuple):
    """Where the classes are: an axis of the array at hand and, where it holds a shard of them, the mapped axis."""

    index: int  # counted from the front
    name: Any = None

    @property
    def shards(self) -> int:
        return 1 if self.name is None else int(lax.psum(1, self.name))  # type: ignore[no-untyped-call]

    def whole(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of all shards together."""
        return tuple(size * self.shards if i == self.index else size for i, size in enumerate(shape))

    def local(self, labels: Array, classes: int) -> Array:
        """Labels as indices into a shard of so many classes: outside of it where the true class is in another one."""
        return labels if self.name is None else labels - lax.axis_index(self.name).astype(labels.dtype) * classes

    def total(self, sums: Array) -> Array:
        """Sums over the classes here, added up over the shards."""
        return sums if self.name is None else lax.psum(sums, self.name)  # type: ignore[no-untyped-call]

    def largest(self, maxima: Array) -> Array:
        """Maxima over the classes here, and of the shards. A NaN, which not every platform passes on, is +inf then."""
        if self.name is None:
            return maxima
        found: Array = lax.pmax(jnp.where(jnp.isnan(maxima), jnp.inf, maxima), self.name)  # type: ignore[no-untyped-call]
        return found

    def at(self, array: Array, indices: Array) -> Array:
        """The entries at local indices, shaped as the indices: of the shard that has them."""
        if self.name is not None:
            classes = array.shape[self.index]
            here = (indices >= 0) & (indices < classes)
            indices = jnp.clip(indices, 0, classes - 1)
        found = jnp.take_along_axis(array, jnp.expand_dims(indices, self.index), self.index, mode="promise_in_bounds")
        found = jnp.squeeze(found, self.index)
        return found if self.name is None else self.total(jnp.where(here, found, jnp.zeros((), found.dtype)))

    def holds(self, array: Array, indices: Array) -> Array:
        """Local indices as a one-hot mask, in the shape of the array."""
        return lax.broadcasted_iota(indices.dtype, array.shape, self.index) == jnp.expand_dims(indices, self.index)
