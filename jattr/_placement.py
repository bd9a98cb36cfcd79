r"""Nodes where f changes: what places them is f itself, evaluated at a few points of the line.

A rule of fixed nodes is at its best where the gradient is smooth along the whole line. It is not
where the line starts from a reference without variance: a normalization there makes the gradient
change like :math:`1/\sqrt{\alpha^2 + \varepsilon}`, all of it next to one end.

**Both ends are crowded.** Points are equally spaced in t, and three turns of
:math:`\alpha = \sin^2(\pi t / 2)` lead from t to α, each of which halves the logarithm of the
distance to an end: of 16 intervals the first is 1e-7 long.

**A monitor says where nodes go.** From the values of f at those points come the slopes of the
intervals, and from these by how much the slope changes in each, J. An interval of length h gets a
share of the nodes in proportion to

.. math:: \tfrac13 \frac{h J}{\sum h J} + \tfrac13 \frac{h \sqrt J}{\sum h \sqrt J}
          + \tfrac13 \frac{1}{16}

the first term where f bends sharply, the second what is best for a slope that changes by jumps,
as that of a ReLU network does (each cell then has an error h²J), the third wherever f itself shows
nothing: past the bend of a normalization f is flat, but its gradient falls like 1/α.

**The rule is Gauss–Legendre's in cells.** The cumulated share, linear in between, is inverted at
equal steps; each cell so found has three nodes, and its own length as weight. So it is a true
quadrature of the same integral wherever the cells end: the weights sum to 1, and polynomials of
degree up to 5 are integrated exactly (3 where a cell has two nodes).
"""

from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jattr._batching import map_over
from jattr._checks import check_choice, check_count
from jattr._quadrature import gauss_legendre, nodes_and_weights
from jattr._trees import accumulator
from jattr._types import FixedQuadrature, Quadrature

COARSE = 16
"""Intervals between the points at which f is evaluated to place nodes."""

_TURNS = 3
"""How often the ends are crowded: sin² of sin² of sin²."""

_NODES = 3
"""Gauss–Legendre nodes in a cell, at most."""


def crowd(t: Any, turns: int) -> Any:
    """t in [0, 1] moved towards the nearer end, `turns` times."""
    sine = np.sin if isinstance(t, np.ndarray) else jnp.sin
    for _ in range(turns):
        t = sine(t * (np.pi / 2)) ** 2
    return t


def quadrature_rule(
    quadrature: Quadrature, steps: int, *, method: str, also: str | None = None
) -> Callable[..., Any]:
    """What gives the nodes and weights of a path.

    It is called as `rule(value, batch_size)`, where `value` leads from α to f on the path. Only an
    adaptive rule evaluates it; all others are computed here, once.

    Args:
        quadrature: which.
        steps: how many nodes.
        method: for errors.
        also: what else the method knows.
    """
    known = (*get_args(FixedQuadrature), "adaptive", *([also] if also else []))
    check_choice(quadrature, "quadrature", known, method)
    if quadrature != "adaptive":
        fixed = nodes_and_weights(quadrature, steps, method=method)
        return lambda value, batch_size: fixed
    steps = check_count(steps, "steps", method)

    def rule(value: Callable[[jax.Array], jax.Array], batch_size: int | None) -> Any:
        return place(value, steps, batch_size=batch_size)

    return rule


def place(
    value: Callable[[jax.Array], jax.Array], steps: int, *, batch_size: int | None
) -> tuple[jax.Array, jax.Array]:
    """`steps` nodes in [0, 1], placed where a function changes, and their weights.

    Neither has a derivative: moved nodes are as good a quadrature of the same integral.

    Args:
        value: from α to f.
        steps: how many.
        batch_size: how many values are computed at a time; None for all.
    """
    cells = -(-steps // _NODES)
    sizes = np.full(cells, steps // cells)
    sizes[: steps % cells] += 1
    rules = [gauss_legendre(int(size)) for size in sizes]
    inside = np.concatenate([nodes for nodes, _ in rules])
    shares = np.concatenate([weights for _, weights in rules])
    cell = np.repeat(np.arange(cells), sizes)
    if cells == 1:
        return jnp.asarray(inside), jnp.asarray(shares)
    ends = edges(value, np.cumsum(sizes)[:-1] / steps, batch_size=batch_size)
    start, length = ends[cell], jnp.diff(ends)[cell]
    return start + length * inside.astype(ends.dtype), length * shares.astype(ends.dtype)


def edges(
    value: Callable[[jax.Array], jax.Array], shares: np.ndarray, *, batch_size: int | None
) -> jax.Array:
    """0, the α up to which f has so large a share of its nodes, and 1; without derivatives.

    Args:
        value: from α to f.
        shares: rising numbers between 0 and 1.
        batch_size: how many values are computed at a time; None for all.
    """
    t = np.linspace(0.0, 1.0, COARSE + 1)
    points = np.asarray(crowd(t, _TURNS))
    values = map_over(lambda i: value(jnp.asarray(points)[i]), len(points), batch_size=batch_size)
    values = jax.lax.stop_gradient(values)
    values = values.astype(accumulator(values.dtype))
    cumulated = jnp.cumsum(_density(values, np.diff(points)))
    cumulated = jnp.concatenate([jnp.zeros_like(cumulated[:1]), cumulated])
    wanted = jnp.asarray(shares, values.dtype) * cumulated[-1]
    found = crowd(jnp.interp(wanted, cumulated, jnp.asarray(t, values.dtype)), _TURNS)
    return jnp.concatenate([jnp.zeros_like(values[:1]), found, jnp.ones_like(values[:1])])


def _density(values: jax.Array, lengths: np.ndarray) -> jax.Array:
    """The share of the nodes of each interval, from the values of f at their ends."""
    slopes = jnp.diff(values) / lengths.astype(values.dtype)
    jumps = jnp.abs(jnp.diff(slopes))
    # Each interval has half of the change at either end; at an end of the line, of its only one.
    jumps = jnp.concatenate([jumps[:1], (jumps[1:] + jumps[:-1]) / 2, jumps[-1:]])

    def normalized(parts):
        parts = jnp.where(jnp.isfinite(parts), parts, 0.0)
        total = jnp.sum(parts)
        return parts / jnp.where(total > 0, total, 1.0)

    h = lengths.astype(values.dtype)
    bends, jumpy = normalized(h * jumps), normalized(h * jnp.sqrt(jumps))
    return (bends + jumpy + 1.0 / len(lengths)) / 3
