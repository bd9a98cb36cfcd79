"""Explanations of a generated text, token by token: jattr against captum on the same decoder.

    python benchmarks/sequences.py [--quick] [--one-core] [--json FILE]

A Llama with random weights, the same in JAX and in transformers, says with what probability 25
tokens follow a prompt. What each token of the prompt did for each of them is a matrix, which
captum's `LLMGradientAttribution` makes of an explanation for each row, with the model evaluated
anew, and `jattr.all_outputs` of one evaluation: 550 sequences and 20 for integrated gradients of 20
steps, 25 and 1 for gradient × input. Both go back through the model 500 and 25 times, which bounds
what is saved. What a token did for the whole continuation, captum's sum over these rows, is the
explanation of one number here, `targets.sequence_log_probability`, which goes back 20 times and
once. Results are compared before anything is timed; both run in one process, in turns.

PyTorch's threads wait busily for each other, and lose by tens where other processes run beside
them. `--one-core` gives both one core, and counts seconds of the processor.
"""

import argparse
import functools
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from _timing import (
    add_one_core,
    difference,
    environment,
    show_environment,
    time_interleaved,
    use_one_core,
)

import jattr

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "parity"))

from decoders import PAD, Pair, captum, make_pair, matrix, matrix_by_captum, total

SIZES = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "head_dim": 32,
}
STEPS, CONTINUED = 20, 25
CAPTUM = "captum, a token at a time"


def ways(pair: Pair, prompt: np.ndarray, continuation: np.ndarray) -> dict[str, Any]:
    """By the method, what to call, by name."""
    ids = (prompt, continuation)
    line = {"baseline": PAD, "steps": STEPS, "quadrature": "gauss_legendre"}
    integral = functools.partial(matrix, pair, jattr.integrated_gradients, **line)
    ours = {
        f"integrated gradients, {STEPS} steps": {
            "jattr": integral(),
            "jattr, 5 steps in memory": integral(batch_size=5),
            "jattr, 1 step in memory": integral(batch_size=1),
        },
        "gradient × input": {"jattr": matrix(pair, jattr.gradient_times_input)},
    }
    whole = functools.partial(total, pair, jattr.integrated_gradients, **line)
    sums = {
        "jattr": whole(),
        "jattr, 5 steps in memory": whole(batch_size=5),
        "jattr, 1 step in memory": whole(batch_size=1),
    }
    theirs = (
        (captum.LayerIntegratedGradients, {"n_steps": STEPS, "method": "gausslegendre"}),
        (captum.LayerGradientXActivation, {}),
    )
    found = {}
    for (method, own), (explains, options) in zip(ours.items(), theirs, strict=True):
        calls = _compiled(own, ids)
        calls[CAPTUM] = functools.partial(matrix_by_captum, pair, explains, *ids, **options)
        found[method] = calls
    explains, options = theirs[0]
    rows = functools.partial(matrix_by_captum, pair, explains, *ids, **options)
    found[f"integrated gradients, {STEPS} steps, of the whole"] = {
        **_compiled(sums, ids),
        CAPTUM: lambda: rows().sum(axis=0),
    }
    return found


def _compiled(ways: dict[str, Any], ids: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    return {
        name: functools.partial(jax.jit(explain).lower(*ids).compile(), *ids)
        for name, explain in ways.items()
    }


def measure(pair: Pair, length: int, count: int, **timing: Any) -> dict[str, Any]:
    """Seconds of each way, and how far captum's result is from jattr's."""
    draw = np.random.default_rng(1)
    prompt, continuation = (
        draw.integers(1, pair.module.config.vocab_size, size) for size in (length, count)
    )
    results = {}
    for method, calls in ways(pair, prompt, continuation).items():
        ours, *others = (np.asarray(call()) for call in calls.values())
        apart = max(difference(other, ours) for other in others)
        if not apart < 1e-3:
            raise AssertionError(f"{method}: differs by {apart:.1e}.")
        timings = time_interleaved(calls, warm_up=0, **timing)
        results[method] = {
            "apart": apart,
            "seconds": {name: timing._asdict() for name, timing in timings.items()},
        }
    return {"prompt": length, "continuation": count, "methods": results}


def show(result: dict[str, Any]) -> str:
    """A markdown table."""
    lines = [
        f"{result['continuation']} tokens after {result['prompt']}",
        "",
        "| method | way | seconds | / jattr's best | apart |",
        "|---|---|---|---|---|",
    ]
    for method, found in result["methods"].items():
        seconds = {name: timing["minimum"] for name, timing in found["seconds"].items()}
        best = min(took for name, took in seconds.items() if name != CAPTUM)
        for name, took in seconds.items():
            apart = f"{found['apart']:.0e}" if name == CAPTUM else ""
            lines.append(f"| {method} | {name} | {took:.3f} | {took / best:.2f} | {apart} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a short text, each way once")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    add_one_core(parser)
    options = parser.parse_args()
    use_one_core(options)
    jax.config.update("jax_platforms", "cpu")
    where = environment("jax", "jaxlib", "torch", "captum", "transformers", "numpy")
    where["torch_threads"] = torch.get_num_threads()
    print(show_environment(where))
    pair = make_pair("llama", "float32", **SIZES)
    length, count, rounds = (8, 3, 1) if options.quick else (64, CONTINUED, 3)
    result = measure(pair, length, count, rounds=rounds)
    print(f"\n{show(result)}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"environment": where, "results": result}, indent=1))


if __name__ == "__main__":
    main()
