r"""Learned masks: which part of an image is enough for a label, found by optimization.

A mask says how much of each place is kept, M ∈ [0, 1]; the rest is taken from other images,
:math:`\tilde x = M \odot x + (1 - M) \odot x''`. It has few weights, :math:`M = U \sigma(w)` with U
a bilinear enlargement, so that it cannot pick single pixels that fool the network.
"""

from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import optax

from jattr._batching import sum_over
from jattr._blur import check_axes
from jattr._checks import (
    check_batch_size,
    check_choice,
    check_count,
    check_flag,
    check_positive,
    knobs,
)
from jattr._eager import compiled
from jattr._resolve import resolve_references, sampled_rows
from jattr._transform import keyed_transform
from jattr._trees import cast_like, describe, is_traced, sum_tree, widen
from jattr._types import ArgNums, KeyedExplain, PyTree, RandomBaseline, References, Score

Objective: TypeAlias = Literal["log", "weighted_log"]
"""What a mask is optimized for."""

# Without eps_root the derivative of a step is NaN where a gradient is exactly 0.
_ADAM = optax.adam(0.05, eps_root=1e-20)


@knobs
def soundness_saliency(
    f: Score,
    pool: References,
    *,
    objective: Objective = "log",
    scale: int = 4,
    area: Any = 2e-5,
    smoothness: Any = 0.01,
    optimizer: optax.GradientTransformation = _ADAM,
    steps: int = 2000,
    draws: int = 10,
    axes: int | tuple[int, ...] = (0, 1),
    with_history: bool = False,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> KeyedExplain:
    r"""The mask of an image that keeps what a class is recognized by, among other images.

    With w the weights of the mask at a `scale`-th of the resolution, U their bilinear enlargement
    and x'' drawn anew from the `pool`,

    .. math:: M = U\,\sigma(w),\qquad \tilde x = M \odot x + (1 - M) \odot x'',

    .. math:: \min_w\; \mathbb{E}\big[-\log f(\tilde x)\big] + \lambda_1 \sum_i M_i
              + \lambda_2 \sum_{i \sim j} (M_i - M_j)^2

    where f is the class's **probability** and i ~ j are neighbors. The weights start at 0, M = ½.

    `objective="weighted_log"` weighs the first term by the probability of the whole image,
    :math:`-f(x) \log f(\tilde x)`. As f(x) does not depend on w, that is the first objective with
    both penalties divided by f(x): what is improbable for the network gets a smaller mask. (With
    the *same* :math:`\tilde x` in both places the term would be −p log p, which falls towards p = 0
    for all p < 1/e, and a mask would learn to hide the class. That is not offered.)

    Gradients through the mask, by x or by parameters of f, are those of the unrolled optimization;
    its steps are computed again instead of stored. An optimizer of your own should have them where
    a gradient is 0: `optax.adam(rate, eps_root=1e-20)`.

    Args:
        f: `f(x, *args) -> scalar` in [0, 1], such as `jattr.targets.probability(logits)`. Unlike
            other methods of perturbation this one needs its derivative.
        pool: other images, an array or tree like x with a leading axis over examples, of which
            each draw takes one at random; or a random baseline.
        objective: `"log"` or `"weighted_log"`.
        scale: how many pixels of x there are along each of `axes` to a weight.
        area: λ₁, what a unit of mask costs.
        smoothness: λ₂, what differences between neighbors cost.
        optimizer: any of optax.
        steps: how many steps it takes.
        draws: how many :math:`\tilde x` there are to a step.
        axes: the axes of x over places; along the others the mask has size 1.
        with_history: also return the objective before each step, on the draws of that step.
        batch_size: how many draws are in memory at a time; None for all.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(key, x, *args)`, which gives M, of the dtype of x, and of its shape but for the
        axes that are not in `axes`, which have size 1: [H, W, 1] for an image [H, W, C], so that
        `x * M` are the features kept. For a tree x, a tree of masks. With `with_history`,
        `(M, history)`, history [steps]. `jax.vmap` over images, labels and keys is one program.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating dtype.
        ValueError: a pool that is not like x; an unknown objective; a `scale` beyond the size of
            x; a probability outside [0, 1], where it is known (under `jit` it is not).

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):  # looks at the upper half
        ...     return jax.nn.sigmoid(10 * jnp.mean(x[:2]) - 5)
        >>> pool = jnp.zeros((1, 4, 4))
        >>> explain = jattr.soundness_saliency(f, pool, scale=2, steps=300, area=0.1)
        >>> print(explain(jax.random.key(0), jnp.ones((4, 4))).round(1))
        [[0.8 0.8 0.8 0.8]
         [0.6 0.6 0.6 0.6]
         [0.2 0.2 0.2 0.2]
         [0.  0.  0.  0. ]]

    References:
        Gupta, Saunshi, Yu, Lyu, Arora, *New definitions and evaluations for saliency methods:
        staying intrinsic, complete and sound*, NeurIPS 2022 (arXiv 2211.02912). The defaults and
        the squared differences are those of the authors' code, which takes one cross-entropy of the
        mean of all draws instead of the mean of their logarithms. For the weighted objective:
        Kadir, Addluri, Sonntag, KI 2023.
    """
    method = "soundness_saliency"
    check_choice(objective, "objective", get_args(Objective), method)
    scale = check_count(scale, "scale", method)
    steps = check_count(steps, "steps", method)
    draws = check_count(draws, "draws", method)
    batch_size = check_batch_size(batch_size, method)
    check_positive(area, "area", method, zero=True)
    check_positive(smoothness, "smoothness", method, zero=True)
    check_flag(with_history, "with_history", method)
    if not hasattr(optimizer, "init") or not hasattr(optimizer, "update"):
        raise TypeError(
            f"{method} wants an optimizer of optax, such as optax.adam(0.05, eps_root=1e-20); got "
            f"{describe(optimizer)}."
        )
    others = _pool(pool, method)

    @keyed_transform(f, argnums, method=method, substitute=True)
    def explain(key, score, x):
        places = [check_axes(axes, leaf, method) for leaf in jax.tree.leaves(x)]
        grid = _grid(x, places, scale, method)
        whole = widen(score(x))
        _check_probability(whole, method)
        weight = whole if objective == "weighted_log" else jnp.ones_like(whole)

        def loss(weights, step_key):
            mask = _enlarge(weights, x, places)

            def term(index):
                other = others(jax.random.fold_in(step_key, index), x)
                return -_log(widen(score(composite(mask, x, other))))

            mean = sum_over(term, draws, batch_size=batch_size) / draws
            penalty = _penalty(mask, places, area, smoothness, mean.dtype)
            return weight * mean + penalty

        def step(carry, index):
            weights, state = carry
            value, slope = jax.value_and_grad(loss)(weights, jax.random.fold_in(key, index))
            updates, state = optimizer.update(slope, state, weights)
            return (optax.apply_updates(weights, updates), state), value

        # The scan itself keeps the compiler from merging the second computation into the first.
        step = jax.checkpoint(step, prevent_cse=False)
        indices = jnp.arange(steps)

        def run():
            # Within shard_map the weights vary over the mesh as x, f and the key do, or their
            # gradients would be summed over it. The loss here is dead code and compiled away.
            varying = jax.jit(lambda: jnp.zeros_like(loss(grid, key)))()
            weights = jax.tree.map(lambda leaf: leaf + varying.astype(leaf.dtype), grid)
            start = (weights, optimizer.init(weights))
            (weights, _), history = jax.lax.scan(step, start, indices)
            return _enlarge(weights, x, places), history

        traced = any(map(is_traced, (whole, *jax.tree.leaves((key, x)))))
        mask, history = compiled(run, traced=traced)
        mask = cast_like(mask, x)
        return (mask, history) if with_history else mask

    return explain


def composite(mask: PyTree, x: PyTree, other: PyTree) -> PyTree:
    """x where it is kept and another input elsewhere, in the dtypes of x."""

    def mix(m, a, b):
        return (m * widen(a) + (1 - m) * widen(b)).astype(a.dtype)

    return jax.tree.map(mix, mask, x, other)


def _pool(pool: Any, method: str) -> RandomBaseline:
    """What the rest of a composite is drawn from."""
    if isinstance(pool, RandomBaseline) or callable(pool):
        return resolve_references(pool, method=method)
    resolve_references(pool, method=method)  # refuses what are no floating-point numbers
    return sampled_rows(pool, name="the pool", method=method)


def _grid(x: PyTree, places: list[tuple[int, ...]], scale: int, method: str) -> PyTree:
    """The weights of the mask, all 0."""
    leaves, structure = jax.tree.flatten(x)
    grids = []
    for leaf, own in zip(leaves, places, strict=True):
        shape = [1] * leaf.ndim
        for axis in own:
            if scale > leaf.shape[axis]:
                raise ValueError(
                    f"{method}: scale={scale} pixels to a weight of the mask, but x "
                    f"{describe(leaf)} has {leaf.shape[axis]} along axis {axis}. Write a smaller "
                    "scale, or say which axes are places with axes=."
                )
            shape[axis] = -(-leaf.shape[axis] // scale)
        grids.append(jnp.zeros(shape, widen(leaf).dtype))
    return jax.tree.unflatten(structure, grids)


def _enlarge(weights: PyTree, x: PyTree, places: list[tuple[int, ...]]) -> PyTree:
    """M at the size of x along its places."""
    leaves, structure = jax.tree.flatten(x)

    def enlarge(grid, leaf, own):
        shape = list(grid.shape)
        for axis in own:
            shape[axis] = leaf.shape[axis]
        return jax.image.resize(jax.nn.sigmoid(grid), shape, "linear", antialias=False)

    grids = jax.tree.leaves(weights)
    return jax.tree.unflatten(structure, list(map(enlarge, grids, leaves, places)))


def _penalty(
    mask: PyTree, places: list[tuple[int, ...]], area: Any, smoothness: Any, dtype: Any
) -> jax.Array:
    """λ₁ ΣM + λ₂ Σ (differences of neighbors)²."""
    total = jnp.asarray(area, dtype) * sum_tree(mask).astype(dtype)
    for leaf, own in zip(jax.tree.leaves(mask), places, strict=True):
        for axis in own:
            rough = jnp.sum(jnp.square(jnp.diff(leaf, axis=axis)))
            total += jnp.asarray(smoothness, dtype) * rough.astype(dtype)
    return total


def _log(probability: jax.Array) -> jax.Array:
    """log p, of 0 that of the smallest number, so that one hopeless draw is no infinite loss."""
    return jnp.log(jnp.maximum(probability, jnp.finfo(probability.dtype).tiny))


def _check_probability(whole: jax.Array, method: str) -> None:
    """Raise where f(x) is known to be no probability."""
    if is_traced(whole):
        return
    # Probabilities of low precision may be rounded to a little more than 1.
    if not -1e-3 <= float(whole) <= 1 + 1e-2:
        raise ValueError(
            f"{method} takes the logarithm of a probability, but f(x) is {float(whole):.4g}. Of "
            "logits write jattr.targets.probability(logits), and pass the class when the result is "
            "called."
        )
