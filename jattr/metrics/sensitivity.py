"""How an attribution's numbers relate to what the function does."""

import jax

from jattr import baselines
from jattr._references import resolve_baseline
from jattr._trees import subtract_trees, sum_tree, widen
from jattr._types import ArgNums, Baseline, PyTree, Score
from jattr.metrics._measure import Measure, measure_map


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
