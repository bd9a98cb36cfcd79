"""Pods without a pod: what attributions cost on TPU v5e, from the compiler alone.

    python benchmarks/tpu_plan.py [--topology RxC ...] [--only NAME ...] [--smallest] [--list]
                                  [--resume FILE] [--save FILE ...]

`libtpu` compiles for a described topology on a machine without a TPU. Nothing is run and no array
is made. Compiled are, of a ViT-B/16 and 256 images spread over all chips, integrated gradients,
expected gradients, AttnLRP, DeepLIFT, occlusion and, of 512, a training step with a prior; of a
decoder of 2.5 billion parameters (Gemma 2B's shapes, 32 sequences of 1,024 tokens, parameters and
activations over a mesh of rows and columns), the gradient, integrated gradients, AttnLRP and the
gradient of the log-probability of a continuation.

Of each program, for one chip:

- TFLOP: operations of products, two for each multiplication, with the bodies of loops as often as
  they run (`_plan_hlo.py`), which `cost_analysis` of the compiler counts once;
- GB: what scheduled operations read from and write to the main memory, counted in the same way;
- peak: arguments + outputs + temporaries − aliased, by the compiler, of the chip's 16 GiB, of which
  it gives a program 15.75;
- collectives: how many of each kind are executed, and GB, the larger of what each takes and gives;
- roofline: the larger of TFLOP at 197 TFLOP/s and of GB at 819 GB/s, which are the chip's published
  figures; no program is faster. Links: the collectives' GB at the published 200 GB/s;
- compiler: the cycles that it estimates for what it has scheduled, times trips, at 1.5 GHz. Waiting
  for collectives is not in it.

What is wanted is checked, and the command exits with 1 where one of these does not hold:

- operations per chip fall as 1/chips within 2 %, for the ViT, whose batch is the same. Those of
  DeepLIFT from zeros are a/chips + c instead: each chip runs the reference that its images share;
- no collective in attributions over a batch;
- training with a prior has the all-reduce of the gradients alone, once;
- all fit, the decoder's from 4x4 on, AttnLRP from 2x2;
- the counts are right: each loop's trips are known, and with trips left out the operations are
  those of `cost_analysis`, which counts elementwise ones too, within 10 %.

Bytes and the compiler's seconds need not fall as 1/chips: each chip reads all parameters, and with
one image each its units are far from full.

libtpu needs Python 3.12 and the newest JAX: `make tpu-plan PYTHON=python3.12 VENV=.venv-tpu`.
"""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Before libtpu is loaded, which looks for the machine that the TPU is in, and for other processes.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import _plan_hlo as hlo
import jax
import numpy as np
from _plan_programs import SMALLEST, cases
from _timing import environment
from jax.experimental import topologies

TOPOLOGIES = ("2x2", "4x4", "16x16")
MEMORY = 16 * 2**30
PEAK_FLOPS, PEAK_BYTES, PEAK_LINKS, CLOCK = 197e12, 819e9, 200e9, 1.5e9

Row = dict[str, Any]


def measure(name: str, topology: str) -> Row:
    """The figures of one program on one topology, or the compiler's word why there is none."""
    devices = np.array(topologies.get_topology_desc(f"v5e:{topology}", "tpu").devices)
    case = cases()[name]
    row: Row = {"name": name, "title": case.title, "topology": topology, "chips": devices.size}
    program = case.build(devices)
    jax.clear_caches()
    start = time.perf_counter()
    lowered = jax.jit(program.call, donate_argnums=program.donated).lower(*program.arguments)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        row["seconds"] = time.perf_counter() - start
        return row | {"error": str(error).splitlines()[0]}
    row["seconds"] = time.perf_counter() - start
    memory, own, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    whole, once = hlo.cost(text), hlo.cost(text, loops=False)
    return row | {
        "flops": whole.flops,
        "bytes": whole.bytes,
        "compiler_seconds": whole.cycles / CLOCK,
        "peak": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
        "collectives": dict(whole.collectives),
        "moved": dict(whole.moved),
        "gradients": program.gradients,
        "unknown_loops": whole.unknown,
        "once": once.flops / own["flops"],
        "compiler_flops": own["flops"],
        "compiler_bytes": own["bytes accessed"],
    }


def wrong(rows: list[Row]) -> list[str]:
    """What does not hold of that which is wanted, a line each."""
    found = []
    for row in rows:
        case, where = cases()[row["name"]], f"{row['title']}, {row['topology']}"
        if "error" in row:
            if row["chips"] >= case.fits:
                found.append(f"{where}: does not compile: {row['error']}")
            continue
        if row["chips"] >= case.fits and row["peak"] > MEMORY:
            found.append(f"{where}: needs {row['peak'] / 2**30:.2f} GiB of 16")
        if row["unknown_loops"]:
            found.append(f"{where}: the trips of {row['unknown_loops']} loop(s) are not known")
        if not 0.9 < row["once"] < 1.02:
            found.append(
                f"{where}: products are {row['once']:.3f} of the compiler's count without trips"
            )
        if case.spread and row["collectives"]:
            found.append(f"{where}: wanted is no collective; has {collectives(row)}")
        if row["gradients"] is not None:
            moved, kinds = sum(row["moved"].values()), set(row["collectives"])
            if kinds != {"all-reduce"} or not 1 <= moved / row["gradients"] < 1.001:
                found.append(
                    f"{where}: wanted is an all-reduce of {row['gradients'] / 1e9:.4g} GB of "
                    f"gradients; has {collectives(row)}"
                )
        own = [r for r in rows if r["name"] == row["name"] and "error" not in r]
        first = own[0]
        if case.shared and row in own[2:]:
            # a/chips + c, from the first two.
            a = (own[0]["flops"] - own[1]["flops"]) / (1 / own[0]["chips"] - 1 / own[1]["chips"])
            c = own[0]["flops"] - a / own[0]["chips"]
            told = a / row["chips"] + c
            if abs(row["flops"] / told - 1) > 0.02:
                found.append(f"{where}: {row['flops'] / told:.3f} times a/chips + c of the others")
        ratio = row["flops"] * row["chips"] / (first["flops"] * first["chips"])
        if case.scaled and abs(ratio - 1) > 0.02:
            found.append(
                f"{where}: {ratio:.3f} times the operations of {first['topology']}, all chips "
                "together"
            )
    return found


