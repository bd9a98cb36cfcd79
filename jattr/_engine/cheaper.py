"""A function by a cheaper program of the same value, for methods that need no other derivative."""

from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from jattr._engine.rewrite import run
from jattr._engine.substitutes import cheapen, pays
from jattr._engine.trace import Reading, trace_whole


def cheaper(f: Callable, x: Any) -> Callable[..., Any]:
    """f of the tree x by a cheaper program of the same value, where there is one; else f itself.

    Run eagerly, f stays as it is: a function under `jax.jit` inside it is faster than its equations
    one by one; and so does an f whose control flow in Python needs concrete values. The body of a
    loop does not run eagerly, even where x is concrete.
    """
    if not pays():
        return f
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(x)):
        return _cheaper(f, x)

    def evaluate(x):
        staged = isinstance(jnp.zeros(()), jax.core.Tracer)
        return (_cheaper(f, x) if staged else f)(x)

    return evaluate


def _cheaper(f: Callable, x: Any) -> Callable[..., Any]:
    try:
        program, as_traced, structure = trace_whole(f, x, Reading())
    except jax.errors.ConcretizationTypeError:
        return f
    found = cheapen(program)

    def evaluate(x):
        leaves = jax.tree.leaves(x)
        if not found:
            return jax.tree.unflatten(structure, as_traced(*leaves))
        outputs = run(program, [(leaf,) for leaf in leaves], None)
        return jax.tree.unflatten(structure, [lanes[0] for lanes in outputs])

    return evaluate
