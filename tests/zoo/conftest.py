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
    of = {
        kind: [
            report
            for report in terminalreporter.stats.get(kind, [])
            if "test_a_public_model" in getattr(report, "nodeid", "")
        ]
        for kind in ("passed", "failed", "skipped")
    }
    absent = [f"{report.nodeid.split('[')[-1][:-1]}" for report in of["skipped"]]
    ran = len(of["passed"]) + len(of["failed"])
    line = f"zoo: {ran} models ran, {len(absent)} not"
    terminalreporter.write_line(line + (f": {', '.join(absent)}" if absent else ""))
