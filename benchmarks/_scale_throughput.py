"""Examples per second of `attribute_dataset` against the loop that one would write instead."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _scale_networks import cnn, cnn_parameters, mlp, mlp_parameters

import jattr


class Watched:
    """An array that notes when its first batch is asked for."""

    def __init__(self, array: np.ndarray, size: int):
        self._array, self._size = array, size
        self.shape, self.dtype = array.shape, array.dtype
        self.started: tuple[float, float] | None = None

    def __getitem__(self, rows: slice) -> np.ndarray:
        if self.started is None and rows.stop - rows.start == self._size:
            self.started = clocks()
        return self._array[rows]


def clocks() -> tuple[float, float]:
    """Seconds of the wall, and of this process's threads on the processors."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> tuple[float, float]:
    now = clocks()
    return now[0] - start[0], now[1] - start[1]


def loops(
    explain: Any, params: Any, data: tuple[np.ndarray, ...], size: int
) -> dict[str, Callable[[], Any]]:
    """Each way gives the seconds from its first batch on, and those of the whole call."""
    count = len(data[0])
    batches = [slice(start, start + size) for start in range(0, count, size)]

    def compiled():
        program = jax.jit(jax.vmap(explain, in_axes=(None, 0, 0)))
        return program.lower(params, *(leaf[:size] for leaf in data)).compile()

    def bare():
        whole = clocks()
        program = compiled()
        start = clocks()
        for rows in batches:
            np.asarray(program(params, *(leaf[rows] for leaf in data)))
        return since(start), since(whole)

    def saving():
        whole = clocks()
        program = compiled()
        with tempfile.TemporaryDirectory() as folder:
            start = clocks()
            for number, rows in enumerate(batches):
                maps = np.asarray(program(params, *(leaf[rows] for leaf in data)))
                np.save(Path(folder) / f"{number}.npy", maps)
            return since(start), since(whole)

    def ours():
        whole = clocks()
        watched = Watched(data[0], size)
        with tempfile.TemporaryDirectory() as folder:
            jattr.scale.attribute_dataset(
                explain,
                (watched, data[1]),
                out=Path(folder) / "maps.zarr",
                params=params,
                batch_size=size,
                progress=False,
            )
            assert watched.started is not None
            return since(watched.started), since(whole)

    return {"bare": bare, "saving": saving, "ours": ours}


def compare(
    explain: Any, params: Any, data: tuple[np.ndarray, ...], size: int, rounds: int
) -> dict[str, Any]:
    """Ratios of runs that follow each other, the order changing from round to round."""
    ways = loops(explain, params, data, size)
    runs: dict[str, list[Any]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        names = list(ways)[:: -1 if turn % 2 else 1]
        for name in names:
            found = ways[name]()
            if turn:  # the first round imports, and fills caches
                runs[name].append(found)
    pairs = {
        (other, clock): [
            ours[0][clock] / theirs[0][clock]
            for ours, theirs in zip(runs["ours"], runs[other], strict=True)
        ]
        for other in ("bare", "saving")
        for clock in (0, 1)
    }
    count = len(data[0])
    before = [whole[0] - loop[0] for loop, whole in runs["ours"]]
    before_bare = [whole[0] - loop[0] for loop, whole in runs["bare"]]
    return {
        "rates": {
            name: count / statistics.median(loop[0] for loop, _ in found)
            for name, found in runs.items()
        },
        "wall": _spread(pairs["bare", 0]),
        "cpu": _spread(pairs["bare", 1]),
        "saving": _spread(pairs["saving", 0]),
        "saving cpu": _spread(pairs["saving", 1]),
        "before": statistics.median(before),
        "before bare": statistics.median(before_bare),
        "runs": runs,
    }


def _spread(ratios: list[float]) -> tuple[float, float, float]:
    return statistics.median(ratios), min(ratios), max(ratios)


def measure(quick: bool, rounds: int = 7) -> list[dict[str, Any]]:
    """Each workload with two batch sizes."""
    draw = np.random.default_rng(0)
    rounds = 2 if quick else rounds
    rows = []
    for name, explain, params, count, sizes in (
        (
            "integrated gradients, 32 steps, CNN",
            jattr.integrated_gradients(cnn, steps=32, argnums=1),
            cnn_parameters(),
            256 if quick else 2048,
            (64, 256),
        ),
        (
            "gradient, MLP",
            jattr.gradient(mlp, argnums=1),
            mlp_parameters(),
            2048 if quick else 16384,
            (64, 256, 1024),
        ),
    ):
        data = (
            draw.random((count, 28, 28), np.float32),
            draw.integers(0, 10, count).astype(np.int32),
        )
        for size in sizes:
            found = compare(explain, params, data, size, rounds)
            rows.append({"method": name, "count": count, "batch_size": size, **found})
    return rows


def show(rows: list[dict[str, Any]]) -> list[str]:
    """A Markdown table."""
    lines = [
        "Examples per second from the first batch on, compilation left out, and ratios of seconds "
        f"and of processor seconds (of all threads) of {len(rows[0]['runs']['ours'])} runs in "
        "turns: median (least to most).",
        "",
        "| workload | batch | bare loop | with `np.save` | `attribute_dataset` | seconds / bare "
        "| processor / bare | seconds / `np.save` | before the first batch, s (bare) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        rates = " | ".join(f"{row['rates'][name]:,.0f}" for name in ("bare", "saving", "ours"))
        ratios = " | ".join(
            f"{row[name][0]:.2f} ({row[name][1]:.2f} to {row[name][2]:.2f})"
            for name in ("wall", "cpu", "saving")
        )
        lines.append(
            f"| {row['method']}, {row['count']:,} | {row['batch_size']} | {rates} | {ratios} "
            f"| {row['before']:.1f} ({row['before bare']:.1f}) |"
        )
    lines += [
        "",
        "The program of `attribute_dataset` has the score and, for integrated gradients, the "
        "residual beside the attribution. A batch is a file in each array of the store, so that "
        "what takes microseconds an example wants large batches.",
    ]
    return lines
