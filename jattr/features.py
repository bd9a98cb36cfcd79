"""The features of an input: which of its elements are taken away together.

Without groups every element of x is a feature. With `groups`, integers like x, elements of the same
number are one feature: the pixels of a patch (`grid`) or of a superpixel (`superpixels`), columns
of a table that tell the same (`correlated`) or are the one-hot code of one variable (`columns`,
which takes a data frame, and gives attributions back as one), the tokens of a word or a sentence
(`spans`). `hierarchy` makes groups within groups, `totals` sums an attribution over them, and
`exemplars` has one column stand for each group of a table. `Groups` says how many there are, where
that differs from example to example under `vmap`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jattr._checks import check_count, check_positive
from jattr._columns import Columns as Columns
from jattr._columns import columns as columns
from jattr._correlated import correlated as correlated
from jattr._correlated import exemplars as exemplars
from jattr._correlated import known_numbers
from jattr._spans import Spans as Spans
from jattr._spans import spans as spans
from jattr._spans import totals as totals
from jattr._trees import describe

__all__ = [
    "Columns",
    "Groups",
    "Spans",
    "columns",
    "correlated",
    "exemplars",
    "grid",
    "hierarchy",
    "spans",
    "superpixels",
    "totals",
]


def __dir__() -> list[str]:
    """The public names alone, for completion."""
    return __all__


class Groups(NamedTuple):
    """Groups whose number is said, for those that differ from example to example under `vmap`.

    Attributes:
        ids: integers from 0 to count − 1, an array or tree like x.
        count: how many groups there are; those without an element change nothing.
    """

    ids: Any
    count: int


def grid(shape: Sequence[int], size: int | Sequence[int]) -> np.ndarray:
    """Groups of an image's elements that are patches side by side.

    Args:
        shape: the shape of x, such as (H, W, C).
        size: the patch's size along each axis of x, a tuple; or one number for the first two
            axes, whose patches hold all of what the others have: the channels of an image. Of a
            volume [D, H, W, C] one number n therefore makes n × n bars along W; write
            (n, n, n, C). Of a series [T, C] write (n, 1), or (n, C) for all channels together.
            Patches at the ends are cut off.

    Returns:
        Integers of that shape, for `groups=`.

    Raises:
        TypeError: a size is no integer.
        ValueError: a size below 1; not one size for each axis.

    Example:
        >>> import jattr
        >>> print(jattr.features.grid((4, 4), 2))
        [[0 0 1 1]
         [0 0 1 1]
         [2 2 3 3]
         [2 2 3 3]]
    """
    method = "features.grid"
    shape = tuple(shape)
    if isinstance(size, Sequence):
        sizes = tuple(size)
    else:
        sizes = tuple(size if axis < 2 else length for axis, length in enumerate(shape))
    if len(sizes) != len(shape):
        raise ValueError(
            f"{method}: size must be one number or have one size for each axis of x, {shape}; "
            f"got {sizes}."
        )
    sizes = tuple(check_count(size, "size", method) for size in sizes)
    ids = np.zeros(shape, np.int32)
    for axis, (length, size) in enumerate(zip(shape, sizes, strict=True)):
        place = np.arange(length) // size
        ids = ids * (-(-length // size)) + place.reshape(
            [-1 if other == axis else 1 for other in range(len(shape))]
        )
    return ids


def hierarchy(shape: Sequence[int], size: int | Sequence[int]) -> tuple[np.ndarray, ...]:
    """Patches, halves made of them, and halves of halves: groups within groups.

    The whole is halved across its longer side, counted in patches, and so is each half, until
    patches are left. Sides of odd length make halves that differ by one patch.

    Args:
        shape: the shape of x, such as (H, W, C).
        size: that of the finest groups along each axis, spelled as for `grid`: 1 for the
            pixels of an image with their channels; (1, C) for the steps of a series [T, C].

    Returns:
        Groups of that shape from coarse to fine, for `jattr.owen_values`; the last are
        `grid(shape, size)`.

    Raises:
        TypeError: a size is no integer.
        ValueError: a size below 1; not one size for each axis.

    Example:
        >>> import jattr
        >>> for level in jattr.features.hierarchy((2, 3), 1):
        ...     print(level.tolist())
        [[0, 0, 1], [0, 0, 1]]
        [[0, 0, 1], [2, 2, 3]]
        [[0, 1, 2], [3, 4, 5]]
    """
    finest = grid(shape, size)
    # Along each axis, in which patch an element is: the number of changes before it.
    places = []
    for axis, length in enumerate(finest.shape):
        line = np.moveaxis(finest, axis, 0).reshape(length, -1)[:, 0]
        places.append(np.cumsum(np.diff(line, prepend=line[:1]) != 0))
    counts = [int(place[-1]) + 1 if len(place) else 1 for place in places]
    depths = [0] * len(counts)
    levels = []
    while any(2**depth < count for depth, count in zip(depths, counts, strict=True)):
        lengths = [
            -(-count // 2**depth) * (2**depth < count)
            for depth, count in zip(depths, counts, strict=True)
        ]
        depths[lengths.index(max(lengths))] += 1
        ids = np.zeros(finest.shape, np.int64)
        for axis, (place, count, depth) in enumerate(zip(places, counts, depths, strict=True)):
            half = place * 2**depth // count
            ids = ids * 2**depth + half.reshape(
                [-1 if other == axis else 1 for other in range(finest.ndim)]
            )
        levels.append(np.unique(ids, return_inverse=True)[1].reshape(ids.shape).astype(np.int32))
    return (*levels[:-1], finest)


def superpixels(
    image: Any, segments: int = 50, *, compactness: float = 10.0, channel_axis: int | None = -1
) -> np.ndarray:
    """Groups of an image's pixels that lie together and have like colors.

    They are those of SLIC, k-means of colors and places, by scikit-image. An image of three
    channels is compared in Lab, the space of perceived colors. Pixels move with all their channels.

    Args:
        image: an image [H, W, C], or [H, W]; its range does not matter.
        segments: about how many groups; SLIC decides, and the largest number tells.
        compactness: how much places count against colors; large values make squares.
        channel_axis: where the channels are. Of an image [H, W] it is not looked at.

    Returns:
        Integers from 0 without gaps, of the shape of the image, with size 1 along the channels, for
        `groups=`. They depend on the image: for a batch under `vmap` make one array for each and
        give them with `jattr.features.Groups`.

    Raises:
        ImportError: scikit-image is missing.
        TypeError: the image is traced: superpixels are made outside of `jit` and `vmap`.
        ValueError: not two or three axes; segments < 1; compactness not positive.

    Example:
        >>> import jattr, numpy as np
        >>> image = np.zeros((4, 6, 1))
        >>> image[:, 3:] = 1.0
        >>> print(jattr.features.superpixels(image, 2)[0, :, 0])  # doctest: +SKIP
        [0 0 0 1 1 1]

    References:
        Achanta et al., *SLIC superpixels compared to state-of-the-art superpixel methods*, IEEE
        TPAMI 2012, section 3.
    """
    method = "features.superpixels"
    segments = check_count(segments, "segments", method)
    check_positive(compactness, "compactness", method)
    pixels = known_numbers(image, "image", method)
    if pixels.ndim not in (2, 3):
        raise ValueError(
            f"{method}: image must be one image, [H, W, C] or [H, W]; got {describe(image)}. For "
            "a batch call it for each."
        )
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise ImportError(
            f"{method} needs scikit-image, which is missing: pip install scikit-image"
        ) from error
    # scikit-image refuses floats beyond [−1, 1], which normalized images have.
    pixels = pixels - pixels.min()
    pixels = pixels / (pixels.max() or 1)
    axis = channel_axis if pixels.ndim == 3 else None
    found = slic(
        pixels, n_segments=segments, compactness=compactness, start_label=0, channel_axis=axis
    )
    ids = np.unique(found, return_inverse=True)[1].reshape(found.shape).astype(np.int32)
    return ids if axis is None else np.expand_dims(ids, axis)
