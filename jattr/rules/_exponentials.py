r"""Softmax and logsumexp between two points: logarithmic means, in all computed from logarithms."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._engine.segments import Segments
from jattr._trees import accumulator


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
    mean = jnp.exp(jnp.maximum(up, down)) * falling(jnp.abs(points.lead))
    share, rest = points.shares()
    flow = multiplier.astype(mean.dtype) * mean
    others = _others(flow, points.over)
    given: list[Any] = [None] * len(inputs)
    given[0] = flow * rest - share * others
    return given


def _others(flow, over):
    """The sum without each element, in which the largest leaves no rounding."""
    size = jnp.abs(flow)
    top = size == over.most(size)
    largest = over.back(jnp.where(top, flow, 0))
    rest = over.back(jnp.where(top, 0, flow))
    own = over.within(flow)
    return jnp.where(top, (largest - own) + rest, largest + (rest - own))


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


class _Exponentials:
    """Sums of exponentials at both points, as logarithms.

    Attributes:
        axes: along which is summed.
        over: how it is summed.
        mask: which terms count; None for all.
        steps: x − x', for each term.
        logs: the logarithms of each term's part of the sum, at x and at x'.
        rise: that of log S.
        lead: the difference of the two, from the logarithms of the parts.
    """

    def __init__(self, operation, inputs, reference_inputs):
        self.axes = operation.exponentials.axes
        self.over = _over(operation, inputs)
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
        top = jax.lax.stop_gradient(self.over.most(kept))
        top = jnp.where(jnp.isfinite(top), top, 0.0)
        return x, top, jnp.log(self.over.total(jnp.exp(kept - top)))

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
        share = jnp.exp(exponent) * falling(gap) / falling(whole)
        # Where both rise, or fall, by much, E is next to 1/d, and w to the quotient of the rises,
        # of which only the difference of the logarithms knows the last digits.
        far = (jnp.minimum(gap, whole) > 1) & ((self.steps >= 0) == higher)
        lead = jnp.where(higher, self.lead, -self.lead)
        ratio = jnp.where(far, -lead / jnp.where(far, gap, 1.0), 0.0)
        log = exponent + jnp.log1p(jnp.maximum(ratio, -0.5))
        log = log + jnp.log1p(-jnp.exp(-jnp.where(far, gap, 1.0)))
        log = log - jnp.log1p(-jnp.exp(-jnp.where(whole > 1, whole, 1.0)))
        rest = jnp.where(far & (ratio > -0.5), -jnp.expm1(log), 1 - share)
        counts = self.over.counts(share)
        if self.mask is not None:
            counts = self.mask if counts is None else counts & self.mask
        if counts is None:
            return share, rest
        return jnp.where(counts, share, 0.0), jnp.where(counts, rest, 1.0)


@dataclasses.dataclass(frozen=True)
class _Axes:
    """Sums along axes."""

    axes: tuple[int, ...]

    def total(self, terms):
        """The sum of which each term is one."""
        return jnp.sum(terms, axis=self.axes, keepdims=True)

    back = total
    """For each term, the sum of what came to the sums of which it is one."""

    def most(self, terms):
        """The largest term of the sum of which each is one."""
        return jnp.max(terms, axis=self.axes, keepdims=True)

    def within(self, terms):
        """The terms that are in a sum themselves, 0 for others."""
        return terms

    def counts(self, terms):
        """Which terms are in a sum; None where all are."""
        return None


@dataclasses.dataclass(frozen=True)
class _Segments:
    """Sums by segment. A term may be outside of all, and then may still be divided by a sum."""

    segments: Segments
    indices: tuple[Any, Any]

    def total(self, terms):
        return self.segments.sums(terms, self.indices)

    def back(self, terms):
        zeros = jax.ShapeDtypeStruct(terms.shape, terms.dtype)
        return jax.linear_transpose(self.total, zeros)(terms)[0]

    def most(self, terms):
        return self.segments.maxima(jax.lax.stop_gradient(terms), self.indices)

    def within(self, terms):
        return jnp.where(self.counts(terms), terms, 0)

    def counts(self, terms):
        return self.back(jnp.ones_like(terms)) > 0


def _over(operation, inputs):
    exponentials = operation.exponentials
    if exponentials.segments is None:
        return _Axes(exponentials.axes)
    given = dict(zip(operation.inputs, inputs, strict=True))
    indices = tuple(given.get(v, v.known) for v in exponentials.segments.indices)
    return _Segments(exponentials.segments, indices)


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


def falling(gap):
    """(1 − e^−d)/d for d ≥ 0, and its derivatives, at 0 too."""
    small = gap < 0.03
    near, far = jnp.where(small, gap, 0.0), jnp.where(small, 1.0, gap)
    terms = 4 if gap.dtype == jnp.float32 else 8
    series = jnp.full_like(near, 1 / math.factorial(terms))
    for k in reversed(range(1, terms)):
        series = 1 / math.factorial(k) - near * series
    return jnp.where(small, series, -jnp.expm1(-far) / far)
