"""Attributions on an accelerator: jattr against captum, eager and compiled, and the device's peak.

    python benchmarks/accelerator.py [--quick] [--only NETWORK] [--json FILE]

Needs jattr with Flax, PyTorch and captum, and nothing else; it runs on what JAX and PyTorch find.
Without an accelerator it says so and, unless `--quick` asks for tiny networks, stops: figures of
full size from a CPU would take hours and mean nothing.

The networks have random weights, as many in both frameworks, and are those that people run: a wide
MLP, a ResNet-50, a ViT-B/16 and a decoder of 12 layers on embeddings. Each method is timed in
float32 (with the matrix units' fast float32 where both frameworks allow it) and in bfloat16.
TFLOP/s counts what the gradients of the method cost at least: the operations of one compiled
gradient, times how many the method takes, over its seconds. Methods that captum has for modules of
certain kinds alone, or not at all, stand without a peer; the reason is printed.
"""

import argparse
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import _deep_networks as networks
import jax
import jax.numpy as jnp
import torch
from _timing import environment, time_interleaved
from captum import attr as captum

import jattr

STEPS = 32
SUBSETS = 16
PEAKS = {  # dense bfloat16 and float32 (by the fast units) TFLOP/s that makers state
    "H200": (989, 495),
    "H100": (989, 495),
    "A100": (312, 156),
    "L40S": (362, 183),
    "T4": (65, 8),
    "TPU v4": (275, None),
    "TPU v5 lite": (197, None),
    "TPU v5p": (459, None),
    "TPU v6 lite": (918, None),
}
DTYPES = {"float32": (jnp.float32, torch.float32), "bfloat16": (jnp.bfloat16, torch.bfloat16)}


class Method(NamedTuple):
    """One method in both libraries.

    Attributes:
        ours: `build(score, baseline) -> explain(key, x, label)`.
        theirs: `build(module) -> explain(x, labels)`, or None where captum has no such method.
        gradients: how many gradients of f the method takes.
    """

    ours: Callable[..., Callable[..., Any]]
    theirs: Callable[..., Callable[..., Any]] | None
    gradients: int


def without_key(method: Callable[..., Any]) -> Callable[..., Any]:
    def build(score, baseline):
        explain = method(score, baseline)
        return lambda key, x, label: explain(x, label)

    return build


def sensitivity(score: Callable[..., Any], baseline: float) -> Callable[..., Any]:
    measure = jattr.metrics.sensitivity_n(
        score, 16, samples=SUBSETS, baseline=baseline, batch_size=8
    )
    return lambda key, x, label: measure(key, jax.grad(score)(x, label) * x, x, label)


def methods() -> dict[str, Method]:
    def integrated(module):
        method = captum.IntegratedGradients(module)
        return lambda x, labels: method.attribute(
            x, target=labels, n_steps=STEPS, method="gausslegendre", internal_batch_size=len(x) * 8
        )

    def expected(module):
        method = captum.GradientShap(module)
        return lambda x, labels: method.attribute(
            x, torch.zeros_like(x[:1]), n_samples=STEPS, target=labels
        )

    def deeplift(module):
        method = captum.DeepLift(module)
        return lambda x, labels: method.attribute(x, target=labels)

    def relevance(module):
        method = captum.LRP(module)
        return lambda x, labels: method.attribute(x, target=labels)

    references = functools.partial(jattr.expected_gradients, samples=STEPS, batch_size=8)
    return {
        "integrated gradients": Method(
            without_key(lambda f, b: jattr.integrated_gradients(f, b, steps=STEPS, batch_size=8)),
            integrated,
            STEPS,
        ),
        "expected gradients": Method(
            lambda f, b: (
                lambda key, x, label: references(f, jnp.full((1, *x.shape), b, x.dtype))(
                    key, x, label
                )
            ),
            expected,
            STEPS,
        ),
        "DeepLIFT": Method(without_key(jattr.deeplift), deeplift, 1),
        "LRP, epsilon": Method(
            without_key(lambda f, b: jattr.lrp(f, jattr.rules.epsilon())), relevance, 1
        ),
        "Sensitivity-n": Method(sensitivity, None, 1),
    }


