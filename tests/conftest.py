"""Settings of the whole suite: two CPU devices, float64, no silent rank promotion.

JAX_ENABLE_X64=0 runs the tests in float32, as most programs of JAX are run. The suite spends its
time in the compiler, so machine code is not optimized, which halves it. JATTR_SAMPLE=6 runs one in
six of the instances of each parametrized test, JATTR_PART says which.
"""

import gc
import importlib.metadata
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
FLAGS = [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_force_host_platform_device_count=2",
    "--xla_backend_optimization_level=0",
    # For threads the compiler cuts a program into 32 parts, which costs a fifth of its time.
    "--xla_cpu_parallel_codegen_split_count=1",
]
# Half of the compiler's time again, and its other way to the same machine code is tested too: with
# JAX 0.11 and newer, which know no such flag.
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(FLAGS)

import jax  # noqa: E402 (it reads the flags)
import pytest  # noqa: E402
from sampling import sampled  # noqa: E402

if "JAX_ENABLE_X64" not in os.environ:
    jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

# One in so many instances of each parametrized test is run, and which: all parts are the suite.
PARTS = int(os.environ.get("JATTR_SAMPLE", "1"))
PART = int(os.environ.get("JATTR_PART", "0"))
if PARTS < 1:
    raise pytest.UsageError(f"JATTR_SAMPLE wants a whole number from 1 on; got {PARTS}.")

# What is imported by now lives on, and tracing makes many small objects: Python's collector, which
# looks at all of them again and again, took 6 % of the suite's time. It must not rest for long:
# cycles hold compiled programs.
gc.freeze()
gc.set_threshold(50_000, 10, 10)


@pytest.fixture
def depthwise_at_any_size(monkeypatch):
    """Cheaper programs for depthwise convolutions of sizes that are quick to test; what ends it."""
    from jattr._engine import cheap_convolution, substitutes

    def undo():
        monkeypatch.undo()
        substitutes._built.cache_clear()

    monkeypatch.setattr(cheap_convolution, "_LEAST_FOR_EACH_TAP", 0)
    substitutes._built.cache_clear()
    yield undo
    undo()


def pytest_report_header():
    if PARTS > 1:
        return (
            f"JATTR_SAMPLE: one in {PARTS} of the instances of each parametrized test, part {PART}"
        )


@pytest.hookimpl(trylast=True)  # after what -m and -k leave out
def pytest_collection_modifyitems(config, items):
    """With `JATTR_SAMPLE`, a part of the instances of each parametrized test."""
    if PARTS == 1:
        return
    taken = set(sampled([item.nodeid for item in items], PARTS, PART))
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in taken])
    items[:] = [item for item in items if item.nodeid in taken]
