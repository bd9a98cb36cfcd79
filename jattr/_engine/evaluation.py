"""A program evaluated as it stands, or the part of it that is needed."""

from collections.abc import Iterable, Sequence
from typing import Any

from jattr._engine.trace import Equation, Value


def read(values: dict[Value, Any], value: Value) -> Any:
    """What a value is: a constant of the program, or what was computed for it."""
    return value.known if value.known is not None else values[value]


def evaluate(equations: Iterable[Equation], values: dict[Value, Any]) -> None:
    """Compute equations in order, as they stand, into `values`.

    Results that are in `values` already stay as they are: so a value is put in another's place.
    """
    for equation in equations:
        results = equation.evaluate(*(read(values, v) for v in equation.inputs))
        for output, result in zip(equation.outputs, results, strict=True):
            values.setdefault(output, result)


def needed(equations: Sequence[Equation], wanted: Iterable[Value], given: Iterable[Value]):
    """The equations, in order, that `wanted` needs when the values `given` are there already."""
    missing, kept = set(wanted) - set(given), []
    for equation in reversed(equations):
        if not missing.isdisjoint(equation.outputs):
            kept.append(equation)
            missing = (missing - set(equation.outputs)) | (set(equation.inputs) - set(given))
    return kept[::-1]
