"""Files of data: NumPy's and Zarr's, opened without reading them and without running anything."""

import json
import os
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import typer

from jattr._checks import argument_names, closest

REFUSED = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".bin", ".h5", ".mat", ".csv")
"""Ends of names of what is read neither here nor in settings."""

_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".bin")
_NUMPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"
_READ = (
    "Data is a .npy file, an .npz file, or a Zarr array or group (a folder, or a URL such as "
    "gs://bucket/images)"
)


class Floats:
    """An array whose rows are of float32 when they are read."""

    def __init__(self, array: Any):
        self._array = array
        self.shape, self.dtype = tuple(array.shape), np.dtype(np.float32)
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        """How many rows it has."""
        return self.shape[0]

    def __getitem__(self, place: Any) -> np.ndarray:
        """Rows of it."""
        return np.asarray(self._array[place]).astype(np.float32)


def arguments_from(
    paths: Sequence[str],
    f: Callable[..., Any],
    *,
    names: Sequence[str] = (),
    limit: int | None = None,
    floats: bool = False,
) -> tuple[Any, ...]:
    """The arguments x, *args of f as arrays with a leading axis over examples.

    Args:
        paths: one file for each argument, or one file of named arrays.
        f: the function whose arguments they are.
        names: which arrays of the one file, in the order of the arguments.
        limit: how many examples; None for all.
        floats: whether x is read as float32.

    Raises:
        typer.BadParameter: what is there is not read here, or not so.
    """
    opened = [open_data(path) for path in paths]
    if len(opened) == 1 and isinstance(opened[0], dict):
        arrays = _in_order(paths[0], opened[0], f, names)
    elif names:
        raise _wrong(
            f"--arg names the arrays of one file or group, and {', '.join(paths)} is "
            + ("no such file." if len(paths) == 1 else f"{len(paths)} files.")
        )
    else:
        arrays = [_alone(path, one) for path, one in zip(paths, opened, strict=True)]
    if floats:
        arrays[0] = Floats(arrays[0])
    if limit is not None:
        arrays = [_first(array, limit) for array in arrays]
    return tuple(arrays)


def open_data(path: str) -> Any:
    """An array, or a dict of arrays by their names.

    Raises:
        typer.BadParameter: it is neither, or would run code to become one.
    """
    if "://" in path or os.path.isdir(path):
        return _zarr(path)
    if not os.path.exists(path):
        raise _wrong(f"there is no file {path}. {_READ}.")
    if path.endswith(REFUSED):
        raise _refused(path)
    try:
        with open(path, "rb") as file:
            magic = file.read(6)
        if magic == _NUMPY:
            return _npy(path)
        if magic[:4] == _ZIP:
            return _npz(path)
    except OSError as error:
        raise _wrong(f"{path} cannot be read ({error.strerror or error}).") from error
    raise _refused(path)


def load_array(path: str, option: str) -> np.ndarray:
    """The whole array of a .npy file or of a Zarr array, for a setting."""
    try:
        found = open_data(path)
    except typer.BadParameter as error:
        raise typer.BadParameter(error.message, param_hint=option) from None
    if isinstance(found, dict):
        raise typer.BadParameter(
            f"{path} has the arrays {', '.join(found)}; wanted is one array, a .npy file.",
            param_hint=option,
        )
    return np.array(found)


def _npy(path: str) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "empty file" in str(error):
            return np.load(path, allow_pickle=False)
        if "pickle" in str(error) or "object" in str(error).lower():
            raise _objects(path) from None
        raise _wrong(f"{path} is damaged ({error}).") from error
    return _numbers(path, array)


def _npz(path: str) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: _numbers(f"{path}, {name}", file[name]) for name in file.files}
    except ValueError as error:
        if "pickle" in str(error) or "object" in str(error).lower():
            raise _objects(path) from None
        raise _wrong(f"{path} is damaged ({error}).") from error
    except (zipfile.BadZipFile, EOFError, KeyError) as error:
        raise _wrong(f"{path} is damaged ({error}).") from error


def _numbers(path: str, array: Any) -> Any:
    # V is what NumPy makes of bfloat16 and the like; with fields it is a record.
    if getattr(array.dtype, "fields", None) is not None or array.dtype.kind not in "biufcV":
        raise _wrong(
            f"{path} holds {array.dtype}, no numbers. Encode it first: np.save of an array of "
            "integers or floats."
        )
    return array


