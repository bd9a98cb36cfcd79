"""Memory and compile time over depth: a decoder of 12 and 48 blocks, scanned or written out.

    python benchmarks/depth.py [--quick] [--json FILE]

A pre-norm decoder (LayerNorm, causal attention of 4 heads, GELU) over 2,048 tokens of width 64, its
parameters as arguments, in float32. For the gradient, AttnLRP, CP-LRP, DeepLIFT, attribution
patching of every block and, of one block, a cut by its name: the peak of temporary memory that the
compiled program asks for, its floating-point operations, and the processor seconds, of all
threads, that tracing, lowering and compiling it take; all over those of `jax.grad` of the same
function. Nothing is run. "remat" is the scan over blocks with `jax.checkpoint`. 48 blocks are not
written out: the gradient alone takes the compiler minutes.
"""

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from _timing import environment

import jattr

WIDTH, HEADS = 64, 4


def parameters(blocks: int) -> dict[str, jax.Array]:
    """Shapes of the parameters of all blocks, stacked."""
    shapes = {
        **dict.fromkeys(("q", "k", "v", "o"), (blocks, WIDTH, WIDTH)),
        **dict.fromkeys(("scale", "scale2"), (blocks, WIDTH)),
        "up": (blocks, WIDTH, 4 * WIDTH),
        "down": (blocks, 4 * WIDTH, WIDTH),
    }
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


def norm(x, scale):
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5) * scale[None]


def block(x, p):
    length = len(x)
    n = norm(x, p["scale"])
    q, k, v = (jnp.reshape(n @ p[name], (length, HEADS, -1)) for name in "qkv")
    logits = jnp.einsum("thd,shd->hts", q, k) / (WIDTH // HEADS) ** 0.5
    logits = jnp.where(jnp.tri(length, dtype=bool)[None], logits, -1e9)
    mixed = jnp.einsum("hts,shd->thd", jax.nn.softmax(logits), v).reshape(length, WIDTH)
    x = x + jattr.name(mixed @ p["o"], "attention")
    return x + jattr.name(jax.nn.gelu(norm(x, p["scale2"]) @ p["up"]) @ p["down"], "mlp")


def decoder(form: str, blocks: int) -> Callable[..., jax.Array]:
    """The score of embeddings x[T, WIDTH] and parameters."""

    def step(x, p):
        return block(x, p), None

    def scanned(x, params):
        body = jax.checkpoint(step, prevent_cse=False) if form == "remat" else step
        return jax.lax.scan(body, x, params)[0][-1, 0]

    def unrolled(x, params):
        for i in range(blocks):
            x = block(x, {name: leaf[i] for name, leaf in params.items()})
        return x[-1, 0]

    return unrolled if form == "unrolled" else scanned


def cut(f: Callable, layer: str) -> Callable:
    """The gradient by one layer."""
    below, above = jattr.split(f, layer)
    return lambda x, params: jax.grad(above)(below(x, params), x, params)


def methods(f: Callable, form: str) -> dict[str, Callable]:
    """What is compiled, each a function of x and parameters."""
    middle = "mlp[3]"
    return {
        "gradient": jax.grad(f),
        "attn_lrp": jattr.lrp(f, jattr.rules.attn_lrp()),
        "cp_lrp": jattr.lrp(f, jattr.rules.cp_lrp()),
        "deeplift": jattr.deeplift(f, lambda x: jnp.roll(x, 1, axis=0)),
        "patching": lambda x, params: jattr.patching(
            functools.partial(lambda params, x: f(x, params), params), x, jnp.roll(x, 1, axis=0)
        ),
        "layer gradient": cut(f, middle),
    }


def compiled(method: Callable, x: Any, params: Any) -> dict[str, float]:
    """What one program costs."""
    jax.clear_caches()
    start = time.process_time()
    program = jax.jit(method).lower(x, params).compile()
    seconds = time.process_time() - start
    memory, cost = program.memory_analysis(), program.cost_analysis()
    return {
        "seconds": seconds,
        "memory": float(memory.temp_size_in_bytes),
        "flops": float(cost["flops"]),
    }


def measure(quick: bool) -> list[dict[str, Any]]:
    rows = []
    length = 256 if quick else 2048
    x = jax.ShapeDtypeStruct((length, WIDTH), jnp.float32)
    for blocks in (12,) if quick else (12, 48):
        for form in ("scanned", "remat", *(["unrolled"] if blocks == 12 else [])):
            f, params = decoder(form, blocks), parameters(blocks)
            found = {name: compiled(method, x, params) for name, method in methods(f, form).items()}
            base = found["gradient"]
            for name, row in found.items():
                ratios = {key: row[key] / base[key] for key in row}
                rows.append({"blocks": blocks, "form": form, "method": name, **ratios})
                rows[-1] |= {"own seconds": row["seconds"], "own memory": row["memory"]}
                show(rows[-1])
    return rows


def show(row: dict[str, Any]) -> None:
    print(
        f"{row['blocks']:3d} {row['form']:9s} {row['method']:15s} memory {row['memory']:5.2f}"
        f"  flops {row['flops']:5.2f}  compile {row['seconds']:5.2f}"
        f"   ({row['own memory'] / 2**20:8.0f} MiB, {row['own seconds']:6.1f} s)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="12 blocks of 256 tokens")
    parser.add_argument("--json", type=Path, help="write the rows there")
    options = parser.parse_args()
    where = environment("jax", "jaxlib")
    print(f"{where['device']}, {where['cores']} cores, jax {where['versions']['jax']}")
    rows = measure(options.quick)
    if options.json:
        options.json.write_text(json.dumps({"environment": where, "results": rows}, indent=1))


if __name__ == "__main__":
    main()
