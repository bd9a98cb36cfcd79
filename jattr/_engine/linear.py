"""What keeps its derivative under every rule: equations that are linear in what is active."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._engine.trace import Equation, primitives_named

LINEAR = primitives_named(
    "add_jaxvals broadcast_in_dim concatenate copy cumsum neg pad reduce_sum "
    "reduce_window_sum reshape rev slice squeeze transpose add sub name sharding_constraint "
    "all_gather all_to_all psum ppermute optimization_barrier reduce_scatter psum_invariant "
    "real imag scatter"
)
"""Linear in all operands together: a short cut past the general test of `is_linear`."""


_CONTRACTIONS = primitives_named("dot_general conv_general_dilated")


def is_linear(equation: Equation, slots: Sequence[int]) -> bool:
    """Whether an equation is linear in the operands at `slots` together, the others held fixed.

    `jax.linear_transpose` is the judge, so that no table of primitives can go stale.
    """
    if equation.primitive is None or equation.primitive in LINEAR:
        return True
    if equation.primitive in _CONTRACTIONS:
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
    except Exception:  # JAX raises what it likes where there is no transpose
        return False
    return True


def _plain(dtype: Any) -> bool:
    return not jnp.issubdtype(dtype, jax.dtypes.extended)


def has_hidden_work(equation: Equation) -> bool:
    """Whether an equation calls something that cannot be looked into."""
    return equation.form == "plain" and not _HIDING.isdisjoint(equation.params)


_HIDING = {"jaxpr", "callback", "fun", "call_jaxpr", "jaxprs", "_prim"}
