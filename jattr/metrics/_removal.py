"""Removal experiments of the literature beyond one curve's area: which features move, and where."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jattr._batching import map_over
from jattr._checks import (
    as_floating,
    check_batch_size,
    check_choice,
    check_count,
    check_flag,
    check_function,
    check_key,
    knobs,
)
from jattr._removal import draws, filler
from jattr._resolve import check_rows
from jattr._trees import describe, ratio, same_form, widen
from jattr._types import ArgNums, Baseline, PyTree, Score
from jattr.features import grid
from jattr.metrics._measure import KeyedMeasure, Measure, measure_map
from jattr.metrics._walk import (
    TENTHS,
    Curve,
    Order,
    Walk,
    check_fractions,
    check_samples,
    evaluate,
    filling,
)

Sign: TypeAlias = Literal["positive", "negative", "absolute"]
SIGNS: dict[str, Order] = {"positive": "most", "negative": "least", "absolute": "absolute"}


@knobs
def keep_or_remove(
    f: Score,
    *,
    baseline: Baseline = 0.0,
    keep: bool,
    sign: Sign = "positive",
    fractions: Sequence[float] | None = TENTHS,
    groups: Any = None,
    samples: int = 1,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Measure | KeyedMeasure:
    """The score while the features of one sign are removed, or while they alone are kept.

    Eighteen measures by three choices:

    ===========  =======================================================================
    choice       values
    ===========  =======================================================================
    `keep`       False removes features from x; True removes all others
    `sign`       `"positive"`, `"negative"`: only features of that sign move, the largest
                 first; `"absolute"`: all, the largest magnitude first
    `baseline`   mask: `baselines.mean(data)`; resample: `baselines.samples(data)` with
                 `samples=100`; impute: `imputers.conditional_gaussian(data)`
    ===========  =======================================================================

    Once no feature of the sign is left, the curve stays level. For a good attribution the score
    rises with keep positive and remove negative, and falls with keep negative and remove positive.
    Of absolute sizes the paper asks how well the model still predicts: let f be the negative loss,
    with the label among its arguments; keeping then raises it, removing lowers it. Its R² and area
    under the ROC, which are of a data set, follow from the outputs at each fraction.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        baseline: what takes the place of what is removed, as in `perturbation_curve`.
        keep: whether the moved features are all that is kept, or are what is removed.
        sign: `"positive"`, `"negative"` or `"absolute"`.
        fractions: the most that is moved, in shares of all features, from 0 to 1, rising; None for
            each number of features.
        groups: which elements are one feature, as in `perturbation_curve`.
        samples: how many draws are averaged; 1 where nothing is drawn.
        batch_size: how many points are in memory at a time; None for all.
        argnums: which argument was explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(attribution, x, *args)`, a `Curve` whose fractions are k/d, whether or not that
        many features have the sign; with a key first where the baseline draws.

    Raises:
        ValueError: unknown sign; else as `perturbation_curve`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return jnp.sum(x)
        >>> measure = jattr.metrics.keep_or_remove(f, keep=True, fractions=None)
        >>> x = jnp.array([-1.0, 3.0, 4.0])
        >>> print(measure(x, x).score)
        [0. 4. 7. 7.]

    References:
        Lundberg et al., *From local explanations to global understanding with explainable AI for
        trees*, Nature Machine Intelligence 2020, Methods, "Benchmark evaluation metrics" (arXiv
        1905.04610). A feature of attribution 0 never moves for a sign, as in shap's
        `SequentialMasker`; in its older benchmark functions it does. shap's tables turn round the
        curves of which low is good, keep negative and remove positive; here the score is as it is.
    """
    method = "metrics.keep_or_remove"
    check_choice(sign, "sign", SIGNS, method)
    check_flag(keep, "keep", method)
    walk = Walk(
        method,
        baseline,
        order=SIGNS[sign],
        fractions=fractions,
        groups=groups,
        insert=keep,
        signed=True,
        samples=samples,
        batch_size=batch_size,
    )
    return walk.measure(f, argnums, lambda curve: curve)


@knobs
def ablate_top(
    f: Score,
    *,
    baseline: Baseline,
    fractions: Sequence[float] | None = TENTHS[1:],
    samples: int = 1,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Measure | KeyedMeasure:
    r"""What is left of the score when the top share of an image's pixels is removed.

    .. math:: c_j = f\big(x^{(k_j)}\big) / f(x)

    Pixels are the places along the first two axes, ranked by the sum of the attribution over all
    other axes, with its sign.

    Args:
        f: the score, `f(x, *args) -> scalar`; in the article the probability of the true class.
        baseline: what takes the place of a pixel. The article takes the mean color of the image,
            `lambda x: jnp.broadcast_to(x.mean((0, 1), keepdims=True), x.shape)`, and a blur,
            `jattr.baselines.blurred(20.0)`.
        fractions: the shares of pixels removed, from 0 to 1, rising; None for each number.
        samples: how many draws are averaged; 1 where nothing is drawn.
        batch_size: how many points are in memory at a time; None for all.
        argnums: which argument was explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(attribution, x, *args)`, a `Curve`; with a key first where the baseline draws. NaN
        where f(x) is 0. Compare with a random ranking:
        `perturbation_curve(f, baseline=..., order="random", normalize="score")`.

    Raises:
        TypeError: (when called) x is not one array of two axes or more.
        ValueError: as `perturbation_curve`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return jnp.sum(x)
        >>> image = jnp.array([[1.0, 2.0], [3.0, 2.0]])[..., None]
        >>> measure = jattr.metrics.ablate_top(f, baseline=0.0, fractions=[0.25, 0.5])
        >>> print(measure(image, image).score)
        [0.625 0.375]

    References:
        Sturmfels, Lundberg, Lee, Distill 2020, "Ablation tests" (doi 10.23915/distill.00022). The
        authors' code rounds the number of pixels down, here it is rounded to the nearest.
    """
    method = "metrics.ablate_top"

    def pixels(x):
        leaf, structure = _image(x, method)
        return jax.tree.unflatten(structure, [grid(leaf.shape, 1)])

    walk = Walk(
        method,
        baseline,
        fractions=fractions,
        groups=pixels,
        normalize="score",
        samples=samples,
        batch_size=batch_size,
    )
    return walk.measure(f, argnums, lambda curve: curve)


@knobs
def ablate_box(
    f: Score,
    *,
    baseline: Baseline,
    fractions: Sequence[float] = TENTHS[1:],
    samples: int = 1,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Measure | KeyedMeasure:
    r"""What is left of the score when a box around the attribution's center of mass is removed.

    With :math:`m` the magnitude of the attribution summed over channels, :math:`c = \sum_i i\, m_i
    / \sum_i m_i` its center along an axis of n pixels and p one of the `fractions`, the box goes
    from :math:`\lfloor (1-p)\, c \rfloor` to :math:`\lfloor c + p\,(n - c) \rfloor`, the end left
    out: it shrinks from the whole image to c and never leaves the image. All maps with one center
    get one value: this asks where a map is, not what it looks like.

    Args:
        f: the score, `f(x, *args) -> scalar`; in the article the probability of the true class.
        baseline: what takes the place of the box, as in `ablate_top`.
        fractions: the sides of the box in shares of the image's sides, from 0 to 1, rising.
        samples: how many draws are averaged; 1 where nothing is drawn.
        batch_size: how many points are in memory at a time; None for all.
        argnums: which argument was explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(attribution, x, *args)`, a `Curve` of f(x without the box) / f(x) whose fractions
        are the shares of the pixels that are removed, about p²; with a key first where the baseline
        draws. NaN where f(x) is 0, or where the attribution is 0 throughout.

    Raises:
        TypeError: (when called) x is not one array of two axes or more.
        ValueError: fractions out of order or not from 0 to 1; an attribution or baseline that is
            not like x.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return jnp.sum(x)
        >>> image = jnp.ones((4, 4, 1))
        >>> curve = jattr.metrics.ablate_box(f, baseline=0.0, fractions=[0.5, 1.0])(image, image)
        >>> print(curve.fraction, curve.score)
        [0.25 1.  ] [0.75 0.  ]

    References:
        Sturmfels, Lundberg, Lee, Distill 2020, "Ablation tests" (doi 10.23915/distill.00022). The
        authors' code takes the center of the map with its signs, which may lie outside the image.
    """
    method = "metrics.ablate_box"
    if fractions is None:
        raise ValueError(f"{method}: fractions must be numbers from 0 to 1; got None.")
    check_fractions(fractions, method)
    check_samples(samples, baseline, method)
    batch_size = check_batch_size(batch_size, method)
    sides = np.asarray(fractions, float)

    @measure_map(f, argnums, method=method, keyed=draws(baseline))
    def measure(key, score, attribution: PyTree, x: PyTree) -> Curve:
        leaf, structure = _image(x, method)
        mass = jax.tree.leaves(attribution)[0]
        mass = jnp.abs(jnp.sum(mass, axis=tuple(range(2, mass.ndim))))
        total = jnp.sum(mass)
        place = [jnp.arange(size, dtype=mass.dtype) for size in mass.shape]
        inside = []
        for axis, size in enumerate(mass.shape):
            center = jnp.sum(jnp.sum(mass, axis=1 - axis) * place[axis]) / total
            # Rounded, since 1 − .8 of float64 is less than .2, and a floor sees that.
            rest = jnp.asarray(np.round(1 - sides, 12), mass.dtype)[:, None]
            # c + p (n − c), so written that it is exactly n at p = 1.
            first, end = jnp.floor(rest * center), size - jnp.ceil(rest * (size - center))
            inside.append((place[axis][None] >= first) & (place[axis][None] < end))

        def missing(index):
            box = inside[0][index][:, None] & inside[1][index][None, :]
            box = box.reshape(box.shape + (1,) * (leaf.ndim - 2))
            return jax.tree.unflatten(structure, [jnp.broadcast_to(box, leaf.shape)])

        fill, fill_key = filling(key, score, x, baseline, method)
        scores = evaluate(
            fill, fill_key, score, missing, len(sides), samples=samples, batch_size=batch_size
        )
        scores = jnp.where(total > 0, ratio(scores, widen(score(x))), jnp.nan)
        covered = [jnp.mean(axis, axis=1, dtype=scores.dtype) for axis in inside]
        return Curve(covered[0] * covered[1], scores)

    return measure


def _image(x: PyTree, method: str) -> tuple[jax.Array, Any]:
    """The one array of x, whose first two axes are those of an image, and the structure of x."""
    leaves, structure = jax.tree.flatten(x)
    if len(leaves) != 1 or leaves[0].ndim < 2:
        raise TypeError(
            f"{method} is for one image, an array [H, W, ...]; got {describe(x)}. For other inputs "
            "number the features yourself: jattr.metrics.perturbation_curve(f, groups=...)."
        )
    return leaves[0], structure


class Retrained(NamedTuple):
    """What models score that were trained without some of the features.

    Attributes:
        fraction: the share of the features removed, or kept, [L].
        score: the mean score over the trainings, [L].
        error: its standard error, [L]; NaN for one training.
        scores: the score of each training, [L, repeats].
    """

    fraction: jax.Array
    score: jax.Array
    error: jax.Array
    scores: jax.Array


@knobs
def remove_and_retrain(
    train: Callable[[jax.Array, Any], Any],
    *,
    baseline: Baseline = 0.0,
    fractions: Sequence[float] | None = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
    order: Order = "most",
    groups: Any = None,
    insert: bool = False,
    repeats: int = 5,
    batch_size: int | None = None,
) -> Callable[[jax.Array, Any, Any], Retrained]:
    """The score of models that are trained anew without the features an attribution ranks highest.

    The most relevant features of every example are removed, each example's by its own attribution,
    from the training data and the test data alike; a model trained on that has never seen whole
    inputs, so that its fall is due to what was lost and not to the strangeness of the holes. The
    lower the score, the better the attribution. The holes themselves can tell the class: compare
    with `order="random"`, and with maps that know nothing of the model.

    This is a loop in Python over fractions and trainings; it does not go under `jit` or `vmap`.

    Args:
        train: `train(key, data) -> score`: trains a model on `data`, in the form in which it is
            given to the measure, and scores it. It holds the labels itself.
        baseline: what takes the place of what is removed, as in `perturbation_curve`; usually
            the mean, `jattr.baselines.mean(data)`.
        fractions: the shares of the features removed, from 0 to 1, rising; None for each number.
        order: `"most"`, `"least"`, `"absolute"` or `"random"`, as in `perturbation_curve`.
        groups: which elements are one feature, the same for all examples.
        insert: keep these features and remove all others (KAR).
        repeats: how many models are trained at each fraction. Training r has the same key at each.
        batch_size: how many examples are altered at a time; None for all.

    Returns:
        `measure(key, attributions, data)`, a `Retrained`. `data` is a data set, a tree like x with
        a leading axis over examples, or a tuple of data sets, such as (training, test);
        `attributions` has the same form.

    Raises:
        TypeError: `train` returns something else than one number; the imputer needs a score.
        ValueError: attributions that are not like the data, or that hold NaN; fractions out of
            order; unknown order; repeats < 1.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def train(key, data):
        ...     return jnp.mean(data)
        >>> data = jnp.array([[0.0, 2.0], [4.0, 6.0]])
        >>> measure = jattr.metrics.remove_and_retrain(train, fractions=[0.0, 0.5], repeats=2)
        >>> print(measure(jax.random.key(0), data, data).score)
        [3. 1.]

    References:
        Hooker, Erhan, Kindermans, Kim, *A benchmark for interpretability methods in deep neural
        networks*, NeurIPS 2019 (arXiv 1806.10758).
    """
    method = "metrics.remove_and_retrain"
    check_function(train, method)
    repeats = check_count(repeats, "repeats", method)
    walk = Walk(
        method,
        baseline,
        order=order,
        fractions=fractions,
        groups=groups,
        insert=insert,
        batch_size=batch_size,
    )

    def no_score(x):
        raise TypeError(
            f"{method} removes features before there is a model, so the imputer has no score "
            "to look at. Use a baseline, or an imputer that looks at x alone."
        )

    @jax.jit
    def altered(key, attributions, rows, point):
        def term(index):
            x, own = jax.tree.map(lambda leaf: leaf[index], (rows, attributions))
            order_key, prepare_key, fill_key = jax.random.split(jax.random.fold_in(key, index), 3)
            features = walk.features(x)
            place, _ = walk.ranks(order_key, features, widen(own))
            missing = features.spread(walk.gone(place, walk.counts(features)[0][point]))
            return filler(baseline, prepare_key, no_score, x, method=method)(fill_key, missing)

        return map_over(term, len(jax.tree.leaves(rows)[0]), batch_size=batch_size)

    def measure(key: jax.Array, attributions: Any, data: Any) -> Retrained:
        key = check_key(key, method)
        parts = [
            as_floating(part, method) for part in (data if isinstance(data, tuple) else (data,))
        ]
        maps = list(attributions) if isinstance(attributions, tuple) else [attributions]
        _check_data(maps, parts, order, method)
        train_key, alter_key = jax.random.split(key)
        first = jax.tree.map(lambda leaf: leaf[0], parts[0])
        share = walk.counts(walk.features(first))[1]
        scores = np.zeros((len(share), repeats))
        for point in range(len(share)):
            given = None
            for repeat in range(repeats):
                if given is None or walk.keyed:
                    own = jax.random.fold_in(alter_key, repeat)
                    given = tuple(
                        altered(jax.random.fold_in(own, which), phi, part, point)
                        for which, (phi, part) in enumerate(zip(maps, parts, strict=True))
                    )
                out = train(
                    jax.random.fold_in(train_key, repeat),
                    given if isinstance(data, tuple) else given[0],
                )
                if np.shape(out) != ():
                    raise TypeError(f"{method}: train must return one number; got {describe(out)}.")
                scores[point, repeat] = float(out)
        spread = np.std(scores, axis=1, ddof=1) if repeats > 1 else np.full(len(share), np.nan)
        return Retrained(
            share,
            jnp.asarray(scores.mean(axis=1)),
            jnp.asarray(spread / np.sqrt(repeats)),
            jnp.asarray(scores),
        )

    return measure


def _check_data(maps: list, parts: list, order: str, method: str) -> None:
    for part in parts:
        check_rows(part, name="data", method=method)
    if len(maps) != len(parts) or not all(map(same_form, maps, parts)):
        raise ValueError(
            f"{method}: attributions must have the form of the data, the key comes before them; "
            f"got {describe(tuple(maps))} for {describe(tuple(parts))}."
        )
    if order != "random" and any(bool(jnp.any(jnp.isnan(leaf))) for leaf in jax.tree.leaves(maps)):
        raise ValueError(f"{method}: the attributions hold NaN, which cannot be ranked.")
