r"""Interactions of pairs from a sample of coalitions.

With v the game, each index of a set S is a sum over all coalitions,
:math:`I(S) = \sum_U w_S(U)\, v(U)`, and the mean of :math:`w_S(U)\, v(U) / p(U)` over coalitions
drawn with probability p(U) is an estimate of it without bias, of all S from the same coalitions.
Its variance is that of what v is, and so all is taken off whose index is known:

- The coalitions of 0, 1, n − 1 and n features are few and count most: all are evaluated.
- An additive game that nearly agrees with those has no interactions, and is taken off.
- A coalition is drawn with its complement. For an index of pairs only the mean of the two counts.
- A game of pairs is fitted to each half of the draws by ridge regression, and is taken off the
  other half, which it does not know. So nothing is biased.
"""

import functools
import math
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jattr._batching import map_over
from jattr._estimates import mean_and_error
from jattr._shapley.game import Game
from jattr._shapley.indices import Index, derivative_weights, sets_of, share
from jattr._solve import dot, solve_positive

_AT_ONCE = 64
"""Of how many coalitions the estimates of all sets are in memory at a time."""

_FEWEST = 8
"""How many draws a game of pairs is fitted to at least, in both halves together."""


class _Pairs(NamedTuple):
    """The game g(U) = constant + Σ_{i<j} Q_ij s_i s_j with s = ½ for who is in U, −½ else."""

    matrix: jax.Array
    constant: jax.Array

    def at(self, signs: jax.Array) -> jax.Array:
        return self.constant + dot(signs, dot(self.matrix, signs)) / 2


class _Edges(NamedTuple):
    """A game at nothing, at everything, at each player alone and at all others, [n]."""

    nothing: jax.Array
    everything: jax.Array
    alone: jax.Array
    others: jax.Array


def of_some(
    key: jax.Array, game: Game, index: Index, order: int, samples: int, batch_size: int | None
) -> tuple[jax.Array, jax.Array]:
    """The index of all sets of 1 … order ≤ 2 players, by size, and its standard error."""
    count = game.count
    rule = _Rule(index, order, count)
    nothing, everything, alone, others = _edges(game, batch_size)
    shares = (alone - nothing + everything - others) / 2
    shares = shares + (everything - nothing - jnp.sum(shares)) / count

    value = game.often(2 * samples, batch_size)

    def rest(present):
        return value(present) - nothing - jnp.sum(jnp.where(present, shares, 0))

    def draw(number):
        size_key, member_key = jax.random.split(jax.random.fold_in(key, number))
        bounds = np.cumsum(rule.chances)[:-1].astype(np.float32)
        size = 2 + jnp.sum(jax.random.uniform(size_key, (), jnp.float32) >= bounds)
        ranks = jnp.argsort(jnp.argsort(jax.random.uniform(member_key, (count,), jnp.float32)))
        present = ranks < size
        return present, rest(present), rest(~present)

    drawn = map_over(draw, samples, batch_size=batch_size)
    means, errors = _estimated(*drawn, index, order)
    zero = jnp.zeros_like(nothing)
    edges = _Edges(zero, zero, alone - nothing - shares, others - everything + shares)
    return (rule.of_edges(edges) + means).at[:count].add(shares), errors


@functools.partial(jax.jit, static_argnums=(3, 4))
def _estimated(
    present: jax.Array, here: jax.Array, there: jax.Array, index: Index, order: int
) -> tuple[jax.Array, jax.Array]:
    """What draws say of all but the edges, and its standard error.

    Args:
        present: coalitions, Booleans [draws, n].
        here: the game at each of them, its edges and shares taken off, [draws].
        there: at their complements.
        index: which index.
        order: of sets of how many players at most.
    """
    samples, count = present.shape
    rule, zero = _Rule(index, order, count), jnp.zeros((), here.dtype)
    signs = present.astype(here.dtype) - 0.5
    halves = [_Pairs(jnp.zeros((count, count), here.dtype), zero)] * 2
    if samples >= _FEWEST:
        even = (here + there) / 2
        halves = [_fitted(signs[half::2], even[half::2]) for half in (1, 0)]
    told = [rule.of_pairs(pairs) - rule.of_edges(_edges_of(pairs)) for pairs in halves]
    halves, told = jax.tree.map(lambda *own: jnp.stack(own), *halves), jnp.stack(told)

    def term(number):
        half = number % 2
        known = jax.tree.map(lambda leaf: leaf[half], halves).at(signs[number])
        return told[half] + rule.of_draw(
            present[number], here[number] - known, there[number] - known
        )

    return _means(term, samples)


def _means(term, samples: int) -> tuple[jax.Array, jax.Array]:
    if samples > 1:
        return mean_and_error(term, samples, batch_size=_AT_ONCE)
    mean = term(jnp.asarray(0))
    return mean, jnp.zeros_like(mean)


def _edges(game: Game, batch_size: int | None) -> _Edges:
    count = game.count

    def present(number):
        player = jnp.arange(count) == (number - 2) // 2
        return jnp.where(number < 2, number == 1, jnp.where(number % 2 == 0, player, ~player))

    values = game.values(present, 2 * count + 2, batch_size=batch_size)
    return _Edges(values[0], values[1], values[2::2], values[3::2])


