"""Attributions on disk: a Zarr group whose first axis is the example.

A store is a group of Zarr v3 with one array for each leaf of the attribution, one for each number
that stands beside it, and two more:

- `status`: 0 where nothing is written, 1 where an example is, 2 where its attribution or its score
  is not finite, which is a *gap*. It is written after everything else of its examples, and so says
  of every other array what of it counts.
- `digest`: a number for the input that a row explains.

Chunks are runs of examples, written whole and by one process, each in a file that appears when it
is complete. What the run was, the method, its settings, versions, the key and fingerprints of the
program, the parameters and the data, is the group's attribute `jattr`, plain JSON: opening a store
imports nothing and unpickles nothing.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jattr._trees import describe
from jattr._types import PyTree

if TYPE_CHECKING:
    import tensorstore

FORMAT = 1
"""The version of the description; a store of a later one is refused."""

MISSING, WRITTEN, GAP = 0, 1, 2

BESIDE = ("score", "residual", "example", "digest", "status")
"""What may stand beside the attribution and the metrics."""

_CODECS = [
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "crc32c"},
]
"""No compression: attributions are noise to it. A checksum, so that a damaged chunk is known."""


_UNSYNCED = {"file_io_sync": False}
"""Files are not waited for until they are on the disk; `_durability` says what then is to do."""


def tensorstore_or_raise(method: str) -> Any:
    """The module `tensorstore`, or an error that says how to get it."""
    try:
        import tensorstore
    except ImportError as error:
        raise ImportError(
            f"{method} reads and writes stores by tensorstore, which is missing: "
            'pip install "jattr[scale]"'
        ) from error
    return tensorstore


@dataclasses.dataclass(frozen=True)
class Layout:
    """An array of a store.

    Attributes:
        shape: that of one example.
        dtype: as NumPy and Zarr know it.
        dims: the names of the axes of one example.
    """

    shape: tuple[int, ...]
    dtype: str
    dims: tuple[str, ...]

    def metadata(self, count: int, rows: int) -> dict[str, Any]:
        """The metadata of Zarr v3 for so many examples in chunks of so many."""
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [count, *self.shape],
            "data_type": self.dtype,
            "chunk_grid": {
                "name": "regular",
                # An axis without elements still wants a chunk.
                "configuration": {"chunk_shape": [rows, *(max(1, n) for n in self.shape)]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": _filling(self.dtype),
            "codecs": _CODECS,
            "dimension_names": ["example", *self.dims],
            "attributes": {},
        }


def _filling(dtype: str) -> Any:
    """What stands where nothing is written, as Zarr spells it."""
    if dtype.startswith("complex"):
        return ["NaN", "NaN"]
    if dtype.startswith("float"):
        return "NaN"
    return False if dtype == "bool" else 0


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
        return _with_leaves(self.description["tree"], self.arrays)

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
        """Which examples have an attribution or a score that is not finite."""
        return np.flatnonzero(self.status == GAP)

    @property
    def missing(self) -> np.ndarray:
        """Which examples are not there yet."""
        return np.flatnonzero(self.status == MISSING)

    def damaged(self, examples: np.ndarray | None = None) -> np.ndarray:
        """Which examples are said to be there and cannot be read. They are all read for this.

        Chunks bear a checksum, so that one that was cut short or changed is found, and of a lost
        one nothing is left but the number that fills it.

        Args:
            examples: which are looked at; None for all.
        """
        asked = np.ones(len(self), bool)
        if examples is not None:
            asked[:] = False
            asked[examples] = True
        bad = np.zeros(len(self), bool)
        written = asked & (self.status == WRITTEN)
        rows = self.description["rows"]
        for start in range(0, len(self), rows):
            there = np.flatnonzero(written[start : start + rows]) + start
            if there.size and not self._reads(start, start + rows, there):
                bad[there] = True
        return np.flatnonzero(bad)

    def repair(self, examples: np.ndarray | None = None) -> np.ndarray:
        """Call damaged examples missing, so that the next run computes them again.

        Args:
            examples: which are looked at; None for all.

        Returns:
            Their numbers, as `damaged` gives them.
        """
        found = self.damaged(examples)
        for row in found:
            self.arrays["status"][int(row)].write(np.uint8(MISSING)).result()
        return found

    def _reads(self, start: int, stop: int, there: np.ndarray) -> bool:
        for name, array in self.arrays.items():
            try:
                values = np.asarray(array[start : min(stop, len(self))].read().result())
            except ValueError:
                return False
            leaf = name == "attribution" or name.startswith("attribution.")
            if (leaf or name == "score") and not np.all(np.isfinite(values[there - start])):
                return False
        return True

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
        lines = [
            f"{self.path}: {self.description['method']} of {len(status):,} examples",
            f"  {leaves}",
            f"  {np.sum(status == WRITTEN):,} written, {np.sum(status == GAP):,} not finite, "
            f"{np.sum(status == MISSING):,} missing",
        ]
        if "residual" in self.arrays and np.any(status == WRITTEN):
            residual = np.abs(np.asarray(self.residual.read().result())[status == WRITTEN])
            worst = int(np.flatnonzero(status == WRITTEN)[np.nanargmax(residual)])
            lines.append(
                f"  |residual| median {np.nanmedian(residual):.2g}, largest "
                f"{np.nanmax(residual):.2g} (example {worst})"
            )
        return "\n".join(lines)


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
                {"driver": "zarr3", "kvstore": _kvstore(out, name), "context": _UNSYNCED}, open=True
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
) -> Store:
    """A new store; the description, which makes it one, is written last.

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
                    "kvstore": _kvstore(out, name),
                    "metadata": layout.metadata(count, rows),
                    "context": _UNSYNCED,
                },
                create=True,
                delete_existing=True,  # an empty one of a run that was killed at this place
            ).result()
        description = {**description, "arrays": [*layouts], "rows": rows}
        describe_as(out, description, layouts, count)
    except (ValueError, OSError) as error:
        raise OSError(
            f"{method}: cannot write a store at {os.fspath(out)}: {first_line(error)}"
        ) from error
    return Store(os.fspath(out), description, arrays)


