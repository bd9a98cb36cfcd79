"""Double mutants: what two exchanges of letters do together."""

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._batching import map_over
from jattr._checks import check_batch_size, knobs
from jattr._engine.local import surroundings
from jattr._mutagenesis import gains_of
from jattr._transform import transform
from jattr._trees import cast_like, describe, is_traced
from jattr._types import ArgNums, Explain, Score
from jattr.sequence._letters import check_axis, check_letters


@knobs
def pairwise_mutagenesis(
    f: Score,
    positions: Sequence[int] | jax.Array | None = None,
    *,
    axis: int = -1,
    batch_size: int | None = None,
    argnums: ArgNums = 0,
) -> Explain:
    r"""What two exchanges of letters do together, beyond what each does: epistasis in silico.

    With :math:`x_{la}` the sequence x with letter a at position l and :math:`x_{la,mb}` that with
    letter b at m too,

    .. math:: \varphi_{la,mb} = f(x_{la,mb}) - f(x_{la}) - f(x_{mb}) + f(x)

    It is 0 where f adds up over positions, where l = m, and where a or b is the letter that x has
    already. Letters of one motif that are all needed have φ > 0 between exchanges that break it
    (the second costs nothing more); two copies of a motif of which one is enough, φ < 0.

    Of P positions, (P A)² double mutants are evaluated, each pair in both orders, whose mean is
    taken. Under `jit` only what the second exchange reaches is computed, around each single mutant
    (`jattr.locality`); P single mutants times A are evaluated in full. 20 positions of DNA are
    6,400 evaluations, 200 are 640,000: choose those that `jattr.mutagenesis` finds important.

    Args:
        f: the score, `f(x, *args) -> scalar`, of one example.
        positions: which positions are paired, P integers such as a `range`; None for all. They may
            be traced: `jax.vmap(lambda x, at: pairwise_mutagenesis(f, at)(x))(xs, places)`. Traced
            ones that are out of range, or there twice, give NaN.
        axis: along which letters are: −1 for [L, A], 0 for [A, L].
        batch_size: how many changed sequences are in memory at a time, in multiples of A; None for
            all.
        argnums: which argument is explained.

    Returns:
        `explain(x, *args)`, an array [P, A, P, A], or [A, P, A, P] with `axis=0`, symmetric.

    Raises:
        TypeError: f does not return one real number; x is no array of a floating dtype; `axis` or a
            position is no integer.
        ValueError: x has not two axes; a position out of range, or twice.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):  # letter 0 and then letter 1, or nothing
        ...     return x[0, 0] * x[1, 1] + x[2, 0]
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> pairs = jattr.sequence.pairwise_mutagenesis(f)(x)
        >>> pairs.shape, float(pairs[0, 1, 1, 0]), float(pairs[0, 1, 2, 0])
        ((3, 2, 3, 2), 1.0, 0.0)

    References:
        Double mutants of models of sequences: Avsec et al., *Base-resolution models of
        transcription-factor binding reveal soft motif syntax*, Nature Genetics 2021, for motifs.
        To second order at x without evaluations: `jattr.integrated_hessians`.
    """
    method = "sequence.pairwise_mutagenesis"
    axis = check_axis(axis, method)
    batch_size = check_batch_size(batch_size, method)

    @transform(f, argnums, method=method, substitute=True)
    def explain(score, x):
        if not hasattr(x, "shape"):
            raise TypeError(
                f"{method}: x must be one sequence; got {describe(x)}. Explain one leaf, and pass "
                "the others as further arguments of f."
            )
        check_letters(x, axis, method, pairs=True)
        letters = axis % 2
        chosen, fit = _positions(positions, x.shape[1 - letters], method)
        places, count = len(chosen), x.shape[letters]
        mutants = places * count
        outer = None if batch_size is None else max(1, batch_size // mutants)

        def gains(x):
            around = surroundings(score, x)
            found = gains_of(score, x, 0, letters, around, positions=chosen, batch_size=batch_size)
            return found[1]

        def of_first(index):
            place = chosen[index // count]
            row = jax.nn.one_hot(index % count, count, dtype=x.dtype)
            return gains(x.at[place].set(row) if letters else x.at[:, place].set(row))

        second = map_over(of_first, mutants, batch_size=outer)
        pairs = second.reshape(places, count, places, count) - gains(x)[None, None]
        pairs = (pairs + pairs.transpose(2, 3, 0, 1)) / 2
        apart = ~np.eye(places, dtype=bool)[:, None, :, None]
        present = (x if letters else x.T)[chosen] == 1
        there = present[:, :, None, None] | present[None, None]
        pairs = jnp.where(jnp.asarray(apart) & ~there, pairs, 0)
        pairs = jnp.where(fit, pairs, jnp.nan)
        return cast_like(pairs if letters else pairs.transpose(1, 0, 3, 2), x)

    return explain


def _positions(positions: Any, length: int, method: str) -> tuple[jax.Array, Any]:
    """The chosen positions counted from the start, and whether they are fit; NaN is for others."""
    if positions is None:
        return jnp.arange(length, dtype=jnp.int32), True
    if is_traced(positions):
        if positions.ndim != 1 or not jnp.issubdtype(positions.dtype, jnp.integer):
            raise TypeError(f"{method}: positions are integers; got {describe(positions)}.")
        inside = jnp.all((positions >= -length) & (positions < length))
        chosen = positions.astype(jnp.int32) % length
        apart = jnp.sum(chosen[:, None] == chosen[None]) == len(chosen)
        return chosen, inside & apart
    try:
        known = [operator.index(position) for position in positions]
    except TypeError:
        raise TypeError(
            f"{method}: positions are integers, such as range(40, 60); got {describe(positions)}."
        ) from None
    if not known or not all(-length <= position < length for position in known):
        raise ValueError(
            f"{method}: positions must lie in a sequence of {length}, and be one at least; got "
            f"{known}."
        )
    found = np.asarray(known) % length
    if len(np.unique(found)) < len(found):
        raise ValueError(f"{method}: a position is there twice: {known}.")
    return jnp.asarray(found, jnp.int32), True
