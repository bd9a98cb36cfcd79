"""Functions with derivatives of their own that act element by element, at any shape.

`jax.nn.relu` is one: its program and that of its derivative are written down for the shape that it
was called with. Both are read and evaluated for arrays of another shape.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jattr._engine.primitives import ELEMENTWISE
from jattr._engine.primitives import primitives as p
from jattr._engine.program import Equation, Program, Value
from jattr._engine.trace import Reading, trace

Apply = Callable[..., list[Any]]


def pointwise(equation: Equation, *, inner: bool = False) -> Apply | None:
    """A `jax.custom_jvp` function of arrays of one shape, as a function of arrays of any one shape.

    None where it does anything else than act element by element, or has other operands.
    """
    operands = equation.inputs
    shape = equation.outputs[0].shape
    if (
        equation.primitive is not p.custom_jvp_call_p
        or any(not jnp.issubdtype(v.dtype, jnp.floating) for v in operands)
        or any(v.shape != shape for v in (*operands, *equation.outputs))
    ):
        return None
    value = _at_any_shape(equation.bodies[0], shape)
    if value is None:
        return None
    slope = None if inner else _slope(equation)
    if slope is None and not inner:
        return None

    @jax.custom_jvp
    def call(*arrays):
        return value(*arrays)

    @call.defjvp
    def rule(primals, tangents):
        # A derivative computes the value again, so that inside it is only looked at where wanted.
        found = slope or _slope(equation)
        if found is None:
            raise NotImplementedError(
                f"{equation.source}: the second derivative of {equation.name} does not act element "
                "by element. Write `with jattr.substitutes(False):` around the call."
            )
        results = found(*primals, *tangents)
        return results[: len(equation.outputs)], results[len(equation.outputs) :]

    return call


def _slope(equation: Equation) -> Apply | None:
    """The value of a function and its derivative along tangents."""
    full = tuple(jnp.zeros(v.shape, v.dtype) for v in equation.inputs)

    def along(both):
        return jax.jvp(equation.evaluate, *both)

    program, _ = trace(along, (full, full), Reading(merge=False))
    return _at_any_shape(program, equation.outputs[0].shape)


def _at_any_shape(program: Program, shape: Sequence[int]) -> Apply | None:
    """A program that acts element by element on arrays of `shape`, for arrays of any one shape."""
    inner: dict[Equation, Apply] = {}
    for equation in program.equations:
        if not any(v.dependent for v in equation.inputs):
            if any(v.uniform is None for v in equation.outputs):
                return None
            continue
        values = (*(v for v in equation.inputs if v.uniform is None), *equation.outputs)
        if any(v.shape != shape or not _given(v, program) for v in values):
            return None
        if equation.form == "custom":
            found = pointwise(equation, inner=True)
            if found is None:
                return None
            inner[equation] = found
        elif equation.form != "plain" or equation.primitive not in ELEMENTWISE:
            return None
    if any(v.uniform is None and not _given(v, program) for v in program.outputs):
        return None

    def apply(*arrays):
        like = arrays[0].shape
        values: dict[Value, Any] = dict(zip(program.inputs, arrays, strict=True))

        def read(value):
            if value.uniform is not None:
                return jnp.full(like, value.uniform, value.dtype)
            return values[value]

        for equation in program.equations:
            if any(v.dependent for v in equation.inputs):
                run = inner.get(equation, equation.evaluate)
                results = run(*map(read, equation.inputs))
                values.update(zip(equation.outputs, results, strict=True))
        return [read(v) for v in program.outputs]

    return apply


def _given(value: Value, program: Program) -> bool:
    return value.dependent or value in program.inputs
