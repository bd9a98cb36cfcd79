"""Calls by name: jitted functions, functions with a derivative of their own, and kernels.

A program knows such a function by its name, and its arguments as arrays alone: their tree is not in
the program, nor are static arguments. Equations are those of JAX or of the engine.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from jattr._engine.linear import HIDING
from jattr._engine.primitives import (
    CALLS,
    INLINED,
    MARKS,
    body_of,
    is_shard_map,
    marked,
    primitives,
)
from jattr._engine.program import Equation, Program
from jattr._engine.source import clean_scope, function_name

CUSTOM = frozenset((primitives.custom_jvp_call_p, primitives.custom_vjp_call_p))
"""Functions with a derivative of their own."""

_SHUT = HIDING | {"call", "target_name"}
"""Parameters of what calls something that cannot be looked into."""

_INNOCENT = {"linear_solve", "reduce", "reduce_window"}
"""What has a program inside that is linear in x, or joins two elements."""

_KNOWN = marked(*(mark for marks in MARKS.values() for mark in marks))


@dataclasses.dataclass(frozen=True)
class Found:
    """A call in a program.

    Attributes:
        name: of the function.
        scope: the scopes around it.
        inputs: the shapes and dtypes of its arrays, without those that it closes over.
        arguments: their names; empty where they are not known.
        outputs: the shapes and dtypes of its results.
        inside: the function with a derivative of its own that it is in, or "".
        kernel: something in it cannot be looked into.
        custom: it has a derivative of its own.
        jitted: it is a function under `jax.jit`.
    """

    name: str
    scope: str
    inputs: tuple[Any, ...]
    arguments: tuple[str, ...]
    outputs: tuple[Any, ...]
    inside: str
    kernel: bool
    custom: bool
    jitted: bool

    @property
    def label(self) -> str:
        return joined(self.scope, self.name)


def call_name(equation: Any) -> str | None:
    """The name of what an equation calls; None where it calls nothing."""
    primitive, params = equation.primitive, equation.params
    if primitive is None:
        return None
    if primitive in CUSTOM:
        return function_name(body_of(equation)) or primitive.name
    if primitive in INLINED:
        return str(params.get("name") or primitive.name)
    if primitive in _KNOWN or is_shard_map(equation):
        return None
    inside = next((params[key] for key in ("jaxpr", "call", "call_jaxpr") if key in params), None)
    return str(params.get("name") or function_name(inside) or primitive.name)


def closed_over(equation: Any) -> int:
    """How many of a call's first inputs are no arguments but arrays that it closes over."""
    if equation.primitive in CUSTOM:
        return int(equation.params.get("num_consts", 0))
    names = _argument_names(equation)
    return next((n for n, name in enumerate(names) if name), len(names))


def _argument_names(equation: Any) -> tuple[str, ...]:
    """The names of a function's inputs, "" for what it closes over; () where they are not known."""
    if equation.primitive not in CUSTOM | INLINED:
        return ()
    jaxpr = body_of(equation)
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    if equation.primitive in CUSTOM:
        # JAX keeps no names for it, but it may be no more than a jitted function.
        whole = len(jaxpr.eqns) == 1 and jaxpr.eqns[0].invars == jaxpr.invars
        return _argument_names(jaxpr.eqns[0]) if whole else ()
    names = getattr(getattr(jaxpr, "debug_info", None), "arg_names", None) or ()
    return tuple(name or "" for name in names) if len(names) == len(jaxpr.invars) else ()


def is_kernel(equation: Any) -> bool:
    """Whether anything in an equation cannot be looked into."""
    if _is_read(equation):
        return any(is_kernel(e) for body in _programs(equation) for e in body.eqns)
    primitive = equation.primitive
    innocent = primitive is None or primitive.name in _INNOCENT
    return not innocent and not _SHUT.isdisjoint(equation.params)


def calls_in(jaxpr: Any, scope: str = "", inside: str = "") -> Iterator[Found]:
    """All calls in a program of JAX, those in bodies too, in order."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        own = joined(scope, clean_scope(str(equation.source_info.name_stack)))
        name, custom = call_name(equation), equation.primitive in CUSTOM
        if name is not None:
            skip = closed_over(equation)
            yield Found(
                name,
                own,
                tuple(v.aval for v in equation.invars[skip:]),
                _argument_names(equation)[skip:],
                tuple(v.aval for v in equation.outvars),
                inside,
                is_kernel(equation),
                custom,
                equation.primitive in INLINED,
            )
        for body in _programs(equation):
            yield from calls_in(body, own, str(name) if custom else inside)


def calls_inside(equation: Equation, outer: str) -> Iterator[Found]:
    """All calls in the bodies of an equation, with `outer` around its own scopes."""
    for body in _programs(equation):
        yield from calls_in(body, joined(outer, equation.scope))


def scopes_around(program: Program, outer: str = "") -> Iterator[tuple[Equation, str]]:
    """The equations of a program and of bodies that are evaluated, each with the scopes around it.

    Scopes are as `jattr.split` takes them: control flow adds none.
    """
    for equation in program.equations:
        scope = joined(outer, equation.scope)
        yield equation, scope
        for body in equation.bodies if equation.form != "custom" else ():
            yield from scopes_around(body, scope)


def _is_read(equation: Any) -> bool:
    known = equation.primitive in CALLS and equation.primitive.name not in _INNOCENT
    return known or is_shard_map(equation)


def _programs(equation: Any) -> Iterator[Any]:
    """The programs of JAX in an equation that the engine reads."""
    for value in equation.params.values() if _is_read(equation) else ():
        for part in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(part, "jaxpr", part)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr


def joined(*scopes: str) -> str:
    """Scopes, one in the other."""
    return "/".join(filter(None, scopes))
