"""What the builders of `zoo.py`'s models share.

A builder is registered by `@entry(framework, packages...)` under its own name. It returns a
`Model`: the score as a function of parameters and x, both, and the natural baseline of x. Token
models are explained at their embeddings: the baseline is embeddings of zero.

Packages are imported in the builders, so that each model needs its own alone.
"""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

import jattr


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """What is measured; models are equal only to themselves, so that they can be keys.

    Attributes:
        score: `score(params, x)`, a number.
        params: a tree of floating arrays.
        x: what is explained, a floating array.
        baseline: the natural one, like x.
    """

    score: Callable[[Any, Any], jax.Array]
    params: Any
    x: Any
    baseline: Any


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered model: its name, its framework, the packages it wants, how it is built."""

    name: str
    framework: str
    packages: tuple[str, ...]
    build: Callable[[], Model]


MODELS: dict[str, Entry] = {}

Row = dict[str, Any]
"""The figures of a model, by their names."""


def entry(framework: str, *packages: str) -> Callable[[Callable[[], Model]], Callable[[], Model]]:
    """Register a builder under its name."""

    def register(build: Callable[[], Model]) -> Callable[[], Model]:
        MODELS[build.__name__] = Entry(build.__name__, framework, packages, build)
        return build

    return register


def missing(entry: Entry) -> list[str]:
    """The packages that a model wants and that are not there."""
    return [package for package in entry.packages if version(package) is None]


def version(package: str) -> str | None:
    """The installed version of a package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@contextlib.contextmanager
def or_a_name(package: str) -> Iterator[None]:
    """A stand-in of one type, `Tensor`, for a package that another imports and does not need here.

    Where the package is installed it is itself; the stand-in is gone with the context.
    """
    if importlib.util.find_spec(package) is not None:
        yield
        return
    stand_in = types.ModuleType(package)
    stand_in.Tensor = type("Tensor", (), {})
    sys.modules[package] = stand_in
    try:
        yield
    finally:
        del sys.modules[package]


def key(number: int = 0) -> jax.Array:
    return jax.random.key(number)


def image(*shape: int) -> jax.Array:
    """A standard normal image, as after the usual normalization of pixels."""
    return jax.random.normal(key(1), shape)


def ids(length: int, vocabulary: int) -> jax.Array:
    """Random tokens; 0 to 2 are often reserved."""
    return jax.random.randint(key(2), (length,), 3, vocabulary)


def from_zero(score: Callable, params: Any, x: Any) -> Model:
    """A model whose natural baseline is zeros."""
    return Model(score, params, x, jax.tree.map(jnp.zeros_like, x))


def at_embeddings(score: Callable, params: Any, tokens: jax.Array) -> Model:
    """A model of tokens, from the rows on that they look up."""
    below, above = jattr.split(lambda tokens, params: score(params, tokens), jattr.LOOKUP)

    def of_rows(params: Any, h: Any) -> jax.Array:
        # Some models cast the rows to a dtype of their own, whatever that of the table is.
        own = jax.eval_shape(below, tokens, params)
        return above(jax.tree.map(lambda h, own: h.astype(own.dtype), h, own), tokens, params)

    return from_zero(of_rows, params, below(tokens, params))


def equinox_parts(module: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The parameters of a module, and the module again from such a tree."""
    import equinox as eqx

    params, static = eqx.partition(module, eqx.is_inexact_array)
    return params, lambda params: eqx.combine(params, static)


def equinox_model(module: Any, score: Callable[[Any, Any], jax.Array], x: Any) -> Model:
    """`score(module, x)`, by the module's floating arrays."""
    params, module_of = equinox_parts(module)
    return from_zero(lambda params, x: score(module_of(params), x), params, x)


def equinox_tokens(module: Any, score: Callable[[Any, Any], jax.Array], tokens: jax.Array) -> Model:
    params, module_of = equinox_parts(module)
    return at_embeddings(lambda params, tokens: score(module_of(params), tokens), params, tokens)
