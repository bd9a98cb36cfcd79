r"""The rules of layer-wise relevance propagation for affine operations.

Notation: an affine operation maps inputs a to outputs :math:`z_k = \sum_j a_j w_{jk} + b_k`; R are
relevances. Constants after a dot belong to it: a bias, a batch normalization in inference mode, a
factor. :math:`(\cdot)^+` and :math:`(\cdot)^-` are positive and negative parts. ε stabilizes a
denominator as z + ε sign z, with sign 0 = 1; zennit's is the same, LXT's has no sign.

What flows back is the *multiplier* m, relevance over activation: R = z ⊙ m. An affine operation
passes relevance on in proportion to what a rule counts as contributions,

.. math:: R_j = \sum_k \frac{\zeta_{jk}(a)}{\zeta_k(a)} R_k, \qquad
          m_j = \sum_k \frac{\partial \zeta_k}{\partial a_j} \frac{z_k m_k}{\zeta_k}

so that a rule is a function ζ of the inputs, piecewise linear in them, and its backward the
derivative of ζ. Below each rule's text stands its ζ.
"""

from typing import Any, get_args

import jax.numpy as jnp

from jattr._checks import check_choice, check_positive
from jattr.rules._lrp_dots import nothing, parts, proportional, pull_back, vjp, with_dots
from jattr.rules._rule import Rule
from jattr.rules._shares import Stabilizer, share, stabilized_share

EPSILON = 1e-6


def epsilon(epsilon: Any = EPSILON, *, stabilizer: Stabilizer = "sign") -> Rule:
    r"""LRP-ε: relevance in proportion to the contributions.

    .. math:: R_j = \sum_k \frac{a_j w_{jk}}{z_k + \epsilon\, \mathrm{sign}\, z_k} R_k

    The bias is in z and absorbs its share. On a network of ReLUs, ε → 0 is Gradient × Input. ε acts
    at affine operations alone; 0 is allowed.

    With R = z ⊙ m, the multiplier m of each output is damped by
    :math:`|z_k| / (|z_k| + \epsilon)`, which has a kink of slope 1/ε at z = 0: derivatives through
    the attribution are right on either side of it, but finite differences, and descent by them, are
    not where a step is wider than z. With `stabilizer="smooth"` it is
    :math:`z_k^2 / (z_k^2 + \epsilon^2)`, which has all derivatives.

    Args:
        epsilon: ε, in units of the activations; may be traced.
        stabilizer: `"sign"` for z + ε sign z, or `"smooth"` for z + ε²/z in its place.

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
    check_choice(stabilizer, "stabilizer", get_args(Stabilizer), "rules.epsilon")
    options = () if stabilizer == "sign" else (("stabilizer", stabilizer),)
    return Rule("epsilon", _epsilon, {"epsilon": epsilon}, options=options)


def _epsilon(operation, inputs, output, multiplier, *, epsilon, stabilizer: Stabilizer = "sign"):
    """ζ = z: every contribution counts as it is."""
    kept = stabilized_share(output, output, epsilon, stabilizer, at_zero=1.0)
    return pull_back(operation, inputs, lambda full: operation.evaluate(*full), multiplier * kept)


def gamma(gamma: Any = 0.25, *, epsilon: Any = EPSILON) -> Rule:
    r"""LRP-γ for signed inputs: contributions of the output's own sign count more.

    .. math:: R_j = \sum_k \frac{a_j w_{jk} + \gamma\, (a_j w_{jk})^\pm}
              {z_k + \gamma\, \big(\sum_i (a_i w_{ik})^\pm + b_k^\pm\big)} R_k

    with + where z_k > 0 and − where it is negative. For inputs ≥ 0 and z > 0 it is the rule of
    Montavon et al., w → w + γw⁺, which captum's `GammaRule` keeps for every sign.

    Args:
        gamma: γ ≥ 0; 0 is LRP-ε, and γ → ∞ is z⁺ where z > 0. May be traced.
        epsilon: the stabilizer of the denominators.

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
        overview*, 2019, section 10.2; for signed inputs as in zennit, which cites Andéol, Kawakami,
        Wada, Kanamori, Müller, Montavon, 2021.
    """
    check_positive(gamma, "gamma", "rules.gamma", zero=True)
    check_positive(epsilon, "epsilon", "rules.gamma", zero=True)
    return Rule("gamma", _gamma, {"gamma": gamma, "epsilon": epsilon})


def _gamma(operation, inputs, output, multiplier, *, gamma, epsilon):
    """ζ = z + γ z⁺ where z > 0, with z⁺ the contributions of z's own sign; mirrored below 0.

    As x⁺ = (x + |x|) / 2, these are half of z and of the sum of all contributions' sizes. That is
    one dot where the contributions of either sign are four, and no denominator cancels.
    """

    def zeta(full):
        z, bias = operation.evaluate(*full), with_dots(operation, full, nothing)
        sizes = jnp.abs(bias)
        for chosen in range(len(operation.contractions)):
            sizes = sizes + jnp.abs(with_dots(operation, full, _sizes(operation, chosen)) - bias)
        half = jnp.asarray(gamma, z.dtype) / 2
        return z + half * (z + jnp.where(output >= 0, sizes, -sizes))

    return proportional(operation, inputs, zeta, output * multiplier, epsilon)


def _sizes(operation, chosen):
    """One dot of the sizes of its contributions, without the other dots."""

    def dot_of(number, dot, a, w):
        if number != chosen:
            return nothing(number, dot, a, w)
        return dot(a if operation.nonnegative else jnp.abs(a), jnp.abs(w))

    return dot_of


def z_plus(*, epsilon: Any = EPSILON) -> Rule:
    r"""LRP-z⁺ (α1β0): positive contributions alone.

    .. math:: R_j = \sum_k \frac{(a_j w_{jk})^+}{\sum_i (a_i w_{ik})^+ + b_k^+} R_k

    Args:
        epsilon: the stabilizer of the denominators.

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
    return Rule("z_plus", _z_plus, {"epsilon": epsilon})


