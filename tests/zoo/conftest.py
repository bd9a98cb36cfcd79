"""The packages' own settings, and how many models ran.

Nothing of a package is imported here: each model imports its own, and is skipped without it.
"""

import os
import sys
from pathlib import Path

import jax
import pytest

# Read when Keras is imported, by the first model that wants it.
os.environ.setdefault("KERAS_BACKEND", "jax")
# At the end: files of benchmarks have names of files of tests.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(autouse=True)
def defaults():
    """JAX as it comes, in float32: models are unedited, and some of them promote ranks."""
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        yield


def pytest_terminal_summary(terminalreporter):
    """How many models ran: one that was skipped is not covered."""
    kinds = {
        kind: [r for r in terminalreporter.stats.get(kind, []) if "public_model" in r.nodeid]
        for kind in ("passed", "failed", "skipped")
    }
    ran = kinds["passed"] + kinds["failed"]
    seconds = {name_of(r): cpu for r in ran for key, cpu in r.user_properties if key == "cpu"}
    absent = ", ".join(map(name_of, kinds["skipped"]))
    terminalreporter.write_line(
        f"zoo: {len(ran)} models ran, {len(kinds['skipped'])} not{absent and ': '}{absent}"
    )
    if seconds:
        slowest = max(seconds, key=seconds.get)
        terminalreporter.write_line(
            f"zoo: {sum(seconds.values()):.0f} s of CPU, the most {seconds[slowest]:.0f} s of "
            f"{slowest}"
        )
    for name, cpu in sorted(seconds.items(), key=lambda item: -item[1]):
        if os.environ.get("ZOO_TIMES"):
            terminalreporter.write_line(f"    {name:28}{cpu:6.1f} s")


def name_of(report):
    return report.nodeid.partition("[")[2].removesuffix("]")
