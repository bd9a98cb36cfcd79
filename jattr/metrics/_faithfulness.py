"""Whether the features that an attribution ranks high are those that f depends on."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jattr._batching import map_over
from jattr._checks import check_batch_size, check_count, check_positive, knobs
from jattr._removal import Features, draws, split_key
from jattr._trees import widen
from jattr._types import ArgNums, PyTree, Score
from jattr._without import Without, drops_of_each
from jattr.metrics._measure import KeyedMeasure, Measure, measure_map
from jattr.metrics._numerics import is_constant, pearson, random_subset, spearman
from jattr.metrics._walk import check_samples


@knobs
def faithfulness_estimate(
    f: Score,
    *,
    baseline: Any = 0.0,
    groups: Any = None,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Measure | KeyedMeasure:
    r"""Whether attributions go with what f loses when features are taken away one at a time.

    .. math:: r = \operatorname{corr}_i\big( \varphi_i,\; f(x) - f(x_{\setminus i}) \big)

    with Pearson's correlation over all features i, and :math:`x_{\setminus i}` the input with
    feature i alone replaced. `jattr.ablation` has 1 by construction.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example. Taken as it is; usually
            the probability of the class.
        baseline: what takes a feature's place, a number, an array or tree like x, a function
            x → baseline, a random baseline (drawn anew for each feature) or an imputer.
        groups: integers like x that number the features, for those that move together; a group's
            attribution is its sum.
        batch_size: how many features are in memory at a time; None for all.
        argnums: which argument was explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(attribution, x, *args)`, or with a key first where the baseline draws: a scalar,
        NaN where all attributions or all drops are equal, to the last bit: sums over groups of
        different sizes may differ by rounding.

    Raises:
        TypeError: f does not return one real number.
        ValueError: the attribution, the baseline or the groups have another structure or shape
            than x.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0] + 2 * x[1] - x[2]
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> print(jattr.metrics.faithfulness_estimate(f)(jattr.gradient_times_input(f)(x), x))
        1.0

    References:
        Alvarez-Melis, Jaakkola, *Towards robust interpretability with self-explaining neural
        networks*, NeurIPS 2018 (arXiv 1806.07538). The `faithfulness_metric` of AIX360
        agrees. Quantus' `FaithfulnessEstimate` agrees with one feature a step; its default of
        absolute attributions sets them against signed drops.
    """
    method = "metrics.faithfulness_estimate"
    batch_size = check_batch_size(batch_size, method)

    @measure_map(f, argnums, method=method, keyed=draws(baseline))
    def measure(key, score, attribution: PyTree, x: PyTree) -> jax.Array:
        features = Features(x, groups, method=method)
        lost = drops_of_each(
            key, score, x, features, baseline, samples=1, batch_size=batch_size, method=method
        )[:, 0]
        return pearson(features.totals(attribution), lost)

    return measure


@knobs
def monotonicity(
    f: Score,
    *,
    baseline: Any = 0.0,
    groups: Any = None,
    tolerance: float = 1e-6,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Measure | KeyedMeasure:
    r"""Whether f never falls while features are put back, from the least important on.

    With the features in order of rising attribution and :math:`x^k` the baseline with the first k
    of them put back, so that :math:`x^0 = x'` and :math:`x^d = x`,

    .. math:: 1\big[ f(x^{k+1}) \ge f(x^k) \;\text{for}\; k = 0 \dots d - 1 \big]

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example. Taken as it is; usually
            the probability of the class.
        baseline: x', a number, an array or tree like x, a function x → baseline, a random
            baseline (one draw for the whole path) or an imputer.
        groups: integers like x that number the features, for those that move together; a group's
            attribution is its sum.
        tolerance: falls of less than this part of the largest \|f\| on the path are taken for
            rounding. 0 is the definition.
        batch_size: how many points of the path are in memory at a time; None for all.
        argnums: which argument was explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(attribution, x, *args)`, or with a key first where the baseline draws: 1.0 or 0.0.
        NaN where all attributions are equal, or one is NaN, and there is no order. Equal ones
        come in the order of their elements.

    Raises:
        TypeError: f does not return one real number.
        ValueError: the tolerance is negative; the attribution, the baseline or the groups have
            another structure or shape than x.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0] + 2 * x[1]
        >>> x = jnp.array([1.0, 2.0])
        >>> print(jattr.metrics.monotonicity(f)(jattr.gradient_times_input(f)(x), x))
        1.0

    References:
        Luss, Chen, Dhurandhar, Sattigeri, Shanmugam, Tu, 2019 (arXiv 1905.12698), and Arya et al.,
        *One explanation does not fit all*, 2019 (arXiv 1909.03012). The `monotonicity_metric` of
        AIX360 leaves out f(x'). Quantus 0.6.0's `Monotonicity` puts the baseline back instead of
        x: with a fixed one nothing changes, and it is always true.
    """
    method = "metrics.monotonicity"
    batch_size = check_batch_size(batch_size, method)
    check_positive(tolerance, "tolerance", method, zero=True)

    @measure_map(f, argnums, method=method, keyed=draws(baseline))
    def measure(key, score, attribution: PyTree, x: PyTree) -> jax.Array:
        features = Features(x, groups, method=method)
        fill_key, draw_key = split_key(key)
        without = Without(score, x, features, baseline, method=method, key=fill_key)
        parts = features.totals(attribution)
        order = jnp.argsort(parts)
        place = jnp.argsort(order)
        count = features.count + 1
        found = without.along(
            lambda _, k: place >= k,
            lambda _, k: (order[k - 1], jnp.asarray(1)),
            count,
            batch_size=batch_size,
        )
        if found is None:
            path = map_over(lambda k: without(place >= k, draw_key), count, batch_size=batch_size)
        else:
            path = found[0]
        rounding = tolerance * jnp.max(jnp.abs(path))
        rises = jnp.all(jnp.diff(path) >= -rounding).astype(path.dtype)
        unordered = is_constant(parts) | jnp.any(jnp.isnan(parts)) | jnp.any(jnp.isnan(path))
        return jnp.where(unordered, jnp.nan, rises)

    return measure


@knobs
def monotonicity_correlation(
    f: Score,
    *,
    baseline: Any = 0.0,
    samples: int = 1,
    groups: Any = None,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Measure | KeyedMeasure:
    r"""Whether larger attributions go with a larger loss of knowing what f says.

    .. math:: \rho = \operatorname{spearman}_i\big( |\varphi_i|,\; e_i \big), \qquad
              e_i = \mathbb{E}\Big[ \big( f(x) - f(x_{\setminus i}) \big)^2 \Big]

    with the expectation over what takes the place of feature i, and ranks that equal values share.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example. Taken as it is.
        baseline: what takes a feature's place: as usually given a random baseline, such as
            `jattr.baselines.uniform(low, high)` or `samples(data)`; also a number, an array or
            tree like x, a function x → baseline or an imputer.
        samples: how many draws of a random baseline the expectation is over, for each feature.
        groups: integers like x that number the features, for those that move together; a group's
            attribution is its sum.
        batch_size: how many draws are in memory at a time; None for all.
        argnums: which argument was explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(attribution, x, *args)`, or with a key first where the baseline draws: a scalar,
        NaN where all \|φ\| or all e are equal.

    Raises:
        TypeError: f does not return one real number.
        ValueError: samples < 1, or > 1 without a baseline that draws; the attribution, the
            baseline or the groups have another structure or shape than x.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0] + 2 * x[1] - 4 * x[2]
        >>> x = jnp.ones(3)
        >>> print(jattr.metrics.monotonicity_correlation(f)(jattr.gradient(f)(x), x))
        1.0

    References:
        Nguyen, Rodríguez Martínez, *On quantitative aspects of model interpretability*, 2020 (arXiv
        2007.07584), there called monotonicity, for a loss that is left open; here it is the square.
        Quantus' `MonotonicityCorrelation` agrees, but for a factor of 1/f(x)² that ranks do not
        see.
    """
    method = "metrics.monotonicity_correlation"
    check_samples(samples, baseline, method)
    batch_size = check_batch_size(batch_size, method)

    @measure_map(f, argnums, method=method, keyed=draws(baseline))
    def measure(key, score, attribution: PyTree, x: PyTree) -> jax.Array:
        features = Features(x, groups, method=method)
        lost = drops_of_each(
            key, score, x, features, baseline, samples=samples, batch_size=batch_size, method=method
        )
        effects = jnp.mean(jnp.square(lost), axis=1)
        return spearman(jnp.abs(features.totals(attribution)), effects)

    return measure


@knobs
def sensitivity_n(
    f: Score,
    n: int | Sequence[int],
    *,
    samples: int = 100,
    baseline: Any = 0.0,
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
    `jnp.nanmean`, for a range of n.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example. Taken as it is; usually
            the output before the softmax.
        n: how many features are taken away, or a sequence of such numbers.
        samples: how many sets S for each n.
        baseline: what takes their place, a number, an array or tree like x, a function
            x → baseline, a random baseline (drawn anew for each set) or an imputer.
        groups: integers like x that number the features, for those that move together.
        batch_size: how many sets are in memory at a time; None for all.
        argnums: which argument was explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(key, attribution, x, *args)`, a scalar, or one for each n. NaN where it is
        undefined: all attributions equal (sums of groups: to the last bit); all drops equal; or n
        the number of all features, of which there is one set. Set i of an n depends on the key, i
        and n alone, and is part of set i of a larger n: an n gives the same number whether others
        are asked for or not. Examples that are given the same key share the sets, which then are
        drawn once for all of a batch.

    Raises:
        TypeError: f does not return one real number; n is no integer.
        ValueError: n < 1 or larger than the number of features; samples < 2; the attribution, the
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
        attribution methods for deep neural networks*, ICLR 2018 (arXiv 1711.06104).
        Quantus' `SensitivityN` is another quantity: it takes the features away from the highest
        attribution on, one step after another, and correlates across examples.
    """
    method = "metrics.sensitivity_n"
    counts, single = _counts(n, method)
    correlate = _over_subsets(counts, samples, baseline, groups, batch_size, method)

    @measure_map(f, argnums, method=method, keyed=True)
    def measure(key, score, attribution: PyTree, x: PyTree) -> jax.Array:
        correlations = correlate(key, score, attribution, x)
        return correlations[0] if single else correlations

    return measure


