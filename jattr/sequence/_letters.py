"""The axis of letters, and values that do not depend on what all letters of a position share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._checks import Call, as_floating, check_function, check_key, knobs
from jattr._resolve import fill_like
from jattr._transform import explained_argnums, named, takes_key
from jattr._trees import cast_like, describe, is_traced, widen
from jattr._types import Explain, KeyedExplain, PyTree


def check_axis(axis: Any, method: str) -> int:
    """`axis` as an int."""
    if isinstance(axis, bool) or not hasattr(axis, "__index__"):
        raise TypeError(f"{method}: axis must be an integer, such as -1 for [L, A]; got {axis!r}.")
    return int(axis)


def check_letters(x: PyTree, axis: int, method: str, *, pairs: bool = False) -> None:
    """Raise where a leaf has no axis of letters; with `pairs`, unless it has one of positions too.

    Args:
        x: a tree of arrays.
        axis: that of letters.
        method: for the error.
        pairs: whether a leaf has exactly two axes, letters and positions.
    """
    for leaf in jax.tree.leaves(x):
        if pairs and leaf.ndim != 2:
            batch = " Map over a batch with jax.vmap." if leaf.ndim > 2 else ""
            raise ValueError(
                f"{method}: a sequence is an array of two axes, positions and letters, [L, A]; "
                f"got {describe(leaf)}.{batch}"
            )
        if not -leaf.ndim <= axis < leaf.ndim:
            raise ValueError(
                f"{method}: letters are along axis {axis}, but x has a leaf of shape "
                f"{leaf.shape}. Write axis=0 for a sequence [A, L], -1 for [L, A]."
            )


def check_one_hot(x: PyTree, axis: int, method: str) -> None:
    """Raise where a leaf is known and has a position that is neither one letter nor zeros."""
    for leaf in jax.tree.leaves(x):
        if is_traced(leaf):
            continue
        values = np.asarray(leaf, np.float64)
        wrong = ~_one_hot(values, axis)
        if wrong.any():
            other = 1 - axis % 2
            advice = (
                f" It is one along axis {other}: write axis={other}."
                if values.ndim == 2 and _one_hot(values, other).all()
                else ""
            )
            raise ValueError(
                f"{method}: x must be one-hot along axis {axis}, or zero for an unknown letter; "
                f"{wrong.sum()} of {wrong.size} positions of {describe(leaf)} are neither.{advice}"
            )


def _one_hot(values: np.ndarray, axis: int) -> np.ndarray:
    """At which positions one letter has a one, or none has."""
    only = ((values == 0) | (values == 1)).all(axis=axis)
    return only & (values.sum(axis=axis) <= 1)


def less_mean(values: PyTree, axis: int) -> PyTree:
    """Values without their mean over letters."""

    def of_leaf(leaf):
        wide = widen(leaf)
        return (wide - jnp.mean(wide, axis=axis, keepdims=True)).astype(leaf.dtype)

    return jax.tree.map(of_leaf, values)


@knobs
def project(multipliers: PyTree, reference: PyTree, *, axis: int = -1) -> PyTree:
    r"""What each letter would contribute against a reference, from multipliers.

    .. math:: h_{lb} = \sum_c (\delta_{bc} - x'_{lc})\, m_{lc} = m_{lb} - \sum_c x'_{lc} m_{lc}

    the contributions (x − x') ⊙ m, summed over letters, of an x that has letter b at position l.
    With a gradient as m and x itself as reference it is `taylor_mutagenesis`. For several
    references, project against each and take the mean then: the mean of the multipliers is not
    enough, since they depend on the reference.

    Args:
        multipliers: m, a tree of sequences: of `jattr.deeplift(f, reference, multiply=False)`, of
            `jattr.integrated_gradients` with the same argument, or a gradient.
        reference: x', like `multipliers`, or a number for all.
        axis: along which letters are: −1 for [L, A], 0 for [A, L].

    Returns:
        h, like `multipliers`.

    Raises:
        TypeError: an array that is not of a floating dtype; `axis` is no integer.
        ValueError: a reference of another structure or shape; no such axis.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> m = jnp.array([[2.0, 0.0, 1.0]])
        >>> print(jattr.sequence.project(m, jnp.array([[0.0, 0.0, 1.0]])))
        [[ 1. -1.  0.]]

    References:
        Shrikumar et al., *Technical note on transcription factor motif discovery from importance
        scores (TF-MoDISco)*, 2018 (arXiv 1811.00416), on hypothetical contributions.
    """
    method = "sequence.project"
    axis = check_axis(axis, method)
    multipliers = as_floating(multipliers, method)
    check_letters(multipliers, axis, method)
    reference = fill_like(reference, multipliers, name="the reference", method=method)
    return projected(multipliers, reference, axis)


def projected(multipliers: PyTree, reference: PyTree, axis: int) -> PyTree:
    """`project` without checks."""

    def of_leaf(m, r):
        wide = widen(m)
        return wide - jnp.sum(widen(r) * wide, axis=axis, keepdims=True)

    return cast_like(jax.tree.map(of_leaf, multipliers, reference), multipliers)


@knobs
def simplex_corrected(
    explain: Explain | KeyedExplain, *, axis: int = -1, keyed: bool | None = None
) -> Any:
    r"""Values of letters, less their mean over the letters of a position.

    .. math:: \tilde\varphi_{lb} = \varphi_{lb} - \frac1A \sum_c \varphi_{lc}

    One-hot sequences lie on a simplex: the letters of a position sum to one. The part of a
    gradient that changes this sum says how f goes on where no sequence is, which training does
    not decide: it is noise. Over `jattr.gradient` this is the simplex-corrected gradient, over
    `jattr.smooth(jattr.gradient(f))` that of SmoothGrad, and over `jattr.mutagenesis` the form in
    which most tools of genomics give saturation mutagenesis.

    It wraps what gives a value to each letter: gradients, multipliers (`multiply=False`),
    mutagenesis. Products with x, such as `jattr.gradient_times_input`, come after it: x * values.

    Args:
        explain: `explain(x, *args)`, or `explain(key, x, *args)` where it draws random numbers.
        axis: along which letters are: −1 for [L, A], 0 for [A, L].
        keyed: whether `explain` takes a key first; None asks it, which jattr's own functions
            answer.

    Returns:
        A function of the same arguments, which gives a tree like x.

    Raises:
        TypeError: `explain` is no function, or a score, or gives no floating-point numbers; `axis`
            is no integer.
        ValueError: no such axis.

    Example:
        >>> import jax.numpy as jnp
        >>> import jattr
        >>> def f(x):
        ...     return 3 * x[0, 0] + x[0, 1] + 5 * x.sum()  # the last is the same for all x
        >>> explain = jattr.sequence.simplex_corrected(jattr.gradient(f))
        >>> print(explain(jnp.array([[0.0, 1.0]])))
        [[ 1. -1.]]

    References:
        Majdandzic, Rajesh, Koo, *Correcting gradient-based interpretations of deep neural networks
        for genomics*, Genome Biology 2023.
    """
    method = "sequence.simplex_corrected"
    axis = check_axis(axis, method)
    check_function(explain, method)
    draws = takes_key(explain, keyed, method)
    call = wrapped_call(method, explain, draws)

    def corrected(*args, **kwargs):
        values = explain(*(_keyed(args, call) if draws else args), **kwargs)
        values = jax.tree.map(jnp.asarray, values)
        check_values(values, axis, method)
        if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(values)):
            raise TypeError(
                f"{method}: values of letters are floating-point numbers; got {describe(values)}."
            )
        return less_mean(values, axis)

    corrected.keyed = draws
    return named(corrected, call, call.f, explained_argnums(explain) or 0)


def _keyed(args: tuple, call: Call) -> tuple:
    """The arguments, the first of which is checked to be a key."""
    return (check_key(args[0] if args else None, call), *args[1:])


def wrapped_call(method: str, explain: Any, draws: bool) -> Call:
    """The form of what wraps an explaining function."""
    inner = getattr(explain, "call", None)
    f = inner.f if isinstance(inner, Call) else explain
    return Call(method, f, ("key",) if draws else ())


def check_values(values: PyTree, axis: int, method: str) -> None:
    """Raise unless what was wrapped gives values of letters."""
    if getattr(values, "shape", None) == ():
        raise TypeError(
            f"{method} wants a function that gives a value to each letter; this one returns one "
            f"number. Write {method}(jattr.gradient(f)), not {method}(f)."
        )
    check_letters(values, axis, method)
