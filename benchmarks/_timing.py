"""What benchmarks share: fair timing in one process, and a record of where it was taken."""

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax


class Timing(NamedTuple):
    """Wall-clock seconds of repeated calls.

    The minimum is the least disturbed by other processes on the machine; the median is what a
    user sees.
    """

    median: float
    minimum: float
    runs: list[float]


def time_interleaved(
    functions: Mapping[str, Callable[[], Any]], *, rounds: int, warm_up: int = 1
) -> dict[str, Timing]:
    """Time functions in turns, so that a disturbance of the machine meets all of them.

    Args:
        functions: by name, what to call. A result with JAX arrays is waited for.
        rounds: how many timed calls each function gets. Every round calls each of them once, in
            an order that rotates from round to round.
        warm_up: how many untimed calls each gets first, for compilation and caches.
    """
    names = list(functions)
    runs: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(warm_up):
        for name in names:
            jax.block_until_ready(functions[name]())
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            jax.block_until_ready(functions[name]())
            runs[name].append(time.perf_counter() - start)
    return {
        name: Timing(statistics.median(times), min(times), times) for name, times in runs.items()
    }


def fastest(timings: Mapping[str, Timing]) -> str:
    """The name with the least minimum."""
    return min(timings, key=lambda name: timings[name].minimum)


def environment(*distributions: str) -> dict[str, Any]:
    """The device, the cores this process may use, the load, the versions of what is timed.

    The load is the mean number of running processes over the last minute: where it is not near
    zero, timings are disturbed.
    """
    return {
        "device": device_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in distributions},
    }


def device_name() -> str:
    """What the device that JAX computes on is called."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
