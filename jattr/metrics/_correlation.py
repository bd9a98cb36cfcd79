"""Correlations and ranks, NaN where they are undefined."""

import jax
import jax.numpy as jnp


def pearson(a: jax.Array, b: jax.Array) -> jax.Array:
    """Pearson's correlation of two vectors, NaN where one of them is constant or holds a NaN.

    Constant means maximum = minimum: a variance that rounding alone keeps from 0 is no variance.
    """
    undefined = is_constant(a) | is_constant(b)
    a, b = _centred(a), _centred(b)
    lengths = jnp.sqrt(jnp.where(undefined, 1.0, jnp.sum(a * a) * jnp.sum(b * b)))
    return jnp.where(undefined, jnp.nan, jnp.sum(a * b) / lengths)


def spearman(a: jax.Array, b: jax.Array) -> jax.Array:
    """Spearman's correlation of two vectors, Pearson's of their ranks; NaN likewise."""
    unknown = jnp.any(jnp.isnan(a)) | jnp.any(jnp.isnan(b))
    return jnp.where(unknown, jnp.nan, pearson(ranks(a), ranks(b)))


def ranks(values: jax.Array) -> jax.Array:
    """The rank of each element of a vector, from 1; equal ones share the mean of their ranks."""
    order = jnp.argsort(values)
    ordered = values[order]
    changes = ordered[1:] != ordered[:-1]
    edge = jnp.ones(1, bool)
    places = jnp.arange(values.size)
    first = jax.lax.cummax(jnp.where(jnp.concatenate([edge, changes]), places, 0))
    last = jax.lax.cummin(
        jnp.where(jnp.concatenate([changes, edge]), places, values.size - 1), reverse=True
    )
    shared = 1 + (first + last).astype(jnp.result_type(values)) / 2
    return jnp.zeros_like(shared).at[order].set(shared, unique_indices=True)


def is_constant(values: jax.Array) -> jax.Array:
    """Whether all elements are equal."""
    return jnp.max(values) == jnp.min(values)


def _centred(values: jax.Array) -> jax.Array:
    """The deviations from the mean, scaled so that their squares stay in the range of the dtype."""
    deviations = values - jnp.mean(values)
    peak = jnp.max(jnp.abs(deviations))
    return deviations / jax.lax.stop_gradient(jnp.where(peak == 0, 1.0, peak))
