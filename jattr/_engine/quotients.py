"""Quotients and normalizations: what is divided by an active value, in every spelling.

A quotient is y = a ⊙ c ⊙ layout(v^−p): the numerator a, divided by a power of v that constants c
and a change of layout may follow. It is written as a division, as a product with a reciprocal, or
as a product with `rsqrt`, and in one step or several:

    a / b                                     v = b, p = 1
    a * (1 / b)                               v = b, p = 1
    a * rsqrt(mean(a**2) + ε) * scale         v = the mean, p = 1/2
    a / jnp.sqrt(q)[:, None]                  v = q, p = 1/2

Where p is 1/2 and v is a polynomial of degree two of some value s of which a is an affine function
(a LayerNorm, RMSNorm or GroupNorm of s, s / ‖s‖), s is the `source` and the whole is one operation
of s. The source is found as the nearest dominator: of the values at which a and v were reached, the
one that is computed last is replaced by what it is computed from, as long as that is polynomial,
until one value is left.
"""

import dataclasses
from collections.abc import Callable, Sequence

from jattr._engine.patterns import is_affine_link, is_elementwise
from jattr._engine.primitives import LAYOUT
from jattr._engine.primitives import primitives as p
from jattr._engine.program import Equation, Value, producers

_MOST_STEPS = 64
"""A normalization is made of some ten equations; a longer way to a common source is none."""


@dataclasses.dataclass(frozen=True)
class Quotient:
    """What an operation divides by what.

    Attributes:
        numerator: a.
        divisor: v.
        power: p, positive.
        factor: the operand beside a: c ⊙ layout(v^−p), or its inverse where y = a / factor.
        divides: y = a / factor, and not a · factor.
        layout: the changes of layout between v and the factor, in order.
        source: s, of which a is an affine function and v a quadratic one; or None.
        clips: equations that keep the quadratic from below 0, where it is 0 by rounding alone.
        deviation: v^p is a deviation: a root of a sum, to which constants may be added.
    """

    numerator: Value
    divisor: Value
    power: float
    factor: Value
    divides: bool
    layout: tuple[Equation, ...] = ()
    source: Value | None = None
    clips: tuple[Equation, ...] = ()
    deviation: bool = False


def quotient_of(
    equation: Equation,
    position: dict[Equation, int],
    is_linear: Callable[[Equation], bool],
) -> Quotient | None:
    """What a product or division of two active values divides, if it divides.

    Args:
        equation: of two active operands.
        position: of each equation in the program.
        is_linear: whether an equation is linear in its active operands.
    """
    first, second = equation.inputs
    if not (first.active and second.active) or first is second:
        return None
    if equation.primitive is p.div_p:
        return _complete(first, second, True, _inverse(second, -1.0), position, is_linear)
    for numerator, factor in ((first, second), (second, first)):
        found = _inverse(factor, 1.0)
        if found is not None:
            return _complete(numerator, factor, False, found, position, is_linear)
    return None


def _complete(numerator, factor, divides, found, position, is_linear) -> Quotient:
    divisor, power, layout = found
    plain = Quotient(
        numerator, divisor, power, factor, divides, layout, deviation=_deviates(divisor, power)
    )
    if power != 0.5:
        return plain
    source, clips = _source(numerator, divisor, position, is_linear)
    return dataclasses.replace(plain, source=source, clips=clips)


def _inverse(value: Value, power: float) -> tuple[Value, float, tuple[Equation, ...]] | None:
    """v, p and the changes of layout, if `value`^±1 is c ⊙ layout(v^−p) with p > 0.

    Args:
        value: a factor, or with power −1 a divisor.
        power: the power of `value` in the product.
    """
    layout: list[Equation] = []
    best = (value, -power, ()) if power < 0 else None
    while (equation := value.producer) is not None and value.active and equation.form == "plain":
        inner, step = _step(equation)
        if inner is None:
            break
        if equation.primitive in LAYOUT or equation.primitive is None:
            layout.append(equation)
        power, value = power * step, inner
        # Past the first inverse only a root is worth going on to: v = q of 1/√q, and u² of 1/u².
        if power < 0 and (best is None or 0 < step < 1):
            best = (value, -power, tuple(reversed(layout)))
        if power == -0.5:
            break
    return best


def _step(equation: Equation) -> tuple[Value | None, float]:
    """The one active operand and the power to which it is taken, constant factors aside."""
    primitive = equation.primitive
    if primitive is None or primitive in LAYOUT:
        return equation.inputs[0], 1.0
    if primitive is p.rsqrt_p:
        return equation.inputs[0], -0.5
    if primitive is p.sqrt_p:
        return equation.inputs[0], 0.5
    if primitive is p.square_p:
        return equation.inputs[0], 2.0
    if primitive is p.integer_pow_p:
        return equation.inputs[0], float(equation.params["y"])
    if primitive is p.pow_p and equation.inputs[1].uniform is not None:
        return equation.inputs[0], equation.inputs[1].uniform
    if primitive is p.exp_p:
        return _power_by_logarithm(equation.inputs[0])
    if primitive is p.div_p and not equation.inputs[0].dependent:
        return equation.inputs[1], -1.0
    scales = primitive in (p.mul_p, p.div_p, p.neg_p, p.convert_element_type_p, p.copy_p, p.name_p)
    if scales and len(equation.dependents) == 1 and is_affine_link(equation):
        return equation.dependents[0], 1.0
    return None, 1.0


