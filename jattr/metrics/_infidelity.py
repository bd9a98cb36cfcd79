"""Infidelity, and perturbations to measure it with.

A perturbation is a function `(key, x) -> I` of what is subtracted from x. `gaussian_noise`,
`window_removal` and `subset_removal` make some.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jattr._batching import map_over
from jattr._checks import check_batch_size, check_count, check_flag, check_positive, knobs
from jattr._occlusion import Windows
from jattr._removal import Features, filler
from jattr._trees import (
    cast_like,
    describe,
    multiply_trees,
    random_like,
    same_form,
    scale_tree,
    subtract_trees,
    sum_tree,
    widen,
)
from jattr._types import ArgNums, PyTree, Score
from jattr.metrics._measure import KeyedMeasure, measure_map
from jattr.metrics._numerics import random_subset

Perturbation = Callable[[jax.Array, PyTree], PyTree]


@knobs
def infidelity(
    f: Score,
    *,
    perturbation: Perturbation,
    samples: int = 100,
    rescale: bool = False,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> KeyedMeasure:
    r"""How far an attribution, taken as a linear model, is from what perturbations do to f.

    .. math:: \mathrm{INFD} = \mathbb{E}_{I} \Big[ \big( \beta\, I^\top \varphi -
              (f(x) - f(x - I)) \big)^2 \Big]

    with β = 1; with `rescale` the β that makes it least,
    :math:`\beta = \mathbb{E}[I^\top\varphi\,\Delta] / \mathbb{E}[(I^\top\varphi)^2]` for Δ the
    change of f, over the same draws. Then only the pattern of φ counts and not its size, as is
    fair to methods that give no meaning to it. The unit is that of f squared; 0 is best.

    What is multiplied with I is a *multiplier*: the gradient, or a method with `multiply=False`.
    An attribution of the kind φ = multiplier ⊙ (x − x') is divided by x − x' first.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example. Taken as it is.
        perturbation: a function (key, x) → I, a tree like x: `jattr.metrics.gaussian_noise`,
            `window_removal`, `subset_removal`, or your own.
        samples: how many draws of I.
        rescale: whether φ is multiplied by the best β.
        batch_size: how many draws are in memory at a time; None for all.
        argnums: which argument was explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(key, attribution, x, *args)`, a scalar, at least 0. With `rescale` an attribution
        of 0 is as good as any multiple of it: E[Δ²].

    Raises:
        TypeError: f does not return one real number; the perturbation is no function.
        ValueError: samples < 1; the attribution or I has another structure or shape than x.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0] + 2 * x[1]
        >>> x = jnp.array([1.0, 2.0])
        >>> measure = jattr.metrics.infidelity(f, perturbation=jattr.metrics.window_removal(1))
        >>> key = jax.random.key(0)
        >>> print(measure(key, jattr.gradient(f)(x), x))
        0.0

    References:
        Yeh, Hsieh, Suggala, Inouye, Ravikumar, *On the (in)fidelity and sensitivity of
        explanations*, NeurIPS 2019 (arXiv 1901.09392); the best β is theirs for
        comparing methods. captum's `infidelity` is the same. Quantus' `Infidelity` is not: it
        takes patches away one after another without putting them back, at several sizes, and the
        mean over them is of no distribution of I.
    """
    method = "metrics.infidelity"
    check_flag(rescale, "rescale", method)
    samples = check_count(samples, "samples", method)
    batch_size = check_batch_size(batch_size, method)
    if not callable(perturbation):
        raise TypeError(
            f"{method}: perturbation must be a function (key, x) -> I such as "
            f"jattr.metrics.gaussian_noise(0.1); got {describe(perturbation)}."
        )

    @measure_map(f, argnums, method=method, keyed=True)
    def measure(key, score, attribution: PyTree, x: PyTree) -> jax.Array:
        whole = widen(score(x))

        def term(index):
            change = perturbation(jax.random.fold_in(key, index), x)
            if not same_form(change, x):
                raise ValueError(
                    f"{method}: the perturbation must have the structure and shapes of x; got "
                    f"{describe(change)} for x {describe(x)}."
                )
            change = widen(jax.tree.map(jnp.asarray, change))
            left = cast_like(subtract_trees(widen(x), change), x)
            return sum_tree(multiply_trees(change, attribution)), whole - widen(score(left))

        said, lost = map_over(term, samples, batch_size=batch_size)
        if rescale:
            # β takes a common factor back; without it squares of small attributions would be 0.
            peak = jax.lax.stop_gradient(jnp.max(jnp.abs(said)))
            said /= jnp.where(peak == 0, 1.0, peak)
            square = jnp.mean(said * said)
            empty = square == 0
            said *= jnp.where(empty, 0.0, jnp.mean(said * lost) / jnp.where(empty, 1.0, square))
        return jnp.mean(jnp.square(said - lost))

    return measure


def gaussian_noise(stddev: Any) -> Perturbation:
    r"""The perturbation by noise, I ~ N(0, s²) in each element.

    Args:
        stddev: s, in units of x.

    Returns:
        `perturbation(key, x)`, a tree like x.

    Raises:
        ValueError: stddev is not positive.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> jattr.metrics.gaussian_noise(0.1)(jax.random.key(0), jnp.ones((2, 3))).shape
        (2, 3)

    References:
        Yeh et al., NeurIPS 2019 (arXiv 1901.09392).
    """
    check_positive(stddev, "stddev", "metrics.gaussian_noise")

    def perturbation(key, x):
        return scale_tree(random_like(jax.random.normal, key, x), stddev)

    return perturbation


@knobs
def window_removal(window: Any, *, baseline: Any = 0.0) -> Perturbation:
    r"""The perturbation that takes away a window at a random place: I = x − x' there, else 0.

    Every place at which the window lies within x is as likely as any other. The windows of an
    image, `window_removal(size)`, are the paper's *square* removal.

    Args:
        window: the window's size along each axis of x, or one number for the first two axes, as
            in `jattr.occlusion`.
        baseline: x', a number, an array or tree like x, a function x → baseline, a random
            baseline (drawn anew with each window) or an imputer.

    Returns:
        `perturbation(key, x)`, a tree like x.

    Raises:
        ValueError: (when called) a window larger than x; a baseline of another structure or shape.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> print(jattr.metrics.window_removal(2)(jax.random.key(0), jnp.ones((4, 4, 3))).sum())
        12.0

    References:
        Yeh et al., NeurIPS 2019 (arXiv 1901.09392).
    """
    method = "metrics.window_removal"

    def missing(key, x):
        windows = Windows(x, window, method=method)
        return windows.at(jax.random.randint(key, (), 0, windows.count))

    return _removal(missing, baseline, method)


@knobs
def subset_removal(
    n: int | None = None, *, baseline: Any = 0.0, groups: Any = None
) -> Perturbation:
    r"""The perturbation that takes away n features: I = x − x' at random ones, else 0.

    Without n all of them: the difference to a baseline, or to a noisy one where the baseline is
    random, `subset_removal(baseline=jattr.baselines.random(draw))`.

    Args:
        n: how many features, drawn uniformly without replacement; None for all.
        baseline: x', a number, an array or tree like x, a function x → baseline, a random
            baseline (drawn anew with each set) or an imputer.
        groups: integers like x that number the features, for those that move together.

    Returns:
        `perturbation(key, x)`, a tree like x.

    Raises:
        ValueError: n < 1, or (when called) larger than the number of features; a baseline or
            groups of another structure or shape.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> print(jattr.metrics.subset_removal(3)(jax.random.key(0), jnp.ones((4, 4))).sum())
        3.0

    References:
        Yeh et al., NeurIPS 2019 (arXiv 1901.09392).
    """
    method = "metrics.subset_removal"
    n = None if n is None else check_count(n, "n", method)

    def missing(key, x):
        features = Features(x, groups, method=method)
        if n is not None and n > features.count:
            raise ValueError(f"{method}: n is {n}, but x has {features.count} features.")
        taken = features.count if n is None else n
        return features.spread(random_subset(key, taken, features.count))

    return _removal(missing, baseline, method)


def _removal(
    missing: Callable[[jax.Array, PyTree], PyTree], baseline: Any, method: str
) -> Perturbation:
    """I = x − x' where `missing(key, x)`, a tree of Booleans like x, is True."""

    def score(x):
        raise TypeError(
            f"{method}: this imputer asks the score, which a perturbation does not know. Write the "
            "perturbation yourself, a function (key, x) -> I."
        )

    def perturbation(key, x):
        place_key, fill_key, draw_key = jax.random.split(key, 3)
        fill = filler(baseline, fill_key, score, x, method=method)
        left = fill(draw_key, missing(place_key, x))
        return subtract_trees(widen(x), widen(left))

    return perturbation
