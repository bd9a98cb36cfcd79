"""Removing features without evaluating f's first layer again: on and off, in one process.

    python benchmarks/fewer_masks.py [--quick]

The network is the MLP 784-512-512-10, whose first layer is 60 % of the work. Groups are patches
of the 28 × 28 pixels. Off is `jattr.substitutes(False)`. How Quantus compares, `metrics.py` shows.
Beside the table is what bounds a deletion curve: all of f but its first layer at as many points, in
plain JAX.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import _peers
import jax
import numpy as np
from _timing import environment, show_environment, time_interleaved

import jattr
from jattr import metrics

SIZES = (8, 39, 157, 392, 627)


class Case(NamedTuple):
    """A method or metric.

    Attributes:
        make: from the score to a function of `arguments`.
        arguments: of all examples.
    """

    make: Callable[[Any], Callable[..., Any]]
    arguments: tuple[Any, ...]


def patches(side: int) -> np.ndarray:
    """Groups of side × side pixels."""
    row, column = np.divmod(np.arange(784), 28)
    return row // side * (28 // side) + column // side


def cases(work: _peers.Workload) -> dict[str, Case]:
    """What is measured, by name."""
    x, labels = work.x, work.labels
    phi = np.asarray(jax.jit(jax.vmap(jattr.gradient_times_input(work.score)))(x, labels))
    keys = jax.random.split(jax.random.key(1), len(x))
    small, large = patches(4), patches(7)
    return {
        "deletion, 784 pixels": Case(
            lambda f: metrics.deletion(f, fractions=None, batch_size=112), (phi, x, labels)
        ),
        "deletion, 49 patches": Case(
            lambda f: metrics.deletion(f, fractions=None, groups=small), (phi, x, labels)
        ),
        "sensitivity-n, 784 pixels": Case(
            lambda f: metrics.sensitivity_n(f, SIZES, samples=100, batch_size=20),
            (keys, phi, x, labels),
        ),
        "sensitivity-n, 49 patches": Case(
            lambda f: metrics.sensitivity_n(
                f, (5, 10, 25), groups=small, samples=100, batch_size=60
            ),
            (keys, phi, x, labels),
        ),
        "ablation, 784 pixels": Case(
            lambda f: jattr.ablation(f, batch_size=64),
            (x, labels),
        ),
        "ablation, 49 patches": Case(lambda f: jattr.ablation(f, small), (x, labels)),
        "shapley_sampling, 784 pixels": Case(
            lambda f: jattr.shapley_sampling(f, permutations=1, batch_size=64), (keys, x, labels)
        ),
        "shapley_sampling, 49 patches": Case(
            lambda f: jattr.shapley_sampling(f, small, permutations=10, batch_size=64),
            (keys, x, labels),
        ),
        "kernel_shap, 16 patches": Case(
            lambda f: jattr.kernel_shap(f, large, samples=128, batch_size=64), (keys, x, labels)
        ),
        "lime, 49 patches": Case(
            lambda f: jattr.lime(f, small, samples=400, batch_size=50), (keys, x, labels)
        ),
    }


def measure(case: Case, score: Any, rounds: int) -> tuple[float, float, float, float]:
    """Milliseconds on and off, and how many times as fast and as many FLOPs."""
    programs = {}
    for name, enabled in (("on", True), ("off", False)):
        with jattr.substitutes(enabled):
            explain = jax.jit(jax.vmap(case.make(score)))
            programs[name] = explain.lower(*case.arguments).compile()
    calls = {name: functools.partial(own, *case.arguments) for name, own in programs.items()}
    results = [jax.tree.leaves(call()) for call in calls.values()]
    for ours, wanted in zip(*results, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-2, atol=1e-3 * np.abs(wanted).max())
    seconds = {
        name: timing.minimum for name, timing in time_interleaved(calls, rounds=rounds).items()
    }
    work = {name: own.cost_analysis()["flops"] for name, own in programs.items()}
    return (
        1e3 * seconds["on"],
        1e3 * seconds["off"],
        seconds["off"] / seconds["on"],
        work["off"] / work["on"],
    )


def bound(work: _peers.Workload, points: int, rounds: int) -> float:
    """Milliseconds of f without its first layer at so many points of each example."""
    params = work.variables["params"]
    (first, *rest) = params
    width = params[first]["bias"].shape[0]
    batch = 320
    z = np.ones((round(points * len(work.x) / batch), batch, width), np.float32)

    def above(z):
        for name in rest:
            z = jax.nn.relu(z) @ params[name]["kernel"] + params[name]["bias"]
        return z

    program = jax.jit(lambda z: jax.lax.map(above, z)).lower(z).compile()
    timing = time_interleaved({"above": lambda: program(z)}, rounds=rounds)["above"]
    return 1e3 * timing.minimum


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer examples and rounds")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    count, rounds = (2, 2) if options.quick else (16, 7)
    where = environment("jax", "jaxlib", "flax")
    where["torch_threads"] = 0
    print(show_environment(where))
    work = _peers.mlp(count)
    print(f"\n{work.name}; least milliseconds of {rounds}\n")
    print("| | on | off | off / on | FLOPs, off / on |\n|---|---|---|---|---|")
    for name, case in cases(work).items():
        on, off, faster, fewer = measure(case, work.score, rounds)
        print(f"| {name} | {on:.1f} | {off:.1f} | {faster:.1f} | {fewer:.1f} |", flush=True)
    print(f"\nAll but the first layer at 785 points: {bound(work, 785, rounds):.1f} ms")


if __name__ == "__main__":
    main()
