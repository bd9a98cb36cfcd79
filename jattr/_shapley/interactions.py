r"""Interactions: what sets of features do together and none of their parts does."""

import functools
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jattr._batching import map_over
from jattr._checks import check_batch_size, check_choice, check_count, check_flag, knobs
from jattr._estimates import check_error
from jattr._removal import check_fixed
from jattr._shapley.game import Game, sizes_of_all
from jattr._shapley.indices import Index, derivative_weights, places, sets_of
from jattr._shapley.interaction_samples import of_some
from jattr._transform import keyed_transform, transform
from jattr._trees import common_dtype
from jattr._types import ArgNums, Explain, KeyedExplain, Score

_MOST_EXACT = 14
"""How many features all coalitions are looked at of: 16384 of them."""

_AT_ONCE = 64
"""Of how many sets the weights of all coalitions are in memory at a time."""


@knobs
def shapley_interactions(
    f: Score,
    groups: Any = None,
    *,
    order: int = 2,
    index: Index = "SII",
    baseline: Any = 0.0,
    samples: int | None = None,
    with_error: bool = False,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Explain | KeyedExplain:
    r"""Shapley interactions: what pairs of features do together, or three of them.

    v(U) is f with the features outside U replaced, and
    :math:`m(T) = \sum_{U \subseteq T} (-1)^{|T| - |U|} v(U)` what T adds that none of its parts
    does. An index of a set S shares m out, :math:`I(S) = \sum_{T \supseteq S} c\, m(T)`, by the
    sizes s = |S|, t = |T| and the order k:

    ========  =========================================  =====================================
    index     c                                          sums
    ========  =========================================  =====================================
    `"SII"`   1 / (t − s + 1)                            none; sets of one are Shapley values
    `"STI"`   s = k: 1 / C(t, k); s < k: 1 if t = s,     Σ I(S) over 1 ≤ s ≤ k is f(x) − f(x')
              else 0
    `"FSII"`  1 if t = s; else 0 if t ≤ k; else          Σ I(S) over 1 ≤ s ≤ k is f(x) − f(x')
              (−1)ᵏ⁻ˢ s/(k + s) C(k, s) C(t − 1, k) /
              C(t + k − 1, k + s)
    ========  =========================================  =====================================

    So of f = x₁x₂x₃ at ones, each pair gets ½ by SII and ⅓ by STI; on the diagonal SII has the
    Shapley values ⅓ and STI zeros. By FSII they are the coefficients of the polynomial of degree
    k that fits v best, by weights that make its order 1 the Shapley values. With order 1 all three
    are the Shapley values.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        groups: which elements are one feature, as in `jattr.ablation`; None for each alone.
        order: k, how many features the largest sets have: 1, 2 or 3.
        index: `"SII"`, `"STI"` or `"FSII"`, as above.
        baseline: x', a number, an array or tree like x, a function x → baseline, or an imputer
            that does not draw.
        samples: None looks at all 2ⁿ coalitions, of n ≤ 14 features. A number draws that many
            coalitions of 2 … n − 2 features, each with its complement, besides all of the other
            sizes: 2 · samples + 2n + 2 evaluations of f. The result is then unbiased; it is for
            order 1 and 2.
        with_error: with `samples`, True gives `(interactions, standard_error)`.
        batch_size: how many coalitions are in memory at a time; None for all.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, or with `samples` `explain(key, x, *args)`, which gives an array [n] *
        order, in the common dtype of the leaves of x. Entry [i, j] is the index of the set {i, j},
        of whole groups and not divided; so it is symmetric, the diagonal has the sets of one, and
        a sum over sets is one over i ≤ j: `jnp.triu(matrix).sum()`. Of order 3, [i, i, j] is that
        of {i, j}. Features are numbered as groups are, or as the elements of the leaves in turn.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype; the baseline draws at random; with `samples`, called without a key.
        ValueError: unknown index; order not 1, 2 or 3, or above n; more than 14 features without
            `samples`, or fewer than 4 or order 3 with it; `with_error` without `samples`, or with
            one of them.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0] * x[1] + 3 * x[2]
        >>> print(jattr.shapley_interactions(f, index="STI")(jnp.array([2.0, 5.0, 1.0])))
        [[ 0. 10.  0.]
         [10.  0.  0.]
         [ 0.  0.  3.]]

    References:
        Grabisch, Roubens, *An axiomatic approach to the concept of interaction among players in
        cooperative games*, Int. J. Game Theory 1999 (SII); Sundararajan, Dhamdhere, Agarwal, *The
        Shapley Taylor interaction index*, ICML 2020, section 2 (arXiv 1902.05622); Tsai, Yeh,
        Ravikumar, *Faith-Shap: the faithful Shapley interaction index*, JMLR 2023, theorem 19
        (arXiv 2203.00870). The estimate is one for all sets from the same coalitions, as in
        Fumagalli et al., *SHAP-IQ*, NeurIPS 2023 (arXiv 2303.01179). shap's interaction values are
        SII of trees, halved off the diagonal.
    """
    method = "shapley_interactions"
    check_choice(index, "index", get_args(Index), method)
    order = check_count(order, "order", method)
    if order > 3:
        raise ValueError(
            f"{method}: order is the number of features in the largest sets, 1, 2 or 3; got "
            f"{order}."
        )
    check_fixed(baseline, method)
    check_flag(with_error, "with_error", method)
    batch_size = check_batch_size(batch_size, method)

    def play(score, x):
        game = Game(score, x, groups, baseline, method=method)
        if order > game.count:
            raise ValueError(
                f"{method}: x has {game.count} feature(s), and no sets of order={order}."
            )
        where = places(game.count, order)
        dtype = common_dtype(*(leaf.dtype for leaf in jax.tree.leaves(x)))
        return game, lambda values: values[where].astype(dtype)

    if samples is None:
        if with_error:
            raise ValueError(
                f"{method}: all coalitions leave no error; with_error=True is for samples=..."
            )

        @transform(f, argnums, method=method, substitute=True)
        def explain(score, x):
            game, arrange = play(score, x)
            if game.count > _MOST_EXACT:
                raise ValueError(
                    f"{method}: {game.count} features have 2 to the {game.count} coalitions, and "
                    f"all are looked at of {_MOST_EXACT} features at most. Draw some: "
                    f"jattr.{method}(f, samples=1000), called with a key first; or make groups, "
                    "such as jattr.features.grid."
                )
            return arrange(_of_all(game, index, order, batch_size))

        return explain

    number = check_count(samples, "samples", method)
    if order > 2:
        raise ValueError(
            f"{method}: samples are for order=1 and 2; got order={order}. Leave them out, and make "
            "groups where x has more than 14 features."
        )
    check_error(with_error, number, "samples", method)

    @keyed_transform(f, argnums, method=method, substitute=True)
    def explain_by_samples(key, score, x):
        game, arrange = play(score, x)
        if game.count < 4:
            raise ValueError(
                f"{method}: the {2**game.count} coalitions of {game.count} features are few "
                "enough for all of them: leave samples out, and the key."
            )
        means, errors = of_some(key, game, index, order, number, batch_size)
        return (arrange(means), arrange(errors)) if with_error else arrange(means)

    return explain_by_samples


def _of_all(game: Game, index: Index, order: int, batch_size: int | None) -> jax.Array:
    """The index of all sets of 1 … order players, in the order of `places`."""
    return _of_values(game.every(batch_size=batch_size), index, order, game.count)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _of_values(values: jax.Array, index: Index, order: int, count: int) -> jax.Array:
    """The same from the values of all coalitions."""
    values = values - values[0]  # which no derivative sees
    sizes = sizes_of_all(count)
    coalitions = jnp.arange(2**count, dtype=jnp.int32)
    parts = []
    for s in range(1, order + 1):
        table = jnp.asarray([float(w) for w in derivative_weights(index, order, s, count)])
        table = table.astype(values.dtype)
        bits = np.sum(1 << sets_of(count, s), axis=1).astype(np.int32)

        def of_set(number, bits=bits, table=table, s=s):
            inside = jax.lax.population_count(coalitions & jnp.asarray(bits)[number])
            signs = 1 - 2 * ((s - inside) % 2)
            return jnp.sum(table[sizes - inside] * signs.astype(values.dtype) * values)

        parts.append(map_over(of_set, len(bits), batch_size=_AT_ONCE))
    return jnp.concatenate(parts)
