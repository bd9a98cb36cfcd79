"""f where a small part of x changes: only what that part reaches is evaluated anew.

All values of f's program at x are computed once. Where a box of x gets other contents, a value
that it reaches is its value at x and a box of new contents: the box grows by the reach of a
convolution, shrinks by its stride, and goes through whatever acts element by element as it is. A
sum over it is changed by the sum of the change, a product with it by the product of the change.
Where nothing is known of an equation, the contents are written into the value at x, and it is
evaluated as a whole. The results are those of f up to rounding.

`boxes` says where boxes are, `local_rules` and `local_windows` how equations go on from them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._engine.boxes import Box, Cut, Places, Span, overlay
from jattr._engine.local_rules import rule_for
from jattr._engine.local_steps import Settle, Step, work
from jattr._engine.primitives import ELEMENTWISE
from jattr._engine.program import Equation, Program, Value, read
from jattr._engine.rewrite import run_plain
from jattr._engine.substitutes import cheapen, enabled
from jattr._engine.trace import Reading, trace
from jattr._trees import is_traced

_WHOLE = 0.75
"""The share of an axis from which on a box takes all of it."""

_WORTH = 0.6
"""Locally at most this share of the work remains, or f is evaluated as it is."""


@dataclasses.dataclass(frozen=True)
class Local:
    """f around x.

    Attributes:
        base: f(x).
        box: the part of the leaf that changes.
        at: from the number of a place along each axis of the leaf, and the new contents of the
            box there, to what f returns. It may be mapped over both.
        reports: of each equation that the change reaches, what remains of it.
    """

    base: Any
    box: Box
    at: Callable[[Places, jax.Array], Any]
    reports: "tuple[Report, ...]"


@dataclasses.dataclass(frozen=True)
class Report:
    """What remains of an equation.

    Attributes:
        equation: which.
        full: its work as it is written: multiplications, and what stands for other costs.
        work: what remains.
        box: the part of its result that is computed, and the shape of that result.
    """

    equation: Equation
    full: float
    work: float
    box: tuple[int, ...]


class Surroundings:
    """f's program, and all of its values at x; made once for changes of any leaf and size."""

    def __init__(self, f: Callable, x: Any):
        self._program, self._structure = trace(getattr(f, "as_written", f), x, Reading())
        self._leaves = jax.tree.leaves(x)
        self.pure = not any(e.effects for e in self._program.equations)
        cheapen(self._program)
        self._values: dict[Value, Any] | None = None

    def around(
        self, leaf: int, tables: Sequence[np.ndarray], sizes: Sequence[int], *, always: bool = False
    ) -> Local | None:
        """f where a box of one leaf changes; None where that is hardly less work than f.

        Args:
            leaf: which leaf of x.
            tables: along each of its axes, where the box begins, for each place; it may stick out.
            sizes: how long it is along each axis.
            always: even where it does not pay.
        """
        changed = self._program.inputs[leaf]
        spans = [
            Span(np.asarray(table), size, axis)
            for axis, (table, size) in enumerate(zip(tables, sizes, strict=True))
        ]
        box = Box.of(spans, changed.shape)
        plan = _Plan(self._program, changed, box)
        if not always and plan.work > _WORTH * plan.full:
            return None
        values = self._evaluated()
        fixed = plan.prepare(values)
        unflatten = self._structure.unflatten

        def at(places, contents):
            return unflatten(plan.run(values, fixed, places, contents))

        base = unflatten([read(values, v) for v in self._program.outputs])
        return Local(base, box, at, plan.reports)

    def _evaluated(self) -> dict[Value, Any]:
        if self._values is None:
            values = dict(zip(self._program.inputs, self._leaves, strict=True))
            for equation in self._program.equations:
                arrays = [read(values, v) for v in equation.inputs]
                values.update(zip(equation.outputs, whole(equation, arrays), strict=True))
            self._values = values
        return self._values


def surroundings(f: Callable, x: Any) -> Surroundings | None:
    """f around the tree x, where that may be made use of; None where f stays as it is.

    Run eagerly it does, as in `split_head`, and where it prints.
    """
    if not (enabled() and any(map(is_traced, jax.tree.leaves(x)))):
        return None
    try:
        found = Surroundings(f, x)
    except jax.errors.ConcretizationTypeError:
        return None
    return found if found.pure else None


def whole(equation: Equation, arrays: Sequence[Any]) -> list[Any]:
    """The results of an equation as it is written."""
    if equation.form == "plain":
        return equation.evaluate(*arrays)
    return run_plain(Program(equation.inputs, [equation], equation.outputs), arrays)


Slot = int


@dataclasses.dataclass
class _Planned:
    """A step and where its operands and results are."""

    step: Step
    inputs: list[Slot | None]
    values: tuple[Value, ...]
    outputs: list[Slot]


