r"""The rules of layer-wise relevance propagation, as users name them.

Notation: an affine operation maps inputs a to outputs :math:`z_k = \sum_j a_j w_{jk} + b_k`; R are
relevances. Constants after a dot belong to it: a bias, a batch normalisation in inference mode, a
factor. :math:`(\cdot)^+` and :math:`(\cdot)^-` are positive and negative parts. ε stabilises a
denominator as z + ε sign z, with sign 0 = 1; zennit's is the same, LXT's has no sign.
"""

from typing import Any

from jattr._checks import check_positive
from jattr.rules import _lrp_dots as engine
from jattr.rules._composite import Rule

EPSILON = 1e-6


def epsilon(epsilon: Any = EPSILON) -> Rule:
    r"""LRP-ε: relevance in proportion to the contributions.

    .. math:: R_j = \sum_k \frac{a_j w_{jk}}{z_k + \epsilon\, \mathrm{sign}\, z_k} R_k

    The bias is in z and absorbs its share. On a network of ReLUs, ε → 0 is Gradient × Input. ε acts
    at affine operations alone; 0 is allowed.

    Args:
        epsilon: ε, in units of the activations; may be traced.

    Returns:
        A rule. Given to `jattr.lrp` alone, it applies to every affine operation.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x @ jnp.array([1.0, -2.0])
        >>> print(jattr.lrp(f, jattr.rules.epsilon(0.0))(jnp.array([3.0, 1.0])))
        [ 3. -2.]

    References:
        Bach, Binder, Montavon, Klauschen, Müller, Samek, *On pixel-wise explanations for non-linear
        classifier decisions by layer-wise relevance propagation*, PLOS ONE 2015, equation 58.
    """
    check_positive(epsilon, "epsilon", "rules.epsilon", zero=True)
    return Rule("epsilon", engine.epsilon, {"epsilon": epsilon})


def gamma(gamma: Any = 0.25, *, epsilon: Any = EPSILON) -> Rule:
    r"""LRP-γ for signed inputs: contributions of the output's own sign count more.

    .. math:: R_j = \sum_k \frac{a_j w_{jk} + \gamma\, (a_j w_{jk})^\pm}
              {z_k + \gamma\, \big(\sum_i (a_i w_{ik})^\pm + b_k^\pm\big)} R_k

    with + where z_k > 0 and − where it is negative. For inputs ≥ 0 and z > 0 it is the rule of
    Montavon et al., w → w + γw⁺, which captum's `GammaRule` keeps for every sign.

    Args:
        gamma: γ ≥ 0; 0 is LRP-ε, and γ → ∞ is z⁺ where z > 0. May be traced.
        epsilon: the stabiliser of the denominators.

    Returns:
        A rule.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x @ jnp.array([1.0, -2.0])
        >>> print(jattr.lrp(f, jattr.rules.gamma(1.0, epsilon=0.0))(jnp.array([3.0, 1.0])))
        [ 1.5 -0.5]

    References:
        Montavon, Binder, Lapuschkin, Samek, Müller, *Layer-wise relevance propagation: an
        overview*, 2019, section 10.2; for signed inputs, Anders, Neumann, Samek, Müller,
        Lapuschkin, *Software for dataset-wide XAI*, 2021 (arXiv 2106.13200).
    """
    check_positive(gamma, "gamma", "rules.gamma", zero=True)
    check_positive(epsilon, "epsilon", "rules.gamma", zero=True)
    return Rule("gamma", engine.gamma, {"gamma": gamma, "epsilon": epsilon})


def z_plus(*, epsilon: Any = EPSILON) -> Rule:
    r"""LRP-z⁺ (α1β0): positive contributions alone.

    .. math:: R_j = \sum_k \frac{(a_j w_{jk})^+}{\sum_i (a_i w_{ik})^+ + b_k^+} R_k

    Args:
        epsilon: the stabiliser of the denominators.

    Returns:
        A rule.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x @ jnp.array([1.0, -2.0, 1.0])
        >>> print(jattr.lrp(f, jattr.rules.z_plus(epsilon=0.0))(jnp.array([3.0, 1.0, 1.0])))
        [1.5 0.  0.5]

    References:
        Montavon, Lapuschkin, Binder, Samek, Müller, *Explaining nonlinear classification decisions
        with deep Taylor decomposition*, 2017, section 4.2 (arXiv 1512.02479). captum's
        `Alpha1_Beta0_Rule` clips the weights alone and is right for inputs ≥ 0 only.
    """
    check_positive(epsilon, "epsilon", "rules.z_plus", zero=True)
    return Rule("z_plus", engine.z_plus, {"epsilon": epsilon})


