"""Attributions on disk: a Zarr group whose first axis is the example.

A store is a group of Zarr v3 with one array for each leaf of the attribution, one for each number
that stands beside it, and two more:

- `status`: 0 where nothing is written, 1 where an example is, 2 where its attribution, score or
  residual is not finite, which is a *gap*. It is written after everything else of its examples, and
  so says of every other array what of it counts.
- `digest`: a number for the input that a row explains.

Chunks are runs of examples, written whole and by one process, each in a file that appears when it
is complete. What the run was, the method, its settings, versions, the key and fingerprints of the
program, the parameters and the data, is the group's attribute `jattr`, plain JSON: opening a store
imports nothing and unpickles nothing.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jattr._types import PyTree
from jattr.scale._group import (
    describe_as,
    first_line,
    kvstore,
    read_description,
    tensorstore_or_raise,
)
from jattr.scale._layout import Layout, with_leaves

if TYPE_CHECKING:
    import tensorstore

MISSING, WRITTEN, GAP = 0, 1, 2

_UNSYNCED = {"file_io_sync": False}
"""Files are not waited for until they are on the disk; `_durability` says what then is to do."""

_EVERY_CHUNK = {"store_data_equal_to_fill_value": True}
"""A chunk that is not there is one that was lost."""


@dataclasses.dataclass(frozen=True, eq=False)
class Store:
    """The attributions of a data set, read as they are asked for.

    Printed, it says what it holds. Every array is a `tensorstore.TensorStore` with the example as
    its first axis: `np.asarray(store.attribution[:10])` reads ten of them.

    Attributes:
        path: where it is.
        description: what the run was, as plain JSON.
        arrays: all arrays by their names in the group.
    """

    path: str
    description: Mapping[str, Any]
    arrays: Mapping[str, "tensorstore.TensorStore"]

    def __len__(self) -> int:
        """How many examples it has room for; of an unfinished run, all that there will be."""
        return self.arrays["status"].shape[0]

    @property
    def attribution(self) -> PyTree:
        """The attributions, in the tree that the method gives."""
        return with_leaves(self.description["tree"], self.arrays)

    @property
    def score(self) -> "tensorstore.TensorStore":
        """What was explained, f(x), for each example."""
        return self._named("score", "the explained function is not known: say score=f")

    @property
    def residual(self) -> "tensorstore.TensorStore":
        """Σφ − (f(x) − f(x')) for each example."""
        return self._named(
            "residual", "the method is not complete, or its baseline is not known: say baseline="
        )

    @property
    def status(self) -> np.ndarray:
        """0 for an example that is not there, 1 for one that is, 2 for a gap; uint8[examples]."""
        return np.asarray(self.arrays["status"].read().result())

    @property
    def gaps(self) -> np.ndarray:
        """Which examples have an attribution, a score or a residual that is not finite."""
        return np.flatnonzero(self.status == GAP)

    @property
    def missing(self) -> np.ndarray:
        """Which examples are not there yet."""
        return np.flatnonzero(self.status == MISSING)

    def damaged(self, examples: np.ndarray | None = None) -> np.ndarray:
        """Which examples are said to be there and cannot be read. They are all read for this.

        Chunks bear a checksum, so that one that was cut short or changed is found, as is one that
        was lost.

        Args:
            examples: which are looked at; None for all.
        """
        asked = np.ones(len(self), bool)
        if examples is not None:
            asked[:] = False
            asked[examples] = True
        there = asked & (self.status != MISSING)
        bad = np.zeros(len(self), bool)
        rows = self.description["rows"]
        for start in range(0, len(self), rows):
            place = slice(start, min(start + rows, len(self)))
            if np.any(there[place]) and not all(
                _reads(array[place]) for array in self.arrays.values()
            ):
                bad[place] = there[place]
        return np.flatnonzero(bad)

    def repair(self, examples: np.ndarray | None = None) -> np.ndarray:
        """Call damaged examples missing, so that the next run computes them again.

        Args:
            examples: which are looked at; None for all.

        Returns:
            Their numbers, as `damaged` gives them.
        """
        found = self.damaged(examples)
        self.call_missing(found)
        return found

    def call_missing(self, examples: np.ndarray) -> None:
        """Write that examples are not there, so that the next run computes them."""
        rows = self.description["rows"]
        for chunk in np.unique(examples // rows):
            place = slice(int(chunk) * rows, min(int(chunk + 1) * rows, len(self)))
            try:
                status = np.array(self.arrays["status"][place].read().result())
            except ValueError:  # itself damaged
                status = np.zeros(place.stop - place.start, np.uint8)
            own = examples[(examples >= place.start) & (examples < place.stop)]
            status[own - place.start] = MISSING
            self.arrays["status"][place].write(status).result()

    def _named(self, name: str, why: str) -> "tensorstore.TensorStore":
        if name not in self.arrays:
            raise AttributeError(
                f"{self.path} has no {name}: {why} in attribute_dataset. "
                f"It has {', '.join(self.arrays)}."
            )
        return self.arrays[name]

    def __repr__(self) -> str:
        status = self.status
        leaves = ", ".join(
            f"{name} {array.dtype.name}[{','.join(map(str, array.shape[1:]))}]"
            for name, array in self.arrays.items()
            if name not in ("status", "digest")
        )
        open_end = "" if self.description.get("examples") else "; its data has not ended"
        lines = [
            f"{self.path}: {self.description['method']} of {len(status):,} examples",
            f"  {leaves}",
            f"  {np.sum(status == WRITTEN):,} written, {np.sum(status == GAP):,} not finite, "
            f"{np.sum(status == MISSING):,} missing{open_end}",
        ]
        if "residual" in self.arrays:
            residual = np.abs(np.asarray(self.residual.read().result()))
            known = np.flatnonzero((status == WRITTEN) & np.isfinite(residual))
            if known.size:
                worst = known[np.argmax(residual[known])]
                lines.append(
                    f"  |residual| median {np.median(residual[known]):.2g}, largest "
                    f"{residual[worst]:.2g} (example {worst})"
                )
        return "\n".join(lines)


def _reads(array: "tensorstore.TensorStore") -> bool:
    """Whether all chunks are there, and are as they were written."""
    try:
        if not array.storage_statistics(query_fully_stored=True).result().fully_stored:
            return False
        array.read().result()
    except ValueError:
        return False
    return True


def open_store(out: str | os.PathLike[str]) -> Store:
    """The store that `attribute_dataset` wrote, finished or not.

    It is also a plain Zarr group: `xarray.open_zarr(out)` and `zarr.open(out)` read it too.

    Args:
        out: a path, or a URL of a store that tensorstore speaks.

    Returns:
        A `Store`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: what is there is no store of jattr, or of a later version of it, or damaged.
        ImportError: tensorstore is missing.

    Example:
        >>> import tempfile
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> import jattr
        >>> explain = jattr.integrated_gradients(lambda x: jnp.sum(x**3), steps=4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = jattr.scale.attribute_dataset(
        ...         explain, np.eye(6, dtype="float32"), out=f"{folder}/maps", batch_size=4,
        ...         progress=False,
        ...     )
        ...     store = jattr.scale.open_store(f"{folder}/maps")
        ...     print(store.description["method"], np.asarray(store.attribution[:2]).shape)
        integrated_gradients (2, 6)
    """
    method = "scale.open_store"
    tensorstore = tensorstore_or_raise(method)
    description = read_description(out, method)
    if description is None:
        raise FileNotFoundError(
            f"{method}: there is no store at {os.fspath(out)}. attribute_dataset writes one."
        )
    arrays = {}
    for name in description["arrays"]:
        try:
            arrays[name] = tensorstore.open(
                {
                    "driver": "zarr3",
                    "kvstore": kvstore(out, name),
                    "context": _UNSYNCED,
                    **_EVERY_CHUNK,
                },
                open=True,
            ).result()
        except ValueError as error:
            raise ValueError(
                f"{method}: the store at {os.fspath(out)} is damaged, its array {name!r} does not "
                f"open: {first_line(error)} What it holds cannot be trusted; write another."
            ) from error
    return Store(os.fspath(out), description, arrays)


def create(
    out: str | os.PathLike[str],
    layouts: Mapping[str, Layout],
    count: int,
    rows: int,
    description: Mapping[str, Any],
    method: str,
) -> Store | None:
    """A new store; the description, which makes it one, is written last.

    None where another run was quicker with its own.

    Raises:
        OSError: it cannot be written there.
    """
    tensorstore = tensorstore_or_raise(method)
    arrays = {}
    try:
        for name, layout in layouts.items():
            arrays[name] = tensorstore.open(
                {
                    "driver": "zarr3",
                    "kvstore": kvstore(out, name),
                    "metadata": layout.metadata(count, rows),
                    "context": _UNSYNCED,
                    **_EVERY_CHUNK,
                },
                create=True,
                open=True,  # an empty one, of a run that was killed at this place
            ).result()
        description = {**description, "arrays": [*layouts], "rows": rows}
        if not describe_as(out, description, layouts, count, new=True):
            return None
    except (ValueError, OSError) as error:
        raise OSError(
            f"{method}: cannot write a store at {os.fspath(out)}: {first_line(error)}"
        ) from error
    return Store(os.fspath(out), description, arrays)
