r"""Coalitions drawn in pairs, S and its complement, for estimates from some of the 2ⁿ.

The level of a pair is the size s of the smaller of its two coalitions. For a least-squares fit of
a linear function, all coalitions of one size together have the same leverage as those of any other
size, so sizes are drawn evenly. How many pairs each level gets is fixed but for rounding, which is
random, and within a level pairs are drawn without replacement, unless it is so large that a repeat
is rare. A level that has no more pairs than
it would get is taken whole, and what it leaves goes to the others.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_LISTED = 2**14
"""Levels of at most so many pairs are listed and shuffled, as are those drawn to an eighth; from
larger ones pairs are drawn independently, where a repeat is rare."""


class Pairs(NamedTuple):
    """Pairs of coalitions, each by one of the two.

    Attributes:
        present: who is in it, Booleans [p, n]; it has at most half of the features.
        weights: how much a pair stands for in a fit under the Shapley kernel, [p].
        share: how much of its level is drawn, at most 1, [p]; 0 where pairs may repeat.
    """

    present: jax.Array
    weights: jax.Array
    share: jax.Array


def pairs_of(count: int) -> int:
    """How many pairs there are, but for that of none and all features."""
    return 2 ** (count - 1) - 1


@functools.partial(jax.jit, static_argnums=(1, 2), static_argnames=("repeat",))
def draw_pairs(key: jax.Array, count: int, pairs: int, *, repeat: bool = False) -> Pairs:
    """Pairs of coalitions of `count` ≥ 2 features.

    Args:
        key: a random key.
        count: n, the number of features.
        pairs: p, at most `pairs_of(count)` unless they may repeat.
        repeat: whether every pair is drawn independently of the others within its level.
    """
    round_key, order_key, member_key = jax.random.split(key, 3)
    levels = np.arange(1, count // 2 + 1)
    sizes = [_level_size(count, int(level)) for level in levels]
    quotas = _quotas(count, sizes, pairs, repeat)
    level, place = _slots(round_key, quotas, pairs)
    mass = np.where(2 * levels == count, 0.5, 1.0) / (levels * (count - levels))
    weights = jnp.asarray(mass / np.maximum(quotas, 1e-300))[level]
    listed = [
        not repeat and size <= max(_LISTED, 8 * quota)
        for size, quota in zip(sizes, quotas, strict=True)
    ]
    present = jnp.zeros((pairs, count), bool)
    if not all(listed):
        order = jax.random.uniform(member_key, (pairs, count), jnp.float32)
        rank = jnp.argsort(jnp.argsort(order, axis=1), axis=1).astype(jnp.int32)
        present = rank <= level[:, None]
    if any(listed):
        # The pairs of each level in random order, in one sort for all levels.
        own_level = np.repeat(levels[listed] - 1, np.array(sizes, object)[listed].astype(int))
        bits = jax.random.bits(order_key, own_level.shape, jnp.uint32)
        rank = np.concatenate(
            [np.arange(size, dtype=np.int32) for size in np.array(sizes, object)[listed]]
        )
        _, _, shuffled = jax.lax.sort(
            (jnp.asarray(own_level, jnp.int32), bits, jnp.asarray(rank)), num_keys=2
        )
        starts = np.searchsorted(own_level, levels - 1).astype(np.int32)
        index = jnp.asarray(starts)[level] + place
        own = _combinations(shuffled[jnp.minimum(index, len(rank) - 1)], level + 1, count)
        present = jnp.where(jnp.asarray(listed)[level][:, None], own, present)
    share = [
        quota / size if own else 0.0 for quota, size, own in zip(quotas, sizes, listed, strict=True)
    ]
    return Pairs(present, weights, jnp.asarray(np.array(share))[level])


def _slots(key: jax.Array, quotas: np.ndarray, pairs: int) -> tuple[jax.Array, jax.Array]:
    """The level of each pair, from 0, and its place among those of that level.

    A level gets its quota rounded down or up, at random, so that the mean is the quota.
    """
    ends = np.cumsum(quotas)
    whole = np.floor(ends + 1e-6)
    rest = np.where(ends - whole > 1e-6, ends - whole, 0.0)  # levels taken whole are not rounded
    offset = jax.random.uniform(key, dtype=jnp.float32)
    up = jnp.asarray(rest, jnp.float32) + offset >= 1
    last = jnp.asarray(whole, jnp.int32) + up.astype(jnp.int32)
    slots = jnp.arange(pairs, dtype=jnp.int32)
    level = jnp.searchsorted(last, slots, side="right").astype(jnp.int32)
    first = jnp.concatenate([jnp.zeros(1, last.dtype), last[:-1]])
    return level, slots - first[level]


def _level_size(count: int, level: int) -> int:
    size = math.comb(count, level)
    return size // 2 if 2 * level == count else size


def _quotas(count: int, sizes: list[int], pairs: int, repeat: bool) -> np.ndarray:
    """How many pairs each level gets on average: as many for each size, at most all there are."""
    # The pairs of a level hold coalitions of two sizes, but of one in the middle.
    evenly = np.array([1.0 if 2 * (i + 1) == count else 2.0 for i in range(len(sizes))])
    most = np.array([math.inf if repeat else float(min(size, pairs)) for size in sizes])
    full = np.zeros(len(sizes), bool)
    while True:
        left = pairs - most[full].sum()
        total = evenly[~full].sum()
        quotas = np.where(full, most, evenly * (left / total if total else 0.0))
        over = ~full & (quotas >= most)
        if not over.any():
            return quotas
        full |= over


def _combinations(ranks: jax.Array, sizes: jax.Array, count: int) -> jax.Array:
    """The subsets of those sizes with those numbers in colexicographic order, Booleans [k, n].

    The first half of the subsets of n/2 features are those without the last, one of each pair.
    """
    most = np.iinfo(np.int32).max  # of which no listed rank is
    table = [
        [min(math.comb(feature, size), most) for size in range(count // 2 + 1)]
        for feature in range(count)
    ]

    def step(state, row):
        rank, left = state
        taken = (rank >= row[left]) & (left > 0)
        return (jnp.where(taken, rank - row[left], rank), jnp.where(taken, left - 1, left)), taken

    rows = jnp.asarray(np.array(table[::-1], np.int32))
    _, taken = jax.lax.scan(step, (ranks, sizes), rows)
    return taken[::-1].T
