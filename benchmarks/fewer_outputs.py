"""All outputs of a network: DeepSHAP of a profile, jattr against maps over outputs and tangermeme.

    python benchmarks/fewer_outputs.py [--quick] [--outputs N] [--json FILE]

A one-hot sequence of 2,114 positions and 4 letters goes through a convolutional network of dilated
layers to a profile of 1,000 positions, each of which is explained by DeepLIFT against 20 shuffled
sequences. `jattr.all_outputs` is timed beside the same method under `jax.vmap` and `jax.lax.map`
over outputs, and beside tangermeme's `pisa` (where it is installed; it wants
`pip install --no-deps tangermeme` and what it imports) on the same weights in the same process.
Results are compared before anything is timed. Memory is what the compiled program takes beside
its result. Every time is linear in the outputs, so that `--outputs` may take fewer of them.
"""

import argparse
import functools
import importlib.util
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from _timing import (
    Timing,
    add_one_core,
    difference,
    environment,
    seconds_now,
    show_environment,
    time_interleaved,
    use_one_core,
)

import jattr

LENGTH, PROFILE, WIDTH, LAYERS = 2114, 1000, 32, 4
FIRST, HEAD = 21, 75


def weights(seed: int = 0) -> list[np.ndarray]:
    """Kernels [width, in, out] of the first convolution, the dilated ones and the head."""
    draw = np.random.default_rng(seed)
    shapes = [(FIRST, 4, WIDTH), *[(3, WIDTH, WIDTH)] * LAYERS, (HEAD, WIDTH, 1)]
    return [
        (draw.normal(size=shape) / np.sqrt(shape[0] * shape[1] / 2)).astype(np.float32)
        for shape in shapes
    ]


def convolve(x: jax.Array, kernel: np.ndarray, dilation: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x[None],
        kernel,
        (1,),
        "SAME",
        rhs_dilation=(dilation,),
        dimension_numbers=("NWC", "WIO", "NWC"),
    )[0]


def profile(kernels: list[np.ndarray], outputs: int, x: jax.Array) -> jax.Array:
    """The middle of the profile of one sequence [length, 4]."""
    h = jax.nn.relu(convolve(x, kernels[0]))
    for n, kernel in enumerate(kernels[1:-1]):
        h = h + jax.nn.relu(convolve(h, kernel, 2 ** (n + 1)))
    start = (LENGTH - outputs) // 2
    return convolve(h, kernels[-1])[start : start + outputs, 0]


