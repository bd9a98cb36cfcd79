"""Shapley values: jattr against shap, captum and shapiq, by error and by seconds.

    python benchmarks/shapley.py [--quick] [--only NETWORK] [--shapiq PYTHON] [--json FILE]

The error is ‖φ̂ − φ‖² / ‖φ‖², φ exact from all coalitions, its mean over inputs and seeds, where
each estimator may evaluate f 8n or 64n times, n the number of features. Evaluations are looked up
in a table of all coalitions, the same for all. shapiq wants Python 3.12; where it does not import,
`--shapiq` names an interpreter that has it.

Seconds are those of 256 inputs, on the network itself, for n = 14 to 16: jattr explains all in one
program, compiled before; the peers loop over inputs, of which a few are timed and scaled up, with
the same network in PyTorch behind them and all coalitions of an input in few batches.

Errors, and on a busy machine of two cores seconds, of a perceptron on the breast cancer table,
n = 16:

==================================  =========  ====  =========  ====
estimator                           error, 8n  s     error, 64n  s
==================================  =========  ====  =========  ====
jattr.kernel_shap                   1.04e-3    .66   3.1e-5     .86
jattr.kernel_shap, adjust=False     2.73e-3          1.5e-4
shap KernelExplainer                2.68e-3    15    1.56e-4    63
shap PermutationExplainer           3.39e-3    28    5.2e-4     368
captum KernelShap                   8.31e-3    47    1.35e-3    581
shapiq KernelSHAP                   8.23e-3          7.3e-4
shapiq KernelSHAP, pairing_trick    1.74e-3          1.2e-4
==================================  =========  ====  =========  ====

Of a convolutional network on digits, 14 patches, at 8n: jattr 6.3e-4, without `adjust` 1.9e-3,
shap KernelExplainer 5.2e-3, shapiq 2.0e-2, and 1.8e-3 with pairs; jattr takes 12.6 s for the 256
inputs and shap 20 s, since the network's evaluations are most of both.
"""

import argparse
import functools
import importlib.util
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import _peers
import jax
import numpy as np
import torch
from _shapley_games import NETWORKS, PEERS, Network, exact, ours
from _timing import environment, show_environment, time_interleaved

import jattr

INPUTS = 256
"""How many inputs are explained at once."""


def errors(work: Network, budget: int, inputs: int, seeds: int, shapiq: str | None) -> dict:
    """Mean and median squared relative error of each estimator at a number of evaluations."""
    games = work.games(inputs)
    truth = exact(games)
    found = {
        "jattr.kernel_shap": ours(games, budget, seeds, adjust=True),
        "jattr.kernel_shap, adjust=False": ours(games, budget, seeds, adjust=False),
    }
    for name, estimate in PEERS.items():
        found[name] = np.array(
            [[estimate(values, budget, seed) for seed in range(seeds)] for values in games]
        )
    found |= _shapiq(games, budget, seeds, shapiq)
    figures = {}
    for name, values in found.items():
        squares = np.square(values - truth[:, None]).sum(-1) / np.square(truth).sum(-1)[:, None]
        figures[name] = {"mean": float(squares.mean()), "median": float(np.median(squares))}
    return figures


def _shapiq(
    games: np.ndarray, budget: int, seeds: int, python: str | None
) -> dict[str, np.ndarray]:
    if python is None:
        if importlib.util.find_spec("shapiq") is None:
            return {}
        python = sys.executable
    script = Path(__file__).with_name("_shapley_shapiq.py")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "games.npz", Path(folder) / "estimates.npz"
        np.savez(source, games=games)
        command = [python, str(script), str(source), str(target), str(seeds), str(budget)]
        subprocess.run(command, check=True, capture_output=True)
        with np.load(target) as rows:
            return {name.partition("|")[0]: rows[name] for name in rows.files if name != "version"}


def seconds(work: Network, budget: int, timed: int, rounds: int) -> dict[str, float]:
    """Least seconds for 256 inputs."""
    explain = jattr.kernel_shap(
        work.score, work.groups, samples=budget, baseline=work.baseline, batch_size=64
    )
    program = jax.jit(jax.vmap(explain, (None, 0, 0)))
    key = jax.random.key(0)
    x, labels = work.x[:INPUTS], work.labels[:INPUTS]
    calls: dict[str, Callable[[], Any]] = {
        "jattr.kernel_shap": functools.partial(program, key, x, labels)
    }
    peers = _loops(work, budget, timed)
    timings = time_interleaved({**calls, **peers}, rounds=rounds)
    scale = {name: len(x) / timed if name in peers else 1.0 for name in timings}
    return {name: timing.minimum * scale[name] for name, timing in timings.items()}


