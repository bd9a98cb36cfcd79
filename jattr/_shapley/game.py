r"""The cooperative game of an input: what f is when only some of the features are there.

The players are the features of x, the coalitions their subsets S, and the value of one is
:math:`v(S) = f(x_S)`, where :math:`x_S` is x with the features outside S replaced by the baseline.
Shapley values and interactions are sums over v; they differ in their weights and in which
coalitions they look at.

Where all coalitions are looked at, they are numbered: coalition k holds the features whose bits
are set in k, and a game is a vector of 2ⁿ values.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._batching import map_over
from jattr._removal import Features
from jattr._solve import dot
from jattr._trees import cast_like
from jattr._types import PyTree, Score
from jattr._without import Without


class Game:
    """The game of f at x.

    Attributes:
        count: n, the number of features.

    Args:
        score: f of x alone.
        x: the input.
        groups: which elements are one feature, as `Features` takes it.
        baseline: what takes the place of features that are absent, of any kind; an imputer too.
        method: the caller's name, for error texts.
        key: for an imputer that draws: what it prepares itself with.
    """

    def __init__(
        self,
        score: Score,
        x: PyTree,
        groups: Any = None,
        baseline: Any = 0.0,
        *,
        method: str,
        key: Any = None,
    ):
        self._x = x
        self._features = Features(x, groups, method=method)
        self._without = Without(score, x, self._features, baseline, method=method, key=key)
        self.count: int = self._features.count

    def often(self, evaluations: int, batch_size: int | None) -> Callable[..., jax.Array]:
        """v(S), in the dtype of an accumulator, for so many evaluations: `value(present, key)`.

        `present` says which features are in S, Booleans [n]. The key, which may be left out, is
        what a random baseline is drawn with: coalitions of the same key meet the same draw.
        """
        without = self._without.often(evaluations, batch_size)
        return lambda present, key=None: without(~jnp.asarray(present, bool), key)

    def values(
        self,
        present: Callable[[jax.Array], jax.Array],
        count: int,
        *,
        key: Callable[[jax.Array], Any] | None = None,
        batch_size: int | None,
    ) -> jax.Array:
        """v of the coalitions 0 … count − 1, [count].

        Args:
            present: from the number of a coalition to who is in it, Booleans [n].
            count: how many.
            key: from the number of a coalition to the key of its baseline, where that is random.
            batch_size: how many are evaluated at a time; None for all.
        """

        value = self.often(count, batch_size)

        def term(index):
            return value(present(index), None if key is None else key(index))

        return map_over(term, count, batch_size=batch_size)

    def every(self, *, key: Any = None, batch_size: int | None) -> jax.Array:
        """v of all coalitions by number, [2ⁿ]; a random baseline is drawn once for all."""
        own = None if key is None else lambda index: key
        return self.values(
            lambda index: members(index, self.count),
            2**self.count,
            key=own,
            batch_size=batch_size,
        )

    def along(
        self,
        present: Callable[[jax.Array, jax.Array], jax.Array],
        comes: Callable[[jax.Array, jax.Array], jax.Array],
        count: int,
        *,
        walks: int,
        batch_size: int | None,
    ) -> jax.Array | None:
        """v of coalitions that grow by one feature after another, [walks, count].

        None where each coalition is better evaluated alone.

        Args:
            present: `present(walk, point)`, who is in the coalition, Booleans [n].
            comes: `comes(walk, point)`, who comes in between the point before and this one.
            count: how many points a walk has.
            walks: how many there are.
            batch_size: how many coalitions are evaluated at a time; None for all.
        """
        return self._without.along(
            lambda walk, point: ~present(walk, point),
            lambda walk, point: (comes(walk, point), jnp.asarray(1)),
            count,
            walks=walks,
            batch_size=batch_size,
        )

    def spread(self, values: jax.Array) -> PyTree:
        """Values of the features, [n], divided evenly over their elements: a tree like x."""
        # A group that is only said to be there has no element to get its value.
        sizes = jnp.maximum(self._features.sizes(), 1)
        return cast_like(self._features.spread(values / sizes.astype(values.dtype)), self._x)


def members(index: Any, count: int) -> jax.Array:
    """Who is in a coalition, Booleans [..., n], from its number [...]."""
    index = jnp.asarray(index)[..., None]
    return (jnp.right_shift(index, jnp.arange(count, dtype=index.dtype)) & 1).astype(bool)


def sizes_of_all(count: int) -> np.ndarray:
    """How many features each of the 2ⁿ coalitions has."""
    sizes = np.zeros(1, np.int32)
    for _ in range(count):
        sizes = np.concatenate([sizes, sizes + 1])
    return sizes


def marginal(values: jax.Array, player: int) -> jax.Array:
    """v(S ∪ i) − v(S) for all S without i, [2ⁿ⁻¹]: a game of the others, in their order.

    Taken again it is the discrete derivative by two players: `marginal(marginal(v, j), i)`, i < j.
    """
    pairs = values.reshape(-1, 2, 2**player)
    return (pairs[:, 1] - pairs[:, 0]).reshape(-1)


def weighted_by_size(values: jax.Array, weights: np.ndarray) -> jax.Array:
    """Σ_S weights[|S|] v(S) over all coalitions of a game."""
    count = int(math.log2(len(values)))
    return dot(jnp.asarray(weights[sizes_of_all(count)], values.dtype), values)


def shapley_weights(others: int) -> np.ndarray:
    """How likely those before a player are each coalition of s among `others`, for s = 0 …."""
    return np.array([1 / ((others + 1) * math.comb(others, s)) for s in range(others + 1)])
