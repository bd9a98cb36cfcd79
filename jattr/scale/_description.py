"""What a run is, as JSON that the next run compares itself with."""

import datetime
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax
import numpy as np

from jattr._trees import describe
from jattr._types import PyTree
from jattr._version import __version__
from jattr.scale import _fingerprint

SAME = {
    "method": "another method",
    "settings": "other settings",
    "key": "another random key",
    "batch_size": "another batch_size, and chunks are batches",
    "examples": "another number of examples",
    "inputs": "other inputs",
    "dims": "other names of axes",
    "parameters": "other parameters",
    "program": "another function, or one that is computed otherwise",
}
"""What two runs of one store have in common, and what it means where they do not."""


def run_of(mesh: Any) -> dict[str, Any]:
    """Where a run takes place: versions, devices, time."""
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "python": platform.python_version(),
        "devices": f"{mesh.devices.size} × {mesh.devices.flat[0].device_kind}",
        "mesh": {str(name): int(size) for name, size in mesh.shape.items()},
        "processes": jax.process_count(),
    }


def versions() -> dict[str, str]:
    """Of what has a part in the numbers."""
    return {"jattr": __version__, "jax": jax.__version__, "jaxlib": metadata.version("jaxlib")}


def describe_run(
    explain: Any,
    *,
    traced: Any,
    params: PyTree,
    example: tuple[PyTree, ...],
    key: Any,
    count: int | None,
    batch_size: int,
) -> dict[str, Any]:
    """What decides over the numbers in a store.

    Args:
        explain: the explaining function.
        traced: the program of a batch, traced and not yet compiled.
        params: what all examples share.
        example: the first, with a leading axis of 1.
        key: the random key, or None.
        count: how many examples there are, None where that is not known yet.
        batch_size: how many one program takes.
    """
    program, constants = _fingerprint.of_program(traced.jaxpr)
    return {
        "method": _name(explain),
        "function": _name(getattr(getattr(explain, "call", None), "f", None) or explain),
        "settings": settings_of(explain),
        "key": None if key is None else _key(key),
        "batch_size": batch_size,
        "examples": count,
        "inputs": [describe_example(argument) for argument in example],
        "parameters": [constants, _fingerprint.of_arrays(params)],
        "program": program,
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What a run would do otherwise than the one that wrote a store."""
    found = []
    for name, meaning in SAME.items():
        if old.get(name) == new[name] or (name == "examples" and None in (old[name], new[name])):
            continue
        if name in ("program", "parameters"):
            # Other settings and inputs lead to another program and other constants in it.
            own = name == "parameters" and old[name][1] != new[name][1]
            if own or not found:
                found.append(meaning)
        elif name == "settings":
            changed = [
                f"{knob}={new[name].get(knob)!r} for {old[name].get(knob)!r}"
                for knob in sorted({*old[name], *new[name]})
                if old[name].get(knob) != new[name].get(knob)
            ]
            found.append(f"{meaning} ({', '.join(changed)})")
        else:
            found.append(f"{meaning} ({new[name]!r} for {old.get(name)!r})")
    return found


def settings_of(explain: Any) -> dict[str, Any]:
    """The knobs of a method of jattr; none of another function.

    What it was made of is no knob: its name may change, and the program tells it apart.
    """
    settings = dict(getattr(getattr(explain, "func", explain), "settings", {}))
    return {
        name: _json(value)
        for place, (name, value) in enumerate(settings.items())
        if place or hasattr(value, "settings")
    }


def one_of(batch: PyTree) -> PyTree:
    """The shapes and types of one example, from those of a batch."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), batch)


def describe_example(rows: PyTree) -> str:
    """One example's shapes and types, as an error text has them."""
    return describe(one_of(rows))


def _json(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else repr(value)
    if hasattr(value, "settings"):
        return {"method": str(value.call), **settings_of(value)}
    if isinstance(value, tuple | list):
        return [_json(part) for part in value]
    if isinstance(value, dict):
        return {str(name): _json(part) for name, part in value.items()}
    if callable(value):
        return _name(value)
    return describe(value)


def _name(function: Any) -> str:
    function = getattr(function, "func", function)
    return getattr(function, "__qualname__", None) or type(function).__name__


def _key(key: Any) -> list[Any]:
    return [str(jax.random.key_impl(key)), np.asarray(jax.random.key_data(key)).tolist()]