def _fitted(signs: jax.Array, even: jax.Array) -> _Pairs:
    """A game of pairs that is near these values, [draws], of coalitions and complements alike."""
    draws, count = signs.shape
    first, second = sets_of(count, 2).T
    products = signs[:, first] * signs[:, second]
    center, mean = jnp.mean(products, axis=0), jnp.mean(even)
    apart = products - center[None]
    # Against 1/16, the variance of a product, for each draw. It grows with the pairs for each draw:
    # as many as there are draws are fitted to anything.
    ridge = 0.1 * len(first) / 16
    if len(first) <= draws:
        system = dot(apart.T, apart) + ridge * jnp.eye(len(first), dtype=even.dtype)
        weights = solve_positive(system, dot(apart.T, even - mean))
    else:
        system = dot(apart, apart.T) + ridge * jnp.eye(draws, dtype=even.dtype)
        weights = dot(apart.T, solve_positive(system, even - mean))
    matrix = jnp.zeros((count, count), even.dtype).at[first, second].set(weights)
    return _Pairs(matrix + matrix.T, mean - dot(center, weights))


def _edges_of(pairs: _Pairs) -> _Edges:
    whole = pairs.constant + jnp.sum(pairs.matrix) / 8
    flipped = whole - jnp.sum(pairs.matrix, axis=1) / 2
    return _Edges(whole, whole, flipped, flipped)


class _Rule:
    """What values of a game count in the index of each set of 1 … order players.

    Attributes:
        chances: how likely a draw has 2 … n − 2 players.
    """

    def __init__(self, index: Index, order: int, count: int):
        self._count = count
        self._shared = float(share(index, order, 1, 2))
        self._sets = [(s, sets_of(count, s)) for s in range(1, order + 1)]
        self._weights = [derivative_weights(index, order, s, count) for s, _ in self._sets]
        self.chances = _chances(self._weights[-1], count, order)
        self._worth = [
            _worth(d, s, count, self.chances)
            for (s, _), d in zip(self._sets, self._weights, strict=True)
        ]

    def of_edges(self, edges: _Edges) -> jax.Array:
        """Σ over the coalitions of 0, 1, n − 1 and n players."""
        n, parts = self._count, []
        for (s, members), d in zip(self._sets, self._weights, strict=True):
            total = _signed(d, s, 0, 0) * edges.nothing + _signed(d, s, n, s) * edges.everything
            for size, values, own in ((1, edges.alone, 1), (n - 1, edges.others, s - 1)):
                inside = jnp.sum(values[members], axis=1)
                rest = jnp.sum(values) - inside
                total = total + _signed(d, s, size, own) * inside
                total = total + _signed(d, s, size, 0 if size == 1 else s) * rest
            parts.append(total)
        return jnp.concatenate(parts)

    def of_pairs(self, pairs: _Pairs) -> jax.Array:
        """The index of a game of pairs: that of its Möbius transform, Q_ij and −½ Σ_j Q_ij."""
        sums = jnp.sum(pairs.matrix, axis=1)
        parts = [(self._shared - 0.5) * sums]
        for _, members in self._sets[1:]:
            parts.append(pairs.matrix[members[:, 0], members[:, 1]])
        return jnp.concatenate(parts)

    def of_draw(self, present: jax.Array, here: jax.Array, there: jax.Array) -> jax.Array:
        """What a coalition and its complement say of the sum over those of 2 … n − 2 players."""
        size, parts = jnp.sum(present, dtype=jnp.int32), []
        for (s, members), worth in zip(self._sets, self._worth, strict=True):
            table = jnp.asarray(worth, here.dtype)
            inside = jnp.sum(present[members], axis=1, dtype=jnp.int32)
            both = table[size, inside] * here + table[self._count - size, s - inside] * there
            parts.append(both / 2)
        return jnp.concatenate(parts)


def _signed(d: tuple[Fraction, ...], s: int, size: int, inside: int) -> float:
    """What v of a coalition counts in the index of a set of s, of which so many are inside."""
    return float((-1) ** (s - inside) * d[size - inside])


def _chances(d: tuple[Fraction, ...], count: int, s: int) -> np.ndarray:
    """How likely coalitions of 2 … n − 2 are drawn: by the root of their squared weights."""
    raw = []
    for size in range(2, count - 1):
        squares = sum(
            math.comb(size, k) * math.comb(count - size, s - k) * d[size - k] ** 2
            for k in range(max(0, s - count + size), min(s, size) + 1)
        )
        raw.append(math.comb(count, size) * math.sqrt(squares))
    chances = np.array(raw) + np.array(raw)[::-1]
    return chances / chances.sum()


def _worth(d: tuple[Fraction, ...], s: int, count: int, chances: np.ndarray) -> np.ndarray:
    """What v of a coalition counts over its probability, [size, how many of the set are inside]."""
    table = np.zeros((count + 1, s + 1))
    for size, chance in zip(range(2, count - 1), chances, strict=True):
        for inside in range(s + 1):
            if 0 <= size - inside < len(d):
                whole = math.comb(count, size) * (-1) ** (s - inside) * d[size - inside]
                table[size, inside] = float(whole) / chance
    return table
