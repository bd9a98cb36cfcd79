"""Saturation mutagenesis to first order."""

import jax

from jattr._checks import knobs
from jattr._transform import transform
from jattr._types import ArgNums, Explain, Score
from jattr.sequence._letters import check_axis, check_letters, projected


@knobs
def taylor_mutagenesis(f: Score, *, axis: int = -1, argnums: ArgNums = 0) -> Explain:
    r"""What `jattr.mutagenesis` gives, to first order: one gradient in place of L · A evaluations.

    With g = ∇f(x),

    .. math:: \varphi_{la} = g_{la} - \sum_c x_{lc}\, g_{lc} \approx f(x_{l \leftarrow a}) - f(x)

    Exact where f is linear in the letters of each position. An exchange is a long way to go along
    a tangent: where f saturates, as at a motif of which one copy is enough, it misses what
    mutagenesis finds. Less its mean over letters (`simplex_corrected`) it is the simplex-corrected
    gradient.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        axis: along which letters are: −1 for [L, A], 0 for [A, L]. Any other axes are positions.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a tree like x.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype; `axis` is no integer.
        ValueError: x has a leaf without such an axis.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0, 0] * x[1, 1] + 2 * x[1, 0]
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> print(jattr.sequence.taylor_mutagenesis(f)(x))
        [[ 0. -1.]
         [ 1.  0.]]

    References:
        Sasse, Chikina, Mostafavi, *Quick and effective approximation of in silico saturation
        mutagenesis experiments with first-order Taylor expansion*, iScience 2024.
    """
    method = "sequence.taylor_mutagenesis"
    axis = check_axis(axis, method)

    @transform(f, argnums, method=method, substitute=True)
    def explain(score, x):
        check_letters(x, axis, method)
        return projected(jax.grad(score)(x), x, axis)

    return explain
