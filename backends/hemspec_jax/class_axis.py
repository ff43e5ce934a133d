"""The class axis of logits: whole, or in equal shards over a mapped axis, as a class-parallel head leaves it.

What goes over the mapped axis has the size of the labels: a maximum, sums, counts, the true class's logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def known_sharding(array: Array) -> Any:
    """How an array is sharded, if its type says so (of a mesh with `Explicit` axes); else None."""
    sharding: Any = getattr(jax.typeof(array), "sharding", None)
    return None if sharding is None or all(part is None for part in sharding.spec) else sharding


def look_up(vector: Array, labels: Array) -> Array:
    """The entries of a vector over all classes at the labels, sharded as the labels are."""
    sharding = known_sharding(labels)
    if sharding is None:
        return jnp.take(vector, labels, mode="clip")
    found: Array = vector.at[labels].get(mode="clip", out_sharding=sharding)
    return found


@jax.jit
def factor_nan(bad: Array, like: Array) -> Array:
    """NaN where bad, else 1, in the dtype of `like`. Computed: tools that hunt a NaN stop at a constant too."""
    # inf - inf. No square root or quotient: XLA would write the factor down rather than make it where it is used.
    largest = jnp.where(bad, float(np.finfo(like.dtype).max), jnp.zeros((), like.dtype))
    infinite = largest + largest
    factor: Array = 1.0 + (infinite - infinite)
    return factor


class ClassAxis(NamedTuple):
    """Where the classes are: an axis of the array at hand and, where it holds a shard of them, the mapped axis."""

    dim: int  # counted from the front
    name: Any = None

    @property
    def shards(self) -> int:
        return 1 if self.name is None else int(lax.psum(1, self.name))  # type: ignore[no-untyped-call]

    def whole(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of all shards together."""
        return tuple(size * self.shards if i == self.dim else size for i, size in enumerate(shape))

    def is_split(self, array: Array) -> bool:
        """Whether the array's type says that it is sharded over the classes: JAX then refuses to look them up."""
        sharding = known_sharding(array)
        return sharding is not None and sharding.spec[self.dim] is not None

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
        is_nan = jnp.isnan(maxima)
        infinite = -jnp.log(jnp.where(is_nan, 0.0, jnp.ones((), maxima.dtype)))  # where NaN, else 0
        found: Array = lax.pmax(jnp.where(is_nan, 0.0, maxima) + infinite, self.name)  # type: ignore[no-untyped-call]
        return found

    def at(self, array: Array, indices: Array) -> Array:
        """The entries at local indices, shaped as the indices: of the shard that has them."""
        if self.is_split(array):
            return jnp.sum(jnp.where(self.holds(array, indices), array, jnp.zeros((), array.dtype)), self.dim)
        if self.name is not None:
            classes = array.shape[self.dim]
            here = (indices >= 0) & (indices < classes)
            indices = jnp.clip(indices, 0, classes - 1)
        found = jnp.take_along_axis(array, jnp.expand_dims(indices, self.dim), self.dim, mode="promise_in_bounds")
        found = jnp.squeeze(found, self.dim)
        return found if self.name is None else self.total(jnp.where(here, found, jnp.zeros((), found.dtype)))

    def holds(self, array: Array, indices: Array) -> Array:
        """Local indices as a one-hot mask, in the shape of the array."""
        return lax.broadcasted_iota(indices.dtype, array.shape, self.dim) == jnp.expand_dims(indices, self.dim)
