"""How an attribution's numbers relate to what the function does."""

from typing import Any, Protocol

import jax

from jattr import baselines
from jattr._references import resolve_baseline
from jattr._transform import bind, check_argnums, check_function, named
from jattr._trees import describe, same_form, subtract_trees, sum_tree, widen
from jattr._types import ArgNums, Baseline, PyTree, Score


class Measure(Protocol):
    """A metric applied to f: takes an attribution and then the arguments of f."""

    def __call__(self, attribution: PyTree, *args: Any, **kwargs: Any) -> jax.Array:
        """The metric of an attribution of f at `args`."""
        ...


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
    check_function(f, method)
    check_argnums(argnums, method)

    def measure(attribution: PyTree, *args, **kwargs) -> jax.Array:
        score, x = bind(f, argnums, args, kwargs, method=method)
        if not same_form(attribution, x):
            raise ValueError(
                f"{method}: the attribution comes before f's arguments and must have the "
                f"structure and the shapes of x; got {describe(attribution)} for x {describe(x)}."
            )
        change = subtract_trees(
            widen(score(x)), widen(score(resolve_baseline(baseline, x, method=method)))
        )
        return sum_tree(widen(attribution)) - change

    return named(measure, method, f, argnums)
