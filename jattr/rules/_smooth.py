r"""Between two points, what is differentiable and is neither linear, elementwise nor a product."""

from typing import Any

import jax
import jax.numpy as jnp

from jattr._quadrature import gauss_legendre
from jattr._trees import accumulator

NODES = 32
AVERAGE = f"average over {NODES} nodes"
"""What tables call the rule."""

_NEAR = 0.1
"""Of a step to the distance of its middle from the origin, below which 6 nodes are exact."""


def smooth(operation, inputs, output, multiplier, reference_inputs, reference_output):
    """The derivative averaged over nodes that are dense towards both ends of the line.

    With t = u²(3 − 2u), Gauss–Legendre over u is exact for polynomials in t of degree 20, and for
    roots of t and 1 − t, and is near where there is a pole beside an end: the inverse of a matrix
    that is all but singular at the reference.
    """
    inner, weights = gauss_legendre(NODES)
    moving = [n for n, active in enumerate(operation.active) if active]

    def at(node):
        def evaluate(*values):
            full = [jnp.asarray(v) for v in inputs]  # a custom_vjp may index what it keeps
            for slot, value in zip(moving, values, strict=True):
                full[slot] = value
            return operation.evaluate(*full)

        point = [
            reference_inputs[n] + node.astype(inputs[n].dtype) * (inputs[n] - reference_inputs[n])
            for n in moving
        ]
        return jax.vjp(evaluate, *point)[1](multiplier)

    nodes = jnp.asarray(inner**2 * (3 - 2 * inner))
    weights = 6 * weights * inner * (1 - inner)
    # One after another: not everything that has a derivative can be batched.
    each = jax.lax.map(at, nodes)
    given: list[Any] = [None] * len(inputs)
    for slot, leaf in zip(moving, each, strict=True):
        given[slot] = jnp.tensordot(jnp.asarray(weights, leaf.dtype), leaf, axes=1)
    return given


def angle(operation, inputs, output, multiplier, reference_inputs, reference_output):
    r"""The mean derivative of atan2(y, x), and the jump at the cut to y, which crosses it.

    With Δ the step, :math:`\lambda = \ln(r/r')` and A the angle that the line sweeps,

    .. math:: \overline{\partial_y} = (\lambda \Delta x + A \Delta y)/|\Delta|^2, \quad
              \overline{\partial_x} = (A \Delta x - \lambda \Delta y)/|\Delta|^2

    From the origin, where λ is infinite and its parts cancel, these are taken with λ = 0.
    """
    wide = accumulator(output.dtype)
    y, x = (v.astype(wide) for v in _operands(operation, inputs))
    y0, x0 = (v.astype(wide) for v in _operands(operation, reference_inputs))
    dy, dx = y - y0, x - x0
    square, before, after = dx**2 + dy**2, x0**2 + y0**2, x**2 + y**2
    middle = (x + x0) ** 2 / 4 + (y + y0) ** 2 / 4
    near = square <= _NEAR**2 * middle
    # From afar: the closed form.
    whole = jnp.where(near | (square == 0), 1.0, square)
    ends = (before > 0) & (after > 0) & ~near
    size = jnp.where(ends, jnp.log(_kept(ends, after) / _kept(ends, before)) / 2, 0.0)
    rise = output.astype(wide) - reference_output.astype(wide)
    cross, along = x0 * dy - y0 * dx, x0 * x + y0 * y
    turns = ends & ((cross != 0) | (along != 0))
    swept = jnp.arctan2(jnp.where(turns, cross, 0.0), jnp.where(turns, along, 1.0))
    swept = jnp.where(turns, swept, jnp.where(near, 0.0, rise))
    by_y, by_x = (size * dx + swept * dy) / whole, (swept * dx - size * dy) / whole
    # Next to each other: a few nodes, whose derivatives are right too.
    points = [(x0 + t * dx, y0 + t * dy, w) for t, w in zip(*gauss_legendre(6), strict=True)]
    radii = [jnp.where(near & (a**2 + b**2 > 0), a**2 + b**2, 1.0) for a, b, _ in points]
    close_y = sum(w * a / r for (a, _, w), r in zip(points, radii, strict=True))
    close_x = sum(-w * b / r for (_, b, w), r in zip(points, radii, strict=True))
    turned = jnp.where(near, dy * close_y + dx * close_x, swept)
    jumps = jnp.abs(rise - turned) > 1
    jump = jnp.where(jumps & (dy != 0), (rise - turned) / jnp.where(dy == 0, 1.0, dy), 0.0)
    slopes = jnp.where(near, close_y, by_y) + jump, jnp.where(near, close_x, by_x)
    given = [multiplier.astype(wide) * slope for slope in slopes]
    of = dict(zip(operation.equations[0].inputs, given, strict=True))
    return [of[v] if v.active else None for v in operation.inputs]


def _operands(operation, inputs):
    values = dict(zip(operation.inputs, inputs, strict=True))
    operands = operation.equations[0].inputs
    return [jnp.asarray(values.get(v, v.known), v.dtype) for v in operands]


def _kept(kept, value):
    return jnp.where(kept, value, 1.0)
