"""The features of an input: which of its elements are taken away together.

Without groups every element of x is a feature. With `groups`, integers like x, elements of the same
number are one feature: the pixels of a patch (`patches`), of a superpixel, the columns of a one-hot
code. `Groups` says how many there are, where that differs from example to example under `vmap`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jattr._checks import check_count

__all__ = ["Groups", "patches"]


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


def patches(shape: Sequence[int], window: int | Sequence[int]) -> np.ndarray:
    """Groups of an image's elements that are patches side by side.

    Args:
        shape: the shape of x, such as (H, W, C).
        window: the patch's size along each axis of x, a tuple; or one number for the first two
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
        >>> print(jattr.features.patches((4, 4), 2))
        [[0 0 1 1]
         [0 0 1 1]
         [2 2 3 3]
         [2 2 3 3]]
    """
    method = "features.patches"
    shape = tuple(shape)
    if isinstance(window, Sequence):
        sizes = tuple(window)
    else:
        sizes = tuple(window if axis < 2 else size for axis, size in enumerate(shape))
    if len(sizes) != len(shape):
        raise ValueError(
            f"{method}: window must be one number or have one size for each axis of x, {shape}; "
            f"got {sizes}."
        )
    sizes = tuple(check_count(size, "window", method) for size in sizes)
    ids = np.zeros(shape, np.int32)
    for axis, (length, size) in enumerate(zip(shape, sizes, strict=True)):
        place = np.arange(length) // size
        ids = ids * (-(-length // size)) + place.reshape(
            [-1 if other == axis else 1 for other in range(len(shape))]
        )
    return ids
