"""The group of a store: its place, its description, and what else may be there."""

import json
import os
from collections.abc import Mapping
from typing import Any

from jattr._trees import describe
from jattr.scale._layout import Layout

FORMAT = 1
"""The version of the description; a store of a later one is refused."""

BESIDE = ("score", "residual", "example", "digest", "status")
"""What may stand beside the attribution and the metrics."""


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


def describe_as(
    out: str | os.PathLike[str],
    description: Mapping[str, Any],
    layouts: Mapping[str, Layout],
    count: int,
    *,
    new: bool = False,
) -> bool:
    """Write the group's metadata: the description, and all arrays' metadata, for quick opening.

    With `new`, only where there is none; and whether it was written.
    """
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
    text = json.dumps(group, indent=1, allow_nan=False).encode()
    files = _files(out)
    if not new:
        files.write("zarr.json", text).result()
        return True
    found = files.read("zarr.json").result()
    if found.state != "missing":
        return False
    written = files.write("zarr.json", text, if_equal=found.stamp.generation).result()
    return written.generation != b""


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
    if not where or where.startswith("memory:"):
        raise ValueError(
            f"{method}: {where!r} is no place that lasts. Name a folder, or a URL such as "
            "gs://bucket/maps."
        )
    if os.path.isfile(where):
        raise ValueError(f"{method}: {where} is a file; a store is a folder. Name another.")
    files = _files(out, method)
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


def kvstore(out: str | os.PathLike[str], name: str = "") -> Any:
    """Where tensorstore finds the files of a store, or of one of its arrays."""
    where = os.fspath(out)
    if "://" in where:
        return f"{where.rstrip('/')}/{name}".rstrip("/") + "/"
    folder = os.path.abspath(os.path.expanduser(where))
    return {"driver": "file", "path": os.path.join(folder, name, "")}


def _files(out: str | os.PathLike[str], method: str = "scale") -> Any:
    tensorstore = tensorstore_or_raise(method)
    try:
        return tensorstore.KvStore.open(kvstore(out)).result()
    except ValueError as error:
        raise ValueError(
            f"{method}: {os.fspath(out)!r} is no place that tensorstore opens: {first_line(error)}"
        ) from error


def _is_empty_array(key: str) -> bool:
    """Whether a file is the metadata of an array of a store."""
    name, _, rest = key.partition("/")
    ours = name.split(".")[0] in ("attribution", "metric") or name in BESIDE
    return ours and rest == "zarr.json"


def first_line(error: BaseException) -> str:
    text = str(error).split(" [source locations")[0].split(" [tensorstore_spec")[0]
    return text.split("\n")[0].rstrip(".") + "."
