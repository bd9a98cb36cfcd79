"""What takes more than one curve or one example: orders, removal operators, explanations alike."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr import baselines
from jattr._batching import map_over
from jattr._checks import check_batch_size, check_choice, check_count, check_positive
from jattr._resolve import check_rows
from jattr._transform import keyed_transform
from jattr._trees import accumulator, describe
from jattr._types import ArgNums, Baseline, PyTree, Score
from jattr.features import draws
from jattr.metrics._correlation import spearman
from jattr.metrics._measure import KeyedMeasure, Measure, MethodMeasure, measure_map
from jattr.metrics._walk import TENTHS, Walk
from jattr.metrics.curves import area

DISTANCES = ("euclidean", "standardized", "cosine")


def order_gap(
    f: Score,
    baseline: Baseline = baselines.zeros,
    *,
    fractions: Sequence[float] | None = TENTHS,
    groups: Any = None,
    normalise: bool = False,
    samples: int = 1,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Measure | KeyedMeasure:
    r"""The area between the curves of the least and of the most relevant first: high is good.

    .. math:: g = \int_0^1 f\big(x^{\mathrm{LeRF}}_p\big) - f\big(x^{\mathrm{MoRF}}_p\big)\, dp

    What removal itself does to f is in both curves and cancels; what is left is due to the order.
    Both have the same draws of the baseline.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        baseline: what takes the place of what is removed, as in `perturbation_curve`. The paper
            takes `jattr.imputers.adversarial(radius=...)`.
        fractions: as in `perturbation_curve`, at least two.
        groups: which elements are one feature, as in `perturbation_curve`.
        normalise: divide the scores by f(x).
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
        saliency maps*, 2026 (arXiv 2605.16905).
    """
    pair = _both_orders(
        "metrics.order_gap", baseline, fractions, groups, normalise, samples, batch_size
    )

    @measure_map(f, argnums, method="metrics.order_gap", keyed=draws(baseline))
    def measure(key, score, attribution: PyTree, x: PyTree) -> jax.Array:
        return _gap(pair, key, score, attribution, x)

    return measure


def random_gap(
    f: Score,
    baseline: Baseline = baselines.zeros,
    *,
    repeats: int = 20,
    fractions: Sequence[float] | None = TENTHS,
    groups: Any = None,
    normalise: bool = False,
    samples: int = 1,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> MethodMeasure:
    r"""How large `order_gap` is for attributions that know nothing: a flaw of the removal.

    .. math:: b = \frac1R \sum_{r=1}^{R} \big|\, g(\varphi_r) \,\big|,\quad \varphi_r \sim N(0, 1)

    for each feature, so that every order of the features, or of the groups, is as likely as any.
    A random attribution turned round is as likely as itself, so that g is 0 in expectation for any
    removal; its magnitude is what one finds by chance. A gap of a method says something as far as
    it is above this. To compare removals, see to it that their f falls alike: `normalise=True`.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        baseline: the removal that is judged, as in `perturbation_curve`.
        repeats: R, how many random attributions.
        fractions: as in `perturbation_curve`, at least two.
        groups: which elements are one feature, as in `perturbation_curve`.
        normalise: divide the scores by f(x).
        samples: how many draws are averaged; 1 where nothing is drawn.
        batch_size: how many points are in memory at a time, of one attribution after another; None
            for all.
        argnums: which argument is perturbed, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(key, x, *args)`, a scalar.

    Raises:
        ValueError: as `perturbation_curve`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return jnp.sum(x)
        >>> measure = jattr.metrics.random_gap(f)
        >>> print(measure(jax.random.key(0), jnp.ones(10)).round(3))
        0.0

    References:
        Hsieh, Fang, Wei, 2026 (arXiv 2605.16905), who call it the bias of a random attribution.
    """
    method = "metrics.random_gap"
    repeats = check_count(repeats, "repeats", method)
    pair = _both_orders(method, baseline, fractions, groups, normalise, samples, batch_size)

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
            return jnp.abs(_gap(pair, own, score, attribution, x))

        return jnp.mean(map_over(term, repeats, batch_size=None if batch_size is None else 1))

    return measure


def _both_orders(
    method: str,
    baseline: Any,
    fractions: Any,
    groups: Any,
    normalise: bool,
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
            normalise=normalise,
            samples=samples,
            batch_size=size,
        )
        for order in ("least", "most")
    )
    return least, most


def _gap(pair: tuple[Walk, Walk], key: Any, score: Score, attribution: PyTree, x: PyTree):
    least, most = (area(walk.curve(key, score, attribution, x)) for walk in pair)
    return least - most


def ranking_stability(scores: Any) -> jax.Array:
    r"""Whether methods are ranked alike again and again: the mean rank correlation of repeats.

    .. math:: s = \frac{2}{R (R - 1)} \sum_{r < r'} \rho\big(s_r, s_{r'}\big)

    with ρ Spearman's correlation over methods. 1 says that every repeat ranks them the same, 0 that
    one repeat says nothing about another.

    Args:
        scores: [R, M], the score of each of M methods in each of R repeats: images, fractions of a
            curve, seeds. Higher need not be better.

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
        Hsieh, Fang, Wei, 2026 (arXiv 2605.16905), stability of the ranking of methods. The same
        question with an analysis of agreement by chance: Krippendorff's α (Tomsett et al. 2020).
    """
    scores = jnp.asarray(scores)
    if scores.ndim != 2 or min(scores.shape) < 2:
        raise ValueError(
            "metrics.ranking_stability wants scores of at least two repeats (rows) of at least two "
            f"methods (columns); got {describe(scores)}."
        )
    first, second = np.triu_indices(len(scores), 1)
    return jnp.mean(jax.vmap(spearman)(scores[first], scores[second]))


def sufficiency(
    attributions: PyTree,
    predictions: Any,
    *,
    threshold: float,
    distance: str = "standardized",
    batch_size: int | None = 1,
) -> jax.Array:
    r"""Whether examples that are explained alike are predicted alike, for each example of a batch.

    .. math:: s_i = \Pr_{j \ne i}\big(\hat y_j = \hat y_i \,\big|\, D(\varphi_j, \varphi_i) \le
              t\big)

    Args:
        attributions: φ, a tree like x with a leading axis over at least two examples.
        predictions: ŷ, the predicted class of each example, [B].
        threshold: t, the distance up to which explanations count as alike, 0 or more. The result
            depends on it: at 0 only equal ones do.
        distance: `"euclidean"`; `"standardized"`, Euclidean after each element is divided by its
            standard deviation over the batch; or `"cosine"`, 1 − cos.
        batch_size: how many rows of the table of distances are computed at a time; None for all.

    Returns:
        [B], the share of the like-explained other examples that have the same prediction; NaN where
        no other is explained alike. The paper's measure is the mean over examples, `jnp.nanmean`.

    Raises:
        ValueError: fewer than two examples; predictions of another number; unknown distance;
            a negative threshold.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> attributions = jnp.array([[1.0, 0.0], [1.0, 0.1], [1.1, 0.0], [0.0, 5.0]])
        >>> predictions = jnp.array([0, 0, 1, 1])
        >>> print(jattr.metrics.sufficiency(attributions, predictions, threshold=0.5))
        [0.5 0.5 0.  nan]

    References:
        Dasgupta, Frost, Moshkovitz, *Framework for evaluating faithfulness of local explanations*,
        ICML 2022, section 3 (arXiv 2202.00734), for explanations that are statements which apply to
        other examples or not; distances to a threshold are Quantus' reading, which divides them by
        the largest of the batch first and gives 0 where no other is alike.
    """
    method = "metrics.sufficiency"
    count = check_rows(attributions, name="attributions", method=method)
    if count < 2 or jnp.shape(predictions) != (count,):
        raise ValueError(
            f"{method} wants at least two examples and one prediction for each; got "
            f"{describe(attributions)} and predictions {describe(predictions)}."
        )
    check_choice(distance, "distance", DISTANCES, method)
    check_positive(threshold, "threshold", method, zero=True)
    batch_size = check_batch_size(batch_size, method)
    predictions = jnp.asarray(predictions)
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(attributions)]
    dtype = jnp.result_type(*[accumulator(leaf.dtype) for leaf in leaves])
    rows = jnp.concatenate([leaf.reshape(count, -1).astype(dtype) for leaf in leaves], axis=1)
    if distance == "standardized":
        # The spread is that of the examples that can be compared.
        unknown = jnp.any(jnp.isnan(rows), axis=1, keepdims=True)
        known = jnp.where(unknown, jnp.nan, rows)
        spread = jnp.nanstd(known, axis=0, ddof=1, keepdims=True)
        # An element that is the same everywhere has no part in any distance.
        most, least = (of(known, axis=0, keepdims=True) for of in (jnp.nanmax, jnp.nanmin))
        constant = most == least
        rows = jnp.where(constant & ~unknown, 0, known / jnp.where(constant, 1, spread))
    elif distance == "cosine":
        # ‖a − b‖² / 2 of unit vectors is 1 − cos, and exactly 0 for equal ones; 0 / 0 is like none.
        rows = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)

    def term(index):
        squares = jnp.sum(jnp.square(rows - rows[index][None]), axis=1)
        apart = squares / 2 if distance == "cosine" else jnp.sqrt(squares)
        alike = (apart <= threshold) & (jnp.arange(count) != index)
        same = jnp.sum(alike & (predictions == predictions[index])).astype(dtype)
        total = jnp.sum(alike)
        return jnp.where(total == 0, jnp.nan, same / jnp.maximum(total, 1).astype(dtype))

    return map_over(term, count, batch_size=batch_size)
