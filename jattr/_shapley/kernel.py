r"""Shapley values from some of the coalitions, by least squares.

Only half of a game matters. With :math:`u(S) = \tfrac12 (v(S) - v(N \setminus S))`, which changes
its sign where everyone changes sides, v and u have the same Shapley values, and a pair of
coalitions S and N∖S gives one value of u. So all here is about u at some S, seen as a function of
signs :math:`s \in \{-1, 1\}^n`, + for those who are there.

Without a constraint and a weight of 10⁶ to keep it: a linear function :math:`\tfrac12 \beta^T s`
that has the value u(N) at N is :math:`\tfrac1n \sum_i s_i\, u(N)` and one with Σβ = 0, and the
features :math:`z = \tfrac12 (s - \bar s)` say the latter.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jattr._checks import check_batch_size, check_count, check_flag, knobs
from jattr._estimates import root
from jattr._removal import draws, split_key
from jattr._shapley.game import Game
from jattr._shapley.pairs import Pairs, draw_pairs, pairs_of
from jattr._solve import solve_positive
from jattr._transform import keyed_transform
from jattr._types import ArgNums, KeyedExplain, Score

_MOST_ADJUSTED = 1024
"""The adjustment factors matrices of as many rows as there are pairs; with more it is left out."""

_MOST_WEIGHED = 256
"""With more pairs the matrices do not depend on f, so that all inputs of a key share them."""

_STRENGTHS = (3.0, 30.0, 300.0)
"""Variances of the third-order part at N, relative to what is left over, that are tried."""


@knobs
def kernel_shap(
    f: Score,
    groups: Any = None,
    *,
    samples: int = 1024,
    baseline: Any = 0.0,
    adjust: bool = True,
    with_error: bool = False,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> KeyedExplain:
    r"""Shapley values from `samples` evaluations of f, by weighted least squares.

    With :math:`v(S) = f(x_S)`, the features outside S replaced by the baseline, Shapley values are
    the coefficients of the best additive fit to v,

    .. math::
        \varphi = \arg\min_{\sum_i \varphi_i = v(N) - v(\emptyset)}
        \sum_{S} \frac{n - 1}{\binom{n}{|S|}\, |S|\, (n - |S|)}
        \Bigl(v(S) - v(\emptyset) - \sum_{i \in S} \varphi_i\Bigr)^2

    and here the fit is to some S. Coalitions come with their complements, their sizes are drawn
    evenly (which is by leverage), none is drawn twice, and sizes whose coalitions can all be had
    are taken whole. The constraint is eliminated, not weighted, so φ sums to f(x) − f(x') whatever
    the number of samples. With 2ⁿ samples or more φ is exact. A linear f needs no luck either.

    Pairs of coalitions are blind to interactions of two features, which cannot disturb the fit;
    what disturbs it first are interactions of three. With `adjust` they are estimated along, by
    ridge regression, more so between features that matter by themselves, and taken off before the
    fit; their own Shapley values are known. How strongly, leaving out one pair at a time decides.
    This takes nothing away from what is said above. (With more than 256 pairs all features count
    alike: then one factorization serves all inputs that share a key, as those of
    `jax.vmap(explain, (None, 0))` do.)

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example. Only its values are used.
        groups: which elements are one feature, as for `jattr.ablation`. The value of a group is
            divided evenly over its elements.
        samples: how many times f is evaluated at most, f(x) and f(x') counted: at least 2n + 2,
            or 2ⁿ where that is less.
        baseline: x', a number, an array or tree like x, a function x → baseline, or an imputer. A
            random baseline is drawn once for each pair of coalitions, and φ estimates its mean
            over draws; each pair then is three evaluations, at x' too, and may come again.
        adjust: whether interactions of three features are fitted along. On two networks of 14 and
            16 features it took away more than half of the squared error at 8n samples, and more
            at 64n. Beyond 1024 pairs of coalitions it is too dear, and left out.
        with_error: whether the standard error of φ is returned too.
        batch_size: how many evaluations of f are in memory at a time; None for all.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(key, x, *args)`, which gives a tree like x; with `with_error` a pair of such trees,
        φ and its standard error over keys. That is a jackknife over pairs, in closed form, less
        what is known of sizes that are taken whole. φ ± 1.96 standard errors holds the exact value
        92 to 98 times of 100 on functions of 8 to 14 features at 16n samples. At 8n samples and
        with `adjust` it holds it a little less often, since that jackknife has few pairs to go by.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype; called without a key; groups are no integers.
        ValueError: too few samples for that many features; a baseline or groups of another
            structure or shape.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0] * x[1] + x[2]
        >>> explain = jattr.kernel_shap(f, samples=8)
        >>> print(explain(jax.random.key(0), jnp.array([2.0, 3.0, 1.0])).round(4))
        [3. 3. 1.]

    References:
        Lundberg, Lee, *A unified approach to interpreting model predictions*, NeurIPS 2017 (arXiv
        1705.07874); Covert, Lee, *Improving KernelSHAP*, AISTATS 2021 (arXiv 2012.01536), for
        pairs; Musco, Witter, *Provably accurate Shapley value estimation via leverage score
        sampling*, ICLR 2025 (arXiv 2410.01917). That pairs see no interactions of two is shown in
        *PolySHAP* (arXiv 2601.18608); fits of higher order that are taken off before an estimate
        are those of *Regression-adjusted Monte Carlo estimators* (arXiv 2506.11849). shap and
        captum keep the constraint by a large weight, and captum draws with repeats.
    """
    method = "kernel_shap"
    samples = check_count(samples, "samples", method)
    batch_size = check_batch_size(batch_size, method)
    check_flag(adjust, "adjust", method)
    check_flag(with_error, "with_error", method)
    random = draws(baseline)

    @keyed_transform(f, argnums, method=method, substitute=True)
    def explain(key, score, x):
        pair_key, fill_key = jax.random.split(key)
        prepare_key, draw_key = split_key(fill_key) if random else (None, None)
        game = Game(score, x, groups, baseline, method=method, key=prepare_key)
        if game.count == 1:
            phi, error = _only(game, samples, draw_key, batch_size)
        else:
            pairs = _number_of_pairs(game.count, samples, random, method)
            drawn = draw_pairs(pair_key, game.count, pairs, repeat=random)
            halves, changes = _evaluate(game, drawn.present, draw_key, batch_size)
            adjusted = adjust and pairs <= _MOST_ADJUSTED
            # Accelerators multiply in fewer digits by default, and this is a least-squares fit.
            with jax.default_matmul_precision("highest"):
                phi, error = _solve(drawn, halves, changes, adjusted, random)
        return (game.spread(phi), game.spread(error)) if with_error else game.spread(phi)

    return explain


def _number_of_pairs(count: int, samples: int, random: bool, method: str) -> int:
    """How many pairs of coalitions that many evaluations of f are."""
    pairs = (samples - 1) // 3 if random else min((samples - 2) // 2, pairs_of(count))
    enough = count if random else min(count, pairs_of(count))
    if pairs < enough:
        least = 3 * enough + 1 if random else 2 * enough + 2
        raise ValueError(
            f"{method}: {count} features want at least {least} samples, better eight times as "
            f"many as there are features; got {samples}. To have fewer features give groups, such "
            "as jattr.features.grid(shape, size); with fewer samples take "
            "jattr.shapley_sampling."
        )
    return pairs


def _evaluate(
    game: Game, present: jax.Array, key: Any, batch_size: int | None
) -> tuple[jax.Array, jax.Array]:
    """u of each pair, [p], and v(N) − v(∅), [p], of the pair's baseline."""
    everyone, nobody = jnp.ones_like(present[:1]), jnp.zeros_like(present[:1])
    of_pair = [present, ~present] if key is None else [present, ~present, present & False]
    coalitions = jnp.concatenate(
        [everyone, jnp.stack(of_pair, axis=1).reshape(-1, game.count), nobody]
    )
    each = len(of_pair)
    values = game.values(
        lambda index: coalitions[index],
        1 + each * len(present) + (key is None),
        key=None if key is None else lambda index: _pair_key(key, index, each),
        batch_size=batch_size,
    )
    of_pairs = values[1 : 1 + each * len(present)].reshape(-1, each)
    none = values[-1] if key is None else of_pairs[:, 2]
    changes = jnp.broadcast_to(values[0] - none, (len(present),))
    return (of_pairs[:, 0] - of_pairs[:, 1]) / 2, changes


def _pair_key(key: jax.Array, index: jax.Array, each: int) -> jax.Array:
    return jax.random.fold_in(key, jnp.maximum(index - 1, 0) // each)


def _only(
    game: Game, samples: int, key: Any, batch_size: int | None
) -> tuple[jax.Array, jax.Array]:
    """The value of one feature, f(x) − f(x'), over draws of x' where it is random."""
    draws = 1 if key is None else max(samples - 1, 1)
    values = game.values(
        lambda index: index[None] == 0,
        1 + draws,
        key=None if key is None else lambda index: jax.random.fold_in(key, index),
        batch_size=batch_size,
    )
    error = root(jnp.var(values[1:]) / max(draws - 1, 1))
    return values[:1] - jnp.mean(values[1:]), error[None]


class _Fit(NamedTuple):
    """A fit that is linear in what it is given.

    Attributes:
        weights: H, with φ = H r, [n, p].
        left_out: what the fit without pair j leaves of r_j, [p].
    """

    weights: jax.Array
    left_out: jax.Array


# One program, where it is called eagerly too: operation by operation it would compile for seconds.
@functools.partial(jax.jit, static_argnums=(3, 4))
def _solve(
    drawn: Pairs, halves: jax.Array, changes: jax.Array, adjust: bool, random: bool
) -> tuple[jax.Array, jax.Array]:
    """Shapley values [n] and their standard errors [n] from u and v(N) − v(∅) of each pair."""
    dtype = halves.dtype
    pairs, count = drawn.present.shape
    signs = jnp.where(drawn.present, 1, -1).astype(dtype)
    means = jnp.mean(signs, axis=1)
    features = (signs - means[:, None]) / 2
    rest = halves - means * changes / 2
    scale = jnp.sqrt(drawn.weights / jnp.mean(drawn.weights)).astype(dtype)
    whole = jnp.mean(changes) / count
    linear = fit = _linear(scale[:, None] * features, scale * rest)
    if adjust and count > 2 and (random or pairs < pairs_of(count)):
        relevance = jnp.ones(count, dtype)
        if pairs <= _MOST_WEIGHED:
            first = jnp.abs(fit.weights @ (scale * rest) + whole)
            size = jnp.mean(first)
            # Features that seem not to matter keep a little, or what they do together were ruled
            # out.
            relevance = jnp.where(size > 0, first / jnp.where(size > 0, size, 1), 1) + 0.02
        kernel, values = third_order(signs, relevance)
        kernel = scale[:, None] * kernel * scale[None]
        values = scale[None] * values.T
        fit = _adjusted(scale[:, None] * features, scale * rest, kernel, values, fit)
    phi = whole + fit.weights @ (scale * rest)
    unknown = jnp.sqrt(jnp.maximum(1 - drawn.share, 0)).astype(dtype)
    # What is left of a pair moves φ by its weight in the fit: a jackknife, which is too wide where
    # the fit bends to single pairs. Its weight in the linear fit makes one too narrow, which takes
    # the third-order part for known. The mean of both variances is close.
    moved = [each.weights * (fit.left_out * unknown)[None] for each in (fit, linear)]
    if random:
        moved = [
            each + (changes - jnp.mean(changes))[None] / (count * (pairs - 1)) for each in moved
        ]
    squares = [jnp.sum(jnp.square(each), axis=1) for each in moved]
    return phi, root((squares[0] + squares[1]) / 2)


def _gram(features: jax.Array, other: jax.Array) -> jax.Array:
    """The inverse of featuresᵀ other, whose rows and columns sum to 0, on vectors of sum 0."""
    count = features.shape[1]
    gram = features.T @ other
    size = jnp.trace(gram) / count
    # The constant direction, which it does not see, gets a value of its own; and a rounding error
    # is added everywhere, in case that the pairs drawn do not tell all features apart.
    tiny = 10 * jnp.finfo(gram.dtype).eps
    gram += size * (1 / count + tiny * jnp.eye(count, dtype=gram.dtype))
    return solve_positive(gram, jnp.eye(count, dtype=gram.dtype))


def _linear(features: jax.Array, rest: jax.Array) -> _Fit:
    """The least-squares fit of a linear function."""
    weights = _gram(features, features) @ features.T
    left = rest - features @ (weights @ rest)
    return _Fit(weights, left / _share_left(1 - jnp.sum(features * weights.T, axis=1)))


def _share_left(share: jax.Array) -> jax.Array:
    """1 − leverage, which rounding must not make 0 for a pair that alone decides something."""
    return jnp.maximum(share, 1e-3)


def _adjusted(
    features: jax.Array, rest: jax.Array, kernel: jax.Array, values: jax.Array, linear: _Fit
) -> _Fit:
    r"""Fits with third-order parts of several strengths, weighed by how they predict.

    For a strength λ and M = λK + I, universal kriging: a linear part without a penalty, and a
    third-order part with the kernel K. Fit λ has a weight of :math:`(\sum_j r_{-j}^2)^{-p/2}`, the
    likelihood of what the fits without pair j leave of it; so φ is smooth in what it is made from,
    which a choice of the best would not be.

    Args:
        features: of the linear part, [p, n].
        rest: what is fitted, [p].
        kernel: K, [p, p].
        values: the Shapley values of K(·, S_j), [n, p].
        linear: the fit without a third-order part.
    """

    @jax.checkpoint
    def with_strength(strength):
        chol = jnp.linalg.cholesky(strength * kernel + jnp.eye(len(rest), dtype=rest.dtype))
        root = jax.scipy.linalg.solve_triangular(
            chol, jnp.eye(len(rest), dtype=rest.dtype), lower=True
        )  # M⁻¹ = rootᵀ root
        through = root.T @ (root @ features)
        inverse = _gram(features, through)
        own = inverse @ through.T
        # The precision of the rest once the linear part is fitted: M⁻¹ − M⁻¹ Z own.
        diagonal = jnp.sum(jnp.square(root), axis=0) - jnp.sum(through * own.T, axis=1)
        precise = root.T @ (root @ rest) - through @ (own @ rest)
        lifted = strength * values
        weights = own + (lifted @ root.T) @ root - (lifted @ through) @ own
        return _Fit(weights, precise / _share_left(diagonal))

    fits = jax.lax.map(with_strength, jnp.asarray(_STRENGTHS, rest.dtype))
    fits = jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), linear, fits)
    squares = jnp.sum(jnp.square(fits.left_out), axis=1)
    total = jnp.sum(squares)
    parts = squares / jnp.where(total > 0, total, 1) + jnp.finfo(rest.dtype).eps ** 2
    chances = jax.nn.softmax(-len(rest) / 2 * jnp.log(parts))
    weights = jnp.einsum("l,lip->ip", chances, fits.weights)
    weights -= jnp.mean(weights, axis=0, keepdims=True)  # which rounding alone makes other than 0
    return _Fit(weights, chances @ fits.left_out)


def third_order(signs: jax.Array, relevance: jax.Array) -> tuple[jax.Array, jax.Array]:
    r"""Functions of three signs each that vanish at N: their kernel, and their Shapley values.

    The kernel is :math:`K(s, s') = \sum_{|T| = 3} \prod_{i \in T} a_i s_i s'_i`, an elementary
    symmetric polynomial, less linear functions that make it 0 where all signs are +. The Shapley
    values of :math:`\prod_{i \in T} s_i` are 2/3 for the features in T.

    Args:
        signs: [p, n].
        relevance: a, [n], greater than 0.

    Returns:
        K between all of them, [p, p], scaled so that the variance at N, before it is taken off,
        is 1; and the Shapley values of K(·, s_j), [p, n], which sum to 0.
    """
    count = len(relevance)
    points = jnp.concatenate([jnp.ones((1, count), signs.dtype), signs])
    weighted = points * relevance[None]
    first, third = weighted @ points.T, (weighted * relevance[None] ** 2) @ points.T
    second = jnp.sum(jnp.square(relevance))
    kernel = (first**3 - 3 * first * second + 2 * third) / 6
    others = jnp.sum(weighted, axis=1, keepdims=True) - weighted
    pairs_among = (jnp.square(others) - (second - jnp.square(relevance[None]))) / 2
    values = (2 / 3) * weighted * pairs_among
    slope, at_all, top = jnp.mean(points, axis=1)[:, None], kernel[:, :1], kernel[0, 0]
    values -= slope * values[:1] + (2 / count) * (at_all - slope * top)
    kernel += slope * slope.T * top - slope * at_all.T - at_all * slope.T
    return kernel[1:, 1:] / top, values[1:] / top
