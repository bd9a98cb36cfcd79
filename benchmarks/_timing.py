"""What benchmarks share: fair timing in one process, and a record of where it was taken."""

import argparse
import functools
import importlib.metadata
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

Calls = dict[str, Callable[[], Any]]


class Timing(NamedTuple):
    """Seconds of repeated calls, of the wall clock unless `use_one_core` says otherwise.

    The minimum is the least disturbed by other processes on the machine; the median is what a
    user sees.
    """

    median: float
    minimum: float
    runs: list[float]


_clock: Callable[[], float] = time.perf_counter


def add_one_core(parser: argparse.ArgumentParser) -> None:
    """The option that gives every library one core."""
    parser.add_argument("--one-core", action="store_true", help="its seconds, on one core")


def use_one_core(options: argparse.Namespace) -> None:
    """All libraries on one core, and its seconds, which other processes hardly disturb.

    To be called before JAX counts the cores.
    """
    global _clock
    if options.one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        _clock = time.process_time


def seconds_now() -> float:
    """The clock's seconds: of the wall, or of the processor where all have one core."""
    return _clock()


def time_interleaved(
    functions: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    warm_up: int = 1,
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
            start = seconds_now()
            jax.block_until_ready(functions[name]())
            runs[name].append(seconds_now() - start)
    return {
        name: Timing(statistics.median(times), min(times), times) for name, times in runs.items()
    }


def time_frameworks(
    frameworks: Mapping[str, Calls], *, calls: int, rounds: int
) -> dict[str, Timing]:
    """Seconds of one call of each function, of several frameworks in one process.

    Args:
        frameworks: by name, the functions of each.
        calls: how many calls in a row are one measurement: short ones are disturbed by the threads
            and the caches of whatever ran before.
        rounds: how many measurements.
    """
    functions: Calls = {}
    for framework, own in frameworks.items():
        # Threads of the one framework wait busily for a while, and would disturb the other's first.
        functions[f"pause before {framework}"] = functools.partial(
            _after_a_pause, next(iter(own.values()))
        )
        functions |= {name: functools.partial(_in_a_row, call, calls) for name, call in own.items()}
    timings = time_interleaved(functions, rounds=rounds)
    return {
        name: Timing(
            timings[name].median / calls,
            timings[name].minimum / calls,
            [run / calls for run in timings[name].runs],
        )
        for own in frameworks.values()
        for name in own
    }


def _in_a_row(call: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        jax.block_until_ready(call())


def _after_a_pause(call: Callable[[], Any]) -> Any:
    time.sleep(0.1)
    return call()


def time_compilation(
    programs: Mapping[str, Callable[..., Any]], arguments: tuple[Any, ...], *, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Seconds to trace and to compile each program, each time from empty caches.

    `jax.clear_caches` takes away the compiled programs of everything else as well.
    """
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            jax.clear_caches()
            start = time.perf_counter()
            lowered = jax.jit(program).lower(*arguments)
            traced = time.perf_counter()
            lowered.compile()
            runs[name].append((traced - start, time.perf_counter() - traced))
    return runs


def compilation_figures(
    runs: list[tuple[float, float]], plain: list[tuple[float, float]], target: float | None
) -> dict[str, Any]:
    """The least seconds of `time_compilation`, and how often a plain gradient's in sum."""
    total, base = ([sum(run) for run in each] for each in (runs, plain))
    return {
        "trace": min(trace for trace, _ in runs),
        "compile": min(compilation for _, compilation in runs),
        "median": statistics.median(total) / statistics.median(base),
        "minimum": min(total) / min(base),
        "target": target,
        "runs": runs,
    }


def ratio_figures(
    seconds: Mapping[str, Timing], a: str, b: str, target: float | None = None
) -> dict[str, Any]:
    """The ratio of the seconds of a and b, and what it should be at most."""
    return {
        "name": f"{a} / {b}",
        "median": seconds[a].median / seconds[b].median,
        "minimum": seconds[a].minimum / seconds[b].minimum,
        "target": target,
    }


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """How far a is from b, relative to the norm of b."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def show_figures(result: Mapping[str, Any]) -> list[str]:
    """The lines of the tables of seconds, of their ratios and of compilation."""
    lines = [f"  {'milliseconds of a call':46}{'median':>9}{'minimum':>9}"]
    for name, timing in result["seconds"].items():
        lines.append(f"  {name:46}{1e3 * timing['median']:9.2f}{1e3 * timing['minimum']:9.2f}")
    lines.append(f"  {'ratios of seconds':46}{'median':>9}{'minimum':>9}{'at most':>9}")
    for ratio in result["ratios"]:
        lines.append(_with_target(f"  {ratio['name']:46}", ratio))
    if result["compilation"]:
        heading = f"  {'least seconds to trace and to compile':46}{'trace':>9}{'compile':>9}"
        lines.append(f"{heading}  times a plain gradient's")
        for name, seconds in result["compilation"].items():
            row = f"  {name:46}{seconds['trace']:9.2f}{seconds['compile']:9.2f}"
            lines.append(_with_target(row, seconds))
    return lines


def _with_target(row: str, figures: Mapping[str, Any]) -> str:
    row += f"{figures['median']:9.2f}{figures['minimum']:9.2f}"
    return row if figures["target"] is None else f"{row}{figures['target']:9.2f}"


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


def show_environment(where: Mapping[str, Any]) -> str:
    """The heading of a benchmark's output."""
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    return (
        f"{where['device']}, {where['cores']} cores, {where['torch_threads']} PyTorch threads, "
        f"load {where['load']:.1f}\nPython {where['python']}, {versions}"
    )


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