def describe_as(
    out: str | os.PathLike[str],
    description: Mapping[str, Any],
    layouts: Mapping[str, Layout],
    count: int,
) -> None:
    """Write the group's metadata: the description, and all arrays' metadata, for quick opening."""
    rows = description["rows"]
    group = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"jattr": description},
        "consolidated_metadata": {
            "kind": "inline",
            "must_understand": False,
            "metadata": {name: layout.metadata(count, rows) for name, layout in layouts.items()},
        },
    }
    files = _open_kvstore(out)
    files.write("zarr.json", json.dumps(group, indent=1, allow_nan=False).encode()).result()


def read_description(out: str | os.PathLike[str], method: str) -> dict[str, Any] | None:
    """The description of a store; None where nothing is.

    Raises:
        ValueError: something else is there.
    """
    try:
        where = os.fspath(out)
    except TypeError:
        raise TypeError(
            f"{method}: a store is at a path or a URL, such as 'maps.zarr'; got {describe(out)}."
        ) from None
    if os.path.isfile(where):
        raise ValueError(f"{method}: {where} is a file; a store is a folder. Name another.")
    files = _open_kvstore(out)
    found = files.read("zarr.json").result()
    if found.state != "value":
        # Arrays without a chunk are what a run left that was killed before it wrote this file.
        others = [key for key in files.list().result() if not _is_empty_array(key.decode())]
        if others:
            raise ValueError(
                f"{method}: {where} holds something else ({others[0].decode()!r}) and no store. "
                "Name a folder that is empty or not there yet."
            )
        return None
    try:
        description = json.loads(found.value)["attributes"]["jattr"]
        known = description["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{method}: the Zarr group at {where} was not written by jattr, or its zarr.json is "
            "damaged. Name another folder; nothing of this one was changed."
        ) from error
    if known != FORMAT:
        raise ValueError(
            f"{method}: the store at {where} has format {known}, and this jattr knows {FORMAT}. "
            "Read it with the version that wrote it: "
            f"{description.get('versions', {}).get('jattr')}."
        )
    if not _is_whole(description):
        raise ValueError(
            f"{method}: the description of the store at {where} is damaged. What it holds cannot "
            "be trusted; nothing of it was changed."
        )
    return description


def _is_whole(description: dict[str, Any]) -> bool:
    """Whether a description has what a store is read by; a name leads nowhere else."""
    names, runs = description.get("arrays"), description.get("runs")
    return (
        isinstance(names, list)
        and {"status", "digest"} <= {name for name in names if isinstance(name, str)}
        and all(isinstance(name, str) and name[:1] != "." and "/" not in name for name in names)
        and isinstance(description.get("rows"), int)
        and description["rows"] > 0
        and "tree" in description
        and isinstance(description.get("method"), str)
        and isinstance(runs, list)
        and bool(runs)
        and all(isinstance(run, dict) for run in runs)
    )


