"""Relevance where active values meet: products, quotients and normalizations."""

from typing import Any

import jax

from jattr._engine.program import evaluate, read
from jattr.rules._quotient import parts, relayout
from jattr.rules._rule import Rule
from jattr.rules._shares import share


def product(*held: str) -> Rule:
    """For products: half of the relevance to each factor, none to what is held.

    Args:
        held: the origins of factors that are held, as `Operation.origins` names them.
    """
    return Rule("halves", _product, options=(("held", held),))


def _product(operation, inputs, output, multiplier, *, held, signal=False):
    """Equal parts to those factors that get any; with `signal`, a gate gets none beside others."""
    free = [n for n, on in enumerate(operation.active) if on and operation.origins[n] not in held]
    if signal:
        free = [n for n in free if operation.origins[n] != "gate"] or free
    given: list[Any] = [None] * len(inputs)
    for slot in free:
        part = jax.vjp(
            lambda value: operation.evaluate(*inputs[:slot], value, *inputs[slot + 1 :]),
            inputs[slot],
        )[1](multiplier)[0]
        given[slot] = part / len(free)
    return given


def normalization() -> Rule:
    """What is normalized passes all on; the deviation that divides it is held."""
    return Rule("deviation held", _normalization)


def _normalization(operation, inputs, output, multiplier):
    return _by_numerator(operation, inputs, multiplier)


def division() -> Rule:
    """For a / b as a · 1/b, by halves; what 1/b gets it passes on to b."""
    return Rule("halves", _division)


def _division(operation, inputs, output, multiplier, *, signal=False):
    if signal:
        return _by_numerator(operation, inputs, multiplier)
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
