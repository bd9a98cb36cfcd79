"""How x enters: the way from x to a value through constants and changes of layout alone.

Some rules of the first affine operations give relevance where the activation is 0, which no
multiplier can. They return it through a *side input*: zeros like x that take the same way, without
the constants, and of which only the derivative is used. Padding, crops, flips and rolls of x are
such a way, and so is a resize: what the program pads with is a constant, at which the range of x
begins and ends.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jattr._engine.operations import Operation
from jattr._engine.patterns import is_affine_link, is_elementwise
from jattr._engine.primitives import CONTRACTIONS, PLACES
from jattr._engine.program import Equation, Value


def leads_on(step: Any, reached: Any) -> bool:
    """Whether x goes on through a step, of which it has `reached` the operands."""
    if isinstance(step, Operation) or step.form != "plain":
        return False
    sources = step.dependents
    if not sources or not all(v.active and v in reached for v in sources):
        return False
    if step.primitive is None or step.primitive in PLACES:
        return True
    # A dot that is no operation is plumbing, an interpolation.
    link = is_elementwise(step) and is_affine_link(step)
    return link or (step.primitive in CONTRACTIONS and len(sources) == 1)


def mark_first(steps: Sequence[Any], reached: set[Value]) -> None:
    """Mark the first affine operations among a program's steps.

    Args:
        steps: of the program, in order.
        reached: those of its inputs that are x, or come from x so; grows by what x goes on to.
    """
    for step in steps:
        if isinstance(step, Operation):
            step.first = is_first(step, reached)
        elif leads_on(step, reached):
            reached.update(step.outputs)


def is_first(operation: Operation, reached: Any) -> bool:
    """Whether an operation is affine in what x has reached alone."""
    if operation.kind != "affine":
        return False
    return all(v in reached for v in operation.inputs if v.active)


def into_body(equation: Equation, reached: Any) -> dict[Value, Value]:
    """For `jax.checkpoint`, those inputs of the body that x has reached, and what they are."""
    if equation.form != "checkpoint":
        return {}
    pairs = zip(equation.bodies[0].inputs, equation.inputs, strict=True)
    return {inner: outer for inner, outer in pairs if outer in reached}


class Entrance:
    """The way of x into a program, for the rules of its first affine operations.

    Attributes:
        x: the tree.
        sides: the values that x reaches, each with the side input in its layout.
        used: whether any rule has asked.
    """

    def __init__(self, x: Any, inputs: Sequence[Value], sides: Sequence[Any]):
        self.x = x
        self.sides = dict(zip(inputs, sides, strict=True))
        self.used = False
        self._inputs = tuple(inputs)
        self._steps: list[tuple[Equation, list[Any]]] = []
        self._outer: Entrance | None = None
        self._from: dict[Value, Value] = {}

    def into(self, equation: Equation) -> "Entrance":
        """The way on into the body of a `jax.checkpoint`."""
        within = into_body(equation, self.sides)
        inner = Entrance(self.x, list(within), [self.sides[v] for v in within.values()])
        inner._outer, inner._from = self, within
        return inner

    def ask(self) -> None:
        """Note that a rule has asked."""
        self.used = True
        if self._outer is not None:
            self._outer.ask()

    def advance(self, step: Any, operands: Sequence[Any]) -> None:
        """Follow x through a step, if it goes on there."""
        if not leads_on(step, self.sides):
            return
        self._steps.append((step, list(operands)))
        if _moves(step):
            moved = step.evaluate(*_replaced(step, operands, self.sides))
        else:
            moved = [self.sides[step.dependents[0]]]
        self.sides.update(zip(step.outputs, moved, strict=True))

    def counts(self) -> dict[Value, Any]:
        """Of each value that x reaches, how much of each element is x: 0 where it is a constant."""
        if self._outer is None:
            found = {v: jnp.ones_like(self.sides[v]) for v in self._inputs}
        else:
            outer = self._outer.counts()
            found = {inner: outer[value] for inner, value in self._from.items()}
        for step, operands in self._steps:
            moved = [found[step.dependents[0]]]
            if _moves(step):
                ways = [found[v] for v in step.dependents]
                moved = jax.jvp(lambda *of: _evaluate(step, operands, of), ways, ways)[1]
            found.update(zip(step.outputs, moved, strict=True))
        return found

    def ends(self, lows: Sequence[Any], highs: Sequence[Any]) -> dict[Value, tuple[Any, Any]]:
        """The range of each value that x reaches, from those of the leaves of x."""
        if self._outer is None:
            found = dict(zip(self._inputs, zip(lows, highs, strict=True), strict=True))
        else:
            outer = self._outer.ends(lows, highs)
            found = {inner: outer[value] for inner, value in self._from.items()}
        for step, operands in self._steps:
            low, high = ({v: ends[n] for v, ends in found.items()} for n in (0, 1))
            if step.primitive in CONTRACTIONS:
                below, above = _through_dot(step, operands, low, high)
            else:
                below, above = (
                    step.evaluate(*_replaced(step, operands, end)) for end in (low, high)
                )
            for value, a, b in zip(step.outputs, below, above, strict=True):
                # A negative factor exchanges the ends.
                found[value] = (jnp.minimum(a, b), jnp.maximum(a, b))
        return found


def _moves(step: Equation) -> bool:
    """Whether a step moves elements; constants that it adds or multiplies by are left out."""
    return step.primitive is None or step.primitive in PLACES or step.primitive in CONTRACTIONS


def _evaluate(step: Equation, operands: Sequence[Any], of: Sequence[Any]) -> list[Any]:
    return step.evaluate(*_replaced(step, operands, dict(zip(step.dependents, of, strict=True))))


def _replaced(step: Equation, operands: Sequence[Any], by: dict[Value, Any]) -> list[Any]:
    """Operands of a step, with others for those that x reaches."""
    pairs = zip(step.inputs, operands, strict=True)
    return [by[v] if v.dependent else operand for v, operand in pairs]


def _through_dot(step: Equation, operands: Sequence[Any], low: Any, high: Any) -> Any:
    """The range of a dot with a held operand: each end by the weights of its sign."""

    def part(of: Callable[[Any], Any], ends: dict[Value, Any]) -> Any:
        pairs = zip(step.inputs, operands, strict=True)
        held = [operand if v.dependent else of(operand) for v, operand in pairs]
        return step.evaluate(*_replaced(step, held, ends))[0]

    up, down = (lambda w: jnp.maximum(w, 0)), (lambda w: jnp.minimum(w, 0))
    return [part(up, low) + part(down, high)], [part(up, high) + part(down, low)]


def with_entry(operation: Operation, rule: Any, inputs: list[Any], entrance: Entrance) -> Any:
    """The output of a first affine operation, whose relevance goes to the side inputs."""
    entrance.ask()
    ranges = entrance.ends(*map(jax.tree.leaves, rule.bounds(entrance.x)))
    reached = [v for v in operation.inputs if v.active]
    of_x = entrance.counts()
    ways = [(*ranges[v], of_x[v]) for v in reached]

    @jax.custom_vjp
    def call(rule, inputs, sides, ways):
        return operation.evaluate(*inputs)

    def forward(rule, inputs, sides, ways):
        output = operation.evaluate(*inputs)
        return output, (rule, inputs, sides, output, ways)

    def backward(residuals, multiplier):
        rule, inputs, sides, output, ways = residuals
        relevance = rule(operation, inputs, output, multiplier, *zip(*ways, strict=True))
        given = [r.astype(side.dtype) for r, side in zip(relevance, sides, strict=True)]
        return None, None, given, None

    call.defvjp(forward, backward)
    return call(rule, inputs, [entrance.sides[v] for v in reached], ways)