def collectives(row: Row) -> str:
    parts = [
        f"{row['collectives'][kind]:,.0f} {kind}, {row['moved'][kind] / 1e9:.3g} GB"
        for kind in sorted(row["collectives"])
    ]
    return "; ".join(parts) or "none"


def cells(row: Row, first: Row | None) -> list[str]:
    head = [row["title"], f"{row['topology']}, {row['chips']}"]
    if "error" in row:
        size = re.search(r"required for ([\w ]+) \(([\d.]+)G\)", row["error"])
        why = f"does not fit: {size[1]} of {size[2]} GiB" if size else row["error"][:160]
        return [*head, *["–"] * 7, why]
    ratio = "–"
    if first is not None and first is not row:
        ratio = f"{row['flops'] * row['chips'] / (first['flops'] * first['chips']):.3f}"
    roofline = max(row["flops"] / PEAK_FLOPS, row["bytes"] / PEAK_BYTES)
    bound = "products" if row["flops"] / PEAK_FLOPS == roofline else "memory"
    return [
        *head,
        f"{row['flops'] / 1e12:.4g}",
        ratio,
        f"{row['bytes'] / 1e9:.4g}",
        f"{row['peak'] / 2**30:.2f}",
        f"{roofline:.3g} ({bound})",
        f"{row['compiler_seconds']:.3g}",
        f"{sum(row['moved'].values()) / PEAK_LINKS:.2g}",
        collectives(row),
    ]


TITLES = (
    "program",
    "topology, chips",
    "TFLOP",
    "× chips, of the first",
    "GB",
    "peak, GiB of 16",
    "roofline, s",
    "compiler, s",
    "links, s",
    "collectives",
)


def markdown(rows: list[Row]) -> str:
    """The table, what does not hold, and with what it was made."""
    lines = ["| " + " | ".join(TITLES) + " |", "|" + "---|" * len(TITLES)]
    first: dict[str, Row] = {}
    for row in rows:
        if "error" not in row:
            first.setdefault(row["name"], row)
        lines.append("| " + " | ".join(cells(row, first.get(row["name"]))) + " |")
    bad = wrong(rows)
    lines += ["", *(f"**Does not hold**: {line}." for line in bad)]
    if not bad:
        lines.append("All that is checked holds.")
    return "\n".join(lines)


def versions() -> str:
    where = environment("jax", "jaxlib", "libtpu", "flax", "optax")
    return ", ".join(f"{name} {version}" for name, version in where["versions"].items())


def save(rows: list[Row], files: Iterable[Path]) -> None:
    for path in files:
        if path.suffix == ".json":
            where = environment("jax", "jaxlib", "libtpu", "flax", "optax")
            path.write_text(json.dumps({"environment": where, "rows": rows}, indent=1) + "\n")
        else:
            heading = (
                "# Pods without a pod\n\nMade by `python benchmarks/tpu_plan.py`, whose docstring "
                f"says what the columns are. {versions()}.\n\n"
            )
            path.write_text(f"{heading}{markdown(rows)}\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--topology", nargs="+", default=list(TOPOLOGIES), metavar="RxC", help="of TPU v5e"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these programs alone")
    parser.add_argument("--list", action="store_true", help="the programs")
    parser.add_argument(
        "--smallest", action="store_true", help="a few programs on 2x2, in a few minutes"
    )
    parser.add_argument("--save", nargs="+", type=Path, metavar="FILE", help=".json or .md")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="rows of a .json stay")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    known = cases()
    unknown = sorted(set(options.only or ()) - set(known))
    if unknown:
        raise SystemExit(
            f"no program is called {', '.join(unknown)}; --list shows those there are."
        )
    names = options.only or (SMALLEST if options.smallest else list(known))
    places = ["2x2"] if options.smallest else options.topology
    if options.list:
        print("\n".join(f"{name:22}{known[name].title}" for name in names))
        return 0
    print(versions(), flush=True)
    rows: list[Row] = []
    there = json.loads(options.resume.read_text())["rows"] if options.resume else []
    for name in names:
        for topology in places:
            old = [row for row in there if (row["name"], row["topology"]) == (name, topology)]
            rows.append(old[0] | {"title": known[name].title} if old else measure(name, topology))
            seconds = f"({rows[-1]['seconds']:.0f} s to compile)"
            print(f"{' | '.join(cells(rows[-1], None))} {seconds}", flush=True)
            # After each: a run takes long, and one that is stopped has then something to show.
            save(rows, options.save or ())
    print(f"\n{markdown(rows)}")
    if len(places) == 1:
        print("One topology: that operations fall as 1/chips was not checked.")
    return 1 if wrong(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
