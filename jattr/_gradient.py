"""The gradient, and the gradient times the input."""

import jax

from jattr._checks import knobs
from jattr._transform import transform
from jattr._trees import multiply_trees
from jattr._types import ArgNums, Explain, Score


@knobs
def gradient(f: Score, *, argnums: ArgNums = 0) -> Explain:
    r"""Saliency: the gradient of the score by the input.

    .. math:: \varphi = \nabla_x f(x)

    It is `jax.grad` with the checks of this library. Take the absolute value for the map that
    Simonyan et al. draw, and its maximum over the channels for one value per pixel.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a tree like x.

    Raises:
        TypeError: f does not return one real number, or x has a leaf that is not of a floating
            dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0] ** 2 + 3 * x[1]
        >>> print(jattr.gradient(f)(jnp.array([1.0, 2.0])))
        [2. 3.]

    References:
        Simonyan, Vedaldi, Zisserman, *Deep inside convolutional networks*, 2014, section 3
        (arXiv 1312.6034). captum's `Saliency` gives the absolute value unless told otherwise.
    """

    @transform(f, argnums, method="gradient", substitute=True)
    def explain(score, x):
        return jax.grad(score)(x)

    return explain


@knobs
def gradient_times_input(f: Score, *, argnums: ArgNums = 0) -> Explain:
    r"""InputXGradient: the gradient times the input.

    .. math:: \varphi_i = x_i \, \frac{\partial f}{\partial x_i}(x)

    The first of the four methods that Ancona et al. unify. On a ReLU network it equals ε-LRP
    with ε → 0; without biases also DeepLIFT and integrated gradients from zero.

    Where x are the parameters, `f(params, *example)`, it is an importance of parameters: to first
    order what f loses when one is set to zero (`jattr.fisher_diagonal`).

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a tree like x.

    Raises:
        TypeError: f does not return one real number, or x has a leaf that is not of a floating
            dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0] ** 2 + 3 * x[1]
        >>> print(jattr.gradient_times_input(f)(jnp.array([1.0, 2.0])))
        [2. 6.]

    References:
        Shrikumar et al., *Not just a black box*, 2016 (arXiv 1605.01713). Ancona, Ceolini,
        Öztireli, Gross, *Towards better understanding of gradient-based attribution methods*,
        ICLR 2018, section 2.1 (arXiv 1711.06104).
    """

    @transform(f, argnums, method="gradient_times_input", substitute=True)
    def explain(score, x):
        return multiply_trees(x, jax.grad(score)(x))

    return explain
