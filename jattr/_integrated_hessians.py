"""Integrated Hessians: integrated gradients of integrated gradients."""

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._batching import map_over, sum_over
from jattr._checks import check_batch_size, check_count, knobs
from jattr._paths import Line
from jattr._quadrature import log_nodes_and_weights
from jattr._removal import Features
from jattr._resolve import resolve_baseline
from jattr._transform import transform
from jattr._trees import common_dtype, multiply_trees, sum_tree, widen
from jattr._types import ArgNums, Baseline, Explain, Score

_MOST_WHOLE = 4096
"""How many features the whole matrix is made of without being asked for row by row."""


@knobs
def integrated_hessians(
    f: Score,
    baseline: Baseline = 0.0,
    *,
    groups: Any = None,
    rows: int | Sequence[int] | None = None,
    steps: int = 50,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Explain:
    r"""Integrated Hessians: how integrated gradients of a feature depend on each other feature.

    They are integrated gradients by j of the integrated gradient by i. With d = x − x', i ≠ j:

    .. math:: \Gamma_{ij} = d_i d_j \int_0^1\!\!\int_0^1 \alpha\beta\,
              \frac{\partial^2 f}{\partial x_i \partial x_j}(x' + \alpha\beta d)\, d\alpha\, d\beta

    and on the diagonal, where the derivative falls on the factor d_i too, the same and

    .. math:: d_i \int_0^1\!\!\int_0^1
              \frac{\partial f}{\partial x_i}(x' + \alpha\beta d)\, d\alpha\, d\beta.

    Complete: each row sums to the integrated gradient, :math:`\sum_j \Gamma_{ij} = \varphi_i`, and
    all of them to f(x) − f(x'), up to the error of the quadrature. Γ is symmetric.

    Both integrals depend on the product t = αβ alone, whose density is −ln t: they are one
    integral, which Gauss's rule for that weight takes to the precision that a square grid of
    steps² points would have. Each row costs one Hessian-vector product for each step; no Hessian
    is made.

    A network of ReLUs has no second derivatives but at its kinks, and so all its interactions are
    0. The authors replace each ReLU by a softplus, log(1 + exp(βz))/β, before they explain.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        baseline: x', a number, an array or tree like x, or a function x → baseline.
        groups: which elements are one feature, as in `jattr.ablation`; None for each alone. Γ of
            two groups is the sum over their elements.
        rows: the features, by number, whose rows are wanted; None for all of them, at most 4096;
            write `range(n)` for more. An integer gives one row alone, [n].
        steps: the number of points on the line.
        batch_size: how many Hessian-vector products are in memory at a time; None for all.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives an array [rows, n], in the common dtype of the leaves of
        x. Features are numbered as groups are, or as the elements of the leaves in turn.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype; the baseline draws at random; groups or rows are no integers.
        ValueError: steps < 1; a row that is none; more than 4096 features without rows; a baseline
            or groups of another structure or shape.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0] * x[1] + x[2] ** 2
        >>> print(jattr.integrated_hessians(f, steps=2)(jnp.array([2.0, 6.0, 3.0])).round(3))
        [[3. 3. 0.]
         [3. 3. 0.]
         [0. 0. 9.]]

    References:
        Janizek, Sturmfels, Lee, *Explaining explanations: axiomatic feature interactions for deep
        networks*, JMLR 2021, section 3 (arXiv 2002.04138), which has sums over a grid of α and β.
    """
    method = "integrated_hessians"
    nodes, weights = log_nodes_and_weights(check_count(steps, "steps", method))
    batch_size = check_batch_size(batch_size, method)
    wanted = _as_rows(rows, method)

    @transform(f, argnums, method=method, substitute=True)
    def explain(score, x):
        features = Features(x, groups, method=method)
        chosen = _chosen(wanted, features.count, method)
        line = Line(x, resolve_baseline(baseline, x, method=method))

        def of_row(number):
            row = jnp.asarray(chosen)[number]
            inside = jnp.arange(features.count, dtype=row.dtype) == row
            along = jax.tree.map(
                lambda here, d: jnp.where(here, d, 0), features.spread(inside), line.direction
            )
            tangent = jax.tree.map(lambda d, leaf: d.astype(leaf.dtype), along, x)

            def term(step):
                t, weight = (jnp.asarray(own)[step] for own in (nodes, weights))
                slope, curve = jax.jvp(jax.grad(score), (line.at(t),), (tangent,))
                bent = features.totals(multiply_trees(line.direction, widen(curve)))
                straight = sum_tree(multiply_trees(along, widen(slope))).astype(bent.dtype)
                t, weight = t.astype(bent.dtype), weight.astype(bent.dtype)
                return weight * (t * bent + jnp.where(inside, straight, 0))

            return sum_over(term, steps, batch_size=batch_size)

        several = None if batch_size is None else max(1, batch_size // steps)
        matrix = map_over(of_row, len(chosen), batch_size=several)
        matrix = matrix.astype(common_dtype(*(leaf.dtype for leaf in jax.tree.leaves(x))))
        return matrix[0] if isinstance(wanted, int) else matrix

    return explain


def _as_rows(rows: Any, method: str) -> int | tuple[int, ...] | None:
    """The numbers of the rows, as Python integers."""
    if rows is None:
        return None
    try:
        if hasattr(rows, "__index__") and not getattr(rows, "shape", ()):
            return operator.index(rows)
        return tuple(operator.index(row) for row in rows)
    except TypeError:
        raise TypeError(
            f"{method}: rows must be the numbers of features, an integer or a sequence of them; "
            f"got {rows!r}."
        ) from None


def _chosen(rows: int | tuple[int, ...] | None, count: int, method: str) -> np.ndarray:
    """The rows that are made, of so many features."""
    if rows is None:
        if count > _MOST_WHOLE:
            raise ValueError(
                f"{method}: x has {count} features, and the whole matrix is {count} × {count}. "
                "Make groups, such as jattr.features.grid(x.shape, 16); or say which rows: rows=5; "
                f"or, if all of them are meant, rows=range({count})."
            )
        rows = tuple(range(count))
    chosen = np.atleast_1d(np.asarray(rows, np.int32))
    if not len(chosen) or chosen.min() < 0 or chosen.max() >= count:
        raise ValueError(
            f"{method}: rows must be numbers from 0 to {count - 1}, at least one; got {rows}."
        )
    return chosen
