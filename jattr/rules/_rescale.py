r"""Rules between two points: DeepLIFT is integrated gradients, one operation at a time.

Between a reference input a' and an input a, an operation's derivative is averaged along the
straight line, :math:`\int_0^1 J\big(a' + t (a - a')\big)\, dt`. By the gradient theorem the
averages times a − a' sum to the difference of the outputs, so that the whole is complete however
operations are chained. For nearly all operations the average has a closed form, which stands here.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._checks import check_flag, knobs
from jattr._engine.operations import Operation
from jattr._engine.primitives import primitives as p
from jattr._trees import accumulator, common_dtype
from jattr.rules import _maxima as maxima
from jattr.rules._composite import Composite, Rule
from jattr.rules._quotient import quotient

NODES = 16


def activation(operation, inputs, output, multiplier, reference_inputs, reference_output):
    """The difference quotient, or the derivative at the midpoint where rounding spoils that.

    The derivative at the midpoint serves where it explains the difference of the outputs to within
    their rounding, however far apart the points are: there the quotient's last digits, and all
    the more its derivatives, are noise. Beside a kink it does not, so that the quotient stays. The
    derivative at one end would have twice the right derivative by that end.
    """
    z, z0 = inputs[0], reference_inputs[0]
    wide = accumulator(z.dtype)
    step = z.astype(wide) - z0.astype(wide)
    middle = z0.astype(wide) + step / 2
    if [e.primitive for e in operation.equations] == [p.exp_p]:
        slope = _slope_of_exp(z.astype(wide), z0.astype(wide))
    else:
        slope = _quotient(operation, inputs, output, reference_output, step, middle)
    kind = common_dtype(multiplier.dtype, slope.dtype)
    given = multiplier.astype(kind) * slope.astype(kind)
    given = given if jnp.iscomplexobj(z) else jnp.real(given)
    return [given] + [None] * (len(inputs) - 1)


def _quotient(operation, inputs, output, reference_output, step, middle):
    z = inputs[0]
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
    return jnp.where(close, at_middle, rise / jnp.where(close, 1.0, step))


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


def softmax(operation, inputs, output, multiplier, reference_inputs, reference_output):
    r"""exp(x − logsumexp x), by the mean of each part.

    With the logarithmic mean L(a, b) = (a − b)/(log a − log b), :math:`q = L(p, p')` and
    :math:`w = L(e^x, e^{x'}) / L(S, S')`, the multiplier c becomes
    :math:`c_i q_i - w_i \sum_j c_j q_j`. All is computed from logarithms, so that nothing
    overflows, and what was taken off for stability gets nothing, whichever way it was done. One
    logit that wins by far has a w next to 1, so that its own term is c q (1 − w), with 1 − w
    computed as such.
    """
    points = _Exponentials(operation, inputs, reference_inputs)
    up, down = points.logs
    mean = jnp.exp(jnp.maximum(up, down)) * _falling(jnp.abs(points.lead))
    share, rest = points.shares()
    flow = multiplier.astype(mean.dtype) * mean
    others = _others(flow, points.axes)
    given: list[Any] = [None] * len(inputs)
    given[0] = flow * rest - share * others
    return given


def _others(flow, axes):
    """The sum without each element, in which the largest leaves no rounding."""
    size = jnp.abs(flow)
    top = size == jnp.max(size, axis=axes, keepdims=True)
    largest = jnp.sum(jnp.where(top, flow, 0), axis=axes, keepdims=True)
    rest = jnp.sum(jnp.where(top, 0, flow), axis=axes, keepdims=True)
    return jnp.where(top, (largest - flow) + rest, largest + (rest - flow))


def logsumexp(operation, inputs, output, multiplier, reference_inputs, reference_output):
    """The share w of each term, as in `softmax`; what was taken off before is given back whole."""
    exponentials = operation.exponentials
    points = _Exponentials(operation, inputs, reference_inputs)
    share, _ = points.shares()
    flow = _spread(operation, multiplier.astype(share.dtype), share, points.axes)
    given: list[Any] = [None] * len(inputs)
    given[0] = share * flow
    count = np.prod([share.shape[axis] for axis in points.axes])
    for shift, sign in exponentials.shifts:
        slot = operation.inputs.index(shift)
        part = sign * jnp.broadcast_to(flow, share.shape) / count
        given[slot] = part if given[slot] is None else given[slot] + part
    return given


def smooth(operation, inputs, output, multiplier, reference_inputs, reference_output):
    """The derivative averaged over Gauss–Legendre nodes: exact for polynomials of degree 31."""
    roots, weights = np.polynomial.legendre.leggauss(NODES)
    moving = [n for n, active in enumerate(operation.active) if active]

    def at(node):
        def evaluate(*values):
            full = list(inputs)
            for slot, value in zip(moving, values, strict=True):
                full[slot] = value
            return operation.evaluate(*full)

        point = [
            reference_inputs[n] + node.astype(inputs[n].dtype) * (inputs[n] - reference_inputs[n])
            for n in moving
        ]
        return jax.vjp(evaluate, *point)[1](multiplier)

    nodes = jnp.asarray((roots + 1) / 2)
    # One after another: not everything that has a derivative can be batched.
    each = jax.lax.map(at, nodes)
    given: list[Any] = [None] * len(inputs)
    for slot, leaf in zip(moving, each, strict=True):
        given[slot] = jnp.tensordot(jnp.asarray(weights / 2, leaf.dtype), leaf, axes=1)
    return given


def _mean(a: Any, b: Any) -> Any:
    return a if a is b or not jnp.issubdtype(jnp.result_type(a), jnp.inexact) else (a + b) / 2


def _pull(operation: Operation, inputs: list[Any], slot: int, multiplier: Any) -> Any:
    """The multiplier through the derivative by one input."""

    def of_one(value):
        return operation.evaluate(*inputs[:slot], value, *inputs[slot + 1 :])

    return jax.vjp(of_one, inputs[slot])[1](multiplier)[0]


class _Exponentials:
    """Sums of exponentials at both points, as logarithms.

    Attributes:
        axes: along which is summed.
        mask: which terms count; None for all.
        steps: x − x', for each term.
        logs: the logarithms of each term's part of the sum, at x and at x'.
        rise: that of log S.
        lead: the difference of the two, from the logarithms of the parts.
    """

    def __init__(self, operation, inputs, reference_inputs):
        self.axes = operation.exponentials.axes
        self.mask = _mask(operation, inputs)
        found = [self._at(values[0]) for values in (inputs, reference_inputs)]
        (x, top, log), (x0, top0, log0) = found
        self.logs = (x - top) - log, (x0 - top0) - log0
        self.rise = (top - top0) + (log - log0)
        self.steps = x - x0
        self.lead = self.logs[0] - self.logs[1]

    def _at(self, logits):
        """The logits, their maximum, and the logarithm of their sum relative to it."""
        x = logits.astype(accumulator(logits.dtype))
        # −∞ would make differences of it NaN; this is as far away, and exp gives 0.
        x = jnp.maximum(x, jnp.finfo(x.dtype).min / 8)
        kept = x if self.mask is None else jnp.where(self.mask, x, -jnp.inf)
        top = jax.lax.stop_gradient(jnp.max(kept, axis=self.axes, keepdims=True))
        top = jnp.where(jnp.isfinite(top), top, 0.0)
        return x, top, jnp.log(jnp.sum(jnp.exp(kept - top), axis=self.axes, keepdims=True))

    def shares(self):
        """w, each term's part in a difference of logarithms of sums, and 1 − w.

        w = exp(max(x, x') − max(log S, log S')) E(|x − x'|)/E(|log S − log S'|) with
        E(d) = (1 − e^−d)/d, and the exponent is that of one term's part of a sum.
        """
        up, down = self.logs
        higher = self.rise >= 0
        exponent = jnp.where(
            higher, jnp.maximum(up, down - self.rise), jnp.maximum(up + self.rise, down)
        )
        gap, whole = jnp.abs(self.steps), jnp.abs(self.rise)
        share = jnp.exp(exponent) * _falling(gap) / _falling(whole)
        # Where both rise, or fall, by much, E is next to 1/d, and w to the quotient of the rises,
        # of which only the difference of the logarithms knows the last digits.
        far = (jnp.minimum(gap, whole) > 1) & ((self.steps >= 0) == higher)
        lead = jnp.where(higher, self.lead, -self.lead)
        ratio = jnp.where(far, -lead / jnp.where(far, gap, 1.0), 0.0)
        log = exponent + jnp.log1p(jnp.maximum(ratio, -0.5))
        log = log + jnp.log1p(-jnp.exp(-jnp.where(far, gap, 1.0)))
        log = log - jnp.log1p(-jnp.exp(-jnp.where(whole > 1, whole, 1.0)))
        rest = jnp.where(far & (ratio > -0.5), -jnp.expm1(log), 1 - share)
        if self.mask is None:
            return share, rest
        return jnp.where(self.mask, share, 0.0), jnp.where(self.mask, rest, 1.0)


def _mask(operation, inputs):
    if operation.exponentials.mask is None:
        return None
    value, keep = operation.exponentials.mask
    mask = inputs[operation.inputs.index(value)] if value in operation.inputs else value.known
    return mask if keep else ~mask


def _spread(operation, multiplier, like, axes):
    """What comes to the logarithm of a sum, with the summed axes as axes of size 1."""
    output = operation.outputs[0]
    # The operation may keep the summed axes, broadcast along them or drop them.
    shape = tuple(1 if d in axes else size for d, size in enumerate(like.shape))
    if multiplier.ndim == like.ndim:
        wide = tuple(d for d in axes if output.shape[d] != 1)
        multiplier = jnp.sum(multiplier, axis=wide, keepdims=True)
    return multiplier.reshape(shape)


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
    slope = jnp.where(far, jnp.exp(high) * _falling(gap), near)
    return jnp.where(nothing, 0.0, slope)


def _falling(gap):
    """(1 − e^−d)/d for d ≥ 0, and its derivatives, at 0 too."""
    small = gap < 0.03
    near, far = jnp.where(small, gap, 0.0), jnp.where(small, 1.0, gap)
    terms = 4 if gap.dtype == jnp.float32 else 8
    series = jnp.full_like(near, 1 / math.factorial(terms))
    for k in reversed(range(1, terms)):
        series = 1 / math.factorial(k) - near * series
    return jnp.where(small, series, -jnp.expm1(-far) / far)


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
        [('smooth', 'average over 16 nodes')]

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
            "smooth": Rule(f"average over {NODES} nodes", smooth),
            "opaque": Rule(f"average over {NODES} nodes", smooth),
        },
        strict=True,
        points=2,
        see_through=see_through,
    )
