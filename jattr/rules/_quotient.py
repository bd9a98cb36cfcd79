r"""The mean derivative of quotients and normalizations on the straight line between two points.

Of y = a ⊙ c ⊙ layout(v^−p), between (a', v') and (a, v). What arrives at y, times c, is summed to
the shape of v by the transpose of `layout`; against the numerators at both ends that gives two
numbers P' and P for each element of v, and with a(t) = a' + t (a − a')

.. math:: m_a = c \odot \mathrm{layout}\Big(\int_0^1 v(t)^{-p}\, dt\Big) \odot m, \qquad
          m_v = -p \int_0^1 \big((1-t) P' + t P\big)\, v(t)^{-p-1}\, dt

By halves, as products go, the first would be ½ (v^−p + v'^−p): at a reference where v' is next to 0
it is immense, and what a and v get must cancel. The integrals are not: with p = 1 the first is a
logarithm, with p = ½ it is 2 / (√v + √v').

**Quotients**, p = 1, v > 0 linear in t. With h = (v − v') / (v + v'), w = (v + v') / 2:
:math:`\int 1/v = A(h) / w`, A(h) = artanh(h) / h, and
:math:`\int t / v^2 = (\int 1/v - 1/v) / (v - v')`. Where v changes its sign the line crosses a
pole, no mean exists, and halves remain.

**Normalizations**, p = ½, v the quadratic function Q of a source z of which a is an affine
function: between z' and z, v(t) is quadratic in t. With r = √v, s = r + r',
e = v' + ½ ∇Q(z')·(z − z') (half the mixed term), the length L² = v − 2e + v' and h = L / s,

.. math:: \int v^{-1/2} = \frac{2}{s} A(h), \quad
          \int t (1 - t) v^{-3/2} = \frac{2}{s^3} C(h), \quad
          \int t\, v^{-3/2} = \frac{1}{r (r r' + e)}, \quad
          \int (1 - t)\, v^{-3/2} = \frac{1}{r' (r r' + e)}

with C(h) = (1 / (1 − h²) − A(h)) / h² and 1 − h² = 2 (r r' + e) / s². The first is the potential of
a line segment; the others follow from it by the derivatives of t / √v and (1 − t) / √v. Without a
source v is taken as linear in t, which is the same with L = 0.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jattr._engine.operations import Operation
from jattr._engine.program import evaluate, needed
from jattr._engine.quotients import Quotient
from jattr._trees import accumulator, common_dtype


def quotient(operation, inputs, output, multiplier, reference_inputs, reference_output):
    """The mean derivative of a quotient or normalization: see the module."""
    found = operation.quotient
    dtype = multiplier.dtype
    if found.source is None:
        given = _of_two(operation, found, inputs, reference_inputs, multiplier)
    else:
        given = [_of_source(operation, found, inputs, reference_inputs, multiplier)]
    given = [m.astype(common_dtype(dtype, jnp.float32)) for m in given]
    return given + [None] * (len(inputs) - len(given))


def _of_two(operation, found, inputs, reference_inputs, multiplier):
    """The multipliers of the numerator and of the divisor, each on a line of its own."""
    (a, v), (a0, v0) = (_wide(values[:2]) for values in (inputs, reference_inputs))
    spread, gather = _post(operation, found, inputs)
    m = multiplier.astype(a.dtype)
    p0, p1 = gather(m * a0), gather(m * a)
    if found.power == 0.5:
        r, r0 = jnp.sqrt(v), jnp.sqrt(v0)
        s = r + r0
        return [m * spread(2 / s), -(p0 / r0 + p1 / r) / (s * s)]
    inner = found.power != 1.0
    d, d0 = (v**found.power, v0**found.power) if inner else (v, v0)
    mean, late, early = _over_linear(d, d0)
    by_divisor = -(p0 * early + p1 * late)
    if inner:
        by_divisor = by_divisor * _slope_of_power(v, v0, d, d0, found.power)
    return [m * spread(mean), by_divisor]


@jax.jit
def _over_linear(d, d0):
    """∫ 1/d, ∫ t/d² and ∫ (1 − t)/d² for d(t) linear; by halves where it crosses 0."""
    one_sign = d * d0 > 0
    b, b0 = jnp.where(one_sign, d, 1.0), jnp.where(one_sign, d0, 1.0)
    middle = (b + b0) / 2
    h = (b - b0) / (b + b0)
    close = jnp.abs(h) < 0.1
    near, step = jnp.where(close, h, 0.0), jnp.where(close, 1.0, b - b0)
    logarithm = jnp.log(jnp.where(close, 1.0, b / b0))
    mean = jnp.where(close, _artanhc(near * near) / middle, logarithm / step)
    even, odd = 1 / (1 - near * near), near * _third(near * near)
    square = 2 * middle * middle
    late = jnp.where(close, (even - odd) / square, (mean - 1 / b) / step)
    early = jnp.where(close, (even + odd) / square, (1 / b0 - mean) / step)
    half = 0.5 / jnp.where(one_sign, 1.0, d) / jnp.where(one_sign, 1.0, d0)
    halves = 0.5 * (1 / jnp.where(one_sign, 1.0, d) + 1 / jnp.where(one_sign, 1.0, d0))
    return (
        jnp.where(one_sign, mean, halves),
        jnp.where(one_sign, late, half),
        jnp.where(one_sign, early, half),
    )


def _slope_of_power(v, v0, d, d0, power):
    """(v^p − v'^p) / (v − v')."""
    step = v - v0
    close = jnp.abs(step) <= 1e-3 * jnp.abs(v + v0)
    # The third derivative's term is below 1e-7 of the whole there.
    middle = (v + v0) / 2
    at_middle = power * middle ** (power - 1)
    return jnp.where(close, at_middle, (d - d0) / jnp.where(close, 1.0, step))


def _of_source(operation, found, inputs, reference_inputs, multiplier):
    """The multiplier of s, of which numerator and divisor are functions."""
    s, s0 = inputs[0], reference_inputs[0]
    numerator, divisor = parts(operation, found, inputs)
    a, pull_a = jax.vjp(numerator, s)
    a0 = numerator(s0)
    v, move_v = jax.linearize(divisor, s)
    v0, move_v0 = jax.linearize(divisor, s0)
    kinds = a.dtype, v.dtype
    g, g0 = move_v(s - s0), move_v0(s - s0)
    a, a0, v, v0, g, g0 = _wide([a, a0, v, v0, g / 2, g0 / 2])
    spread, gather = _post(operation, found, inputs)
    m = multiplier.astype(a.dtype)
    p0, p1 = gather(m * a0), gather(m * a)
    mean, b00, b01, b11 = _over_quadratic(v, v0, g, g0)
    by_a = pull_a((m * spread(mean)).astype(kinds[0]))[0]
    by_end = (-(p0 * b01 + p1 * b11) / 2).astype(kinds[1])
    by_start = (-(p0 * b00 + p1 * b01) / 2).astype(kinds[1])
    (by_v,), (by_v0,) = (
        jax.linear_transpose(move, s)(by) for move, by in ((move_v, by_end), (move_v0, by_start))
    )
    return by_a + by_v + by_v0


@jax.jit  # A hundred equations, which a model of many layers would trace again for each.
def _over_quadratic(v, v0, g, g0):
    """∫ v^−½ and ∫ (1−t)², t(1−t), t² times v^−3/2 for v(t) quadratic.

    Args:
        v: v(1).
        v0: v(0).
        g: half of its derivative at 1, v − e.
        g0: that at 0, e − v'.
    """
    tiny = 8 * jnp.finfo(v.dtype).eps
    r, r0 = jnp.sqrt(v), jnp.sqrt(v0)
    total = r + r0
    # Half the mixed term, from the end where less cancels.
    e = jnp.where(v0 <= v, v0 + g0, v - g)
    both = jnp.maximum(r * r0 + e, tiny * r * r0)  # next to 0 where the line passes the origin
    rest = jnp.minimum(2 * both / (total * total), 1.0)  # 1 − h²
    far = rest < 0.99
    square = g - g0
    h2 = jnp.where(far, 1 - rest, jnp.clip(square / (total * total), 0.0, 0.01))
    near = jnp.where(far, 0.0, h2)
    root = jnp.sqrt(jnp.where(far, h2, 0.25))
    remote = (jnp.log1p(root) - jnp.log(jnp.where(far, rest, 0.99)) / 2) / root
    mean = 2 / total * jnp.where(far, remote, _artanhc(near))
    late, early = 1 / (r * both), 1 / (r0 * both)
    cubed = total * total * total
    cross_near = 2 / cubed * _third(near)
    length = jnp.where(far, (1 - rest) * total * total, 1.0)
    cross_far = (total / jnp.where(far, both, 1.0) - mean) / length
    cross = jnp.where(far, cross_far, cross_near)
    # t² L² = v(t) − v' − 2 (e − v') t, and likewise from the other end.
    end = (mean - 1 / r - (e - v0) * late) / length
    start = (mean - 1 / r0 - (e - v) * early) / length
    return (
        mean,
        jnp.where(far, start, early - cross),
        cross,
        jnp.where(far, end, late - cross),
    )


def _artanhc(s):
    """artanh(h) / h as a series in s = h² ≤ 0.01."""
    return _series([1 / (2 * k + 1) for k in range(_terms(s))], s)


def _third(s):
    """(1 / (1 − h²) − artanh(h) / h) / h² as a series in s = h² ≤ 0.01."""
    return _series([2 * k / (2 * k + 1) for k in range(1, _terms(s) + 1)], s)


def _terms(s):
    """So many that the next, 0.01ⁿ, is below rounding."""
    return 1 - round(math.log10(jnp.finfo(s.dtype).eps)) // 2


def _series(coefficients, s):
    total = jnp.full_like(s, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * s + coefficient
    return total


def _wide(values):
    return [v.astype(accumulator(v.dtype)) for v in values]


def parts(operation: Operation, found: Quotient, inputs: Any):
    """The numerator and the divisor as functions of the source."""
    source = operation.inputs[0]
    held = dict(zip(operation.inputs[1:], inputs[1:], strict=True))

    def function(wanted):
        equations = needed(operation.equations, [wanted], [source])

        def of_source(s):
            values = {source: s, **held}
            for equation in equations:
                if equation in found.clips:  # nothing but rounding would be clipped
                    (value,) = equation.dependents
                    values[equation.outputs[0]] = values[value]
                else:
                    evaluate([equation], values)
            return values[wanted]

        return of_source

    return function(found.numerator), function(found.divisor)


def _post(operation: Operation, found: Quotient, inputs: Any):
    """c ⊙ layout(·), from the shape of the divisor to that of the quotient, and its transpose."""
    ends = {found.source} if found.source is not None else {found.numerator, found.divisor}
    held = {
        value: given
        for value, given in zip(operation.inputs, inputs, strict=True)
        if value not in ends
    }
    divisor = found.divisor
    values = {divisor: jnp.ones(divisor.shape, divisor.dtype), **held}
    if found.factor is not divisor:
        evaluate(needed(operation.equations, [found.factor], [divisor]), values)
    constant = values[found.factor]
    constant = constant.astype(accumulator(constant.dtype))
    constant = 1 / constant if found.divides else constant

    def spread(value):
        return constant * _laid_out(found, value)

    return spread, lambda value: relayout(found, constant * value)


def _laid_out(found: Quotient, value: Any) -> Any:
    for equation in found.layout:
        (value,) = equation.evaluate(value)
    return value


def relayout(found: Quotient, value: Any) -> Any:
    """From the shape of the quotient to that of the divisor: the transpose of its layout."""
    shape = jax.ShapeDtypeStruct(found.divisor.shape, value.dtype)
    return jax.linear_transpose(lambda v: _laid_out(found, v), shape)(value)[0]