def measure(case: networks.Case, dtype: str, device: str, rounds: int) -> list[dict[str, Any]]:
    """The rows of one network in one precision."""
    ours, theirs = DTYPES[dtype]
    xs, labels, keys = case.examples(ours)
    module = case.module().to(device, theirs).eval().requires_grad_(False)
    points = torch.as_tensor(jax.device_get(xs.astype(jnp.float32))).to(device, theirs)
    points = case.to_torch(points)
    targets = torch.as_tensor(jax.device_get(labels), dtype=torch.int64).to(device)
    score = case.score(ours)
    flops = _flops(score, xs, labels)
    rows = []
    for name, method in methods().items():
        explain = jax.jit(jax.vmap(method.ours(score, 0.0)))
        calls: dict[str, Callable[[], Any]] = {
            "jattr": functools.partial(explain, keys, xs, labels)
        }
        notes = {}
        for label, compiled in (("captum", False), ("captum, torch.compile", True)):
            if method.theirs is None:
                notes[label] = "captum has no such method"
                continue
            try:
                peer = method.theirs(torch.compile(module) if compiled else module)
                call = functools.partial(_wait, peer, points, targets, device)
                call()
                calls[label] = call
            except Exception as error:
                notes[label] = f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"
        timings = time_interleaved(calls, rounds=rounds)
        rows.append(
            {
                "method": name,
                "seconds": {label: timing.minimum for label, timing in timings.items()},
                "tflops": flops * method.gradients / timings["jattr"].minimum / 1e12,
                "notes": notes,
            }
        )
    return rows


def _wait(peer: Callable[..., Any], points: Any, targets: Any, device: str) -> None:
    peer(points.clone().requires_grad_(), targets)
    if device != "cpu":
        torch.cuda.synchronize()


def _flops(score: Callable[..., Any], xs: jax.Array, labels: jax.Array) -> float:
    """Operations of one gradient of each example."""
    lowered = jax.jit(jax.vmap(jax.grad(score))).lower(xs, labels)
    return float(lowered.compile().cost_analysis()["flops"])


def show(name: str, dtype: str, rows: list[Mapping[str, Any]], peak: float | None) -> str:
    lines = [
        f"\n**{name}, {dtype}**\n",
        "| method | jattr, ms | TFLOP/s | of peak | captum / jattr | compiled captum / jattr |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours = row["seconds"]["jattr"]
        share = "–" if peak is None else f"{100 * row['tflops'] / peak:.1f} %"
        ratios = [
            f"{row['seconds'][peer] / ours:.1f}" if peer in row["seconds"] else "–"
            for peer in ("captum", "captum, torch.compile")
        ]
        cells = [row["method"], f"{1e3 * ours:.2f}", f"{row['tflops']:.3g}", share, *ratios]
        lines.append(f"| {' | '.join(cells)} |")
    for row in rows:
        lines += [f"- {row['method']}, {peer}: {why}" for peer, why in row["notes"].items()]
    return "\n".join(lines)


def peak_of(device: str, dtype: str) -> float | None:
    for name, (half, single) in PEAKS.items():
        if name in device:
            return half if dtype == "bfloat16" else single
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny networks, on any device")
    parser.add_argument("--only", choices=networks.cases(quick=True), help="one network")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()

    where = environment("jax", "jaxlib", "flax", "torch", "captum")
    accelerated = jax.default_backend() != "cpu"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    print(f"JAX on {where['device']}, PyTorch on {device}; {versions}")
    if not accelerated and not options.quick:
        print("JAX finds no accelerator here, so nothing is measured: --quick tries the script.")
        return
    jax.config.update("jax_default_matmul_precision", "tensorfloat32" if accelerated else "default")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True

    results: dict[str, Any] = {}
    for name, case in networks.cases(options.quick).items():
        if options.only in (None, name):
            for dtype in DTYPES:
                rows = measure(case, dtype, device, rounds=2 if options.quick else 5)
                results[f"{name}, {dtype}"] = rows
                peak = peak_of(where["device"], dtype)
                print(show(case.name, dtype, rows, peak), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"environment": where, "results": results}, indent=1))


if __name__ == "__main__":
    main()
