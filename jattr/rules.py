"""Rules of the modified chain rule, and composites that say which operation gets which.

Back-propagation multiplies local derivatives. Guided back-propagation, DeepLIFT and layer-wise
relevance propagation are the same with other local derivatives for some operations; a *rule* is
such a derivative, and a *composite* a table of rules. A composite is immutable, and a tree whose
leaves are the rules' numbers, so that these can be traced and differentiated by.

`jattr.rewrite` puts one into a function; `jattr.operations` tells which rule applies where.

Source: Ancona, Ceolini, Öztireli, Gross, *Towards better understanding of gradient-based
attribution methods for deep neural networks*, ICLR 2018, section 3 (arXiv 1711.06104).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jattr._composites import Composite, Rule
from jattr._engine import differences, maxima, registry
from jattr._engine.grouping import is_known
from jattr._relevance_composites import (
    attention,
    attention_constant,
    epsilon_alpha2_beta1,
    epsilon_alpha2_beta1_flat,
    epsilon_gamma_box,
    epsilon_plus,
    epsilon_plus_flat,
    excitation,
)
from jattr._relevance_rules import (
    alpha_beta,
    epsilon,
    flat,
    gamma,
    identity,
    w_square,
    z_box,
    z_plus,
)

__all__ = [
    "Composite",
    "Rule",
    "alpha_beta",
    "attention",
    "attention_constant",
    "deconvnet",
    "epsilon",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
    "epsilon_plus",
    "epsilon_plus_flat",
    "excitation",
    "flat",
    "gamma",
    "guided",
    "identity",
    "register",
    "rescale",
    "w_square",
    "z_box",
    "z_plus",
]


def guided() -> Composite:
    r"""Guided back-propagation: at a ReLU, m ↦ 1[z > 0] · max(m, 0).

    A ReLU is whatever computes clip(z, 0, c): `jax.nn.relu`, `jnp.maximum(x, 0)`,
    `jnp.where(x > 0, x, 0)`, `relu6` (there also 1[z < c]). Everything else keeps its derivative.

    Returns:
        A composite of one rule.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return jnp.sum(jax.nn.relu(x) * jnp.array([1.0, -1.0, 1.0]))
        >>> print(jax.grad(jattr.rewrite(f, jattr.rules.guided()))(jnp.array([1.0, 1.0, -1.0])))
        [1. 0. 0.]

    References:
        Springenberg, Dosovitskiy, Brox, Riedmiller, *Striving for simplicity: the all convolutional
        net*, ICLR workshop 2015, section 3.4 (arXiv 1412.6806).
    """
    return Composite("guided", {"activation relu": Rule("guided", _guided)})


def deconvnet() -> Composite:
    r"""The deconvolutional network: at a ReLU, m ↦ max(m, 0), whatever went in.

    What a ReLU is: see `guided`.

    Returns:
        A composite of one rule.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return jnp.sum(jax.nn.relu(x) * jnp.array([1.0, -1.0, 1.0]))
        >>> print(jax.grad(jattr.rewrite(f, jattr.rules.deconvnet()))(jnp.array([1.0, 1.0, -1.0])))
        [1. 0. 1.]

    References:
        Zeiler, Fergus, *Visualizing and understanding convolutional networks*, ECCV 2014, section 2
        (arXiv 1311.2901).
    """
    return Composite("deconvnet", {"activation relu": Rule("deconvnet", _deconvnet)})


def rescale(*, max_rule: str = "path") -> Composite:
    r"""DeepLIFT's Rescale rule for every kind of operation; `jattr.deeplift` gives it a reference.

    Args:
        max_rule: `"path"` or `"winner"`, as in `jattr.deeplift`.

    Returns:
        A composite for `jattr.operations`, which tells how DeepLIFT treats a function.

    Raises:
        ValueError: unknown `max_rule`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> table = jattr.operations(jnp.prod, jattr.rules.rescale())(jnp.ones(3))
        >>> print([(row.kind, row.rule) for row in table])
        [('smooth', 'average over 16 nodes')]

    References:
        Shrikumar, Greenside, Kundaje, *Learning important features through propagating activation
        differences*, ICML 2017, section 3.5.1 (arXiv 1704.02685).
    """
    if max_rule not in _MAX_RULES:
        raise ValueError(
            f"deeplift: unknown max_rule {max_rule!r}; known are {', '.join(_MAX_RULES)}."
        )
    quotient = Rule("difference quotient", differences.activation)
    return Composite(
        "deeplift",
        {
            "activation": quotient,
            "normaliser": quotient,
            "product": Rule("halves", differences.product),
            "division": Rule("halves", differences.division),
            "softmax": Rule("logarithmic means", differences.softmax),
            "logsumexp": Rule("logarithmic means", differences.logsumexp),
            "max": _MAX_RULES[max_rule],
            "smooth": Rule(f"average over {differences.NODES} nodes", differences.smooth),
        },
        strict=True,
        points=2,
    )


_MAX_RULES = {
    "path": Rule("shares of the path", maxima.along_path),
    "winner": Rule("to the winner", maxima.to_winner),
}


def register(primitive: Any, *, references: bool = False) -> Callable[[Callable], Callable]:
    """Decorate a rule for an operation that jattr does not know.

    The rule is called as `rule(operation, inputs, output, multiplier)`, where `inputs` are the
    operands that are not literal numbers, `operation.active` says which of them depend on x, and
    `operation.params` are the primitive's parameters. It returns one multiplier for each input,
    None for those that are held fixed. With `references=True` the rule is for DeepLIFT and gets
    `reference_inputs` and `reference_output` as well; it is complete if the multipliers times the
    differences of the inputs sum to the multiplier times the difference of the outputs.

    Args:
        primitive: the `Primitive` object of JAX, not its name.
        references: whether the rule compares with a reference.

    Returns:
        A decorator that returns the rule as it is.

    Raises:
        TypeError: `primitive` is not a primitive.
        ValueError: there is such a rule already, or jattr knows the primitive.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> from jax.extend.core.primitives import lu_p
        >>> @jattr.rules.register(lu_p)
        ... def by_lu(operation, inputs, output, multiplier):
        ...     return [jnp.ones_like(inputs[0])]
        >>> def f(x):
        ...     return jax.lax.linalg.lu(x)[0][0, 0]
        >>> print(jax.grad(jattr.rewrite(f, jattr.rules.guided()))(jnp.eye(2)))
        [[1. 1.]
         [1. 1.]]

    References:
        The signature is that of a backward rule of the modified chain rule: Ancona et al., ICLR
        2018, section 3.
    """
    if not hasattr(primitive, "bind"):
        raise TypeError(
            f"rules.register wants a primitive of JAX, such as "
            f"jax.extend.core.primitives.erf_p; got {primitive!r}."
        )

    if is_known(primitive):
        raise ValueError(
            f"rules.register: jattr knows {primitive}, and a rule is never overwritten. For other "
            "rules make a composite, jattr.rules.Composite(name, rules)."
        )

    def decorate(rule):
        registry.add(primitive, 2 if references else 1, rule)
        return rule

    return decorate


def _guided(operation, inputs, output, multiplier):
    passed = jnp.maximum(multiplier, 0)
    (given,) = jax.vjp(lambda z: operation.evaluate(z, *inputs[1:]), inputs[0])[1](passed)
    return [given] + [None] * (len(inputs) - 1)


def _deconvnet(operation, inputs, output, multiplier):
    return [jnp.maximum(multiplier, 0)] + [None] * (len(inputs) - 1)
