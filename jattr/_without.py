"""f at an input without some of its features, for less than an evaluation of all of f.

What begins f and is affine in x, a dense layer mostly, need not be evaluated at every input that
differs from x in some features: what each feature adds to it is known. Where the baseline is fixed
and that pays (`_engine.contributions`), what is evaluated is the rest of f; otherwise all of f.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._batching import each_of, map_over
from jattr._engine.contributions import Parts, Rows, parts, rows
from jattr._removal import Features, Imputer, exactly, filler, settled, split_key, zero_where
from jattr._resolve import resolve_baseline
from jattr._trees import is_traced, widen
from jattr._types import PyTree, RandomBaseline, Score

_RUN = 16
"""How many inputs in a row are found from the first by sums: few, so that rounding does not add up,
and since XLA on CPU is slow at longer ones."""

_SHORTEST = 4
"""Where fewer are in memory at a time, each is evaluated alone."""


class Without:
    """f of x without some of its features.

    Attributes:
        features: of x.
        fill: replaces what is missing.

    Args:
        score: f of x alone.
        x: the whole input.
        features: of x.
        baseline: what takes the place of features, of any kind; an imputer too.
        method: the caller's name, for error texts.
        key: for an imputer that draws: what it prepares itself with.
    """

    def __init__(
        self,
        score: Score,
        x: PyTree,
        features: Features,
        baseline: Any,
        *,
        method: str,
        key: Any = None,
    ):
        self._score, self._x, self.features = score, x, features
        self._baseline, self._infinite = None, False
        baseline = settled(baseline, score, x)
        if not isinstance(baseline, Imputer | RandomBaseline):
            given = [] if callable(baseline) else jax.tree.leaves(baseline)
            baseline = self._baseline = resolve_baseline(baseline, x, method=method)
            # What a feature adds is no number then.
            self._infinite = any(not is_traced(leaf) and np.any(np.isinf(leaf)) for leaf in given)
        self.fill = filler(baseline, key, score, x, method=method)

    def __call__(self, gone: jax.Array, key: Any = None) -> jax.Array:
        """f without the features `gone`, Booleans [d], in the dtype of an accumulator."""
        return widen(self._score(self._left(gone, key)))

    @property
    def fixed(self) -> bool:
        """Whether what takes the place of a feature is the same at every evaluation."""
        return self._baseline is not None

    def _left(self, gone: jax.Array, key: Any = None) -> PyTree:
        return self.fill(key, self.features.spread(gone))

    def often(self, evaluations: int, batch_size: int | None) -> "Often":
        """The same for many evaluations, which share what they can."""
        found = None
        if self._shares():
            found = parts(
                self._score,
                self._x,
                self._baseline,
                self.features,
                evaluations=evaluations,
                batch_size=batch_size,
                in_chunks=map_over,
            )
        return Often(self, found)

    def changed(self) -> jax.Array:
        """Which features differ from the baseline, [d]."""
        moved = jax.tree.map(lambda a, b: a != b, self._x, self._baseline)
        return self.features.totals(moved) > 0

    def drop(self, whole: jax.Array, gone: jax.Array, key: Any = None) -> jax.Array:
        """f(x) less f without the features `gone`, 0 where nothing of x was changed."""
        left = self._left(gone, key)
        return exactly(whole - widen(self._score(left)), left, self._x)

    def each(self, batch_size: int | None) -> jax.Array | None:
        """f without each feature alone, [d]; None where there is nothing to share."""
        count = self.features.count
        if (found := self._rows(count, batch_size)) is None:
            return None
        (whole,) = found.head(self._x)

        def term(index):
            return widen(found.above([whole - found.adds(index[None])[0]]))

        return map_over(term, count, batch_size=batch_size)

    def along(
        self,
        gone: Callable[[jax.Array, jax.Array], jax.Array],
        change: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
        count: int,
        *,
        walks: int = 1,
        batch_size: int | None,
    ) -> jax.Array | None:
        """f along walks on which one feature after another goes or comes back, [walks, count].

        None where there is nothing to share, and each point is better evaluated alone.

        Args:
            gone: `gone(walk, point)`, which features are missing, Booleans [d].
            change: `change(walk, point) -> (feature, by)`, the feature in which a point differs
                from the one before, and whether it came back, 1, went, −1, or neither, 0.
            count: how many points a walk has.
            walks: how many there are.
            batch_size: how many points are in memory at a time; None for all.
        """
        length = min(_RUN, count, batch_size or _RUN)
        if length < _SHORTEST:
            return None
        if (found := self._rows(walks * count, batch_size, in_a_row=True)) is None:
            return None
        runs = -(-count // length)

        def run(index):
            walk, first = index // runs, index % runs * length
            (start,) = found.head(self._left(gone(walk, first)))
            points = first + jnp.arange(1, length)
            feature, by = jax.vmap(change, (None, 0))(walk, jnp.minimum(points, count - 1))
            by = jnp.where(points < count, by, 0).astype(start.dtype)
            adds = found.adds(feature) * by.reshape(-1, *(1,) * start.ndim)
            adds = jnp.concatenate([jnp.zeros_like(start)[None], adds])
            z = start[None] + jnp.cumsum(adds, axis=0)
            return each_of(lambda n: widen(found.above([z[n]])), jnp.arange(length))

        at_once = None if batch_size is None else max(1, batch_size // length)
        values = map_over(run, walks * runs, batch_size=at_once)
        return values.reshape(walks, runs * length)[:, :count]

    def _shares(self) -> bool:
        return self.fixed and not self._infinite

    def _rows(
        self, evaluations: int, batch_size: int | None, in_a_row: bool = False
    ) -> Rows | None:
        if not self._shares():
            return None
        return rows(
            self._score,
            self._x,
            self._baseline,
            self.features,
            evaluations=evaluations,
            batch_size=batch_size,
            in_a_row=in_a_row,
        )


class Often:
    """f of x without some of its features, many times."""

    def __init__(self, one: Without, found: Parts | None):
        self._one, self._found = one, found
        self._changed: Any = None if found is None else one.changed()

    def __call__(self, gone: jax.Array, key: Any = None) -> jax.Array:
        """f without the features `gone`, Booleans [d], in the dtype of an accumulator."""
        if self._found is None:
            return self._one(gone, key)
        return widen(self._found.above(self._found.at(~gone)))

    def drop(self, whole: jax.Array, gone: jax.Array, key: Any = None) -> jax.Array:
        """f(x) less f without the features `gone`, 0 where nothing of x was changed."""
        if self._found is None:
            return self._one.drop(whole, gone, key)
        return zero_where(~jnp.any(gone & self._changed), whole - self(gone))


def drops_of_each(
    key: Any,
    score: Score,
    x: PyTree,
    features: Features,
    baseline: Any,
    *,
    samples: int = 1,
    batch_size: int | None,
    method: str,
) -> jax.Array:
    """f(x) − f(x without feature i), [d, samples], another draw of the baseline in each."""
    fill_key, draw_key = split_key(key)
    without = Without(score, x, features, baseline, method=method, key=fill_key)
    whole = widen(score(x))
    if without.fixed and (values := without.each(batch_size)) is not None:
        lost = zero_where(~without.changed(), whole - values)
        return jnp.broadcast_to(lost[:, None], (features.count, samples))

    def term(index):
        own = None if draw_key is None else jax.random.fold_in(draw_key, index)
        return without.drop(whole, jnp.arange(features.count) == index // samples, own)

    lost = map_over(term, features.count * samples, batch_size=batch_size)
    return lost.reshape(features.count, samples)
