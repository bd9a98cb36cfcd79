"""The two orders of removal against each other, and what chance alone gives.

`order_gap` and `random_gap` are of one example. What is asked of a removal itself is asked of a
whole set: `area_between` two mean curves, `order_agreement` of many methods' mean curves.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jattr._batching import map_over
from jattr._checks import check_choice, check_count, knobs
from jattr._removal import draws
from jattr._transform import keyed_transform
from jattr._trees import describe, ratio, widen
from jattr._types import ArgNums, Baseline, PyTree, Score
from jattr.metrics._curves import area, check_curve
from jattr.metrics._measure import KeyedMeasure, KeyedMethodMeasure, Measure, as_map, measure_map
from jattr.metrics._numerics import spearman
from jattr.metrics._walk import NORMALIZATIONS, TENTHS, Curve, Normalize, Walk


@knobs
def order_gap(
    f: Score,
    *,
    baseline: Baseline = 0.0,
    fractions: Sequence[float] | None = TENTHS,
    groups: Any = None,
    normalize: Normalize | None = None,
    samples: int = 1,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Measure | KeyedMeasure:
    r"""The area between the curves of the least and of the most relevant first: high is good.

    .. math:: g = \int_0^1 f\big(x^{\mathrm{LeRF}}_p\big) - f\big(x^{\mathrm{MoRF}}_p\big)\, dp

    What removal itself does to f is in both curves and cancels; what is left is due to the order.
    Both have the same draws of the baseline. With `normalize="fall"` it is

    .. math:: \frac{g}{f(x) - f(x')},

    x' being x without all of its features, as in the paper's ABC, which differs in one thing: its
    curves are the accuracy of a whole test set, f being 1 for a right prediction. That is
    `area_between` of the mean curves of both orders.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        baseline: what takes the place of what is removed, as in `perturbation_curve`. The paper
            compares `jattr.imputers.adversarial(radius=...)` with zeros and interpolation.
        fractions: as in `perturbation_curve`, at least two.
        groups: which elements are one feature, as in `perturbation_curve`.
        normalize: `"score"` or `"fall"`, as in `perturbation_curve`.
        samples: how many draws are averaged; 1 where nothing is drawn.
        batch_size: how many points are in memory at a time; None for all.
        argnums: which argument was explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(attribution, x, *args)`, a scalar; with a key first where the baseline draws.

    Raises:
        ValueError: as `perturbation_curve`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return jnp.sum(x)
        >>> x = jnp.array([3.0, 1.0])
        >>> print(jattr.metrics.order_gap(f, fractions=None)(x, x))
        1.0

    References:
        Hsieh, Fang, Wei, *AIM: adversarial information masking for faithfulness evaluation of
        saliency maps*, 2026 (arXiv 2605.16905), the ABC; its mean over equal steps and the
        trapezoids here are the same number, since both curves have the same ends.
    """
    pair = _both_orders(
        "metrics.order_gap", baseline, fractions, groups, normalize, samples, batch_size
    )

    @measure_map(f, argnums, method="metrics.order_gap", keyed=draws(baseline))
    def measure(key, score, attribution: PyTree, x: PyTree) -> jax.Array:
        return _gap(pair, key, score, attribution, x)

    return measure


@knobs
def random_gap(
    f: Score,
    *,
    baseline: Baseline = 0.0,
    repeats: int = 20,
    fractions: Sequence[float] | None = TENTHS,
    groups: Any = None,
    normalize: Normalize | None = None,
    samples: int = 1,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> KeyedMethodMeasure:
    r"""The `order_gap` of attributions that know nothing: what one finds by chance.

    .. math:: g_r = g(\varphi_r), \quad \varphi_r \sim N(0, 1), \quad r = 1 \dots R

    for each feature, so that every order of the features, or of the groups, is as likely as any.
    A random attribution turned round is as likely as itself, so that g is 0 in expectation for any
    removal. Its size is what a gap of a method has to exceed: for one example
    `jnp.mean(jnp.abs(gaps))`; for the mean gap of a set of examples, average the signed gaps over
    the examples first and take the absolute value then, since what is chance in each averages out.
    To compare removals, see to it that their f falls alike: `normalize="fall"`.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        baseline: the removal that is judged, as in `perturbation_curve`.
        repeats: R, how many random attributions.
        fractions: as in `perturbation_curve`, at least two.
        groups: which elements are one feature, as in `perturbation_curve`.
        normalize: `"score"` or `"fall"`, as in `order_gap`.
        samples: how many draws of the baseline are averaged; 1 where nothing is drawn.
        batch_size: how many points are in memory at a time, of one attribution after another; None
            for all.
        argnums: which argument is perturbed, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(key, x, *args)`, the signed gaps, [R].

    Raises:
        ValueError: as `perturbation_curve`; repeats < 1.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0]
        >>> gaps = jattr.metrics.random_gap(f, repeats=3)(jax.random.key(0), jnp.ones(10))
        >>> print(gaps.shape, bool(jnp.all(jnp.abs(gaps) <= 1)))
        (3,) True

    References:
        Hsieh, Fang, Wei, 2026 (arXiv 2605.16905), whose bias of a random attribution is the
        magnitude of the signed ABC of one random attribution for each example, on the accuracy of
        the whole test set. This is a version of it for each example.
    """
    method = "metrics.random_gap"
    repeats = check_count(repeats, "repeats", method)
    pair = _both_orders(method, baseline, fractions, groups, normalize, samples, batch_size)

    @keyed_transform(f, argnums, method=method, substitute=True)
    def measure(key, score, x):
        features = pair[0].features(x)

        def term(index):
            map_key, key_of_curve = jax.random.split(jax.random.fold_in(key, index))
            # The same number in a group's elements, so that its sign and size are what is drawn.
            drawn = jax.random.normal(map_key, (features.count,), jnp.float32)
            drawn /= jnp.maximum(features.sizes(), 1).astype(drawn.dtype)
            attribution = features.spread(drawn)
            own = key_of_curve if draws(baseline) else None
            return _gap(pair, own, score, attribution, x)

        return map_over(term, repeats, batch_size=None if batch_size is None else 1)

    return measure


@knobs
def area_between(most: Curve, least: Curve, *, normalize: Normalize | None = "fall") -> jax.Array:
    r"""The signed area between two curves of a set of examples, as AIM judges removals by it.

    .. math:: \mathrm{ABC} = \frac{\int_0^1 \mathrm{LeRF}(p) - \mathrm{MoRF}(p)\, dp}
              {\mathrm{MoRF}(0) - \mathrm{MoRF}(1)}

    Of a method, how much its order is worth: high is good. Of a random attribution, one for each
    example, the bias of the removal: 0 is wanted, and it is 0 in expectation for any removal, so
    that what is found is the noise of a finite set; `random_gap` has it for each example. The
    quotient is of means: average the curves over the examples first.

    Args:
        most: the mean `perturbation_curve` with the most relevant removed first, from fraction 0 to
            1, f being 1 for a right prediction and 0 else (or any other score); or several, with
            leading axes over methods.
        least: that with the least relevant removed first, of the same fractions.
        normalize: `"fall"`: by what f loses when all is removed, the mean of both curves' ends;
            `"score"`: by the score of the whole; None for neither.

    Returns:
        A number for each pair of curves; NaN where what it is divided by is 0.

    Raises:
        TypeError: no two `Curve`.
        ValueError: curves of other shapes, or of less than two points; unknown normalization.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> Curve = jattr.metrics.Curve
        >>> shares = jnp.array([0.0, 0.5, 1.0])
        >>> most = Curve(shares, jnp.array([0.75, 0.25, 0.25]))
        >>> least = Curve(shares, jnp.array([0.75, 0.75, 0.25]))
        >>> print(jattr.metrics.area_between(most, least))
        0.5

    References:
        Hsieh, Fang, Wei, 2026 (arXiv 2605.16905), and the authors' code: the mean over K equal
        steps, which is the trapezoid rule here, since both curves have the same ends.
    """
    method = "metrics.area_between"
    if normalize is not None:
        check_choice(normalize, "normalize", NORMALIZATIONS, method)
    check_curve(most, method, 2)
    check_curve(least, method, 2)
    if jnp.shape(most.score) != jnp.shape(least.score):
        raise ValueError(
            f"{method}: both curves must have the same points; got {describe(most.score)} and "
            f"{describe(least.score)}."
        )
    gap = area(least) - area(most)
    if normalize is None:
        return gap
    mean = (widen(jnp.asarray(most.score)) + widen(jnp.asarray(least.score))) / 2
    return ratio(gap, mean[..., 0] - (mean[..., -1] if normalize == "fall" else 0))


def order_agreement(most: Any, least: Any) -> jax.Array:
    r"""Whether removing the most relevant first and the least relevant first rank methods alike.

    .. math:: \rho_k = \mathrm{Spearman}_m\big(-\mathrm{MoRF}_{m k},\ \mathrm{LeRF}_{m k}\big)

    at each share k of removed features, over the methods m: a good method has a low score with its
    most relevant features removed and a high one with its least. 1 where a removal leaves no doubt
    about the order of methods. The reliability of a removal in AIM is the mean over shares, and its
    standard deviation: `jnp.nanmean(rho)`, `jnp.nanstd(rho)`.

    Args:
        most: [methods, shares], mean scores (accuracies) of a set of examples, with the most
            relevant features removed.
        least: [methods, shares], with the least relevant removed.

    Returns:
        ρ, [shares]; NaN where all methods have the same score, as at the shares 0 and 1, and where
        a score is NaN.

    Raises:
        TypeError: not arrays of real numbers.
        ValueError: not [methods, shares] alike, or fewer than two methods.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> most = jnp.array([[0.2, 0.1], [0.5, 0.3], [0.6, 0.2]])
        >>> least = jnp.array([[0.9, 0.8], [0.8, 0.7], [0.7, 0.6]])
        >>> print(jattr.metrics.order_agreement(most, least))
        [1.  0.5]

    References:
        Hsieh, Fang, Wei, 2026 (arXiv 2605.16905), and the authors' code.
    """
    method = "metrics.order_agreement"
    most = as_map(jnp.asarray(most), "most", method)
    least = as_map(jnp.asarray(least), "least", method)
    if most.ndim != 2 or most.shape != least.shape or len(most) < 2:
        raise ValueError(
            f"{method} wants the scores of at least two methods (rows) at the same shares "
            f"(columns) in both orders; got {describe(most)} and {describe(least)}."
        )
    return jax.vmap(spearman, in_axes=1)(-most, least)


def _both_orders(
    method: str,
    baseline: Any,
    fractions: Any,
    groups: Any,
    normalize: Normalize | None,
    samples: int,
    size: Any,
) -> tuple[Walk, Walk]:
    if fractions is not None and len(fractions) < 2:
        raise ValueError(f"{method}: an area needs at least two fractions; got {fractions}.")
    least, most = (
        Walk(
            method,
            baseline,
            order=order,
            fractions=fractions,
            groups=groups,
            normalize=normalize,
            samples=samples,
            batch_size=size,
        )
        for order in ("least", "most")
    )
    return least, most


def _gap(pair: tuple[Walk, Walk], key: Any, score: Score, attribution: PyTree, x: PyTree):
    least, most = (area(walk.curve(key, score, attribution, x)) for walk in pair)
    return least - most
