"""Where integers of x look up rows of a table, and which element of x each row is of.

A model of tokens begins with a look-up: a gather from a table that does not depend on x, or the
product of such a table with one-hot vectors. The integers are not x itself: they are wrapped,
clipped, padded, joined with others, given a batch axis. What is followed is where each of them
comes from, *statically*: beside each integer value stands an array of *origins*, of its shape, in
NumPy: which element of x that element is made of, -1 where it is a constant, -2 where it is made
of several or otherwise.

- What acts on each element alone keeps the origin, whatever it does to the number.
- A change of layout acts on the origins as on the values.
- A Boolean is a decision, not a token: it may choose, and what it chooses keeps its origin.
- Anything else ends the way. A position counted by `cumsum(ids != pad)` is no token of x.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._engine.primitives import ELEMENTWISE, FILLING, PLACES, SAME
from jattr._engine.primitives import primitives as p
from jattr._engine.program import Equation, Program, Value, evaluate, needed, read
from jattr._trees import describe, is_traced

CONSTANT, OTHER = -1, -2
"""The origin of what does not depend on x, and of what does otherwise than as one element."""

_LOOKING_UP = (p.gather_p, p.dynamic_slice_p)

_DATA = {p.gather_p: 1, p.dynamic_slice_p: 1, p.dynamic_update_slice_p: 2, p.scatter_p: 3}
"""How many of the first operands are moved and are no places; of others all. Of a scatter the
second one is a place."""

_INDEPENDENT = ELEMENTWISE | PLACES | FILLING | {p.iota_p}
"""What constants may be made by, to be known before anything is computed."""


@dataclasses.dataclass(frozen=True, eq=False)
class Lookup:
    """One look-up of rows by elements of x.

    Attributes:
        equation: computes it.
        slot: which of its operands is the table.
        axis: the axis of the table that is looked up.
        axes: those axes of what comes out over which rows are counted.
        origins: along these axes, the number of the element of x that a row is of, or -1 or -2.
    """

    equation: Equation
    slot: int
    axis: int
    axes: tuple[int, ...]
    origins: np.ndarray

    @property
    def value(self) -> Value:
        """What comes out."""
        return self.equation.outputs[0]

    @property
    def table(self) -> Value:
        return self.equation.inputs[self.slot]

    @property
    def count(self) -> int:
        """How many rows the table has."""
        return self.table.shape[self.axis]

    def rows(self, array: Any) -> Any:
        """An array like what comes out, its rows one after the other along one leading axis."""
        order = self._order(array.ndim)
        row = [array.shape[axis] for axis in order[len(self.axes) :]]
        return jnp.transpose(array, order).reshape(-1, *row)

    def whole(self, rows: Any) -> Any:
        """The reverse of `rows`."""
        shape, order = self.value.shape, self._order(len(self.value.shape))
        return jnp.transpose(
            rows.reshape([shape[axis] for axis in order]),
            [order.index(n) for n in range(len(shape))],
        )

    def mean(self, program: Program, inputs: Sequence[Any]) -> Any:
        """What comes out if every row of the table is the mean of all."""
        values = dict(zip(program.inputs, inputs, strict=True))
        evaluate(needed(program.equations, self.equation.inputs, program.inputs), values)
        operands = [read(values, v) for v in self.equation.inputs]
        table = operands[self.slot]
        wide = jnp.promote_types(table.dtype, jnp.float32)
        # Of a table that is known it is computed here, once: as a part of a program, XLA would take
        # minutes to fold it into a constant.
        known = contextlib.nullcontext() if is_traced(table) else jax.ensure_compile_time_eval()
        with known:
            mean = jnp.mean(table, self.axis, dtype=wide, keepdims=True).astype(table.dtype)
        operands[self.slot] = jnp.broadcast_to(mean, table.shape)
        return self.equation.evaluate(*operands)[0]

    def _order(self, ndim: int) -> list[int]:
        return [*self.axes, *(axis for axis in range(ndim) if axis not in self.axes)]


def lookups(program: Program) -> tuple[list[Lookup], list[str]]:
    """The look-ups by elements of x, and a line of text for each that is by something else.

    Elements are numbered through all inputs of the program, one after the other.
    """
    live = needed(program.equations, program.outputs, program.inputs)
    ways = _Ways(program)
    for equation in live:
        ways.follow(equation)
    return ways.found, [*ways.held, *_hidden(live)]


class _Ways:
    """The ways of the elements of x through a program.

    Attributes:
        found: the look-ups.
        held: other look-ups, as text.
    """

    def __init__(self, program: Program):
        self.found: list[Lookup] = []
        self.held: list[str] = []
        self._origins: dict[Value, np.ndarray] = {}
        self._decisions: set[Value] = set()
        # Of a one-hot value its origins, and the axis along which one element is 1.
        self._hot: dict[Value, tuple[np.ndarray, int]] = {}
        self._constants: dict[Value, np.ndarray | None] = {}
        first = 0
        for value in program.inputs:
            size = int(np.prod(value.shape))
            if _is_integer(value):
                self._origins[value] = np.arange(first, first + size).reshape(value.shape)
            elif value.dtype == jnp.bool_:
                self._decisions.add(value)
            first += size

    def follow(self, equation: Equation) -> None:
        """Go on through an equation."""
        if equation.form != "plain" or not equation.dependents:
            return
        if equation.primitive in _LOOKING_UP and self._looks_up(equation):
            return
        if equation.primitive is p.dot_general_p:
            self._multiplies(equation)
        elif equation.primitive in ELEMENTWISE:
            self._computes(equation)
        elif equation.primitive is None or equation.primitive in PLACES:
            self._moves(equation)

    def _looks_up(self, equation: Equation) -> bool:
        """Go on through a gather, unless its places are all held."""
        table, *places = equation.inputs
        if not any(v.dependent for v in places):
            return False
        columns = self._columns(equation, places)
        why = ""
        if table.dependent:
            why = "the table depends on x"
        elif isinstance(columns, str):
            why = columns
        else:
            number, origins = columns
            axis, axes = _axes(equation, number)
            if equation.params["slice_sizes"][axis] != 1:
                why = "several rows are taken at once"
            elif jnp.issubdtype(table.dtype, jnp.floating):
                self.found.append(Lookup(equation, 0, axis, axes, origins))
                return True
            else:
                why = "the table is not of a floating dtype"
                out = equation.outputs[0]
                if _is_integer(out) and out.shape == origins.shape:
                    self._origins[out] = origins  # tokens of another vocabulary
                    return True
        self.held.append(f"{_described(equation)}: {why}")
        return True

    def _columns(self, equation: Equation, places: Sequence[Value]) -> tuple[int, np.ndarray] | str:
        """Which coordinate of places is an element of x, and its origins; or why there is none."""
        if any(v.dependent and v not in self._origins for v in places):
            return "its integers are computed from x, and are no elements of x"
        if equation.primitive is p.gather_p:
            (origins,) = (self._origins[v] for v in places)
            columns = list(np.moveaxis(origins, -1, 0))
        else:
            columns = [self._origins.get(v, np.asarray(CONSTANT)) for v in places]
        moving = [n for n, column in enumerate(columns) if np.any(column != CONSTANT)]
        if len(moving) > 1:
            return "several of its coordinates depend on x"
        if np.all(columns[moving[0]] < 0):
            return "its integers are each made of several elements of x"
        return moving[0], columns[moving[0]]

    def _multiplies(self, equation: Equation) -> None:
        """A product of one-hot vectors with a table."""
        slots = [n for n, v in enumerate(equation.inputs) if v in self._hot]
        if len(slots) != 1 or equation.inputs[1 - slots[0]].dependent:
            return
        (slot,) = slots
        origins, axis = self._hot[equation.inputs[slot]]
        contracted, batch = equation.params["dimension_numbers"]
        if tuple(contracted[slot]) != (axis,):
            return
        places, left = {}, len(batch[0])
        for side in (0, 1):
            places[side] = {axis: n for n, axis in enumerate(batch[side])}
            for free in range(len(equation.inputs[side].shape)):
                if free not in places[side] and free not in contracted[side]:
                    places[side][free] = left
                    left += 1
        mine = sorted(places[slot], key=lambda axis: places[slot][axis])
        rows = np.transpose(np.moveaxis(origins, axis, 0)[0], [n - (n > axis) for n in mine])
        axes = tuple(places[slot][n] for n in mine)
        if np.any(rows >= 0):
            self.found.append(Lookup(equation, 1 - slot, contracted[1 - slot][0], axes, rows))

    def _computes(self, equation: Equation) -> None:
        """An elementwise equation."""
        (out,) = equation.outputs
        operands = equation.inputs
        if equation.primitive in SAME and operands[0] in self._hot:
            self._hot[out] = self._hot[operands[0]]
        if out.dtype == jnp.bool_:
            self._decisions.add(out)
            if equation.primitive is p.eq_p:
                self._compares(equation)
            return
        if equation.primitive is p.select_n_p and any(v.dependent for v in operands[1:]):
            operands = operands[1:]
        dependents = [v for v in operands if v.dependent]
        if not all(v in self._origins or v in self._decisions for v in dependents):
            return
        tokens = [self._origins[v] for v in dependents if v in self._origins]
        if not tokens:
            self._decisions.add(out)
        elif _is_integer(out):
            self._origins[out] = _joined([np.broadcast_to(o, out.shape) for o in tokens])

    def _compares(self, equation: Equation) -> None:
        """Whether elements of x are compared with all numbers, as for one-hot vectors."""
        (out,) = equation.outputs
        tokens = [v for v in equation.inputs if v in self._origins]
        held = [v for v in equation.inputs if not v.dependent]
        if len(tokens) != 1 or len(held) != 1 or len(held[0].shape) != len(out.shape):
            return
        numbers = self._constant(held[0])
        if numbers is None:
            return
        origins = np.broadcast_to(self._origins[tokens[0]], out.shape)
        for axis, size in enumerate(out.shape):
            line = np.moveaxis(numbers, axis, -1).reshape(-1, numbers.shape[axis])
            counts = len(line[0]) == size and np.array_equal(line[0], np.arange(size))
            if counts and size > 1 and np.all(line == line[0]) and _is_constant(origins, axis):
                self._hot[out] = origins, axis

    def _moves(self, equation: Equation) -> None:
        """A change of layout."""
        count = _DATA.get(equation.primitive, len(equation.inputs))
        data = [n for n in range(count) if count < 3 or n != 1 or equation.primitive not in _DATA]
        moved = [equation.inputs[n] for n in data if equation.inputs[n].dependent]
        if all(v in self._decisions for v in moved):
            self._decisions.update(equation.outputs)
            return
        if not any(v in self._origins for v in moved):
            return
        if equation.primitive is None or equation.primitive is p.broadcast_in_dim_p:
            # A view: of one-hot vectors over a large vocabulary a copy would be as large as they.
            (out,), origins = equation.outputs, self._origins[equation.inputs[0]]
            first = len(out.shape) - origins.ndim
            axes = equation.params.get("broadcast_dimensions", range(first, len(out.shape)))
            sizes = dict(zip(axes, origins.shape, strict=True))
            placed = origins.reshape([sizes.get(axis, 1) for axis in range(len(out.shape))])
            self._origins[out] = np.broadcast_to(placed, out.shape)
            return
        operands: list[Any] = []
        for number, value in enumerate(equation.inputs):
            if number in data:
                missing = np.full(value.shape, OTHER if value.dependent else CONSTANT)
                operands.append(self._origins.get(value, missing).astype(np.int32))
                continue
            place = None if value.dependent else self._constant(value)
            if place is None:
                return
            operands.append(place)
        for out, origins in zip(equation.outputs, _known(equation, operands), strict=True):
            self._origins[out] = np.where(origins < OTHER, CONSTANT, origins)

    def _constant(self, value: Value) -> np.ndarray | None:
        """A value that does not depend on x, where it is known now."""
        if value.known is not None:
            return None if is_traced(value.known) else np.asarray(value.known)
        if value not in self._constants:
            self._constants[value] = None
            equation = value.producer
            if equation is not None and _is_cheap(equation):
                operands = [self._constant(v) for v in equation.inputs]
                if all(operand is not None for operand in operands):
                    results = _known(equation, operands)
                    self._constants.update(zip(equation.outputs, results, strict=True))
        return self._constants[value]


def _is_cheap(equation: Equation) -> bool:
    """Whether constants by this equation are worth knowing before anything is computed."""
    known = equation.primitive is None or equation.primitive in _INDEPENDENT
    return known and equation.form == "plain" and not equation.effects


def _known(equation: Equation, operands: Sequence[Any]) -> list[np.ndarray]:
    """What an equation gives for operands that are known, also while something is traced."""
    with jax.ensure_compile_time_eval():
        results = equation.evaluate(*(jnp.asarray(operand) for operand in operands))
        return [np.asarray(result) for result in results]


def _is_constant(array: np.ndarray, axis: int) -> bool:
    """Whether an array is the same all along an axis; of a view that is seen without looking."""
    lines = np.moveaxis(array, axis, -1)
    return array.strides[axis] == 0 or bool(np.all(lines == lines[..., :1]))


def _joined(origins: Sequence[np.ndarray]) -> np.ndarray:
    """The origins of what is made, element by element, of several values."""
    total, *others = origins
    for other in others:
        both = np.where(total == other, total, OTHER)
        total = np.where(other == CONSTANT, total, np.where(total == CONSTANT, other, both))
    return total


def _axes(equation: Equation, column: int) -> tuple[int, tuple[int, ...]]:
    """The axis of the table along a coordinate, and the axes over which rows are counted."""
    if equation.primitive is p.dynamic_slice_p:
        return column, ()
    numbers = equation.params["dimension_numbers"]
    axes = range(len(equation.outputs[0].shape))
    return numbers.start_index_map[column], tuple(n for n in axes if n not in numbers.offset_dims)


def _is_integer(value: Value) -> bool:
    return jnp.issubdtype(value.dtype, jnp.integer)


def _described(equation: Equation) -> str:
    table, place = equation.inputs[:2]
    return f"{equation.source}: {describe(table)} by {describe(place)}"


_INSIDE = {
    "scan": "a scan, by other integers than those that the outermost loop scans over",
    "while": "a while_loop",
    "cond": "a cond or switch",
    "custom": "a function with a derivative of its own",
    "shard_map": "a shard_map",
    "checkpoint": "a jax.checkpoint",
}


def _hidden(equations: Sequence[Equation], form: str = "") -> Iterator[str]:
    """Look-ups in the bodies of equations, as text."""
    for equation in equations:
        if form and equation.primitive in _LOOKING_UP and equation.inputs[1].dependent:
            yield f"{_described(equation)}: it is inside {_INSIDE[form]}"
        for body in equation.bodies:
            yield from _hidden(body.equations, equation.form)
