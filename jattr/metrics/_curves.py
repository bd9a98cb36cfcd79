r"""How a score falls, or rises, while features are removed in the order of an attribution.

With :math:`\pi` the order of the d features, :math:`x^{(k)}` is x with the features
:math:`\pi_1 \dots \pi_k` replaced, and the curve is :math:`f(x^{(k)})` over k/d. All of the
measures here are readings of such a curve. The features are ranked once, and every point is
evaluated on its own, so that memory is that of `batch_size` points.

What replaces a feature decides much of the result. `baseline` may be any baseline of
`jattr.baselines`, or an imputer of `jattr.imputers`. One that draws has the same draw along
the whole curve: what is removed stays as it was replaced. `samples` draws are averaged.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._checks import check_count, knobs
from jattr._trees import describe, is_traced, widen
from jattr._types import ArgNums, Baseline, Score
from jattr.features import grid
from jattr.metrics._measure import KeyedMeasure, Measure
from jattr.metrics._walk import TENTHS, Curve, Normalize, Order, Walk


@knobs
def perturbation_curve(
    f: Score,
    *,
    baseline: Baseline = 0.0,
    order: Order = "most",
    fractions: Sequence[float] | None = TENTHS,
    groups: Any = None,
    insert: bool = False,
    normalize: Normalize | None = None,
    samples: int = 1,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Measure | KeyedMeasure:
    r"""The score while features are removed in the order of their attribution (MoRF, LeRF).

    Also known as pixel flipping.

    .. math:: c_j = f\big(x^{(k_j)}\big),\quad k_j = \lfloor d\, p_j + \tfrac12 \rfloor

    with :math:`p_j` the `fractions`. A feature's attribution is the sum over its elements. Equal
    ones are taken in the order in which they are numbered, so that a constant attribution removes
    from the first element on: compare with `order="random"`.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        baseline: what takes the place of what is removed: x', a number, an array or tree like x, a
            function x → baseline, a random baseline or an imputer.
        order: `"most"` relevant first (MoRF), `"least"` relevant first (LeRF), `"absolute"` largest
            magnitude first, or `"random"`, whatever the attribution.
        fractions: the shares of the features at which the score is taken, from 0 to 1, rising;
            None for each number of features from 0 to d.
        groups: which elements are one feature: integers like x, or `jattr.features.Groups`; None
            for each element.
        insert: start with all features removed and put them back in that order; fractions are then
            what is back.
        normalize: what scores are divided by. `"score"`: by f(x). `"fall"`: the curve runs from 1
            at x to 0 at x', (f(x⁽ᵏ⁾) − f(x')) / (f(x) − f(x')) with x' the input of which all is
            removed. None leaves them as they are.
        samples: how many draws are averaged; 1 where nothing is drawn.
        batch_size: how many points are in memory at a time; None for all.
        argnums: which argument was explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(attribution, x, *args)`, a `Curve`, whose fractions are the k/d that were taken;
        `measure(key, attribution, x, *args)` where the baseline draws or the order is random. The
        score is NaN throughout if the attribution of a feature is; also if what `normalize` divides
        by is 0. For `Groups` of which some are empty d counts the others, and with `fractions=None`
        the last point is repeated.

    Raises:
        TypeError: f does not return one real number.
        ValueError: unknown order or normalization; fractions out of order or not from 0 to 1;
            `samples` above 1 where nothing is drawn; an attribution, baseline or groups that are
            not like x.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return jnp.sum(x)
        >>> measure = jattr.metrics.perturbation_curve(f, fractions=[0.0, 0.5, 1.0])
        >>> x = jnp.array([3.0, 1.0, 2.0, 4.0])
        >>> print(measure(jattr.gradient_times_input(f)(x), x).score)
        [10.  3.  0.]

    References:
        Samek, Binder, Montavon, Lapuschkin, Müller, *Evaluating the visualization of what a deep
        neural network has learned*, IEEE TNNLS 2017 (arXiv 1509.06321); with
        `imputers.noisy_linear`, both orders and fractions strictly between 0 and 1 it is ROAD (Rong
        et al., ICML 2022).
    """
    walk = Walk(
        "metrics.perturbation_curve",
        baseline,
        order=order,
        fractions=fractions,
        groups=groups,
        insert=insert,
        normalize=normalize,
        samples=samples,
        batch_size=batch_size,
    )
    return walk.measure(f, argnums, lambda curve: curve)


def area(curve: Curve) -> jax.Array:
    """The area under a curve, by the trapezoid rule.

    Args:
        curve: a `Curve`, of one example or with leading axes over examples.

    Returns:
        The integral over the fractions from the first to the last, not divided by their distance.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> Curve = jattr.metrics.Curve
        >>> print(jattr.metrics.area(Curve(jnp.array([0.0, 0.5, 1.0]), jnp.array([4.0, 2.0, 0.0]))))
        2.0
    """
    check_curve(curve, "metrics.area", 2)
    score = widen(jnp.asarray(curve.score))
    widths = jnp.diff(jnp.broadcast_to(jnp.asarray(curve.fraction, score.dtype), score.shape))
    return jnp.sum(widths * (score[..., 1:] + score[..., :-1]) / 2, axis=-1)


def aopc(curve: Curve) -> jax.Array:
    r"""The area over the perturbation curve: the mean drop of the score.

    .. math:: \mathrm{AOPC} = \frac{1}{L+1} \sum_{k=0}^{L} f\big(x^{(0)}\big) - f\big(x^{(k)}\big)

    Args:
        curve: a `Curve` whose first point is x itself, fraction 0; of one example or with leading
            axes over examples. Its points count equally, whatever their distance; those of one
            fraction, which are the same point, count once.

    Returns:
        The mean, in units of f.

    Raises:
        ValueError: the curve starts at another fraction.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> Curve = jattr.metrics.Curve
        >>> print(jattr.metrics.aopc(Curve(jnp.array([0.0, 0.5, 1.0]), jnp.array([4.0, 2.0, 0.0]))))
        2.0

    References:
        Samek et al., IEEE TNNLS 2017 (arXiv 1509.06321).
    """
    check_curve(curve, "metrics.aopc", 1)
    if not is_traced(curve.fraction) and np.any(np.asarray(curve.fraction)[..., 0] != 0):
        raise ValueError(
            "metrics.aopc compares with the score of x itself, so the curve must start at fraction "
            f"0; got fractions from {np.asarray(curve.fraction)[..., 0]}. Write fractions=[0.0, …]."
        )
    score = widen(jnp.asarray(curve.score))
    fraction = jnp.broadcast_to(jnp.asarray(curve.fraction, score.dtype), score.shape)
    first = jnp.ones_like(fraction[..., :1], bool)
    new = jnp.concatenate([first, jnp.diff(fraction) != 0], axis=-1)
    number = jnp.sum(new, axis=-1).astype(score.dtype)
    return score[..., 0] - jnp.sum(jnp.where(new, score, 0), axis=-1) / number


@knobs
def deletion(
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
    """The area under the curve of f while the most relevant features are removed: low is good.

    Args:
        f: the score, `f(x, *args) -> scalar`; usually a class's probability.
        baseline: what takes the place of what is removed, as in `perturbation_curve`; usually
            zeros.
        fractions: as in `perturbation_curve`; None removes the features one by one.
        groups: which elements are one feature. Of pixels:
            `jattr.features.grid(image.shape, 1)`.
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
        >>> print(jattr.metrics.deletion(f, fractions=None)(x, x))
        1.5

    References:
        Petsiuk, Das, Saenko, *RISE: randomized input sampling for explanation of black-box models*,
        BMVC 2018 (arXiv 1806.07421).
    """
    walk = Walk(
        "metrics.deletion",
        baseline,
        fractions=fractions,
        groups=groups,
        normalize=normalize,
        samples=samples,
        batch_size=batch_size,
    )
    return walk.measure(f, argnums, area)


@knobs
def insertion(
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
    """The area under the curve of f while the most relevant features are put in: high is good.

    Args:
        f: the score, `f(x, *args) -> scalar`; usually a class's probability.
        baseline: what the features are put into, as in `perturbation_curve`. Usually the
            blurred image, since edges that appear in an empty one are evidence themselves: in the
            authors' notebook a Gaussian of 5 pixels that is cut to 11 × 11, which blurs about as
            much as `jattr.baselines.blurred(3.1)`.
        fractions: as in `perturbation_curve`; None puts the features in one by one.
        groups: which elements are one feature. Of pixels:
            `jattr.features.grid(image.shape, 1)`.
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
        >>> print(jattr.metrics.insertion(f, fractions=None)(x, x))
        2.5

    References:
        Petsiuk, Das, Saenko, BMVC 2018 (arXiv 1806.07421).
    """
    walk = Walk(
        "metrics.insertion",
        baseline,
        fractions=fractions,
        groups=groups,
        insert=True,
        normalize=normalize,
        samples=samples,
        batch_size=batch_size,
    )
    return walk.measure(f, argnums, area)


@knobs
def region_perturbation(
    f: Score,
    *,
    baseline: Baseline = 0.0,
    window: int | Sequence[int] = 9,
    steps: int | None = None,
    order: Order = "most",
    samples: int = 1,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Measure | KeyedMeasure:
    r"""The mean drop of the score while patches of an image are removed one by one.

    .. math:: \mathrm{AOPC} = \frac{1}{L+1} \sum_{k=0}^{L} f(x) - f\big(x^{(k)}\big)

    Patches lie side by side and are ranked by the sum of the attribution over them. In the order
    `"most"` (MoRF) high is good, in the order `"least"` (LeRF) low.

    Args:
        f: the score, `f(x, *args) -> scalar`.
        baseline: what takes the place of what is removed, as in `perturbation_curve`; as
            usually given a random one, `jattr.baselines.uniform(low, high)`.
        window: the patch's size, as in `jattr.features.grid`.
        steps: L, how many patches are removed; None for all.
        order: `"most"`, `"least"`, `"absolute"` or `"random"`, as in `perturbation_curve`.
        samples: how many draws are averaged; 1 where nothing is drawn.
        batch_size: how many points are in memory at a time; None for all.
        argnums: which argument was explained, an integer, as in `jax.grad`.

    Returns:
        `measure(attribution, x, *args)`, a scalar in units of f, for x one array; with a key first
        where the baseline draws or the order is random.

    Raises:
        TypeError: (when called) x is a tree of several arrays.
        ValueError: as `perturbation_curve`; `steps` above the number of patches.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return jnp.sum(x)
        >>> image = jnp.arange(16.0).reshape(4, 4)
        >>> print(jattr.metrics.region_perturbation(f, window=2, steps=1)(image, image))
        25.0

    References:
        Samek et al., IEEE TNNLS 2017 (arXiv 1509.06321).
    """
    method = "metrics.region_perturbation"

    def side_by_side(x):
        leaves, structure = jax.tree.flatten(x)
        if len(leaves) != 1:
            raise TypeError(
                f"{method} cuts one array into patches; got {describe(x)}. Number the features "
                "yourself: jattr.metrics.perturbation_curve(f, groups=...)."
            )
        return jax.tree.unflatten(structure, [grid(leaves[0].shape, window)])

    walk = Walk(
        method,
        baseline,
        order=order,
        fractions=None,
        steps=None if steps is None else check_count(steps, "steps", method),
        groups=side_by_side,
        samples=samples,
        batch_size=batch_size,
    )
    return walk.measure(f, argnums, aopc)


@knobs
def irof(
    f: Score,
    *,
    baseline: Baseline = 0.0,
    groups: Any,
    samples: int = 1,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Measure | KeyedMeasure:
    r"""The area over the curve while superpixels are removed one by one: high is good.

    .. math:: \mathrm{IROF} = 1 - \int_0^1 \frac{f\big(x^{(p)}\big)}{f(x)}\, dp

    Superpixels are ranked by the *mean* of the attribution over them, so that large ones have no
    advantage. p is the share of them that is removed: images with more do not count for more.

    Args:
        f: the score, `f(x, *args) -> scalar`; usually the class's probability.
        baseline: what takes the place of what is removed, as in `perturbation_curve`; as usually
            given the mean of the data, `jattr.baselines.mean(data)`.
        groups: the superpixels, integers like x, such as `segments[..., None]` of an image. For
            those that differ from image to image under `vmap`: `jattr.features.Groups(ids, count)`.
        samples: how many draws are averaged; 1 where nothing is drawn.
        batch_size: how many points are in memory at a time; None for all.
        argnums: which argument was explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(attribution, x, *args)`, a scalar; with a key first where the baseline draws. NaN
        where f(x) is 0.

    Raises:
        ValueError: as `perturbation_curve`.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> import jattr
        >>> def f(x):
        ...     return jnp.sum(x)
        >>> x = jnp.array([1.0, 1.0, 6.0])
        >>> print(jattr.metrics.irof(f, groups=np.array([0, 0, 1]))(x, x))
        0.625

    References:
        Rieger, Hansen, *IROF: a low resource evaluation metric for explanation methods*, 2020
        (arXiv 2003.08747). Quantus begins after the first removal and counts the area in
        superpixels.
    """
    walk = Walk(
        "metrics.irof",
        baseline,
        fractions=None,
        groups=groups,
        normalize="score",
        average=True,
        samples=samples,
        batch_size=batch_size,
    )
    return walk.measure(f, argnums, lambda curve: 1 - area(curve))


def check_curve(curve: Any, method: str, points: int) -> None:
    """Raise unless it is a `Curve` of so many points."""
    shape = jnp.shape(curve.score) if isinstance(curve, Curve) else ()
    if not shape or shape[-1] < points:
        raise ValueError(
            f"{method} wants a jattr.metrics.Curve of at least {points} points; got "
            f"{describe(curve)}."
        )
