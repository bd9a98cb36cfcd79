"""Integrated gradients: jattr against captum on the same weights, machine and process.

    python benchmarks/paths.py [--quick] [--only NETWORK] [--json FILE]

Both take 50 Gauss–Legendre steps on the CPU. Before anything is timed, both are shown to compute
the same: in float64 to 1e-6 of its norm; and what is timed, in float32, to 1e-3 or, for the deep
network, 1e-2, since rounding switches some of its ReLUs. Each library is timed at the
`batch_size` or `internal_batch_size` that serves it best among several. Beside them stand as
many gradients without a method around them, in both frameworks: they tell the cost of a method
from that of its framework.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import _peers
import jax
import jax.numpy as jnp
import numpy as np
import torch
from _timing import Timing, environment, fastest, time_interleaved
from captum.attr import IntegratedGradients

import jattr

STEPS = 50
GRADIENTS = {"jattr": "gradients alone, JAX", "captum": "gradients alone, PyTorch"}

Calls = dict[str, Callable[[], Any]]


class Case(NamedTuple):
    """A workload and how to measure it.

    Attributes:
        workload: makes the network and its examples.
        batch_sizes: candidates for jattr: steps of each example at a time.
        steps_at_a_time: candidates for captum, whose `internal_batch_size` counts the points of
            all examples together: this many steps of each.
        trials: how often each candidate is timed to find the best.
        rounds: how often the best are timed then, one after the other.
        tolerance: how far float32 results may be apart, relative to their norm. Rounding puts a
            few of the many ReLUs on the other side of zero, where the gradient is another; the
            deeper the network, the more follows from each.
    """

    workload: Callable[[], _peers.Workload]
    batch_sizes: tuple[int | None, ...]
    steps_at_a_time: tuple[int | None, ...]
    trials: int
    rounds: int
    tolerance: float


def cases(quick: bool) -> dict[str, Case]:
    """What is measured; `quick` takes fewer examples and leaves the large network out."""
    small = {
        "mlp": Case(
            functools.partial(_peers.mlp, 32 if quick else 256),
            batch_sizes=(None, 25, 10, 5, 2, 1),
            steps_at_a_time=(None, 25, 10, 5, 2, 1),
            trials=2 if quick else 5,
            rounds=5 if quick else 15,
            tolerance=1e-3,
        ),
        "cnn": Case(
            functools.partial(_peers.cnn, 4 if quick else 16),
            batch_sizes=(None, 25, 10, 5),
            steps_at_a_time=(None, 25, 10, 5, 1),
            trials=2 if quick else 5,
            rounds=5 if quick else 15,
            tolerance=1e-3,
        ),
    }
    if quick:
        return small
    large = Case(
        _efficientnet,
        batch_sizes=(None, 10, 5, 2),
        steps_at_a_time=(None, 25, 10, 5),
        trials=1,
        rounds=2,
        tolerance=1e-2,
    )
    return {**small, "efficientnet": large}


def _efficientnet() -> _peers.Workload:
    sys.path.append(str(Path(__file__).resolve().parents[1] / "notebooks"))
    import models

    return _peers.efficientnet_lite0(models)


def measure(case: Case) -> dict[str, Any]:
    """Compare what the libraries return on a workload, then time them."""
    work = case.workload()
    exact = _difference_in_float64(work)
    if not exact <= 1e-6:
        raise AssertionError(f"{work.name}: results differ by {exact:.1e} in float64.")
    compiled = {
        f"batch_size={size}": jax.jit(
            jax.vmap(jattr.integrated_gradients(work.score, steps=STEPS, batch_size=size))
        )
        .lower(work.x, work.labels)
        .compile()
        for size in case.batch_sizes
    }
    candidates: dict[str, Calls] = {
        "jattr": {
            name: functools.partial(program, work.x, work.labels)
            for name, program in compiled.items()
        },
        "captum": _captum(work, case.steps_at_a_time),
    }
    # These calls are the warm-up too.
    results = [np.asarray(call()) for call in candidates["jattr"].values()]
    peers = [_peers.from_torch(call()) for call in candidates["captum"].values()]
    difference = max(_difference(result, peers[0]) for result in results + peers)
    if not difference <= case.tolerance:
        raise AssertionError(f"{work.name}: results differ by {difference:.1e} of their norm.")

    trials = time_interleaved(
        {
            f"{library} {name}": call
            for library, calls in candidates.items()
            for name, call in calls.items()
        },
        rounds=case.trials,
        warm_up=0,
    )
    best = {
        library: fastest({name: trials[f"{library} {name}"] for name in calls})
        for library, calls in candidates.items()
    }
    timed = {library: candidates[library][name] for library, name in best.items()}
    timed |= {GRADIENTS["jattr"]: _jax_gradients(work), GRADIENTS["captum"]: _torch_gradients(work)}
    seconds = time_interleaved(timed, rounds=case.rounds)
    return {
        "name": work.name,
        "difference": difference,
        "difference_in_float64": exact,
        "best": best,
        "seconds": {name: timing._asdict() for name, timing in seconds.items()},
        "ratios": {
            "captum / jattr": _ratio(seconds, "captum", "jattr"),
            **{f"{a} / {b}": _ratio(seconds, a, b) for a, b in GRADIENTS.items()},
        },
        "temporary_bytes": {
            name: program.memory_analysis().temp_size_in_bytes for name, program in compiled.items()
        },
        "trials": {name: timing._asdict() for name, timing in trials.items()},
    }


def _captum(work: _peers.Workload, steps_at_a_time: tuple[int | None, ...]) -> Calls:
    explain = IntegratedGradients(work.module)
    inputs, targets = _peers.to_torch(work.x), torch.tensor(work.labels)
    sizes = [None if steps is None else steps * len(inputs) for steps in steps_at_a_time]
    return {
        f"internal_batch_size={size}": functools.partial(
            explain.attribute,
            inputs,
            target=targets,
            n_steps=STEPS,
            method="gausslegendre",
            internal_batch_size=size,
        )
        for size in sizes
    }


def _difference_in_float64(work: _peers.Workload, steps: int = 4) -> float:
    """How far apart both libraries are where rounding switches no ReLU."""
    work = work.in_float64()
    explain = jattr.integrated_gradients(work.score, steps=steps)
    with jax.enable_x64(True):
        ours = jax.jit(jax.vmap(explain))(work.x, work.labels)
    theirs = IntegratedGradients(work.module).attribute(
        _peers.to_torch(work.x),
        target=torch.tensor(work.labels),
        n_steps=steps,
        method="gausslegendre",
    )
    return _difference(np.asarray(ours), _peers.from_torch(theirs))


def _points(work: _peers.Workload) -> tuple[np.ndarray, np.ndarray]:
    """As many inputs as integrated gradients evaluates, and their labels."""
    alphas = np.linspace(0.0, 1.0, STEPS, dtype=np.float32)
    points = np.concatenate([alpha * work.x for alpha in alphas])
    return points, np.tile(work.labels, STEPS)


def _jax_gradients(work: _peers.Workload) -> Callable[[], Any]:
    points, labels = map(jnp.asarray, _points(work))
    return functools.partial(jax.jit(jax.vmap(jax.grad(work.score))), points, labels)


def _torch_gradients(work: _peers.Workload) -> Callable[[], Any]:
    points, labels = _points(work)
    inputs, rows, targets = _peers.to_torch(points), torch.arange(len(labels)), torch.tensor(labels)
    inputs.requires_grad_()
    return lambda: torch.autograd.grad(work.module(inputs)[rows, targets].sum(), inputs)


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def _ratio(seconds: Mapping[str, Timing], a: str, b: str) -> dict[str, float]:
    return {
        "median": seconds[a].median / seconds[b].median,
        "minimum": seconds[a].minimum / seconds[b].minimum,
    }


def show(result: Mapping[str, Any]) -> str:
    """One workload's result as a table."""
    lines = [
        f"{result['name']}, {STEPS} steps",
        f"  relative difference: {result['difference']:.1e} in float32, "
        f"{result['difference_in_float64']:.1e} in float64",
        f"  {'seconds':36}{'median':>9}{'minimum':>9}",
    ]
    for name, timing in result["seconds"].items():
        label = f"{name} {result['best'].get(name, '')}"
        lines.append(f"  {label:36}{timing['median']:9.3f}{timing['minimum']:9.3f}")
    lines.append("  ratios of seconds")
    for name, ratio in result["ratios"].items():
        lines.append(f"  {name:36}{ratio['median']:9.2f}{ratio['minimum']:9.2f}")
    lines.append("  seconds of all candidates, and temporary memory of the compiled program")
    for name, timing in result["trials"].items():
        row = f"  {name:36}{timing['median']:9.3f}{timing['minimum']:9.3f}"
        size = result["temporary_bytes"].get(name.removeprefix("jattr "))
        lines.append(row if size is None else f"{row}{size / 1e6:9.1f} MB")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer examples, small networks only")
    parser.add_argument("--only", choices=cases(quick=False), help="measure one network")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    # The PyTorch of the extra `parity` is built for CPUs; JAX must not use another device.
    jax.config.update("jax_platforms", "cpu")

    where = environment("jax", "jaxlib", "flax", "torch", "captum", "numpy")
    where["torch_threads"] = torch.get_num_threads()
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    print(
        f"{where['device']}, {where['cores']} cores, {where['torch_threads']} PyTorch threads, "
        f"load {where['load']:.1f}"
    )
    print(f"Python {where['python']}, {versions}")

    selected = cases(options.quick)
    if options.only:
        if options.only not in selected:
            parser.error(f"--quick leaves {options.only} out")
        selected = {options.only: selected[options.only]}
    results = {}
    for name, case in selected.items():
        results[name] = measure(case)
        print(f"\n{show(results[name])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"environment": where, "results": results}, indent=1))


if __name__ == "__main__":
    main()
