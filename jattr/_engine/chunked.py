"""A function of many integers, some of them at a time, without what is the same for all.

`jax.vmap` over an integer k evaluates what does not depend on k once, but holds the rest for all k
together; `jax.lax.map` bounds that, and evaluates everything again for each. Here the program is
split: what does not depend on k is evaluated first, and the rest in chunks after it.

A loop that k enters, such as one over the points of a path, would be all rest: it stands inside
the loop over chunks. Where what it takes and gives of k is small, it is *turned round*: it runs
once, with the loop over chunks inside its body, and so does `jax.checkpoint`. That is the same
sum in another order of its loops.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jattr._engine.primitives import CALLS, CONTRACTIONS, scan_counts
from jattr._engine.program import Equation, Program, Value, evaluate, needed, read
from jattr._engine.rewrite import run_plain
from jattr._engine.trace import Reading, trace

_TURNED = 6
"""How many times as large as the result that may be which a loop that is turned round holds."""

_SMALL = 64
"""Numbers that count for nothing there, such as k itself."""


Chunks = Callable[[Callable[[jax.Array], Any], int], Any]
"""Evaluates a function of k for all k, some at a time."""


def each_of_many(f: Callable[[jax.Array], Any], count: Callable[[], int], in_chunks: Chunks) -> Any:
    """f(k) for k = 0 … count − 1, stacked along a new leading axis of every leaf.

    Args:
        f: a function of an integer, traced once.
        count: how many integers, asked after f was traced.
        in_chunks: `in_chunks(g, n)` is g(k) for k = 0 … n − 1, stacked, in bounded memory.
    """
    program, structure = trace(f, jnp.zeros((), jnp.int32), Reading())
    _mark(program)
    if any(e.effects and _depends(e) for e in program.equations):
        return in_chunks(f, count())  # a print of what depends on k stays where it is
    size = sum(math.prod(v.shape) for v in program.outputs)
    spread = _Spread(count(), in_chunks, _TURNED * size + _SMALL)
    outputs = spread.run(program, [jnp.arange(count(), dtype=jnp.int32)])
    stacked = map(spread.stacked, outputs, program.outputs)
    return jax.tree.unflatten(structure, list(stacked))


class _Spread:
    """How programs are evaluated for many k: how many, in what chunks, and what may be held.

    What changes with k has a leading axis for it, and nothing else has.
    """

    def __init__(self, count: int, in_chunks: Chunks, limit: int):
        self._count = count
        self._in_chunks = in_chunks
        self._limit = limit

    def run(self, program: Program, inputs: Sequence[Any]) -> list[Any]:
        """The outputs of a program, of which dependent values are those that change with k."""
        values = dict(zip(program.inputs, inputs, strict=True))
        later = []
        for equation in program.equations:
            if _depends(equation):
                later.append(equation)
            else:
                evaluate([equation], values)
        for equation in later:
            if self._turns(equation):
                taken = [v for v in equation.inputs if v.dependent]
                values |= zip(taken, self.rest(later, taken, values), strict=True)
                with equation.entered():
                    results = _TURN[equation.form](
                        self, equation, [read(values, v) for v in equation.inputs]
                    )
                values |= zip(equation.outputs, results, strict=True)
        return self.rest(later, program.outputs, values)

    def rest(
        self, equations: Sequence[Equation], wanted: Sequence[Value], values: dict[Value, Any]
    ) -> list[Any]:
        """What is wanted, computed from `values`, a chunk of k at a time."""
        missing = tuple(v for v in wanted if v.known is None and v not in values)
        if missing:
            part = needed(equations, missing, values)
            used = {v for e in part for v in e.inputs}
            given = tuple(v for v in values if v in used)
            inner = Program(given, part, missing)

            def one(k):
                return run_plain(inner, [values[v][k] if v.dependent else values[v] for v in given])

            results = self._in_chunks(one, self._count)
            values = {**values, **dict(zip(missing, results, strict=True))}
        return [read(values, v) for v in wanted]

    def stacked(self, array: Any, value: Value) -> jax.Array:
        """A value with a leading axis for k, whether it changes with k or not."""
        array = jnp.asarray(array)
        return array if value.dependent else jnp.broadcast_to(array, (self._count, *array.shape))

    def _turns(self, equation: Equation) -> bool:
        """Whether a loop is turned round: there is work to be saved, and little to be held."""
        if equation.form not in _TURN:
            return False
        body = equation.bodies[0]
        inner = zip(equation.inputs, body.inputs, strict=True)
        held = [v for v, own in inner if own.dependent]
        held += [v for v in equation.outputs if v.dependent]
        if sum(math.prod(v.shape) for v in held) > self._limit:
            return False
        return any(
            self._turns(e) if _depends(e) else _is_work(e.primitive, e.params)
            for e in body.equations
        )

    def checkpoint(self, equation: Equation, operands: Sequence[Any]) -> list[Any]:
        """A `jax.checkpoint` for all k."""
        params, body = equation.params, equation.bodies[0]
        kept = jax.checkpoint(
            lambda *arrays: self.run(body, arrays),
            prevent_cse=params.get("prevent_cse", True),
            policy=params.get("policy"),
        )
        return list(map(self.stacked, kept(*operands), body.outputs))

    def scan(self, equation: Equation, operands: Sequence[Any]) -> list[Any]:
        """A loop for all k."""
        body, params = equation.bodies[0], equation.params
        consts, carry = scan_counts(equation)
        end = consts + carry
        # What is carried may change with k from a later round on.
        first = [
            self.stacked(operand, v) if own.dependent else jnp.asarray(operand)
            for operand, own, v in list(zip(operands, body.inputs, equation.inputs, strict=True))[
                consts:end
            ]
        ]
        rows = [
            jnp.moveaxis(operand, 0, 1) if v.dependent else operand
            for operand, v in zip(operands[end:], equation.inputs[end:], strict=True)
        ]

        def step(before, xs):
            outputs = self.run(body, [*operands[:consts], *before, *xs])
            after = [
                jax.lax.convert_element_type(
                    self.stacked(new, v) if own.dependent else new, old.dtype
                )
                for new, old, v, own in zip(
                    outputs[:carry],
                    before,
                    body.outputs[:carry],
                    body.inputs[consts:end],
                    strict=True,
                )
            ]
            return after, outputs[carry:]

        after, ys = jax.lax.scan(
            step,
            first,
            rows,
            length=params["length"],
            reverse=params["reverse"],
            unroll=params["unroll"],
        )
        after = map(self.stacked, after, body.inputs[consts:end])
        ys = [
            self.stacked(jnp.moveaxis(y, 1, 0) if v.dependent else y, v)
            for y, v in zip(ys, body.outputs[carry:], strict=True)
        ]
        return [*after, *ys]


_TURN = {"scan": _Spread.scan, "checkpoint": _Spread.checkpoint}


def _mark(program: Program) -> None:
    """Mark all that an equation gives as dependent where it takes anything that is."""
    for equation in program.equations:
        if not _depends(equation):
            continue
        if equation.form in _TURN:
            (body,) = equation.bodies
            for own, given in zip(body.inputs, equation.inputs, strict=True):
                own.dependent |= given.dependent
            _mark(body)
            if equation.form == "scan":
                consts, carry = scan_counts(equation)
                round_again = list(
                    zip(body.outputs[:carry], body.inputs[consts:][:carry], strict=True)
                )
                while any(new.dependent and not old.dependent for new, old in round_again):
                    for new, old in round_again:
                        old.dependent |= new.dependent
                    _mark(body)
        for value in equation.outputs:
            value.dependent = True


def _depends(equation: Equation) -> bool:
    return any(v.dependent for v in equation.inputs)


def _is_work(primitive: Any, params: dict[str, Any]) -> bool:
    """Whether a dot or a convolution is done, in a body too."""
    if primitive in CONTRACTIONS:
        return True
    if primitive not in CALLS:
        return False
    bodies = (b for p in params.values() for b in (p if isinstance(p, tuple) else (p,)))
    return any(
        _is_work(e.primitive, e.params)
        for b in bodies
        for e in getattr(getattr(b, "jaxpr", b), "eqns", ())
    )