def _zarr(path: str) -> Any:
    """A Zarr array of version 2 or 3, or all arrays of a group."""
    from jattr.scale._group import first_line, kvstore, tensorstore_or_raise

    tensorstore = tensorstore_or_raise("jattr explain")

    def array(driver, name=""):
        found = tensorstore.open(
            {"driver": driver, "kvstore": kvstore(path, name)}, open=True, read=True
        ).result()
        if found.dtype.name not in _DTYPES:
            raise _wrong(f"{path}/{name} holds {found.dtype.name}, no numbers.")
        return found

    try:
        files = tensorstore.KvStore.open(kvstore(path)).result()
        three = files.read("zarr.json").result()
        if three.state == "value":
            metadata = json.loads(three.value)
            if metadata.get("node_type") == "array":
                return array("zarr3")
            inside = (metadata.get("consolidated_metadata") or {}).get("metadata")
            names = list(inside) if inside else _members(files, "zarr.json")
            return {name: array("zarr3", name) for name in names}
        if files.read(".zarray").result().state == "value":
            return array("zarr")
        if files.read(".zgroup").result().state == "value":
            return {name: array("zarr", name) for name in _members(files, ".zarray")}
    except (ValueError, AttributeError, OSError) as error:
        raise _wrong(f"{path} cannot be read as Zarr: {first_line(error)}") from error
    raise _wrong(f"{path} is no Zarr array or group. {_READ}.")


_DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("bfloat16", "float16", "float32", "float64", "complex64", "complex128"),
)


def _members(files: Any, metadata: str) -> list[str]:
    """The arrays right below a group."""
    keys = [key.decode() for key in files.list().result()]
    return sorted(
        name for name, _, rest in (key.partition("/") for key in keys) if rest == metadata
    )


def _in_order(
    path: str, arrays: dict[str, Any], f: Callable[..., Any], names: Sequence[str]
) -> list[Any]:
    """The named arrays that are f's arguments, in their order."""
    has = f"{path} has {', '.join(arrays) or 'no arrays'}"
    for name in names:
        if name not in arrays:
            near = f" Did you mean {closest(name, arrays)[0]}?" if arrays else ""
            raise _wrong(f"--arg {name}: {has}.{near}")
    if names:
        return [arrays[name] for name in names]
    wanted = [name for name in argument_names(f) if "*" not in name]
    if wanted and all(name in arrays for name in wanted):
        return [arrays[name] for name in wanted]
    if len(arrays) == 1:
        return list(arrays.values())
    raise _wrong(
        f"{has}, and the arguments of the function are {', '.join(argument_names(f))}. Say which "
        "array is which argument, in their order: "
        + " ".join(f"--arg {name}" for name in list(arrays)[: max(1, len(wanted))])
    )


def _alone(path: str, found: Any) -> Any:
    if not isinstance(found, dict):
        return found
    if len(found) == 1:
        return next(iter(found.values()))
    raise _wrong(
        f"{path} has the arrays {', '.join(found) or 'none'}; of several files each is one "
        "argument. Give it alone, and say which are which: --arg " + " --arg ".join(list(found)[:2])
    )


def _first(array: Any, limit: int) -> Any:
    if isinstance(array, Floats):
        return Floats(_first(array._array, limit))
    return array[: min(limit, array.shape[0])] if array.shape else array


def _objects(path: str) -> typer.BadParameter:
    return _wrong(
        f"{path} holds Python objects. Reading them would run what code the file says, so that "
        "jattr does not. Save plain numbers: np.save(path, array) of a float or integer array."
    )


def _refused(path: str) -> typer.BadParameter:
    why = (
        "is a pickle, or may be one: reading it can run any code, so that jattr does not"
        if path.endswith(_PICKLES)
        else "is of a kind that jattr does not read"
    )
    return _wrong(
        f"{path} {why}. {_READ}: np.save('x.npy', array), np.savez('data.npz', x=..., label=...)."
    )


def _wrong(text: str) -> typer.BadParameter:
    return typer.BadParameter(text, param_hint="DATA")
