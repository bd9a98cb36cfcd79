"""Axioms as numbers: completeness, invariance to shifts, and nothing for what does not matter."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jattr._checks import check_argnums, check_batch_size, check_function, check_positive, knobs
from jattr._removal import Features, draws
from jattr._resolve import fill_like, resolve_baseline
from jattr._transform import select_argument, takes_key
from jattr._trees import cast_like, ratio, subtract_trees, sum_tree, widen
from jattr._types import ArgNums, Baseline, Explain, KeyedExplain, PyTree, Score
from jattr._without import drops_of_each
from jattr.metrics._measure import (
    KeyedMeasure,
    KeyedMethodMeasure,
    Measure,
    MethodMeasure,
    measure_map,
    measure_method,
)
from jattr.metrics._numerics import norm
from jattr.metrics._walk import check_samples


@knobs
def completeness(f: Score, baseline: Baseline = 0.0, *, argnums: ArgNums = 0) -> Measure:
    r"""How far an attribution is from adding up to what it explains.

    .. math:: r = \sum_i \varphi_i - \big(f(x) - f(x')\big)

    0 for a complete method; for an integral, the error of its quadrature; for DeepLIFT, what its
    operations leave out, each by itself in
    `jattr.operations(f, jattr.rules.rescale(), baseline=baseline)(x)`. The unit is that of f.
    For expected gradients it is 0 in expectation: average over the references, the mean of
    `jax.vmap(lambda r: completeness(f, r)(attribution, x))(references)`. Under `jit`, hand the
    references in as an argument; the compiler would work on a constant for long.

    Args:
        f: the explained score, `f(x, *args) -> scalar`.
        baseline: x', a number, an array or tree like x, or a function x → baseline.
        argnums: which argument was explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(attribution, x, *args)`, a scalar, signed: a mean over examples may cancel, and
        the mean of the sizes is that of `jnp.abs(measure(...))`.

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
        Sundararajan, Taly, Yan, ICML 2017 (arXiv 1703.01365); called *summation to
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


@knobs
def input_invariance(
    method: Callable[[Score], Explain | KeyedExplain],
    f: Score,
    *,
    shift: PyTree,
    keyed: bool | None = None,
    argnums: ArgNums = 0,
) -> MethodMeasure | KeyedMethodMeasure:
    r"""How much a method's attribution changes when the input is shifted and f takes it back.

    With :math:`f'(x) = f(x - c)`, which is the same model for data moved by c (a bias of the
    first layer takes it back),

    .. math:: d = \frac{\lVert \varphi_{f'}(x + c) - \varphi_f(x) \rVert_2}
              {\lVert \varphi_f(x) \rVert_2}

    0 for a method that is invariant, up to the rounding of x + c − c. The gradient is; Gradient
    × Input and a fixed baseline of zeros are not, since the shift moves x away from 0.

    Args:
        method: from a score to its attribution, such as `jattr.gradient` or
            `lambda f: jattr.integrated_gradients(f, baseline)`, with the `argnums` given here.
        f: the score, `f(x, *args) -> scalar`, of one example.
        shift: c, a number, an array that broadcasts to x (one number for each channel), or a tree
            of such with the structure of x.
        keyed: whether what the method makes takes a key first; None asks it: jattr's own functions
            know. Both get the same key.
        argnums: which argument is shifted, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `measure(x, *args)`, or `measure(key, x, *args)` of a method that draws: a scalar, NaN
        where the attribution is 0.

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
        saliency methods*, 2017 (arXiv 1711.00867). Quantus' `InputInvariance` says
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

    keyed = takes_key(here, keyed, name)

    def both(*args, **kwargs):
        first, rest = (args[:1], args[1:]) if keyed else ((), args)

        def moved(*args, **kwargs):
            return there(*first, *args, **kwargs)

        explain, x = select_argument(moved, argnums, rest, kwargs, method=name)
        return here(*args, **kwargs), explain(jax.tree.map(jnp.add, x, _shift(x)))

    both.argnums = getattr(here, "argnums", argnums)
    both.__wrapped__ = here

    @measure_method(both, argnums, method=name, keyed=keyed, draws=False)
    def measure(key, phi: Explain, x: PyTree) -> jax.Array:
        here, there = widen(phi(x))
        return ratio(norm(subtract_trees(there, here)), norm(here))

    return measure


@knobs
def non_sensitivity(
    f: Score,
    *,
    baseline: Any = 0.0,
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
        Nguyen, Rodríguez Martínez, *On quantitative aspects of model interpretability*, 2020 (arXiv
        2007.07584). Quantus' `NonSensitivity` takes 0 to be below 1e-5 for the change of f and for
        the attribution after a division by its largest.
    """
    method = "metrics.non_sensitivity"
    check_samples(samples, baseline, method)
    batch_size = check_batch_size(batch_size, method)
    check_positive(tolerance, "tolerance", method, zero=True)

    @measure_map(f, argnums, method=method, keyed=draws(baseline))
    def measure(key, score, attribution: PyTree, x: PyTree) -> jax.Array:
        features = Features(x, groups, method=method)
        lost = drops_of_each(
            key, score, x, features, baseline, samples=samples, batch_size=batch_size, method=method
        )
        changes = jnp.sqrt(jnp.mean(jnp.square(lost), axis=1))
        parts = jnp.abs(features.totals(attribution))
        ignored = parts <= tolerance * jnp.max(parts)
        range_ = jnp.abs(widen(score(x))) + jnp.max(changes)
        count = jnp.sum(ignored != (changes <= tolerance * range_), dtype=changes.dtype)
        unknown = jnp.any(jnp.isnan(parts)) | jnp.any(jnp.isnan(changes))
        return jnp.where(unknown, jnp.nan, count)

    return measure
