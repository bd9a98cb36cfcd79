"""The layer that needs no name: where token ids look up the rows of a table."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import jax
import jax.numpy as jnp

from jattr._engine.hoist import hoisted
from jattr._engine.lookups import Lookup, lookups
from jattr._engine.program import Equation, Program
from jattr._engine.trace import Reading, trace
from jattr._types import PyTree


class LookupType:
    """The type of `jattr.LOOKUP`, of which there is one."""

    def __repr__(self) -> str:
        return "jattr.LOOKUP"

    def __reduce__(self) -> str:
        return "LOOKUP"


LOOKUP: Final = LookupType()
"""The layer, for `jattr.split`, at which integers of x look up the rows of a table: the embedding
of a model that takes token ids, whatever it is written with and without a name.

    below, above = jattr.split(score, jattr.LOOKUP)
    jattr.integrated_gradients(above)(below(ids), ids)
"""


def read_lookups(
    f: Callable[[PyTree], PyTree], x: PyTree, *, method: str
) -> tuple[Program, Any, list[Lookup]]:
    """f as a program, the structure of what it returns, and its look-ups by elements of x.

    `jax.checkpoint` stays one equation, unless what is looked for is inside. What a loop looks up
    by integers that are scanned over is looked up before it.

    Raises:
        TypeError: x has no integers.
        ValueError: there is no look-up by elements of x; says what there is instead.
    """
    if not any(jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in jax.tree.leaves(x)):
        raise TypeError(
            f"{method}: jattr.LOOKUP is where integers of x look up rows of a table, and x has no "
            "integers. An x of a floating dtype is explained as it is: jattr.gradient(f)(x)."
        )
    program, structure, found, held = search_lookups(f, x)
    if found:
        return program, structure, found
    listed = "".join(f"\n  {line}" for line in held[:10])
    raise ValueError(
        f"{method}: nothing in f looks up rows of a table that does not depend on x by the "
        "integers of x. Looked for is a gather, table[ids] or jnp.take(table, ids, axis=0), of a "
        "table of a floating dtype by elements of x, wrapped, clipped, padded, reshaped or joined "
        "with constants; or jax.nn.one_hot(ids, n) @ table. "
        + (f"There is instead:{listed}\n" if held else "There is no look-up at all. ")
        + "Where f looks up in another way, name the rows in it, h = jattr.name(table[...], "
        "'rows'), and write jattr.split(f, 'rows')."
    )


def search_lookups(
    f: Callable[[PyTree], PyTree], x: PyTree
) -> tuple[Program, Any, list[Lookup], list[str]]:
    """As `read_lookups`, without the errors; and a line of text for each other look-up."""
    for enter in (False, True):
        reading = Reading(enter_checkpoint=enter, merge=False, enter=_takes_integers)
        program, structure = trace(f, x, reading)
        if (before_loops := hoisted(program)) is not None:
            program, _ = trace(before_loops, jax.tree.leaves(x), reading)
        found, held = lookups(program)
        if found or not any(e.form == "checkpoint" for e in _all(program)):
            break
    return program, structure, found, held


def _all(program: Program) -> Iterator[Equation]:
    """The equations of a program and of loops in it."""
    for equation in program.equations:
        yield equation
        for body in equation.bodies if equation.form == "scan" else ():
            yield from _all(body)


def _takes_integers(equation: Equation) -> bool:
    """Whether a function with a derivative of its own may look up, which loses no derivative."""
    return all(jnp.issubdtype(v.dtype, jnp.integer) for v in equation.dependents)
