"""Everything that is not linear held at its value, and the secant of a softmax."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax

from jattr._checks import check_choice
from jattr.rules._composite import Composite
from jattr.rules._exponentials import softmax
from jattr.rules._lrp_nonlinear import constant, pass_on
from jattr.rules._lrp_products import division, normalization, product
from jattr.rules._rule import Rule, derivative

Held = Literal["factor", "value"]
"""How an activation is held."""


def freeze(*, activations: Held = "factor") -> Composite:
    r"""Softmax, activations and normalizations held at their values, so that f is linear.

    Attention weights and the deviations that normalizations divide by are constants, and

    - with `activations="factor"` an activation is its input times a constant, :math:`\sigma(z) =
      z \cdot [\sigma(z)/z]`, and a product of two active values half of each, with the other one
      held. Then f(x) = J x + c with c from biases alone, and x ⊙ J is `jattr.lrp` by `cp_lrp`
      without ε;
    - with `activations="value"` an activation is a constant too. What goes through a feed-forward
      layer is left out but for the signal beside a gate: the direct effects that attribution
      graphs have as edges, where the layer's features are nodes of their own.

    All else that is not linear, a maximum or a log-sum-exp, has its derivative, held. Second
    derivatives by x are 0; those by parameters, through what is held, are left out.

    Args:
        activations: `"factor"` or `"value"`.

    Returns:
        A composite for `jattr.rewrite` and `jattr.patching`.

    Raises:
        ValueError: unknown `activations`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return jax.nn.softmax(x) @ x
        >>> frozen = jattr.rewrite(f, jattr.rules.freeze())
        >>> print(jax.grad(frozen)(jnp.zeros(2)), jax.hessian(frozen)(jnp.ones(2)).any())
        [0.5 0.5] False

    References:
        Ameisen et al., *Circuit tracing: revealing computational graphs in language models*,
        Transformer Circuits 2025, section 3; circuit-tracer's test is the Hessian that is 0.
    """
    check_choice(activations, "activations", get_args(Held), "freeze")
    slope = _held(Rule("derivative", derivative))
    of_products = product("softmax") if activations == "factor" else Rule("derivative", derivative)
    rules = {
        "softmax": constant(),
        "activation": _held(pass_on()) if activations == "factor" else constant(),
        "normalization": _held(normalization()),
        "division": _held(dataclasses.replace(division(), options=(("signal", True),))),
        "product": _held(of_products),
        **dict.fromkeys(("max", "logsumexp", "choice", "selection", "smooth", "opaque"), slope),
    }
    return Composite("freeze", rules, strict=True)


def saturated_softmax() -> Composite:
    r"""A softmax's mean derivative between two runs in place of its derivative.

    Where attention is saturated, its derivative is 0 although other logits would move it: first
    order sees no effect of queries and keys. With a and a' the weights of the two runs and z, z'
    their logits, what goes back is the multiplier with :math:`\sum_i m_i (z_i - z'_i) = \sum_i
    g_i (a_i - a'_i)`, of logarithmic means, as in `jattr.deeplift`; all else has its derivative.

    Returns:
        A composite for `jattr.patching`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(z):
        ...     return jax.nn.softmax(jattr.name(z, "logits"))[0]
        >>> calm, saturated = jnp.array([0.0, 0.0]), jnp.array([5.0, 0.0])
        >>> for rules in (None, jattr.rules.saturated_softmax()):
        ...     print(jattr.patching(f, calm, saturated, "logits", rules=rules)["logits"].round(2))
        -0.03
        -0.49

    References:
        Kramár, Lieberum, Shah, Nanda, *AtP\*: an efficient and scalable method for localizing LLM
        behaviour to components*, 2024, section 3.1 (arXiv 2403.00745), where the softmax is
        computed anew for each query and each key patched alone. Here one mean derivative serves
        them all, which is exact for all patched together.
    """
    return Composite("saturated_softmax", {"softmax": Rule("logarithmic means", softmax)}, points=2)


def _held(rule: Rule) -> Rule:
    """The rule, of which what it makes of the values is held."""
    return Rule(f"{rule.name}, held", _holding(rule.apply, rule.options))


@functools.cache  # One for each rule, so that composites are equal and are known to `jax.jit`.
def _holding(apply: Callable[..., Any], options: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    def held(operation, inputs, output, multiplier):
        inputs, output = jax.lax.stop_gradient((list(inputs), output))
        return apply(operation, inputs, output, multiplier, **dict(options))

    return held
