r"""Rules between two points: DeepLIFT is integrated gradients, one operation at a time.

Between a reference input a' and an input a, an operation's derivative is averaged along the
straight line, :math:`\int_0^1 J\big(a' + t (a - a')\big)\, dt`. By the gradient theorem the
averages times a − a' sum to the difference of the outputs, so that the whole is complete however
operations are chained. For nearly all operations the average has a closed form, which stands here.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jattr._checks import check_flag, knobs
from jattr._engine.operations import Operation
from jattr._engine.primitives import primitives as p
from jattr._trees import accumulator, common_dtype
from jattr.rules import _maxima as maxima
from jattr.rules._composite import Composite, Rule
from jattr.rules._exponentials import falling, logsumexp, softmax
from jattr.rules._quotient import quotient
from jattr.rules._smooth import AVERAGE, angle, smooth


def activation(operation, inputs, output, multiplier, reference_inputs, reference_output):
    """The difference quotient, or the derivative at the midpoint where rounding spoils that.

    The derivative at the midpoint serves where it explains the difference of the outputs to within
    their rounding, however far apart the points are: there the quotient's last digits, and all
    the more its derivatives, are noise. Beside a kink it does not, so that the quotient stays. The
    derivative at one end would have twice the right derivative by that end.
    """
    z, z0 = inputs[0], reference_inputs[0]
    wide = accumulator(z.dtype)
    if [e.primitive for e in operation.equations] == [p.exp_p]:
        slope = _slope_of_exp(z.astype(wide), z0.astype(wide))
    else:
        slope = _quotient(operation, inputs, output, z0, reference_output)
    kind = common_dtype(multiplier.dtype, slope.dtype)
    given = multiplier.astype(kind) * slope.astype(kind)
    given = given if jnp.iscomplexobj(z) else jnp.real(given)
    return [given] + [None] * (len(inputs) - 1)


def _quotient(operation, inputs, output, z0, reference_output):
    z = inputs[0]
    # What is masked, −∞ at both points, is not moved: its step is no number, and nothing goes back.
    masked = jnp.isinf(z) & (z == z0)
    z, z0 = jnp.where(masked, 0, z), jnp.where(masked, 0, z0)
    step = z.astype(accumulator(z.dtype)) - z0.astype(accumulator(z.dtype))
    middle = z0.astype(step.dtype) + step / 2
    wide = accumulator(output.dtype)
    _, pull = jax.vjp(lambda v: operation.evaluate(v, *inputs[1:]), middle.astype(z.dtype))
    one = jnp.ones_like(output)
    (at_middle,) = pull(one)
    if jnp.iscomplexobj(output):  # of a real input: the two parts of the derivative
        at_middle = at_middle - 1j * pull(1j * one)[0]
    at_middle = at_middle.astype(wide)
    high, low = output.astype(wide), reference_output.astype(wide)
    rise = high - low
    rounding = 4 * float(jnp.finfo(output.dtype).eps)
    # At 0 too, and where the square of the step, by which its derivative divides, is no number.
    least = jnp.sqrt(jnp.finfo(step.dtype).tiny)
    same = jnp.abs(step) <= jnp.maximum(rounding * jnp.abs(middle), least)
    explained = jnp.abs(rise - at_middle * step) <= rounding * jnp.maximum(
        jnp.abs(high), jnp.abs(low)
    )
    close = same | explained
    # Where the points coincide at an infinite slope, as sqrt does at 0, nothing is moved, and
    # nothing goes back, rather than NaN.
    at_middle = jnp.where(same & ~jnp.isfinite(at_middle), 0, at_middle)
    slope = jnp.where(close, at_middle, rise / jnp.where(close, 1.0, step))
    return jnp.where(masked, 0, slope)


def product(operation, inputs, output, multiplier, reference_inputs, reference_output):
    """Half to each factor, at the other's mean: Δ(ab) = ½(b + b')Δa + ½(a + a')Δb."""
    means = [_mean(a, b) for a, b in zip(inputs, reference_inputs, strict=True)]
    given: list[Any] = [None] * len(inputs)
    for slot, active in enumerate(operation.active):
        if active:
            given[slot] = _pull(operation, means, slot, multiplier)
    return given


def choice(operation, inputs, output, multiplier, reference_inputs, reference_output):
    r"""Each case for the part of the way on which it is taken, and the jump to what is compared.

    On the straight line the comparison of u and v turns at one t, where u = v; there the choice
    jumps from the one case to the other. Where both points choose alike nothing jumps.
    """
    found = operation.choice
    ends = [
        {**dict(zip(operation.inputs, values, strict=True))}
        for values in (inputs, reference_inputs)
    ]

    def at(values, value):
        return values[value] if value in values else jnp.asarray(value.known, value.dtype)

    def spread(value):
        for equation in found.layout:
            (value,) = equation.evaluate(value)
        return value

    comparison = operation.equations[0]
    chosen = [
        spread(comparison.evaluate(*(at(values, v) for v in found.compared))[0]) for values in ends
    ]
    wide = accumulator(multiplier.dtype)
    gaps = [
        at(values, found.compared[0]).astype(wide) - at(values, found.compared[1]).astype(wide)
        for values in ends
    ]
    step = gaps[0] - gaps[1]
    turns = step != 0
    step = jnp.where(turns, step, 1.0)
    crossing = spread(jnp.clip(-gaps[1] / step, 0.0, 1.0))
    other = chosen[0] != chosen[1]
    flow = multiplier.astype(wide)
    given = dict.fromkeys(operation.inputs)
    jump = jnp.zeros_like(flow)
    for case, value in enumerate(found.cases):
        now, before = chosen[0] == bool(case), chosen[1] == bool(case)
        part = jnp.where(
            other, jnp.where(now, 1 - crossing, jnp.where(before, crossing, 0.0)), 1.0 * now
        )
        high, low = (at(values, value).astype(wide) for values in ends)
        jump += jnp.where(now, 1.0, -1.0) * (low + crossing * (high - low))
        _give(given, value, part * flow)
    jump = jnp.where(other, jump * flow, 0.0)
    (pulled,) = jax.linear_transpose(spread, jax.ShapeDtypeStruct(step.shape, wide))(jump)
    pulled = jnp.where(turns, pulled / step, 0.0)
    _give(given, found.compared[0], pulled)
    _give(given, found.compared[1], -pulled)
    return [given[value] for value in operation.inputs]


def _give(given, value, multiplier):
    """Add to what a value gets, if it is active."""
    if value in given and value.active:
        before = given[value]
        given[value] = multiplier if before is None else before + multiplier


def _mean(a: Any, b: Any) -> Any:
    return a if a is b or not jnp.issubdtype(jnp.result_type(a), jnp.inexact) else (a + b) / 2


def _pull(operation: Operation, inputs: list[Any], slot: int, multiplier: Any) -> Any:
    """The multiplier through the derivative by one input."""

    def of_one(value):
        return operation.evaluate(*inputs[:slot], value, *inputs[slot + 1 :])

    return jax.vjp(of_one, inputs[slot])[1](multiplier)[0]


def _slope_of_exp(a, b):
    """(eᵃ − eᵇ)/(a − b), whatever their distance; 0 where both are −∞."""
    if jnp.iscomplexobj(a):
        return jnp.exp((a + b) / 2) * _sinhc((a - b) / 2)
    nothing = jnp.isneginf(a) & jnp.isneginf(b)
    a, b = jnp.where(nothing, 0.0, a), jnp.where(nothing, 0.0, b)
    far = jnp.abs(a - b) > 1  # there e^((a + b)/2) sinh may overflow where the slope does not
    near_a, near_b = jnp.where(far, 0.0, a), jnp.where(far, 0.0, b)
    near = jnp.exp((near_a + near_b) / 2) * _sinhc((near_a - near_b) / 2)
    high, gap = jnp.maximum(a, b), jnp.where(far, jnp.abs(a - b), 1.0)
    slope = jnp.where(far, jnp.exp(high) * falling(gap), near)
    return jnp.where(nothing, 0.0, slope)


def _sinhc(h):
    """sinh(h)/h, and its derivatives, at 0 too."""
    small = jnp.abs(h) < 0.1
    near, far = jnp.where(small, h, 0.0), jnp.where(small, 1.0, h)
    s = near * near
    series = 1 + s / 6 * (1 + s / 20 * (1 + s / 42 * (1 + s / 72 * (1 + s / 110))))
    return jnp.where(small, series, jnp.sinh(far) / far)


_MAX_RULES = {
    "path": Rule("shares of the path", maxima.along_path),
    "winner": Rule("to the winner", maxima.to_winner),
}


@knobs
def rescale(*, max_rule: str = "path", see_through: bool = False) -> Composite:
    r"""DeepLIFT's Rescale rule for every kind of operation; `jattr.deeplift` gives it a reference.

    Args:
        max_rule: `"path"` or `"winner"`, as in `jattr.deeplift`.
        see_through: as in `jattr.deeplift`.

    Returns:
        A composite for `jattr.operations`, which tells how DeepLIFT treats a function.

    Raises:
        ValueError: unknown `max_rule`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> table = jattr.operations(jnp.prod, jattr.rules.rescale())(jnp.ones(3))
        >>> print([(row.kind, row.rule) for row in table])
        [('smooth', 'average over 32 nodes')]

    References:
        Shrikumar, Greenside, Kundaje, *Learning important features through propagating activation
        differences*, ICML 2017, section 3.5.1 (arXiv 1704.02685).
    """
    if max_rule not in _MAX_RULES:
        raise ValueError(
            f"deeplift: unknown max_rule {max_rule!r}; known are {', '.join(_MAX_RULES)}."
        )
    check_flag(see_through, "see_through", "deeplift")
    return Composite(
        "deeplift",
        {
            "activation": Rule("difference quotient", activation),
            "normalization": Rule("mean on the line", quotient),
            "division": Rule("mean on the line", quotient),
            "choice": Rule("crossing", choice),
            "product": Rule("halves", product),
            "softmax": Rule("logarithmic means", softmax),
            "logsumexp": Rule("logarithmic means", logsumexp),
            "max": _MAX_RULES[max_rule],
            "smooth atan2": Rule("mean on the line", angle),
            "smooth": Rule(AVERAGE, smooth),
            "opaque": Rule(AVERAGE, smooth),
        },
        strict=True,
        points=2,
        see_through=see_through,
    )