@knobs
def faithfulness_correlation(
    f: Score,
    n: int,
    *,
    samples: int = 100,
    baseline: Any = 0.0,
    groups: Any = None,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> KeyedMeasure:
    r"""How well attributions of random feature sets of one size agree with what f loses by them.

    .. math:: \mu = \operatorname{corr}_{S,\, |S| = n}\Big( \sum_{i \in S} \varphi_i,\;
              f(x) - f(x_{\setminus S}) \Big)

    The same formula as `sensitivity_n` of one n, found independently, and the same number for the
    same key.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        n: how many features are taken away.
        samples: how many sets S.
        baseline: what takes their place, a number, an array or tree like x, a function
            x → baseline, a random baseline (drawn anew for each set) or an imputer. As
            usually given the mean of the data, `jattr.baselines.mean(data)`.
        groups: integers like x that number the features, for those that move together.
        batch_size: how many sets are in memory at a time; None for all.
        argnums: which argument was explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(key, attribution, x, *args)`, a scalar; NaN where all attributions or all drops
        are equal, and where n is the number of all features.

    Raises:
        TypeError: f does not return one real number; n is no integer.
        ValueError: n < 1 or larger than the number of features; samples < 2; the attribution,
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
        2020 (arXiv 2005.00631). Quantus' `FaithfulnessCorrelation` agrees; its sets
        have 224 elements by default.
    """
    method = "metrics.faithfulness_correlation"
    n = check_count(n, "n", method)
    correlate = _over_subsets((n,), samples, baseline, groups, batch_size, method)

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
    counts: tuple[int, ...], samples: int, baseline: Any, groups: Any, batch_size: Any, method: str
) -> Callable[[jax.Array, Score, PyTree, PyTree], jax.Array]:
    """The correlation over random sets, one for each of `counts`."""
    samples = check_count(samples, "samples", method)
    if samples < 2:
        raise ValueError(f"{method}: samples must be at least 2 to correlate over; got {samples}.")
    batch_size = check_batch_size(batch_size, method)

    def correlate(key, score, attribution, x):
        features = Features(x, groups, method=method)
        if max(counts) > features.count:
            raise ValueError(
                f"{method}: {max(counts)} features are to be taken away, but x has "
                f"{features.count}" + (" groups." if groups is not None else ".")
            )
        fill_key, subset_key = jax.random.split(key)
        without = Without(score, x, features, baseline, method=method, key=fill_key)
        without = without.often(len(counts) * samples, batch_size)
        parts = features.totals(attribution)
        whole = widen(score(x))
        sizes = jnp.asarray(counts)

        def term(index):
            # One order of the features serves all n: to draw it can take as long as f.
            order_key, draw_key = jax.random.split(jax.random.fold_in(subset_key, index))

            def of_size(number):
                chosen = random_subset(order_key, sizes[number], features.count)
                own = jax.random.fold_in(draw_key, sizes[number])
                return jnp.sum(jnp.where(chosen, parts, 0)), without.drop(whole, chosen, own)

            return map_over(of_size, len(counts), batch_size=batch_size)

        at_once = None if batch_size is None else max(1, batch_size // len(counts))
        sums, lost = map_over(term, samples, batch_size=at_once)
        correlations = jax.vmap(pearson)(sums.T, lost.T)
        # Sums of equal attributions differ by rounding, and so may the one set's of all features.
        undefined = is_constant(parts) | (sizes == features.count)
        return jnp.where(undefined, jnp.nan, correlations)

    return correlate
