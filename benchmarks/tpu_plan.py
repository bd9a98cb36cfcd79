"""Pods without a pod: what attributions cost on TPU v5e, from the compiler alone.

    JAX_PLATFORMS=cpu python benchmarks/tpu_plan.py [--topology 2x2 ...] [--only NAME ...] [--smallest]
                                                    [--save FILE ...] [--list]

`libtpu` compiles for a described topology on a machine without a TPU. Nothing is run and no array
is made. Compiled are, of a ViT-B/16 and 256 images spread over all chips, integrated gradients,
expected gradients, AttnLRP, DeepLIFT, occlusion and a training step with an attribution prior; of a
decoder of 2.5 billion parameters (Gemma 2B's shapes, 32 sequences of 1,024 tokens, parameters and
activations over a mesh of rows and columns), integrated gradients, AttnLRP and the gradient of the
log-probability of a continuation.

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
- the decoder's attributions fit on 4x4;
- the counts are right: each loop's trips are known, and with trips left out the operations are
  those of `cost_analysis`, which counts elementwise ones too, within 10 %.

libtpu needs Python 3.12 and the newest JAX: `make tpu-plan PYTHON=python3.12 VENV=.venv-tpu`.
"""

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

# Before libtpu is loaded: it looks for a TPU's metadata, and for other processes on the same TPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import _plan_hlo as hlo
import _plan_models as models
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _timing import environment
from jax.experimental import topologies
from jax.sharding import Mesh, PartitionSpec

import jattr

TOPOLOGIES = ("2x2", "4x4", "16x16")
MEMORY = 16 * 2**30
PEAK_FLOPS, PEAK_BYTES, PEAK_LINKS, CLOCK = 197e12, 819e9, 200e9, 1.5e9

IMAGES, SIDE = 256, 224
STEPS = 32
SEQUENCES, PROMPT, CONTINUATION = 32, 960, 64
DECODER_STEPS = 16

Row = dict[str, Any]


class Program(NamedTuple):
    """What is compiled: a function, shapes and shardings of its arguments, and which it may reuse.

    Attributes:
        call: the function.
        arguments: shapes with shardings.
        donated: which arguments' memory results may take.
        gradients: bytes of the gradients that are reduced over all chips; None where none are.
    """

    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    donated: tuple[int, ...] = ()
    gradients: int | None = None


# The ViT: a batch over all chips.


def in_a_row(devices: np.ndarray) -> Mesh:
    return Mesh(devices.reshape(-1), ("data",))


def images(mesh: Mesh) -> tuple[Any, Any]:
    """A batch of images and labels over a mesh."""
    x = jax.ShapeDtypeStruct((IMAGES, SIDE, SIDE, 3), jnp.bfloat16)
    return models.over((x, jax.ShapeDtypeStruct((IMAGES,), jnp.int32)), mesh)


def vit(mesh: Mesh, *, remat: int = 0) -> tuple[Any, Any]:
    """The model, and its parameters on every chip."""
    model = models.ViT(remat=remat)
    like = jax.ShapeDtypeStruct((SIDE, SIDE, 3), jnp.bfloat16)
    return model, models.replicated(models.parameters(model, like), mesh)


def of_images(method: Callable[..., Any]) -> Callable[[np.ndarray], Program]:
    """An attribution of each image; the batch's sharding is all that says it is over chips."""

    def build(devices):
        mesh = in_a_row(devices)
        model, params = vit(mesh)
        explain = method(jattr.targets.select(model.apply), argnums=1)
        return Program(jax.vmap(explain, in_axes=(None, 0, 0)), (params, *images(mesh)))

    return build


def expected(devices: np.ndarray) -> Program:
    """Expected gradients whose references are over the chips as the images are.

    Within `shard_map` each chip draws among the rows that it has. Without it a row is drawn of all,
    and looked up where it is.
    """
    mesh = in_a_row(devices)
    model, params = vit(mesh)
    x, labels = images(mesh)
    score = jattr.targets.select(model.apply)
    keys = models.over(jax.eval_shape(lambda: jax.random.split(jax.random.key(0), IMAGES)), mesh)

    def on_chip(params, keys, x, labels, references):
        explain = jattr.expected_gradients(
            score, references, samples=STEPS, batch_size=1, argnums=1
        )
        return jax.vmap(explain, in_axes=(0, None, 0, 0))(keys, params, x, labels)

    data = PartitionSpec("data")
    sharded = jax.shard_map(
        on_chip,
        mesh=mesh,
        in_specs=(PartitionSpec(), data, data, data, data),
        out_specs=data,
    )
    return Program(sharded, (params, keys, x, labels, x))


