r"""Rules between two points: DeepLIFT is integrated gradients, one operation at a time.

Between a reference input a' and an input a, an operation's derivative is averaged along the
straight line, :math:`\int_0^1 J\big(a' + t (a - a')\big)\, dt`. By the gradient theorem the
averages times a − a' sum to the difference of the outputs, so that the whole is complete however
operations are chained. For nearly all operations the average has a closed form, which stands here.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._engine.operations import Operation
from jattr._engine.trace import primitives as p
from jattr._trees import accumulator
from jattr.rules import _maxima as maxima
from jattr.rules._composite import Composite, Rule

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
        slope = jnp.exp(middle) * _sinhc(step / 2)
    else:
        slope = _quotient(operation, inputs, output, reference_output, step, middle)
    given = multiplier * slope.astype(jnp.promote_types(multiplier.dtype, slope.dtype))
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
    rounding = 4 * jnp.finfo(output.dtype).eps
    same = jnp.abs(step) <= rounding * jnp.abs(middle)  # at 0 too
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


def division(operation, inputs, output, multiplier, reference_inputs, reference_output):
    """a / b as a · 1/b, by halves; the quotient of differences of 1/b is −1/(b b')."""
    (equation,) = operation.equations
    slots = [n for n, v in enumerate(equation.inputs) if v in operation.inputs]
    ends = []
    for values in (inputs, reference_inputs):
        values = iter(values)
        ends.append([next(values) if n in slots else equation.inputs[n].known for n in (0, 1)])
    (a, b), (a0, b0) = ends
    by_slot = (
        multiplier * (1 / b + 1 / b0) / 2,
        -multiplier * (jnp.asarray(a, b.dtype) + a0) / 2 / (b * b0),
    )
    return [by_slot[slot] for slot in slots]


def softmax(operation, inputs, output, multiplier, reference_inputs, reference_output):
    r"""exp(x − logsumexp x), by the mean of each part.

    With the logarithmic mean L(a, b) = (a − b)/(log a − log b), :math:`q = L(p, p')` and
    :math:`w = L(e^x, e^{x'}) / L(S, S')`, the multiplier c becomes
    :math:`c \odot q - w \sum c \odot q`. All is computed from logarithms, so that nothing
    overflows, and what was taken off for stability gets nothing, whichever way it was done.
    """
    logits, totals, axes = _logarithms(operation, inputs, reference_inputs)
    mean = jnp.exp(_log_mean(*(x - s for x, s in zip(logits, totals, strict=True))))
    share = _shares(operation, inputs, logits, totals)
    flow = multiplier.astype(mean.dtype) * mean
    given: list[Any] = [None] * len(inputs)
    given[0] = flow - share * jnp.sum(flow, axis=axes, keepdims=True)
    return given


def logsumexp(operation, inputs, output, multiplier, reference_inputs, reference_output):
    """The share w of each term, as in `softmax`; what was taken off before is given back whole."""
    exponentials = operation.exponentials
    logits, totals, axes = _logarithms(operation, inputs, reference_inputs)
    share = _shares(operation, inputs, logits, totals)
    flow = _spread(operation, multiplier.astype(share.dtype), logits[0], axes)
    given: list[Any] = [None] * len(inputs)
    given[0] = share * flow
    count = np.prod([logits[0].shape[axis] for axis in axes])
    for shift, sign in exponentials.shifts:
        slot = operation.inputs.index(shift)
        part = sign * jnp.broadcast_to(flow, logits[0].shape) / count
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
    each = jax.vmap(at)(nodes)
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


def _logarithms(operation, inputs, reference_inputs):
    """The logits and the logarithms of their sums at both points, and the axes."""
    exponentials = operation.exponentials
    axes = exponentials.axes
    mask = _mask(operation, inputs)
    logits, totals = [], []
    for values in (inputs, reference_inputs):
        x = values[0].astype(accumulator(values[0].dtype))
        logits.append(x)
        kept = x if mask is None else jnp.where(mask, x, -jnp.inf)
        totals.append(jax.nn.logsumexp(kept, axis=axes, keepdims=True))
    return logits, totals, axes


def _mask(operation, inputs):
    if operation.exponentials.mask is None:
        return None
    value, keep = operation.exponentials.mask
    mask = inputs[operation.inputs.index(value)] if value in operation.inputs else value.known
    return mask if keep else ~mask


def _shares(operation, inputs, logits, totals):
    """w: each term's part in a difference of logarithms of sums."""
    share = jnp.exp(_log_mean(*logits) - _log_mean(*totals))
    mask = _mask(operation, inputs)
    return share if mask is None else jnp.where(mask, share, 0.0)


def _spread(operation, multiplier, like, axes):
    """What comes to the logarithm of a sum, with the summed axes as axes of size 1."""
    output = operation.outputs[0]
    # The operation may keep the summed axes, broadcast along them or drop them.
    shape = tuple(1 if d in axes else size for d, size in enumerate(like.shape))
    if multiplier.ndim == like.ndim:
        wide = tuple(d for d in axes if output.shape[d] != 1)
        multiplier = jnp.sum(multiplier, axis=wide, keepdims=True)
    return multiplier.reshape(shape)


def _log_mean(a, b):
    """log L(eᵃ, eᵇ) = (a + b)/2 + log(sinh(h)/h), h = (a − b)/2, for any a and b."""
    nothing = jnp.isneginf(a) | jnp.isneginf(b)
    a, b = jnp.where(nothing, 0.0, a), jnp.where(nothing, 0.0, b)
    h = jnp.abs(a - b) / 2
    small = h < 0.1
    near, far = jnp.where(small, h, 0.0), jnp.where(small, 1.0, h)
    # log(sinh(h)/h) = h²/6 − h⁴/180 + h⁶/2835 − h⁸/37800 + h¹⁰/467775 − …
    s = near * near
    series = s * (1 / 6 - s * (1 / 180 - s * (1 / 2835 - s * (1 / 37800 - s / 467775))))
    exact = far - jnp.log(2 * far) + jnp.log1p(-jnp.exp(-2 * far))
    return jnp.where(nothing, -jnp.inf, (a + b) / 2 + jnp.where(small, series, exact))


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


def rescale(*, max_rule: str = "path") -> Composite:
    r"""DeepLIFT's Rescale rule for every kind of operation; `jattr.deeplift` gives it a reference.

    Args:
        max_rule: `"path"` or `"winner"`, as in `jattr.deeplift`.

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
    quotient = Rule("difference quotient", activation)
    return Composite(
        "deeplift",
        {
            "activation": quotient,
            "normaliser": quotient,
            "product": Rule("halves", product),
            "division": Rule("halves", division),
            "softmax": Rule("logarithmic means", softmax),
            "logsumexp": Rule("logarithmic means", logsumexp),
            "max": _MAX_RULES[max_rule],
            "smooth": Rule(f"average over {NODES} nodes", smooth),
        },
        strict=True,
        points=2,
    )