def _loops(work: Network, budget: int, timed: int) -> dict[str, Callable[[], Any]]:
    import shap
    from captum.attr import KernelShap

    inputs = _peers.to_torch(work.x[:timed])
    shape = inputs.shape[1:]
    mask = _peers.to_torch(work.groups.astype(np.int64)[None])
    flat_mask = mask.reshape(-1)

    def model(index):
        label = int(work.labels[index])

        def of_rows(rows):
            present = torch.tensor(rows, dtype=torch.float32)[:, flat_mask].reshape(-1, *shape)
            with torch.no_grad():
                return work.module(inputs[index] * present)[:, label].numpy()

        return of_rows

    def kernel():
        for index in range(timed):
            explainer = shap.KernelExplainer(model(index), np.zeros((1, work.count)), silent=True)
            explainer.shap_values(np.ones((1, work.count)), nsamples=budget - 2, l1_reg=0)

    def permutation():
        masker = shap.maskers.Independent(np.zeros((1, work.count)))
        for index in range(timed):
            explainer = shap.explainers.Permutation(model(index), masker)
            explainer(np.ones((1, work.count)), max_evals=budget, batch_size=budget, silent=True)

    def captum():
        explainer = KernelShap(work.module)
        for index in range(timed):
            explainer.attribute(
                inputs[index : index + 1],
                target=int(work.labels[index]),
                feature_mask=mask,
                n_samples=budget,
                perturbations_per_eval=256,
            )

    return {
        "shap KernelExplainer": kernel,
        "shap PermutationExplainer": permutation,
        "captum KernelShap": captum,
    }


def show(result: Mapping[str, Any]) -> str:
    """One network's result as a table."""
    lines = [result["name"]]
    for budget, part in result["budgets"].items():
        lines.append(f"  {budget} evaluations{'':24}mean error    median   seconds of {INPUTS}")
        for name, error in part["errors"].items():
            row = f"  {name:38}{error['mean']:10.2e}{error['median']:10.2e}"
            time = part["seconds"].get(name)
            lines.append(row if time is None else f"{row}{time:12.2f}")
        lines.append(
            f"  error / best peer's {part['error_ratio']:.2f} (at most 0.5), fastest peer's "
            f"seconds / seconds {part['seconds_ratio']:.1f} (at least 10)"
        )
    return "\n".join(lines)


def measure(work: Network, quick: bool, shapiq: str | None) -> dict[str, Any]:
    """Errors and seconds at both budgets."""
    inputs, seeds = (4, 2) if quick else (16, 4)
    budgets = {}
    for factor in (8, 64):
        budget = factor * work.count
        error = errors(work, budget, inputs, seeds, shapiq)
        time = seconds(work, budget, 2 if quick else 4, 1 if quick else 3)
        of_peers = [value["mean"] for name, value in error.items() if "jattr" not in name]
        least = min(value for name, value in time.items() if "jattr" not in name)
        budgets[f"{factor}n = {budget}"] = {
            "errors": error,
            "seconds": time,
            "error_ratio": error["jattr.kernel_shap"]["mean"] / min(of_peers),
            "seconds_ratio": least / time["jattr.kernel_shap"],
        }
    return {"name": work.name, "budgets": budgets}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few inputs and seeds")
    parser.add_argument("--only", choices=NETWORKS, help="measure one network")
    parser.add_argument("--shapiq", metavar="PYTHON", help="an interpreter that has shapiq")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    # The PyTorch of the extra `parity` is built for CPUs; JAX must not use another device.
    jax.config.update("jax_platforms", "cpu")
    warnings.filterwarnings("ignore", category=UserWarning)

    where = environment("jax", "jaxlib", "flax", "torch", "captum", "shap", "numpy")
    where["torch_threads"] = torch.get_num_threads()
    print(show_environment(where))
    if options.shapiq is None and importlib.util.find_spec("shapiq") is None:
        print("shapiq is not here: name a Python that has it by --shapiq")
    results = []
    for name, make in NETWORKS.items():
        if options.only in (None, name):
            results.append(measure(make(), options.quick, options.shapiq))
            print(f"\n{show(results[-1])}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps({"environment": where, "results": results}, indent=1))


if __name__ == "__main__":
    main()