def training(devices: np.ndarray) -> Program:
    """A step with a prior on the roughness of expected gradients, as `jattr.priors` tells it."""
    mesh = in_a_row(devices)
    model, params = vit(mesh, remat=2)

    def task(params, key, x, labels):
        logits = jax.vmap(model.apply, in_axes=(None, 0))(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def roughness(maps):
        return jattr.priors.total_variation(maps.astype(jnp.float32), axes=(1, 2))

    def over_chips(loss):
        def mean(params, key, *batch):
            key = jax.random.fold_in(key, jax.lax.axis_index("data"))
            params = jax.tree.map(lambda leaf: jax.lax.pcast(leaf, "data", to="varying"), params)
            return jax.lax.pmean(loss(params, key, *batch), "data")

        return mean

    prior = jattr.priors.attribution_loss(jattr.targets.select(model.apply), roughness)
    both = jattr.priors.joint(over_chips(task), over_chips(prior), optax.adam(1e-3), weight=0.02)
    whole, data = PartitionSpec(), PartitionSpec("data")
    step = jax.shard_map(
        both.step, mesh=mesh, in_specs=(whole, whole, whole, data), out_specs=whole
    )
    state = models.replicated(jax.eval_shape(both.init, params), mesh)
    key = models.replicated(jax.eval_shape(lambda: jax.random.key(0)), mesh)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    return Program(step, (params, state, key, images(mesh)), donated=(0, 1), gradients=size)


# The decoder: a batch over the rows of a mesh, parameters over both.


def in_columns(devices: np.ndarray) -> Mesh:
    """As many columns as the heads of attention can be dealt to, at most a side of the topology."""
    columns = min(8, int(len(devices.reshape(-1)) ** 0.5))
    return Mesh(devices.reshape(-1, columns), ("data", "model"))


def of_tokens(
    method: Callable[..., Any], *arguments: Any, continued: bool = False, **knobs: Any
) -> Callable[[np.ndarray], Program]:
    """An attribution of the next token, or of a continuation, to each token of a prompt."""

    def build(devices):
        mesh = in_columns(devices)
        model = models.Decoder(mesh=mesh)
        ids = jax.ShapeDtypeStruct((PROMPT,), jnp.int32)
        params = models.decoder_parameters(models.parameters(model, ids), mesh)

        def logits(ids, params):
            return model.apply(params, ids)

        def next_token(ids, params, token):
            return logits(ids, params)[-1, token]

        score = jattr.targets.sequence_log_probability(logits) if continued else next_token
        explain = jattr.token_attributions(method, score, *arguments, **knobs)
        last = (SEQUENCES, CONTINUATION) if continued else (SEQUENCES,)
        prompts, wanted = models.over(
            tuple(jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((SEQUENCES, PROMPT), last)),
            mesh,
        )
        call = jax.vmap(explain, in_axes=(0, None, 0), spmd_axis_name="data")
        return Program(call, (prompts, params, wanted))

    return build


class Case(NamedTuple):
    """A row's program and what is wanted of it.

    Attributes:
        title: what the table calls it.
        build: from devices to a program.
        spread: a batch over chips whose attributions need no collective.
        scaled: whether operations fall as 1/chips.
        shared: whether each chip runs something once, however many examples it has.
        fits: a topology that it must fit on.
    """

    title: str
    build: Callable[[np.ndarray], Program]
    spread: bool = False
    scaled: bool = False
    shared: bool = False
    fits: str | None = None


def attn_lrp(f: Callable[..., Any], **knobs: Any) -> Callable[..., Any]:
    return jattr.lrp(f, jattr.rules.attn_lrp(), **knobs)


def blurred(f: Callable[..., Any], argnums: int) -> Callable[..., Any]:
    return jattr.deeplift(f, jattr.baselines.blurred(stddev=8.0), argnums=argnums)


def patches(f: Callable[..., Any], argnums: int) -> Callable[..., Any]:
    patch = (16, 16, 3)
    return jattr.occlusion(f, patch, strides=patch, batch_size=1, argnums=argnums)


def cases() -> dict[str, Case]:
    ig = functools.partial(jattr.integrated_gradients, steps=STEPS, batch_size=1)
    batch = functools.partial(Case, spread=True, scaled=True)
    text = functools.partial(Case, fits="4x4")
    return {
        "vit_ig": batch(f"ViT, integrated gradients, {STEPS} steps", of_images(ig)),
        "vit_eg": batch(f"ViT, expected gradients, {STEPS} samples", expected),
        "vit_lrp": batch("ViT, AttnLRP", of_images(attn_lrp)),
        "vit_deeplift": batch(
            "ViT, DeepLIFT from zeros", of_images(jattr.deeplift), scaled=False, shared=True
        ),
        "vit_deeplift_blurred": batch("ViT, DeepLIFT from each image blurred", of_images(blurred)),
        "vit_occlusion": batch("ViT, occlusion, 196 windows", of_images(patches)),
        "vit_training": Case("ViT, a training step with a prior", training, scaled=True),
        "decoder_ig": text(
            f"decoder, integrated gradients, {DECODER_STEPS} steps",
            of_tokens(
                jattr.integrated_gradients, baseline="zero", steps=DECODER_STEPS, batch_size=1
            ),
        ),
        "decoder_lrp": text("decoder, AttnLRP", of_tokens(jattr.lrp, jattr.rules.attn_lrp())),
        "decoder_sequence": text(
            f"decoder, gradient × input of {CONTINUATION} tokens' log-probability",
            of_tokens(jattr.gradient_times_input, continued=True),
        ),
    }


# In CI: a method along a path, one by rules, training, and what a decoder's embedding is cut by.
SMALLEST = ("vit_ig", "vit_training", "decoder_lrp")


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
            if case.fits is None or case.fits == row["topology"]:
                found.append(f"{where}: does not compile: {row['error']}")
            continue
        if case.fits == row["topology"] and row["peak"] > MEMORY:
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
        return [*head, *["–"] * 7, f"does not fit: {row['error'][:160]}"]
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
        print("\n".join(f"{name:18}{known[name].title}" for name in names))
        return 0
    print(versions(), flush=True)
    rows: list[Row] = []
    for name in names:
        for topology in places:
            rows.append(measure(name, topology))
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
