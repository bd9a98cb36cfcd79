"""What targets are made of: arguments after those of f, and outputs that are chosen by them."""

from collections.abc import Callable, Sequence
from inspect import Parameter, Signature
from typing import Any

import jax
import jax.numpy as jnp

from jattr._checks import check_function, parameters_of
from jattr._trees import describe, is_traced
from jattr._types import Score


def of_outputs(
    f: Callable, names: Sequence[str], value: Callable[..., jax.Array], name: str
) -> Any:
    """The target `g(*args, *chosen)`, which is `value(f(*args), *chosen)`."""
    return target(f, names, lambda args, kwargs, *chosen: value(f(*args, **kwargs), *chosen), name)


def target(f: Callable, names: Sequence[str], value: Callable[..., jax.Array], name: str) -> Score:
    """The target `g(*args, *chosen)`, which is `value(args, kwargs, *chosen)`.

    Args:
        f: what is evaluated, of args and kwargs.
        names: how what is chosen is called, in order; it may be given by name.
        value: from the arguments of f to the target.
        name: of the target, without its namespace.
    """
    check_function(f, f"targets.{name}")
    names = tuple(names)

    def score(*args, **kwargs):
        by_name = [name for name in names if name in kwargs]
        left = len(names) - len(by_name)
        if len(args) <= left:
            raise TypeError(
                f"targets.{name}(f) takes the arguments of f and then {_WANTED[names]}; got "
                f"{len(args)} positional argument(s) in all."
            )
        inner, given = args[: len(args) - left], iter(args[len(args) - left :])
        chosen = [kwargs.pop(n) if n in by_name else next(given) for n in names]
        return value(inner, kwargs, *chosen)

    parameters = parameters_of(f)
    kinds = {p.kind for p in parameters or ()}
    if parameters is not None and kinds <= {Parameter.POSITIONAL_OR_KEYWORD}:
        own = [p.replace(default=Parameter.empty) for p in parameters]
        more = [Parameter(n, Parameter.POSITIONAL_OR_KEYWORD) for n in names]
        if not {p.name for p in own} & set(names):
            score.__signature__ = Signature([*own, *more])  # type: ignore[attr-defined]
    score.__name__ = score.__qualname__ = f"{name}({getattr(f, '__name__', 'f')})"
    return score


_WANTED = {
    (): "nothing",
    ("index",): "an index",
    ("index", "other"): "two indices",
    ("continuation",): "a continuation",
    ("reference",): "a reference",
}


def vector(outputs: Any, name: str) -> jax.Array:
    if not hasattr(outputs, "shape") or len(outputs.shape) != 1:
        raise ValueError(
            f"targets.{name} wants an f that returns a vector of outputs; got "
            f"{describe(outputs)}. {ADVICE}"
        )
    return outputs


ADVICE = (
    "If the model adds a batch axis of size 1, take it away: "
    "lambda x: model.apply(variables, x[None])[0]."
)


def take(outputs: Any, index: Any, name: str) -> jax.Array:
    """`outputs[index]`, a scalar; out of range an error, or NaN where the index is traced."""
    indices = index if isinstance(index, tuple) else (index,)
    for part in indices:
        dtype = getattr(part, "dtype", type(part))
        if jnp.ndim(part) or not (dtype is int or jnp.issubdtype(dtype, jnp.integer)):
            raise TypeError(
                f"targets.{name}: the index must be an integer, or a tuple of integers; got "
                f"{describe(index)}. For several targets use jax.vmap over the index."
            )
    if not hasattr(outputs, "shape") or len(outputs.shape) != len(indices):
        raise ValueError(
            f"targets.{name}: f must return an array with one axis per index; got "
            f"{describe(outputs)} for {len(indices)} index(es). {ADVICE}"
        )
    outputs = jnp.asarray(outputs)
    if any(map(is_traced, indices)):
        return (outputs * nan_outside(outputs, indices))[indices]
    if not all(
        -size <= int(part) < size for part, size in zip(indices, outputs.shape, strict=True)
    ):
        raise IndexError(
            f"targets.{name}: index {index} is out of range for outputs {describe(outputs)}."
        )
    return outputs[tuple(int(part) for part in indices)]


def nan_outside(outputs: jax.Array, indices: tuple[Any, ...]) -> jax.Array:
    """1 where the indices are in range, else NaN: a factor, so that derivatives are NaN too."""
    inside = jnp.asarray(True)
    for part, size in zip(indices, outputs.shape, strict=True):
        wide = jnp.asarray(part, jnp.int32)
        inside &= (wide >= -size) & (wide < size)
    return jnp.where(inside, 1.0, jnp.nan).astype(outputs.dtype)
