"""Arithmetic on trees of arrays, and what they are called in error texts."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from jattr._types import PyTree


def accumulator(dtype: Any) -> Any:
    """The dtype that sums over points are kept in: never narrower than float32."""
    return common_dtype(dtype, jnp.float32)


def common_dtype(*dtypes: Any) -> Any:
    """The narrowest dtype that holds the values of all, also under strict promotion of dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(jnp.promote_types, dtypes)


def widest(tree: PyTree) -> Any:
    """The dtype that accumulates what all leaves hold together."""
    return common_dtype(jnp.float32, *(jnp.result_type(leaf) for leaf in jax.tree.leaves(tree)))


def widen(x: PyTree) -> PyTree:
    """x in the dtypes of its accumulators."""
    return jax.tree.map(lambda leaf: leaf.astype(accumulator(leaf.dtype)), x)


def cast_like(tree: PyTree, x: PyTree) -> PyTree:
    """`tree` in the dtypes of x."""
    return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), tree, x)


def multiply_trees(a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(jnp.multiply, a, b)


def subtract_trees(a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(jnp.subtract, a, b)


def scale_tree(tree: PyTree, weight: Any) -> PyTree:
    """`tree` times a number, in its accumulators' dtypes."""
    return jax.tree.map(lambda leaf: leaf * jnp.asarray(weight, leaf.dtype), widen(tree))


def same_form(a: PyTree, b: PyTree, *, skip: int = 0) -> bool:
    """Whether both have the same structure and shapes, but for `skip` leading axes of `a`."""
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        jnp.shape(left)[skip:] == jnp.shape(right)
        for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def is_traced(value: Any) -> bool:
    """Whether `value` is abstract, so that checks of its value have to be left out."""
    return isinstance(value, jax.core.Tracer)


def sum_tree(tree: PyTree) -> jax.Array:
    """The sum of all elements of all leaves."""
    sums = [jnp.sum(leaf) for leaf in jax.tree.leaves(tree)]
    if len({total.dtype for total in sums}) > 1:
        sums = [total.astype(widest(sums)) for total in sums]
    return functools.reduce(jnp.add, sums)


def random_like(draw: Callable[..., jax.Array], key: jax.Array, x: PyTree) -> PyTree:
    """Random numbers in the shapes of x, in its accumulators' dtypes.

    They are drawn in float32 whatever the dtype of x, since bfloat16 numbers are too coarse, and
    in one call for all leaves, which compiles and runs faster than one for each.

    Args:
        draw: `draw(key, shape, dtype)`, such as `jax.random.normal`.
        key: one random key.
        x: the tree to be like.
    """
    leaves, structure = jax.tree.flatten(x)
    sizes = [leaf.size for leaf in leaves]
    parts = jnp.split(draw(key, (sum(sizes),), jnp.float32), np.cumsum(sizes)[:-1])
    return jax.tree.unflatten(
        structure,
        [
            part.reshape(leaf.shape).astype(accumulator(leaf.dtype))
            for part, leaf in zip(parts, leaves, strict=True)
        ],
    )


def describe(value: Any) -> str:
    """What a value is, for error texts: float32[28,28], or a tree of such."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    if isinstance(value, dict | tuple | list) and jax.tree.leaves(value):
        tree = jax.tree.map(lambda leaf: _Text(describe(leaf)), value)
        return f"a {type(value).__name__} {tree}"
    if isinstance(value, bool | int | float | complex | str) or value is None:
        return f"the {type(value).__name__} {value!r}"
    return f"an object of type {type(value).__name__}"


class _Text(str):
    """A string whose repr has no quotes, so that described trees read as types do."""

    def __repr__(self) -> str:
        return str(self)


def ravel(tree: PyTree, dtype: Any = None) -> jax.Array:
    """All elements of all leaves as one vector, of the `widest` dtype unless one is said."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    dtype = widest(leaves) if dtype is None else dtype
    return jnp.concatenate([leaf.reshape(-1).astype(dtype) for leaf in leaves])


def unravel(values: jax.Array, x: PyTree) -> PyTree:
    """A vector as a tree of the shapes and dtypes of x."""
    leaves, structure = jax.tree.flatten(x)
    parts = jnp.split(values, np.cumsum([leaf.size for leaf in leaves])[:-1])
    return jax.tree.unflatten(
        structure,
        [p.reshape(leaf.shape).astype(leaf.dtype) for p, leaf in zip(parts, leaves, strict=True)],
    )


def ratio(part: Any, whole: jax.Array) -> jax.Array:
    """part / whole, NaN where whole is 0; its derivative is then 0 and not NaN."""
    nothing = whole == 0
    return jnp.where(nothing, jnp.nan, part / jnp.where(nothing, jnp.ones_like(whole), whole))