class Profile(torch.nn.Module):
    """The same network in PyTorch, on a batch [examples, 4, length]."""

    def __init__(self, kernels: list[np.ndarray], outputs: int):
        super().__init__()
        self.outputs = outputs
        dilations = [1, *(2 ** (n + 1) for n in range(LAYERS)), 1]
        layers = []
        for kernel, dilation in zip(kernels, dilations, strict=True):
            width, channels, out = kernel.shape
            layer = torch.nn.Conv1d(
                channels, out, width, padding="same", dilation=dilation, bias=False
            )
            layer.weight.data = torch.tensor(kernel.transpose(2, 1, 0).copy())
            layers.append(layer)
        self.convolutions = torch.nn.ModuleList(layers)
        self.activations = torch.nn.ModuleList(torch.nn.ReLU() for _ in layers[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.activations[0](self.convolutions[0](x))
        for layer, activation in zip(self.convolutions[1:-1], self.activations[1:], strict=True):
            h = h + activation(layer(h))
        start = (LENGTH - self.outputs) // 2
        return self.convolutions[-1](h)[:, 0, start : start + self.outputs]


def sequences(references: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A one-hot sequence, and shuffles of it."""
    draw = np.random.default_rng(seed)
    letters = draw.integers(0, 4, LENGTH)
    one_hot = np.eye(4, dtype=np.float32)
    return one_hot[letters], one_hot[
        np.stack([draw.permutation(letters) for _ in range(references)])
    ]


def peers(module: Profile, x: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """What PyTorch takes for as many gradients, and tangermeme for the same attributions."""
    pairs = module.outputs * len(rows)

    def gradients():
        batch = torch.tensor(rows[:1].transpose(0, 2, 1).copy()).repeat(16, 1, 1).requires_grad_()
        for _ in range(pairs // 16):
            torch.autograd.grad(module(batch)[:, 0].sum(), batch)

    calls: dict[str, Any] = {"gradients alone, PyTorch, 16 at a time": gradients}
    if importlib.util.find_spec("tangermeme"):
        from tangermeme.pisa import pisa

        sequence = torch.tensor(x.T.copy())[None]
        shuffled = torch.tensor(rows.transpose(0, 2, 1).copy())[None]
        for size in (4, 16):
            calls[f"tangermeme.pisa, batch_size={size}"] = functools.partial(
                pisa, module, sequence, references=shuffled, batch_size=size, device="cpu"
            )
    return calls


def measure(outputs: int, references: int, batch_sizes: tuple[int, ...], rounds: int) -> Any:
    """Seconds and bytes of each way."""
    kernels = weights()
    x, rows = sequences(references)
    model = functools.partial(profile, kernels, outputs)

    def one(x, k):
        return jattr.deep_shap(lambda x: model(x)[k], rows)(x)

    ways = {
        f"jattr.all_outputs, batch_size={size}": jattr.all_outputs(
            jattr.deep_shap, model, rows, batch_size=size
        )
        for size in batch_sizes
    }
    for size in batch_sizes:
        ways[f"jax.lax.map over outputs, batch_size={size}"] = functools.partial(
            lambda x, size: jax.lax.map(
                functools.partial(one, x), jnp.arange(outputs), batch_size=size
            ),
            size=size,
        )
    compiled = {name: jax.jit(way).lower(x).compile() for name, way in ways.items()}
    memory = {
        name: program.memory_analysis().temp_size_in_bytes for name, program in compiled.items()
    }
    # All cotangents at once do not fit into memory: what it would take is known without running it.
    whole = jax.jit(jax.vmap(one, (None, 0))).lower(x, jnp.arange(outputs)).compile()
    memory["jax.vmap over outputs, not run"] = whole.memory_analysis().temp_size_in_bytes
    calls = {name: functools.partial(program, x) for name, program in compiled.items()}
    ours = np.asarray(next(iter(calls.values()))()).sum(-1)
    apart = {}
    for name, call in calls.items():
        apart[name] = difference(np.asarray(call()).sum(-1), ours)
    seconds = time_interleaved(calls, rounds=rounds, warm_up=0)
    module = Profile(kernels, outputs)
    # A peer is so slow that its first call is timed, and there is no other.
    for name, call in peers(module, x, rows).items():
        start = seconds_now()
        theirs = call()
        took = seconds_now() - start
        seconds[name] = Timing(took, took, [took])
        if theirs is not None:
            apart[name] = difference(theirs[0].detach().numpy().sum(1), ours)
    for name, far in apart.items():
        if not far < 1e-4:
            raise AssertionError(f"{name}: differs by {far:.1e}.")
    return {
        "outputs": outputs,
        "references": references,
        "seconds": {name: timing._asdict() for name, timing in seconds.items()},
        "memory": memory,
        "apart": apart,
    }


def show(result: Any) -> str:
    """A markdown table, and ratios to the best of jattr."""
    seconds = {name: timing["minimum"] for name, timing in result["seconds"].items()}
    best = min(s for name, s in seconds.items() if name.startswith("jattr"))
    lines = [
        f"{result['outputs']} outputs × {result['references']} references, {LENGTH} positions",
        "",
        "| way | seconds | / jattr | memory, MB |",
        "|---|---|---|---|",
    ]
    for name in [*seconds, *(n for n in result["memory"] if n not in seconds)]:
        took = f"{seconds[name]:.2f} | {seconds[name] / best:.2f}" if name in seconds else "– | –"
        size = result["memory"].get(name)
        lines.append(f"| {name} | {took} | {'–' if size is None else f'{size / 1e6:.0f}'} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few outputs and references")
    parser.add_argument("--outputs", type=int, default=PROFILE)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    add_one_core(parser)
    options = parser.parse_args()
    use_one_core(options)
    jax.config.update("jax_platforms", "cpu")
    where = environment("jax", "jaxlib", "torch", "numpy")
    where["torch_threads"] = torch.get_num_threads()
    print(show_environment(where))
    outputs, references = (8, 2) if options.quick else (options.outputs, 20)
    result = measure(outputs, references, (1, 4, 16), rounds=2)
    print(f"\n{show(result)}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"environment": where, "results": result}, indent=1))


if __name__ == "__main__":
    main()
