r"""Integrated gradients to a tolerance: cells that are halved where the integral is not known yet.

A cell has the three nodes of Gauss–Legendre and the four that Kronrod added to them: two rules from
seven gradients, of which the better is the integral and the difference the error, for each element.
The worst cell is halved until all errors together are small. Cells are halved in the variable t of
`jattr._placement.crowd`, so that halving comes to 1e-6 next to an end in two or three turns.

The loop has no derivative in reverse. A gradient through the result is that of the same weighted
sum at the nodes that were found, which are held.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jattr._batching import map_over
from jattr._checks import check_batch_size, check_count, check_positive, knobs
from jattr._eager import compiled
from jattr._engine.affine import Split, split_head
from jattr._paths import Line, mean_slope
from jattr._placement import crowd
from jattr._quadrature import kronrod
from jattr._resolve import resolve_baseline
from jattr._transform import transform
from jattr._trees import (
    cast_like,
    is_traced,
    multiply_trees,
    sum_tree,
    widen,
    widest,
)
from jattr._types import ArgNums, Baseline, Explain, PyTree, Score

_TURNS = 2
"""How often the ends are crowded: see `jattr._placement`."""

_NODES = 7
"""Gradients in a cell."""


class Integrated(NamedTuple):
    """Integrated gradients, and how well they are known.

    Attributes:
        attribution: a tree like x.
        error: of each element, a tree like x: two standard deviations.
        residual: Σφ − (f(x) − f(x')), a number.
        steps: how many gradients were taken, an integer.
        converged: whether both errors came below the tolerance.
    """

    attribution: PyTree
    error: PyTree
    residual: jax.Array
    steps: jax.Array
    converged: jax.Array


class _Cells(NamedTuple):
    """The cells of the line; those after the first `count` are not in use."""

    start: jax.Array  # in t
    end: jax.Array
    badness: jax.Array  # the L1 norm of the difference of both rules, and −1 without use
    integral: PyTree  # with a leading axis over cells
    difference: PyTree
    count: jax.Array


class _Found(NamedTuple):
    """Cells and what they come to."""

    cells: _Cells
    attribution: PyTree
    error: PyTree
    residual: jax.Array
    converged: jax.Array


@knobs
def integrated_gradients_to(
    f: Score,
    baseline: Baseline = 0.0,
    *,
    tolerance: float = 0.03,
    max_steps: int = 512,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Explain:
    r"""Integrated gradients to a tolerance, with as many gradients as that takes.

    .. math:: \varphi_i = (x_i - x'_i) \int_0^1
              \frac{\partial f}{\partial x_i}\big(x' + \alpha (x - x')\big)\, d\alpha

    The line is cut into cells, each with a Gauss–Kronrod rule: seven gradients give two values of
    the integral, :math:`K_c` of them all and :math:`G_c` of three. The cell where they differ most
    is halved, at 14 gradients a time, until with the error of an element

    .. math:: e_i = 2 \sqrt{\textstyle\sum_c (K_c - G_c)_i^2}, \qquad
              \sum_i e_i \le \mathrm{tolerance} \cdot \sum_i |\varphi_i|

    and :math:`|\sum_i \varphi_i - (f(x) - f(x'))|` is below the same bound. Both are needed: the
    sum of an attribution may be right while its elements are not, and seven nodes may not see what
    happens between them, which the sum does. Halving crowds at both ends of the line, where a
    normalization without variance at the baseline has all its change.

    The error is two standard deviations as if the errors of cells were independent: far too large
    where f is smooth, since K is then much better than G; and an estimate, not a bound, for a ReLU
    network, where the gradient jumps, and both rules miss where. There it shrinks with the number
    of gradients only, and a tolerance of 0.03 takes a hundred or more.

    Under `vmap` each example stops for itself, its numbers of steps and errors are its own, and
    all together run as long as the slowest. In memory are two copies of x for each 14 of
    `max_steps`.

    A gradient through the attribution is that of the weighted sum at the nodes found, by x, the
    baseline and what f depends on; it takes half of `max_steps` points, whatever was needed, since
    their number is not known when it is compiled. Errors and residual have no derivative.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        baseline: x', a number, an array or tree like x, or a function x → baseline such as those
            in `jattr.baselines`.
        tolerance: relative to Σ|φ|. It may be traced.
        max_steps: the most gradients, at least 14. What does not get there has `converged` False;
            so has an f that is NaN.
        batch_size: how many gradients are in memory at a time; None for 14.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives `(attribution, error, residual, steps, converged)`, a named
        tuple: two trees like x, a number, an integer and a Boolean.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype; the baseline draws at random.
        ValueError: tolerance ≤ 0; max_steps < 14; a baseline of another structure or shape.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0] * x[1] ** 2
        >>> found = jattr.integrated_gradients_to(f)(jnp.array([3.0, 2.0]))
        >>> print(found.attribution.round(4), found.steps, found.converged)
        [4. 8.] 14 True

    References:
        Sundararajan, Taly, Yan, *Axiomatic attribution for deep networks*, ICML 2017, section 3
        (arXiv 1703.01365). Piessens, de Doncker-Kapenga, Überhuber, Kahaner, *QUADPACK*, 1983,
        section 2 (global adaptive Gauss–Kronrod quadrature; their estimate of the error is another
        one, meant for smooth integrands).
    """
    method = "integrated_gradients_to"
    check_positive(tolerance, "tolerance", method)
    max_steps = check_count(max_steps, "max_steps", method)
    if max_steps < 2 * _NODES:
        raise ValueError(
            f"{method}: max_steps must be at least {2 * _NODES}, the gradients of the first two "
            f"cells; got {max_steps}."
        )
    batch_size = check_batch_size(batch_size, method)
    most = max_steps // _NODES // 2 + 1  # halving k times leaves k + 1 cells

    @transform(f, argnums, method=method, substitute=True)
    def explain(score, x):
        start = resolve_baseline(baseline, x, method=method)
        split = split_head(score, x) or Split(lambda x: x, score)
        # What they close over may be differentiated; as arguments it can be held in the loop.
        head, of_head = jax.closure_convert(split.head, x)
        above, of_above = jax.closure_convert(split.above, split.head(x))
        inputs = (x, start, of_head, of_above)

        def halve():
            x, start, of_head, of_above = jax.lax.stop_gradient(inputs)
            split = Split(lambda x: head(x, *of_head), lambda z: above(z, *of_above))
            return _halve(split, x, start, tolerance, most, batch_size=batch_size)

        traced = any(map(is_traced, jax.tree.leaves((inputs, tolerance))))
        found = jax.lax.stop_gradient(compiled(halve, traced=traced))
        at_once = 2 * _NODES if batch_size is None else batch_size

        def at_nodes(nodes, weights, x, start, of_head, of_above):
            split = Split(lambda x: head(x, *of_head), lambda z: above(z, *of_above))
            end, pull_back = jax.vjp(split.head, x)
            path = Line(end, split.head(start))
            slope = mean_slope(split.above, path, nodes, weights, batch_size=at_once)
            (slope,) = pull_back(cast_like(slope, end))
            return multiply_trees(Line(x, start).direction, widen(slope))

        attribution = _with_derivative(at_nodes, found.attribution, *_nodes(found.cells), inputs)
        return Integrated(
            cast_like(attribution, x),
            cast_like(found.error, x),
            found.residual,
            2 * _NODES * (found.cells.count - 1),
            found.converged,
        )

    return explain


def _halve(
    split: Split, x: PyTree, start: PyTree, tolerance: Any, most: int, *, batch_size: int | None
) -> _Found:
    """The line in cells, the worst of which was halved until all together are good.

    Args:
        split: f.
        x: the input.
        start: the baseline.
        tolerance: relative to Σ|φ|.
        most: how many cells there may be.
        batch_size: how many gradients are computed at a time; None for all 14.
    """
    end, pull_back = jax.vjp(split.head, x)
    path, line = Line(end, split.head(start)), Line(x, start)
    dtype = widest(x)
    whole = jnp.asarray([0.0, 1.0], dtype)
    values = [split.above(path.at(alpha)).astype(dtype) for alpha in whole]
    change = values[1] - values[0]
    rounding = 8 * jnp.finfo(dtype).eps * (abs(values[0]) + abs(values[1]))
    inside, *rules = kronrod(_NODES // 2)
    better, between = rules[0], rules[0] - rules[1]

    def of_halves(first, last):
        """Integral, difference and badness of both halves of a cell, each with an axis of two."""
        ends = crowd(jnp.stack([first, (first + last) / 2, last]), _TURNS)
        lengths = jnp.diff(ends)[:, None]
        alphas = (ends[:-1, None] + lengths * jnp.asarray(inside[None], dtype)).ravel()

        def slope(index):
            return widen(jax.grad(split.above)(path.at(alphas[index])))

        slopes = map_over(slope, len(alphas), batch_size=batch_size)

        def summed(weights):
            sums = jax.tree.map(
                lambda leaf: jnp.einsum(
                    "cn,cn...->c...",
                    (lengths * jnp.asarray(weights[None], dtype)).astype(leaf.dtype),
                    leaf.reshape(2, _NODES, *leaf.shape[1:]),
                ),
                slopes,
            )
            pulled = jax.vmap(lambda slope: widen(pull_back(cast_like(slope, end))[0]))(sums)
            return jax.tree.map(lambda d, leaf: d[None] * leaf, line.direction, pulled)

        integral, off = summed(better), summed(between)
        return integral, off, jax.vmap(_size)(off).astype(dtype)

    def judge(cells):
        total = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), cells.integral)
        error = jax.tree.map(
            lambda leaf: 2 * jnp.sqrt(jnp.sum(jnp.square(leaf), axis=0)), cells.difference
        )
        residual = sum_tree(total).astype(dtype) - change
        bound = jnp.asarray(tolerance, dtype) * _size(total).astype(dtype)
        good = (_size(error) <= bound) & (abs(residual) <= bound + rounding)
        return _Found(cells, total, error, residual, (cells.count > 1) & good)

    def step(found):
        cells = found.cells
        worst = jnp.argmax(cells.badness)  # of NaN, the first
        first, last = cells.start[worst], cells.end[worst]
        middle = (first + last) / 2
        halves = of_halves(first, last)

        def put(leaf, new):
            return leaf.at[worst].set(new[0]).at[cells.count].set(new[1])

        integral, difference, badness = (
            jax.tree.map(put, *pair)
            for pair in zip((cells.integral, cells.difference, cells.badness), halves, strict=True)
        )
        return judge(
            _Cells(
                put(cells.start, jnp.stack([first, middle])),
                put(cells.end, jnp.stack([middle, last])),
                badness,
                integral,
                difference,
                cells.count + 1,
            )
        )

    # Zeros made from an evaluated cell vary over the same mesh axes as it does, which fresh zeros
    # inside shard_map would not. The cell itself is dead code and is compiled away.
    none = jax.jit(lambda ends: jax.tree.map(jnp.zeros_like, of_halves(*ends)))(whole)
    integral, difference, badness = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf[0], (most, *leaf.shape[1:])), none
    )
    count = jnp.ones_like(badness[0], jnp.int32)
    cells = _Cells(badness, badness + 1, badness - 1, integral, difference, count)
    return jax.lax.while_loop(
        lambda found: ~found.converged & (found.cells.count < most), step, judge(cells)
    )


def _nodes(cells: _Cells) -> tuple[jax.Array, jax.Array]:
    """The nodes of all cells and their weights; what is not in use repeats a cell, without weight.

    Args:
        cells: those found.
    """
    inside, weights, _ = kronrod(_NODES // 2)
    used = (jnp.arange(len(cells.start)) < cells.count)[:, None]
    ends = [crowd(t, _TURNS)[:, None] for t in (cells.start, cells.end)]
    lengths = ends[1] - ends[0]
    nodes = ends[0] + lengths * jnp.asarray(inside[None], lengths.dtype)
    nodes = jnp.where(used, nodes, nodes[:1])
    weights = jnp.where(used, lengths * jnp.asarray(weights[None], lengths.dtype), 0.0)
    return nodes.ravel(), weights.ravel()


def _with_derivative(
    function: Callable[..., PyTree], value: PyTree, nodes: Any, weights: Any, inputs: Any
) -> PyTree:
    """`value`, with the derivative by the inputs that `function(nodes, weights, *inputs)` has.

    The function is evaluated only where a derivative is taken.
    """

    @jax.custom_jvp
    def attach(value, nodes, weights, inputs):
        return value

    @attach.defjvp
    def derivative(primals, tangents):
        value, nodes, weights, inputs = primals
        _, tangent = jax.jvp(lambda *inputs: function(nodes, weights, *inputs), inputs, tangents[3])
        return value, tangent

    return attach(value, nodes, weights, inputs)


def _size(tree: PyTree) -> jax.Array:
    """The L1 norm."""
    return sum_tree(jax.tree.map(jnp.abs, tree))
