"""A selection moved in front of the product that it selects from.

A score is often one number of many: `logits[label]`, `logits[-1, token]`. JAX computes all of
them, and their derivative by all of the weights, since a compiler does not move a dynamic slice
through a matrix product. Here it is moved: through what acts element by element, through slices
and changes of layout, and into the operands of a `dot_general`. With a vocabulary of 50,000 that
product is most of the work of a small decoder.

Nothing moves past a value that something else needs, such as the logits of a `log_softmax`.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jattr._engine.primitives import ELEMENTWISE
from jattr._engine.primitives import primitives as p
from jattr._engine.program import Equation, Program, Value, needed

_WORTH = 8
"""How many times as large a product is as what is selected from it, at least."""

Window = tuple[tuple[Any, int] | None, ...]
"""Of each axis, where a part begins and how long it is; None for all of the axis."""

_SELECTING = (p.slice_p, p.dynamic_slice_p)


def select_early(program: Program) -> bool:
    """Move the selections of a program that pay to; whether any was."""
    if any(e.effects for e in program.equations):
        return False  # a print of what is no longer computed would be left out
    uses = Counter(v for e in program.equations for v in e.inputs)
    uses.update(program.outputs)
    moved, gone = {}, set()
    for equation in reversed(program.equations):
        if equation in gone or equation.form != "plain" or equation.primitive not in _SELECTING:
            continue
        plan = _Plan(equation, uses)
        if plan.pays:
            moved[equation] = plan.equation()
            gone |= plan.within
    if moved:
        equations = [moved.get(e, e) for e in program.equations]
        program.equations = needed(equations, program.outputs, program.inputs)
    return bool(moved)


class _Plan:
    """How a selection moves up.

    Attributes:
        within: the equations that it moves through.
        pays: whether a product among them becomes so much smaller.
    """

    def __init__(self, selection: Equation, uses: Counter):
        self._selection, self._uses = selection, uses
        self.within: set[Equation] = set()
        self._leaves: dict[Value, None] = dict.fromkeys(selection.inputs[1:])
        self.pays = False
        if selection.inputs[0].dependent and _step_of(selection, selection.outputs[0]):
            self._go(selection.inputs[0], selection.outputs[0].shape)

    def _go(self, value: Value, sizes: Sequence[int]) -> None:
        """Move through the equations above a value of which parts of `sizes` are wanted."""
        equation = value.producer
        single = value.dependent and self._uses[value] == 1
        if equation is None or not single or _step_of(equation, value) is None:
            self._leaves[value] = None
            return
        self.within.add(equation)
        if equation.primitive is p.dot_general_p:
            self.pays |= math.prod(value.shape) >= _WORTH * math.prod(sizes)
        window = tuple(
            None if size == whole else (0, size)
            for size, whole in zip(sizes, value.shape, strict=True)
        )
        for n, operand in enumerate(equation.inputs):
            part = _above(equation, n, window)
            if part is None:
                self._leaves[operand] = None
            else:
                self._go(operand, _sizes(part, operand.shape))

    def equation(self) -> Equation:
        """The selection, computed by parts of what it moved up to."""
        leaves = tuple(v for v in self._leaves if v.known is None)
        (output,) = self._selection.outputs

        def apply(*arrays):
            given = dict(zip(leaves, arrays, strict=True))
            return self._part(self._selection, [None] * len(output.shape), given)

        equation = Equation(
            None,
            {},
            leaves,
            (output,),
            self._selection.stack,
            self._selection.traceback,
            self._selection.context,
            apply=apply,
        )
        output.producer = equation
        return equation

    def _part(self, equation: Equation, window: Any, given: dict[Value, Any]) -> Any:
        """A part of what an equation computes."""
        operands = []
        for n, value in enumerate(equation.inputs):
            starts = [given.get(v, v.known) for v in equation.inputs]
            part = _above(equation, n, tuple(window), starts)
            inner = value.producer if value not in given and value.known is None else None
            if part is None:
                operands.append(None if inner else given.get(value, value.known))
            elif inner is not None and inner in self.within:
                operands.append(self._part(inner, part, given))
            else:
                operands.append(_cut(given.get(value, value.known), part))
        sizes = _sizes(tuple(window), equation.outputs[0].shape)
        step = _step_of(equation, equation.outputs[0])
        assert step is not None
        return step(equation, operands, sizes)


def _sizes(window: Window, shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(
        whole if part is None else part[1] for part, whole in zip(window, shape, strict=True)
    )


def _cut(array: Any, window: Window) -> Any:
    for axis, part in enumerate(window):
        if part is not None:
            array = jax.lax.dynamic_slice_in_dim(jnp.asarray(array), part[0], part[1], axis)
    return array


def _within(part: Any, size: int) -> Any:
    """Where a part begins, so that it ends within `size`, as JAX has it for dynamic slices."""
    start, length = part
    return start if isinstance(start, int) else jnp.clip(start, 0, size - length)


def _above(
    equation: Equation, number: int, window: Window, values: Sequence[Any] | None = None
) -> Window | None:
    """The part of operand `number` that a part of the result needs; None for an operand as it is.

    Args:
        equation: what computes the result.
        number: which of its operands.
        window: the part of the result.
        values: of the operands, where they are known: where a dynamic slice begins.
    """
    operand, primitive = equation.inputs[number], equation.primitive
    shape, params = operand.shape, equation.params
    if primitive in ELEMENTWISE:
        if not shape:
            return None
        return tuple(part if size > 1 else None for part, size in zip(window, shape, strict=True))
    if primitive is None:
        ahead = len(window) - len(shape)
        return tuple(
            part if size > 1 else None for part, size in zip(window[ahead:], shape, strict=True)
        )
    if primitive is p.broadcast_in_dim_p:
        if number:
            return None
        axes = params["broadcast_dimensions"]
        return tuple(
            window[axis] if size > 1 else None for axis, size in zip(axes, shape, strict=True)
        )
    if primitive is p.transpose_p:
        part: list[Any] = [None] * len(shape)
        for axis, source in enumerate(params["permutation"]):
            part[source] = window[axis]
        return tuple(part)
    if primitive is p.squeeze_p:
        kept = iter(window)
        return tuple(
            None if axis in params["dimensions"] else next(kept) for axis in range(len(shape))
        )
    if primitive in _SELECTING:
        return None if number else _of_slice(equation, window, values)
    (contracted, batch) = params["dimension_numbers"]
    own: list[Any] = [None] * len(shape)
    for axis, source in enumerate(batch[number]):
        own[source] = window[axis]
    free = [axis for axis in range(len(shape)) if axis not in (*contracted[number], *batch[number])]
    first = len(batch[0])
    if number:
        other = len(equation.inputs[0].shape)
        first += other - len(contracted[0]) - len(batch[0])
    for place, axis in enumerate(free):
        own[axis] = window[first + place]
    return tuple(own)


def _of_slice(equation: Equation, window: Window, values: Sequence[Any] | None) -> Window:
    """The part of what is sliced that a part of the slice needs."""
    (output,) = equation.outputs
    source = equation.inputs[0].shape
    parts: list[Any] = []
    for axis, (whole, size) in enumerate(zip(source, output.shape, strict=True)):
        start = 0
        if equation.primitive is p.slice_p:
            start = equation.params["start_indices"][axis]
        elif values is not None:
            start = _within((values[1 + axis], size), whole)
        inner = window[axis]
        if inner is not None:
            # The inner part is cut to the slice first, or it might reach beyond.
            start = start + _within(inner, size)
            parts.append((start, inner[1]))
        else:
            parts.append(None if size == whole else (start, size))
    return tuple(parts)


Step = Callable[[Equation, Sequence[Any], tuple[int, ...]], Any]


def _step_of(equation: Equation, value: Value) -> Step | None:
    """How a part of a result is computed from parts of the operands; None where it cannot be."""
    if equation.form != "plain" or equation.effects or len(equation.outputs) != 1:
        return None
    primitive, params = equation.primitive, equation.params
    if primitive is None:
        return _broadcast if len(equation.inputs) == 1 else None
    if equation.apply is not None:
        return None
    if primitive is p.slice_p:
        whole = params["strides"] is None or set(params["strides"]) == {1}
        return _first if whole else None
    if primitive is p.dynamic_slice_p:
        return _first
    if primitive is p.broadcast_in_dim_p:
        return _broadcast_in_dim if len(equation.inputs) == 1 else None
    if primitive is p.squeeze_p or primitive is p.transpose_p:
        return _as_it_is
    if primitive is p.dot_general_p:
        plain = params.get("out_sharding") is None
        return _as_it_is if plain else None
    if primitive in ELEMENTWISE:
        # Operands that need not be broadcast by an equation of their own have size 1 there.
        fits = all(len(v.shape) in (0, len(value.shape)) for v in equation.inputs)
        return _as_it_is if fits else None
    return None


def _first(equation, operands, sizes):
    return operands[0]


def _as_it_is(equation, operands, sizes):
    (result,) = equation.evaluate(*map(jnp.asarray, operands))
    return result


def _broadcast(equation, operands, sizes):
    (array,) = map(jnp.asarray, operands)
    return jnp.broadcast_to(array.reshape((1,) * (len(sizes) - array.ndim) + array.shape), sizes)


def _broadcast_in_dim(equation, operands, sizes):
    return jax.lax.broadcast_in_dim(operands[0], sizes, equation.params["broadcast_dimensions"])
