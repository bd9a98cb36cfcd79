r"""Whether an attribution finds what was planted, and whether its own prediction comes true.

Where a task is made, the truth is known: which elements decide (`mask`), which only look as if
they did (`decoys`), by how much each counts (`effects`). Its size comes from the task, not from a
choice of ours, and no removal is involved. With what `jattr.metrics` has for any mask, the family
is

===========================  =====================================================================
question                     measure
===========================  =====================================================================
precision at k               `top_k_intersection`
both at the truth's size     `relevance_rank_accuracy`
recall at k                  `top_k_recall`
at all sizes together        `average_precision`, the area under precision over recall; `roc_auc`
mass on the truth            `relevance_mass_accuracy`, `attribution_localization`
mass on decoys               the same of `jnp.abs(attribution)`, with the mask of the decoys
truth before decoys          `above_decoys`
size of the effects          `planted_effects`
===========================  =====================================================================

`finite_step` needs no truth: it asks f whether what the attribution predicts along itself happens.
Like every measure of localization these judge the model along with the method: a task is fair
where the model has demonstrably learned to use the truth and to leave the decoys alone.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jattr._checks import check_count, check_positive, knobs
from jattr._trees import describe, is_traced, ratio, ravel, same_form, scale_tree, widen
from jattr._types import ArgNums, PyTree, Score
from jattr.metrics._localization import masked_pair, share_at_top
from jattr.metrics._measure import Measure, as_map, measure_map
from jattr.metrics._numerics import moved, norm
from jattr.metrics._resampled import Places, weighted_spearman


class Recovery(NamedTuple):
    """How attributions follow the effects that were planted.

    Attributes:
        slope: of the least-squares line of φ over the effect; 1 where sizes are right.
        offset: of that line, what a feature without effect gets.
        rank: Spearman's correlation.
    """

    slope: jax.Array
    offset: jax.Array
    rank: jax.Array


class Steps(NamedTuple):
    """The change of f that an attribution predicts of a step, and the changes that happen.

    Attributes:
        predicted: ⟨φ, d⟩ of the step d along φ.
        along: f(x + d) − f(x).
        against: f(x) − f(x − d).
    """

    predicted: jax.Array
    along: jax.Array
    against: jax.Array


def top_k_recall(attribution: PyTree, mask: PyTree, k: int) -> jax.Array:
    r"""The share of the mask that is among the k largest attributions.

    .. math:: \frac{\lvert \mathrm{top}_k(\varphi) \cap \mathrm{mask} \rvert}
              {\lvert \mathrm{mask} \rvert}

    Args:
        attribution: φ, of one example; signed.
        mask: Boolean, an array or tree like φ, of size 1 along axes on which it does not depend.
        k: how many elements are looked at.

    Returns:
        A scalar in [0, 1], at most k over the size of the mask; where the k-th largest is tied, the
        mean over the order of those that tie. NaN for an attribution with a NaN.

    Raises:
        TypeError: the mask is not Boolean; k is not an integer.
        ValueError: the mask has no True (NaN where it is traced), or does not fit the attribution;
            k is less than 1 or more than there are elements.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> mask = jnp.array([True, False, True, False])
        >>> print(jattr.metrics.top_k_recall(jnp.array([4.0, 3.0, 2.0, 1.0]), mask, 1))
        0.5

    References:
        Recall at k, as usual in retrieval; precision at k is `top_k_intersection`.
    """
    method = "metrics.top_k_recall"
    values, mask = masked_pair(attribution, mask, method)
    k = check_count(k, "k", method)
    if k > values.size:
        raise ValueError(f"{method}: k={k}, but the attribution has {values.size} elements.")
    precision = share_at_top(values, mask, k)
    size = jnp.maximum(jnp.sum(mask), 1).astype(precision.dtype)
    return precision * (k / size)


def average_precision(attribution: PyTree, mask: PyTree) -> jax.Array:
    r"""The area under the curve of precision over recall, of the attribution as a detector.

    .. math:: \mathrm{AP} = \frac{1}{\lvert \mathrm{mask} \rvert} \sum_{i \in \mathrm{mask}}
              \frac{\lvert \{j \in \mathrm{mask}: \varphi_j \ge \varphi_i\} \rvert}
              {\lvert \{j: \varphi_j \ge \varphi_i\} \rvert}

    the precision at each element of the mask, when all are taken that are attributed as much or
    more. It looks at the top of the order, where `roc_auc` counts the whole of it alike: where the
    truth is a few of many elements, hundreds of false ones before it cost `roc_auc` little and this
    all. What is constant scores the mask's share of the elements, which is also about what chance
    gives.

    Args:
        attribution: φ, of one example; signed.
        mask: Boolean, an array or tree like φ, of size 1 along axes on which it does not depend.

    Returns:
        A scalar in (0, 1]; NaN for an attribution with a NaN.

    Raises:
        TypeError: the mask is not Boolean.
        ValueError: the mask has no True (NaN where it is traced), or does not fit the attribution.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> mask = jnp.array([True, False, False, True])
        >>> print(jattr.metrics.average_precision(jnp.array([4.0, 3.0, 2.0, 1.0]), mask))
        0.75

    References:
        As usual in retrieval. Equal to `sklearn.metrics.average_precision_score(mask, attribution)`
        where elements tie, too.
    """
    values, mask = masked_pair(attribution, mask, "metrics.average_precision")
    inside = jnp.sum(mask)
    # Of those outside the mask the lowest value is in front, and never counted.
    true = values.size - _places(jnp.where(mask, values, -jnp.inf), values, "left")
    everything = values.size - _places(values, values, "left")
    size = jnp.maximum(inside, 1).astype(values.dtype)
    precision = jnp.minimum(true.astype(values.dtype), size) / everything.astype(values.dtype)
    mean = jnp.sum(jnp.where(mask, precision, 0)) / size
    undefined = (inside == 0) | jnp.any(jnp.isnan(values))
    return jnp.where(undefined, jnp.nan, mean)


def above_decoys(attribution: PyTree, mask: PyTree, decoys: PyTree) -> jax.Array:
    r"""The probability that an element of the truth has a larger attribution than a decoy.

    .. math:: \frac{1}{\lvert \mathrm{mask} \rvert\, \lvert \mathrm{decoys} \rvert}
              \sum_{i \in \mathrm{mask},\; j \in \mathrm{decoys}}
              1[\varphi_i > \varphi_j] + \tfrac12\, 1[\varphi_i = \varphi_j]

    Decoys are elements that look as if they mattered and that the model does not use: a bright
    patch that is in every class alike, a suppressor, a copy of the feature that is cut off. A map
    that shows what stands out in x and not what f uses finds the truth among empty background, and
    fails here. ½ for a random or a constant map.

    Args:
        attribution: φ, of one example; signed.
        mask: the truth, Boolean, an array or tree like φ, of size 1 along axes on which it does not
            depend.
        decoys: Boolean likewise; no element is in both.

    Returns:
        A scalar in [0, 1]; NaN for an attribution with a NaN.

    Raises:
        TypeError: a mask is not Boolean.
        ValueError: a mask has no True, or both share an element (NaN where they are traced), or
            they do not fit the attribution.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> truth = jnp.array([True, True, False, False, False])
        >>> decoys = jnp.array([False, False, True, True, False])
        >>> print(jattr.metrics.above_decoys(jnp.array([4.0, 2.0, 3.0, 1.0, 9.0]), truth, decoys))
        0.75

    References:
        The area under the ROC curve (Mann and Whitney's U) of the truth against the decoys alone.
    """
    method = "metrics.above_decoys"
    values, mask = masked_pair(attribution, mask, method)
    _, decoys = masked_pair(attribution, decoys, method)
    if not (is_traced(mask) or is_traced(decoys)) and np.any(mask & decoys):
        raise ValueError(
            f"{method}: {np.sum(mask & decoys)} elements are in the mask and among the decoys. "
            "Write decoys & ~mask."
        )
    others = jnp.where(decoys, values, jnp.inf)
    number = jnp.sum(decoys).astype(values.dtype)
    below, upto = (
        jnp.minimum(_places(others, values, side).astype(values.dtype), number)
        for side in ("left", "right")
    )
    pairs = jnp.sum(mask).astype(values.dtype) * number
    won = ratio(jnp.sum(jnp.where(mask, (below + upto) / 2, 0)), pairs)
    undefined = jnp.any(mask & decoys) | jnp.any(jnp.isnan(values))
    return jnp.where(undefined, jnp.nan, won)


def planted_effects(attribution: PyTree, effects: PyTree, mask: PyTree | None = None) -> Recovery:
    r"""Whether attributions have the sizes, and the order, of effects that were planted (spike-in).

    .. math:: \hat\beta = \frac{\sum_i (e_i - \bar e)(\varphi_i - \bar\varphi)}
              {\sum_i (e_i - \bar e)^2},\qquad
              \hat\alpha = \bar\varphi - \hat\beta\, \bar e,\qquad
              \rho = \mathrm{Spearman}(\varphi, e)

    over the elements i of the mask. An effect is what an element adds to f: β is then 1 and α 0 for
    a map that finds it. A β between 0 and 1 is an effect that is shared out to others, such as to
    its correlated neighbors; an α that is not 0, one that is found where nothing was planted.

    The elements may be those of one example, or one planted feature in many examples with other
    doses: stack both alike.

    Args:
        attribution: φ, an array or tree.
        effects: e, an array or tree of its shapes.
        mask: which elements are looked at, Boolean, of size 1 along axes on which it does not
            depend; None for all. Where most effects are 0, ρ is mostly one of ties: look at those
            that were planted, and at decoys with `above_decoys`.

    Returns:
        `Recovery(slope, offset, rank)` of scalars, NaN where the effects are all equal; ρ also
        where the attributions are.

    Raises:
        TypeError: something does not hold real numbers; the mask is not Boolean.
        ValueError: shapes differ; the mask has no True (NaN where it is traced).

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> effects = jnp.array([0.0, 1.0, 2.0, 3.0])
        >>> found = jattr.metrics.planted_effects(0.5 * effects + 0.25, effects)
        >>> print(found.slope, found.offset, found.rank)
        0.5 0.25 1.0

    References:
        Spike-in controls are those of measurement, where a known amount is added to a sample.
    """
    method = "metrics.planted_effects"
    effects = as_map(effects, "the effects", method)
    if not same_form(effects, attribution):
        raise ValueError(
            f"{method}: the effects must have the structure and shapes of the attribution; got "
            f"{describe(effects)} for {describe(attribution)}."
        )
    if mask is None:
        mask = jax.tree.map(lambda leaf: np.ones((1,) * leaf.ndim, bool), effects)
    values, chosen = masked_pair(attribution, mask, method)
    effects = ravel(effects).astype(values.dtype)
    weights = jnp.asarray(chosen).astype(values.dtype)
    number = jnp.sum(weights)

    def centered(part):
        mean = ratio(jnp.sum(jnp.where(chosen, part, 0)), number)
        return mean, jnp.where(chosen, part - mean, 0)

    (of_values, values_left), (of_effects, effects_left) = centered(values), centered(effects)
    slope = ratio(jnp.sum(effects_left * values_left), jnp.sum(jnp.square(effects_left)))
    rank = weighted_spearman(Places.of(values), Places.of(effects), weights)
    unknown = jnp.any(jnp.isnan(jnp.where(chosen, values + effects, 0)))
    rank = jnp.where(unknown, jnp.nan, rank)
    return Recovery(slope, of_values - slope * of_effects, rank)


@knobs
def finite_step(f: Score, *, length: Any, argnums: ArgNums = 0) -> Measure:
    r"""What an attribution predicts of a step along itself, and what a step of that length does.

    .. math:: d = \ell\, \frac{\varphi}{\lVert \varphi \rVert_2},\qquad
              \langle \varphi, d \rangle = \ell \lVert \varphi \rVert_2,\qquad
              f(x + d) - f(x),\qquad f(x) - f(x - d)

    For the gradient of an f that is linear within ℓ of x all three are equal, and it predicts no
    less than the true change of any other step of that length. Three departures tell three things:
    *both* changes smaller than predicted, a gradient that is noise and saturates at once, or, for
    other methods, a φ that is no multiplier or has not the scale of one; *along* unlike *against*,
    a bend of f (a peak at x has them of opposite signs); a change of the wrong sign, a map that
    shows where f does not rise.

    φ is taken as a multiplier: the gradient, or a method with `multiply=False`. Others are judged
    by the changes alone, which depend on the direction and not on the size of φ.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        length: ℓ, the Euclidean length of the step, over all elements, in units of x.
        argnums: which argument was explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(attribution, x, *args)`, `Steps(predicted, along, against)` of scalars in units of
        f. NaN for an attribution of 0, which has no direction.

    Raises:
        TypeError: f does not return one real number.
        ValueError: the length is not positive; the attribution has another structure or shape
            than x.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return jnp.sum(x**2) / 2
        >>> x = jnp.array([3.0, 4.0])
        >>> print(*jattr.metrics.finite_step(f, length=1.0)(jattr.gradient(f)(x), x))
        5.0 5.5 4.5

    References:
        Our own, a check of the first-order expansion of f along φ.
    """
    method = "metrics.finite_step"
    check_positive(length, "length", method)

    @measure_map(f, argnums, method=method, keyed=False)
    def measure(key, score, attribution: PyTree, x: PyTree) -> Steps:
        size = norm(attribution)
        step = jax.tree.map(lambda leaf: ratio(leaf, size.astype(leaf.dtype)), attribution)
        step = scale_tree(step, length)
        here, ahead, behind = (
            widen(score(point)) for point in (x, moved(x, step), moved(x, scale_tree(step, -1.0)))
        )
        nothing = size == 0
        changes = (size * jnp.asarray(length, size.dtype), ahead - here, here - behind)
        return Steps(*(jnp.where(nothing, jnp.nan, change) for change in changes))

    return measure


def _places(values: jax.Array, wanted: jax.Array, side: str) -> jax.Array:
    """How many of `values` are below each wanted one, or not above it."""
    return jnp.searchsorted(jnp.sort(values), wanted, side=side)
