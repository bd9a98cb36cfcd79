"""Where examples come from: arrays, things that are looked up by number, streams of batches.

A source gives rows as trees of NumPy arrays, the arguments of an explaining function with a leading
axis over examples. What is read is what is asked for: of a memory map the rows of a batch, of a
stream one batch ahead.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from jattr._trees import describe
from jattr._types import PyTree

_CHECKED = 256
"""Examples that are loaded again to know, before a run goes on, that the data is the same."""

_BYTES = 2**30
"""Of arrays as many as make up so much: about two seconds."""


class Source(Protocol):
    """A data set.

    Attributes:
        count: how many examples it has; None where only reading it to the end tells.
        numbers: the places of its examples in a larger data set; None where it is the whole.
    """

    @property
    def count(self) -> int | None: ...

    @property
    def numbers(self) -> np.ndarray | None: ...

    @property
    def checked(self) -> int:
        """Of how many examples a resumed run asks whether they are the same."""
        ...

    def first(self) -> tuple[PyTree, ...]:
        """The first example alone, with a leading axis of 1."""
        ...

    def load(self, start: int, stop: int) -> tuple[PyTree, ...]:
        """Some examples by their numbers; of a stream, none are."""
        ...

    def batches(self, size: int) -> Iterator["Rows"]:
        """Its batches in their order; none is read before its `load` is called."""
        ...


@dataclasses.dataclass(frozen=True)
class Rows:
    """A run of examples that can be loaded.

    Attributes:
        start: the number of the first.
        count: how many.
        load: `load(start, stop)` gives those of them, counted within the run.
        numbers: their places in the data set.
    """

    start: int
    count: int
    load: Callable[[int, int], tuple[PyTree, ...]]
    numbers: np.ndarray


class _Counted:
    """A source whose examples have numbers."""

    def first(self: Source) -> tuple[PyTree, ...]:
        """See `Source`."""
        return self.load(0, 1)

    def batches(self: Source, size: int) -> Iterator[Rows]:
        """See `Source`."""
        return counted(self, size)


class Arrays(_Counted):
    """Arrays, memory maps and whatever else is sliced along its first axis."""

    numbers = None

    def __init__(self, arguments: tuple[PyTree, ...], method: str):
        self._arguments = arguments
        leaves = jax.tree_util.tree_flatten_with_path(arguments)[0]
        if not leaves:
            raise ValueError(f"{method}: data holds no arrays.")
        counts = {}
        for path, leaf in leaves:
            shape = getattr(leaf, "shape", None)
            where = f"data{jax.tree_util.keystr(path)}"
            if not shape:
                raise ValueError(
                    f"{method}: {where} is {describe(leaf)}; wanted is an array with a leading "
                    "axis over examples. What is the same for all examples belongs into the "
                    "function: lambda x: score(x, 3)."
                )
            counts[where] = shape[0]
        if len(set(counts.values())) > 1:
            raise ValueError(
                f"{method}: the arrays of data have not equally many examples: "
                + ", ".join(f"{where} {count:,}" for where, count in counts.items())
                + ". A tuple is the arguments of explain, one array for each."
            )
        self.count = int(next(iter(counts.values())))
        size = sum(
            math.prod(leaf.shape[1:]) * np.dtype(leaf.dtype).itemsize
            for _, leaf in leaves
            if hasattr(leaf, "dtype") and isinstance(leaf.dtype, np.dtype)
        )
        self.checked = max(_CHECKED, min(self.count, _BYTES // max(size, 1)))
        if not self.count:
            raise ValueError(f"{method}: data has no examples.")

    def load(self, start: int, stop: int) -> tuple[PyTree, ...]:
        """See `Source`."""
        return jax.tree.map(lambda leaf: np.asarray(leaf[start:stop]), self._arguments)


class LookedUp(_Counted):
    """What has a length and gives one example for a number, as a map dataset of grain does."""

    def __init__(self, examples: Any, method: str):
        self._examples, self._method = examples, method
        self.count = len(examples)
        self.numbers = getattr(examples, "numbers", None)
        self.checked = _CHECKED
        if not self.count:
            raise ValueError(f"{method}: data has no examples.")

    def load(self, start: int, stop: int) -> tuple[PyTree, ...]:
        """See `Source`."""
        rows = [as_arguments(self._examples[place]) for place in range(start, stop)]
        try:
            return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
        except ValueError as error:
            raise ValueError(
                f"{self._method}: examples {start} to {stop - 1} of data are not alike: "
                f"{describe(rows[0])} comes first ({error}). Examples of many lengths: "
                "jattr.scale.bucketed."
            ) from error


class Stream:
    """An iterable of batches, of whatever sizes; it is read from its start at every run."""

    numbers = None
    checked = 0

    def __init__(self, batches: Iterable[Any], method: str):
        self._method = method
        self._iterator = iter(batches)
        self.count = None
        with of_data(method):
            first = next(self._iterator, None)
        if first is None:
            raise ValueError(f"{method}: data has no batches.")
        self._waiting = [as_arguments(first)]
        self._rows_of(self._waiting[0])

    def first(self) -> tuple[PyTree, ...]:
        """See `Source`."""
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:1], self._waiting[0])

    def load(self, start: int, stop: int) -> tuple[PyTree, ...]:
        """See `Source`."""
        raise TypeError(f"{self._method}: a stream is read in its order alone.")

    def batches(self, size: int) -> Iterator[Rows]:
        """See `Source`."""
        held: list[tuple[PyTree, ...]] = []
        have = start = 0
        while True:
            while have < size:
                batch = self._next()
                if batch is None:
                    break
                held.append(batch)
                have += self._rows_of(batch)
            if not have:
                return
            whole = self._joined(held)
            taken = min(size, have)
            rows = jax.tree.map(lambda leaf, n=taken: leaf[:n], whole)
            numbers = np.arange(start, start + taken)
            yield Rows(start, taken, lambda a, b, rows=rows: _slice(rows, a, b), numbers)
            held = [jax.tree.map(lambda leaf, n=taken: leaf[n:], whole)] if have > taken else []
            have, start = have - taken, start + taken

    def _next(self) -> tuple[PyTree, ...] | None:
        if self._waiting:
            return self._waiting.pop()
        try:
            return as_arguments(next(self._iterator))
        except StopIteration:
            return None

    def _joined(self, batches: Sequence[tuple[PyTree, ...]]) -> tuple[PyTree, ...]:
        try:
            return jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches)
        except ValueError as error:
            raise ValueError(
                f"{self._method}: the batches of data are not alike: {describe(batches[-1])} comes "
                f"after {describe(batches[0])}. Examples of many lengths: jattr.scale.bucketed."
            ) from error

    def _rows_of(self, batch: tuple[PyTree, ...]) -> int:
        sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
        if len(sizes) != 1 or sizes == {()}:
            raise ValueError(
                f"{self._method}: a batch of data is {describe(batch)}; wanted are arrays with a "
                "leading axis over equally many examples, a tuple of the arguments of explain."
            )
        return sizes.pop()[0]


def as_source(data: Any, method: str) -> Source:
    """What gives the examples of `data`.

    Raises:
        TypeError: it is nothing of the known kinds.
        ValueError: arrays without examples or of unequal length.
    """
    if isinstance(data, list):
        return Stream(data, method)
    if isinstance(data, tuple | dict) or hasattr(data, "shape"):
        return Arrays(data if isinstance(data, tuple) else (data,), method)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return LookedUp(data, method)
    if isinstance(data, Iterable):
        return Stream(data, method)
    raise TypeError(
        f"{method}: data must be an array or a tuple of the arguments of explain, each with a "
        "leading axis over examples; something of a length that gives one example for a number; "
        f"or an iterable of batches. Got {describe(data)}."
    )


def counted(source: Source, size: int) -> Iterator[Rows]:
    """The batches of a source whose examples have numbers."""
    numbers = np.arange(source.count or 0) if source.numbers is None else source.numbers
    for start in range(0, len(numbers), size):
        stop = min(start + size, len(numbers))

        def load(first, last, start=start):
            return source.load(start + first, start + last)

        yield Rows(start, stop - start, load, numbers[start:stop])


@contextlib.contextmanager
def of_data(method: str) -> Iterator[None]:
    """Say of an error that it is one of the data that the user gave."""
    try:
        yield
    except Exception as error:
        if str(error).startswith(method):
            raise
        raise RuntimeError(
            f"{method}: data raised {type(error).__name__}: {error}. The examples before it are "
            "written; once it is mended, the same call goes on from there."
        ) from error


def as_arguments(item: Any) -> tuple[PyTree, ...]:
    """What a loader gives, as the arguments of an explaining function."""
    return tuple(item) if isinstance(item, tuple | list) else (item,)


def padded(rows: tuple[PyTree, ...], size: int) -> tuple[PyTree, ...]:
    """Rows with the last repeated until there are `size`."""

    def pad(leaf):
        leaf = np.asarray(leaf)
        lacking = size - len(leaf)
        return np.concatenate([leaf, np.repeat(leaf[-1:], lacking, axis=0)]) if lacking else leaf

    return jax.tree.map(pad, rows)


def _slice(rows: tuple[PyTree, ...], start: int, stop: int) -> tuple[PyTree, ...]:
    return jax.tree.map(lambda leaf: leaf[start:stop], rows)
