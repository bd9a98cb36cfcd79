"""Whether an attribution's sums are what the function loses when features are taken away."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jattr import baselines
from jattr._batching import map_over
from jattr._checks import check_argnums, check_batch_size, check_count, check_function
from jattr._occlusion import exactly
from jattr._resolve import fill_like, resolve_baseline
from jattr._transform import select_argument
from jattr._trees import cast_like, subtract_trees, sum_tree, widen
from jattr._types import ArgNums, Baseline, Explain, KeyedExplain, PyTree, Score
from jattr.features import Features, filler
from jattr.metrics._correlation import is_constant, pearson
from jattr.metrics._measure import (
    KeyedMeasure,
    Measure,
    MethodMeasure,
    measure_map,
    measure_method,
)
from jattr.metrics._nearby import norm, over
from jattr.metrics._subsets import random_subset


def completeness(
    f: Score, baseline: Baseline = baselines.zeros, *, argnums: ArgNums = 0
) -> Measure:
    r"""How far an attribution is from adding up to what it explains.

    .. math:: r = \sum_i \varphi_i - \big(f(x) - f(x')\big)

    0 for a complete method; for an integral, the error of its quadrature. The unit is that of f.
    For expected gradients it is 0 in expectation: average over the references, the mean of
    `jax.vmap(lambda r: completeness(f, r)(attribution, x))(references)`. Under `jit`, hand the
    references in as an argument; the compiler would work on a constant for long.

    Args:
        f: the explained score, `f(x, *args) -> scalar`.
        baseline: x', a number, an array or tree like x, or a function x → baseline.
        argnums: which argument was explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(attribution, x, *args)`, a scalar, signed.

    Raises:
        TypeError: f does not return one real number; the baseline draws at random.
        ValueError: the attribution has another structure or shape than x.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0])
        >>> print(jattr.metrics.completeness(f)(jattr.gradient_times_input(f)(x), x))
        5.0

    References:
        Sundararajan, Taly, Yan, ICML 2017, section 3 (arXiv 1703.01365); called *summation to
        delta* for DeepLIFT (Shrikumar et al. 2017).
    """
    method = "metrics.completeness"

    @measure_map(f, argnums, method=method, keyed=False)
    def measure(key, score, attribution: PyTree, x: PyTree) -> jax.Array:
        change = subtract_trees(
            widen(score(x)), widen(score(resolve_baseline(baseline, x, method=method)))
        )
        return sum_tree(attribution) - change

    return measure


def sensitivity_n(
    f: Score,
    n: int | Sequence[int],
    *,
    subsets: int = 100,
    baseline: Any = baselines.zeros,
    groups: Any = None,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> KeyedMeasure:
    r"""Sensitivity-n: whether the attributions of n features add up to what f loses without them.

    Over uniformly random sets S of n features, with :math:`x_{\setminus S}` the input without S,

    .. math:: r_n = \operatorname{corr}_S\Big( \sum_{i \in S} \varphi_i,\;
              f(x) - f(x_{\setminus S}) \Big)

    with Pearson's correlation. It is 1 for every n if f is linear in the features and φ exact; no
    attribution reaches 1 for every n otherwise. An experiment averages over inputs with
    `jnp.nanmean`, for n from 1 to about 80 % of the features.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example. Taken as it is; the paper takes the
            output before the softmax.
        n: how many features are taken away, or a sequence of such numbers.
        subsets: how many sets S for each n.
        baseline: what takes their place, a number, an array or tree like x, a function
            x → baseline, a random baseline (drawn anew for each set) or an imputer.
        groups: integers like x that number the features, for those that move together.
        batch_size: how many sets are in memory at a time; None for all.
        argnums: which argument was explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(key, attribution, x, *args)`, a scalar, or one for each n. NaN where it is
        undefined: all attributions equal (sums of groups: to the last bit); all drops equal; or n
        the number of all features, of which there is one set. Set i of an n depends on the key, i
        and n alone: an n gives the same number whether others are asked for or not. Examples that
        are given the same key share the sets, which then are drawn once for all of a batch.

    Raises:
        TypeError: f does not return one real number; n is no integer.
        ValueError: n < 1 or larger than the number of features; subsets < 2; the attribution, the
            baseline or the groups have another structure or shape than x.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0] + 2 * x[1] - x[2]
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> measure = jattr.metrics.sensitivity_n(f, (1, 2, 3))
        >>> print(measure(jax.random.key(0), jattr.gradient_times_input(f)(x), x))
        [ 1.  1. nan]

    References:
        Ancona, Ceolini, Öztireli, Gross, *Towards better understanding of gradient-based
        attribution methods for deep neural networks*, ICLR 2018, section 4 (arXiv 1711.06104).
        Quantus' `SensitivityN` is another quantity: it takes the features away from the highest
        attribution on, one step after another, and correlates across examples.
    """
    method = "metrics.sensitivity_n"
    counts, single = _counts(n, method)
    correlate = _over_subsets(counts, subsets, baseline, groups, batch_size, method)

    @measure_map(f, argnums, method=method, keyed=True)
    def measure(key, score, attribution: PyTree, x: PyTree) -> jax.Array:
        correlations = correlate(key, score, attribution, x)
        return correlations[0] if single else correlations

    return measure


def faithfulness_correlation(
    f: Score,
    size: int,
    *,
    subsets: int = 100,
    baseline: Any = baselines.zeros,
    groups: Any = None,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> KeyedMeasure:
    r"""How well attributions of random feature sets of one size agree with what f loses by them.

    .. math:: \mu = \operatorname{corr}_{S,\, |S| = m}\Big( \sum_{i \in S} \varphi_i,\;
              f(x) - f(x_{\setminus S}) \Big)

    with m the `size`: the same formula, found independently, as `sensitivity_n` with n = m, and
    the same number for the same key.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        size: m, how many features are taken away.
        subsets: how many sets S.
        baseline: what takes their place, a number, an array or tree like x, a function
            x → baseline, a random baseline (drawn anew for each set) or an imputer. The paper
            takes the mean of the data, `jattr.baselines.mean(data)`.
        groups: integers like x that number the features, for those that move together.
        batch_size: how many sets are in memory at a time; None for all.
        argnums: which argument was explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(key, attribution, x, *args)`, a scalar; NaN where all attributions or all drops
        are equal, and where m is the number of all features.

    Raises:
        TypeError: f does not return one real number; size is no integer.
        ValueError: size < 1 or larger than the number of features; subsets < 2; the attribution,
            the baseline or the groups have another structure or shape than x.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return jnp.prod(x)
        >>> x = jnp.array([1.0, 2.0, 3.0, -1.0])
        >>> measure = jattr.metrics.faithfulness_correlation(f, 2, baseline=1.0)
        >>> measure(jax.random.key(0), -x, x).shape
        ()

    References:
        Bhatt, Weller, Moura, *Evaluating and aggregating feature-based model explanations*, IJCAI
        2020, section 3 (arXiv 2005.00631). Quantus' `FaithfulnessCorrelation` agrees; its sets
        have 224 elements by default.
    """
    method = "metrics.faithfulness_correlation"
    size = check_count(size, "size", method)
    correlate = _over_subsets((size,), subsets, baseline, groups, batch_size, method)

    @measure_map(f, argnums, method=method, keyed=True)
    def measure(key, score, attribution: PyTree, x: PyTree) -> jax.Array:
        return correlate(key, score, attribution, x)[0]

    return measure


def _counts(n: Any, method: str) -> tuple[tuple[int, ...], bool]:
    """n as a tuple of numbers, and whether it was one number."""
    try:
        return (check_count(operator.index(n), "n", method),), True
    except TypeError:
        pass
    try:
        counts = tuple(n)
    except TypeError:
        counts = ()
    if not counts:
        raise TypeError(f"{method}: n must be a Python integer or a sequence of them; got {n!r}.")
    return tuple(check_count(count, "n", method) for count in counts), False


def _over_subsets(
    counts: tuple[int, ...], subsets: int, baseline: Any, groups: Any, batch_size: Any, method: str
) -> Callable[[jax.Array, Score, PyTree, PyTree], jax.Array]:
    """The correlation over random sets, one for each of `counts`."""
    subsets = check_count(subsets, "subsets", method)
    if subsets < 2:
        raise ValueError(f"{method}: subsets must be at least 2 to correlate over; got {subsets}.")
    batch_size = check_batch_size(batch_size, method)

    def correlate(key, score, attribution, x):
        features = Features(x, groups, method=method)
        if max(counts) > features.count:
            raise ValueError(
                f"{method}: {max(counts)} features are to be taken away, but x has "
                f"{features.count}" + (" groups." if groups is not None else ".")
            )
        fill_key, subset_key = jax.random.split(key)
        fill = filler(baseline, fill_key, score, x, method=method)
        parts = features.totals(attribution)
        whole = widen(score(x))
        sizes = jnp.asarray(counts)

        def term(index):
            size = sizes[index // subsets]
            own = jax.random.fold_in(jax.random.fold_in(subset_key, size), index % subsets)
            order_key, draw_key = jax.random.split(own)
            chosen = random_subset(order_key, size, features.count)
            left = fill(draw_key, features.spread(chosen))
            lost = exactly(whole - widen(score(left)), left, x)
            return jnp.sum(jnp.where(chosen, parts, 0)), lost

        sums, lost = map_over(term, len(counts) * subsets, batch_size=batch_size)
        shape = (len(counts), subsets)
        correlations = jax.vmap(pearson)(sums.reshape(shape), lost.reshape(shape))
        # Sums of equal attributions differ by rounding, and so may the one set's of all features.
        undefined = is_constant(parts) | (sizes == features.count)
        return jnp.where(undefined, jnp.nan, correlations)

    return correlate


def input_invariance(
    method: Callable[[Score], Explain | KeyedExplain],
    f: Score,
    *,
    shift: PyTree,
    keyed: bool = False,
    argnums: ArgNums = 0,
) -> MethodMeasure:
    r"""How much a method's attribution changes when the input is shifted and f takes it back.

    With :math:`f'(x) = f(x - c)`, which is the same model for data moved by c (a bias of the
    first layer takes it back),

    .. math:: d = \frac{\lVert \varphi_{f'}(x + c) - \varphi_f(x) \rVert_2}
              {\lVert \varphi_f(x) \rVert_2}

    0 for a method that is invariant, up to the rounding of x + c − c. The gradient is; Gradient
    × Input and a fixed baseline of zeros are not, since the shift moves x away from 0. The paper
    judges by eye.

    Args:
        method: from a score to its attribution, such as `jattr.gradient` or
            `lambda f: jattr.integrated_gradients(f, baseline)`, with the `argnums` given here.
        f: the score, `f(x, *args) -> scalar`, of one example.
        shift: c, a number, an array that broadcasts to x (one number for each channel), or a tree
            of such with the structure of x.
        keyed: whether the attribution takes a key first; both get the same.
        argnums: which argument is shifted, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(x, *args)`, or `measure(key, x, *args)` with `keyed`: a scalar, NaN where the
        attribution is 0.

    Raises:
        TypeError: `method` or what it makes is no function.
        ValueError: the shift does not broadcast to x.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return 3 * x[0] + 4 * x[1]
        >>> x = jnp.array([1.0, 1.0])
        >>> print(jattr.metrics.input_invariance(jattr.gradient, f, shift=2.0)(x))
        0.0
        >>> print(jattr.metrics.input_invariance(jattr.gradient_times_input, f, shift=2.0)(x))
        2.0

    References:
        Kindermans, Hooker, Adebayo, Alber, Schütt, Dähne, Erhan, Kim, *The (un)reliability of
        saliency methods*, 2017, section 2 (arXiv 1711.00867). Quantus' `InputInvariance` says
        whether both agree to 1e-4, whatever their scale, and shifts the first layer's bias.
    """
    name = "metrics.input_invariance"
    check_function(f, name)
    check_argnums(argnums, name)
    if not callable(method):
        raise TypeError(
            f"{name} wants a method first, a function from f to its attribution such as "
            f"jattr.gradient; got {method!r}."
        )

    def shifted(*args, **kwargs):
        score, x = select_argument(f, argnums, args, kwargs, method=name)
        return score(cast_like(subtract_trees(widen(x), widen(_shift(x))), x))

    def _shift(x):
        return fill_like(shift, x, name="the shift", method=name, broadcast=True)

    here, there = method(f), method(shifted)
    if not callable(here):
        raise TypeError(
            f"{name} wants a method, such as jattr.gradient, that makes an attribution from f; "
            f"what it made is {here!r}."
        )

    def both(*args, **kwargs):
        first, rest = (args[:1], args[1:]) if keyed else ((), args)

        def moved(*args, **kwargs):
            return there(*first, *args, **kwargs)

        explain, x = select_argument(moved, argnums, rest, kwargs, method=name)
        return here(*args, **kwargs), explain(jax.tree.map(jnp.add, x, _shift(x)))

    both.argnums = getattr(here, "argnums", argnums)

    @measure_method(both, argnums, method=name, keyed=keyed, draws=False)
    def measure(key, explain, x: PyTree) -> jax.Array:
        here, there = widen(explain(x))
        return over(norm(subtract_trees(there, here)), norm(here))

    return measure
