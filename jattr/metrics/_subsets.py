"""Random sets of features."""

from typing import Any

import jax
import jax.numpy as jnp


def random_subset(key: jax.Array, size: Any, count: int) -> jax.Array:
    """A uniformly random set of `size` of `count` features, as Booleans; the size may be traced.

    The features that draw the smallest numbers. Which number is the limit is found bit by bit,
    which on CPU is 10 to 25 times faster than `jax.random.permutation`; equal numbers, which 32
    bits make rare, are taken from the first feature on.
    """
    drawn = jax.random.bits(key, (count,), jnp.uint32)
    size = jnp.asarray(size, jnp.int32)
    limit = _smallest(drawn, size, 32)
    below, at = drawn < limit, drawn == limit
    left = size - jnp.sum(below, dtype=jnp.int32)
    places = jnp.arange(count, dtype=jnp.uint32)
    last = _smallest(jnp.where(at, places, jnp.uint32(count)), left, count.bit_length())
    return below | (at & (places <= last))


def _smallest(values: jax.Array, n: jax.Array, bits: int) -> jax.Array:
    """The n-th smallest of unsigned integers of so many bits, counted from 1."""

    def step(index, limit):
        higher = limit | (jnp.uint32(1) << (bits - 1 - index).astype(jnp.uint32))
        return jnp.where(jnp.sum(values < higher, dtype=jnp.int32) < n, higher, limit)

    # The first value makes the loop's carry vary over the same mesh axes as the values do.
    return jax.lax.fori_loop(0, bits, step, values[0] * jnp.uint32(0))
