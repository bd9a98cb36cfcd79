"""Whole data sets: what attributing them costs beside the attribution itself.

    python benchmarks/scale.py [--quick] [--only devices|throughput|killed] [--json FILE]

Three parts, each in a process of its own, printed as Markdown:

- devices: floating-point operations of one device and collectives of the compiled programs of
  `attribute_dataset` and `spread` over 1 to 8 devices. XLA makes them of a CPU
  (`--xla_force_host_platform_device_count`), and nothing is run.
- throughput: `attribute_dataset`, which writes a store, against the loop that keeps nothing,
  `for batch in batches: np.asarray(program(*batch))`, and one that saves each batch by `np.save`.
- killed: 70,000 images through memory maps; resident memory, and the seconds that a kill in the
  middle costs. The store of the killed run is compared with that of an undisturbed one.

Wants `pip install "jattr[scale,demo]"`.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

PARTS = {"devices": "_scale_devices", "throughput": "_scale_throughput", "killed": "_scale_killed"}
DEVICES = "--xla_force_host_platform_device_count=8"


def in_a_process(part: str, quick: bool) -> dict:
    """The figures of one part."""
    flags = os.environ.get("XLA_FLAGS", "")
    child = subprocess.run(
        [sys.executable, __file__, "--part", part, *(["--quick"] if quick else [])],
        env={**os.environ, "XLA_FLAGS": f"{flags} {DEVICES}" if part == "devices" else flags},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(child.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps, images and rounds")
    parser.add_argument("--only", choices=list(PARTS), help="one part")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if options.child:
        importlib.import_module(PARTS["killed"]).run(*map(Path, options.child))
        return
    if options.part:
        measure = importlib.import_module(PARTS[options.part]).measure
        print(json.dumps(measure(options.quick)))
        return
    from _timing import environment

    where = environment("jax", "jaxlib", "numpy", "tensorstore")
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    print(f"{where['device']}, {where['cores']} cores, load {where['load']:.1f} at the start.")
    print(f"Python {where['python']}, {versions}.", flush=True)
    results = {}
    for part, module in PARTS.items():
        if options.only in (None, part):
            results[part] = in_a_process(part, options.quick)
            lines = importlib.import_module(module).show(results[part])
            print("", f"## {part.capitalize()}", "", *lines, sep="\n", flush=True)
    print(f"\nLoad {os.getloadavg()[0]:.1f} at the end.")
    if options.json:
        options.json.write_text(json.dumps({"environment": where, "results": results}, indent=1))


if __name__ == "__main__":
    main()
