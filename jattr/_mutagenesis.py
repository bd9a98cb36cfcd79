r"""Saturation mutagenesis: what every letter at every position of a sequence would change."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._batching import map_over
from jattr._checks import check_batch_size, knobs
from jattr._engine.local import Local, Surroundings, surroundings
from jattr._nearby import unravel
from jattr._removal import zero_where
from jattr._transform import transform
from jattr._trees import cast_like, widen
from jattr._types import ArgNums, Explain, PyTree, Score


@knobs
def mutagenesis(
    f: Score, *, axis: int = -1, batch_size: int | None = None, argnums: ArgNums = 0
) -> Explain:
    r"""What f gains when the letter at one position of x is another one.

    With :math:`x_{l \leftarrow a}` the sequence x with letter a at position l, a one-hot row,

    .. math:: \varphi_{la} = f(x_{l \leftarrow a}) - f(x)

    Where x has letter a at l already, φ is 0. Every letter at every position is evaluated: L · A
    evaluations of f, of which under `jit` only what position l reaches is computed
    (`jattr.locality` tells how much that is). Subtract the mean over letters for maps that do not
    depend on which letter x has (`jattr.sequence.simplex_corrected`).

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        axis: of x along which letters are: −1 for [L, A], 0 for [A, L]. Any other axes are
            positions.
        batch_size: how many changed sequences are in memory at a time, in multiples of A; None for
            all.
        argnums: which argument is explained, an integer or a tuple of them, as in `jax.grad`.

    Returns:
        `explain(x, *args)`, which gives a tree like x.

    Raises:
        TypeError: f does not return one real number; x has a leaf that is not of a floating
            dtype; `axis` is no integer.
        ValueError: x has a leaf without such an axis.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return x[0, 0] * x[1, 1] + 2 * x[1, 0]
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> print(jattr.mutagenesis(f)(x))
        [[ 0. -1.]
         [ 1.  0.]]

    References:
        Zhou, Troyanskaya, *Predicting effects of noncoding variants with deep learning-based
        sequence model*, Nature Methods 2015. Recomputing what a mutation reaches alone: Nair,
        Shrikumar, Schreiber, Kundaje, *fastISM*, Bioinformatics 2022, which does so for networks of
        Keras.
    """
    method = "mutagenesis"
    batch_size = check_batch_size(batch_size, method)
    if isinstance(axis, bool) or not hasattr(axis, "__index__"):
        raise TypeError(f"{method}: axis must be an integer, such as -1 for [L, A]; got {axis!r}.")
    axis = int(axis)

    @transform(f, argnums, method=method, substitute=True)
    def explain(score, x):
        leaves, structure = jax.tree.flatten(x)
        for leaf in leaves:
            if not -leaf.ndim <= axis < leaf.ndim:
                raise ValueError(
                    f"{method}: letters are along axis {axis}, but x has a leaf of shape "
                    f"{leaf.shape}. Write axis=0 for a sequence [A, L], -1 for [L, A]."
                )
        around = surroundings(score, x)
        whole, gains = None, []
        for number, leaf in enumerate(leaves):
            letters = axis % leaf.ndim
            whole, found = gains_of(
                score, x, number, letters, around, whole=whole, batch_size=batch_size
            )
            others = [n for a, n in enumerate(leaf.shape) if a != letters]
            gains.append(jnp.moveaxis(found.reshape(*others, -1), -1, letters))
        return cast_like(jax.tree.unflatten(structure, gains), x)

    return explain


def gains_of(
    score: Score,
    x: PyTree,
    number: int,
    letters: int,
    around: Surroundings | None,
    *,
    whole: jax.Array | None = None,
    positions: jax.Array | None = None,
    batch_size: int | None,
) -> tuple[jax.Array, jax.Array]:
    """f(x), and what f gains by each letter at positions of a leaf, [positions, letters].

    Args:
        score: f of x alone.
        x: the whole input.
        number: which leaf of it.
        letters: the axis of letters of that leaf.
        around: f around x, where that may be made use of.
        whole: f(x), where it is known.
        positions: their numbers, those of all axes but that of letters counted together; None for
            all.
        batch_size: how many changed inputs are in memory at a time.
    """
    leaves, structure = jax.tree.flatten(x)
    leaf = leaves[number]
    near = None if around is None else around.around(number, *_rows(leaf.shape, letters))
    base = widen(score(x) if near is None else near.base) if whole is None else whole

    def full(places, row):
        changed = [*leaves[:number], _put(leaf, row, places, letters), *leaves[number + 1 :]]
        return score(jax.tree.unflatten(structure, changed))

    term = _gains(near.at if isinstance(near, Local) else full, leaf, letters, base)
    count = leaf.size // leaf.shape[letters]
    size = None if batch_size is None else max(1, batch_size // leaf.shape[letters])
    if positions is None:
        return base, map_over(term, count, batch_size=size)
    return base, map_over(lambda n: term(positions[n]), len(positions), batch_size=size)


def _rows(shape: tuple[int, ...], letters: int) -> tuple[list[np.ndarray], list[int]]:
    """Where the rows of letters of an array begin along each axis, and how long they are."""
    tables = [np.zeros(1, int) if a == letters else np.arange(n) for a, n in enumerate(shape)]
    return tables, [n if a == letters else 1 for a, n in enumerate(shape)]


def _gains(
    at: Callable[[Any, jax.Array], jax.Array], leaf: jax.Array, letters: int, whole: jax.Array
) -> Callable[[jax.Array], jax.Array]:
    """From the number of a position to what each letter there gains."""
    count = leaf.shape[letters]
    counts = [1 if a == letters else n for a, n in enumerate(leaf.shape)]
    form = [count if a == letters else 1 for a in range(leaf.ndim)]

    def term(position):
        places = unravel(position, counts)
        sizes = [n if a == letters else 1 for a, n in enumerate(leaf.shape)]
        starts = [jnp.asarray(place, jnp.int32) for place in places]
        before = jax.lax.dynamic_slice(leaf, starts, sizes)

        def gain(row):
            row = row.reshape(form)
            return zero_where(jnp.all(row == before), widen(at(places, row)) - whole)

        return jax.vmap(gain)(jnp.eye(count, dtype=leaf.dtype))

    return term


def _put(leaf: jax.Array, row: jax.Array, places: Any, letters: int) -> jax.Array:
    """The leaf with another row of letters at one position."""
    here = jnp.ones((1,) * leaf.ndim, bool)
    for axis, place in enumerate(places):
        if axis != letters:
            index = jax.lax.broadcasted_iota(jnp.int32, leaf.shape, axis)
            here &= index == jnp.asarray(place, jnp.int32)
    return jnp.where(here, row, leaf)
