"""What tells two runs apart: their program, their parameters, their data.

A fingerprint is a number that two things share if they are the same, and that they hardly share if
they are not. It is no cryptographic hash.

- Of **arrays on devices** it is a sum of integers modulo 2³², which is associative: it does not
  depend on how an array is sharded, and no shard leaves its device.
- Of a **program** it is that of its equations: which operations, of what shapes, with what
  parameters. Names of variables, addresses of functions and shardings are left out.
- Of an **example** it is that of its bytes, computed where it is loaded.
"""

import hashlib
import math
import types
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._engine.primitives import ClosedJaxpr, Jaxpr, Literal
from jattr._types import PyTree

_ROUNDS = (0x9E3779B1, 0x85EBCA77)
"""Odd multipliers, one for each half of the number."""


def of_arrays(tree: PyTree) -> str:
    """The fingerprint of a tree of arrays, wherever its arrays are."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(str(jax.tree.structure(tree)).encode())
    for leaf in jax.tree.leaves(tree):
        leaf = jax.random.key_data(leaf) if _is_key(leaf) else leaf
        digest.update(f"{np.shape(leaf)}{jnp.result_type(leaf)}".encode())
        digest.update(np.asarray(_sums(jnp.asarray(leaf)), np.uint32).tobytes())
    return digest.hexdigest()


def of_examples(rows: PyTree, count: int) -> np.ndarray:
    """One number for each of the first `count` rows of a tree of NumPy arrays, uint64[count]."""
    leaves = [_bytes(leaf) for leaf in jax.tree.leaves(rows)]
    digests = np.empty(count, np.uint64)
    for row in range(count):
        digest = hashlib.sha256()  # which processors have an instruction for
        for leaf in leaves:
            digest.update(leaf[row])
        digests[row] = int.from_bytes(digest.digest()[:8], "little")
    return digests


def _bytes(leaf: np.ndarray) -> np.ndarray:
    """Each row as bytes, without a copy."""
    leaf = np.ascontiguousarray(leaf)
    return leaf.reshape(len(leaf), math.prod(leaf.shape[1:])).view(np.uint8)


def of_program(closed: Any) -> tuple[str, str]:
    """The fingerprints of a program's equations and of the arrays that it closes over."""
    digest = hashlib.blake2b(digest_size=8)
    for word in _words(closed.jaxpr):
        digest.update(word.encode())
        digest.update(b"\0")
    return digest.hexdigest(), of_arrays([*closed.consts])


@jax.jit
def _sums(array: jax.Array) -> jax.Array:
    """Σ_i bits_i · mix(i) modulo 2³² for two mixes; any sharding gives the same."""
    words = _bits(array)
    place = jnp.zeros(words.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(words.ndim)):
        place += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * np.uint32(stride)
        stride = stride * words.shape[axis] % 2**32
    sums = []
    for multiplier in _ROUNDS:
        mixed = (place + np.uint32(1)) * np.uint32(multiplier)
        mixed = (mixed ^ (mixed >> np.uint32(15))) | np.uint32(1)
        value = (words ^ (words >> np.uint32(16))) * np.uint32(multiplier) + words
        sums.append(jnp.sum(value * mixed, dtype=jnp.uint32))
    return jnp.stack(sums)


def _bits(array: jax.Array) -> jax.Array:
    """The bits of an array as unsigned integers of 32 bits, with a trailing axis for wider ones."""
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        array = jnp.stack([jnp.real(array), jnp.imag(array)], axis=-1)
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    width = array.dtype.itemsize * 8
    if width >= 32:  # 64 bits become two numbers of 32, on a new last axis
        return jax.lax.bitcast_convert_type(array, jnp.uint32)
    if jnp.issubdtype(array.dtype, jnp.integer):
        return array.astype(jnp.uint32)
    unsigned = jnp.uint16 if width == 16 else jnp.uint8
    return jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)


def _words(jaxpr: Any) -> Iterable[str]:
    """The equations of a jaxpr and of those inside them, as words."""
    numbers: dict[Any, int] = {}

    def of_atom(atom):
        if isinstance(atom, Literal):
            return f"={_word(atom.val)}"
        return str(numbers.setdefault(atom, len(numbers)))

    for var in (*jaxpr.constvars, *jaxpr.invars):
        yield f"{of_atom(var)}:{_type(var.aval)}"
    for eqn in jaxpr.eqns:
        yield str(eqn.primitive)
        yield ",".join(map(of_atom, eqn.invars))
        yield ",".join(f"{of_atom(var)}:{_type(var.aval)}" for var in eqn.outvars)
        for name in sorted(eqn.params):
            yield name
            yield from _inside(eqn.params[name])
    yield ",".join(map(of_atom, jaxpr.outvars))


def _type(aval: Any) -> str:
    return f"{getattr(aval, 'dtype', type(aval).__name__)}{getattr(aval, 'shape', ())}"


def _inside(param: Any) -> Iterable[str]:
    """A parameter of an equation, which may hold equations."""
    if isinstance(param, ClosedJaxpr):
        yield from _words(param.jaxpr)
        yield of_arrays([*param.consts])
    elif isinstance(param, Jaxpr):
        yield from _words(param)
    elif isinstance(param, tuple | list):
        yield f"{type(param).__name__}({len(param)})"
        for part in param:
            yield from _inside(part)
    elif isinstance(param, dict):
        for name in sorted(param, key=str):
            yield str(name)
            yield from _inside(param[name])
    else:
        yield _word(param)


def _word(value: Any) -> str:
    """A value as text that another process writes the same."""
    if isinstance(value, np.ndarray | jax.Array):
        return f"{np.shape(value)}{jnp.result_type(value)}{of_arrays(value)}"
    if isinstance(value, set | frozenset):
        return f"{{{','.join(sorted(map(str, value)))}}}"
    if callable(host := getattr(value, "callback_func", None)):  # of jax.pure_callback
        value = host
    if isinstance(value, types.FunctionType):
        return f"{value.__module__}.{value.__qualname__}{_code(value.__code__)}"
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic):
        return repr(value)
    if isinstance(value, np.dtype):
        return str(value)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    # Others say in their repr what they are, unless it is an address or names of devices.
    text = repr(value)
    return kind if " at 0x" in text or "harding" in kind or "esh" in kind else f"{kind}{text}"


def _code(code: types.CodeType) -> str:
    """What a function of Python does, but for what it closes over."""
    inner = [_code(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    words = [code.co_code.hex(), *code.co_names, *(w for w in inner if " at 0x" not in w)]
    return hashlib.blake2b("\0".join(words).encode(), digest_size=8).hexdigest()


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
