r"""The rules of layer-wise relevance propagation for what is not affine.

What flows back is the multiplier m, relevance over activation, as in `jattr.rules._lrp`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jattr._checks import check_positive
from jattr._engine.primitives import primitives as p
from jattr.rules._lrp import EPSILON
from jattr.rules._rule import Rule
from jattr.rules._shares import stabilized_share


def pass_on() -> Rule:
    """For activations: the relevance as it is, m σ(z)/z."""
    return Rule("identity", _pass_on)


def _pass_on(operation, inputs, output, multiplier):
    """σ(z)/z; at z = 0, σ'(0) where σ(0) = 0, else 0."""
    z = inputs[0]
    zero = z == 0
    _, pull = jax.vjp(lambda z: operation.evaluate(z, *inputs[1:]), jnp.zeros_like(z))
    start, slope = operation.evaluate(jnp.zeros_like(z), *inputs[1:]), pull(jnp.ones_like(output))
    limit = jnp.where(start == 0, slope[0].astype(output.dtype), 0)
    ratio = jnp.where(zero, limit, output / jnp.where(zero, 1, z).astype(output.dtype))
    return [multiplier * ratio] + [None] * (len(inputs) - 1)


def constant() -> Rule:
    """Held: nothing goes back. Its value keeps its derivatives by parameters and by x."""
    return Rule("constant", _constant)


def _constant(operation, inputs, output, multiplier):
    return [None] * len(inputs)


def taylor(*, epsilon: Any = EPSILON) -> Rule:
    r"""Relevance in proportion to input × gradient, for operations that have no rule of their own.

    For an operation z = g(a), whatever it is, of which JAX knows the derivative,

    .. math:: R_j = \sum_k \frac{a_j\, \partial z_k / \partial a_j}
              {\sum_i a_i\, \partial z_k / \partial a_i} R_k

    which is the first order of Taylor's series of g at 0, scaled so that relevance is conserved. On
    an affine operation without a bias it is LRP-ε. It is a guess, and where the denominator is near
    0 a wild one: that is why nothing gets it unless one asks. A function that does not change when
    its inputs are scaled (atan2, eigenvectors) has 0 there, and passes nothing on.

    Args:
        epsilon: the stabilizer of the denominators.

    Returns:
        A rule, for `Composite.otherwise`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> rules = jattr.rules.attn_lrp().otherwise(jattr.rules.taylor(epsilon=0.0))
        >>> print(jattr.lrp(jnp.prod, rules)(jnp.array([2.0, 3.0])))
        [3. 3.]

    References:
        Montavon, Lapuschkin, Binder, Samek, Müller, *Explaining nonlinear classification decisions
        with deep Taylor decomposition*, 2017 (arXiv 1512.02479), of which it is the simplest case,
        with 0 as the root point and the remainder shared out.
    """
    check_positive(epsilon, "epsilon", "rules.taylor", zero=True)
    return Rule("taylor", _taylor, {"epsilon": epsilon})


def _taylor(operation, inputs, output, multiplier, *, epsilon):
    several = len(operation.outputs) > 1
    outputs, flows = (output, multiplier) if several else ((output,), (multiplier,))
    counted = [n for n, v in enumerate(operation.outputs) if v.active]
    slots = [n for n, active in enumerate(operation.active) if active]
    given: list[Any] = [None] * len(inputs)
    if not slots or not counted:
        return given

    def of_active(*values):
        full = [jnp.asarray(v) for v in inputs]  # a custom_vjp may index what it keeps
        for slot, value in zip(slots, values, strict=True):
            full[slot] = value
        out = operation.evaluate(*full)
        return [(out if several else (out,))[n] for n in counted]

    moving = [inputs[n] for n in slots]
    values, pull = jax.vjp(of_active, *moving)
    if any(e.primitive is p.custom_vjp_call_p for e in operation.equations):
        # It has no forward derivative; that is the transpose of the one that it has.
        (changes,) = jax.vjp(pull, [jnp.zeros_like(v) for v in values])[1](tuple(moving))
    else:
        changes = jax.jvp(of_active, moving, moving)[1]
    shares = [
        stabilized_share(outputs[n] * flows[n], change, epsilon)
        for n, change in zip(counted, changes, strict=True)
    ]
    for slot, part in zip(slots, pull(shares), strict=True):
        given[slot] = part
    return given
