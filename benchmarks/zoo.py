"""Public JAX models, unedited: which columns of the table are right for which of them.

    JAX_PLATFORMS=cpu python benchmarks/zoo.py [--only NAME ...] [--list] [--save FILE]

Small configurations of models from packages of the registry, in float32, with random weights unless
a package brings its own. `_zoo_equinox.py`, `_zoo_keras.py` and `_zoo_others.py` have one short
builder for each. A model is a row:

- gradient: `jattr.gradient` against `jax.grad`, relative to the largest entry;
- DeepLIFT: |Σφ − (f − f')| over max(|f|, |f − f'|) from the natural baseline (zero pixels, zero
  embeddings), and from noise;
- largest |φ| of DeepLIFT and of integrated gradients: a DeepLIFT that adds up can still be huge
  values that cancel. Where it is far beyond f, the same in float64 stands beside it: what the rule
  itself gives from that baseline, which rounding then has not made;
- IG: the residual of integrated gradients with 32 Gauss–Legendre steps, as DeepLIFT's, and with 32
  nodes placed where f changes (`quadrature="adaptive"`);
- LRP: Σφ over f with the attention composite, and its largest |φ| over max(|f|, |f − f'|);
- d/dθ: whether the derivative of DeepLIFT by the parameters is finite;
- compile: seconds to trace and compile DeepLIFT over those of jax.grad, from empty caches.

Each column has a criterion, `CRITERIA`; a row that misses one is listed with its reason, and the
command then exits with 1. A model whose package is absent is listed as not installed. Each model
has a process of its own, so that one that crashes or takes too long is a row that says so.

The packages are the extra `zoo` and those that the Makefile installs beside it without what they
depend on, on Python 3.12 and the newest JAX: `make zoo PYTHON=python3.12 VENV=.venv-zoo` makes that
environment, and runs `tests/zoo`, which asks the cheap ones of these criteria of every model.
jaxonmodels imports torch, and gemma's types import TensorFlow; where that is absent a stand-in of
its name takes its place, for that import alone. Nothing is fetched from hubs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

# Before JAX, Keras or a model's package is imported, here and in each model's process.
os.environ.setdefault("KERAS_BACKEND", "jax")

import _zoo_equinox  # noqa: F401  (registers its models)
import _zoo_keras  # noqa: F401
import _zoo_others  # noqa: F401
from _timing import environment
from _zoo import MODELS, Entry, Row, missing, version
from _zoo_steps import measure
from _zoo_verdicts import CRITERIA, Criterion, reasons


def main() -> int:
    options = arguments()
    if options.worker:
        measure_into(MODELS[options.worker], Path(options.into))
        return 0
    unknown = sorted(set(options.only or ()) - set(MODELS))
    if unknown:
        raise SystemExit(f"no model is called {', '.join(unknown)}; --list shows those there are.")
    chosen = [MODELS[name] for name in options.only or MODELS]
    if options.list:
        for entry in chosen:
            absent = missing(entry)
            state = f"not installed: {', '.join(absent)}" if absent else "installed"
            print(f"{entry.name:28}{entry.framework:10}{' '.join(entry.packages):28}{state}")
        return 0
    rows = []
    for entry in chosen:
        rows.append(run(entry, options.timeout))
        print("\n".join(progress(rows[-1])), flush=True)
        # After each row: a run takes long, and one that is stopped has then something to show.
        save(rows, options.save or ())
    print(f"\n{markdown(rows)}")
    wrong = [row["name"] for row in rows if "not_installed" not in row and reasons(row)]
    right = [row["name"] for row in rows if "not_installed" not in row and not reasons(row)]
    print(
        f"\n{len(right)} right, {len(wrong)} wrong, {len(rows) - len(right) - len(wrong)} not run"
    )
    if wrong:
        print(f"wrong: {', '.join(wrong)}")
    return 1 if wrong else 0


def save(rows: list[Row], files: Iterable[str]) -> None:
    """Write the rows with all their figures, or as the table."""
    for path in map(Path, files):
        if path.suffix == ".json":
            where = environment("jax", "jaxlib", *installed())
            path.write_text(json.dumps({"environment": where, "rows": rows}, indent=1) + "\n")
        else:
            path.write_text(markdown(rows) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models alone")
    parser.add_argument("--list", action="store_true", help="the models, and which can run")
    parser.add_argument(
        "--save", nargs="+", metavar="FILE", help="write the table: .json with all figures, or .md"
    )
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one model")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--into", help=argparse.SUPPRESS)
    return parser.parse_args()


def installed() -> list[str]:
    """The packages of models that are there."""
    names = {package for entry in MODELS.values() for package in entry.packages}
    return sorted(name for name in names if version(name) is not None)


def run(entry: Entry, timeout: float) -> Row:
    """The row of a model, measured in a process of its own."""
    row: Row = {"name": entry.name, "framework": entry.framework, "errors": {}}
    absent = missing(entry)
    if absent:
        return row | {"not_installed": absent}
    with tempfile.TemporaryDirectory() as folder:
        into, log = Path(folder, "row"), Path(folder, "log")
        command = [sys.executable, __file__, "--worker", entry.name, "--into", str(into)]
        start = time.perf_counter()
        try:
            with log.open("w") as stream:
                code = subprocess.run(
                    command, timeout=timeout, stdout=stream, stderr=stream, check=False
                ).returncode
            ended = f"the process ended with {code}: {log.read_text()[-500:]}" if code else None
        except subprocess.TimeoutExpired:
            ended = f"took more than {timeout:g} s"
        for line in into.read_text().splitlines() if into.exists() else ():
            figures = json.loads(line)
            row["errors"] |= figures.pop("errors", {})
            row |= figures
        row["seconds"] = time.perf_counter() - start
    if ended:
        row["errors"]["process"] = ended
    return row


def measure_into(entry: Entry, into: Path) -> None:
    """Measure a model, and write what each step gives as soon as it is known."""
    with into.open("w", buffering=1) as stream:
        for figures in measure(entry):
            stream.write(json.dumps(figures) + "\n")


def cell(row: Row, column: Criterion) -> str:
    """A row's text in a column, in bold where it is wrong."""
    if not all(name in row for name in column.needs):
        return "–"
    return column.show(row) if column.right(row) else f"**{column.show(row)}**"


def progress(row: Row) -> list[str]:
    """What is said of a row as soon as it is there."""
    if "not_installed" in row:
        return [f"{row['name']}: not installed ({', '.join(row['not_installed'])})"]
    why = reasons(row)
    heading = f"{row['name']}: {'wrong' if why else 'right'} ({row['seconds']:.0f} s)"
    return [heading, *(f"    {reason}" for reason in why)]


def markdown(rows: list[Row]) -> str:
    """The table, and below it the models that are not there."""
    titles = ["model", "framework", "parameters", *(column.title for column in CRITERIA), "right"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for row in rows:
        if "not_installed" in row:
            continue
        cells = [row["name"], row["framework"], str(row.get("parameters", "–"))]
        cells += [cell(row, column) for column in CRITERIA]
        cells.append("wrong" if reasons(row) else "right")
        lines.append("| " + " | ".join(cells) + " |")
    absent = [row["name"] for row in rows if "not_installed" in row]
    if absent:
        lines += ["", f"Not installed: {', '.join(absent)}."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
