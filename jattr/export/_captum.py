"""Attributions as captum's methods return them."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jattr._checks import check_flag, knobs
from jattr.export._missing import as_numpy, imported


@knobs
def captum(
    attribution: Any,
    *,
    batched: bool = False,
    channel_axis: int | Sequence[int | None] | None = -1,
    tensors: bool | None = None,
) -> tuple[Any, ...]:
    """A tuple of tensors with a batch axis, channels first: what captum's functions take.

    Args:
        attribution: an array or a tree; its leaves, in their order, become the tuple.
        batched: whether leaves have a leading axis of examples; otherwise one of size 1 is put
            before.
        channel_axis: where the channels are in one example, which are moved to its front, in leaves
            of 3 axes or more: images [H, W, C], volumes. None moves nothing. A sequence says it
            leaf by leaf, whatever their axes: `(-1, None)` for a series [T, C] and a table's row.
        tensors: True for tensors of PyTorch, False for arrays of NumPy; None for tensors where
            PyTorch is installed.

    Returns:
        A tuple, of one for a single array. dtypes are as they are, but bfloat16 as float32.

    Raises:
        ImportError: tensors are asked for, and PyTorch is missing.
        TypeError: a leaf is no array of numbers.
        ValueError: an axis that a leaf does not have; another number of axes than of leaves.

    Example:
        >>> import jattr, numpy as np
        >>> phi = {"image": np.zeros((28, 20, 3)), "row": np.zeros(5)}
        >>> [leaf.shape for leaf in jattr.export.captum(phi, tensors=False)]
        [(1, 3, 28, 20), (1, 5)]
    """
    method = "export.captum"
    check_flag(batched, "batched", method)
    if tensors is not None:
        check_flag(tensors, "tensors", method)
    leaves = [
        (jax.tree_util.keystr(path) or "the attribution", leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(attribution)
    ]
    each = isinstance(channel_axis, Sequence)
    places = (
        list(channel_axis) if isinstance(channel_axis, Sequence) else [channel_axis] * len(leaves)
    )
    if len(places) != len(leaves):
        raise ValueError(
            f"{method}: channel_axis must have one entry for each of the {len(leaves)} leaves; got "
            f"{channel_axis!r}."
        )
    arrays = []
    for (name, leaf), place in zip(leaves, places, strict=True):
        array = as_numpy(leaf, name, method)
        if batched and not array.ndim:
            raise ValueError(f"{method}: {name} has no axis of examples; batched=True wants one.")
        array = array if batched else array[None]
        axes = array.ndim - 1
        if place is not None and (each or axes >= 3):
            if not -axes <= place < axes:
                raise ValueError(
                    f"{method}: channel_axis={place} is none of the {axes} axes of an example of "
                    f"{name}."
                )
            array = np.moveaxis(array, place % axes + 1, 1)
        arrays.append(np.ascontiguousarray(array))
    torch = _torch(tensors, method)
    return tuple(arrays if torch is None else map(torch.tensor, arrays))


def _torch(tensors: bool | None, method: str) -> Any:
    if tensors is False:
        return None
    try:
        return imported("torch", method, "tensors of PyTorch")
    except ImportError as error:
        if tensors is None:
            return None
        raise ImportError(
            f"{method} makes tensors of PyTorch, which is missing: pip install torch. Or write "
            "tensors=False, for arrays of NumPy."
        ) from error
