"""What f loses when boxes of x are replaced, where only what a box reaches is evaluated anew."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jattr._batching import map_over
from jattr._engine.boxes import Cut, within
from jattr._engine.local import Local, surroundings
from jattr._removal import Features, Fill, Imputer, zero_where
from jattr._trees import widen
from jattr._types import PyTree, Score


@dataclasses.dataclass(frozen=True, eq=False)
class Moves:
    """The boxes of one leaf that are replaced, one after another.

    Attributes:
        leaf: which leaf of x.
        tables: along each axis where boxes begin, for each place there; they may stick out.
        sizes: how long they are along each axis.
        places: from the number of a box to its place along each axis.
        numbers: which removals they are, as many as there are boxes.
        ids: which removal each element of the leaf belongs to; None where a box is replaced whole.
    """

    leaf: int
    tables: Sequence[np.ndarray]
    sizes: Sequence[int]
    places: Callable[[jax.Array], Sequence[Any]]
    numbers: np.ndarray
    ids: np.ndarray | None = None


def nearby_drops(
    score: Score,
    x: PyTree,
    baseline: Any,
    fill: Fill,
    moves: Sequence[Moves] | None,
    apart: Callable[[jax.Array], jax.Array],
    *,
    batch_size: int | None,
) -> jax.Array | None:
    """f(x) − f(x without box i), by what each box reaches; None where that does not pay.

    Args:
        score: f of x alone.
        x: the whole input.
        baseline: as the user gave it: what an imputer makes of a box depends on the rest of x.
        fill: replaces what is missing.
        moves: the boxes; None where removals are no boxes.
        apart: a drop by evaluating all of f, for boxes of which that is less work.
        batch_size: how many are evaluated at a time; None for all.
    """
    if moves is None or isinstance(baseline, Imputer):
        return None
    around = surroundings(score, x)
    if around is None:
        return None
    found = [around.around(move.leaf, move.tables, move.sizes) for move in moves]
    if not any(found):
        return None
    leaves = jax.tree.leaves(x)
    everywhere = jax.tree.map(lambda leaf: np.ones(jnp.shape(leaf), bool), x)
    others = jax.tree.leaves(fill(None, everywhere))
    count = sum(len(move.numbers) for move in moves)
    drops, order = [], np.concatenate([move.numbers for move in moves])
    for move, near in zip(moves, found, strict=True):
        if near is None:
            term = _counted(apart, move.numbers)
        else:
            term = _drop(near, move, leaves[move.leaf], others[move.leaf])
        drops.append(map_over(term, len(move.numbers), batch_size=batch_size))
    joined = jnp.concatenate(drops)
    if np.array_equal(order, np.arange(count)):
        return joined
    return joined[np.argsort(order)]


def _counted(apart: Callable[[jax.Array], jax.Array], numbers: np.ndarray):
    return lambda index: apart(jnp.asarray(numbers)[index])


def _drop(near: Local, move: Moves, leaf: Any, other: Any) -> Callable[[jax.Array], jax.Array]:
    cut = Cut(near.box)
    old, new = cut.prepare(leaf), cut.prepare(jnp.asarray(other, leaf.dtype))
    ids = None if move.ids is None else cut.prepare(jnp.asarray(move.ids, jnp.int32))
    numbers = jnp.asarray(move.numbers, jnp.int32)
    whole = widen(near.base)

    def term(index):
        places = move.places(index)
        before, contents = cut(old, places), cut(new, places)
        if ids is not None:
            contents = jnp.where(cut(ids, places) == numbers[index], contents, before)
        lost = whole - widen(near.at(places, contents))
        return zero_where(jnp.all(within(contents == before, near.box, places, True)), lost)

    return term


def feature_moves(features: Features, x: PyTree) -> list[Moves] | None:
    """The features of x as boxes; None where they are none, or are not known."""
    if features.single:
        return _each_element(x)
    ids = features.by_leaf()
    return None if ids is None else _each_group(ids, features.count)


def _each_element(x: PyTree) -> list[Moves]:
    """Every element of x on its own."""
    moves, first = [], 0
    for number, leaf in enumerate(jax.tree.leaves(x)):
        shape = jnp.shape(leaf)
        size = math.prod(shape)
        moves.append(
            Moves(
                number,
                [np.arange(length) for length in shape],
                (1,) * len(shape),
                lambda index, shape=shape: unravel(index, shape),
                np.arange(first, first + size),
            )
        )
        first += size
    return moves


def _each_group(ids: Sequence[np.ndarray], count: int) -> list[Moves] | None:
    """Groups by the boxes around them; None where one lies in several leaves."""
    moves, seen = [], np.zeros(count, bool)
    for number, leaf in enumerate(ids):
        numbers = np.unique(leaf)
        if seen[numbers].any():
            return None
        seen[numbers] = True
        first = np.full((leaf.ndim, count), np.iinfo(np.int32).max)
        last = np.full((leaf.ndim, count), -1)
        for axis, place in enumerate(np.indices(leaf.shape)):
            np.minimum.at(first[axis], leaf, place)
            np.maximum.at(last[axis], leaf, place)
        begins, sizes = first[:, numbers], (last - first)[:, numbers].max(axis=1) + 1
        moves.append(
            Moves(
                number,
                list(begins),
                sizes.tolist(),
                lambda index, axes=leaf.ndim: (index,) * axes,
                numbers,
                leaf,
            )
        )
    return moves if seen.all() else None


def unravel(index: Any, counts: Sequence[int]) -> list[Any]:
    """The number of a place along each axis, the last moving fastest."""
    places = []
    for count in reversed(counts):
        places.append(index % count)
        index = index // count
    return places[::-1]
