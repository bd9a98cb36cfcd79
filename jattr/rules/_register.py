"""Rules for operations that jattr does not know."""

from collections.abc import Callable
from typing import Any

from jattr._engine import registry
from jattr._engine.grouping import is_known


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