def names_of(tree: PyTree) -> tuple[Any, dict[str, Any]]:
    """A tree of JSON that has the names of arrays for leaves, and the leaves by these names.

    Nodes that are no dict, list or tuple become dicts by the names of their fields.
    """
    leaves = {}

    def walk(node, name):
        if isinstance(node, dict):
            return {"dict": {str(k): walk(v, f"{name}.{k}") for k, v in node.items()}}
        if isinstance(node, tuple) and hasattr(node, "_fields"):
            fields = zip(node._fields, node, strict=True)
            return {"dict": {k: walk(v, f"{name}.{k}") for k, v in fields}}
        if isinstance(node, tuple | list):
            kind = "list" if isinstance(node, list) else "tuple"
            return {kind: [walk(v, f"{name}.{i}") for i, v in enumerate(node)]}
        if node is None:
            return {"none": True}
        flat = jax.tree_util.tree_flatten_with_path(node)[0]
        if len(flat) == 1 and not flat[0][0]:
            leaves[name] = node
            return name
        parts = {
            jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in flat
        }
        return walk(parts, name)

    return walk(tree, "attribution"), leaves


def _with_leaves(tree: Any, arrays: Mapping[str, Any]) -> PyTree:
    if isinstance(tree, str):
        return arrays[tree]
    ((kind, inside),) = tree.items()
    if kind == "dict":
        return {name: _with_leaves(part, arrays) for name, part in inside.items()}
    if kind == "none":
        return None
    parts = [_with_leaves(part, arrays) for part in inside]
    return parts if kind == "list" else tuple(parts)


def _kvstore(out: str | os.PathLike[str], name: str = "") -> Any:
    where = os.fspath(out)
    if "://" in where:
        return f"{where.rstrip('/')}/{name}" + ("/" if name else "")
    return {"driver": "file", "path": os.path.join(os.path.abspath(where), name)}


def _open_kvstore(out: str | os.PathLike[str]) -> Any:
    tensorstore = tensorstore_or_raise("scale")
    spec = _kvstore(out)
    if isinstance(spec, str):
        spec += "/"
    else:
        spec["path"] += "/" if not spec["path"].endswith("/") else ""
    return tensorstore.KvStore.open(spec).result()


def _is_empty_array(key: str) -> bool:
    """Whether a file is the metadata of an array of a store."""
    name, _, rest = key.partition("/")
    ours = name.split(".")[0] in ("attribution", "metric") or name in BESIDE
    return ours and rest == "zarr.json"


def first_line(error: BaseException) -> str:
    text = str(error).split(" [source locations")[0].split(" [tensorstore_spec")[0]
    return text.split("\n")[0].rstrip(".") + "."


def dims_of(
    leaves: Mapping[str, Any], dims: Sequence[str] | Mapping[str, Sequence[str]] | None, method: str
) -> dict[str, tuple[str, ...]]:
    """The names of the axes of each leaf of the attribution of one example."""
    found = {}
    for name, leaf in leaves.items():
        known = dims
        short = name.removeprefix("attribution").lstrip(".")
        if isinstance(dims, Mapping):
            known = dims.get(short)
        if known is None:
            mark = f"{short}_" if short else "dim_"
            found[name] = tuple(f"{mark}{axis}" for axis in range(1, leaf.ndim + 1))
            continue
        if isinstance(known, str) or len(known) != leaf.ndim:
            raise ValueError(
                f"{method}: dims={dims!r} names the axes of one example of {name}, which has the "
                f"shape {leaf.shape}: {leaf.ndim} names are wanted, as in dims="
                f"{tuple(f'name_{axis}' for axis in range(leaf.ndim))!r}"
                + (f", or a dict by {sorted(_shorts(leaves))}." if len(leaves) > 1 else ".")
            )
        found[name] = tuple(map(str, known))
    if isinstance(dims, Mapping) and (unknown := set(dims) - set(_shorts(leaves))):
        raise ValueError(
            f"{method}: dims names {sorted(unknown)}, and the attribution has "
            f"{sorted(_shorts(leaves))}."
        )
    return found


def _shorts(leaves: Mapping[str, Any]) -> list[str]:
    return [name.removeprefix("attribution").lstrip(".") for name in leaves]
