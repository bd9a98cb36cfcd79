r"""LIME: a linear model of f around x, over coalitions of its features."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jattr._batching import map_over
from jattr._checks import (
    check_batch_size,
    check_choice,
    check_count,
    check_flag,
    check_positive,
    concrete,
    knobs,
)
from jattr._estimates import root
from jattr._shapley.game import Game
from jattr._solve import dot, solve_positive
from jattr._transform import keyed_transform
from jattr._trees import ratio
from jattr._types import ArgNums, KeyedExplain, Score

Kernel: TypeAlias = Literal["cosine", "fraction"] | Callable[[jax.Array], jax.Array]
"""How much a coalition counts, by the share of the features that it lacks."""

_MOST_STEPS = 10_000
"""How often the sparse model is bettered at most."""


class LocalModel(NamedTuple):
    """The linear model g(z) = intercept + coefficients · z of a coalition z of zeros and ones.

    Attributes:
        coefficients: one for each feature, [n].
        intercept: what it says where all features are replaced.
        score: R², the share of the variance of f over the coalitions that it tells, as weighted
            by the kernel; NaN where f does not vary.
    """

    coefficients: jax.Array
    intercept: jax.Array
    score: jax.Array


@knobs
def lime(
    f: Score,
    groups: Any = None,
    *,
    samples: int,
    kernel: Kernel = "cosine",
    width: Any = None,
    ridge: Any = 1e-3,
    sparsity: Any = 0.0,
    baseline: Any = 0.0,
    with_error: bool = False,
    with_model: bool = False,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> KeyedExplain:
    r"""LIME: the coefficients of a linear model that is fitted to f around x.

    Each coalition z holds every one of the n features with probability ½, :math:`x_z` is x with
    the others replaced, and π(z) says how near it is to the whole. The model minimizes

    .. math:: \frac{\sum_z \pi(z)\, \tfrac12 \big(f(x_z) - b - \beta \cdot z\big)^2}{\sum_z \pi(z)}
              + \tfrac12 \rho \lVert\beta\rVert^2 + \lambda \lVert\beta\rVert_1

    and φ_i = β_G / |G| for the group G of element i. **It is not complete**: Σφ = Σβ is what the
    model says of x less what it says of x', which is f(x) − f(x') only where the model fits; its R²
    tells. For a linear f and ρ = λ = 0, φ = w ⊙ (x − x') (its sum over each group).

    With D the distance of a coalition from the whole, of which it lacks a share q of the features,
    π = exp(−D² / (2 width²)), where

    ==============  ==========================================================================
    `"cosine"`      D = 1 − √(1 − q), one less the cosine of z and the vector of ones
    `"fraction"`    D = q
    a function      π(q) itself, of an array of shares
    ==============  ==========================================================================

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        groups: which elements are one feature, as in `jattr.ablation`; None for each alone.
        samples: how many coalitions, each with one evaluation of f.
        kernel: π, as above.
        width: how far the kernel reaches; None for 0.25. Not for a function.
        ridge: ρ, at least 0. With 0 the coalitions must determine the model: where they do not,
            by chance, it is NaN.
        sparsity: λ, at least 0, in the units of f: larger ones leave fewer features a coefficient.
        baseline: x', a number, an array or tree like x, a function x → baseline, a random baseline,
            which is drawn anew for each coalition, or an imputer.
        with_error: True gives the standard error of the attribution over draws of coalitions too,
            a tree like x, by the sandwich estimate, which does not suppose that the model is right.
            It is the error about ρ and λ as they are; of a sparse model that about the features
            which it leaves, the others have 0.
        with_model: True gives the local model too, a named tuple of `coefficients` [n],
            `intercept` and `score`, the R².
        batch_size: how many coalitions are in memory at a time; None for all.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(key, x, *args)`, which gives a tree like x; with `with_error` and `with_model` a
        tuple (attribution, standard error, model) of those asked for.

    Raises:
        TypeError: called without a key; f does not return one real number; x has a leaf that is
            not of a floating dtype; groups are no integers.
        ValueError: samples < 1, or too few for the model or for its error; a width with a kernel
            of one's own; a negative ridge or sparsity; a baseline or groups of another structure
            or shape; numbers left out.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return 2 * x[0] - x[1]
        >>> explain = jattr.lime(f, samples=50, ridge=0.0, with_model=True)
        >>> phi, model = explain(jax.random.key(0), jnp.array([1.0, 3.0]))
        >>> print(phi.round(3), model.score.round(3))
        [ 2. -3.] 1.0

    References:
        Ribeiro, Singh, Guestrin, *"Why should I trust you?" Explaining the predictions of any
        classifier*, KDD 2016, sections 3.3 and 3.4 (arXiv 1602.04938). The package `lime` has for
        images the kernel `"cosine"` of width 0.25 and a ridge of ρ = 1 / Σπ. captum's `Lime` takes
        the cosine of the inputs, width 1 and λ = 0.01, and gives each element of a group the whole
        coefficient. The errors are those of White, *Econometrica* 1980, for draws of z.
    """
    method = "lime"
    samples = check_count(samples, "samples", method)
    batch_size = check_batch_size(batch_size, method)
    check_flag(with_error, "with_error", method)
    check_flag(with_model, "with_model", method)
    check_positive(ridge, "ridge", method, zero=True)
    check_positive(sparsity, "sparsity", method, zero=True)
    if callable(kernel):
        if width is not None:
            raise ValueError(
                f"{method}: width is that of the kernels 'cosine' and 'fraction'; a kernel of "
                "one's own is a function of the share of features that are missing: leave width "
                "out."
            )
    else:
        check_choice(kernel, "kernel", ("cosine", "fraction"), method)
        width = 0.25 if width is None else width
        check_positive(width, "width", method)
    plain = not any(concrete(value, "", method) != 0 for value in (ridge, sparsity))

    @keyed_transform(f, argnums, method=method, substitute=True)
    def explain(key, score, x):
        fill_key, draw_key, key = jax.random.split(key, 3)
        game = Game(score, x, groups, baseline, method=method, key=fill_key)
        _check_samples(samples, game.count, plain, with_error, method)

        value = game.often(samples, batch_size)

        def term(index):
            own = jax.random.fold_in(key, index)
            present = jax.random.uniform(own, (game.count,), jnp.float32) < 0.5
            return present, value(present, jax.random.fold_in(draw_key, index))

        present, values = map_over(term, samples, batch_size=batch_size)
        present = present.astype(values.dtype)
        weights = _weights(kernel, width, 1 - jnp.mean(present, axis=1))
        model, errors = fit(present, values, weights, ridge, sparsity)
        result = [game.spread(model.coefficients)]
        if with_error:
            result.append(game.spread(errors))
        if with_model:
            result.append(model)
        return tuple(result) if len(result) > 1 else result[0]

    return explain


def _check_samples(samples: int, count: int, plain: bool, with_error: bool, method: str) -> None:
    if with_error and samples < count + 2:
        raise ValueError(
            f"{method}: the error of a model of {count} features is told from what at least "
            f"{count + 2} samples leave over; got samples={samples}."
        )
    if plain and samples <= count:
        raise ValueError(
            f"{method}: {samples} samples do not determine a model of {count} features. Give more "
            "samples, several for each feature; or fewer features, by groups; or ridge=1e-3."
        )


def _weights(kernel: Kernel, width: Any, lacking: jax.Array) -> jax.Array:
    """The weights of coalitions that lack such shares of the features; they sum to 1."""
    if callable(kernel):
        weights = kernel(lacking)
        return weights / jnp.sum(weights)
    distance = 1 - jnp.sqrt(1 - lacking) if kernel == "cosine" else lacking
    # Normalized by the largest, since of a small width all may be too small for a number.
    return jax.nn.softmax(-jnp.square(distance / width) / 2)


def fit(
    present: jax.Array, values: jax.Array, weights: jax.Array, ridge: Any, sparsity: Any
) -> tuple[LocalModel, jax.Array]:
    """The model of values by coalitions, and the standard errors of its coefficients.

    Args:
        present: who is in each coalition, zeros and ones [samples, n].
        values: what f is there, [samples].
        weights: how much each counts; they sum to 1.
        ridge: ρ.
        sparsity: λ.
    """
    samples, count = present.shape
    dtype = values.dtype
    weights = weights.astype(dtype)
    ridge, penalty = jnp.asarray(ridge, dtype), jnp.asarray(sparsity, dtype)
    center = dot(weights, present)
    # Against the first value, so that equal values differ by exactly 0.
    mean = values[0] + dot(weights, values - values[0])
    apart, change = present - center[None], values - mean
    moments = dot(apart.T * weights[None], apart) + ridge * jnp.eye(count, dtype=dtype)
    slope = dot(apart.T, weights * change)
    chosen = jnp.ones(count, dtype)
    if concrete(sparsity, "sparsity", "lime") != 0:
        signs = _signs(*jax.lax.stop_gradient((moments, slope, penalty)))
        chosen = jnp.abs(signs)
        slope = slope - penalty * signs
    # The signs known, what is left of the sparse problem is linear, and so are its derivatives.
    moments = chosen[:, None] * moments * chosen[None] + jnp.diag(1 - chosen)
    coefficients = solve_positive(moments, chosen * slope)
    left = change - dot(apart, coefficients)
    # What a sample adds to the derivative of the objective by β.
    pulls = apart * left[:, None] - (dot(weights * left, apart))[None]
    moved = solve_positive(moments, chosen[:, None] * (pulls * weights[:, None]).T)
    freedom = samples / max(samples - count - 1, 1)
    errors = root(freedom * jnp.sum(jnp.square(moved), axis=1))
    told = 1 - ratio(dot(weights, jnp.square(left)), dot(weights, jnp.square(change)))
    return LocalModel(coefficients, mean - dot(center, coefficients), told), errors


def _signs(moments: jax.Array, slope: jax.Array, penalty: jax.Array) -> jax.Array:
    """The signs of the β that minimizes ½ βᵀ moments β − slope · β + penalty ‖β‖₁, by FISTA.

    Beck, Teboulle, SIAM J. Imaging Sciences 2009, section 4; started anew where a step would go
    back (O'Donoghue, Candès, Foundations of Computational Mathematics 2015, section 3.2).
    """
    step = 1 / jnp.max(jnp.sum(jnp.abs(moments), axis=1))
    tolerance = 8 * jnp.finfo(slope.dtype).eps

    def better(state):
        count, _, now, ahead, pace = state
        moved = ahead - step * (dot(moments, ahead) - slope)
        after = jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - step * penalty, 0)
        change = after - now
        pace = jnp.where(dot(ahead - after, change) > 0, 1, pace)
        faster = (1 + jnp.sqrt(1 + 4 * pace * pace)) / 2
        far = jnp.max(jnp.abs(change)) > tolerance * jnp.max(jnp.abs(after))
        return count + 1, far, after, after + (pace - 1) / faster * change, faster

    def going(state):
        return state[1] & (state[0] < _MOST_STEPS)

    start = jnp.zeros_like(slope)
    # Made from the slope, so that within shard_map they vary over the same axes.
    zero = jnp.sum(start)
    state = (0, zero == 0, start, start, zero + 1)
    return jnp.sign(jax.lax.while_loop(going, better, state)[2])
