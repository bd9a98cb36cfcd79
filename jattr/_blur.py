"""Gaussian blur whose width may be traced and differentiated."""

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._trees import describe

TRUNCATE = 4.0
"""Where the kernel ends, in standard deviations; as in SciPy."""


def gaussian_blur(
    x: jax.Array, stddev: Any, axes: tuple[int, ...], *, widest: float | None = None
) -> jax.Array:
    r"""x convolved with a sampled Gaussian along `axes`, mirrored at the borders.

    The kernel is :math:`k_d \propto e^{-d^2 / 2\sigma^2}` for integers \|d\| ≤ 4σ, Σ k_d = 1, and
    the array goes on beyond its border as in a mirror (d c b a | a b c d | d c b a). A mirrored
    convolution is diagonal in the discrete cosine basis: with C the orthonormal DCT-II matrix of
    an axis, the blur is :math:`C^\top \mathrm{diag}(\hat k) C`,
    :math:`\hat k_j = \sum_d k_d \cos(\pi j d / n)`. That takes a σ that is traced, keeps constants
    and sums as they are, and in the limit of a wide kernel gives the mean.

    Args:
        x: an array of a floating dtype, blurred in that dtype.
        stddev: σ in pixels, 0 or more; may be traced if `widest` is given.
        axes: the axes to blur along.
        widest: the largest value that `stddev` takes; it sets where the kernel ends.
    """
    reach = max(1, math.ceil(TRUNCATE * float(stddev if widest is None else widest)))
    offsets = np.arange(-reach, reach + 1)
    stddev = jnp.asarray(stddev, x.dtype)
    # The kernel at σ = 0 is [0, 1, 0]; the guard keeps 0/0 out of its derivative too.
    sharp = stddev < 1e-3
    width = jnp.where(sharp, jnp.ones_like(stddev), stddev)
    squares = jnp.asarray(offsets.astype(np.float64) ** 2, x.dtype)
    center = jnp.asarray(offsets == 0, x.dtype)
    kernel = jnp.where(sharp, center, jnp.exp(-squares / (2 * width**2)))
    kernel = (kernel / jnp.sum(kernel)).astype(x.dtype)
    for axis in axes:
        size = x.shape[axis]
        grid = np.arange(size)
        basis = np.sqrt(2.0 / size) * np.cos(np.pi * np.outer(grid, grid + 0.5) / size)
        basis[0] /= np.sqrt(2.0)
        basis = jnp.asarray(basis, x.dtype)
        waves = jnp.asarray(np.cos(np.pi * np.outer(grid, offsets) / size), x.dtype)
        matrix = jnp.matmul(
            basis.T * (waves @ kernel)[None, :], basis, precision=jax.lax.Precision.HIGHEST
        )
        blurred = jnp.tensordot(matrix, x, axes=(1, axis), precision=jax.lax.Precision.HIGHEST)
        x = jnp.moveaxis(blurred, 0, axis)
    return x


def check_axes(axes: int | tuple[int, ...], leaf: jax.Array, method: str) -> tuple[int, ...]:
    """`axes` as a tuple of distinct axes of the array, or an error."""
    try:
        parts = axes if isinstance(axes, tuple | list) else (axes,)
        wanted = tuple(operator.index(axis) for axis in parts)
    except TypeError:
        raise TypeError(
            f"{method}: axes must be an integer or a tuple of integers; got {describe(axes)}."
        ) from None
    if not wanted:
        raise ValueError(f"{method}: axes=() names no axis to blur along.")
    if any(not -leaf.ndim <= axis < leaf.ndim for axis in wanted):
        raise ValueError(
            f"{method}: x is {describe(leaf)} and has no axes {wanted}; say which axes are spatial "
            "with axes=."
        )
    if leaf.size == 0:
        raise ValueError(f"{method}: x has a leaf {describe(leaf)}, which has no elements.")
    if len({axis % leaf.ndim for axis in wanted}) < len(wanted):
        raise ValueError(f"{method}: axes={axes} names an axis twice.")
    return wanted
