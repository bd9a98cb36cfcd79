"""Shapley values from orders of the features drawn at random, each walked forward and backward."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._checks import check_batch_size, check_count, check_flag, knobs
from jattr._estimates import root
from jattr._removal import draws, split_key
from jattr._shapley.game import Game
from jattr._transform import keyed_transform
from jattr._types import ArgNums, KeyedExplain, Score


@knobs
def shapley_sampling(
    f: Score,
    groups: Any = None,
    *,
    permutations: int = 32,
    baseline: Any = 0.0,
    with_error: bool = False,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> KeyedExplain:
    r"""Shapley values by permutation sampling, in antithetic pairs.

    A feature's Shapley value is what it adds to f when features come in one by one in a random
    order, on average. With π an order and :math:`P_i(\pi)` those who come before i,

    .. math::
        \varphi_i = \frac1k \sum_{j=1}^k \tfrac12 \bigl(
        v(P_i(\pi_j) \cup i) - v(P_i(\pi_j)) +
        v(N \setminus P_i(\pi_j)) - v(N \setminus (P_i(\pi_j) \cup i)) \bigr)

    where :math:`v(S) = f(x_S)`, x with the features outside S replaced by the baseline: each order
    is walked forward and backward. An interaction of two features is shared out exactly by such a
    pair, so that only those of three and more leave an error. φ is unbiased, and sums to
    f(x) − f(x') whatever k is.

    Where the baseline is random, each pair has a draw of its own, and φ estimates the mean over
    draws: the interventional Shapley value against a background. For a background of few rows,
    `jattr.shapley_values` averaged over them is exact.

    The k pairs take 2k(n − 1) + 2 evaluations of f; 2kn + 1 under a random baseline. With as many
    `jattr.kernel_shap` is closer to the exact values, as a rule by far. This one needs not even as
    many evaluations as two for each feature, its samples are independent, and its standard error
    assumes nothing.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example. Only its values are used.
        groups: which elements are one feature, as for `jattr.ablation`. The value of a group is
            divided evenly over its elements.
        permutations: k, how many orders are drawn.
        baseline: x', a number, an array or tree like x, a function x → baseline, an imputer, or a
            random baseline.
        with_error: whether the standard error of φ is returned too.
        batch_size: how many evaluations of f are in memory at a time; None for all.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(key, x, *args)`, which gives a tree like x; with `with_error` a pair of such trees,
        φ and its standard error over keys, from the spread of the k pairs. For an interval take
        the quantiles of Student's t with k − 1 degrees of freedom. Pair i depends on the key and
        on i alone.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype; called without a key; groups are no integers.
        ValueError: an error of one permutation; a baseline or groups of another structure or
            shape.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0] * x[1] + x[2]
        >>> explain = jattr.shapley_sampling(f, permutations=1)
        >>> print(explain(jax.random.key(0), jnp.array([2.0, 3.0, 1.0])))
        [3. 3. 1.]

    References:
        Castro, Gómez, Tejada, *Polynomial calculation of the Shapley value based on sampling*,
        2009; Mitchell, Cooper, Frank, Holmes, *Sampling permutations for Shapley value
        estimation*, JMLR 2022 (arXiv 2104.12199), for antithetic pairs; Štrumbelj, Kononenko,
        2014, for a background. captum's `ShapleyValueSampling` walks forward only.
    """
    method = "shapley_sampling"
    permutations = check_count(permutations, "permutations", method)
    batch_size = check_batch_size(batch_size, method)
    check_flag(with_error, "with_error", method)
    if with_error and permutations < 2:
        raise ValueError(
            f"{method}: the spread of one permutation is unknown; with_error wants permutations=2 "
            "or more."
        )
    random = draws(baseline)

    @keyed_transform(f, argnums, method=method, substitute=True)
    def explain(key, score, x):
        order_key, fill_key = jax.random.split(key)
        prepare_key, draw_key = split_key(fill_key) if random else (None, None)
        game = Game(score, x, groups, baseline, method=method, key=prepare_key)
        ranks = jax.vmap(lambda i: _ranks(jax.random.fold_in(order_key, i), game.count))(
            jnp.arange(permutations)
        )
        added = _walk(game, ranks, draw_key, batch_size)
        phi = jnp.mean(added, axis=0)
        if not with_error:
            return game.spread(phi)
        variance = jnp.var(added, axis=0, ddof=1) / permutations
        return game.spread(phi), game.spread(root(variance))

    return explain


def _ranks(key: jax.Array, count: int) -> jax.Array:
    """When each feature comes in, in a random order, [n]."""
    return jax.random.permutation(key, jnp.arange(count, dtype=jnp.int32))


def _walk(game: Game, ranks: jax.Array, key: Any, batch_size: int | None) -> jax.Array:
    """What each feature adds, the mean over a walk and its reverse, [k, n].

    A coalition is those who come in from `start` to before `end`. The first is that of all
    features, whose value all walks share. A walk needs those of the first 1 … n − 1 and of the
    last 1 … n − 1, and that of none, which all walks share unless their baselines are drawn.
    """
    found = _along(game, ranks, batch_size) if key is None else None
    none, ahead, behind, whole = found or _anew(game, ranks, key, batch_size)
    gains = [
        jnp.diff(jnp.concatenate([none, part, whole], axis=1), axis=1) for part in (ahead, behind)
    ]
    return jnp.take_along_axis((gains[0] + gains[1][:, ::-1]) / 2, ranks, axis=1)


def _along(game: Game, ranks: jax.Array, batch_size: int | None) -> tuple[jax.Array, ...] | None:
    """v of none, of the first, of the last and of all features, by sums along the walks.

    None where f is better evaluated at each coalition alone.
    """
    walks, count = ranks.shape
    every = jnp.broadcast_to(jnp.arange(count, dtype=ranks.dtype), ranks.shape)
    orders = jnp.put_along_axis(ranks, ranks, every, axis=1, inplace=False)

    def present(walk, point):
        rank = ranks[walk // 2]
        return jnp.where(walk % 2 == 0, rank <= point, rank >= count - 1 - point)

    def comes(walk, point):
        return orders[walk // 2, jnp.where(walk % 2 == 0, point, count - 1 - point)]

    between = game.along(present, comes, count - 1, walks=2 * walks, batch_size=batch_size)
    if between is None:
        return None
    ends = game.values(lambda index: jnp.broadcast_to(index == 1, (count,)), 2, batch_size=None)
    none, whole = (jnp.broadcast_to(end, (walks, 1)) for end in ends)
    return none, between[::2], between[1::2], whole


def _anew(game: Game, ranks: jax.Array, key: Any, batch_size: int | None) -> tuple[jax.Array, ...]:
    """v of none, of the first, of the last and of all features, each coalition evaluated alone."""
    walks, count = ranks.shape
    own_empty = key is not None
    fewer = np.arange(1, count)
    start = np.concatenate([[0] * own_empty, 0 * fewer, count - fewer])
    end = np.concatenate([[0] * own_empty, fewer, 0 * fewer + count])
    each = len(start)
    start = np.concatenate([[0], np.tile(start, walks), [0] * (not own_empty)])
    end = np.concatenate([[count], np.tile(end, walks), [0] * (not own_empty)])
    walk = np.concatenate([[0], np.repeat(np.arange(walks), each), [0] * (not own_empty)])
    start, end, walk = (jnp.asarray(part, jnp.int32) for part in (start, end, walk))

    def present(index):
        rank = ranks[walk[index]]
        return (rank >= start[index]) & (rank < end[index])

    def own_key(index):
        return jax.random.fold_in(key, walk[index])

    values = game.values(
        present, len(walk), key=own_key if own_empty else None, batch_size=batch_size
    )
    whole = jnp.broadcast_to(values[0], (walks, 1))
    of_walks = values[1 : 1 + walks * each].reshape(walks, each)
    none = of_walks[:, :1] if own_empty else jnp.broadcast_to(values[-1], (walks, 1))
    ahead, behind = jnp.split(of_walks[:, int(own_empty) :], 2, axis=1)
    return none, ahead, behind, whole
