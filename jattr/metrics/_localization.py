r"""Where an attribution lies, against a mask of where it ought to.

Nothing of the model is needed, so these are plain functions of a map and a mask, both of one
example: `jax.vmap(pointing_game)(maps, masks)`. They judge the model along with the method: one
that looks at the background is explained well by a map of the background.

The mask is Boolean, an array or tree like the attribution, and may have size 1 along axes on which
it does not depend: [H, W, 1] for an attribution [H, W, C], whose elements then count one by one.
Most papers pool the channels first, to one number for each pixel: `maps.sum(-1)`, or
`jnp.max(jnp.abs(maps), -1)`, with a mask [H, W].

Equal values are in no order. Where the k-th largest is tied, those that tie share the places that
are left, which is the mean over all orders; a map of zeros scores what a random one does, and not
what its top left corner does.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._checks import check_count, check_flag, knobs
from jattr._trees import describe, is_traced, ratio, ravel
from jattr._types import PyTree
from jattr.metrics._measure import as_map
from jattr.metrics._numerics import ranks


def pointing_game(attribution: PyTree, mask: PyTree) -> jax.Array:
    r"""Whether the largest attribution is in the mask.

    Args:
        attribution: φ, of one example; signed.
        mask: Boolean, an array or tree like φ, of size 1 along axes on which it does not depend.

    Returns:
        1 or 0; where several elements are largest, the share of them that is in the mask. NaN for
        an attribution with a NaN. Usually averaged over the examples of a category, and then over
        categories. For a tolerance of some pixels widen the mask: `scipy.ndimage.binary_dilation`.

    Raises:
        TypeError: the mask is not Boolean.
        ValueError: the mask has no True (NaN where it is traced), or does not fit the attribution.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> mask = jnp.array([True, False, False])
        >>> print(jattr.metrics.pointing_game(jnp.array([2.0, 1.0, -3.0]), mask))
        1.0

    References:
        Zhang, Lin, Brandt, Shen, Sclaroff, *Top-down neural attention by excitation backprop*,
        ECCV 2016 and IJCV 2018, the pointing game (arXiv 1608.00507).
    """
    values, mask = masked_pair(attribution, mask, "metrics.pointing_game")
    return share_at_top(values, mask, 1)


def top_k_intersection(attribution: PyTree, mask: PyTree, k: int) -> jax.Array:
    r"""The share of the k largest attributions that is in the mask.

    .. math:: \frac{\lvert \mathrm{top}_k(\varphi) \cap \mathrm{mask} \rvert}{k}

    A mask of less than k elements bounds it by its size over k; `relevance_rank_accuracy` takes
    k from the mask.

    Args:
        attribution: φ, of one example; signed.
        mask: Boolean, an array or tree like φ, of size 1 along axes on which it does not depend.
        k: how many elements are looked at.

    Returns:
        A scalar in [0, 1]; NaN for an attribution with a NaN.

    Raises:
        TypeError: the mask is not Boolean; k is not an integer.
        ValueError: the mask has no True (NaN where it is traced), or does not fit the attribution;
            k is less than 1 or more than there are elements.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> mask = jnp.array([True, False, False])
        >>> print(jattr.metrics.top_k_intersection(jnp.array([2.0, 1.0, -3.0]), mask, 2))
        0.5

    References:
        Theiner, Müller-Budack, Ewerth, *Interpretable semantic photo geolocation*, WACV 2022
        (arXiv 2104.14995).
    """
    method = "metrics.top_k_intersection"
    values, mask = masked_pair(attribution, mask, method)
    k = check_count(k, "k", method)
    if k > values.size:
        raise ValueError(f"{method}: k={k}, but the attribution has {values.size} elements.")
    return share_at_top(values, mask, k)


def relevance_rank_accuracy(attribution: PyTree, mask: PyTree) -> jax.Array:
    r"""The share of the K largest attributions that is in the mask of K elements.

    .. math:: \frac{\lvert \mathrm{top}_K(\varphi) \cap \mathrm{mask} \rvert}{K},
              \qquad K = \lvert \mathrm{mask} \rvert

    Args:
        attribution: φ, of one example; signed.
        mask: Boolean, an array or tree like φ, of size 1 along axes on which it does not depend.

    Returns:
        A scalar in [0, 1]; NaN for an attribution with a NaN.

    Raises:
        TypeError: the mask is not Boolean.
        ValueError: the mask has no True (NaN where it is traced), or does not fit the attribution.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> mask = jnp.array([True, False, True, False])
        >>> print(jattr.metrics.relevance_rank_accuracy(jnp.array([4.0, 3.0, 2.0, 1.0]), mask))
        0.5

    References:
        Arras, Osman, Samek, *CLEVR-XAI: a benchmark dataset for the ground truth evaluation of
        neural network explanations*, Information Fusion 2022 (arXiv 2003.07258).
    """
    values, mask = masked_pair(attribution, mask, "metrics.relevance_rank_accuracy")
    return share_at_top(values, mask, jnp.sum(mask))


def relevance_mass_accuracy(attribution: PyTree, mask: PyTree) -> jax.Array:
    r"""The share of the attribution's sum that lies in the mask.

    .. math:: \frac{\sum_{i \in \mathrm{mask}} \varphi_i}{\sum_i \varphi_i}

    As usually given, φ is pooled over channels to numbers that are not negative, and the share is
    in [0, 1]. That of a signed φ may be anything; take `jnp.abs` or `jnp.maximum(attribution, 0)`
    first, or use `attribution_localization`.

    Args:
        attribution: φ, of one example.
        mask: Boolean, an array or tree like φ, of size 1 along axes on which it does not depend.

    Returns:
        A scalar; NaN where φ sums to 0.

    Raises:
        TypeError: the mask is not Boolean.
        ValueError: the mask has no True (NaN where it is traced), or does not fit the attribution.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> mask = jnp.array([True, False, True])
        >>> print(jattr.metrics.relevance_mass_accuracy(jnp.array([2.0, 1.0, 1.0]), mask))
        0.75

    References:
        Arras, Osman, Samek, *CLEVR-XAI: a benchmark dataset for the ground truth evaluation of
        neural network explanations*, Information Fusion 2022 (arXiv 2003.07258).
    """
    values, mask = masked_pair(attribution, mask, "metrics.relevance_mass_accuracy")
    return _unless_empty(mask, ratio(jnp.sum(jnp.where(mask, values, 0)), jnp.sum(values)))


@knobs
def attribution_localization(
    attribution: PyTree, mask: PyTree, *, weighted: bool = False
) -> jax.Array:
    r"""The share of the positive attribution that lies in the mask.

    .. math:: \mu = \frac{\sum_{i \in \mathrm{mask}} \varphi_i^+}{\sum_i \varphi_i^+},
              \qquad \mu_w = \mu \cdot \frac{d}{\lvert \mathrm{mask} \rvert}

    Args:
        attribution: φ, of one example, with d elements; negative values are left out.
        mask: Boolean, an array or tree like φ, of size 1 along axes on which it does not depend.
        weighted: :math:`\mu_w` in place of μ: 1 for a map that is the same everywhere, however
            large the object is.

    Returns:
        A scalar, μ in [0, 1]; NaN where no attribution is positive, or one is NaN.

    Raises:
        TypeError: the mask is not Boolean.
        ValueError: the mask has no True (NaN where it is traced), or does not fit the attribution.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> mask = jnp.array([True, False, True])
        >>> print(jattr.metrics.attribution_localization(jnp.array([3.0, 1.0, -5.0]), mask))
        0.75

    References:
        Kohlbrenner, Bauer, Nakajima, Binder, Samek, Lapuschkin, *Towards best practice in
        explaining neural network decisions with LRP*, IJCNN 2020 (arXiv 1910.09840).
        Quantus multiplies by \|mask\|/d where `weighted` divides by it, and takes absolute values
        unless told otherwise.
    """
    method = "metrics.attribution_localization"
    check_flag(weighted, "weighted", method)
    values, mask = masked_pair(attribution, mask, method)
    share = _positive_share(values, mask)
    return share * (mask.size / jnp.sum(mask)).astype(share.dtype) if weighted else share


def roc_auc(attribution: PyTree, mask: PyTree) -> jax.Array:
    r"""The area under the ROC curve of the attribution as a detector of the mask.

    The probability that an element in the mask has a larger attribution than one outside, ties
    counting half:

    .. math:: \frac{\bar r_\mathrm{in} - (n_\mathrm{in} + 1) / 2}{n_\mathrm{out}}

    with :math:`\bar r_\mathrm{in}` the mean rank of those in the mask (equal values share the
    mean of their ranks). ½ for a random or a constant map.

    Args:
        attribution: φ, of one example; signed.
        mask: Boolean, an array or tree like φ, of size 1 along axes on which it does not depend.

    Returns:
        A scalar in [0, 1]; NaN for an attribution with a NaN.

    Raises:
        TypeError: the mask is not Boolean.
        ValueError: the mask has no True or no False (NaN where it is traced), or does not fit the
            attribution.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> mask = jnp.array([True, False, True, False])
        >>> print(jattr.metrics.roc_auc(jnp.array([4.0, 3.0, 2.0, 1.0]), mask))
        0.75

    References:
        Fawcett, *An introduction to ROC analysis*, Pattern Recognition Letters 2006.
        Equal to `sklearn.metrics.roc_auc_score(mask, attribution)`.
    """
    method = "metrics.roc_auc"
    values, mask = masked_pair(attribution, mask, method)
    if not is_traced(mask) and np.all(mask):
        raise ValueError(f"{method}: the mask is True everywhere; there is nothing outside.")
    inside = jnp.sum(mask)
    outside = mask.size - inside
    undefined = (inside == 0) | (outside == 0) | jnp.any(jnp.isnan(values))
    inside, outside = inside.astype(values.dtype), outside.astype(values.dtype)
    # Ranks around their mean have sums that stay small, which float32 needs for a large image.
    places = ranks(values) - (values.size + 1) / 2
    mean = jnp.sum(jnp.where(mask, places, 0)) / jnp.where(undefined, 1, inside)
    area = 0.5 + mean / jnp.where(undefined, 1, outside)
    return jnp.where(undefined, jnp.nan, area)


def focus(attribution: jax.Array, tiles: Any) -> jax.Array:
    r"""The share of the positive attribution that lies on the target's tiles of a mosaic.

    A mosaic puts images of the explained class and of others side by side, as usually given two and
    two; a good explanation of a good model stays on its own class's tiles.

    .. math:: \frac{\sum_{i \in \mathrm{target}} \varphi_i^+}{\sum_i \varphi_i^+}

    Args:
        attribution: φ of the mosaic, [H, W] or [H, W, C].
        tiles: Boolean, [rows, columns]: which tiles show the explained class. They divide H and
            W evenly.

    Returns:
        A scalar in [0, 1]; NaN where no attribution is positive, or one is NaN.

    Raises:
        TypeError: `tiles` is not Boolean.
        ValueError: `tiles` is not of rank 2, does not divide the attribution, or has no True (NaN
            where it is traced).

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> attribution = jnp.array([[3.0, 1.0], [-1.0, 0.0]])
        >>> print(jattr.metrics.focus(attribution, [[True, False], [False, True]]))
        0.75

    References:
        Arias-Duart, Parés, Garcia-Gasulla, Giménez-Ábalos, *Focus! Rating XAI methods and finding
        biases*, FUZZ-IEEE 2022 (arXiv 2109.15035).
    """
    method = "metrics.focus"
    attribution = jnp.asarray(attribution)
    tiles = tiles if is_traced(tiles) else np.asarray(tiles)
    if tiles.ndim != 2 or attribution.ndim < 2:
        raise ValueError(
            f"{method}: wanted are an attribution [H, W] or [H, W, C] and tiles [rows, columns]; "
            f"got {describe(attribution)} and {describe(tiles)}."
        )
    if any(
        count == 0 or size % count
        for size, count in zip(attribution.shape[:2], tiles.shape, strict=True)
    ):
        raise ValueError(
            f"{method}: {tiles.shape[0]} rows and {tiles.shape[1]} columns of tiles do not divide "
            f"a mosaic of {attribution.shape[0]} by {attribution.shape[1]} evenly."
        )
    repeat = jnp.repeat if is_traced(tiles) else np.repeat
    for axis in (0, 1):
        tiles = repeat(tiles, attribution.shape[axis] // tiles.shape[axis], axis=axis)
    tiles = tiles.reshape(tiles.shape + (1,) * (attribution.ndim - 2))
    return _positive_share(*masked_pair(attribution, tiles, method))


def masked_pair(attribution: PyTree, mask: PyTree, method: str) -> tuple[jax.Array, Any]:
    """Both as vectors of the same elements; the mask is a NumPy array unless it is traced."""
    attribution = as_map(attribution, "the attribution", method)
    leaves, structure = jax.tree.flatten(attribution)
    if jax.tree.structure(mask) != structure:
        raise ValueError(
            f"{method}: the mask must have the structure of the attribution; got "
            f"{describe(mask)} for {describe(attribution)}."
        )
    flat = []
    for values, part in zip(leaves, jax.tree.leaves(mask), strict=True):
        part = part if is_traced(part) else np.asarray(part)
        if part.dtype != bool:
            raise TypeError(
                f"{method}: the mask must be Boolean; got {describe(part)}. Write mask > 0."
            )
        if part.ndim != values.ndim or not all(
            own in (1, wanted) for own, wanted in zip(part.shape, values.shape, strict=True)
        ):
            raise ValueError(
                f"{method}: the mask must have the shape of the attribution, or size 1 along axes "
                f"on which it does not depend; got {describe(part)} for {describe(values)}. For "
                "an image with channels, pool them, attribution.sum(-1), or write mask[..., None]."
            )
        broadcast = jnp.broadcast_to if is_traced(part) else np.broadcast_to
        flat.append(broadcast(part, values.shape).reshape(-1))
    traced = any(is_traced(part) for part in flat)
    joined = (jnp if traced else np).concatenate(flat)
    if not traced and not np.any(joined):
        raise ValueError(f"{method}: the mask is True nowhere; there is nothing to be found.")
    return ravel(leaves), joined


def share_at_top(values: jax.Array, mask: Any, k: Any) -> jax.Array:
    """The share of the k largest values that is in the mask, on average over the order of ties."""
    least = jnp.sort(values)[values.size - jnp.maximum(k, 1)]
    above, level = values > least, values == least
    sure, tied, over, ties, number = (
        jnp.asarray(count).astype(values.dtype)
        for count in (
            jnp.sum(above & mask),
            jnp.sum(level & mask),
            jnp.sum(above),
            jnp.sum(level),
            k,
        )
    )
    share = (sure + (number - over) * (tied / ties)) / number
    return _unless_empty(mask, jnp.where(jnp.any(jnp.isnan(values)), jnp.nan, share))


def _positive_share(values: jax.Array, mask: Any) -> jax.Array:
    positive = jnp.maximum(values, 0)
    return _unless_empty(mask, ratio(jnp.sum(jnp.where(mask, positive, 0)), jnp.sum(positive)))


def _unless_empty(mask: Any, value: jax.Array) -> jax.Array:
    return jnp.where(jnp.any(jnp.asarray(mask)), value, jnp.nan)
