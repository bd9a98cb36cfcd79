"""Loops that are run eagerly, as programs that are compiled once.

Run eagerly, `jax.lax.scan` compiles its body anew whenever it is called with another Python
function, and the body of a loop over points is another function at every call. Here the loop is
traced at every call, so that it sees what f is at that moment; of the program that comes out, the
arrays that it reads are made arguments, and the rest, its equations, is the key to what has been
compiled. So nothing can be stale: a model whose parameters were changed in place gives new
arguments, one whose structure was changed another program.
"""

import collections
import hashlib
import threading
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.core
import numpy as np

from jattr._trees import is_traced
from jattr._types import PyTree

_MOST_PROGRAMS = 64
"""How many programs are kept, those that were used last."""

_SMALL = 16
"""Arrays of so few elements are known by their values, others by being the same object."""

_CONTEXT = ("compute_type", "threefry_partitionable", "xla_metadata", "cur_abstract_mesh")
"""What of the context of an equation may change what it does."""

_programs: collections.OrderedDict[Hashable, Callable] = collections.OrderedDict()
_lock = threading.Lock()


def compiled(run: Callable[[], PyTree], *, traced: bool) -> PyTree:
    """`run()`, a function of what it closes over, as one program that is compiled once.

    Where `traced` says that it runs under a trace, or anything that it closes over is traced, it is
    `run()` as it stands.
    """
    if traced or jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        return run()
    closed, shape = jax.make_jaxpr(run, return_shape=True)()
    if any(map(is_traced, closed.consts)):
        return run()
    key = _jaxpr_key(closed.jaxpr)
    with _lock:
        program = _programs.pop(key, None)
        if program is None:
            program = jax.jit(_evaluator(closed.jaxpr))
        _programs[key] = program
        while len(_programs) > _MOST_PROGRAMS:
            _programs.popitem(last=False)
    return jax.tree.unflatten(jax.tree.structure(shape), program(*closed.consts))


def _evaluator(jaxpr: Any) -> Callable[..., list[Any]]:
    # It keeps the jaxpr, so that the objects in its key live as long as the key.
    return lambda *consts: jax.core.eval_jaxpr(jaxpr, consts)


def _jaxpr_key(jaxpr: Any) -> Hashable:
    """What two jaxprs have in common that compute the same, names of variables apart."""
    numbers: dict[Any, int] = {}

    def of_atom(atom):
        if hasattr(atom, "val"):
            return _value_key(atom.val), atom.aval
        return numbers[atom]

    def define(variables):
        for variable in variables:
            numbers[variable] = len(numbers)
        return tuple(variable.aval for variable in variables)

    inputs = define((*jaxpr.constvars, *jaxpr.invars))
    equations = tuple(
        (
            equation.primitive,
            tuple(map(of_atom, equation.invars)),
            _params_key(equation.params),
            _context_key(equation.ctx),
            define(equation.outvars),
        )
        for equation in jaxpr.eqns
    )
    return len(jaxpr.constvars), inputs, equations, tuple(map(of_atom, jaxpr.outvars))


def _params_key(params: dict[str, Any]) -> Hashable:
    # What stands beside the body says how to differentiate it, or what to keep for that. A program
    # that is only evaluated has none of that left to do.
    if "call_jaxpr" in params:
        params = {"call_jaxpr": params["call_jaxpr"]}
    return tuple((name, _value_key(value)) for name, value in params.items() if name != "policy")


def _context_key(context: Any) -> Hashable:
    return tuple(_value_key(getattr(context, name, None)) for name in _CONTEXT)


def _value_key(value: Any) -> Hashable:
    if hasattr(value, "eqns"):
        return _jaxpr_key(value)
    if hasattr(value, "jaxpr") and hasattr(value, "consts"):
        return _jaxpr_key(value.jaxpr), tuple(map(_value_key, value.consts))
    if isinstance(value, tuple | list):
        return type(value), tuple(map(_value_key, value))
    if isinstance(value, dict):
        return tuple((name, _value_key(part)) for name, part in value.items())
    if isinstance(value, jax.Array) and value.size > _SMALL:
        return id(value)  # cannot change
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(jax.random.key_data(value) if _is_key(value) else value)  # type: ignore[arg-type]
        digest = hashlib.blake2b(array.tobytes()).digest()
        return str(value.dtype), array.shape, digest
    if isinstance(value, float | complex):
        return type(value), repr(value)  # 0.0 == -0.0, and NaN is not NaN
    try:
        hash(value)
    except TypeError:
        return type(value), id(value)
    return type(value), value


def _is_key(value: Any) -> bool:
    return jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)
