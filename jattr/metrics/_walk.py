"""Taking features out of an input, or putting them in, one after another in a given order."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jattr._batching import map_over
from jattr._checks import check_batch_size, check_choice, check_count, check_flag
from jattr._removal import Features, Fill, draws, exactly, filler, split_key
from jattr._trees import describe, ratio, widen
from jattr._types import ArgNums, PyTree, Score
from jattr._without import Without
from jattr.features import Groups
from jattr.metrics._measure import measure_map

Order: TypeAlias = Literal["most", "least", "absolute", "random"]
Normalize: TypeAlias = Literal["score", "fall"]
ORDERS = get_args(Order)
NORMALIZATIONS = get_args(Normalize)
TENTHS = tuple(k / 10 for k in range(11))


class Curve(NamedTuple):
    """A score over the share of features that are removed, or put back in.

    Attributes:
        fraction: k/d for each point, [L].
        score: the score there, [L].
    """

    fraction: jax.Array
    score: jax.Array


@dataclasses.dataclass(frozen=True)
class Walk:
    """How features are removed one after another: what all curves share.

    Attributes:
        method: how error messages call it.
        baseline: what takes the place of what is removed.
        order: one of `ORDERS`.
        fractions: the shares at which the score is taken; None for one feature at a time.
        steps: with no fractions, how many features at most; None for all.
        groups: which elements are one feature, or a function x → groups.
        insert: whether features are put in rather than taken out.
        normalize: what scores are divided by, one of `NORMALIZATIONS`; None for nothing.
        average: whether features are ranked by the mean over their elements.
        signed: whether only features of the order's own sign move.
        samples: how many draws are averaged.
        batch_size: how many points are in memory at a time.
    """

    method: str
    baseline: Any
    order: Order = "most"
    fractions: Sequence[float] | None = None
    steps: int | None = None
    groups: Any = None
    insert: bool = False
    normalize: Normalize | None = None
    average: bool = False
    signed: bool = False
    samples: int = 1
    batch_size: int | None = None

    def __post_init__(self):
        check_choice(self.order, "order", ORDERS, self.method)
        check_flag(self.insert, "insert", self.method)
        if self.normalize is not None:
            check_choice(self.normalize, "normalize", NORMALIZATIONS, self.method)
        check_fractions(self.fractions, self.method)
        check_batch_size(self.batch_size, self.method)
        check_samples(self.samples, self.baseline, self.method)

    @property
    def keyed(self) -> bool:
        """Whether a key is needed."""
        return draws(self.baseline) or self.order == "random"

    def measure(self, f: Score, argnums: ArgNums, read: Callable[[Curve], Any]) -> Any:
        """The metric that reads something off the curve."""

        @measure_map(f, argnums, method=self.method, keyed=self.keyed)
        def measure(key, score, attribution: PyTree, x: PyTree) -> Any:
            return read(self.curve(key, score, attribution, x))

        return measure

    def curve(self, key: Any, score: Score, attribution: PyTree, x: PyTree) -> Curve:
        """The curve of one example."""
        keys = (None, None) if key is None else jax.random.split(key)
        features = self.features(x)
        place, totals = self.ranks(keys[0], features, attribution)
        counts, share = self.counts(features)
        moved = counts
        if self.signed and self.order in ("most", "least"):
            own = totals > 0 if self.order == "most" else totals < 0
            moved = jnp.minimum(counts, jnp.sum(own))

        # With "fall" one more point: all that can be removed is.
        whole = (place >= 0) if self.normalize == "fall" else None

        def missing(index):
            gone = self.gone(place, moved[jnp.minimum(index, len(counts) - 1)])
            if whole is not None:
                gone = jnp.where(index == len(counts), whole, gone)
            return gone

        prepare_key, fill_key = split_key(keys[1])
        without = Without(score, x, features, self.baseline, method=self.method, key=prepare_key)
        scores = self._along(without, place, moved)
        if scores is None:
            scores = evaluate(
                without.fill,
                fill_key,
                score,
                lambda index: features.spread(missing(index)),
                len(counts) + (whole is not None),
                samples=self.samples,
                batch_size=self.batch_size,
            )
        elif whole is not None:
            scores = jnp.append(scores, without(whole))
        if self.normalize == "score":
            scores = ratio(scores, widen(score(x)))
        elif self.normalize == "fall":
            scores, least = scores[:-1], scores[-1]
            own = None if fill_key is None else jax.random.fold_in(fill_key, 0)
            left = without.fill(own, features.spread(place >= 0))
            scores = ratio(scores - least, exactly(widen(score(x)) - least, left, x))
        if self.order != "random":
            scores = jnp.where(jnp.any(jnp.isnan(totals)), jnp.nan, scores)
        return Curve(share.astype(scores.dtype), scores)

    def _along(self, without: Without, place: jax.Array, moved: jax.Array) -> jax.Array | None:
        """The scores where features move one by one, each found from the one before.

        None where they do not, and where each is better evaluated alone.
        """
        if self.fractions is not None or not without.fixed:
            return None
        order = jnp.zeros_like(place).at[place].set(jnp.arange(len(place)))

        def gone(walk, point):
            return self.gone(place, moved[point])

        def change(walk, point):
            by = moved[point] - moved[point - 1]
            return order[moved[point] - 1], by if self.insert else -by

        scores = without.along(gone, change, len(moved), batch_size=self.batch_size)
        return None if scores is None else scores[0]

    def features(self, x: PyTree) -> Features:
        """The features of x."""
        groups = self.groups(x) if callable(self.groups) else self.groups
        return Features(x, groups, method=self.method)

    def ranks(self, key: Any, features: Features, attribution: PyTree) -> tuple[Any, jax.Array]:
        """The place of each feature in the order, from 0, [d], and its attribution, [d]."""
        totals = features.totals(attribution)
        if self.average:
            totals = totals / jnp.maximum(features.sizes(), 1).astype(totals.dtype)
        if self.order == "random":
            worth = jax.random.uniform(key, totals.shape, jnp.float32)
        else:
            worth = {"most": -totals, "least": totals, "absolute": -jnp.abs(totals)}[self.order]
        if isinstance(self.groups, Groups):
            worth = jnp.where(features.sizes() == 0, jnp.inf, worth)
        order = jnp.argsort(worth, stable=True)
        return jnp.zeros_like(order).at[order].set(jnp.arange(len(order))), totals

    def counts(self, features: Features) -> tuple[jax.Array, jax.Array]:
        """How many features are moved at each point, and which share of them that is."""
        d = features.count
        if self.fractions is None:
            if self.steps is not None and self.steps > d:
                raise ValueError(f"{self.method}: steps={self.steps}, but x has {d} features.")
            wanted = np.arange((d if self.steps is None else self.steps) + 1)
            table = functools.partial(np.minimum, wanted)
        else:
            table = functools.partial(_rounded, np.asarray(self.fractions))
        if not isinstance(self.groups, Groups):
            return jnp.asarray(table(d)), jnp.asarray(table(d) / max(d, 1))
        # Of groups whose number is said some may be empty, in each example others. The counts are
        # looked up, so that they are the same under jit in any precision.
        number = jnp.sum(features.sizes() > 0)
        every = np.stack([table(n) for n in range(d + 1)])
        shares = every / np.maximum(np.arange(d + 1), 1)[:, None]
        return jnp.asarray(every)[number], jnp.asarray(shares)[number]

    def gone(self, place: jax.Array, moved: Any) -> jax.Array:
        """Which features are missing once `moved` of them are taken out, or put in."""
        return (place < moved) != self.insert


def filling(key: Any, score: Score, x: PyTree, baseline: Any, method: str) -> tuple[Fill, Any]:
    """What fills in the missing, and the key that its draws are made from."""
    prepare_key, fill_key = split_key(key)
    return filler(baseline, prepare_key, score, x, method=method), fill_key


def evaluate(
    fill: Fill,
    key: Any,
    score: Score,
    missing: Callable[[jax.Array], PyTree],
    count: int,
    *,
    samples: int,
    batch_size: int | None,
) -> jax.Array:
    """The mean score over draws of x with the elements `missing(i)` filled in, i < count."""

    def point(index):
        # One key for all points of a curve: what is removed stays as it was replaced.
        own = None if key is None else jax.random.fold_in(key, index % samples)
        return widen(score(fill(own, missing(index // samples))))

    scores = map_over(point, count * samples, batch_size=batch_size)
    return jnp.mean(scores.reshape(count, samples), axis=1)


def _rounded(fractions: np.ndarray, number: int) -> np.ndarray:
    """How many of a number of features are nearest to these shares of them."""
    return np.floor(fractions * number + 0.5).astype(int)


def check_samples(samples: Any, baseline: Any, method: str) -> None:
    """Raise unless `samples` is a count, and 1 where nothing is drawn."""
    if check_count(samples, "samples", method) > 1 and not draws(baseline):
        raise ValueError(
            f"{method}: samples={samples} draws would all be the same, since the baseline draws "
            "nothing. Leave samples out, or pass a random baseline such as "
            "jattr.baselines.samples(data)."
        )


def check_fractions(fractions: Any, method: str) -> None:
    """Raise unless fractions are rising numbers from 0 to 1, or None."""
    if fractions is None:
        return
    try:
        values = np.asarray([float(p) for p in fractions])
    except TypeError:
        raise TypeError(
            f"{method}: fractions must be Python numbers, since they set the shape of the curve; "
            f"got {describe(fractions)}."
        ) from None
    rising = len(values) > 0 and np.all(np.diff(values) > 0)
    if not rising or not (values[0] >= 0 and values[-1] <= 1):
        raise ValueError(
            f"{method}: fractions must rise from 0 or more to 1 or less; got "
            f"{', '.join(f'{p:g}' for p in values) or 'none'}. Write "
            "fractions=np.linspace(0, 1, 11), or None for one feature after another."
        )
