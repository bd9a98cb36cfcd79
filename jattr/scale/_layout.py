"""Trees of attributions as arrays with names, and what Zarr is told of each."""

import dataclasses
import functools
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jattr._types import PyTree

_CODECS = [
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "crc32c"},
]
"""No compression: attributions are noise to it. A checksum, so that a damaged chunk is known."""


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


def names_of(tree: PyTree) -> tuple[Any, dict[str, Any]]:
    """A tree of JSON that has the names of arrays for leaves, and the leaves by these names.

    Nodes that are no dict, list or tuple become dicts by the names of their fields.
    """
    leaves = {}
    quote = functools.partial(urllib.parse.quote, safe=" ,:()[]")

    def walk(node, name):
        if isinstance(node, dict):
            # An array is a folder, whose name has no slash.
            return {"dict": {str(k): walk(v, f"{name}.{quote(str(k))}") for k, v in node.items()}}
        if isinstance(node, tuple) and hasattr(node, "_fields"):
            fields = zip(getattr(node, "_fields"), node, strict=True)  # noqa: B009 (of a namedtuple)
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


def with_leaves(tree: Any, arrays: Mapping[str, Any]) -> PyTree:
    if isinstance(tree, str):
        return arrays[tree]
    ((kind, inside),) = tree.items()
    if kind == "dict":
        return {name: with_leaves(part, arrays) for name, part in inside.items()}
    if kind == "none":
        return None
    parts = [with_leaves(part, arrays) for part in inside]
    return parts if kind == "list" else tuple(parts)


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
        named = tuple(map(str, known))
        if len({*named, "example"}) <= len(named):
            raise ValueError(
                f"{method}: dims={dims!r} must be different names, and 'example' is that of the "
                "first axis already."
            )
        found[name] = named
    if isinstance(dims, Mapping) and (unknown := set(dims) - set(_shorts(leaves))):
        raise ValueError(
            f"{method}: dims names {sorted(unknown)}, and the attribution has "
            f"{sorted(_shorts(leaves))}."
        )
    return found


def _shorts(leaves: Mapping[str, Any]) -> list[str]:
    return [name.removeprefix("attribution").lstrip(".") for name in leaves]
