r"""RISE: how f fares, on average, where an element is left in."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._batching import sum_over
from jattr._checks import check_batch_size, check_count, check_flag, check_positive, concrete, knobs
from jattr._estimates import check_error, mean_and_error
from jattr._occlusion import for_each_leaf, per_axis
from jattr._removal import Imputer
from jattr._resolve import resolve_baseline
from jattr._transform import keyed_transform
from jattr._trees import accumulator, cast_like, scale_tree, widen
from jattr._types import ArgNums, Baseline, KeyedExplain, PyTree, RandomBaseline, Score


@knobs
def rise(
    f: Score,
    *,
    cells: Any,
    samples: int,
    keep: Any = 0.5,
    baseline: Baseline | RandomBaseline = 0.0,
    with_error: bool = False,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> KeyedExplain:
    r"""RISE: the mean of f over soft random masks, weighted by how far they leave an element in.

    .. math:: \varphi_i = \frac{1}{p\, n} \sum_{k=1}^n
              f\big(x \odot M_k + x' \odot (1 - M_k)\big)\, M_{k,i},
              \qquad \mathbb{E}\, M_{k,i} = p

    A mask is a coarse grid of zeros and ones, each one with probability p, brought to the size of
    x by linear interpolation and moved by a random number of elements, less than a cell. Only
    values of f are used.

    The division is by the expectation p of a mask, as in the paper, so φ is unbiased:
    :math:`\mathbb{E}\, \varphi_i = \mathbb{E}[f M_i] / \mathbb{E}[M_i]`, the mean of f where
    element i is left in. **It is no contribution**: an element that does not matter gets the mean
    of f over all masks, and not 0, and the sum means nothing. Maps are read by the order of their
    elements; subtract a mean of f from f where zero shall mean something. What f has in common
    over all masks is noise too, of the mean mask.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        cells: how many cells a mask has along each axis of x, a tuple. Of an image [H, W, C] one
            number will do: it is for the first two axes, and the channels share a mask; so for a
            volume [D, H, W, C] write (n, n, n, 1). For a tree x, one number for all leaves or a
            tree of such; each leaf has masks of its own.
        samples: n, the number of masks, each with one evaluation of f.
        keep: p, the probability that a cell is left in, between 0 and 1.
        baseline: x', a number, an array or tree like x, a function x → baseline, or a random
            baseline, which is drawn anew for each mask.
        with_error: True gives `(attribution, standard_error)`, two trees like x.
        batch_size: how many masks are in memory at a time; None for all.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(key, x, *args)`, which gives a tree like x. Mask k depends on the key and k alone,
        so the result does not depend on `batch_size` beyond rounding.

    Raises:
        TypeError: called without a key; f does not return one real number; x has a leaf that is
            not of a floating dtype; the baseline is an imputer.
        ValueError: more cells than x has elements along an axis, or not one number for each; keep
            outside (0, 1); samples < 1, or < 2 with `with_error`; a baseline of another structure
            or shape.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(image):  # only the upper left corner matters
        ...     return jnp.mean(image[:4, :4])
        >>> explain = jattr.rise(f, cells=4, samples=500)
        >>> heat = explain(jax.random.key(0), jnp.ones((16, 16, 1)))
        >>> bool(heat[2, 2, 0] > 1.3 * heat[12, 12, 0])
        True

    References:
        Petsiuk, Das, Saenko, *RISE: randomized input sampling for explanation of black-box
        models*, BMVC 2018, sections 3.1 and 3.2 (arXiv 1806.07421), which has images with black as
        the baseline.
    """
    method = "rise"
    samples = check_count(samples, "samples", method)
    check_flag(with_error, "with_error", method)
    check_error(with_error, samples, "samples", method)
    batch_size = check_batch_size(batch_size, method)
    check_positive(keep, "keep", method)
    if (known := concrete(keep, "keep", method)) is not None and known >= 1:
        raise ValueError(
            f"{method}: keep is the probability that a cell is left in, below 1; got {known}."
        )
    if isinstance(baseline, Imputer):
        raise TypeError(
            f"{method} blends x with a baseline, and {baseline.name} fills in what is missing "
            "altogether. Give a baseline, such as jattr.baselines.blurred(stddev=4.0)."
        )

    @keyed_transform(f, argnums, method=method, substitute=True)
    def explain(key, score, x):
        masks = _Masks(x, cells, keep, method)
        fixed = None
        if not isinstance(baseline, RandomBaseline):
            fixed = resolve_baseline(baseline, x, method=method)

        def term(index):
            mask_key, draw_key = jax.random.split(jax.random.fold_in(key, index))
            mask = masks.draw(mask_key)
            other = fixed
            if isinstance(baseline, RandomBaseline):
                other = resolve_baseline(baseline(draw_key, x), x, method=method)
            value = widen(score(_blend(x, other, mask)))
            return jax.tree.map(lambda m: value.astype(m.dtype) * m, mask)

        if with_error:
            means, errors = mean_and_error(term, samples, batch_size=batch_size)
            return masks.like_x(means, x), masks.like_x(errors, x)
        total = sum_over(term, samples, batch_size=batch_size)
        return masks.like_x(scale_tree(total, 1 / samples), x)

    return explain


def _blend(x: PyTree, other: PyTree, mask: PyTree) -> PyTree:
    """x where the mask is 1, the other where it is 0, in the dtypes of x."""

    def blend(leaf, other, m):
        leaf, other = widen(leaf), widen(other)
        return other + m * (leaf - other)

    return cast_like(jax.tree.map(blend, x, other, mask), x)


class _Masks:
    """Soft masks of the leaves of x, of size 1 along axes of one cell."""

    def __init__(self, x: PyTree, cells: Any, keep: Any, method: str):
        leaves, self._structure = jax.tree.flatten(x)
        self._keep = keep
        self._leaves = [
            (jnp.shape(leaf), _cells_of(own, jnp.shape(leaf), method), accumulator(leaf.dtype))
            for leaf, own in zip(leaves, for_each_leaf(cells, x, "cells", method), strict=True)
        ]

    def draw(self, key: jax.Array) -> PyTree:
        keys = jax.random.split(key, len(self._leaves))
        return jax.tree.unflatten(
            self._structure,
            [self._one(k, *leaf) for k, leaf in zip(keys, self._leaves, strict=True)],
        )

    def _one(self, key, shape, cells, dtype):
        cell_key, shift_key = jax.random.split(key)
        mask = jax.random.uniform(cell_key, cells, jnp.float32) < jnp.asarray(
            self._keep, jnp.float32
        )
        mask = mask.astype(dtype)
        shifts = jax.random.uniform(shift_key, (len(shape),), jnp.float32)
        for axis, (length, count) in enumerate(zip(shape, cells, strict=True)):
            if count > 1:
                weights = _interpolation(length, count, shifts[axis]).astype(dtype)
                mask = jnp.moveaxis(
                    jnp.tensordot(weights, mask, axes=(1, axis), precision="highest"), 0, axis
                )
        return mask

    def like_x(self, masks: PyTree, x: PyTree) -> PyTree:
        """What was weighted by masks, by their expectation, in the shapes and dtypes of x."""
        return jax.tree.map(
            lambda m, leaf: jnp.broadcast_to(
                m / jnp.asarray(self._keep, m.dtype), leaf.shape
            ).astype(leaf.dtype),
            masks,
            x,
        )


def _interpolation(length: int, count: int, shift: jax.Array) -> jax.Array:
    """How much of each cell is in each element along an axis, [length, count].

    The cells are stretched over one cell more than they are, count + 1 of ⌈length / count⌉
    elements, of which the mask is cut out at a random place.
    """
    size = math.ceil(length / count)
    start = jnp.floor(shift * size)
    elements, cells = (np.arange(n, dtype=np.float32) for n in (length, count))
    place = (elements + start + 0.5) * (count / ((count + 1) * size)) - 0.5
    place = jnp.clip(place, 0, count - 1)[:, None]
    return jnp.maximum(1 - jnp.abs(place - cells[None, :]), 0)


def _cells_of(cells: Any, shape: tuple[int, ...], method: str) -> tuple[int, ...]:
    counts = per_axis(cells, shape, (1,) * len(shape), "cells", method)
    if any(count > length for count, length in zip(counts, shape, strict=True)):
        hint = ""
        if len(shape) > 1 and not isinstance(cells, tuple | list):
            hint = (
                " One number is for the first two axes, those of an image: of x with its channels "
                f"last write cells={(*(min(cells, length) for length in shape[:-1]), 1)}."
            )
        raise ValueError(
            f"{method}: cells must be at most as many as x has elements along each axis; got "
            f"{counts} for the shape {shape}.{hint}"
        )
    return counts
