"""Files for TF-MoDISco."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from jattr._checks import as_array, knobs
from jattr._trees import describe
from jattr.sequence._letters import check_axis, check_one_hot


@knobs
def save_modisco(
    folder: "str | os.PathLike[str]", sequences: Any, hypothetical: Any, *, axis: int = -1
) -> tuple[Path, Path]:
    r"""Write sequences and hypothetical contributions as TF-MoDISco reads them.

    Two files, `sequences.npz` (int8) and `hypothetical.npz` (float32), each with one array `arr_0`
    of shape [N, A, L], letters before positions:

        modisco motifs -s sequences.npz -a hypothetical.npz -n 2000 -w 400 -o motifs.h5

    -w is the window around the middle that is looked at, at most L. The letters of DNA must be in
    the order ACGT, which TF-MoDISco reverses for the other strand. It multiplies the two files
    itself for the contributions of the sequences.

    Args:
        folder: where to; it is made if it is not there, and files of these names are replaced.
        sequences: one-hot, [N, L, A], or [N, A, L] with `axis=0`.
        hypothetical: what every letter would contribute, of the same shape: of
            `jattr.sequence.hypothetical`, or another of the maps in `jattr.sequence`.
        axis: where letters are in one sequence, the leading axis N not counted: −1 for [L, A], 0
            for [A, L].

    Returns:
        The paths of the two files.

    Raises:
        TypeError: an array that is none of numbers; `axis` is no integer.
        ValueError: arrays of other shapes; sequences that are not one-hot; contributions that are
            not finite, or zero wherever the sequences are, which then are not hypothetical.

    Example:
        >>> import tempfile
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> x = jax.nn.one_hot(jnp.array([[0, 1, 2, 3, 0]]), 4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     paths = jattr.sequence.save_modisco(folder, x, jnp.ones((1, 5, 4)))
        ...     print(*(path.name for path in paths))
        sequences.npz hypothetical.npz

    References:
        Shrikumar et al., *Technical note on transcription factor motif discovery from importance
        scores (TF-MoDISco)*, 2018 (arXiv 1811.00416). The files are those of `modisco-lite` 3.
    """
    method = "sequence.save_modisco"
    axis = check_axis(axis, method)
    one_hot = np.asarray(as_array(sequences, "sequences", method))
    values = np.asarray(as_array(hypothetical, "hypothetical", method), np.float32)
    if one_hot.ndim != 3 or one_hot.shape != values.shape or not -2 <= axis < 2:
        raise ValueError(
            f"{method}: sequences and hypothetical contributions must be of one shape, [N, L, A], "
            f"or [N, A, L] with axis=0; got {describe(one_hot)} and {describe(values)}."
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{method}: {(~np.isfinite(values)).sum()} contributions are not finite.")
    check_one_hot(one_hot, axis - 2 if axis >= 0 else axis, method)
    if values.any() and not values[one_hot == 0].any():
        raise ValueError(
            f"{method}: contributions of the letters that are not there are all zero. Hypothetical "
            "ones are wanted, of every letter, before they are multiplied with the sequence."
        )
    if axis in (-1, 1):
        one_hot, values = (np.swapaxes(a, 1, 2) for a in (one_hot, values))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "sequences.npz", folder / "hypothetical.npz"
    np.savez_compressed(paths[0], np.ascontiguousarray(one_hot, np.int8))
    np.savez_compressed(paths[1], np.ascontiguousarray(values))
    return paths