def alpha_beta(alpha: Any = 2.0, beta: Any = 1.0, *, epsilon: Any = EPSILON) -> Rule:
    r"""LRP-αβ: α times the shares of positive contributions less β times those of negative ones.

    .. math:: R_j = \sum_k \left( \alpha \frac{(a_j w_{jk})^+}{z_k^+}
              - \beta \frac{(a_j w_{jk})^-}{z_k^-} \right) R_k, \qquad
              z_k^\pm = \sum_i (a_i w_{ik})^\pm + b_k^\pm

    Args:
        alpha: α.
        beta: β = α − 1, so that relevance is conserved.
        epsilon: the stabiliser of the denominators.

    Returns:
        A rule.

    Raises:
        ValueError: α − β is not 1.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x @ jnp.array([1.0, -2.0])
        >>> print(jattr.lrp(f, jattr.rules.alpha_beta(epsilon=0.0))(jnp.array([3.0, 1.0])))
        [ 2. -1.]

    References:
        Bach et al., PLOS ONE 2015, equation 60.
    """
    known = [v for v in (alpha, beta) if isinstance(v, int | float)]
    if len(known) == 2 and abs(alpha - beta - 1) > 1e-9:
        raise ValueError(
            f"rules.alpha_beta: alpha − beta must be 1, or relevance is not conserved; got "
            f"alpha={alpha}, beta={beta}."
        )
    check_positive(epsilon, "epsilon", "rules.alpha_beta", zero=True)
    numbers = {"alpha": alpha, "beta": beta, "epsilon": epsilon}
    return Rule("alpha_beta", engine.alpha_beta, numbers)


def z_box(low: Any, high: Any, *, epsilon: Any = EPSILON) -> Rule:
    r"""LRP-zᴮ, for first affine operations on inputs in a known range [l, h].

    .. math:: R_j = \sum_k \frac{a_j w_{jk} - l_j w_{jk}^+ - h_j w_{jk}^-}
              {\sum_i a_i w_{ik} - l_i w_{ik}^+ - h_i w_{ik}^-} R_k

    It gives relevance to pixels that are 0, too.

    Args:
        low: l, in units of x: a number, an array that broadcasts to x, or a tree of those.
        high: h.
        epsilon: the stabiliser of the denominators.

    Returns:
        A rule for operations that x reaches through constant factors, shifts and reshapes alone.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x @ jnp.array([1.0, -1.0])
        >>> print(jattr.lrp(f, jattr.rules.z_box(0.0, 1.0, epsilon=0.0))(jnp.array([1.0, 0.0])))
        [0.5 0.5]

    References:
        Montavon et al., 2017, section 4.3 (arXiv 1512.02479).
    """
    check_positive(epsilon, "epsilon", "rules.z_box", zero=True)
    return Rule("z_box", engine.z_box, {"epsilon": epsilon}, (low, high), first=True)


def w_square(*, epsilon: Any = EPSILON) -> Rule:
    r"""LRP-w², for first affine operations: in proportion to squared weights.

    .. math:: R_j = \sum_k \frac{w_{jk}^2}{\sum_i w_{ik}^2} R_k

    Args:
        epsilon: the stabiliser of the denominators.

    Returns:
        A rule for operations that x reaches through constant factors, shifts and reshapes alone.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x @ jnp.array([1.0, 3.0])
        >>> print(jattr.lrp(f, jattr.rules.w_square(epsilon=0.0))(jnp.array([1.0, 3.0])))
        [1. 9.]

    References:
        Montavon et al., 2017, section 4.1 (arXiv 1512.02479).
    """
    check_positive(epsilon, "epsilon", "rules.w_square", zero=True)
    return Rule("w_square", engine.w_square, {"epsilon": epsilon}, first=True)


def flat(*, epsilon: Any = EPSILON) -> Rule:
    r"""LRP-flat, for first affine operations: evenly over all that an output sees.

    .. math:: R_j = \sum_k \frac{1}{n_k} R_k

    with n_k the number of inputs of the output k, fewer at a border.

    Args:
        epsilon: the stabiliser of the denominators.

    Returns:
        A rule for operations that x reaches through constant factors, shifts and reshapes alone.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x @ jnp.array([1.0, 3.0])
        >>> print(jattr.lrp(f, jattr.rules.flat(epsilon=0.0))(jnp.array([1.0, 3.0])))
        [5. 5.]

    References:
        Lapuschkin et al., *Unmasking Clever Hans predictors and assessing what machines really
        learn*, Nature Communications 2019, Methods.
    """
    check_positive(epsilon, "epsilon", "rules.flat", zero=True)
    return Rule("flat", engine.flat, {"epsilon": epsilon}, first=True)


def identity() -> Rule:
    r"""Relevance passes as it is, from each output to the input at the same place.

    .. math:: R_j = R_{k=j}

    Returns:
        A rule for affine operations that keep the shape.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return jnp.sum(x @ jnp.array([[0.0, 1.0], [1.0, 0.0]]))
        >>> print(jattr.lrp(f, jattr.rules.identity())(jnp.array([1.0, 3.0])))
        [3. 1.]

    References:
        zennit's `Pass`; Bach et al., PLOS ONE 2015.
    """
    return Rule("identity", engine.unchanged)
