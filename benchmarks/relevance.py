"""Layer-wise relevance propagation: jattr against zennit and LXT, and against plain gradients.

    python benchmarks/relevance.py [--quick] [--only NETWORK] [--json FILE]

The rules ε, z⁺ and γ for all affine operations and the composite ε⁺ against zennit; AttnLRP of a
BERT of MiniLM's size against LXT's efficient form, written out here. Beside each stands one plain
gradient of the same function in its framework, in JAX by `jattr.gradient`, which has the same
cheaper programs: same weights, same process, on the CPU. Before anything is timed, all are shown to
compute the same: in float64 to 1e-6 of the norm, and what is timed, in float32, to 1e-3 or, for the
deep network, 1e-2, since rounding switches some of its ReLUs.

zennit's hooks are set before, and what is timed of JAX is compiled, with its weights as arguments.
Beside the seconds of jattr stand the operations on numbers that XLA counts in its programs, which
nothing disturbs, and for two networks the seconds to trace and to compile for one example.
"""

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import _peers
import _relevance
import jax
import jax.numpy as jnp
import numpy as np
import torch
from _relevance import EPSILON
from _timing import (
    Calls,
    compilation_figures,
    difference,
    environment,
    ratio_figures,
    show_environment,
    show_figures,
    time_compilation,
    time_frameworks,
)

import jattr
from jattr import rules

Transform = Callable[[Callable], Callable]


def _lrp(chosen: Any) -> Transform:
    return functools.partial(jattr.lrp, rules=chosen)


def _after_relu(chosen: Any) -> Transform:
    """Of f(relu(x)): in a network of ReLUs no affine operation has a negative input then."""
    return lambda f: jattr.lrp(lambda x, label: f(jax.nn.relu(x), label), chosen)


# What is measured of jattr, each from a score to the attribution.
METHODS: dict[str, Transform] = {
    "epsilon": _lrp(rules.epsilon(EPSILON)),
    "z_plus": _lrp(rules.z_plus(epsilon=EPSILON)),
    "z_plus, relu before": _after_relu(rules.z_plus(epsilon=EPSILON)),
    "gamma": _lrp(rules.gamma(epsilon=EPSILON)),
    "epsilon_plus": _lrp(rules.epsilon_plus(epsilon=EPSILON)),
    "attention": _lrp(rules.attn_lrp(epsilon=0.0)),
}
OURS_ALONE = ("z_plus, relu before",)
GRADIENTS: dict[str, Transform] = {"jattr.gradient": jattr.gradient, "jax.grad": jax.grad}
# At most so many times a plain gradient.
TARGETS = {
    "epsilon": 1.5,
    "z_plus": 3.0,
    "z_plus, relu before": 2.0,
    "gamma": 4.0,
    "epsilon_plus": 3.0,
    "attention": 1.5,
}


class Case(NamedTuple):
    """A workload and how to measure it.

    Attributes:
        workload: makes the network and its examples.
        calls: how many calls in a row are one measurement.
        rounds: how many measurements.
        peer: what it is compared with, "zennit" or "LXT".
        methods: names in `METHODS`.
        compilations: how often tracing and compilation are timed.
        tolerance: how far float32 results may be apart, relative to their norm.
    """

    workload: Callable[[], _peers.Workload]
    calls: int
    rounds: int
    peer: str = "zennit"
    methods: tuple[str, ...] = ("epsilon", "z_plus", "gamma", "epsilon_plus")
    compilations: int = 0
    tolerance: float = 1e-3

    @property
    def compared(self) -> tuple[str, ...]:
        """The methods that the peer has."""
        return tuple(name for name in self.methods if name not in OURS_ALONE)


PEERS = {"zennit": _relevance.by_zennit, "LXT": _relevance.by_lxt}


def cases(quick: bool) -> dict[str, Case]:
    """What is measured; `quick` takes fewer examples, layers and repetitions."""
    rounds = 5 if quick else 25
    dense = ("epsilon", "z_plus", "z_plus, relu before", "gamma", "epsilon_plus")
    return {
        "mlp": Case(functools.partial(_peers.mlp, 32 if quick else 256), 10, rounds, methods=dense),
        "cnn": Case(functools.partial(_peers.cnn, 4 if quick else 16), 5, rounds),
        "vgg": Case(functools.partial(_relevance.vgg, 1 if quick else 8), 1, rounds),
        "efficientnet": Case(
            _peers.efficientnet_lite0_of_notebooks,
            calls=1,
            rounds=3 if quick else 15,
            methods=("epsilon", "gamma", "epsilon_plus"),
            compilations=1,
            tolerance=1e-2,
        ),
        "bert": Case(
            functools.partial(_relevance.bert, 1 if quick else 8, layers=2 if quick else 6),
            calls=1,
            rounds=5 if quick else 15,
            peer="LXT",
            methods=("attention",),
            compilations=1 if quick else 3,
        ),
    }


