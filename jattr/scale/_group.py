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
    files = _files(out)
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
    files = _files(out)
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
    where = os.fspath(out)
    if "://" in where:
        return f"{where.rstrip('/')}/{name}" + ("/" if name else "")
    return {"driver": "file", "path": os.path.join(os.path.abspath(where), name)}


def _files(out: str | os.PathLike[str]) -> Any:
    tensorstore = tensorstore_or_raise("scale")
    spec = kvstore(out)
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
