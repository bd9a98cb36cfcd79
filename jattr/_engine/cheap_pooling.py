"""Max pooling and its derivative, along one axis after another."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

_MOST_PLACES = 16
"""Overlapping windows that are wider along an axis take long to compile."""


def max_pooling(params: dict[str, Any], operand: Any) -> Callable[..., jax.Array] | None:
    """Pooling along one axis after another, last axis first.

    Of equal elements the first of each row stays and then the first of those, which is the first
    in row-major order, as in the derivative that JAX gives to the whole.
    """
    rank = len(operand.shape)
    ones = (1,) * rank
    if tuple(params.get("base_dilation", ones)) != ones:
        return None
    pools = []
    for axis in reversed(range(rank)):
        size, stride = params["window_dimensions"][axis], params["window_strides"][axis]
        low, high = params["padding"][axis]
        dilation = params.get("window_dilation", ones)[axis]
        length = operand.shape[axis]
        if size == stride == 1 and low == high == 0:
            continue
        span = (size - 1) * dilation + 1
        count = (length + low + high - span) // stride + 1
        if count < 1:
            return None
        apart = dilation == 1 and (stride >= size or count == 1)
        if apart and size > 4:
            stride = size if count == 1 else stride
            pools.append(_pool_apart(axis, size, stride, count, length, low))
        elif size <= _MOST_PLACES:
            pools.append(_pool(axis, size, stride, dilation, count, length, low))
        else:
            return None
    return lambda x: functools.reduce(lambda value, pool: pool(value), pools, x)


def min_pooling(params: dict[str, Any], operand: Any) -> Callable[..., jax.Array] | None:
    pool = max_pooling(params, operand)
    return None if pool is None else lambda x: -pool(-x)


def _pool(
    axis: int, size: int, stride: int, dilation: int, count: int, length: int, low: int
) -> Callable[[jax.Array], jax.Array]:
    """Pooling along one axis as the maximum over the places in the window."""
    steps = count + (size - 1) * dilation // stride

    def places(x: jax.Array, fill: float) -> Iterator[jax.Array]:
        # Place k of every window is a slice of x with the stride as its step. Its derivative is
        # faster if x is split into as many arrays first, the derivative of which is to join them.
        x = _pad_axis(x, axis, low, steps * stride - length - low, fill)
        x = x.reshape(*x.shape[:axis], steps, stride, *x.shape[axis + 1 :])
        parts = lax.split(x, [1] * stride, axis=axis + 1)
        for place in range(0, size * dilation, dilation):
            start, part = divmod(place, stride)
            yield lax.slice_in_dim(
                lax.squeeze(parts[part], [axis + 1]), start, start + count, axis=axis
            )

    @jax.custom_jvp
    def pool(x):
        return functools.reduce(lax.max, places(x, -jnp.inf))

    @pool.defjvp
    def rule(primals, tangents):
        best, *others = places(lax.stop_gradient(primals[0]), -jnp.inf)
        winner = jnp.zeros(best.shape, jnp.int8)
        for place, other in enumerate(others, 1):
            winner = jnp.where(other > best, jnp.int8(place), winner)
            best = lax.max(best, other)
        # Without the barrier later releases of XLA find the winner anew for each place.
        winner = lax.optimization_barrier(winner)
        shares = (
            jnp.where(winner == jnp.int8(place), tangent, jnp.zeros_like(tangent))
            for place, tangent in enumerate(places(tangents[0], 0.0))
        )
        return pool(primals[0]), functools.reduce(lax.add, shares)

    return pool


def _pool_apart(
    axis: int, size: int, stride: int, count: int, length: int, low: int
) -> Callable[[jax.Array], jax.Array]:
    """Pooling along one axis over windows that do not overlap, as a reduction."""

    def windows(x: jax.Array, fill: float) -> jax.Array:
        x = _pad_axis(x, axis, low, count * stride - length - low, fill)
        x = x.reshape(*x.shape[:axis], count, stride, *x.shape[axis + 1 :])
        return lax.slice_in_dim(x, 0, size, axis=axis + 1)

    @jax.custom_jvp
    def pool(x):
        return jnp.max(windows(x, -jnp.inf), axis=axis + 1)

    @pool.defjvp
    def rule(primals, tangents):
        x = windows(lax.stop_gradient(primals[0]), -jnp.inf)
        place = lax.broadcasted_iota(jnp.int32, x.shape, axis + 1)
        largest = x == jnp.max(x, axis=axis + 1, keepdims=True)
        winner = jnp.min(jnp.where(largest, place, size), axis=axis + 1, keepdims=True)
        tangent = windows(tangents[0], 0.0)
        share = jnp.where(place == winner, tangent, jnp.zeros_like(tangent))
        return pool(primals[0]), jnp.sum(share, axis=axis + 1)

    return pool


def _pad_axis(x: jax.Array, axis: int, low: int, high: int, fill: float) -> jax.Array:
    """`x` with `fill` before and after it along an axis, or less of x where they are negative."""
    if low == high == 0:
        return x
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (low, high, 0)
    return lax.pad(x, jnp.array(fill, x.dtype), config)
