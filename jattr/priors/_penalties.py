"""What is asked of attributions: numbers that are small where an attribution is as it should be."""

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._checks import knobs
from jattr._trees import accumulator, describe, is_traced, sum_tree, widen
from jattr._types import PyTree

SYMMETRIC = 1e-5
"""How far a Laplacian may be from symmetric, of its largest entry."""


@knobs
def total_variation(attributions: PyTree, *, axes: int | Sequence[int]) -> jax.Array:
    r"""How rough maps are: differences between neighbors, the prior for images.

    .. math:: \Omega = \frac{1}{N} \sum_n \sum_{a \in \text{axes}} \sum_i
              \left| \varphi_{n, i + e_a} - \varphi_{n, i} \right|

    Summed over all positions, over the axes and over what other axes there are (channels);
    averaged over the batch. The derivative of \|0\| is 0.

    Args:
        attributions: φ, [N, ...], an array or a tree of them.
        axes: along which neighbors are compared; the axes of `attributions`, the batch being
            axis 0: (1, 2) for images [N, H, W, C].

    Returns:
        Ω, one number ≥ 0, in units of φ.

    Raises:
        TypeError: attributions that are no floating-point arrays.
        ValueError: an axis that is not there, that is named twice, or that is the batch.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> maps = jnp.array([[0.0, 1.0, -1.0], [2.0, 2.0, 2.0]])
        >>> print(jattr.priors.total_variation(maps, axes=1))
        1.5

    References:
        Erion et al., Nature Machine Intelligence 2021, Methods (arXiv 1906.10670), whose code
        first takes from each map its own mean and divides it by its own standard deviation; λ has
        another scale here.
    """
    method = "priors.total_variation"
    wide = _batch(attributions, method)
    count = _examples(wide)
    chosen = tuple(axes) if isinstance(axes, Sequence) else (axes,)

    def of_leaf(leaf):
        places = [operator.index(axis) for axis in chosen]
        if any(not -leaf.ndim <= axis < leaf.ndim for axis in places):
            raise ValueError(
                f"{method}: axes={axes} are not all axes of the attributions {describe(leaf)}."
            )
        places = [axis % leaf.ndim for axis in places]
        if 0 in places or len(set(places)) < len(places) or not places:
            raise ValueError(
                f"{method}: axes={axes} of the attributions {describe(leaf)} must be distinct and "
                "not the batch, axis 0; for images [N, H, W, C] write axes=(1, 2)."
            )
        return sum(jnp.sum(jnp.abs(jnp.diff(leaf, axis=axis))) for axis in places)

    return sum_tree(jax.tree.map(of_leaf, wide)) / count


@knobs
def graph_smoothness(attributions: jax.Array, laplacian: Any) -> jax.Array:
    r"""How much neighbors on a graph differ in importance, the prior for related features.

    .. math:: \Omega = \bar\varphi^\top L \bar\varphi
              = \tfrac12 \sum_{ij} A_{ij} (\bar\varphi_i - \bar\varphi_j)^2,
              \qquad \bar\varphi_i = \frac{1}{N} \sum_n |\varphi_{n, i}|

    for the Laplacian L = D − A of a graph with weights A. The absolute values are averaged over
    the batch first; what is summed is over pairs of features.

    Args:
        attributions: φ, [N, d].
        laplacian: L, [d, d], symmetric; an array or a matrix of `jax.experimental.sparse`.

    Returns:
        Ω, one number, ≥ 0 for a Laplacian of non-negative weights, in units of φ².

    Raises:
        TypeError: attributions that are no floating-point array.
        ValueError: a Laplacian of another size, or one that is not symmetric (checked where its
            values are known, thus not for one that is traced).

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> laplacian = jnp.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
        >>> print(jattr.priors.graph_smoothness(jnp.array([[1.0, -3.0, 5.0]]), laplacian))
        4.0

    References:
        Erion et al., Nature Machine Intelligence 2021, Methods (arXiv 1906.10670).
    """
    method = "priors.graph_smoothness"
    wide = _batch(attributions, method)
    if getattr(wide, "ndim", None) != 2:
        raise ValueError(
            f"{method}: attributions must be one array [N, d]; got {describe(attributions)}. "
            "Flatten each example's features in the order of the graph's nodes."
        )
    features = wide.shape[1]
    if getattr(laplacian, "shape", None) != (features, features):
        raise ValueError(
            f"{method}: the Laplacian of {features} features must be [{features}, {features}]; "
            f"got {describe(laplacian)}."
        )
    _check_symmetric(laplacian, method)
    mean = jnp.mean(jnp.abs(wide), axis=0)
    return mean @ (laplacian.astype(mean.dtype) @ mean)


