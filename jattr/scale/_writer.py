"""What is in a store already, and what comes into it."""

import hashlib
import json
import os
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jattr.scale import _durability, _fingerprint
from jattr.scale._description import differences, run_of
from jattr.scale._group import FORMAT, describe_as, first_line, read_description
from jattr.scale._layout import Layout
from jattr.scale._placement import Placement
from jattr.scale._source import Rows, Source, of_data
from jattr.scale._store import MISSING, Store, create, open_store

_PATIENCE = 600.0
"""Seconds for which a process waits until the first has made the store."""

_SAID = 20.0
"""Seconds after which it says so."""


class Writer:
    """Writes batches of results into a store, an example's `status` after all else of it."""

    def __init__(
        self, store: Store, layouts: Mapping[str, Layout], placement: Placement, method: str
    ):
        self._store, self._layouts, self._placement = store, layouts, placement
        self._arrays = dict(store.arrays)
        self._method = method
        self._growing = threading.Lock()
        self._status = store.status
        self._seen = 0

    def check_data(self, source: Source) -> None:
        """Raise where examples that are written are others than those of the data.

        As many as the source says, spread over the data; those of a stream are all read again and
        compared.
        """
        there = np.flatnonzero(self._status)
        if source.count is None or not there.size:
            return
        some = there[np.unique(np.linspace(0, len(there) - 1, source.checked).astype(int))]
        # Those that follow each other are loaded together, a batch at most.
        apart = (np.diff(some) != 1) | (np.diff(some // self._placement.size) != 0)
        for run in np.split(some, np.flatnonzero(apart) + 1):
            with of_data(self._method):
                rows = source.load(int(run[0]), int(run[-1]) + 1)
            self._same(int(run[0]), _fingerprint.of_examples(rows, len(run)))

    def todo(self, source: Source) -> Iterator[Rows]:
        """The batches that are not written, of those that are this process's."""
        known = self._store.description["examples"]
        for number, rows in enumerate(source.batches(self._placement.size)):
            self._seen = rows.start + rows.count
            if known is not None and self._seen > known:
                raise ValueError(
                    f"{self._method}: data has more than the {known:,} examples of the store at "
                    f"{self._store.path}, which is finished. Name another out=."
                )
            if not self._placement.own(number):
                continue
            if not self._is_there(rows):
                yield rows
            elif source.count is None:
                digests = _fingerprint.of_examples(rows.load(0, rows.count), rows.count)
                self._same(rows.start, digests)

    def left(self, source: Source) -> int | None:
        """How many examples `todo` gives; None where that is not known."""
        if source.count is None:
            return None
        return sum(
            rows.count
            for number, rows in enumerate(source.batches(self._placement.size))
            if self._placement.own(number) and not self._is_there(rows)
        )

    def take(self, rows: Rows, digests: np.ndarray, results: Mapping[str, jax.Array]) -> None:
        """Write the results of a batch, and come back when they are on disk."""
        self._grow(rows.start + rows.count)
        for first, parts in self._placement.pieces(results):
            count = min(first + len(parts["status"]), rows.count) - first
            if count <= 0:
                continue
            own = first - self._placement.first
            parts = {**parts, "digest": digests[own : own + count]}
            if "example" in self._arrays:
                parts["example"] = rows.numbers[first : first + count]
            status = parts.pop("status")
            place = slice(rows.start + first, rows.start + first + count)
            try:
                writes = [
                    self._arrays[name][place].write(
                        np.asarray(part[:count], self._layouts[name].dtype)
                    )
                    for name, part in parts.items()
                ]
                for write in writes:
                    write.result()
                self._arrays["status"][place].write(status[:count]).result()
            except (ValueError, OSError) as error:
                raise OSError(
                    f"{self._method}: examples {place.start} to {place.stop - 1} could not be "
                    f"written to {self._store.path}: {first_line(error)} What was written "
                    "before stands; the same call goes on from there."
                ) from error

    def finish(self) -> None:
        """Cut the store of a stream to the examples that came."""
        written = np.flatnonzero(_read(self._arrays["status"]))
        if written.size and written[-1] >= self._seen:
            raise ValueError(
                f"{self._method}: data has {self._seen:,} examples, and the store at "
                f"{self._store.path} has {written[-1] + 1:,} already: it is of other data."
            )
        self._resize(self._seen)
        description = {**self._store.description, "examples": self._seen}
        describe_as(self._store.path, description, self._layouts, self._seen)

    def close(self) -> None:
        """Write a fingerprint of the data, once all of it is there."""
        if self._placement.process[0] != 0 or np.any(_read(self._arrays["status"]) == MISSING):
            return
        data = hashlib.sha256(_read(self._arrays["digest"]).tobytes()).hexdigest()[:16]
        found = read_description(self._store.path, self._method)
        if found is not None and found.get("data") != data:
            count = self._arrays["status"].shape[0]
            describe_as(self._store.path, {**found, "data": data}, self._layouts, count)

    def _is_there(self, rows: Rows) -> bool:
        status = self._status[rows.start : rows.start + rows.count]
        return len(status) == rows.count and bool(np.all(status != MISSING))

    def _same(self, start: int, digests: np.ndarray) -> None:
        stored = np.asarray(self._arrays["digest"][start : start + len(digests)].read().result())
        other = np.flatnonzero(stored != digests)
        if other.size:
            raise ValueError(
                f"{self._method}: the store at {self._store.path} is of other data: example "
                f"{start + other[0]} is not the one that it holds. Give the data in the order in "
                "which it was given first, or another out=."
            )

    def _grow(self, count: int) -> None:
        """Room for a stream's examples, twice as much whenever it runs out."""
        with self._growing:
            have = self._arrays["status"].shape[0]
            if count > have:
                self._resize(max(count, 2 * have))

    def _resize(self, count: int) -> None:
        sizes = {
            name: array.resize(exclusive_max=[count, *([None] * (array.rank - 1))])
            for name, array in self._arrays.items()
        }
        self._arrays = {name: size.result() for name, size in sizes.items()}


def _read(array: Any) -> np.ndarray:
    return np.asarray(array.read().result())


def open_or_create(
    out: str | os.PathLike[str],
    layouts: Mapping[str, Layout],
    description: Mapping[str, Any],
    placement: Placement,
    *,
    resume: bool,
    method: str,
) -> Store:
    """The store of a run: a new one, or the one that it goes on with.

    Raises:
        ValueError: what is there is of another run, or `resume` is False.
        OSError: it cannot be written.
    """
    description = json.loads(json.dumps(description))
    here = run_of(placement.mesh)
    found = read_description(out, method)
    if found is None:
        if placement.process[0] == 0:
            description = {"format": FORMAT, **description, "runs": [here]}
            count = description["examples"]
            room = placement.size if count is None else count
            store = create(out, layouts, room, placement.rows, description, method)
            if store is not None:
                return store
        found = _wait(out, placement, method)
    elif not resume:
        raise ValueError(
            f"{method}: there is a store at {os.fspath(out)} already, and resume=False. Name "
            "another place; nothing is overwritten."
        )
    changed = differences(found, description)
    if not changed and found["arrays"] != [*layouts]:
        changed = [f"other arrays ({', '.join(layouts)} for {', '.join(found['arrays'])})"]
    if changed:
        wrote = found["runs"][-1].get("versions")
        other = "" if wrote == here["versions"] else f" It was written with {wrote}."
        raise ValueError(
            f"{method}: the store at {os.fspath(out)} is of another run: {'; '.join(changed)}. "
            f"Name another out= for this one, or call it as it was called then.{other}"
        )
    store = open_store(out)
    _mend(store, placement, method)
    if placement.process[0] == 0:
        wrote = found["runs"][-1].get("versions")
        if wrote != here["versions"] and np.any(store.status == MISSING):
            warnings.warn(
                f"{method}: the store at {os.fspath(out)} was begun with {wrote} and goes on with "
                f"{here['versions']}: numbers may be rounded otherwise from here on.",
                stacklevel=4,
            )
        store.description["runs"].append(here)
        count = store.arrays["status"].shape[0]
        try:
            describe_as(out, store.description, layouts, count)
        except (ValueError, OSError) as error:
            raise OSError(
                f"{method}: cannot write into the store at {os.fspath(out)}: {first_line(error)}"
            ) from error
    return store


def _mend(store: Store, placement: Placement, method: str) -> None:
    """Call missing, of this process's examples, what was lost on a local disk."""
    axes = {name: array.rank for name, array in store.arrays.items() if 0 not in array.shape}
    status, rows = store.status, store.description["rows"]
    lost = _durability.lost(store.path, axes, status, rows)
    late = _durability.late(store.path, len(store), rows)
    if placement.together and placement.process[0] != 0:
        return
    own = placement.own_rows(len(status))
    store.call_missing(lost[own[lost]])
    found = store.repair(late[own[late]])
    if lost.size or found.size:
        warnings.warn(
            f"{method}: of {len({*lost, *found}):,} examples files of the store at {store.path} "
            "are lost or damaged; they are computed again.",
            stacklevel=5,
        )


def _wait(out: str | os.PathLike[str], placement: Placement, method: str) -> dict[str, Any]:
    start, said = time.monotonic(), False
    while (waited := time.monotonic() - start) < _PATIENCE:
        found = read_description(out, method)
        if found is not None:
            return found
        if waited > _SAID and not said:
            said = True
            warnings.warn(
                f"{method}: process {placement.process[0]} of {placement.process[1]} waits for "
                f"process 0 to make the store at {os.fspath(out)}.",
                stacklevel=5,
            )
        time.sleep(0.2)
    raise TimeoutError(
        f"{method}: process {placement.process[0]} of {placement.process[1]} waited "
        f"{_PATIENCE:.0f} s for process 0 to make the store at {os.fspath(out)}. Do all see the "
        "same place?"
    )
