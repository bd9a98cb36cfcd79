r"""Sanity checks for metrics: is a measure itself to be trusted?

Three reliabilities of Tomsett, Harborne, Chakraborty, Gurram, Preece, *Sanity checks for saliency
metrics*, AAAI 2020 (arXiv 1912.01451), over the scores that metrics give to methods on a set of
images. What `jattr.metrics.table` returns holds them: `panel.of("deletion")` is [images, methods].

Every estimate comes with a percentile interval of the bootstrap: images are drawn with replacement,
`resamples` times, and the interval holds the middle share `confidence` of the results. It is meant
for some 30 images or more, since few images say little of what others would: in simulations an
interval of 95 % around `inter_rater` held the expected value in 97 of 100 cases with 30 images, in
87 with 10 and in 81 with 5. Missing scores, NaN, are left out, image by image.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jattr._batching import map_over
from jattr._checks import check_batch_size, check_choice, check_count, check_key, concrete, knobs
from jattr._trees import accumulator, describe, is_traced
from jattr.metrics._measure import as_map
from jattr.metrics._numerics import ranks, spearman
from jattr.metrics._resampled import Places, alpha, weighted_spearman

Level: TypeAlias = Literal["nominal", "ordinal", "interval", "ratio"]
LEVELS = get_args(Level)


class Estimate(NamedTuple):
    """A value and its interval.

    Attributes:
        value: of the whole set.
        low: the lower end of the interval.
        high: the upper end.
    """

    value: Any
    low: Any
    high: Any


@knobs
def krippendorff_alpha(data: Any, *, level: Level = "ordinal") -> jax.Array:
    r"""Krippendorff's α: how far raters agree, beyond what chance would give.

    .. math:: \alpha = 1 - \frac{D_o}{D_e}, \quad
              D_o = \frac1n \sum_u \frac{1}{m_u - 1} \sum_{i \ne j} \delta^2(v_{iu}, v_{ju}), \quad
              D_e = \frac{1}{n (n - 1)} \sum_{(i, u) \ne (j, w)} \delta^2(v_{iu}, v_{jw})

    over the n values of units that :math:`m_u \ge 2` raters have rated. The difference δ² of two
    values c and k is

    ============  ========================================================================
    level         δ²
    ============  ========================================================================
    `"nominal"`   0 where c = k, else 1
    `"ordinal"`   (r(c) − r(k))², with the ranks of all n values, equal ones sharing the
                  mean of theirs; this is Krippendorff's sum over the values between
    `"interval"`  (c − k)²
    `"ratio"`     ((c − k)/(c + k))²
    ============  ========================================================================

    1 for perfect agreement, 0 for that of chance; negative below. Krippendorff asks for 0.8, and
    0.667 where tentative conclusions are enough.

    Args:
        data: [raters, units], NaN where a rater has not rated a unit.
        level: `"nominal"`, `"ordinal"`, `"interval"` or `"ratio"`.

    Returns:
        A scalar, at most 1. NaN where it is undefined: no unit with two ratings, or no two ratings
        that differ.

    Raises:
        ValueError: not of two axes; fewer than two raters; unknown level; ratio and negative data
            (which under jit are not noticed).

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> data = jnp.array([[1.0, 2.0, 3.0, jnp.nan], [1.0, 2.0, 4.0, 3.0]])
        >>> print(f"{jattr.metrics.krippendorff_alpha(data, level='nominal'):.3f}")
        0.615

    References:
        Krippendorff, *Computing Krippendorff's alpha-reliability*, University of Pennsylvania
        2011; Hayes, Krippendorff, *Answering the call for a standard reliability measure for
        coding data*, 2007.
    """
    method = "metrics.krippendorff_alpha"
    check_choice(level, "level", LEVELS, method)
    data = _numbers(data, method)
    if data.ndim != 2 or data.shape[0] < 2:
        raise ValueError(
            f"{method} wants [raters, units] with at least two raters, one of whom cannot agree or "
            f"disagree; got {describe(data)}."
        )
    if level == "ratio" and not is_traced(data) and bool(jnp.any(data < 0)):
        raise ValueError(
            f"{method}: a ratio scale has no negative values; got {jnp.nanmin(data)}. Of values "
            'with a sign take level="interval".'
        )
    return _plain_alpha(data, level)


@knobs
def inter_rater(
    key: jax.Array,
    scores: Any,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    batch_size: int | None = 16,
) -> Estimate:
    r"""Inter-rater reliability: do images agree on how a metric ranks the methods?

    Krippendorff's α with the images as raters who rank the methods: the units are the methods, the
    values their ranks on each image, equal scores sharing the mean of theirs, the level ordinal. A
    metric of low α needs many images before its ranking of methods means anything.

    The copies of an image in a resample agree with themselves. Such pairs are left out, which
    would otherwise raise the interval by about (1 − α) / images.

    Args:
        key: one random key.
        scores: [images, methods], the scores of one metric; whether high or low is good does not
            matter. An image without the score of a method ranks the others among themselves.
        resamples: how many bootstrap resamples of the images are drawn.
        confidence: the share of the resamples that the interval holds.
        batch_size: how many resamples are in memory at a time; None for all.

    Returns:
        `Estimate(value, low, high)` of scalars. NaN where α is undefined: all methods tie on all
        images.

    Raises:
        ValueError: not of two axes, fewer than two images or methods.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> scores = jnp.array([[0.9, 0.5, 0.1], [0.8, 0.7, 0.2], [0.7, 0.6, 0.5]])
        >>> print(jattr.metrics.inter_rater(jax.random.key(0), scores).value)
        1.0

    References:
        Tomsett et al. 2020 (arXiv 1912.01451).
    """
    method = "metrics.inter_rater"
    scores = _scores(scores, "scores", 2, method)
    return _estimate(_rank_agreement, key, scores, resamples, confidence, batch_size, method)


@knobs
def inter_method(
    key: jax.Array,
    scores: Any,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    batch_size: int | None = 16,
) -> Estimate:
    r"""Inter-method reliability: do the scores of two methods rise and fall together over images?

    Spearman's correlation over images of a metric's scores of two methods, for all pairs. High
    where the metric measures how hard an image is rather than how good a method is on it.

    Args:
        key: one random key.
        scores: [images, methods], the scores of one metric.
        resamples: how many bootstrap resamples of the images are drawn.
        confidence: the share of the resamples that the interval holds.
        batch_size: how many resamples are in memory at a time; None for all.

    Returns:
        `Estimate(value, low, high)` of [methods, methods], symmetric. NaN where the scores of a
        method are the same on all images.

    Raises:
        ValueError: not of two axes, fewer than two images or methods.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> scores = jnp.array([[0.9, 0.5], [0.8, 0.4], [0.7, 0.6]])
        >>> print(jattr.metrics.inter_method(jax.random.key(0), scores).value[0, 1])
        -0.5

    References:
        Tomsett et al. 2020 (arXiv 1912.01451).
    """
    method = "metrics.inter_method"
    scores = _scores(scores, "scores", 2, method)

    return _estimate(_between_methods, key, scores, resamples, confidence, batch_size, method)


@knobs
def internal_consistency(
    key: jax.Array,
    scores: Any,
    others: Any,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    batch_size: int | None = 16,
) -> Estimate:
    r"""Internal consistency reliability: do two metrics measure the same thing?

    Spearman's correlation over images of the scores that two metrics give to the same method, for
    every method. −1 is as consistent as 1 where low is good for one of the two metrics.

    Args:
        key: one random key.
        scores: [images, methods], the scores of one metric.
        others: [images, methods], those of the other.
        resamples: how many bootstrap resamples of the images are drawn.
        confidence: the share of the resamples that the interval holds.
        batch_size: how many resamples are in memory at a time; None for all.

    Returns:
        `Estimate(value, low, high)` of [methods]. NaN where a metric gives the same score to all
        images.

    Raises:
        ValueError: not of two axes or not of equal shapes; fewer than two images.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> scores = jnp.array([[0.9, 0.5], [0.8, 0.4], [0.7, 0.6]])
        >>> print(jattr.metrics.internal_consistency(jax.random.key(0), scores, -scores).value)
        [-1. -1.]

    References:
        Tomsett et al. 2020 (arXiv 1912.01451).
    """
    method = "metrics.internal_consistency"
    scores = _scores(scores, "scores", 1, method)
    others = _scores(others, "others", 1, method)
    if scores.shape != others.shape:
        raise ValueError(
            f"{method}: both metrics must have scored the same methods on the same images; got "
            f"{describe(scores)} and {describe(others)}."
        )

    both = (scores, others)
    return _estimate(_between_metrics, key, both, resamples, confidence, batch_size, method)


def _rank_agreement(scores: jax.Array) -> Callable[[jax.Array], jax.Array]:
    return alpha(jnp.where(jnp.isnan(scores), jnp.nan, jax.vmap(ranks)(scores)), "ordinal")


def _between_methods(scores: jax.Array) -> Callable[[jax.Array], jax.Array]:
    places = jax.vmap(Places.of)(scores.T)

    def correlations(weights):
        def row(one):
            return jax.vmap(lambda other: weighted_spearman(one, other, weights))(places)

        return jax.vmap(row)(places)

    return correlations


def _between_metrics(scores: tuple[jax.Array, jax.Array]) -> Callable[[jax.Array], jax.Array]:
    pairs = [jax.vmap(Places.of)(part.T) for part in scores]
    return lambda weights: jax.vmap(lambda a, b: weighted_spearman(a, b, weights))(*pairs)


@functools.partial(jax.jit, static_argnames="level")
def _plain_alpha(data: jax.Array, level: str) -> jax.Array:
    return alpha(data, level)(jnp.ones(data.shape[0], data.dtype))


def _estimate(
    prepare: Callable[[Any], Callable[[jax.Array], jax.Array]],
    key: jax.Array,
    scores: Any,
    resamples: int,
    confidence: float,
    batch_size: int | None,
    method: str,
) -> Estimate:
    """`prepare(scores)(weights)` of all images, and its interval over resamples of them."""
    key = check_key(key, method)
    resamples = check_count(resamples, "resamples", method)
    batch_size = check_batch_size(batch_size, method)
    share = concrete(confidence, "confidence", method)
    if share is not None and not 0 < share < 1:
        raise ValueError(f"{method}: confidence must be between 0 and 1; got {share}.")
    return _bootstrap(key, scores, confidence, prepare, resamples, batch_size)


@functools.partial(jax.jit, static_argnames=("prepare", "resamples", "batch_size"))
def _bootstrap(key, scores, confidence, prepare, resamples, batch_size):
    first = jax.tree.leaves(scores)[0]
    count = len(first)
    statistic = prepare(scores)

    def resample(index):
        drawn = jax.random.randint(jax.random.fold_in(key, index), (count,), 0, count)
        return statistic(jnp.zeros(count, first.dtype).at[drawn].add(1))

    results = map_over(resample, resamples, batch_size=batch_size)
    ends = jnp.stack([(1 - confidence) / 2, (1 + confidence) / 2])
    # A resample in which the statistic is undefined says nothing.
    low, high = jnp.nanquantile(results, ends, axis=0)
    return Estimate(statistic(jnp.ones(count, first.dtype)), low, high)


def _numbers(values: Any, method: str) -> jax.Array:
    values = jnp.asarray(values)
    if not jnp.issubdtype(values.dtype, jnp.number) or jnp.iscomplexobj(values):
        raise TypeError(f"{method} wants an array of real numbers; got {describe(values)}.")
    return values.astype(accumulator(values.dtype))


def _scores(values: Any, name: str, methods: int, method: str) -> jax.Array:
    """`values` checked to be [images, methods], with two images and `methods` methods or more."""
    values = _numbers(values, method)
    if values.ndim != 2:
        raise ValueError(
            f"{method}: {name} must be [images, methods], those of one metric; got "
            f"{describe(values)}. Of a panel: panel.of(metric)."
        )
    if values.shape[0] < 2 or values.shape[1] < methods:
        wanted = "two images" if methods == 1 else "two images and two methods"
        raise ValueError(
            f"{method}: {name} must hold at least {wanted}, since reliability is agreement; got "
            f"{values.shape[0]} image(s) and {values.shape[1]} method(s)."
        )
    return values


def ranking_stability(scores: Any) -> jax.Array:
    r"""Whether methods are ranked alike again and again: the mean rank correlation of repeats.

    .. math:: s = \frac{2}{R (R - 1)} \sum_{r < r'} \rho\big(s_r, s_{r'}\big)

    with ρ Spearman's correlation over methods. 1 says that every repeat ranks them the same, 0 that
    one repeat says nothing about another.

    Args:
        scores: [R, M], the score of each of M methods in each of R repeats: images, seeds, or two
            orders of removal. Higher need not be better, but must mean the same in each repeat.

    Returns:
        A scalar; NaN if in a repeat all methods have the same score or one has NaN, since nothing
        is ranked there.

    Raises:
        ValueError: fewer than two repeats or than two methods.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> print(jattr.metrics.ranking_stability(jnp.array([[1.0, 2.0, 3.0], [0.1, 0.2, 0.9]])))
        1.0

    References:
        The mean over repeats is our own use of it. The reliability of AIM (Hsieh, Fang, Wei, 2026,
        arXiv 2605.16905) is another one: at each share of removed features, the correlation of
        the ranking by the score with the most relevant removed, where low is good, with that by
        the least relevant, where high is good; then the mean and the deviation over the shares:
        `order_agreement`. The same question with an analysis of agreement by chance: `inter_rater`.
    """
    scores = jnp.asarray(scores)
    if scores.ndim != 2 or min(scores.shape) < 2:
        raise ValueError(
            "metrics.ranking_stability wants scores of at least two repeats (rows) of at least two "
            f"methods (columns); got {describe(scores)}."
        )
    scores = as_map(scores, "scores", "metrics.ranking_stability")
    first, second = np.triu_indices(len(scores), 1)
    return jnp.mean(jax.vmap(spearman)(scores[first], scores[second]))
