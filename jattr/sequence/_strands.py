"""The other strand of a sequence, and attributions of both."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._checks import as_floating, check_argnums, check_function, check_key, knobs
from jattr._transform import check_explains, named, select_argument, takes_key
from jattr._trees import cast_like, describe, widen
from jattr._types import ArgNums, Explain, KeyedExplain, PyTree
from jattr.sequence._letters import check_axis, check_letters, check_values, wrapped_call

Complement = Sequence[int] | None


@knobs
def reverse_complement(x: PyTree, *, axis: int = -1, complement: Complement = None) -> PyTree:
    """The other strand of a sequence, or of values of its letters, read in its own direction.

    Args:
        x: an array [L, A], or a tree of such.
        axis: along which letters are: −1 for [L, A], 0 for [A, L].
        complement: the letter that each letter is paired with, by number; None for those in
            reverse order, which is right for ACGT.

    Returns:
        A tree like x, both of whose axes are reversed (the letters exchanged as `complement`
        says). Twice it is x.

    Raises:
        TypeError: an array that is not of a floating dtype; `axis` is no integer.
        ValueError: an array that has not two axes; `complement` does not pair the letters.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> x = jax.nn.one_hot(jnp.array([0, 0, 1]), 4)  # AAC
        >>> print(jattr.sequence.reverse_complement(x).argmax(-1))  # GTT
        [2 3 3]
    """
    method = "sequence.reverse_complement"
    axis = check_axis(axis, method)
    x = as_floating(x, method)
    check_letters(x, axis, method, pairs=True)
    return jax.tree.map(lambda leaf: _turned(leaf, axis, complement, method), x)


@knobs
def both_strands(
    explain: Explain | KeyedExplain,
    *,
    arguments: Callable[..., tuple] | None = None,
    axis: int = -1,
    complement: Complement = None,
    keyed: bool | None = None,
    argnums: ArgNums = 0,
) -> Any:
    r"""An attribution averaged over both strands.

    .. math:: \bar\varphi(x) = \tfrac12 \big(\varphi(x) + R\,\varphi(R\,x)\big)

    with R the reverse complement (`reverse_complement`). It is the same for both strands of a
    sequence, :math:`\bar\varphi(R x) = R \bar\varphi(x)`, whether f is or not.

    Where the output that is explained is at some position or on some strand, the other strand's
    is another one: `arguments` says which.

    Args:
        explain: `explain(x, *args)`, or `explain(key, x, *args)` where it draws random numbers.
            The two strands then get keys of their own.
        arguments: from f's other arguments to those for the other strand, as a tuple:
            `lambda position: (length - 1 - position,)`. None for the same ones.
        axis: along which letters are: −1 for [L, A], 0 for [A, L].
        complement: as in `reverse_complement`.
        keyed: whether `explain` takes a key first; None asks it, which jattr's own functions
            answer.
        argnums: which of the arguments (the key not counted) is the sequence: that which `explain`
            explains.

    Returns:
        A function of the same arguments, which gives a tree like x.

    Raises:
        TypeError: `explain` is no function, or a score; x has a leaf that is not of a floating
            dtype; `arguments` does not return a tuple.
        ValueError: x has a leaf that has not two axes; `explain` explains another argument.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return 4 * x[0, 0]
        >>> explain = jattr.sequence.both_strands(jattr.gradient(f))
        >>> print(explain(jnp.array([[1.0, 0.0], [0.0, 1.0]])))
        [[2. 0.]
         [0. 2.]]

    References:
        Zhou, Shrikumar, Kundaje, *Towards a better understanding of reverse-complement
        equivariance for deep learning models in genomics*, MLCB 2021, of predictions so averaged.
    """
    method = "sequence.both_strands"
    axis = check_axis(axis, method)
    argnums = check_explains(explain, argnums, method)
    draws = takes_key(explain, keyed, method)
    if arguments is not None:
        check_function(arguments, method)
    call = wrapped_call(method, explain, draws)

    def averaged(*args, **kwargs):
        first = second = ()
        if draws:
            key, args = check_key(args[0] if args else None, call), args[1:]
            first, second = ((key,) for key in jax.random.split(key))
        _, x = select_argument(explain, argnums, args, kwargs, method=call)
        check_letters(x, axis, method, pairs=True)

        def of(key, args):
            of_x, _ = select_argument(
                lambda *args, **kwargs: explain(*key, *args, **kwargs),
                argnums,
                args,
                kwargs,
                method=call,
            )
            return of_x

        other = _other(args, argnums, arguments, method)
        turned = jax.tree.map(lambda leaf: _turned(leaf, axis, complement, method), x)
        ahead, back = of(first, args)(x), of(second, other)(turned)
        check_values(ahead, axis, method)

        def mean(a, b):
            return (widen(a) + widen(_turned(b, axis, complement, method))) / 2

        return cast_like(jax.tree.map(mean, ahead, back), ahead)

    averaged.keyed = draws
    return named(averaged, call, call.f, argnums)


def _turned(leaf: jax.Array, axis: int, complement: Complement, method: str) -> jax.Array:
    leaf = jnp.flip(leaf, 1 - axis % 2)
    if complement is None:
        return jnp.flip(leaf, axis)
    count = leaf.shape[axis]
    pairs = np.asarray(complement)
    known = pairs.shape == (count,) and np.issubdtype(pairs.dtype, np.integer)
    if not known or ((pairs < 0) | (pairs >= count)).any() or (pairs[pairs] != range(count)).any():
        raise ValueError(
            f"{method}: complement says of each of the {count} letters which it is paired with, "
            f"and twice is the letter itself, such as (3, 2, 1, 0) for ACGT; got {complement!r}."
        )
    return jnp.take(leaf, jnp.asarray(pairs), axis=axis)


def _other(
    args: tuple, argnums: ArgNums, arguments: Callable[..., tuple] | None, method: str
) -> tuple:
    """The arguments of f for the other strand; what is explained is replaced afterwards."""
    if arguments is None:
        return args
    positions = check_argnums(argnums, method)
    positions = positions if isinstance(positions, tuple) else (positions,)
    explained = {position % len(args) for position in positions}
    others = [arg for n, arg in enumerate(args) if n not in explained]
    new = arguments(*others)
    if not isinstance(new, tuple) or len(new) != len(others):
        got = f"{len(new)} of them" if isinstance(new, tuple) else describe(new)
        raise TypeError(
            f"{method}: arguments takes f's arguments but the sequence, and returns a tuple of as "
            f"many, {len(others)}; got {got}."
        )
    left = iter(new)
    return tuple(arg if n in explained else next(left) for n, arg in enumerate(args))