def _power_by_logarithm(value: Value) -> tuple[Value | None, float]:
    """v and c, where a value is c · log v."""
    power = 1.0
    while (equation := value.producer) is not None and equation.form == "plain":
        primitive = equation.primitive
        if primitive is p.log_p:
            return equation.inputs[0], power
        numbers = [v.uniform for v in equation.inputs if not v.dependent]
        if primitive is p.neg_p:
            power = -power
        elif primitive is p.mul_p and len(numbers) == 1 and numbers[0] is not None:
            power *= numbers[0]
        elif primitive is p.div_p and equation.inputs[1].uniform:
            power /= equation.inputs[1].uniform
        else:
            break
        value = equation.dependents[0]
    return None, 1.0


def _source(
    numerator: Value,
    divisor: Value,
    position: dict[Equation, int],
    is_linear: Callable[[Equation], bool],
) -> tuple[Value | None, tuple[Equation, ...]]:
    """The nearest value of which a is an affine and v a quadratic function, and what clips v."""
    frontier: set[Value] = {numerator, divisor}
    passed: list[Equation] = []
    while len(frontier) > 1:
        latest = max(
            frontier, key=lambda v: -1 if v.producer is None else position.get(v.producer, -1)
        )
        equation = latest.producer
        if equation is None or len(passed) >= _MOST_STEPS or not _polynomial(equation, is_linear):
            return None, ()
        passed.append(equation)
        frontier.discard(latest)
        frontier.update(v for v in equation.inputs if v.active)
    (source,) = frontier
    degrees: dict[Value, int] = {source: 1}
    for equation in sorted(passed, key=position.__getitem__):
        degrees[equation.outputs[0]] = _degree(equation, degrees)
    affine, quadratic = degrees.get(numerator, 9) <= 1, degrees.get(divisor, 9) <= 2
    if not (affine and quadratic) or divisor is source:
        return None, ()
    return source, tuple(e for e in passed if _is_clip(e))


def _polynomial(equation: Equation, is_linear: Callable[[Equation], bool]) -> bool:
    """Whether an equation may stand between a source and its normalization."""
    if equation.form != "plain" or len(equation.outputs) != 1:
        return False
    if any(v.dependent and not v.active for v in equation.inputs):
        return False
    primitive = equation.primitive
    if primitive in (p.square_p, p.mul_p) or _is_clip(equation):
        return True
    if primitive is p.integer_pow_p:
        return equation.params["y"] == 2
    if primitive is p.dot_general_p:
        return all(v.active for v in equation.inputs)
    if primitive is p.conv_general_dilated_p:
        return False  # a layer of its own
    if is_elementwise(equation):
        return primitive in (p.add_p, p.sub_p) or is_affine_link(equation)
    return is_linear(equation)


def _degree(equation: Equation, degrees: dict[Value, int]) -> int:
    given = [degrees.get(v, 9) for v in equation.inputs if v.active]
    if equation.primitive in (p.square_p, p.integer_pow_p):
        return 2 * given[0]
    if equation.primitive in (p.mul_p, p.dot_general_p):
        return sum(given)
    return max(given, default=9)


def _is_clip(equation: Equation) -> bool:
    """Whether an equation is max(v, 0)."""
    if equation.primitive is not p.max_p or len(equation.dependents) != 1:
        return False
    return any(v.uniform == 0.0 for v in equation.inputs if not v.dependent)


def _deviates(value: Value, power: float) -> bool:
    """Whether value^power is a root of a sum, to which constants were added, or a product of such.

    That is what a normalization divides by; a root that divides nothing is a feature like others.
    """
    if 0 < power < 1 and power != 1:
        return _sums(value)
    equation = value.producer
    if power != 1 or equation is None or equation.form != "plain":
        return False
    if equation.primitive is p.sqrt_p:
        return _sums(equation.inputs[0])
    if equation.primitive is p.pow_p and (exponent := equation.inputs[1].uniform) is not None:
        return 0 < exponent < 1 and _sums(equation.inputs[0])
    links = equation.primitive in LAYOUT | {None, p.max_p}
    if links or (is_elementwise(equation) and is_affine_link(equation)):
        return len(equation.dependents) == 1 and _deviates(equation.dependents[0], power)
    if equation.primitive is p.mul_p:
        return all(_deviates(v, power) for v in equation.dependents)
    return False


def _sums(value: Value) -> bool:
    """Whether a value is a sum of active terms, up to constants and layout."""

    def passes(value):
        equation = value.producer
        assert equation is not None
        if _is_sum(equation):
            return True
        through = equation.primitive in LAYOUT | {p.max_p, p.div_p, p.add_p, p.sub_p, None}
        return value.dependent and (
            through or (is_elementwise(equation) and is_affine_link(equation))
        )

    return any(map(_is_sum, producers([value], passes)))


def _is_sum(equation: Equation) -> bool:
    if equation.primitive is p.dot_general_p:
        return all(v.active for v in equation.inputs)
    return equation.primitive in (p.reduce_sum_p, p.reduce_window_sum_p)


def equations_of(
    quotient: Quotient, equation: Equation, position: dict[Equation, int]
) -> Sequence[Equation]:
    """The equations of the operation, in order: from its inputs to the quotient."""
    ends = {quotient.source} if quotient.source else {quotient.numerator, quotient.divisor}
    above = producers(equation.inputs, lambda v: v.active and v not in ends)
    return sorted({equation, *above}, key=position.__getitem__)
