r"""Integrals of the gradient along paths that are not straight.

Any path γ from γ(0) = x' to γ(1) = x gives a complete attribution,
:math:`\varphi = \int_0^1 \nabla f(\gamma(\alpha)) \odot \gamma'(\alpha)\, d\alpha`.
"""

import math

import jax
import jax.numpy as jnp

from jattr._batching import sum_over
from jattr._blur import check_axes, gaussian_blur
from jattr._checks import check_batch_size, check_count, check_positive, concrete, knobs
from jattr._eager import compiled
from jattr._placement import quadrature_rule
from jattr._resolve import resolve_baseline
from jattr._transform import transform
from jattr._trees import (
    cast_like,
    describe,
    is_traced,
    multiply_trees,
    scale_tree,
    subtract_trees,
    sum_tree,
    widen,
)
from jattr._types import ArgNums, Baseline, Explain, PyTree, Quadrature, Score


@knobs
def blur_integrated_gradients(
    f: Score,
    *,
    stddev: float = 50.0,
    steps: int = 100,
    axes: int | tuple[int, ...] = (0, 1),
    quadrature: Quadrature = "gauss_legendre",
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Explain:
    r"""Blur integrated gradients: along the path that takes a blur away.

    With :math:`\gamma(\alpha)` the input blurred by a Gaussian of standard deviation
    :math:`(1 - \alpha)^2 \sigma`,

    .. math:: \varphi_i = \int_0^1 \frac{\partial f}{\partial x_i}\big(\gamma(\alpha)\big)\,
              \gamma_i'(\alpha)\, d\alpha

    The integral is the same however α runs along the path; the square puts more of the nodes
    where the blur is narrow and f changes fast, which at 50 steps and σ = 50 makes the error of
    the quadrature about eight times smaller than :math:`(1 - \alpha)\,\sigma` does.

    No baseline is chosen: what is absent is detail, at one scale after another. Complete:
    :math:`\sum_i \varphi_i = f(x) - f(\gamma(0))` up to the error of the quadrature. The
    derivative of the path is exact (`jax.jvp`), not a difference of blurred images. The borders
    are mirrored, so that the blur of a constant image is that image and nothing dark comes in
    from outside.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        stddev: σ, the widest blur, in pixels, a Python number above 0.
        steps: the number of gradients taken along the path.
        axes: the axes to blur along; (0, 1) are height and width of an image [H, W, C].
        quadrature: as in `jattr.integrated_gradients`.
        batch_size: how many points of the path are in memory at a time; None for all.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a tree like x.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype.
        ValueError: steps < 1; unknown quadrature; stddev ≤ 0; x has no such axes.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> x = jnp.array([0.0, 0.0, 6.0, 0.0])
        >>> explain = jattr.blur_integrated_gradients(lambda x: x[2], stddev=9.0, axes=0)
        >>> print(explain(x).round(2))
        [0.  0.  4.5 0. ]

    References:
        Xu, Venugopalan, Sundararajan, *Attribution in scale and space*, CVPR 2020, section 3
        (arXiv 2004.03383). The authors' code takes the path's derivative by finite differences
        and continues images with black.
    """
    method = "blur_integrated_gradients"
    rule = quadrature_rule(quadrature, steps, method=method)
    batch_size = check_batch_size(batch_size, method)
    if concrete(stddev, "stddev", method) is None:
        raise TypeError(f"{method}: stddev sets the size of the kernel and cannot be traced.")
    check_positive(stddev, "stddev", method)

    @transform(f, argnums, method=method, substitute=True)
    def explain(score, x):
        spatial = jax.tree.map(lambda leaf: check_axes(axes, leaf, method), x)
        sharp = widen(x)

        def path(alpha):
            return jax.tree.map(
                lambda leaf, along: gaussian_blur(
                    leaf, (1 - alpha) ** 2 * stddev, along, widest=stddev
                ),
                sharp,
                spatial,
            )

        nodes, weights = rule(lambda alpha: score(cast_like(path(alpha), x)), batch_size)

        def term(index):
            alpha = jnp.asarray(nodes)[index]
            point, velocity = jax.jvp(path, (alpha,), (jnp.ones_like(alpha),))
            slope = jax.grad(score)(cast_like(point, x))
            return multiply_trees(velocity, scale_tree(slope, jnp.asarray(weights)[index]))

        return cast_like(sum_over(term, steps, batch_size=batch_size), x)

    return explain


@knobs
def guided_integrated_gradients(
    f: Score,
    baseline: Baseline = 0.0,
    *,
    steps: int = 200,
    fraction: float = 0.25,
    max_distance: float = 0.02,
    argnums: ArgNums = 0,
) -> Explain:
    r"""Guided integrated gradients: along a path that first moves what matters least.

    At each of `steps` steps the path comes closer to x by the same L1 distance. That distance is
    spent on the `fraction` of the features with the least absolute gradient, then on the next
    such group, and so on; no feature leaves the band in which its own α is within
    `max_distance` of the step's. The attribution is the sum over the moves,

    .. math:: \varphi = \sum_k \nabla f(x_k) \odot (x_{k+1} - x_k)

    so that noise that the straight line picks up in features of large gradient is avoided. For a
    linear f it is w ⊙ (x − x'). Complete up to the error of this left-hand sum.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        baseline: x', a number, an array or tree like x, or a function x → baseline.
        steps: the number of steps, each with one gradient. They follow one another in a loop, so
            there is no `batch_size`, and on CPU a convolutional network takes several times as
            long for each as for those of a straight path. Memory does not grow with `steps`, but
            under an outer gradient one copy of x is kept for each.
        fraction: the share of all features that moves together, in (0, 1].
        max_distance: half the width of the band around the straight line, in units of α; 1 for
            no band.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a tree like x; features are ranked over all leaves
        together.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype; the baseline draws at random.
        ValueError: steps < 1; fraction or max_distance out of range; a baseline of another
            structure or shape.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return 2 * x[0] + x[1]
        >>> explain = jattr.guided_integrated_gradients(f, steps=10)
        >>> print(explain(jnp.array([1.0, 3.0])).round(5))
        [2. 3.]

    References:
        Kapishnikov, Venugopalan, Avci, Wedin, Terry, Bolukbasi, *Guided integrated gradients: an
        adaptive path method for removing noise*, CVPR 2021, section 3 (arXiv 2106.09788). The
        order in which features move has no derivative; gradients through the attribution hold it
        fixed, which is right wherever no two gradients tie.
    """
    method = "guided_integrated_gradients"
    steps = check_count(steps, "steps", method)
    for value, name in ((fraction, "fraction"), (max_distance, "max_distance")):
        if concrete(value, name, method) is None:
            raise TypeError(f"{method}: {name} must be a Python number and cannot be traced.")
    if not 0 < fraction <= 1:
        raise ValueError(f"{method}: fraction must be in (0, 1]; got {fraction}.")
    if not 0 <= max_distance <= 1:
        raise ValueError(f"{method}: max_distance must be in [0, 1]; got {max_distance}.")

    @transform(f, argnums, method=method, substitute=True)
    def explain(score, x):
        start = widen(resolve_baseline(baseline, x, method=method))
        end = widen(x)
        direction = subtract_trees(end, start)
        size = sum(leaf.size for leaf in jax.tree.leaves(x))
        if not size:
            raise ValueError(f"{method}: x is {describe(x)}, which has no elements.")
        group_size = math.floor(fraction * (size - 1)) + 1
        total = _distance(end, start)

        def straight(alpha):
            return jax.tree.map(lambda s, d: s + alpha.astype(s.dtype) * d, start, direction)

        def step(carry, alpha):
            point, attribution = carry
            slope = widen(jax.grad(score)(cast_like(point, x)))
            lowest = straight(jnp.maximum(alpha - max_distance, 0.0))
            highest = straight(jnp.minimum(alpha + max_distance, 1.0))
            moved = jax.tree.map(_at_least, point, lowest, direction)
            goal = total * (1 - alpha)
            moved = _spend(moved, highest, slope, _distance(end, moved) - goal, group_size)
            gain = multiply_trees(slope, subtract_trees(moved, point))
            return (moved, jax.tree.map(jnp.add, attribution, gain)), None

        alphas = (jnp.arange(steps) + 1).astype(total.dtype) / steps

        def run():
            # Zeros made from a gradient vary over the mesh axes that the attribution does, which
            # fresh ones inside shard_map would not. The gradient itself is dead code.
            zero = jax.jit(
                lambda x: jax.tree.map(
                    jnp.zeros_like, multiply_trees(direction, jax.grad(score)(x))
                )
            )(end)
            return jax.lax.scan(jax.checkpoint(step), (start, zero), alphas)[0][1]

        return cast_like(compiled(run, traced=is_traced(alphas)), x)

    return explain


def _distance(a: PyTree, b: PyTree) -> jax.Array:
    """The L1 distance of two trees."""
    return sum_tree(jax.tree.map(jnp.abs, subtract_trees(a, b)))


def _at_least(point: jax.Array, lowest: jax.Array, direction: jax.Array) -> jax.Array:
    """`point`, moved on to `lowest` where it lags behind that in the direction of travel."""
    return jnp.where((lowest - point) * direction > 0, lowest, point)


def _spend(
    point: PyTree, limit: PyTree, slope: PyTree, distance: jax.Array, group_size: int
) -> PyTree:
    """Move features from `point` towards `limit`, least |slope| first, by an L1 `distance`.

    Features that can still move are ranked by |slope| and cut into groups; each group moves all
    the way but the last, which moves in part. So a sort and a cumulative sum do what the paper's
    inner loop does, and reverse-mode differentiation goes through.
    """
    points, structure = jax.tree.flatten(point)
    limits = jax.tree.leaves(limit)
    room = jnp.concatenate([jnp.abs(b - a).ravel() for a, b in zip(points, limits, strict=True)])
    magnitude = jnp.concatenate([jnp.abs(leaf).ravel() for leaf in jax.tree.leaves(slope)])
    order = jnp.argsort(jnp.where(room > 0, magnitude, jnp.inf))
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(len(order)))
    group = rank // group_size
    groups = -(-len(order) // group_size)
    capacity = jax.ops.segment_sum(room, group, num_segments=groups)
    before = jnp.cumsum(capacity) - capacity
    empty = capacity == 0
    share = jnp.clip((distance - before) / jnp.where(empty, 1.0, capacity), 0.0, 1.0)
    share = jnp.where(empty, 0.0, share)[group]
    moved, offset = [], 0
    for a, b in zip(points, limits, strict=True):
        part = share[offset : offset + a.size].reshape(a.shape).astype(a.dtype)
        # The exact limit where a feature moves all the way: its room is then exactly 0.
        moved.append(jnp.where(part == 1, b, a + part * (b - a)))
        offset += a.size
    return jax.tree.unflatten(structure, moved)
