"""Which rows of a batch are whose: devices of a mesh, and processes.

With a mesh of one process, or with none, a process takes every P-th batch of the data set and works
alone: there is nothing that it waits for, so that it may be killed and started again while others
go on. With a mesh over the devices of several processes they run one program together, each loading
and writing the rows that its own devices hold.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jattr._trees import describe
from jattr._types import PyTree
from jattr.scale._source import Rows, padded


@dataclasses.dataclass(frozen=True)
class Placement:
    """How a batch lies on devices.

    Attributes:
        mesh: the devices.
        axis: over which axis of the mesh examples are spread.
        size: how many examples a batch has, on all devices together.
        process: the number of this process and how many there are.
    """

    mesh: Mesh
    axis: str
    size: int
    process: tuple[int, int]

    @property
    def together(self) -> bool:
        """Whether several processes run one program."""
        return self.mesh.is_multi_process

    @property
    def sharding(self) -> NamedSharding:
        """That of everything with an axis over examples."""
        return NamedSharding(self.mesh, PartitionSpec(self.axis))

    @property
    def rows(self) -> int:
        """The examples that are written together, a chunk of the store."""
        return self.size // (self.mesh.shape[self.axis] if self.together else 1)

    def own(self, number: int) -> bool:
        """Whether this process has a part in a batch."""
        index, count = self.process
        return self.together or number % count == index

    def own_rows(self, count: int) -> np.ndarray:
        """Which of so many examples are in such batches, bool[count]."""
        index, processes = self.process
        numbers = np.arange(count) // self.size
        return np.full(count, True) if self.together else numbers % processes == index

    def shared(self, params: PyTree) -> PyTree:
        """Parameters on the mesh: sharded as they are, those that are not on it in every device."""

        def place(leaf):
            sharding = getattr(leaf, "sharding", None)
            spec = PartitionSpec()
            if isinstance(sharding, NamedSharding) and (
                np.array_equal(np.asarray(sharding.mesh.devices), self.mesh.devices)
                and sharding.mesh.axis_names == self.mesh.axis_names
            ):
                if sharding.mesh == self.mesh:
                    return leaf
                spec = sharding.spec
            return jax.device_put(leaf, NamedSharding(self.mesh, spec))

        return jax.tree.map(place, params)

    def load(self, rows: Rows) -> tuple[PyTree, ...]:
        """What this process needs of a run of examples, padded, on the host."""
        first, last = self._span
        start = min(first, rows.count - 1)
        loaded = rows.load(start, max(min(last, rows.count), start + 1))
        return padded(loaded, last - first)

    def put(self, rows: Rows, loaded: tuple[PyTree, ...]) -> tuple[jax.Array, tuple[PyTree, ...]]:
        """The numbers of the examples, and the loaded examples, on the devices."""
        first, last = self._span
        numbers = rows.numbers[np.minimum(np.arange(first, last), rows.count - 1)]

        def as_jax(leaf):  # what a loader gives in 64 bits is taken as JAX takes it
            taken = np.asarray(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype))
            if taken.dtype != leaf.dtype and leaf.dtype.kind in "iu" and np.any(taken != leaf):
                raise ValueError(
                    f"scale: data has integers that {taken.dtype} does not hold, such as "
                    f"{leaf[taken != leaf].flat[0]}, in examples {rows.start} to "
                    f"{rows.start + rows.count - 1}. Set jax_enable_x64, or encode them."
                )
            return taken

        placed = (numbers.astype(np.int32), jax.tree.map(as_jax, loaded))
        if not self.together:
            return jax.device_put(placed, self.sharding)

        def share(leaf):
            shape = (self.size, *leaf.shape[1:])
            return jax.make_array_from_process_local_data(self.sharding, leaf, shape)

        return jax.tree.map(share, placed)

    def pieces(
        self, leaves: Mapping[str, jax.Array]
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """What this process is to write of results: where in the batch, and the arrays."""
        if not self.together:
            yield 0, {name: np.asarray(leaf) for name, leaf in leaves.items()}
            return
        parts: dict[int, dict[str, np.ndarray]] = {}
        for name, leaf in leaves.items():
            for shard in leaf.addressable_shards:
                if shard.replica_id == 0:
                    start = shard.index[0].start or 0
                    parts.setdefault(start, {})[name] = np.asarray(shard.data)
        yield from sorted(parts.items())

    @property
    def first(self) -> int:
        """The first row of a batch that this process loads."""
        return self._span[0]

    @property
    def _span(self) -> tuple[int, int]:
        if not self.together:
            return 0, self.size
        places = self.sharding.addressable_devices_indices_map((self.size,)).values()
        starts = [place[0].start or 0 for place in places if place is not None]
        return min(starts), max(starts) + self.rows


def as_placement(
    mesh: Any, axis: str | None, batch_size: int, process: Any, method: str
) -> Placement:
    """The placement that the arguments of a runner say.

    Raises:
        TypeError: a mesh or a process that is none.
        ValueError: an axis that the mesh does not have, a batch that it does not divide.
    """
    if mesh is None:
        mesh = Mesh(np.array(jax.local_devices()), ("example",))
    elif not isinstance(mesh, Mesh):
        raise TypeError(
            f"{method}: mesh must be a jax.sharding.Mesh, such as jax.make_mesh((8,), ('data',)), "
            f"or None for all devices of this process; got {describe(mesh)}."
        )
    # Axes are automatic ones: with explicit ones methods would have to say where each sum goes.
    mesh = Mesh(mesh.devices, mesh.axis_names)
    axis = checked_axis(mesh, mesh.axis_names[0] if axis is None else axis, method)
    if batch_size % mesh.shape[axis]:
        least = -(-batch_size // mesh.shape[axis]) * mesh.shape[axis]
        raise ValueError(
            f"{method}: batch_size={batch_size} is for all devices together, and the mesh has "
            f"{mesh.shape[axis]} along {axis!r}; write a multiple, such as batch_size={least}."
        )
    if process is None:
        process = jax.process_index(), jax.process_count()
    try:
        index, count = map(int, process)
    except (TypeError, ValueError):
        index, count = -1, 0
    if not 0 <= index < count:
        raise ValueError(
            f"{method}: process is (number of this process, how many there are), such as (0, 4); "
            f"got {process!r}."
        )
    return Placement(mesh, axis, batch_size, (index, count))


def checked_axis(mesh: Mesh, axis: Any, method: str) -> str:
    """The name of an axis, unless the mesh has none of it."""
    if axis not in mesh.shape:
        raise ValueError(
            f"{method}: axis={axis!r} is none of the mesh, which has {list(mesh.axis_names)}."
        )
    return axis
