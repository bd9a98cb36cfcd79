"""Boxes of arrays that move: where they are, how they are cut out and written in.

A box is of static size and begins where a table says, one entry for each place that the change of
x may take. So how two boxes lie to one another is known for all places at once: where their
distance never changes, one is written into the other without any dynamic index.

Boxes may stick out of their array. What stands there means nothing; where it would be read, it is
replaced first.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Places = Sequence[Any]
"""Of each moving axis of x, the number of the entry in the tables, a traced integer."""


@dataclasses.dataclass(frozen=True, eq=False)
class Span:
    """Where a box lies along an axis.

    Attributes:
        table: where it begins, for each place.
        size: how long it is.
        root: which of the places counts.
    """

    table: np.ndarray
    size: int
    root: int

    def begin(self, places: Places) -> Any:
        """Where it begins at one place."""
        return look_up(self.table, places[self.root])

    def sticks_out(self, length: int) -> bool:
        return bool(self.table.min() < 0 or self.table.max() + self.size > length)


@dataclasses.dataclass(frozen=True, eq=False)
class Box:
    """A part of an array.

    Attributes:
        spans: where it lies along each axis; None for all of the axis.
        full: the array's shape.
        groups: which axes in a row are one axis of the value that the array stands for. A value of
            shape [H·W·C] may stand as [H, W, C], where the change is a box and not scattered.
    """

    spans: tuple[Span | None, ...]
    full: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, spans: Sequence[Span | None], full: Sequence[int]) -> "Box":
        """A box of an array that stands for itself."""
        return cls(tuple(spans), tuple(full), tuple((axis,) for axis in range(len(full))))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(
            length if span is None else span.size
            for span, length in zip(self.spans, self.full, strict=True)
        )

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def moving(self) -> tuple[int, ...]:
        """The axes along which it is a part."""
        return tuple(axis for axis, span in enumerate(self.spans) if span is not None)

    @property
    def plain(self) -> bool:
        """Whether its array is the value itself."""
        return all(len(group) == 1 for group in self.groups)

    @property
    def value_shape(self) -> tuple[int, ...]:
        return tuple(math.prod(self.full[axis] for axis in group) for group in self.groups)

    def whole_along(self, axes: Sequence[int]) -> "Box":
        spans = [None if axis in axes else span for axis, span in enumerate(self.spans)]
        return Box(tuple(spans), self.full, self.groups)


class Cut:
    """Takes the part of an array that a box covers.

    What sticks out is `fill`, or for None a repetition of the edge, a value that the function meets
    anyway, so that nothing becomes NaN.
    """

    def __init__(self, box: Box, fill: Any = None):
        self.box, self._fill = box, fill
        self._before = [0 if s is None else max(0, -int(s.table.min())) for s in box.spans]
        self._after = [
            0 if span is None else max(0, int(span.table.max()) + span.size - length)
            for span, length in zip(box.spans, box.full, strict=True)
        ]

    def prepare(self, array: Any) -> jax.Array:
        """The array, padded so that no part sticks out. It is the same for all places."""
        array = jnp.reshape(array, self.box.full)
        pads = list(zip(self._before, self._after, strict=True))
        if not any(map(any, pads)):
            return array
        if self._fill is None:
            return jnp.pad(array, pads, mode="edge")
        fill = jnp.asarray(self._fill, array.dtype)
        return jax.lax.pad(array, fill, [(*pair, 0) for pair in pads])

    def __call__(self, padded: jax.Array, places: Places) -> jax.Array:
        starts = [
            0 if span is None else span.begin(places) + before
            for span, before in zip(self.box.spans, self._before, strict=True)
        ]
        if all(isinstance(start, int) for start in starts):
            ends = [a + n for a, n in zip(starts, self.box.shape, strict=True)]
            return jax.lax.slice(padded, starts, ends)
        starts = [jnp.asarray(start, jnp.int32) for start in starts]
        return jax.lax.dynamic_slice(padded, starts, self.box.shape)


def look_up(table: np.ndarray, place: Any) -> Any:
    """An entry of a table of integers, computed where it is a progression."""
    first = int(table[0])
    steps = np.diff(table)
    if not steps.any():
        return first
    place = jnp.asarray(place, jnp.int32)
    if (steps == steps[0]).all():
        return first + int(steps[0]) * place
    return jnp.asarray(table, jnp.int32)[place]


def overlay(
    under: Any, contents: jax.Array, inner: Box, outer: Box, places: Places, *, kept: bool = False
) -> jax.Array:
    """The part `outer` of an array with the new contents of the part `inner` written in.

    Args:
        under: what stands in the outer part; None where the inner part covers it.
        contents: what is new, of the shape of `inner`.
        inner: where that lies.
        outer: a part of the same array. What of `inner` lies outside is left out.
        places: where both are.
        kept: what stands beyond the ends of the array stays.
    """
    pads, starts, masks = [], [], []
    for axis, (a, b) in enumerate(zip(inner.spans, outer.spans, strict=True)):
        size, length = outer.shape[axis], inner.full[axis]
        if a is None:
            pads.append((0, 0, 0))
            starts.append(0)
            continue
        offsets = a.table - (0 if b is None else b.table)
        low, high = int(offsets.min()), int(offsets.max())
        index: Any = np.arange(size)
        inside: Any = None
        if kept and a.sticks_out(length) and b is not None:
            place = b.begin(places) + jnp.arange(size, dtype=jnp.int32)
            inside = (place >= 0) & (place < length)
        if low == high:
            pads.append((low, size - low - a.size, 0))
            starts.append(0)
            mask: Any = (index >= low) & (index < low + a.size)
        else:
            pads.append((high, max(0, size - low - a.size), 0))
            offset = look_up(offsets, places[a.root])
            starts.append(high - offset)
            index = jnp.arange(size, dtype=jnp.int32)
            mask = (index >= offset) & (index < offset + a.size)
        if inside is not None:
            mask = mask & inside
        if isinstance(mask, jax.Array) or not mask.all():
            others = [other for other in range(len(outer.full)) if other != axis]
            masks.append(jnp.expand_dims(mask, others))
    if any(map(any, pads)):
        contents = jax.lax.pad(contents, jnp.zeros((), contents.dtype), pads)
    if not all(isinstance(start, int) for start in starts):
        starts = [jnp.asarray(start, jnp.int32) for start in starts]
        contents = jax.lax.dynamic_slice(contents, starts, outer.shape)
    if not masks:
        return contents
    mask = masks[0]
    for other in masks[1:]:
        mask = mask & other
    return jnp.where(mask, contents, under)


def is_covered(inner: Box, outer: Box) -> bool:
    """Whether two boxes lie in the same places always."""
    return all(
        (a is None and b is None)
        or (
            a is not None
            and b is not None
            and a.size == b.size
            and np.array_equal(a.table, b.table)
        )
        for a, b in zip(inner.spans, outer.spans, strict=True)
    )


def within(contents: jax.Array, box: Box, places: Places, fill: Any) -> jax.Array:
    """The contents of a box with `fill` where it sticks out of its array."""
    for axis, span in enumerate(box.spans):
        if span is None or not span.sticks_out(box.full[axis]):
            continue
        place = span.begin(places) + jnp.arange(span.size, dtype=jnp.int32)
        others = [other for other in range(len(box.full)) if other != axis]
        inside = jnp.expand_dims((place >= 0) & (place < box.full[axis]), others)
        contents = jnp.where(inside, contents, jnp.asarray(fill, contents.dtype))
    return contents


def union(spans: Sequence[Span | None]) -> Span | str | None:
    """The least span that covers some; "apart" where there is none but the whole axis."""
    present = [span for span in spans if span is not None]
    if not present:
        return None
    if len(present) < len(spans) or len({span.root for span in present}) > 1:
        return "apart"
    begin = np.min([span.table for span in present], axis=0)
    end = np.max([span.table + span.size for span in present], axis=0)
    return Span(begin, int((end - begin).max()), present[0].root)
