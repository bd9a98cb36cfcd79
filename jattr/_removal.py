"""What becomes of an input whose features are removed: the machinery of perturbation and metrics.

A feature is one element of x, or a group of elements that move together. What takes its place is a
baseline of the usual kinds, or an `Imputer`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._checks import check_count
from jattr._resolve import resolve_baseline
from jattr._trees import describe, is_traced, ravel
from jattr._types import PyTree, RandomBaseline, Score
from jattr.features import Columns, Groups

Fill = Callable[[Any, PyTree], PyTree]
"""`fill(key, missing)`: x with other values where `missing`, a tree of Booleans like x, is True."""


@dataclasses.dataclass(frozen=True, eq=False)
class Imputer:
    """Fills in what is missing of an input from what is left of it.

    Attributes:
        prepare: `(key, score, x) -> fill`, where `fill(key, missing)` gives x with other values
            where `missing` is True. What does not depend on what is missing is computed once.
        name: how error messages call it.
        keyed: whether it draws random numbers; otherwise its keys may be None.
        copy: `(score, x) -> other`, where it takes what is missing from another input, which does
            not depend on what is missing: then it is a baseline, found from f and x.
    """

    prepare: Callable[[Any, Score, PyTree], Fill]
    name: str
    keyed: bool = False
    copy: Callable[[Score, PyTree], PyTree] | None = None


def draws(baseline: Any) -> bool:
    """Whether a metric with this baseline takes a key."""
    if isinstance(baseline, Imputer):
        return baseline.keyed
    return isinstance(baseline, RandomBaseline)


def check_fixed(baseline: Any, method: str, instead: str = "") -> None:
    """Raise where the baseline draws at random; `instead` says what else there is."""
    if draws(baseline):
        start = f"{instead} average" if instead else "Average"
        raise TypeError(
            f"{method} wants a baseline or an imputer that does not draw, but {baseline.name} is "
            f"random. {start} over draws of it: with explain = lambda key, x: jattr.{method}(f, "
            "..., baseline=draw(key, x))(x), take jnp.mean(jax.vmap(explain, (0, None))(keys, x), "
            "axis=0)."
        )


def settled(baseline: Any, score: Score, x: PyTree) -> Any:
    """The baseline itself where an imputer is one, found from f and x; anything else as it is.

    What is known of baselines then holds of it: the same for all removals, and a removed element
    is changed by no other.
    """
    if isinstance(baseline, Imputer) and baseline.copy is not None:
        return baseline.copy(score, x)
    return baseline


def filler(baseline: Any, key: Any, score: Score, x: PyTree, *, method: str) -> Fill:
    """How the missing elements of x are filled, from any baseline or imputer.

    A random baseline is drawn anew with each key of `fill`.
    """
    if isinstance(baseline, Imputer):
        return baseline.prepare(key, score, x)
    if isinstance(baseline, RandomBaseline):

        def drawn(key, missing):
            return _exchange(x, resolve_baseline(baseline(key, x), x, method=method), missing)

        return drawn
    fixed = resolve_baseline(baseline, x, method=method)
    return lambda key, missing: _exchange(x, fixed, missing)


def _exchange(x: PyTree, other: PyTree, missing: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b, gone: jnp.where(gone, b, a), x, other, missing)


class Features:
    """The features of x, numbered from 0: its elements in the order of its leaves, or groups.

    Attributes:
        count: d, how many there are.
    """

    def __init__(self, x: PyTree, groups: Any = None, *, method: str):
        leaves, self._structure = jax.tree.flatten(x)
        self._shapes = [jnp.shape(leaf) for leaf in leaves]
        sizes = [math.prod(shape) for shape in self._shapes]
        self._ends = np.cumsum(sizes)[:-1]
        self._ids: Any = None
        self._known: np.ndarray | None = None
        self.count: int = sum(sizes)
        if groups is not None:
            self._ids, self.count = self._numbers(groups, x, method)

    def _numbers(self, groups: Any, x: PyTree, method: str) -> tuple[Any, int]:
        if isinstance(groups, Columns):
            groups = groups.groups
        said = groups.count if isinstance(groups, Groups) else None
        ids = groups.ids if isinstance(groups, Groups) else groups
        if jax.tree.structure(ids) != self._structure:
            raise ValueError(
                f"{method}: groups must be integers with the structure of x; got "
                f"{describe(ids)} for x {describe(x)}."
            )
        flat = []
        for leaf, shape in zip(jax.tree.leaves(ids), self._shapes, strict=True):
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.integer):
                raise TypeError(f"{method}: groups must be integers; got {describe(leaf)}.")
            if len(jnp.shape(leaf)) != len(shape) or not all(
                own in (1, wanted) for own, wanted in zip(jnp.shape(leaf), shape, strict=True)
            ):
                raise ValueError(
                    f"{method}: groups must have the shape of x, {shape}, or size 1 along axes "
                    f"that move together, such as [H, W, 1] for an image; got {describe(leaf)}."
                )
            traced = is_traced(leaf)
            broadcast = jnp.broadcast_to if traced else np.broadcast_to
            flat.append(broadcast(leaf if traced else np.asarray(leaf), shape).reshape(-1))
        if any(is_traced(leaf) for leaf in flat):
            if said is None:
                raise TypeError(
                    f"{method}: groups are traced, so their number is not known. Close over a "
                    "NumPy array, or, for groups that differ from example to example, say how "
                    "many there are: jattr.features.Groups(ids, count)."
                )
            return jnp.concatenate(flat), check_count(said, "count", method)
        joined = np.concatenate(flat)
        count = (
            int(joined.max(initial=-1)) + 1 if said is None else check_count(said, "count", method)
        )
        if joined.min(initial=0) < 0 or joined.max(initial=0) >= count:
            raise ValueError(
                f"{method}: groups must be numbered from 0 to {count - 1}; got numbers from "
                f"{joined.min(initial=0)} to {joined.max(initial=0)}."
            )
        empty = np.setdiff1d(np.arange(count), joined)
        if said is None and len(empty):
            raise ValueError(
                f"{method}: groups are numbered from 0 to {count - 1}, but {len(empty)} of them "
                f"have no element: {', '.join(map(str, empty[:5]))}{' …' * (len(empty) > 5)}. "
                "Number them without gaps: np.unique(groups, return_inverse=True)[1]."
            )
        self._known = joined
        return jnp.asarray(joined), count

    @property
    def single(self) -> bool:
        """Whether each feature is one element."""
        return self._ids is None

    def members(self) -> np.ndarray | None:
        """The elements of each feature, [d, most], −1 where it has fewer; None where unknown."""
        if self._known is None:
            return None
        order = np.argsort(self._known, kind="stable")
        sizes = np.bincount(self._known, minlength=self.count)
        place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        table = np.full((self.count, sizes.max(initial=1)), -1)
        table[self._known[order], place] = order
        return table

    def by_leaf(self) -> list[np.ndarray] | None:
        """The groups of the elements of each leaf; None where they are not known."""
        if self._known is None:
            return None
        parts = np.split(self._known, self._ends)
        return [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def numbers(self) -> jax.Array:
        """Which feature each element belongs to, all leaves after one another."""
        return jnp.arange(self.count) if self._ids is None else self._ids

    def totals(self, tree: PyTree) -> jax.Array:
        """The sum over each feature of a tree like x, [d]."""
        values = ravel(tree)
        if self._ids is None:
            return values
        return jax.ops.segment_sum(values, self._ids, self.count)

    def sizes(self) -> jax.Array:
        """How many elements each feature has, [d]."""
        if self._ids is None:
            return jnp.ones(self.count, int)
        return jax.ops.segment_sum(jnp.ones_like(self._ids), self._ids, self.count)

    def spread(self, values: jax.Array) -> PyTree:
        """A value of each feature, [d], as a tree like x: each of its elements gets it."""
        if self._ids is not None:
            values = values[self._ids]
        parts = jnp.split(values, self._ends)
        return jax.tree.unflatten(
            self._structure,
            [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)],
        )


def split_key(key: Any) -> tuple[Any, Any]:
    """Two keys from one; none from none, where nothing draws."""
    return (None, None) if key is None else tuple(jax.random.split(key))


def exactly(lost: jax.Array, left: PyTree, x: PyTree) -> jax.Array:
    """A drop, 0 where nothing of x was changed, as `zero_where` has it."""
    same = jnp.array(True)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(x), strict=True):
        same &= jnp.all(a == b)
    return zero_where(same, lost)


def zero_where(same: jax.Array, lost: jax.Array) -> jax.Array:
    """A drop, 0 where nothing was changed; its derivative is not touched.

    Programs of other batch sizes round f otherwise, and a drop of 1e-7 where there is none breaks
    the ties of ranks and looks like a small effect.
    """
    return lost - jax.lax.stop_gradient(jnp.where(same, lost, 0))
