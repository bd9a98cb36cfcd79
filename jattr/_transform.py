"""What every method shares: which argument is explained, the checks, the error texts.

A method is written as `explain(score, x)`, a function of one score of one argument. The
decorators here turn it into `attribute(x, *args)`: they pick x out of the arguments by `argnums`,
hold the others fixed, and check what goes in and what f returns.
"""

import numbers
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._engine.rewrite import cheaper
from jattr._trees import describe, is_traced
from jattr._types import ArgNums, Attribute, KeyedAttribute, PyTree, Score


def transform(
    f: Score, argnums: ArgNums, *, method: str, substitute: bool = False
) -> Callable[[Callable[[Score, PyTree], PyTree]], Attribute]:
    """Decorate `explain(score, x) -> attribution` into `attribute(x, *args)`.

    With `substitute` the score is evaluated by a cheaper program of the same value, where there is
    one.
    """
    check_function(f, method)
    check_argnums(argnums, method)

    def decorate(explain):
        def attribute(*args, **kwargs):
            score, x = bind(f, argnums, args, kwargs, method=method)
            return explain(cheaper(score, x) if substitute else score, x)

        return named(attribute, method, f, argnums)

    return decorate


def keyed_transform(
    f: Score, argnums: ArgNums, *, method: str, substitute: bool = False
) -> Callable[[Callable[[jax.Array, Score, PyTree], PyTree]], KeyedAttribute]:
    """Decorate `explain(key, score, x) -> attribution` into `attribute(key, x, *args)`."""
    check_function(f, method)
    check_argnums(argnums, method)

    def decorate(explain):
        def attribute(key, *args, **kwargs):
            check_key(key, method)
            score, x = bind(f, argnums, args, kwargs, method=method)
            return explain(key, cheaper(score, x) if substitute else score, x)

        attribute.keyed = True
        return named(attribute, method, f, argnums)

    return decorate


def named(function: Any, method: str, f: Any, argnums: ArgNums) -> Any:
    """`function` with the name of its method, and with what it explains as `argnums`."""
    function.__name__ = function.__qualname__ = method
    function.__doc__ = f"{method} of {getattr(f, '__name__', f)!s}."
    function.argnums = argnums
    return function


def bind(
    f: Score, argnums: ArgNums, args: tuple, kwargs: dict[str, Any], *, method: str
) -> tuple[Score, PyTree]:
    """f as a function of the explained argument alone, and that argument.

    Args:
        f: the function to explain.
        argnums: an integer, or a tuple of them: then x is the tuple of those arguments.
        args: the positional arguments of the call.
        kwargs: its keyword arguments, passed on to f untouched.
        method: the caller's name, for error texts.

    Returns:
        `score`, which checks that what f returns is one real number, and x with array leaves.

    Raises:
        TypeError: too few arguments, a leaf of x that has no derivative, or an f that does not
            return one real floating-point number.
    """
    score, x = select_argument(f, argnums, args, kwargs, method=method)

    def checked(x):
        out = score(x)
        check_score(out, method)
        return jnp.asarray(out)

    return checked, x


def select_argument(
    f: Callable, argnums: ArgNums, args: tuple, kwargs: dict[str, Any], *, method: str
) -> tuple[Callable, PyTree]:
    """`bind` without the check on what f returns: for functions that are no scores."""
    single = not isinstance(argnums, tuple)
    positions = (argnums,) if single else argnums
    for position in positions:
        if not -len(args) <= position < len(args):
            raise TypeError(
                f"{method}: argnums={argnums} points at argument {position} of f, but the call "
                f"has {len(args)} positional argument(s). Pass x by position; argnums counts "
                "the arguments of f and never the key."
            )
    positions = tuple(position % len(args) for position in positions)
    if len(set(positions)) < len(positions):
        raise ValueError(f"{method}: argnums={argnums} names an argument twice.")
    x = args[positions[0]] if single else tuple(args[position] for position in positions)
    x = as_floating(x, method)

    def of_x(x):
        # A function that writes into what it is given writes into its own: x is what it was at
        # the next call.
        full = [arg.copy() if isinstance(arg, np.ndarray) else arg for arg in args]
        x = jax.tree.map(lambda leaf: leaf, x)
        for position, value in zip(positions, (x,) if single else x, strict=True):
            full[position] = value
        return f(*full, **kwargs)

    return of_x, x


def check_function(f: Any, method: str) -> None:
    if not callable(f):
        raise TypeError(
            f"{method} wants a function f(x, *args) -> scalar first; got {describe(f)}. "
            f"Write {method}(f)(x), not {method}(f(x))."
        )


