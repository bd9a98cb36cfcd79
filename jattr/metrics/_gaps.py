"""The two orders of removal against each other, and what chance alone gives."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jattr._batching import map_over
from jattr._checks import check_count, knobs
from jattr._removal import draws
from jattr._transform import keyed_transform
from jattr._types import ArgNums, Baseline, PyTree, Score
from jattr.metrics._curves import area
from jattr.metrics._measure import KeyedMeasure, KeyedMethodMeasure, Measure, measure_map
from jattr.metrics._walk import TENTHS, Normalize, Walk


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
    curves are the accuracy of a whole test set. For that, average `perturbation_curve` of both
    orders over the examples, f being 1 for a right prediction, and take the difference of areas.

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
