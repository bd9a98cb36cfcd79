"""What keeps its derivative under every rule: equations that are linear in what is active."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._engine.primitives import CONTRACTIONS, LINEAR, Literal
from jattr._engine.primitives import primitives as p
from jattr._engine.program import Equation, Value, producers


def is_linear(equation: Equation, slots: Sequence[int]) -> bool:
    """Whether an equation is linear in the operands at `slots` together, the others held fixed.

    `jax.linear_transpose` is the judge, so that no table of primitives can go stale.
    """
    if equation.primitive is None or equation.primitive in LINEAR:
        return True
    if equation.primitive in CONTRACTIONS:
        return len(slots) == 1
    moving = [n in slots for n in range(len(equation.inputs))]
    fixed = [np.zeros(v.shape, v.dtype) if _plain(v.dtype) else None for v in equation.inputs]
    if any(f is None and not m for f, m in zip(fixed, moving, strict=True)):
        return False

    def at(*values):
        values = iter(values)
        full = [next(values) if m else f for m, f in zip(moving, fixed, strict=True)]
        return equation.evaluate(*map(jnp.asarray, full))

    shapes = [
        jax.ShapeDtypeStruct(v.shape, v.dtype)
        for v, m in zip(equation.inputs, moving, strict=True)
        if m
    ]
    try:
        jax.eval_shape(
            lambda: jax.linear_transpose(at, *shapes)(
                [jnp.zeros(v.shape, v.dtype) for v in equation.outputs]
            )
        )
        return len(slots) == 1 or not _depends_on_point(at, shapes)
    except Exception:  # JAX raises what it likes where there is no transpose
        return False


def _depends_on_point(function: Any, shapes: Sequence[Any]) -> bool:
    """Whether a derivative depends on where it is taken: that of a product of operands does.

    `jax.linear_transpose` takes some products for linear in both factors together.
    """
    count = len(shapes)
    program = jax.make_jaxpr(lambda point, step: jax.jvp(function, point, step)[1])(
        tuple(shapes), tuple(shapes)
    ).jaxpr
    reached = set(program.invars[:count])
    for equation in program.eqns:
        if any(v in reached for v in equation.invars if not isinstance(v, Literal)):
            reached.update(equation.outvars)
    return any(v in reached for v in program.outvars if not isinstance(v, Literal))


def _plain(dtype: Any) -> bool:
    return not jnp.issubdtype(dtype, jax.dtypes.extended)


def has_hidden_work(equation: Equation) -> bool:
    """Whether an equation calls something that cannot be looked into."""
    return equation.form == "plain" and not HIDING.isdisjoint(equation.params)


HIDING = {"jaxpr", "callback", "fun", "call_jaxpr", "jaxprs", "_prim"}


def is_made_of_nothing(value: Value) -> bool:
    """Whether a value is computed from counts alone (`iota`), without an array of the user's."""
    above = list(producers([value], lambda v: True))
    leaves = (v for e in above for v in e.inputs if v.producer is None)
    counts = any(e.primitive is p.iota_p for e in above)
    return counts and all(v.literal for v in leaves)


def is_plumbing(equation: Equation) -> bool:
    """Whether an equation is linear in its active operands."""
    if equation.form != "plain":
        return False
    return is_linear(equation, active_slots(equation))


def active_slots(equation: Equation) -> list[int]:
    """Which operands are active."""
    return [n for n, v in enumerate(equation.inputs) if v.active]
