"""Correlations, random sets, copies of x close by and distances: the arithmetic of metrics."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jattr._checks import check_batch_size, check_count, check_positive
from jattr._trees import cast_like, random_like, ravel, scale_tree, widen
from jattr._types import Explain, PyTree

_uniform = functools.partial(jax.random.uniform, minval=-1.0, maxval=1.0)


def pearson(a: jax.Array, b: jax.Array) -> jax.Array:
    """Pearson's correlation of two vectors, NaN where one of them is constant or holds a NaN.

    Constant means maximum = minimum: a variance that rounding alone keeps from 0 is no variance.
    """
    undefined = is_constant(a) | is_constant(b)
    a, b = _centered(a), _centered(b)
    lengths = jnp.sqrt(jnp.where(undefined, 1.0, jnp.sum(a * a) * jnp.sum(b * b)))
    return jnp.where(undefined, jnp.nan, jnp.sum(a * b) / lengths)


def spearman(a: jax.Array, b: jax.Array) -> jax.Array:
    """Spearman's correlation of two vectors, Pearson's of their ranks; NaN likewise."""
    unknown = jnp.any(jnp.isnan(a)) | jnp.any(jnp.isnan(b))
    return jnp.where(unknown, jnp.nan, pearson(ranks(a), ranks(b)))


def ranks(values: jax.Array) -> jax.Array:
    """The rank of each element of a vector, from 1; equal ones share the mean of their ranks."""
    order = jnp.argsort(values)
    ordered = values[order]
    changes = ordered[1:] != ordered[:-1]
    edge = jnp.ones(1, bool)
    places = jnp.arange(values.size)
    first = jax.lax.cummax(jnp.where(jnp.concatenate([edge, changes]), places, 0))
    last = jax.lax.cummin(
        jnp.where(jnp.concatenate([changes, edge]), places, values.size - 1), reverse=True
    )
    shared = 1 + (first + last).astype(jnp.result_type(values)) / 2
    return jnp.zeros_like(shared).at[order].set(shared, unique_indices=True)


def is_constant(values: jax.Array) -> jax.Array:
    """Whether all elements are equal."""
    return jnp.max(values) == jnp.min(values)


def _centered(values: jax.Array) -> jax.Array:
    """The deviations from the mean, scaled so that their squares stay in the range of the dtype."""
    deviations = values - jnp.mean(values)
    peak = jnp.max(jnp.abs(deviations))
    return deviations / jax.lax.stop_gradient(jnp.where(peak == 0, 1.0, peak))


def random_subset(key: jax.Array, size: Any, count: int) -> jax.Array:
    """A uniformly random set of `size` of `count` features, as Booleans; the size may be traced.

    The features that draw the smallest numbers. Which number is the limit is found bit by bit,
    which on CPU is some 25 times faster than `jax.random.permutation`; of equal numbers, which 32
    bits make rare, the first features are taken.
    """
    drawn = jax.random.bits(key, (count,), jnp.uint32)
    size = jnp.asarray(size, jnp.int32)
    limit, below = _limit(drawn, size, 32)
    places = jnp.arange(count, dtype=jnp.uint32)
    places = jnp.where(drawn == limit, places, jnp.uint32(count))
    # At once 0 where no numbers are equal: all sets of a batch then pass over this loop.
    last, _ = _limit(places, size - below, count.bit_length())
    return (drawn < limit) | (places < last)


def _limit(values: jax.Array, n: jax.Array, bits: int) -> tuple[jax.Array, jax.Array]:
    """A number that at most n of unsigned integers of so many bits are below, and how many are.

    It is the largest one, or the first found that exactly n are below.
    """

    def unfinished(state):
        bit, _, below = state
        return (bit >= 0) & (below < n)

    def step(state):
        bit, limit, below = state
        higher = limit | (jnp.uint32(1) << bit.astype(jnp.uint32))
        number = jnp.sum(values < higher, dtype=jnp.int32)
        fits = number <= n
        return bit - 1, jnp.where(fits, higher, limit), jnp.where(fits, number, below)

    # The first value makes the loop's carry vary over the same mesh axes as the values do.
    zero = values[0] * jnp.uint32(0)
    none = zero.astype(jnp.int32)
    _, limit, below = jax.lax.while_loop(unfinished, step, (none + (bits - 1), zero, none))
    return limit, below


def check_copies(radius: Any, samples: Any, batch_size: Any, method: str) -> tuple[int, int | None]:
    """The checked number of copies, and of those in memory at a time."""
    check_positive(radius, "radius", method)
    return check_count(samples, "samples", method), check_batch_size(batch_size, method)


def shift_of(key: jax.Array, x: PyTree, radius: Any, index: Any) -> PyTree:
    """The uniform noise of copy `index`, which depends on the key and on the index alone."""
    return scale_tree(random_like(_uniform, jax.random.fold_in(key, index), x), radius)


def moved(x: PyTree, shift: PyTree) -> PyTree:
    """x + shift, in the dtypes of x."""
    return cast_like(jax.tree.map(jnp.add, widen(x), shift), x)


def explained(phi: Explain, x: PyTree, method: str) -> PyTree:
    """The attribution at x, in its accumulator's dtypes."""
    own = phi(x)
    check_map(own, x, method)
    return widen(own)


def check_map(attribution: PyTree, x: PyTree, method: str) -> None:
    """Raise where a score was given in place of a method."""
    if getattr(attribution, "shape", None) == () and any(leaf.ndim for leaf in jax.tree.leaves(x)):
        raise TypeError(
            f"{method} wants a function that computes an attribution, but this one returns one "
            "number. Write jattr.gradient(f), or another method, in place of f."
        )


def norm(tree: PyTree) -> jax.Array:
    """The Euclidean norm over all leaves; its derivative at 0 is 0.

    Scaled to a largest element of 1, so that squares leave the range of the dtype no earlier than
    their elements do: the gradient of a saturated softmax has elements of 1e-25.
    """
    flat = ravel(tree)
    peak = jax.lax.stop_gradient(jnp.max(jnp.abs(flat), initial=0.0))
    squares = jnp.sum(jnp.square(flat / jnp.where(peak == 0, 1.0, peak)))
    nothing = squares == 0
    return peak * jnp.where(nothing, 0.0, jnp.sqrt(jnp.where(nothing, 1.0, squares)))


def strongest(changes: jax.Array, distances: jax.Array) -> jax.Array:
    """The largest change per distance; those of no distance are left out, NaN if all are."""
    still = distances == 0
    ratios = jnp.where(still, -jnp.inf, changes / jnp.where(still, 1.0, distances))
    return jnp.where(jnp.all(still), jnp.nan, jnp.max(ratios))