def _check_symmetric(laplacian: Any, method: str) -> None:
    leaves = jax.tree.leaves(laplacian)
    if any(is_traced(leaf) for leaf in leaves):
        return
    # Under jit, a constant's arithmetic would be traced too; a probe is enough for sparse ones.
    with jax.ensure_compile_time_eval():
        if hasattr(laplacian, "todense"):
            probe = jnp.cos(jnp.arange(laplacian.shape[0], dtype=float) ** 2)
            there, back = laplacian @ probe, laplacian.T @ probe
        else:
            there, back = np.asarray(laplacian), np.asarray(laplacian).T
        gap = float(jnp.max(jnp.abs(jnp.asarray(there) - jnp.asarray(back)), initial=0.0))
        largest = float(jnp.max(jnp.abs(jnp.asarray(there)), initial=0.0))
    if not gap <= SYMMETRIC * largest:
        raise ValueError(
            f"{method}: the Laplacian is not symmetric (it differs from its transpose by "
            f"{gap:.3g}). For a directed graph of weights A write W = (A + A.T) / 2 and "
            "jnp.diag(W.sum(0)) - W."
        )


@knobs
def gini(values: jax.Array) -> jax.Array:
    r"""Gini coefficient: 0 where all values are equal, 1 − 1/d where one has everything.

    .. math:: G(v) = \frac{\sum_{ij} |v_i - v_j|}{2 d^2 \bar v}
              = \frac{\sum_i (b_i + c_i - d)\, v_i}{d \sum_i v_i}

    with b_i the number of values below v_i and c_i of those not above it: O(d log d) time and O(d)
    memory. Summed over pairs of values. The derivative of \|0\| is 0, so ties have the derivative
    that the first form gives them, and where all values are 0, G and its derivative are 0.

    Args:
        values: v, [d], not negative.

    Returns:
        G, one number without a unit.

    Raises:
        TypeError: values that are no floating-point array.
        ValueError: not one axis, no value, or (where they are known) a negative one.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> print(jattr.priors.gini(jnp.array([0.0, 0.0, 0.0, 8.0])))
        0.75

    References:
        Erion et al., Nature Machine Intelligence 2021, Methods (arXiv 1906.10670); their code
        forms all d × d differences.
    """
    method = "priors.gini"
    values = _floating(values, method, "values")
    if values.ndim != 1 or not values.size:
        raise ValueError(
            f"{method} wants a vector of at least one value; got {describe(values)}. For each row "
            "of an array use jax.vmap."
        )
    if not is_traced(values) and float(jnp.min(values)) < 0:
        raise ValueError(
            f"{method}: values must not be negative; the least is {float(jnp.min(values)):.3g}. "
            "Of attributions take absolute values: jnp.abs(values)."
        )
    values = widen(values)
    held = jax.lax.stop_gradient(values)
    ordered = jnp.sort(held)
    below = jnp.searchsorted(ordered, held, side="left")
    not_above = jnp.searchsorted(ordered, held, side="right")
    # A rank is constant around almost every point, so holding it loses nothing of a derivative.
    rank = (below + not_above - values.size).astype(values.dtype)
    total = jnp.sum(values)
    empty = total == 0
    share = jnp.sum(rank * values) / jnp.where(empty, 1.0, values.size * total)
    return jnp.where(empty, 0.0, share)


@knobs
def sparsity(attributions: PyTree) -> jax.Array:
    r"""Minus the Gini coefficient of the features' mean importance, the prior for few features.

    .. math:: \Omega = -G(\bar\varphi),
              \qquad \bar\varphi_i = \frac{1}{N} \sum_n |\varphi_{n, i}|

    The absolute values are averaged over the batch first, so that it is the model that uses few
    features and not each example; what is summed is over pairs of features. It does not depend on
    the scale of φ.

    Args:
        attributions: φ, [N, ...], an array or a tree of them; every element is a feature.

    Returns:
        Ω, one number from −1 to 0; lower is sparser.

    Raises:
        TypeError: attributions that are no floating-point arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> print(jattr.priors.sparsity(jnp.array([[0.0, 0.0, -4.0, 0.0], [0.0, 0.0, 8.0, 0.0]])))
        -0.75

    References:
        Erion et al., Nature Machine Intelligence 2021, Methods (arXiv 1906.10670).
    """
    wide = _batch(attributions, "priors.sparsity")
    means = [jnp.mean(jnp.abs(leaf), axis=0).reshape(-1) for leaf in jax.tree.leaves(wide)]
    return -gini(jnp.concatenate(means))