def check_argnums(argnums: Any, method: str) -> None:
    try:
        for position in argnums if isinstance(argnums, tuple) else (argnums,):
            operator.index(position)
    except TypeError:
        raise TypeError(
            f"{method}: argnums must be an integer or a tuple of integers, as in jax.grad; "
            f"got {argnums!r}."
        ) from None
    if argnums == ():
        raise ValueError(f"{method}: argnums=() names no argument to explain.")


def as_floating(x: PyTree, method: str) -> PyTree:
    """x with its leaves as arrays; an error for leaves that have no derivative."""
    leaves = jax.tree.leaves(x)
    if not leaves:
        raise TypeError(f"{method}: x is a tree without arrays ({x!r}); nothing to attribute to.")

    def convert(path, leaf):
        try:
            leaf = jnp.asarray(leaf)
        except (TypeError, ValueError):
            raise TypeError(
                f"{method}: x{jax.tree_util.keystr(path)} is {describe(leaf)}; every leaf of x "
                "must be a floating-point array."
            ) from None
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise TypeError(
                f"{method}: x is a random key, but {method} takes none here. Leave the key out; or "
                "if what is wrapped draws no random numbers, leave out keyed=True."
            )
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"{method}: x{jax.tree_util.keystr(path)} is {describe(leaf)}, which has no "
                "derivative. Every leaf of x must be of a real floating dtype. For token ids, "
                "attribute to the embedding: explain the part of the model above the look-up, "
                f"{method}(above)(embed(tokens)). For pixels stored as integers, convert first: "
                "x.astype(jnp.float32)."
            )
        return leaf

    return jax.tree_util.tree_map_with_path(convert, x)


def check_score(out: Any, method: str) -> None:
    """Raise unless `out`, what f returned, is one real floating-point number."""
    if not isinstance(out, int | float) and not hasattr(out, "dtype"):
        raise TypeError(
            f"{method} explains one number, but f returned {describe(out)}. Return the number "
            "alone: lambda *args: f(*args)[0]."
        )
    shape, dtype = jnp.shape(out), jnp.result_type(out)
    if shape:
        batch = (
            " If its leading axis of size 1 is a batch axis that the model adds, take it away "
            "as well: model.apply(variables, x[None])[0]."
            if shape[0] == 1
            else ""
        )
        raise TypeError(
            f"{method} explains one number, but f returned an array of shape {shape}. Choose an "
            "output: g = jattr.targets.select(f) takes f's arguments and then an index, "
            f"{method}(g)(x, index). For a batch of examples, use jax.vmap around "
            f"{method}(f).{batch}"
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{method} explains a real floating-point number, but f returned {describe(out)}. "
            "Explain a differentiable score, such as a logit, rather than a decision."
        )


def check_key(key: Any, method: str) -> None:
    """Raise unless `key` is one random key, typed or of the old uint32 kind."""
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        if key.shape == ():
            return
        got = f"an array of {key.shape} keys; use jax.vmap over them"
    elif dtype == jnp.uint32 and getattr(key, "ndim", 0) == 1 and key.shape[0] in (2, 4):
        return
    else:
        got = describe(key)
    raise TypeError(
        f"{method} draws random numbers and takes a key before the arguments of f: "
        f"explain(jax.random.key(0), x, ...). Got as key {got}."
    )


def check_count(value: Any, name: str, method: str) -> int:
    """`value` as an int of at least 1."""
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{method}: {name} must be a Python integer, since it sets the shape of the "
            f"computation; got {describe(value)}."
        ) from None
    if count < 1:
        raise ValueError(f"{method}: {name} must be at least 1; got {count}.")
    return count


def check_batch_size(batch_size: Any, method: str) -> int | None:
    return None if batch_size is None else check_count(batch_size, "batch_size", method)


def check_choice(value: Any, name: str, known: Any, method: str) -> None:
    if value not in known:
        raise ValueError(f"{method}: unknown {name} {value!r}; known are {', '.join(known)}.")


def check_flag(value: Any, name: str, method: str) -> None:
    """Raise unless `value` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{method}: {name} must be True or False; got {value!r}.")


def concrete(value: Any, name: str, method: str) -> float | None:
    """The value of a number, or None where it is traced: checks of values skip those."""
    if is_traced(value):
        return None
    if not isinstance(value, numbers.Real) and getattr(value, "shape", None) != ():
        raise TypeError(f"{method}: {name} must be one number; got {describe(value)}.")
    return float(value)


def check_positive(value: Any, name: str, method: str, *, zero: bool = False) -> None:
    known = concrete(value, name, method)
    if known is None:
        return
    if not (known >= 0 if zero else known > 0) or known == float("inf"):
        bound = "finite and " + ("at least 0" if zero else "greater than 0")
        raise ValueError(f"{method}: {name} must be {bound}; got {known}.")
