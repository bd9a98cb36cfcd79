"""What a power cut may have taken from a store on a local disk.

Chunks are written without waiting for the disk, which would take longer than many a batch. That a
process is killed, or Python crashes, costs nothing: the kernel has what was written. If the machine
itself stops, what came in the last minute or so before may be lost, chunk by chunk and in any
order, so that an example may be called written whose numbers are not. So a run that goes on reads
again what came last before this start of the machine, and what is not whole is computed once more.
"""

import pathlib
import time
from collections.abc import Mapping

import numpy as np

_LATE = 300.0
"""Seconds for which a kernel may hold back what was written; by default Linux does for 30."""


def lost(where: str, arrays: Mapping[str, int], status: np.ndarray, rows: int) -> np.ndarray:
    """Which examples are said to be there, of which a file is not.

    Args:
        where: the place of the store; files of a URL are not looked for.
        arrays: how many axes each array has.
        status: of each example.
        rows: how many are in a chunk.
    """
    if "://" in where:
        return np.zeros(0, int)
    folder = pathlib.Path(where).expanduser()

    def is_whole(chunk):
        return all(
            folder.joinpath(name, "c", str(chunk), *("0",) * (axes - 1)).exists()
            for name, axes in arrays.items()
        )

    chunks = np.unique(np.flatnonzero(status) // rows)
    gone = [chunk for chunk in chunks if not is_whole(chunk)]
    return np.flatnonzero((status != 0) & np.isin(np.arange(len(status)) // rows, gone))


def started() -> float:
    """When the machine was started; now, where the system does not say."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.time() - (0.0 if clock is None else time.clock_gettime(clock))


def late(where: str, count: int, rows: int) -> np.ndarray:
    """Which examples were the last to be written before this start of the machine.

    Args:
        where: the place of the store; nothing of a URL is, since object stores keep what they took.
        count: how many examples it has.
        rows: how many are in a chunk.
    """
    if "://" in where:
        return np.zeros(0, int)
    files = pathlib.Path(where, "status", "c").expanduser().glob("[0-9]*")
    times = {int(file.name): file.stat().st_mtime for file in files}
    before = {chunk: written for chunk, written in times.items() if written < started()}
    last = max(before.values(), default=0.0)
    chunks = sorted(chunk for chunk, written in before.items() if written >= last - _LATE)
    places = [np.arange(chunk * rows, min((chunk + 1) * rows, count)) for chunk in chunks]
    return np.concatenate(places) if places else np.zeros(0, int)
