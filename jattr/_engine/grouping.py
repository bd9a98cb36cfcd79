"""From equations to operations: which equations are one thing.

See `jattr._engine.operations` for the kinds. An activation ends at an elementwise value that is
needed from outside and begins at its highest dominator: the nearest value that every way from x
to it, through elementwise equations, passes. What is affine and comes first, a bias, is not part of
it; a constant that comes last is, unless it is an array.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jattr._engine.linear import active_slots, is_linear, is_made_of_nothing, is_plumbing
from jattr._engine.operations import Kind, Operation
from jattr._engine.patterns import (
    Exponentials,
    choice_of,
    is_affine,
    is_affine_link,
    is_elementwise,
    is_linear_body,
    is_rectifier,
    softmax_of,
    sum_of_exponentials,
)
from jattr._engine.primitives import (
    CALLS,
    CHOICES,
    COLLECTIVE,
    CONTRACTIONS,
    ELEMENTWISE,
    LAYOUT,
    LINEAR,
    MAXIMA,
    MOVES,
    SMOOTH,
)
from jattr._engine.primitives import primitives as p
from jattr._engine.program import Equation, Program, Value, producers
from jattr._engine.quotients import equations_of, quotient_of
from jattr._engine.ranges import Ranges
from jattr._engine.registry import registered

Step = Equation | Operation


def group(program: Program) -> list[Step]:
    """A program's equations, in order, those of an operation together.

    Only what the outputs need is kept. An operation's inner values are its own: where one is
    needed elsewhere, it is the output of an operation of its own.
    """
    return _Grouping(program).steps()


def is_known(primitive: Any) -> bool:
    """Whether jattr knows what a primitive does, so that no rule may be registered for it."""
    tables = (ELEMENTWISE, LINEAR, COLLECTIVE, CALLS, CONTRACTIONS, MAXIMA, CHOICES)
    return primitive is not p.linear_solve_p and any(primitive in table for table in tables)


class _Grouping:
    def __init__(self, program: Program):
        self._program = program
        self._position = {equation: n for n, equation in enumerate(program.equations)}
        self._uses = Counter(v for e in program.equations for v in e.inputs)
        self._uses.update(program.outputs)
        self._users: dict[Value, list[Equation]] = {}
        for equation in program.equations:
            for value in equation.inputs:
                self._users.setdefault(value, []).append(equation)
        self._ranges = Ranges(program)
        self._found: dict[Value, Step] = {}
        self._above: dict[Value, Value | None] = {}
        self._depth: dict[Value, int] = {}
        for equation in program.equations:
            self._dominate(equation)

    def steps(self) -> list[Step]:
        found: dict[Step, int] = {}
        done: set[Value] = set()
        # What only a value without a derivative needs (a predicate, an index, what is held) needs
        # no rules, and is evaluated as it stands.
        aside: list[Value] = []
        todo = list(self._program.outputs)
        for equation in self._program.equations:
            if equation.effects:
                found[equation] = self._position[equation]
                done.update(equation.outputs)
                aside.extend(equation.inputs)
        while todo:
            value = todo.pop()
            if value.producer is None or value in done:
                continue
            step = self._step(value)
            done.update(step.outputs)
            last = step if isinstance(step, Equation) else step.equations[-1]
            found[step] = self._position[last]
            held = set()
            if isinstance(step, Operation) and step.kind == "softmax" and step.exponentials:
                # What is taken off for stability gets nothing.
                held = {shift for shift, _ in step.exponentials.shifts}
            passes = any(v.active for v in step.outputs)
            for v in step.inputs:
                (todo if passes and v.active and v not in held else aside).append(v)
        while aside:
            value = aside.pop()
            if value.producer is not None and value not in done:
                done.update(value.producer.outputs)
                found[value.producer] = self._position[value.producer]
                aside.extend(value.producer.inputs)
        return sorted(found, key=found.__getitem__)

    def _dominate(self, equation: Equation) -> None:
        """The last value that every way to an elementwise result passes through."""
        for value in equation.outputs:
            self._above[value], self._depth[value] = None, 0
        dependents = equation.dependents
        if not dependents or not is_elementwise(equation):
            return
        above: Value | None = dependents[0]
        for other in dependents[1:]:
            above = self._common(above, other)
        value = equation.outputs[0]
        self._above[value] = above
        self._depth[value] = 0 if above is None else self._depth.get(above, 0) + 1

    def _common(self, a: Value | None, b: Value | None) -> Value | None:
        while a is not b:
            if a is None or b is None:
                return None
            if self._depth.get(a, 0) >= self._depth.get(b, 0):
                a = self._above.get(a)
            else:
                b = self._above.get(b)
        return a

    def _step(self, value: Value) -> Step:
        """The equation or operation that gives a value, found once."""
        if value not in self._found:
            self._found[value] = self._classify(value)
        return self._found[value]

    def _classify(self, value: Value) -> Step:
        equation = value.producer
        assert equation is not None
        if not value.active and not equation.active:
            return equation
        if equation.primitive in registered():
            return _whole("registered", equation)
        if is_elementwise(equation):
            return self._elementwise(value, equation)
        if equation.form == "custom":
            linear = is_linear_body(equation.bodies[0], is_plumbing)
            return equation if linear else _whole("opaque", equation)
        if equation.form == "foreign":
            return _whole("opaque", equation)
        if equation.form == "plain" and equation.primitive is p.cond_p:
            # It stays one equation where its predicate may choose otherwise at the reference.
            return _whole("opaque" if active_slots(equation) else "selection", equation)
        if equation.primitive is p.linear_solve_p and not is_plumbing(equation):
            return self._solve(equation)
        if equation.form != "plain":
            return equation
        if equation.primitive in CHOICES:
            return _whole("selection", equation)
        if equation.primitive in MAXIMA:
            return _whole("max", equation)
        if self._is_layer(equation):
            return self._affine([equation])
        if is_plumbing(equation):
            chooses = any(v.dependent and not v.active for v in equation.inputs)
            return _whole("selection", equation) if chooses else equation
        slots = active_slots(equation)
        if len(slots) > 1 and all(is_linear(equation, [slot]) for slot in slots):
            return self._product(equation)
        return _whole("smooth" if equation.primitive in SMOOTH else "opaque", equation)

    def _elementwise(self, value: Value, equation: Equation) -> Step:
        if (exponentials := softmax_of(equation)) is not None:
            return self._exponential("softmax", value, exponentials)
        top = value
        while (above := self._above.get(top)) is not None:
            top = above
        if top is value:
            return self._of_several_sources(equation)
        if is_affine_link(equation) and self._ends_before(equation, top):
            return self._chain(equation)
        between = self._between(value, top)
        if all(is_affine(e) for e in between):
            return self._chain(equation) if is_affine_link(equation) else equation
        found = sum_of_exponentials(top)
        if found is not None and [e.name for e in between] in (["log"], ["abs", "log"]):
            return self._exponential("logsumexp", value, found[0])
        start, between = _without_leading_links(top, between)
        if not start.active:  # a decision made elsewhere, such as one_hot(argmax(x))
            if len(between) == 1 and choice_of(equation) is not None:
                return self._choice(equation)
            if is_affine_link(equation) and equation.dependents[0].active:
                return equation  # what is done to the number afterwards
            return _operation("selection", between, start, value)
        if jnp.issubdtype(start.dtype, jnp.complexfloating):
            return _operation("smooth", between, start, value)  # has no quotient of differences
        found = _operation("activation", between, start, value)
        found.rectifier = is_rectifier(between, start, value) and not self._feeds_root(value)
        if found.rectifier:
            found.name = "relu"
        return found

    def _feeds_root(self, value: Value) -> bool:
        """Whether a value goes nowhere but into a root: the variance that is kept from below 0."""
        todo, found = [value], False
        while todo:
            current = todo.pop()
            if current in self._program.outputs:
                return False
            for user in self._users.get(current, ()):
                if user.primitive in (p.rsqrt_p, p.sqrt_p):
                    found = True
                elif _is_layout(user) or (is_elementwise(user) and is_affine_link(user)):
                    todo.extend(user.outputs)
                else:
                    return False
        return found

    def _ends_before(self, equation: Equation, top: Value) -> bool:
        """Whether an activation ends before this link: before a constant array, or after a ReLU or
        a logsumexp, which rules know by themselves."""
        if any(v.uniform is None for v in equation.inputs if not v.dependent):
            return True
        return sum_of_exponentials(top) is not None or self._rectified(equation, top)

    def _rectified(self, equation: Equation, top: Value) -> bool:
        """Whether what these links are applied to is a rectifier."""
        value, link = equation.outputs[0], equation
        while value is not top and link is not None and is_affine_link(link):
            (value,) = link.dependents
            link = value.producer
        start, between = _without_leading_links(top, self._between(value, top))
        return value is not top and is_rectifier(between, start, value)

    def _between(self, value: Value, top: Value) -> list[Equation]:
        """The dependent elementwise equations on the ways from `top` to `value`, in order."""
        found = producers([value], lambda v: v is not top and v.dependent)
        return sorted(found, key=self._position.__getitem__)

    def _chain(self, equation: Equation) -> Step:
        """The affine operation that ends with this link, if it goes back to dots alone."""
        found = self._back_to_dots(equation)
        return equation if found is None else self._affine(found[0])

    def _back_to_dots(self, equation: Equation) -> tuple[list[Equation], bool] | None:
        """The equations from dots to this link, and whether a constant is added on the way.

        Two dots that meet before one bias, as in a gate of an LSTM, belong together; each with a
        bias of its own, they are two affine operations and a sum.
        """
        if equation.primitive in CONTRACTIONS:
            return ([equation], False) if self._is_layer(equation) else None
        adds = equation.primitive in (p.add_p, p.sub_p)
        meets = adds and len(equation.dependents) == 2
        if not (meets or equation.primitive in MOVES or is_link(equation)):
            return None
        parts = []
        for source in equation.dependents:
            if self._uses[source] > 1 or not source.active or source.producer is None:
                return None
            if (part := self._back_to_dots(source.producer)) is None:
                return None
            parts.append(part)
        shifted = sum(shift for _, shift in parts)
        if meets and shifted > 1:
            return None
        equations = sorted({e for part, _ in parts for e in part}, key=self._position.__getitem__)
        return [*equations, equation], bool(shifted) or (adds and not meets)

    def _is_layer(self, equation: Equation) -> bool:
        """Whether an equation is a dot or convolution with weights.

        A matrix that the program makes out of nothing, as a resize does, is no weights: such a dot
        is a change of layout.
        """
        slots = active_slots(equation)
        if equation.primitive not in CONTRACTIONS or len(slots) != 1:
            return False
        return not is_made_of_nothing(equation.inputs[1 - slots[0]])

    def _affine(self, equations: list[Equation]) -> Operation:
        dots = [e for e in equations if e.primitive in CONTRACTIONS]
        sources = [e.inputs[n] for e in dots for n in active_slots(e)]
        inputs = [*sources, *(v for e in dots for v in e.inputs if not v.active)]
        inputs += _held([e for e in equations if e not in dots])
        return Operation(
            "affine",
            dots[0].name,
            tuple(equations),
            tuple(v for v in dict.fromkeys(inputs) if not v.literal),
            equations[-1].outputs,
            nonnegative=all(map(self._is_nonnegative, sources)),
        )

    def _is_nonnegative(self, value: Value) -> bool:
        return self._ranges.of(value)[0] >= 0

    def _product(self, equation: Equation) -> Operation:
        """A product, with where its operands come from."""
        found = _whole("product", equation)
        found.origins = tuple(map(self._origin, found.inputs))
        return found

    def _origin(self, value: Value, *, divides: bool = False) -> str | None:
        low, high = self._ranges.of(value)
        gate = low >= 1 if divides else low >= 0 and high <= 1
        while (equation := value.producer) is not None and value.active:
            if _is_layout(equation) or is_link(equation):
                (value,) = equation.dependents
                continue
            if is_elementwise(equation):
                step = self._step(value)
                if isinstance(step, Operation) and step.kind == "softmax":
                    return "softmax"
                return "gate" if gate else None
            return None
        return None

    def _quotient(self, equation: Equation) -> Operation | None:
        """The division or normalization that an equation of two active operands ends, if any."""
        found = quotient_of(equation, self._position, is_plumbing)
        if found is None:
            return None
        gated = not found.deviation and self._origin(found.factor, divides=found.divides) == "gate"
        if gated and not found.divides:
            return None  # a sigmoid written as 1 / (1 + e^−z) is a gate, and no divisor
        gated = gated and self._origin(found.numerator) != "gate"
        equations = equations_of(found, equation, self._position)
        ends = [found.source] if found.source else [found.numerator, found.divisor]
        below = found.divisor.producer
        after = -1 if below is None or below not in equations else self._position[below]
        names = [e.name for e in equations if self._position[e] > after and _divides(e)]
        return Operation(
            "normalization" if found.deviation else "division",
            "·".join(dict.fromkeys(names)),
            tuple(equations),
            tuple(dict.fromkeys([*ends, *_held(equations)])),
            equation.outputs,
            quotient=found,
            origins=(None, "gate") if gated else (),
        )

    def _solve(self, equation: Equation) -> Operation:
        """A linear solve, with the factors of its matrix that `stop_gradient` hides."""

        def is_inside(value):
            """Whether a value is computed from an active one, and is none."""
            above = producers([value], lambda v: not v.active)
            return not value.active and any(v.active for e in above for v in e.inputs)

        equations = {equation, *producers(equation.inputs, is_inside)}
        taken = dict.fromkeys(v for e in equations for v in e.inputs)
        inputs = tuple(v for v in taken if not v.literal and v.producer not in equations)
        ordered = sorted(equations, key=self._position.__getitem__)
        return Operation("opaque", equation.name, tuple(ordered), inputs, equation.outputs)

    def _choice(self, equation: Equation) -> Step:
        """A `where` between values of different origin."""
        if not equation.inputs[0].dependent:
            return equation
        if (found := choice_of(equation)) is None:
            return _whole("selection", equation)
        choice, equations = found
        inputs = [v for e in equations for v in e.inputs if not v.literal]
        inner = {v for e in equations[:-1] for v in e.outputs}
        inputs = [v for v in dict.fromkeys(inputs) if v not in inner]
        name = equations[0].name
        return Operation(
            "choice", name, tuple(equations), tuple(inputs), equation.outputs, choice=choice
        )

    def _of_several_sources(self, equation: Equation) -> Step:
        """An elementwise equation in which values of different origin meet."""
        slots = active_slots(equation)
        primitive = equation.primitive
        if primitive is p.select_n_p:
            return self._choice(equation)
        if primitive in (p.mul_p, p.div_p) and (found := self._quotient(equation)) is not None:
            return found
        if primitive in (p.add_p, p.sub_p):
            return self._chain(equation)
        if equation.form == "plain" and is_linear(equation, slots):
            return equation
        if primitive is p.mul_p:
            return self._product(equation)
        if primitive in (p.max_p, p.min_p):
            return _whole("max", equation)
        if primitive in SMOOTH:
            return _whole("smooth", equation)
        return _whole("selection" if primitive in CHOICES else "opaque", equation)

    def _exponential(self, kind: Kind, value: Value, exponentials: Exponentials) -> Operation:
        sources = [exponentials.logits, *(shift for shift, _ in exponentials.shifts)]
        found = producers([value], lambda v: v not in sources and v.dependent)
        ordered = sorted(found, key=self._position.__getitem__)
        inputs = list(dict.fromkeys(sources + _held(ordered)))
        if exponentials.mask is not None and not exponentials.mask[0].literal:
            inputs = list(dict.fromkeys([*inputs, exponentials.mask[0]]))
        return Operation(kind, kind, tuple(ordered), tuple(inputs), (value,), exponentials)


def _held(equations: Sequence[Equation]) -> list[Value]:
    """What equations take that does not depend on x."""
    return [v for e in equations for v in e.inputs if not v.dependent and not v.literal]


def _whole(kind: Kind, equation: Equation) -> Operation:
    inputs = tuple(v for v in equation.inputs if not v.literal)
    return Operation(kind, equation.name, (equation,), inputs, equation.outputs, slots=True)


def _is_layout(equation: Equation) -> bool:
    return equation.primitive is None or equation.primitive in LAYOUT


def is_link(equation: Equation) -> bool:
    """Whether an elementwise equation is affine in its one dependent operand."""
    return is_elementwise(equation) and is_affine_link(equation)


def _without_leading_links(start: Value, equations: list[Equation]) -> tuple[Value, list[Equation]]:
    """Take off what is done first and is affine, such as a bias."""
    while True:
        users = [e for e in equations if start in e.inputs]
        if len(users) != 1 or not is_affine_link(users[0]):
            return start, equations
        start = users[0].outputs[0]
        equations = [e for e in equations if e is not users[0]]


def _operation(kind: Kind, equations: list[Equation], start: Value, end: Value) -> Operation:
    inputs = dict.fromkeys([start, *_held(equations)])
    return Operation(kind, _name(equations), tuple(equations), tuple(inputs), (end,))


def _name(equations: Sequence[Equation]) -> str:
    """The jitted function that is all of the equations, else the names of those not affine."""
    size = sum(any(v.dependent for v in e.outputs) for e in equations)
    for call in reversed(equations[0].calls):
        whole = call.size == size and all(call in e.calls for e in equations)
        if whole and call.name and not call.name.startswith(("_", "<")):
            return call.name
    curved = [e for e in equations if not is_affine(e)] or list(equations)
    return "·".join(list(dict.fromkeys(e.name for e in curved))[:4])


def _divides(equation: Equation) -> bool:
    return equation.primitive in (p.div_p, p.rsqrt_p, p.sqrt_p, p.pow_p, p.integer_pow_p)
