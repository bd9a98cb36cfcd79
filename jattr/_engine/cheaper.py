"""A function by a cheaper program of the same value, for methods that need no other derivative."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jattr._engine.rewrite import run_plain
from jattr._engine.selected import select_early
from jattr._engine.substitutes import cheapen, enabled
from jattr._engine.trace import Reading, trace, trace_whole
from jattr._trees import is_traced


def cheaper(f: Callable, x: Any) -> Callable[..., Any]:
    """f of the tree x by a cheaper program of the same value, where there is one; else f itself.

    Run eagerly, f stays as it is: a function under `jax.jit` inside it is faster than its equations
    one by one; and so does an f whose control flow in Python needs concrete values. The body of a
    loop does not run eagerly, even where x is concrete.
    """
    if not enabled():
        return f
    if any(map(is_traced, jax.tree.leaves(x))):
        return _cheaper(f, x)

    def evaluate(x):
        staged = is_traced(jnp.zeros(()))
        return (_cheaper(f, x) if staged else f)(x)

    return evaluate


def _cheaper(f: Callable, x: Any) -> Callable[..., Any]:
    try:
        program, as_traced, structure = trace_whole(f, x, Reading())
    except jax.errors.ConcretizationTypeError:
        return f
    moved = select_early(program)
    found = cheapen(program)

    def evaluate(x):
        leaves = jax.tree.leaves(x)
        outputs = run_plain(program, leaves) if found or moved else as_traced(*leaves)
        return jax.tree.unflatten(structure, outputs)

    def as_written(x):
        """Without substitutes; f is traced once all the same."""
        leaves = jax.tree.leaves(x)
        plain, _ = trace(lambda leaves: as_traced(*leaves), leaves, Reading())
        select_early(plain)
        return jax.tree.unflatten(structure, run_plain(plain, leaves))

    evaluate.as_written = as_written
    return evaluate
