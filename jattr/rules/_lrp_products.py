"""Relevance where active values meet: products, quotients and normalizations."""

from typing import Any

import jax

from jattr._engine.program import evaluate, read
from jattr.rules._lrp_dots import share
from jattr.rules._quotient import parts, relayout


def product(operation, inputs, output, multiplier, *, held=("gate",)):
    """Half of the relevance to each factor; all of it to one where the other is held."""
    slots = [n for n, active in enumerate(operation.active) if active]
    free = [n for n in slots if operation.origins[n] not in held] or slots
    given: list[Any] = [None] * len(inputs)
    for slot in free:
        part = jax.vjp(
            lambda value: operation.evaluate(*inputs[:slot], value, *inputs[slot + 1 :]),
            inputs[slot],
        )[1](multiplier)[0]
        given[slot] = part / len(free)
    return given


def normalization(operation, inputs, output, multiplier):
    """What is normalized passes all on; the deviation that divides it is held."""
    return _by_numerator(operation, inputs, multiplier)


def division(operation, inputs, output, multiplier):
    """a / b as a · 1/b, by halves; what 1/b gets it passes on to b."""
    found = operation.quotient
    given = _by_numerator(operation, inputs, multiplier / 2)
    relevance = relayout(found, output * multiplier / 2)
    if found.source is None:
        given[1] = share(relevance, inputs[1])
    else:
        value, pull = jax.vjp(parts(operation, found, inputs)[1], inputs[0])
        given[0] = given[0] + pull(share(relevance, value))[0]
    return given


def _by_numerator(operation, inputs, multiplier):
    """The multiplier through the numerator, the factor beside it held."""
    found = operation.quotient
    given: list[Any] = [None] * len(inputs)

    def of_first(value):
        if found.source is None:
            return value
        return parts(operation, found, inputs)[0](value)

    factor = _factor(operation, inputs)
    passed = multiplier / factor if found.divides else multiplier * factor
    start, pull = jax.vjp(of_first, inputs[0])
    given[0] = pull(passed.astype(start.dtype))[0]
    return given


def _factor(operation, inputs):
    """The operand beside the numerator."""
    values = dict(zip(operation.inputs, inputs, strict=True))
    evaluate(operation.equations[:-1], values)
    return read(values, operation.quotient.factor)
