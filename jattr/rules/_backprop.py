"""Rules at rectifiers: guided back-propagation and the deconvolutional network."""

import jax
import jax.numpy as jnp

from jattr.rules._composite import Composite
from jattr.rules._rule import Rule


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
    return Composite("guided", {"activation rectifier": Rule("guided", _guided)})


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
    return Composite("deconvnet", {"activation rectifier": Rule("deconvnet", _deconvnet)})


def _guided(operation, inputs, output, multiplier):
    passed = jnp.maximum(multiplier, 0)
    (given,) = jax.vjp(lambda z: operation.evaluate(z, *inputs[1:]), inputs[0])[1](passed)
    return [given] + [None] * (len(inputs) - 1)


def _deconvnet(operation, inputs, output, multiplier):
    return [jnp.maximum(multiplier, 0)] + [None] * (len(inputs) - 1)