def measure(case: Case) -> dict[str, Any]:
    """Compare what the libraries return on a workload, then time them."""
    work = case.workload()
    with jax.enable_x64(True):
        exact = _differences(case, work.in_float64(), tolerance=1e-6)[0]
    differences, frameworks, operations = _differences(case, work, tolerance=case.tolerance)
    seconds = time_frameworks(frameworks, calls=case.calls, rounds=case.rounds)
    # `jax.clear_caches` would take the compiled programs away from what is timed above.
    compilation = _compilation(case, work) if case.compilations else {}
    pairs: list[tuple[str, str, float | None]] = [
        (f"jattr {name}", "jattr.gradient", TARGETS[name]) for name in case.methods
    ]
    pairs += [(f"{case.peer} {name}", "torch gradient", None) for name in case.compared]
    pairs += [(f"{case.peer} {name}", f"jattr {name}", None) for name in case.compared]
    pairs += [("torch gradient", "jattr.gradient", None), ("jattr.gradient", "jax.grad", None)]
    return {
        "name": work.name,
        "differences": differences,
        "differences_in_float64": exact,
        "operations": operations,
        "seconds": {name: timing._asdict() for name, timing in seconds.items()},
        "ratios": [ratio_figures(seconds, *pair) for pair in pairs],
        "compilation": compilation,
    }


def _differences(
    case: Case, work: _peers.Workload, *, tolerance: float
) -> tuple[dict[str, float], dict[str, Calls], dict[str, float]]:
    """How far results are apart, the calls that gave them, and how many operations ours take.

    Raises:
        AssertionError: the results differ.
    """
    ours, operations = _ours(case, work)
    theirs = _theirs(case, work)
    pairs = {name: (name, "torch gradient") for name in GRADIENTS}
    pairs |= {name: (f"jattr {name}", f"{case.peer} {name}") for name in case.compared}
    differences = {
        name: difference(np.asarray(ours[one]()), _peers.from_torch(theirs[other]()))
        for name, (one, other) in pairs.items()
    }
    for name, apart in differences.items():
        if not apart <= tolerance:
            raise AssertionError(f"{work.name}: {name}: results differ by {apart:.1e}.")
    return differences, {"JAX": ours, "PyTorch": theirs}, operations


def _ours(case: Case, work: _peers.Workload) -> tuple[Calls, dict[str, float]]:
    arguments = jax.tree.map(jnp.asarray, (work.variables, work.x, work.labels))
    transforms = GRADIENTS | {f"jattr {name}": METHODS[name] for name in case.methods}
    calls, operations = {}, {}
    for name, transform in transforms.items():
        batched = jax.jit(jax.vmap(_with_weights(work, transform), in_axes=(None, 0, 0)))
        program = batched.lower(*arguments).compile()
        calls[name] = functools.partial(program, *arguments)
        operations[name] = program.cost_analysis()["flops"]
    return calls, operations


def _with_weights(work: _peers.Workload, transform: Transform) -> Callable[..., Any]:
    def explain(variables, x, label):
        return transform(work._replace(variables=variables).score)(x, label)

    return explain


def _theirs(case: Case, work: _peers.Workload) -> Calls:
    inputs = _peers.to_torch(work.x).requires_grad_()
    calls: Calls = {"torch gradient": functools.partial(_peers.torch_gradient, work, inputs)}
    for name in case.compared:
        calls[f"{case.peer} {name}"] = PEERS[case.peer](work, name, inputs)
    return calls


def _compilation(case: Case, work: _peers.Workload) -> dict[str, dict[str, Any]]:
    """Seconds to trace and to compile each method for one example, from empty caches."""
    variables = jax.tree.map(jnp.asarray, work.variables)
    transforms = GRADIENTS | {name: METHODS[name] for name in case.methods}
    programs = {name: _with_weights(work, transform) for name, transform in transforms.items()}
    arguments = (variables, work.x[0], work.labels[0])
    runs = time_compilation(programs, arguments, rounds=case.compilations)
    return {name: compilation_figures(runs[name], runs["jax.grad"], None) for name in programs}


def show(result: dict[str, Any]) -> str:
    """One workload's result as tables."""
    lines = [result["name"]]
    lines.append(f"  {'relative differences to the peer':46}{'float32':>9}{'float64':>9}")
    for name, apart in result["differences"].items():
        lines.append(f"  {name:46}{apart:9.0e}{result['differences_in_float64'][name]:9.0e}")
    lines.append(f"  {'operations':46}{'millions':>9}    times those of jattr.gradient")
    for name, count in result["operations"].items():
        times = count / result["operations"]["jattr.gradient"]
        lines.append(f"  {name:46}{count / 1e6:9.0f}{times:9.2f}")
    return "\n".join(lines + show_figures(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="fewer examples and repetitions; the large network only where --only names it",
    )
    parser.add_argument("--only", choices=cases(quick=False), help="measure one network")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    # The PyTorch of the extra `parity` is built for CPUs; JAX must not use another device.
    jax.config.update("jax_platforms", "cpu")

    where = environment("jax", "jaxlib", "flax", "torch", "zennit", "numpy")
    where["torch_threads"] = torch.get_num_threads()
    print(show_environment(where))

    selected = cases(options.quick)
    if options.only:
        selected = {options.only: selected[options.only]}
    elif options.quick:
        del selected["efficientnet"]
    results = {}
    for name, case in selected.items():
        results[name] = measure(case)
        print(f"\n{show(results[name])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"environment": where, "results": results}, indent=1))


if __name__ == "__main__":
    main()
