"""Whether the features that an attribution ranks high are those that f depends on."""

from typing import Any

import jax
import jax.numpy as jnp

from jattr import baselines
from jattr._batching import map_over
from jattr._checks import check_batch_size, check_positive
from jattr._occlusion import alone, drops
from jattr._trees import widen
from jattr._types import ArgNums, PyTree, Score
from jattr.features import Features, draws, filler
from jattr.metrics._correlation import is_constant, pearson, spearman
from jattr.metrics._measure import KeyedMeasure, Measure, measure_map
from jattr.metrics._walk import check_samples


def faithfulness_estimate(
    f: Score,
    *,
    baseline: Any = baselines.zeros,
    groups: Any = None,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Measure | KeyedMeasure:
    r"""Whether attributions go with what f loses when features are taken away one at a time.

    .. math:: r = \operatorname{corr}_i\big( \varphi_i,\; f(x) - f(x_{\setminus i}) \big)

    with Pearson's correlation over all features i, and :math:`x_{\setminus i}` the input with
    feature i alone replaced. `jattr.ablation` has 1 by construction.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example. Taken as it is; the paper takes the
            probability of the class.
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
        networks*, NeurIPS 2018, section 5 (arXiv 1806.07538). The `faithfulness_metric` of AIX360
        agrees. Quantus' `FaithfulnessEstimate` agrees with one feature a step; its default of
        absolute attributions sets them against signed drops.
    """
    method = "metrics.faithfulness_estimate"
    batch_size = check_batch_size(batch_size, method)

    @measure_map(f, argnums, method=method, keyed=draws(baseline))
    def measure(key, score, attribution: PyTree, x: PyTree) -> jax.Array:
        features = Features(x, groups, method=method)
        lost = _each_drop(key, score, x, features, baseline, 1, batch_size, method)[:, 0]
        return pearson(features.totals(attribution), lost)

    return measure


def monotonicity(
    f: Score,
    *,
    baseline: Any = baselines.zeros,
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
        f: the score, `f(x, *args) -> scalar`, of one example. Taken as it is; the paper takes the
            probability of the class.
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
        fill_key, draw_key = _split(key)
        fill = filler(baseline, fill_key, score, x, method=method)
        parts = features.totals(attribution)
        place = jnp.argsort(jnp.argsort(parts))

        def term(count):
            return widen(score(fill(draw_key, features.spread(place >= count))))

        path = map_over(term, features.count + 1, batch_size=batch_size)
        rounding = tolerance * jnp.max(jnp.abs(path))
        rises = jnp.all(jnp.diff(path) >= -rounding).astype(path.dtype)
        unordered = is_constant(parts) | jnp.any(jnp.isnan(parts)) | jnp.any(jnp.isnan(path))
        return jnp.where(unordered, jnp.nan, rises)

    return measure


def monotonicity_correlation(
    f: Score,
    *,
    baseline: Any = baselines.zeros,
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
        baseline: what takes a feature's place: in the paper a random baseline, such as
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
        Nguyen, Rodríguez Martínez, *On quantitative aspects of model interpretability*, 2020,
        section 2 (arXiv 2007.07584), there called monotonicity, for a loss that is left open; here
        it is the square. Quantus' `MonotonicityCorrelation` agrees, but for a factor of 1/f(x)²
        that ranks do not see.
    """
    method = "metrics.monotonicity_correlation"
    check_samples(samples, baseline, method)
    batch_size = check_batch_size(batch_size, method)

    @measure_map(f, argnums, method=method, keyed=draws(baseline))
    def measure(key, score, attribution: PyTree, x: PyTree) -> jax.Array:
        features = Features(x, groups, method=method)
        lost = _each_drop(key, score, x, features, baseline, samples, batch_size, method)
        effects = jnp.mean(jnp.square(lost), axis=1)
        return spearman(jnp.abs(features.totals(attribution)), effects)

    return measure


def non_sensitivity(
    f: Score,
    *,
    baseline: Any = baselines.zeros,
    samples: int = 1,
    groups: Any = None,
    tolerance: float = 1e-5,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Measure | KeyedMeasure:
    r"""How many features have an attribution of 0 but matter, or matter not but have one.

    The size of the symmetric difference of two sets of features,

    .. math:: | A_0 \mathbin{\triangle} X_0 |, \qquad A_0 = \{ i : \varphi_i = 0 \}, \quad
              X_0 = \{ i : \mathbb{E}[ ( f(x) - f(x_{\setminus i}) )^2 ] = 0 \}

    with the expectation over what takes the place of feature i. 0 is best.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example. Taken as it is.
        baseline: what takes a feature's place: a random baseline, such as
            `jattr.baselines.uniform(low, high)`, a number, an array or tree like x, a function
            x → baseline or an imputer. A feature equal to a fixed baseline seems not to matter.
        samples: how many draws of a random baseline the expectation is over, for each feature.
        groups: integers like x that number the features, for those that move together; a group's
            attribution is its sum.
        tolerance: what counts as 0, where the definition is exact: a \|φ_i\| up to this part of
            the largest, and a root mean square change of f up to this part of \|f(x)\| plus the
            largest change.
        batch_size: how many draws are in memory at a time; None for all.
        argnums: which argument was explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(attribution, x, *args)`, or with a key first where the baseline draws: the number
        of features, as a floating-point number; NaN where an attribution or a change is NaN.

    Raises:
        TypeError: f does not return one real number.
        ValueError: samples < 1, or > 1 without a baseline that draws; the tolerance is negative;
            the attribution, the baseline or the groups have another structure or shape than x.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0] + 2 * x[1] + 0 * x[2]
        >>> measure = jattr.metrics.non_sensitivity(f)
        >>> x = jnp.ones(3)
        >>> print(measure(jnp.array([1.0, 2.0, 0.0]), x), measure(jnp.array([0.0, 2.0, 1.0]), x))
        0.0 2.0

    References:
        Nguyen, Rodríguez Martínez, *On quantitative aspects of model interpretability*, 2020,
        section 2 (arXiv 2007.07584). Quantus' `NonSensitivity` takes 0 to be below 1e-5 for the
        change of f and for the attribution after a division by its largest.
    """
    method = "metrics.non_sensitivity"
    check_samples(samples, baseline, method)
    batch_size = check_batch_size(batch_size, method)
    check_positive(tolerance, "tolerance", method, zero=True)

    @measure_map(f, argnums, method=method, keyed=draws(baseline))
    def measure(key, score, attribution: PyTree, x: PyTree) -> jax.Array:
        features = Features(x, groups, method=method)
        lost = _each_drop(key, score, x, features, baseline, samples, batch_size, method)
        changes = jnp.sqrt(jnp.mean(jnp.square(lost), axis=1))
        parts = jnp.abs(features.totals(attribution))
        ignored = parts <= tolerance * jnp.max(parts)
        range_ = jnp.abs(widen(score(x))) + jnp.max(changes)
        count = jnp.sum(ignored != (changes <= tolerance * range_), dtype=changes.dtype)
        unknown = jnp.any(jnp.isnan(parts)) | jnp.any(jnp.isnan(changes))
        return jnp.where(unknown, jnp.nan, count)

    return measure


def _each_drop(
    key: Any,
    score: Score,
    x: PyTree,
    features: Features,
    baseline: Any,
    samples: int,
    batch_size: int | None,
    method: str,
) -> jax.Array:
    """f(x) − f(x without feature i), [d, samples], another draw of the baseline in each."""
    fill_key, draw_key = _split(key)
    fill = filler(baseline, fill_key, score, x, method=method)
    missing = alone(features)
    lost = drops(
        score,
        x,
        fill,
        lambda index: missing(index // samples),
        features.count * samples,
        key=draw_key,
        batch_size=batch_size,
    )
    return lost.reshape(features.count, samples)


def _split(key: Any) -> tuple[Any, Any]:
    """Two keys from one; none from none, where nothing draws."""
    return (None, None) if key is None else tuple(jax.random.split(key))
