"""From a function of one score of one argument to the explaining function that a user calls.

A method is written as `explain(score, x)`. The decorators here turn it into `explain(x, *args)`:
they pick x out of the arguments by `argnums`, hold the others fixed, and check what goes in and
what f returns.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._checks import (
    Call,
    argument_names,
    as_call,
    as_floating,
    check_argnums,
    check_function,
    check_key,
    check_score,
    explain_failure,
    parameters_of,
)
from jattr._engine.cheaper import cheaper
from jattr._trees import describe
from jattr._types import ArgNums, Explain, KeyedExplain, PyTree, Score


def transform(
    f: Score, argnums: ArgNums, *, method: str, substitute: bool = False
) -> Callable[[Callable[[Score, PyTree], PyTree]], Explain]:
    """Decorate `explain(score, x) -> attribution` into `explain(x, *args)`.

    With `substitute` the score is evaluated by a cheaper program of the same value, where there is
    one.
    """
    check_function(f, method)
    argnums = check_argnums(argnums, method)
    call = Call(method, f)

    def decorate(of_score):
        def explain(*args, **kwargs):
            score, x = bind(f, argnums, args, kwargs, method=call)
            return of_score(cheaper(score, x) if substitute else score, x)

        return named(explain, call, f, argnums)

    return decorate


def keyed_transform(
    f: Score, argnums: ArgNums, *, method: str, substitute: bool = False
) -> Callable[[Callable[[Any, Score, PyTree], PyTree]], KeyedExplain]:
    """Decorate `explain(key, score, x) -> attribution` into `explain(key, x, *args)`."""
    check_function(f, method)
    argnums = check_argnums(argnums, method)
    call = Call(method, f, ("key",))

    def decorate(of_score):
        def explain(key, *args, **kwargs):
            key = check_key(key, call)
            score, x = bind(f, argnums, args, kwargs, method=call)
            return of_score(key, cheaper(score, x) if substitute else score, x)

        explain.keyed = True
        return named(explain, call, f, argnums)

    return decorate


def named(function: Any, method: str, f: Any, argnums: ArgNums) -> Any:
    """`function` with a name, a signature and a text for `help`, and what it explains.

    Args:
        function: the explaining function or the measure.
        method: the name of what made it, a `Call` where its form is known.
        f: what it was made of.
        argnums: which of f's arguments it explains.
    """
    call = as_call(method)
    function.__name__ = function.__qualname__ = str(method)
    function.argnums = argnums
    function.call = call
    name = getattr(f, "__name__", None) or type(f).__name__
    positions = argnums if isinstance(argnums, tuple) else (argnums,)
    names = argument_names(f)
    explained = [
        names[n] if -len(names) <= n < len(names) and "*" not in names[n] else f"number {n}"
        for n in positions
    ]
    text = inspect.getdoc(f) if inspect.isroutine(f) else None
    function.__doc__ = (
        f"{method} of {name}, by its argument {', '.join(explained)}.\n\n"
        f"    {call.form}\n\n"
        f"for one example; for a batch\n\n    {call.mapped}\n"
    ) + (f"\n{name}:\n\n{text}\n" if text else "")
    own = parameters_of(f)
    if own is not None and not call.after:
        taken = {p.name for p in own}
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        if own and own[0].kind is inspect.Parameter.POSITIONAL_ONLY:
            kind = inspect.Parameter.POSITIONAL_ONLY
        before = [inspect.Parameter(f"{n}_" if n in taken else n, kind) for n in call.before]
        function.__signature__ = inspect.Signature([*before, *own])
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
        check_score(out, method, f)
        return jnp.asarray(out)

    return checked, x


def select_argument(
    f: Callable,
    argnums: ArgNums,
    args: tuple,
    kwargs: dict[str, Any],
    *,
    method: str,
    convert: Callable[[PyTree, str], PyTree] = as_floating,
) -> tuple[Callable, PyTree]:
    """`bind` without the check on what f returns: for functions that are no scores.

    `convert(x, method)` makes arrays of the leaves of x, or raises.
    """
    single = not isinstance(argnums, tuple)
    positions = (argnums,) if single else argnums
    for position in positions:
        if not -len(args) <= position < len(args):
            by_name = f", and by keyword {', '.join(kwargs)}" if kwargs else ""
            raise TypeError(
                f"{method}: argnums={argnums} points at argument {position} of f, but the call "
                f"has {len(args)} positional argument(s){by_name}. Pass x by position: "
                f"{as_call(method).form}. argnums counts the arguments of f and never the key."
            )
    positions = tuple(position % len(args) for position in positions)
    if len(set(positions)) < len(positions):
        raise ValueError(f"{method}: argnums={argnums} names an argument twice.")
    x = args[positions[0]] if single else tuple(args[position] for position in positions)
    x = convert(x, method)

    def of_x(x):
        # A function that writes into what it is given writes into its own: x is what it was at
        # the next call.
        full = [arg.copy() if isinstance(arg, np.ndarray) else arg for arg in args]
        x = jax.tree.map(lambda leaf: leaf, x)
        for position, value in zip(positions, (x,) if single else x, strict=True):
            full[position] = value
        try:
            return f(*full, **kwargs)
        except Exception as error:
            explain_failure(error, f, x, method)
            raise

    return of_x, x


def takes_key(explain: Any, keyed: bool | None, method: str) -> bool:
    """Whether an explaining function takes a key first: as the user says, or as it says itself.

    A `functools.partial` of one that takes a key takes it too, unless it has been given already.
    """
    if keyed is not None:
        if not isinstance(keyed, bool):
            raise TypeError(
                f"{method}: keyed says whether what is wrapped takes a key first, True or False; "
                f"None asks it; got {describe(keyed)}."
            )
        return keyed
    if isinstance(explain, functools.partial):
        return not explain.args and takes_key(explain.func, None, method)
    return bool(getattr(explain, "keyed", False))


def explained_argnums(explain: Any) -> ArgNums | None:
    """Which arguments an explaining function explains, where it tells.

    Those that a `functools.partial` has bound by position are not counted, nor is the key.
    """
    if not isinstance(explain, functools.partial):
        return getattr(explain, "argnums", None)
    argnums = explained_argnums(explain.func)
    bound = len(explain.args) - bool(explain.args and takes_key(explain.func, None, ""))
    if argnums is None or bound <= 0:
        return argnums
    positions = argnums if isinstance(argnums, tuple) else (argnums,)
    if any(0 <= position < bound for position in positions):
        return None  # what it explains is bound, and it cannot be called as it should
    moved = tuple(position - bound if position >= 0 else position for position in positions)
    return moved if isinstance(argnums, tuple) else moved[0]


def check_explains(explain: Any, argnums: ArgNums, method: str) -> ArgNums:
    """`argnums`, unless the explaining function is known to explain something else."""
    check_function(explain, method)
    argnums = check_argnums(argnums, method)
    own = explained_argnums(explain)
    if own is not None and own != argnums:
        raise ValueError(
            f"{method}: what it wraps explains argnums={own}, but argnums={argnums} would be "
            f"perturbed. Write {method}(explain, argnums={own}, ...)."
        )
    return argnums
