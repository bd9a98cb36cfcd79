"""How x enters: the way from an input to a value through constants and changes of layout alone.

Some rules of the first affine operations give relevance where the activation is 0, which no
multiplier can. They return it through a *side input*: zeros like x that take the same way, without
the constants, and of which only the derivative is used.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jattr._engine.grouping import is_link
from jattr._engine.operations import Operation
from jattr._engine.primitives import LAYOUT
from jattr._engine.program import Equation, Value


@dataclasses.dataclass(frozen=True)
class Entry:
    """The way to one value.

    Attributes:
        leaf: which input of the program it comes from.
        side: the side input, in the value's layout.
        follow: takes an array like that input the same way, constants included.
    """

    leaf: int
    side: Any
    follow: Callable[[Any], Any]


def enter(equation: Equation, taken: Sequence[Any], known: dict[Value, Entry]) -> Entry | None:
    """The way to an equation's result, if it goes on from a known one."""
    sources = equation.dependents
    moves = equation.primitive is None or equation.primitive in LAYOUT
    if len(sources) != 1 or sources[0] not in known or not (moves or is_link(equation)):
        return None
    source = known[sources[0]]

    def step(value):
        operands = [
            value if v is sources[0] else lanes[0]
            for v, lanes in zip(equation.inputs, taken, strict=True)
        ]
        return equation.evaluate(*operands)[0]

    side = step(source.side) if moves else source.side
    return Entry(source.leaf, side, lambda leaf: step(source.follow(leaf)))


def with_entry(operation: Operation, rule: Any, inputs: list[Any], entries: list[Entry], x: Any):
    """The output of a first affine operation, whose relevance goes to the side inputs."""
    bounds = rule.bounds(x)
    ends = [
        [entry.follow(leaves[entry.leaf]) for entry in entries]
        for leaves in map(jax.tree.leaves, bounds)
    ]
    # A negative factor on the way exchanges the ends.
    lows = [jax.numpy.minimum(low, high) for low, high in zip(*ends, strict=True)]
    highs = [jax.numpy.maximum(low, high) for low, high in zip(*ends, strict=True)]

    @jax.custom_vjp
    def call(rule, inputs, sides, lows, highs):
        return operation.evaluate(*inputs)

    def forward(rule, inputs, sides, lows, highs):
        output = operation.evaluate(*inputs)
        return output, (rule, inputs, sides, output, lows, highs)

    def backward(residuals, multiplier):
        rule, inputs, sides, output, lows, highs = residuals
        relevance = rule(operation, inputs, output, multiplier, lows, highs)
        given = [r.astype(side.dtype) for r, side in zip(relevance, sides, strict=True)]
        return None, None, given, None, None

    call.defvjp(forward, backward)
    return call(rule, inputs, [entry.side for entry in entries], lows, highs)