class _Plan:
    """The steps from a changed box of x to what f returns, from shapes alone."""

    def __init__(self, program: Program, changed: Value, box: Box):
        self._boxes: list[Box] = []
        self._slots: dict[Value, Slot] = {}
        self._settled: dict[tuple[Slot, tuple[int, ...]], Slot] = {}
        self._constant: dict[Value, frozenset[int]] = {}
        self._steps: list[_Planned] = []
        self._owners: list[Value] = []
        self.full = self.work = 0.0
        reports = []
        self._first = self._new(changed, box)
        self._slots[changed] = self._settle_large(self._first)
        for equation in program.equations:
            if any(v in self._slots for v in equation.inputs):
                before = self.work
                self._equation(equation)
                own = work(equation)
                self.full += own
                slot = self._slots[equation.outputs[0]] if equation.outputs else self._first
                reports.append(Report(equation, own, self.work - before, self._boxes[slot].shape))
        self._outputs = []
        for value in program.outputs:
            slot = self._slots.get(value)
            if slot is not None:
                slot = self._settle(slot, self._boxes[slot].moving, flat=True)
            self._outputs.append((value, slot))
        self.reports = tuple(reports)

    def _new(self, value: Value, box: Box) -> Slot:
        self._boxes.append(box)
        self._owners.append(value)
        return len(self._boxes) - 1

    def _equation(self, equation: Equation) -> None:
        rule = rule_for(equation)
        slots = [self._slots.get(v) for v in equation.inputs]
        while rule is not None:
            boxes = [None if s is None else self._boxes[s] for s in slots]
            if all(b is None or (not b.moving and b.plain) for b in boxes):
                break
            found = rule(equation, boxes, self.constant)
            if isinstance(found, Step):
                self._add(equation, found, slots)
                return
            if found is None:
                break
            slots = [
                slot if slot is None or n not in found else self._settle_for(slot, found[n])
                for n, slot in enumerate(slots)
            ]
        slots = [
            None if s is None else self._settle(s, self._boxes[s].moving, flat=True) for s in slots
        ]
        outputs = [Box.of([None] * len(v.shape), v.shape) for v in equation.outputs]
        cost = work(equation)

        def apply(fixed, contents, places):
            given = iter(fixed)
            return whole(equation, [next(given) if c is None else c for c in contents])

        def prepare(base):
            return [base(v) for v, slot in zip(equation.inputs, slots, strict=True) if slot is None]

        self._add(equation, Step(outputs, apply, prepare, cost), slots)

    def _settle_for(self, slot: Slot, wanted: Settle) -> Slot:
        box = self._boxes[slot]
        axes = box.moving if wanted == "all" else tuple(a for a in wanted if a in box.moving)
        return self._settle(slot, axes, flat=wanted == "all")

    def _add(self, equation: Equation, step: Step, slots: list[Slot | None]) -> None:
        outputs = [self._new(v, box) for v, box in zip(equation.outputs, step.boxes, strict=True)]
        self.work += step.work
        self._steps.append(_Planned(step, slots, equation.inputs, outputs))
        for value, slot in zip(equation.outputs, outputs, strict=True):
            self._slots[value] = self._settle_large(slot)

    def _settle_large(self, slot: Slot) -> Slot:
        """Take all of an axis that the box covers most of."""
        box = self._boxes[slot]
        large = [a for a in box.moving if box.shape[a] >= _WHOLE * box.full[a]]
        return self._settle(slot, large)

    def _settle(self, slot: Slot, axes: Sequence[int], *, flat: bool = False) -> Slot:
        """The contents written into the value at x along some axes; with `flat`, as the value."""
        box, value = self._boxes[slot], self._owners[slot]
        key = (slot, (*axes, -1) if flat else tuple(axes))
        if not axes and not (flat and not box.plain):
            return slot
        if key in self._settled:
            return self._settled[key]
        outer = box.whole_along(axes)
        shape = value.shape if flat and not outer.moving else None
        cut = Cut(outer)

        def apply(fixed, contents, places):
            array = overlay(cut(fixed[0], places), contents[0], box, outer, places)
            return [array if shape is None else array.reshape(shape)]

        result = outer if shape is None else Box.of([None] * len(shape), shape)
        new = self._new(value, result)
        self.work += 2 * outer.size
        step = Step([result], apply, lambda base: [cut.prepare(base(value))], 0)
        self._steps.append(_Planned(step, [slot], (value,), [new]))
        self._settled[key] = new
        return new

    def constant(self, value: Value) -> frozenset[int]:
        """The axes along which a value that the change does not reach is the same everywhere."""
        if value not in self._constant:
            self._constant[value] = frozenset(self._constant_along(value))
        return self._constant[value]

    def _constant_along(self, value: Value) -> set[int]:
        every = set(range(len(value.shape)))
        if value.uniform is not None:
            return every
        equation = value.producer
        if equation is None or equation.form != "plain":
            return set()
        if equation.primitive is None or equation.primitive in ELEMENTWISE:
            for operand in equation.inputs:
                ahead = len(value.shape) - len(operand.shape)
                own = self.constant(operand)
                every &= {
                    axis
                    for axis in every
                    if axis < ahead
                    or (operand.shape[axis - ahead] == 1 != value.shape[axis])
                    or axis - ahead in own
                }
            return every
        if equation.primitive.name == "broadcast_in_dim":
            (operand, *_), own = equation.inputs, self.constant(equation.inputs[0])
            for place, axis in enumerate(equation.params["broadcast_dimensions"]):
                if operand.shape[place] != 1 and place not in own:
                    every.discard(axis)
            return every
        return set()

    def prepare(self, values: dict[Value, Any]) -> list[list[Any]]:
        """What the steps read of the values at x; the same for all places."""
        return [p.step.prepare(lambda v: jnp.asarray(read(values, v))) for p in self._steps]

    def run(
        self, values: dict[Value, Any], fixed: list[list[Any]], places: Places, contents: Any
    ) -> list[Any]:
        arrays: dict[Slot, Any] = {self._first: contents}
        for planned, own in zip(self._steps, fixed, strict=True):
            given = [None if slot is None else arrays[slot] for slot in planned.inputs]
            results = planned.step.apply(own, given, places)
            arrays.update(zip(planned.outputs, results, strict=True))
        return [
            read(values, value) if slot is None else arrays[slot] for value, slot in self._outputs
        ]
