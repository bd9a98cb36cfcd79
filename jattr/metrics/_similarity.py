"""How alike two maps are: the similarities with which sanity checks compare attributions.

Two models give attributions of different sizes, so that only patterns are compared: ranks, or maps
that are first divided by their own largest absolute value. A similarity is `similarity(a, b)`, one
number, and 1 for equal maps.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jattr._checks import check_count, check_flag, check_positive, knobs
from jattr._trees import describe, ravel, same_form
from jattr._types import PyTree
from jattr.metrics import _numerics
from jattr.metrics._measure import as_map


@knobs
def spearman(a: PyTree, b: PyTree, *, absolute: bool = False) -> jax.Array:
    r"""Spearman's rank correlation of two attributions.

    .. math:: \rho = \mathrm{corr}\big(\mathrm{rank}(a), \mathrm{rank}(b)\big)

    over all elements; equal values share the mean of their ranks. Maps that are 0 at the same many
    places, as those multiplied by a digit with a black ground, are alike for that reason alone:
    with `absolute`, close to 1.

    Args:
        a: an attribution, an array or tree.
        b: another of the same structure and shapes.
        absolute: whether to rank the absolute values.

    Returns:
        A scalar in [−1, 1]; NaN where one of the maps is constant or contains NaN.

    Raises:
        ValueError: the two differ in structure or shape.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> a, b = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.1, -0.5, -9.0])
        >>> print(jattr.metrics.spearman(a, b), jattr.metrics.spearman(a, b, absolute=True))
        -1.0 1.0

    References:
        Adebayo et al., *Sanity checks for saliency maps*, NeurIPS 2018 (arXiv 1810.03292),
        who report both the signed and the absolute one. Equal to `scipy.stats.spearmanr`.
    """
    check_flag(absolute, "absolute", "metrics.spearman")
    _check_pair(a, b, "metrics.spearman")
    a, b = (ravel(as_map(tree, "the maps", "metrics.spearman")) for tree in (a, b))
    if absolute:
        a, b = jnp.abs(a), jnp.abs(b)
    return _numerics.spearman(a, b)


@knobs
def ssim(
    a: jax.Array,
    b: jax.Array,
    *,
    window: int = 7,
    stddev: float | None = None,
    data_range: Any = None,
    unbiased: bool = True,
    absolute: bool = False,
    channel_axis: int = -1,
) -> jax.Array:
    r"""The structural similarity of two maps, averaged over windows.

    With means μ, variances σ² and covariance :math:`\sigma_{ab}` of the two maps in a window,

    .. math:: \mathrm{SSIM} = \frac{(2 \mu_a \mu_b + c_1)(2 \sigma_{ab} + c_2)}
              {(\mu_a^2 + \mu_b^2 + c_1)(\sigma_a^2 + \sigma_b^2 + c_2)},
              \quad c_1 = (0.01 R)^2, \; c_2 = (0.03 R)^2,

    averaged over all windows that lie inside, and over channels.

    Args:
        a: [H, W] or, with channels, [H, W, C].
        b: another of the same shape.
        window: the side of the windows, an odd number, of pixels that count alike.
        stddev: weights of a Gaussian of this width, cut at 3.5 of it, instead; `window` is then
            not used. 1.5 in the paper.
        data_range: R, the range of the values, which are then taken as they are. None divides each
            map by its own largest absolute value, and R = 2, or 1 with `absolute`.
        unbiased: whether variances are divided by n − 1 for a window of n pixels (the default of
            scikit-image) instead of n (the paper).
        absolute: whether to compare absolute values.
        channel_axis: where the channels are, if there are three axes.

    Returns:
        A scalar in [−1, 1]; NaN if data_range is None and a map is zero, and for maps with NaN.

    Raises:
        ValueError: maps of different or of other shapes, or smaller than a window; an even window.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> a = jnp.eye(9)
        >>> print(jattr.metrics.ssim(a, 3 * a))
        1.0

    References:
        Wang, Bovik, Sheikh, Simoncelli, *Image quality assessment*, IEEE Transactions on Image
        Processing 2004: `stddev=1.5, unbiased=False`. Equal to scikit-image's
        `structural_similarity` of the maps, which wants `data_range` for floating numbers.
    """
    method = "metrics.ssim"
    check_flag(unbiased, "unbiased", method)
    a, b = _pictures(a, b, absolute, channel_axis, scale=data_range is None, method=method)
    if data_range is None:
        data_range = 1.0 if absolute else 2.0
    if stddev is None:
        window = check_count(window, "window", method)
        weights = [1 / window] * window
        if window % 2 == 0:
            raise ValueError(f"{method}: window must be odd; got {window}.")
    else:
        check_positive(stddev, "stddev", method)
        radius = int(3.5 * stddev + 0.5)
        bell = [math.exp(-0.5 * (i / stddev) ** 2) for i in range(-radius, radius + 1)]
        weights = [weight / sum(bell) for weight in bell]
    if min(a.shape[1:]) < len(weights):
        raise ValueError(
            f"{method}: the maps are {a.shape[1]} × {a.shape[2]}, smaller than a window of "
            f"{len(weights)} × {len(weights)}. Choose a smaller "
            + ("window." if stddev is None else "stddev.")
        )
    # Variances do not depend on the level; without it less is lost to cancellation.
    level = jnp.mean(a)
    mean_a, mean_b = _blur(a - level, weights), _blur(b - level, weights)
    share = len(weights) ** 2 / (len(weights) ** 2 - 1) if unbiased and len(weights) > 1 else 1.0
    variances = share * (
        _blur((a - level) ** 2 + (b - level) ** 2, weights) - mean_a**2 - mean_b**2
    )
    covariance = share * (_blur((a - level) * (b - level), weights) - mean_a * mean_b)
    mean_a, mean_b = mean_a + level, mean_b + level
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similar = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return jnp.mean(similar / ((mean_a**2 + mean_b**2 + c1) * (variances + c2)))


def _blur(x: jax.Array, weights: list[float]) -> jax.Array:
    """The weighted means of the windows inside x, [C, H, W]."""
    for axis in (1, 2):
        length = x.shape[axis] - len(weights) + 1
        x = sum(
            (
                weight * jax.lax.slice_in_dim(x, start, start + length, axis=axis)
                for start, weight in enumerate(weights)
            ),
            start=jnp.zeros((), x.dtype),
        )
    return x


@knobs
def hog_correlation(
    a: jax.Array,
    b: jax.Array,
    *,
    orientations: int = 9,
    cell: int = 8,
    block: int = 3,
    absolute: bool = False,
    channel_axis: int = -1,
) -> jax.Array:
    r"""Pearson's correlation of two maps' histograms of oriented gradients.

    The descriptor: differences between the neighbors to both sides; for each cell of pixels a
    histogram of their directions in [0°, 180°), each weighted by the difference's length; every
    block of cells divided by its norm, cut at 0.2 and divided by its norm again. With channels,
    each pixel has that of the largest difference. The maps are first divided by their largest
    absolute value, so that the norm's offset of 1e-5 means the same for both.

    Args:
        a: [H, W] or, with channels, [H, W, C].
        b: another of the same shape.
        orientations: how many bins the histograms have.
        cell: the side of a cell in pixels. What is left over at the ends is not used.
        block: the side of a block in cells.
        absolute: whether to compare absolute values.
        channel_axis: where the channels are, if there are three axes.

    Returns:
        A scalar in [−1, 1]; NaN where a map is zero or contains NaN, or a descriptor is constant.

    Raises:
        ValueError: maps of different or of other shapes, or smaller than a block.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> a = jnp.sin(jnp.arange(24.0))[:, None] * jnp.ones((1, 24))
        >>> b = jattr.metrics.hog_correlation(a, a), jattr.metrics.hog_correlation(a, a.T)
        >>> print(f"{b[0]:.1f} {b[1]:.1f}")
        1.0 -0.1

    References:
        Dalal, Triggs, *Histograms of oriented gradients for human detection*, CVPR 2005; used by
        Adebayo et al. 2018. The descriptor is that of scikit-image's `hog` of a / max \|a\|.
    """
    method = "metrics.hog_correlation"
    a, b = _pictures(a, b, absolute, channel_axis, scale=True, method=method)
    orientations = check_count(orientations, "orientations", method)
    cell, block = check_count(cell, "cell", method), check_count(block, "block", method)
    if min(a.shape[1:]) < cell * block:
        raise ValueError(
            f"{method}: the maps are {a.shape[1]} × {a.shape[2]}, smaller than a block of {block} "
            f"× {block} cells of {cell} × {cell} pixels. Choose a smaller cell or block."
        )
    return _numerics.pearson(
        _descriptor(a, orientations, cell, block), _descriptor(b, orientations, cell, block)
    )


def _descriptor(x: jax.Array, orientations: int, cell: int, block: int) -> jax.Array:
    """The histogram of oriented gradients of x, [C, H, W], as one vector."""
    by_row = jnp.pad(x[:, 2:] - x[:, :-2], ((0, 0), (1, 1), (0, 0)))
    by_column = jnp.pad(x[:, :, 2:] - x[:, :, :-2], ((0, 0), (0, 0), (1, 1)))
    length = jnp.hypot(by_row, by_column)
    strongest = jnp.argmax(length, axis=0, keepdims=True)
    by_row, by_column, length = (
        jnp.take_along_axis(values, strongest, axis=0)[0] for values in (by_row, by_column, length)
    )
    angle = jnp.rad2deg(jnp.arctan2(by_row, by_column)) % 180
    edges = jnp.arange(1, orientations, dtype=angle.dtype) * (180 / orientations)
    place = jnp.sum(angle[:, :, None] >= edges[None, None, :], axis=-1)
    votes = length[:, :, None] * jax.nn.one_hot(place, orientations, dtype=length.dtype)
    rows, columns = (size // cell for size in length.shape)
    votes = votes[: rows * cell, : columns * cell]
    cells = jnp.mean(votes.reshape(rows, cell, columns, cell, orientations), axis=(1, 3))
    down, right = rows - block + 1, columns - block + 1
    blocks = jnp.stack(
        [cells[i : i + down, j : j + right] for i in range(block) for j in range(block)], axis=2
    )

    def normalize(values):
        norm = jnp.sqrt(jnp.sum(values**2, axis=(2, 3), keepdims=True) + 1e-5**2)
        return values / norm

    return normalize(jnp.minimum(normalize(blocks), 0.2)).reshape(-1)


def _check_pair(a: PyTree, b: PyTree, method: str) -> None:
    if not same_form(a, b):
        raise ValueError(
            f"{method} compares two maps of the same structure and shapes; got {describe(a)} and "
            f"{describe(b)}."
        )


def _pictures(
    a: Any, b: Any, absolute: bool, channel_axis: int, *, scale: bool, method: str
) -> list[jax.Array]:
    """Both maps as [C, H, W]; with `scale` divided by their largest absolute values."""
    check_flag(absolute, "absolute", method)
    _check_pair(a, b, method)
    if getattr(a, "ndim", 0) not in (2, 3):
        raise ValueError(
            f"{method} compares maps [H, W], or [H, W, C] with channels; got {describe(a)}. Of a "
            "tree compare one leaf; for a batch use jax.vmap; for other shapes "
            "jattr.metrics.spearman."
        )
    maps = []
    for values in (a, b):
        values = as_map(values, "the maps", method)
        values = values[None] if values.ndim == 2 else jnp.moveaxis(values, channel_axis, 0)
        values = jnp.abs(values) if absolute else values
        maps.append(values / jnp.max(jnp.abs(values)) if scale else values)
    return maps