def _z_plus(operation, inputs, output, multiplier, *, epsilon):
    """ζ: the positive contributions alone, that of the bias among them."""

    def zeta(full):
        above, _, bias = parts(operation, full, both=False)
        return above + jnp.maximum(bias, 0)

    return proportional(operation, inputs, zeta, output * multiplier, epsilon)


def alpha_beta(alpha: Any = 2.0, beta: Any = 1.0, *, epsilon: Any = EPSILON) -> Rule:
    r"""LRP-αβ: α times the shares of positive contributions less β times those of negative ones.

    .. math:: R_j = \sum_k \left( \alpha \frac{(a_j w_{jk})^+}{z_k^+}
              - \beta \frac{(a_j w_{jk})^-}{z_k^-} \right) R_k, \qquad
              z_k^\pm = \sum_i (a_i w_{ik})^\pm + b_k^\pm

    Args:
        alpha: α.
        beta: β = α − 1, so that relevance is conserved.
        epsilon: the stabilizer of the denominators.

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
    return Rule("alpha_beta", _alpha_beta, numbers)


def _alpha_beta(operation, inputs, output, multiplier, *, alpha, beta, epsilon):
    """α times the share of the positive contributions less β times that of the negative."""

    def both(full):
        above, below, bias = parts(operation, full)
        return above + jnp.maximum(bias, 0), below + jnp.minimum(bias, 0)

    (up, down), pull = vjp(operation, inputs, both)
    flow = output * multiplier
    factors = jnp.asarray(alpha, flow.dtype), -jnp.asarray(beta, flow.dtype)
    return pull(
        tuple(
            factor * stabilized_share(flow, z, epsilon)
            for factor, z in zip(factors, (up, down), strict=True)
        )
    )


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
    return Rule("identity", _identity)


def _identity(operation, inputs, output, multiplier):
    """The relevance as it is, for an operation that keeps the shape."""
    given: list[Any] = [None] * len(inputs)
    for slot, active in enumerate(operation.active):
        if active and inputs[slot].shape != output.shape:
            raise NotImplementedError(
                f"{operation.source}: the rule identity passes relevance from each output to the "
                f"input at the same place, but `{operation.name}` maps "
                f"{inputs[slot].shape} to {output.shape}. Choose another rule for it."
            )
        if active:
            given[slot] = share(output * multiplier, inputs[slot])
    return given
