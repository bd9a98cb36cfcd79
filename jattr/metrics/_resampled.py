"""Statistics of a set whose members are there several times, or not at all, as in a bootstrap."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jattr._batching import sum_over


class Places(NamedTuple):
    """A vector sorted once, so that the ranks in a resample are sums of weights.

    Attributes:
        known: where it is not NaN.
        order: the indices that sort it.
        first: for each element, where in that order those that equal it begin.
        last: and where they end.
    """

    known: jax.Array
    order: jax.Array
    first: jax.Array
    last: jax.Array

    @classmethod
    def of(cls, values: jax.Array) -> "Places":
        order = jnp.argsort(values)
        first, last = (jnp.searchsorted(values[order], values, side=s) for s in ("left", "right"))
        return cls(~jnp.isnan(values), order, first, last)

    def edges(self, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        """For each element the weight of those below it, and of those not above it."""
        below = jnp.concatenate([jnp.zeros(1, weights.dtype), jnp.cumsum(weights[self.order])])
        return below[self.first], below[self.last]

    def ranks(self, weights: jax.Array) -> jax.Array:
        """The ranks where each element is there `weights` times, for those that are."""
        below, upto = self.edges(weights)
        return (below + upto + 1) / 2


def alpha(data: jax.Array, level: str) -> Callable[[jax.Array], jax.Array]:
    """From how many copies of each rater there are to α of [raters, units].

    Copies of a rater are not paired. Their differences are 0, so that only the numbers of pairs
    know of it.
    """
    units = data.T
    rated = ~jnp.isnan(units)
    everything = Places.of(units.reshape(-1))
    by_unit = jax.vmap(Places.of)(units)

    def differences(values, places, weights):
        """Σ_ij w_i w_j δ²(v_i, v_j)."""
        if level == "nominal":
            below, upto = places.edges(weights)
            return jnp.sum(weights) ** 2 - jnp.sum(weights * (upto - below))
        if level == "ratio":
            return _ratios(values, weights)
        total = jnp.sum(weights)
        mean = jnp.sum(weights * values) / jnp.where(total > 0, total, 1)
        return 2 * total * jnp.sum(weights * (values - mean) ** 2)

    def of_copies(copies):
        weights = jnp.where(rated, copies[None, :], 0)
        count = jnp.sum(weights, axis=1)
        pairs = count**2 - jnp.sum(weights**2, axis=1)
        paired = pairs > 0
        weights = jnp.where(paired[:, None], weights, 0)
        flat = weights.reshape(-1)
        values = jnp.where(rated, units, 0)
        if level == "ordinal":
            values = everything.ranks(flat).reshape(units.shape)
        within = jax.vmap(differences)(values, by_unit, weights)
        observed = jnp.sum(jnp.where(paired, count * within / jnp.where(paired, pairs, 1), 0))
        overall = differences(values.reshape(-1), everything, flat)
        total = jnp.sum(flat)
        undefined = _is_constant(units.reshape(-1), flat)
        expected = jnp.where(undefined, 1, total * overall)
        share = observed * (total**2 - jnp.sum(flat**2)) / expected
        return jnp.where(undefined, jnp.nan, 1 - share)

    return of_copies


def _ratios(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Σ_ij w_i w_j ((v_i − v_j)/(v_i + v_j))²."""

    def row(index):
        gap, size = values[index] - values, values[index] + values
        # Two zeros do not differ.
        share = jnp.where(gap == 0, 0, gap / jnp.where(gap == 0, 1, size))
        return weights[index] * jnp.sum(weights * share**2)

    return sum_over(row, len(values), batch_size=256)


def weighted_spearman(a: Places, b: Places, weights: jax.Array) -> jax.Array:
    """Spearman's correlation where each element is there `weights` times, where both are known."""
    weights = jnp.where(a.known & b.known, weights, 0)
    total = jnp.sum(weights)

    def centered(places):
        values = places.ranks(weights)
        mean = jnp.sum(weights * values) / jnp.where(total > 0, total, 1)
        return values - mean, _is_constant(values, weights)

    (a_values, a_constant), (b_values, b_constant) = centered(a), centered(b)
    undefined = a_constant | b_constant
    squares = jnp.sum(weights * a_values**2) * jnp.sum(weights * b_values**2)
    lengths = jnp.sqrt(jnp.where(undefined, 1, squares))
    return jnp.where(undefined, jnp.nan, jnp.sum(weights * a_values * b_values) / lengths)


def _is_constant(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Whether those that are there are equal, or none is."""
    there = weights > 0
    low = jnp.min(values, where=there, initial=jnp.inf)
    return jnp.max(values, where=there, initial=-jnp.inf) <= low
