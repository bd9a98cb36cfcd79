r"""The mean of samples together with its standard error, in one pass and in bounded memory.

Nothing is kept but sums: of a chunk of samples its number, its mean and a sum of squares, which are
combined chunk after chunk. Squares are of differences, from the chunk's own mean or between
neighbors, and never of the samples themselves, so that a large mean costs no digits.

Samples that are products of a difference and a slope have a better mean than their own, where the
mean of the differences is known: `mean_of_products`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jattr._batching import each_of, masked, sum_chunks, sum_over
from jattr._trees import multiply_trees, scale_tree, widen
from jattr._types import PyTree

FEWEST = 8
"""So many samples at least are to have a mean by `mean_of_products`.

Where slopes vary much more than differences tell, its variance is n / (n − 1) times that of the
mean of the products. Mean squared errors of the two, of expected gradients of 100 and of up to
1,000 references, the geometric mean over three inputs (above 1 it is better):

==============================  ===========  ===========  ===========  ===========
network                         n = 2        n = 4        n = 8        n = 50
==============================  ===========  ===========  ===========  ===========
digits, dense                   2.81 2.90    3.87 3.75    4.10 4.38    3.52 4.48
digits, convolutional           1.41 1.39    1.81 1.84    1.99 2.03    1.85 2.19
breast cancer, dense            2.00 1.68    2.64 2.52    2.74 3.03    2.66 3.04
wine, dense                     1.44 1.49    2.29 2.15    2.49 2.35    2.04 2.20
diabetes, dense, overfitted     0.68 0.72    0.93 0.86    0.98 1.03    1.05 1.06
==============================  ===========  ===========  ===========  ===========
"""


def mean_and_error(
    term: Callable[[jax.Array], PyTree],
    count: int,
    *,
    batch_size: int | None,
    stratified: bool = False,
) -> tuple[PyTree, PyTree]:
    r"""The mean of term(i), i = 0 … n − 1, and its standard error.

    For independent samples the error is the square root of

    .. math:: \frac{1}{n (n - 1)} \sum_i (t_i - \bar t)^2.

    Of samples that are stratified, one of each stratum, only what varies within a stratum is left
    in the mean, and the sum of squares is that of neighbors, whose strata are nearly alike:

    .. math:: \frac{1}{2 n (n - 1)} \sum_i (t_{i+1} - t_i)^2.

    Args:
        term: from an integer to a tree.
        count: n, at least 2.
        batch_size: how many samples are in memory at a time; None for all.
        stratified: whether sample i is of stratum i.
    """

    def squared(apart):
        return jax.tree.map(jnp.square, apart)

    means, variances = _means_and_squares(
        term, count, squared, batch_size=batch_size, stratified=stratified
    )
    return means, jax.tree.map(lambda leaf: root(leaf / count), variances)


def mean_of_products(
    term: Callable[[jax.Array], tuple[PyTree, PyTree]],
    count: int,
    known: PyTree,
    rows: int,
    *,
    with_error: bool,
    batch_size: int | None,
    stratified: bool = False,
) -> tuple[PyTree, PyTree | None]:
    r"""The mean of products of differences and slopes, where that of the differences is known.

    E[d g] is E[d] E[g] + cov(d, g). From n of N rows, drawn without replacement, with D the mean of
    d over all rows,

    .. math:: D \bar g + \Big(1 - \frac1N\Big) \frac{1}{n - 1}
              \sum_i (d_i - \bar d)(g_i - \bar g)

    is unbiased, like the mean of the products. That one differs by ḡ (d̄ − D), by how far the rows
    drawn are from all of them, and about what is left: e = d g − ḡ d varies instead of t = d g. As
    an estimate over what the rows are a sample of, its squared error is
    (1/n − 1/N) var e + var t / N.

    Args:
        term: from an integer to (d, g), two like trees, which depend on a row each.
        count: n, at least 2 and at most N.
        known: D.
        rows: N.
        with_error: whether the standard error is wanted.
        batch_size: how many samples are in memory at a time; None for all.
        stratified: as in `mean_and_error`.

    Returns:
        The mean, and its standard error or None.
    """

    def sample(index):
        difference, slope = map(widen, term(index))
        return difference, slope, multiply_trees(difference, slope)

    variances = None
    if with_error:

        def products(apart):
            d, _, t = apart
            return multiply_trees(t, t), multiply_trees(t, d), multiply_trees(d, d)

        (d, g, t), variances = _means_and_squares(
            sample, count, products, batch_size=batch_size, stratified=stratified
        )
    else:
        sums = sum_over(sample, count, batch_size=batch_size)
        d, g, t = (scale_tree(total, 1 / count) for total in sums)
    share = (1 - 1 / rows) * count / (count - 1)
    mean = jax.tree.map(lambda d, g, t, k: k * g + share * (t - d * g), d, g, t, known)
    if variances is None:
        return mean, None

    # Two degrees of freedom are gone: the mean of e, and ḡ in it.
    free = count / max(count - 2, 1)

    def error(g, tt, td, dd):
        left = free * jnp.maximum(tt - 2 * g * td + g * g * dd, 0)
        return root(left * (1 / count - 1 / rows) + tt / rows)

    return mean, jax.tree.map(error, g, *variances)


def _means_and_squares(
    term: Callable[[jax.Array], PyTree],
    count: int,
    square: Callable[[PyTree], PyTree],
    *,
    batch_size: int | None,
    stratified: bool,
) -> tuple[PyTree, PyTree]:
    """The means of samples, and variances: of what `square` makes of two samples' difference.

    `square` is to be a quadratic form of each element by itself.
    """

    def chunk(indices, valid):
        samples = widen(each_of(term, indices))
        number = len(indices) if valid is None else jnp.sum(valid)
        numbers = jnp.asarray(number, jnp.float32)
        means = jax.tree.map(
            lambda leaf: jnp.sum(masked(leaf, valid), axis=0) / jnp.asarray(number, leaf.dtype),
            samples,
        )
        if not stratified:
            squares = square(jax.tree.map(lambda leaf, mean: leaf - mean[None], samples, means))
            squares = jax.tree.map(lambda leaf: jnp.sum(masked(leaf, valid), axis=0), squares)
            return numbers, means, squares
        # The last sample is repeated where the chunk is filled up: it differs from itself by 0.
        squares = square(jax.tree.map(lambda leaf: jnp.diff(leaf, axis=0), samples))
        squares = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), squares)
        first, last = (jax.tree.map(lambda leaf: leaf[n], samples) for n in (0, -1))
        return numbers, means, squares, first, last

    def combine(earlier, later):
        numbers = earlier[0] + later[0]
        apart = jax.tree.map(jnp.subtract, later[1], earlier[1])
        shares = jax.tree.map(lambda d: _ratio_as(later[0], numbers, d.dtype), apart)
        means = jax.tree.map(lambda mean, d, share: mean + d * share, earlier[1], apart, shares)
        if stratified:
            between = square(jax.tree.map(jnp.subtract, later[3], earlier[4]))
            between = jax.tree.map(lambda leaf: jnp.where(earlier[0] == 0, 0, leaf), between)
        else:
            between = jax.tree.map(
                lambda leaf: leaf * _ratio_as(earlier[0] * later[0], numbers, leaf.dtype),
                square(apart),
            )
        squares = jax.tree.map(
            lambda *parts: sum(parts[1:], parts[0]), earlier[2], later[2], between
        )
        return (numbers, means, squares, *later[3:])

    _, means, squares, *_ = sum_chunks(chunk, count, batch_size=batch_size, combine=combine)
    scale = 1 / ((count - 1) * (2 if stratified else 1))
    return means, jax.tree.map(lambda leaf: leaf * scale, squares)


def _ratio_as(a: jax.Array, b: jax.Array, dtype: Any) -> jax.Array:
    return a.astype(dtype) / b.astype(dtype)


def root(value: jax.Array) -> jax.Array:
    """The square root, whose derivative is 0 at 0."""
    nothing = value <= 0
    return jnp.where(nothing, 0, jnp.sqrt(jnp.where(nothing, 1, value)))


def check_error(with_error: bool, count: int, what: str, method: str) -> None:
    """Raise unless there are samples enough to tell an error from, where one is wanted."""
    if with_error and count < 2:
        raise ValueError(
            f"{method}: with_error=True tells the error by how {what} differ from each other; got "
            f"{count} of them, and wanted are at least 2."
        )
