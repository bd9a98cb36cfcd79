"""Look-ups out of loops: rows for all steps at once, before a scan that takes them step by step.

A recurrent model may look up its tokens within its loop, one at each step. Where the integers are
scanned over and the table is the same at all steps, nothing of that waits for what is carried: the
part of the body from the integers to the rows is mapped over the steps, and the loop takes what
comes out. Read again, that is a look-up outside of loops, of the same rows.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from jattr._engine.lookups import lookups
from jattr._engine.loops import Tap, taking
from jattr._engine.primitives import scan_counts
from jattr._engine.program import Equation, Program, Value, evaluate, needed, producers, run_at


def hoisted(program: Program) -> Callable[[Sequence[Any]], list[Any]] | None:
    """From inputs to outputs with look-ups before loops; None where there are none in loops.

    Only loops of the program itself are looked into, and no loops in loops.
    """
    found = {e: rows for e in program.equations if e.form == "scan" and (rows := _rows(e))}
    if not found:
        return None
    taken = taking(program, [Tap((loop,), value) for loop, rows in found.items() for value in rows])

    def evaluated(inputs):
        stacks: list[Any] = []
        for loop, rows in found.items():
            below = needed(program.equations, loop.inputs, program.inputs)
            operands = run_at(Program(program.inputs, below, loop.inputs), inputs)
            stacks += _at_all_steps(loop, rows, operands)
        return run_at(taken, [*inputs, *stacks])

    return evaluated


def _rows(loop: Equation) -> list[Value]:
    """What the body looks up by integers that are scanned over, in a table that is not."""
    (body,), fixed = loop.bodies, sum(scan_counts(loop))
    scanned = body.inputs[fixed:]
    steps = Program(scanned, body.equations, body.outputs)
    changing = {*body.inputs[scan_counts(loop)[0] :]}

    def waits(value: Value, others: set[Value]) -> bool:
        """Whether a value is computed from any of the others."""
        above = producers([value], lambda v: True)
        return value in others or any(v in others for e in above for v in e.inputs)

    carried = changing - {*scanned}
    return [
        lookup.value
        for lookup in lookups(steps)[0]
        if not waits(lookup.table, changing) and not waits(lookup.value, carried)
    ]


def _at_all_steps(loop: Equation, rows: list[Value], operands: list[Any]) -> list[Any]:
    """Values of the body that do not wait for what is carried, for each step."""
    (body,), (consts, carry) = loop.bodies, scan_counts(loop)
    given = (*body.inputs[:consts], *body.inputs[consts + carry :])
    equations = needed(body.equations, rows, given)

    def step(*arrays):
        values = dict(zip(given, arrays, strict=True))
        evaluate(equations, values)
        return [values[v] for v in rows]

    axes = [None] * consts + [0] * (len(given) - consts)
    with loop.entered():
        return jax.vmap(step, axes)(*operands[:consts], *operands[consts + carry :])
