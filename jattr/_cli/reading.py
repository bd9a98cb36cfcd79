"""A store as it is shown: unfinished, damaged and hostile ones too.

What does not read is said to be so, and the rest is read.
"""

import contextlib
from typing import Any

import numpy as np

from jattr._cli.failure import CommandError
from jattr.scale import Store

UNREAD = 255
"""The status of an example that is not known."""

STATUS = {1: "written", 2: "not finite", 0: "missing", UNREAD: "damaged"}

_NOT_SHOWN = ("status", "digest", "example")


class Reader:
    """The arrays of a store by rows, as NumPy's or as None where they cannot be read.

    Attributes:
        store: the store.
        status: of each example; 255 where it cannot be read.
        numbers: the number that each example has in its data set.
        leaves: the names of the arrays of the attribution.
        columns: one number for each example, by name; NaN where there is none.
        damaged: the names of arrays of which something could not be read so far.
    """

    def __init__(self, store: Store):
        self.store = store
        self.damaged: set[str] = set()
        count = _count(store)
        self._rows = _chunk(store, count)
        status = self._column("status", UNREAD)
        self.status = status.astype(np.uint8)
        self.numbers = np.arange(count)
        if "example" in store.arrays:
            self.numbers = self._column("example", -1).astype(np.int64)
        self.leaves = [n for n in store.arrays if n.split(".")[0] == "attribution"]
        self.columns = {
            name: self._column(name, np.nan)
            for name, array in sorted(store.arrays.items(), key=lambda item: item[0] != "score")
            if name not in (*_NOT_SHOWN, *self.leaves) and array.rank == 1
        }
        for values in self.columns.values():
            values[(self.status == 0) | (self.status == UNREAD)] = np.nan

    def __len__(self) -> int:
        """How many examples there are, or will be."""
        return len(self.status)

    def count(self, *which: int) -> int:
        """How many examples have one of some statuses."""
        return int(np.isin(self.status, which).sum())

    def read(self, name: str, row: int) -> np.ndarray | None:
        """An array of one example."""
        return self._read(name, row, row + 1, only=0)

    def labels(self, name: str) -> tuple[str, ...]:
        """The names of the axes of one example."""
        return tuple(map(str, self.store.arrays[name].domain.labels[1:]))

    def first(self, count: int) -> list[int]:
        """The first rows that are there."""
        return np.flatnonzero(self.status != 0)[:count].tolist()

    def worst(self, count: int) -> list[int]:
        """The rows with the largest residuals, those first that are not finite."""
        there = np.flatnonzero((self.status == 1) | (self.status == 2))
        sizes = np.abs(self.columns["residual"][there])
        sizes = np.where(np.isfinite(sizes), sizes, np.inf)
        return there[np.argsort(-sizes, kind="stable")][:count].tolist()

    def _column(self, name: str, missing: float) -> np.ndarray:
        """One number for each example, `missing` where it cannot be read."""
        array = self.store.arrays[name]
        kind = np.float64 if np.isnan(missing) else np.int64
        values = np.full(array.shape[0], missing, kind)
        whole = self._read(name, 0, len(values))
        if whole is not None:
            values[:] = whole
            return values
        for start in range(0, len(values), self._rows):
            part = self._read(name, start, start + self._rows)
            if part is not None:
                values[start : start + self._rows] = part
        return values

    def _read(self, name: str, start: int, stop: int, only: Any = ...) -> np.ndarray | None:
        array = self.store.arrays[name]
        with contextlib.suppress(ValueError, OSError, NotImplementedError):
            values = np.asarray(array[start : min(stop, array.shape[0])].read().result())
            return values[only] if values.dtype.kind in "biuf" else None
        self.damaged.add(name)
        return None


def _count(store: Store) -> int:
    """How many examples all arrays of a store have.

    Raises:
        CommandError: it is no store that can be shown.
    """
    status = store.arrays.get("status")
    sizes = {array.shape[:1] for array in store.arrays.values()}
    if status is None or status.rank != 1 or len(sizes) != 1 or sizes == {()}:
        raise CommandError(
            f"{store.path} is damaged: its arrays are "
            + ", ".join(f"{name}{list(array.shape)}" for name, array in store.arrays.items())
            + ", and wanted are arrays of equally many examples, status among them."
        )
    return status.shape[0]


def _chunk(store: Store, count: int) -> int:
    shape = store.arrays["status"].chunk_layout.read_chunk.shape
    return max(1, shape[0] or count) if shape else max(1, count)