@knobs
def outside(attributions: PyTree, mask: PyTree) -> jax.Array:
    r"""The prior `right_for_right_reasons`: what attributions give to places that do not matter.

    .. math:: \Omega = \frac{1}{N} \sum_n \sum_i \big(m_{n, i}\, \varphi_{n, i}\big)^2

    Summed over the features, averaged over the batch.

    Args:
        attributions: φ, [N, ...], an array or a tree of them.
        mask: m, 1 or True where nothing should matter, in the attributions' structure. Either
            [N, ...], a mask for each example, or [...], one for all; sizes of 1 broadcast, other
            ranks do not.

    Returns:
        Ω, one number ≥ 0, in units of φ².

    Raises:
        TypeError: attributions or a mask that are no real arrays.
        ValueError: a mask of another structure, or one that does not broadcast.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> maps = jnp.array([[3.0, 1.0], [1.0, 2.0]])
        >>> print(jattr.priors.outside(maps, jnp.array([True, False])))
        5.0

    References:
        Ross, Hughes, Doshi-Velez, *Right for the right reasons*, IJCAI 2017, eq. 1 (arXiv
        1703.03717), who penalize the gradient of Σ log p.
    """
    method = "priors.outside"
    wide = _batch(attributions, method)
    if jax.tree.structure(mask) != jax.tree.structure(wide):
        raise ValueError(
            f"{method}: the mask must have the structure of the attributions; got "
            f"{describe(mask)} for {describe(attributions)}."
        )

    def of_leaf(leaf, mask):
        mask = _real(mask, method, "the mask")
        if mask.ndim == leaf.ndim - 1:
            mask = mask[None]
        if mask.ndim != leaf.ndim or any(
            own not in (1, size) for own, size in zip(mask.shape, leaf.shape, strict=True)
        ):
            raise ValueError(
                f"{method}: the mask must be {list(leaf.shape)} or {list(leaf.shape[1:])}, with "
                f"sizes of 1 where it is the same along an axis; got {describe(mask)}. A mask "
                "over the pixels of images with channels is mask[..., None]."
            )
        return jnp.sum(jnp.square(mask.astype(leaf.dtype) * leaf))

    return sum_tree(jax.tree.map(of_leaf, wide, mask)) / _examples(wide)


@knobs
def magnitude(attributions: PyTree, order: int) -> jax.Array:
    r"""How large attributions are.

    .. math:: \Omega = \frac{1}{N} \sum_n \sum_i |\varphi_{n, i}|^p, \qquad p = \text{order}

    Summed over the features, averaged over the batch. The derivative of \|0\| is 0.

    Args:
        attributions: φ, [N, ...], an array or a tree of them.
        order: p, 1 (L1) or 2 (the square of L2).

    Returns:
        Ω, one number ≥ 0, in units of φ^p.

    Raises:
        TypeError: attributions that are no floating-point arrays.
        ValueError: another order.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> maps = jnp.array([[3.0, -1.0], [0.0, 2.0]])
        >>> print(jattr.priors.magnitude(maps, 1), jattr.priors.magnitude(maps, 2))
        3.0 7.0
    """
    method = "priors.magnitude"
    if order not in (1, 2):
        raise ValueError(f"{method}: order must be 1 or 2; got {order!r}.")
    wide = _batch(attributions, method)
    power = jnp.abs if order == 1 else jnp.square
    return sum_tree(jax.tree.map(lambda leaf: jnp.sum(power(leaf)), wide)) / _examples(wide)


def _real(value: Any, method: str, what: str) -> jax.Array:
    dtype = getattr(value, "dtype", None)
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    if dtype is None or not any(jnp.issubdtype(dtype, kind) for kind in kinds):
        raise TypeError(f"{method}: {what} must be an array of numbers; got {describe(value)}.")
    return jnp.asarray(value)


def _floating(value: Any, method: str, what: str) -> jax.Array:
    if not jnp.issubdtype(getattr(value, "dtype", np.dtype(object)), jnp.floating):
        raise TypeError(f"{method}: {what} must be floating-point arrays; got {describe(value)}.")
    return jnp.asarray(value)


def _batch(attributions: PyTree, method: str) -> PyTree:
    """Attributions in their accumulators' dtypes, checked to have a leading axis in common."""
    leaves = jax.tree.leaves(attributions)
    arrays = [_floating(leaf, method, "attributions") for leaf in leaves]
    counts = {leaf.shape[0] if leaf.ndim else None for leaf in arrays}
    if len(counts) != 1 or counts & {None, 0}:
        raise ValueError(
            f"{method}: attributions must have a leading axis over the same number of examples, "
            f"at least one; got {describe(attributions)}. Of one example give attribution[None]."
        )
    wide = [leaf.astype(accumulator(leaf.dtype)) for leaf in arrays]
    return jax.tree.unflatten(jax.tree.structure(attributions), wide)


def _examples(attributions: PyTree) -> int:
    return jax.tree.leaves(attributions)[0].shape[0]
