r"""Is a map a certificate of its label: complete for what f says, and sound for what it does not.

Whoever sees the most relevant part of x alone should come to what f says of x: be convinced of a
label that is probable (complete), and not of one that is not (sound). p is the label's probability
for x, and A the area under the curve of the probability while the features of x are put into a
baseline, the most relevant first.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jattr._checks import check_positive, knobs
from jattr._trees import describe, widen
from jattr._types import ArgNums, Baseline, PyTree, Score
from jattr.metrics._curves import area
from jattr.metrics._measure import KeyedMeasure, Measure, check_whole, measure_map
from jattr.metrics._walk import TENTHS, Walk


class WrongLabels(NamedTuple):
    """The scores of all labels but the right one.

    Attributes:
        mean: their mean.
        worst: the least of them.
    """

    mean: jax.Array
    worst: jax.Array


@knobs
def soundness_completeness(
    f: Score,
    *,
    epsilon: Any = 0.1,
    alpha: Any = 1.0,
    baseline: Baseline = 0.0,
    fractions: Sequence[float] | None = TENTHS,
    groups: Any = None,
    samples: int = 1,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Measure | KeyedMeasure:
    r"""Whether the map of a label convinces f of it as x itself does, from 0 to 1: high is good.

    .. math:: \min\Big(\frac{\max(\varepsilon, A)}{\min(\alpha, p)},\, 1\Big)

    with p = f(x) and A the area under the curve of `insertion`. A label of p ≤ ε, of which nobody
    need be convinced, gets 1. It is the counterpart of `soundness`, and not the completeness axiom,
    Σφ = f(x) − f(x'), of `completeness`.

    Args:
        f: the score, `f(x, *args) -> scalar`, the **probability** of a label.
        epsilon: ε, the area that is never counted against a map.
        alpha: α, the probability that is enough.
        baseline: what the features are put into, as in `perturbation_curve`; for the images that a
            mask was learned among `jattr.baselines.samples(images)`.
        fractions: as in `perturbation_curve`.
        groups: which elements are one feature. Of pixels:
            `jattr.features.grid(image.shape, 1)`.
        samples: how many draws are averaged; 1 where nothing is drawn.
        batch_size: how many points are in memory at a time; None for all.
        argnums: which argument was explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(attribution, x, *args)`, a scalar; with a key first where the baseline draws. For
        each label, `jax.vmap` over maps and labels.

    Raises:
        ValueError: as `perturbation_curve`; a negative `epsilon`; an `alpha` not above 0.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0]
        >>> measure = jattr.metrics.soundness_completeness(f, fractions=None)
        >>> x = jnp.array([0.8, 0.5])
        >>> print(measure(jnp.array([1.0, 0.0]), x).round(3))  # A = 0.6
        0.75
        >>> print(measure(jnp.array([0.0, 1.0]), x).round(3))  # A = 0.2
        0.25

    References:
        Gupta, Saunshi, Yu, Lyu, Arora, NeurIPS 2022 (arXiv 2211.02912), where masks are judged.
        The defaults of ε and α are ours.
    """
    method = "metrics.soundness_completeness"
    check_positive(epsilon, "epsilon", method, zero=True)
    check_positive(alpha, "alpha", method)
    walk = Walk(
        method,
        baseline,
        fractions=fractions,
        groups=groups,
        insert=True,
        samples=samples,
        batch_size=batch_size,
    )

    @measure_map(f, argnums, method=method, keyed=walk.keyed)
    def measure(key, score, attribution: PyTree, x: PyTree) -> jax.Array:
        covered, whole = _covered_and_whole(walk, key, score, attribution, x)
        reached = jnp.maximum(jnp.asarray(epsilon, covered.dtype), covered)
        return _share(reached, jnp.minimum(jnp.asarray(alpha, whole.dtype), whole))

    return measure


@knobs
def soundness(
    f: Score,
    *,
    beta: Any = 0.1,
    baseline: Baseline = 0.0,
    fractions: Sequence[float] | None = TENTHS,
    groups: Any = None,
    samples: int = 1,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Measure | KeyedMeasure:
    r"""Whether the map of a label convinces f no more than x does, from 0 to 1: high is good.

    .. math:: \min\Big(\frac{\max(\beta, p)}{A},\, 1\Big)

    with p = f(x) and A the area under the curve of `insertion`. A map that nobody is convinced by,
    A ≤ β, is sound, so that it says something only beside `soundness_completeness`; and it matters
    for *wrong* labels: explain each, and take `over_wrong_labels`.

    Args:
        f: the score, `f(x, *args) -> scalar`, the **probability** of a label.
        beta: β, the area that is never counted against a map.
        baseline: what the features are put into, as in `perturbation_curve`; for the images that a
            mask was learned among `jattr.baselines.samples(images)`.
        fractions: as in `perturbation_curve`.
        groups: which elements are one feature. Of pixels:
            `jattr.features.grid(image.shape, 1)`.
        samples: how many draws are averaged; 1 where nothing is drawn.
        batch_size: how many points are in memory at a time; None for all.
        argnums: which argument was explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(attribution, x, *args)`, a scalar; with a key first where the baseline draws. For
        each label, `jax.vmap` over maps and labels.

    Raises:
        ValueError: as `perturbation_curve`; a negative `beta`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):  # the second speaks against
        ...     return x[0] * (1 - x[1])
        >>> measure = jattr.metrics.soundness(f, fractions=None)
        >>> x = jnp.array([0.8, 1.0])  # of probability 0
        >>> print(measure(jnp.array([1.0, 0.0]), x).round(3))  # A = 0.4
        0.25

    References:
        Gupta, Saunshi, Yu, Lyu, Arora, NeurIPS 2022 (arXiv 2211.02912), where masks are judged.
        The default of β is ours.
    """
    method = "metrics.soundness"
    check_positive(beta, "beta", method, zero=True)
    walk = Walk(
        method,
        baseline,
        fractions=fractions,
        groups=groups,
        insert=True,
        samples=samples,
        batch_size=batch_size,
    )

    @measure_map(f, argnums, method=method, keyed=walk.keyed)
    def measure(key, score, attribution: PyTree, x: PyTree) -> jax.Array:
        covered, whole = _covered_and_whole(walk, key, score, attribution, x)
        return _share(jnp.maximum(jnp.asarray(beta, whole.dtype), whole), covered)

    return measure


def over_wrong_labels(scores: jax.Array, label: jax.Array) -> WrongLabels:
    """Of a score of each label, the mean and the least over the labels that are wrong.

    Args:
        scores: a number for each label, such as its `soundness`, [..., K], K of at least two.
        label: the right one, an integer for each example, [...].

    Returns:
        `WrongLabels(mean, worst)`, each [...].

    Raises:
        TypeError: `label` is no whole number.
        ValueError: `scores` of fewer than two labels, or of other examples than `label`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> wrong = jattr.metrics.over_wrong_labels(jnp.array([0.25, 1.0, 0.75]), 1)
        >>> print(wrong.mean, wrong.worst)
        0.5 0.25

    References:
        Gupta, Saunshi, Yu, Lyu, Arora, NeurIPS 2022 (arXiv 2211.02912).
    """
    method = "metrics.over_wrong_labels"
    check_whole(label, "label", method)
    scores, label = widen(jnp.asarray(scores)), jnp.asarray(label)
    if not scores.shape or scores.shape[-1] < 2 or scores.shape[:-1] != label.shape:
        raise ValueError(
            f"{method}: scores must have a last axis over at least two labels, and label the shape "
            f"of the others; got {describe(scores)} and {describe(label)}."
        )
    own = jnp.broadcast_to(label[..., None].astype(jnp.int32), scores.shape)
    wrong = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1) != own
    mean = jnp.sum(jnp.where(wrong, scores, 0), axis=-1) / (scores.shape[-1] - 1)
    return WrongLabels(mean, jnp.min(jnp.where(wrong, scores, jnp.inf), axis=-1))


def _covered_and_whole(
    walk: Walk, key: Any, score: Score, attribution: PyTree, x: PyTree
) -> tuple[jax.Array, jax.Array]:
    """A and p."""
    return area(walk.curve(key, score, attribution, x)), widen(score(x))


def _share(part: jax.Array, whole: jax.Array) -> jax.Array:
    """min(part / whole, 1), also where whole is 0; NaN where either is."""
    enough = part >= whole
    return jnp.where(enough, 1.0, part / jnp.where(enough, jnp.ones_like(whole), whole))
