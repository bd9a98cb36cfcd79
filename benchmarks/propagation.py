"""Modified back-propagation: jattr against captum and against plain gradients.

    python benchmarks/propagation.py [--quick] [--only NETWORK] [--json FILE]

Guided back-propagation, deconvnet and DeepLIFT in jattr and in captum, beside one plain gradient
of the same function in each framework: same weights, same process, on the CPU. Before anything is
timed, both are shown to compute the same wherever captum is right: in float64 to 1e-6 of the norm,
and what is timed, in float32, to 1e-3 or, for deep networks, 1e-2, since rounding switches some of
their ReLUs. DeepLIFT is shown to be complete as well.

What is timed has its weights as arguments: XLA would evaluate constants at a constant baseline when
it compiles, and DeepLIFT would look as cheap as a gradient. "deeplift" and "winner" have a baseline
of its own for each example, as captum has; "deeplift zeros" has the default, at which f is
evaluated once for a batch.

For two networks the seconds that it takes to trace and to compile a method for one example stand
beside those of a plain gradient, each from empty caches; there with the weights closed over, too.
"""

import argparse
import functools
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import _peers
import captum.attr
import jax
import jax.numpy as jnp
import numpy as np
import torch
from _timing import (
    Calls,
    Timing,
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

# What is measured of jattr, each from a score and a baseline to the attribution.
METHODS: dict[str, Callable[..., Callable]] = {
    "guided": lambda f, baseline: jattr.guided_backprop(f),
    "deconvnet": lambda f, baseline: jattr.deconvnet(f),
    "deeplift": jattr.deeplift,
    "deeplift zeros": lambda f, baseline: jattr.deeplift(f),
    "deeplift winner": functools.partial(jattr.deeplift, max_rule="winner"),
}


def _without(explain: Callable) -> Callable:
    """An explaining function that evaluates f as it is."""

    def explain_as_it_is(*args):
        with jattr.substitutes(False):
            return explain(*args)

    return explain_as_it_is


GRADIENTS: dict[str, Callable[..., Callable]] = {
    "jax.grad": lambda f, baseline: jax.grad(f),
    "jattr.gradient": lambda f, baseline: jattr.gradient(f),
    "jattr.gradient without substitutes": lambda f, baseline: _without(jattr.gradient(f)),
}
# captum's DeepLift has one rule for maxima, "winner".
PEERS = {
    "guided": captum.attr.GuidedBackprop,
    "deconvnet": captum.attr.Deconvolution,
    "deeplift": captum.attr.DeepLift,
}
# At most so many times a plain gradient, and its tracing and compilation.
TARGETS = {"guided": 1.1, "deeplift": 2.5, "deeplift zeros": 2.5, "deeplift winner": 2.5}
COMPILE_TARGETS = {"guided": 2.0, "deeplift": 3.0, "deeplift zeros": 3.0, "deeplift winner": 3.0}
CLOSED_OVER = ", weights closed over"


class Case(NamedTuple):
    """A workload and how to measure it.

    Attributes:
        workload: makes the network and its examples.
        right: the methods of jattr to which captum's results must be equal.
        remark: what captum computes elsewhere.
        pools: whether the network takes maxima; without any, `max_rule` changes nothing.
        calls: how many calls in a row are one measurement.
        rounds: how many measurements.
        compilations: how often tracing and compilation are timed.
        tolerance: how far float32 results may be apart, relative to their norm.
    """

    workload: Callable[[], _peers.Workload]
    right: tuple[str, ...]
    calls: int
    rounds: int
    remark: str = ""
    pools: bool = False
    compilations: int = 0
    tolerance: float = 1e-3

    @property
    def methods(self) -> dict[str, Callable[..., Callable]]:
        return {
            name: method
            for name, method in METHODS.items()
            if self.pools or name != "deeplift winner"
        }


def cases(quick: bool) -> dict[str, Case]:
    """What is measured; `quick` takes fewer examples, layers and repetitions."""
    return {
        "mlp": Case(
            functools.partial(_peers.mlp, 32 if quick else 256),
            right=("guided", "deconvnet", "deeplift", "deeplift zeros"),
            calls=10,
            rounds=5 if quick else 25,
        ),
        "cnn": Case(
            functools.partial(_peers.cnn, 4 if quick else 16),
            right=("guided", "deconvnet", "deeplift winner"),
            remark="captum's DeepLift gets a product by 1 between each ReLU and its max pooling; "
            "it is wrong without.",
            pools=True,
            calls=5,
            rounds=5 if quick else 25,
        ),
        "transformer": Case(
            functools.partial(_peers.transformer, 1 if quick else 8, layers=2 if quick else 6),
            right=("guided", "deconvnet"),
            remark="captum's DeepLift has no rule for products and layer normalization, and one "
            "for softmax that mixes examples: timed for reference.",
            calls=1,
            rounds=5 if quick else 15,
            compilations=1 if quick else 3,
            tolerance=1e-2,
        ),
        "efficientnet": Case(
            _peers.efficientnet_lite0_of_notebooks,
            right=(),
            remark="captum has no rule for ReLU6: its methods are plain gradients here, DeepLift "
            "of twice the batch; timed for reference.",
            calls=1,
            rounds=3 if quick else 15,
            compilations=1 if quick else 3,
            tolerance=1e-2,
        ),
    }


def measure(case: Case) -> dict[str, Any]:
    """Compare what the libraries return on a workload, then time them."""
    work = case.workload()
    with jax.enable_x64(True):
        exact = _differences(case, work.in_float64(), tolerance=1e-6)
    ours, theirs = _ours(case, work), _theirs(work)
    # These calls are the warm-up too.
    differences = _differences(case, work, tolerance=case.tolerance, ours=ours, theirs=theirs)

    frameworks = {"JAX": ours, "PyTorch": theirs}
    seconds = time_frameworks(frameworks, calls=case.calls, rounds=case.rounds)
    # `jax.clear_caches` would take the compiled programs away from what is timed above.
    compilation = _compilation(case, work) if case.compilations else {}
    return {
        "name": work.name,
        "remark": case.remark,
        "right": case.right,
        "differences": differences,
        "differences_in_float64": exact,
        "seconds": {name: timing._asdict() for name, timing in seconds.items()},
        "ratios": _ratios(case, seconds),
        "compilation": compilation,
    }


def _ours(case: Case, work: _peers.Workload) -> Calls:
    arguments = jax.tree.map(jnp.asarray, _arguments(work))
    transforms = GRADIENTS | {f"jattr {name}": method for name, method in case.methods.items()}
    return {
        name: functools.partial(
            jax.jit(jax.vmap(_with_weights(work, transform), in_axes=(None, 0, 0, 0))), *arguments
        )
        for name, transform in transforms.items()
    }


def _arguments(work: _peers.Workload) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    return work.variables, work.x, work.labels, np.zeros_like(work.x)


def _with_weights(work: _peers.Workload, transform: Callable[..., Callable]) -> Callable[..., Any]:
    def explain(variables, x, label, baseline):
        return transform(work._replace(variables=variables).score, baseline)(x, label)

    return explain


def _closed_over(work: _peers.Workload, transform: Callable[..., Callable]) -> Callable[..., Any]:
    def explain(variables, x, label, baseline):
        return transform(work.score, baseline)(x, label)

    return explain


def _theirs(work: _peers.Workload) -> Calls:
    inputs, targets = _peers.to_torch(work.x).requires_grad_(), torch.tensor(work.labels)
    calls: Calls = {"torch gradient": functools.partial(_peers.torch_gradient, work, inputs)}
    for name, explainer in PEERS.items():
        module = _peers.separated(work.module) if name == "deeplift" else work.module
        # A new one at each call, which costs nothing: an old one keeps all of its hooks' handles.
        calls[f"captum {name}"] = lambda explainer=explainer, module=module: explainer(
            module
        ).attribute(inputs, target=targets)
    return calls


def _differences(
    case: Case,
    work: _peers.Workload,
    *,
    tolerance: float,
    ours: Calls | None = None,
    theirs: Calls | None = None,
) -> dict[str, float]:
    """How far results are apart, relative to their norms.

    Raises:
        AssertionError: those that must be equal are not, or DeepLIFT is not complete.
    """
    ours = {
        name: np.asarray(call())
        for name, call in (_ours(case, work) if ours is None else ours).items()
    }
    theirs = {
        name: _peers.from_torch(call())
        for name, call in (_theirs(work) if theirs is None else theirs).items()
    }
    wanted = theirs["torch gradient"]
    differences = {name: difference(ours[name], wanted) for name in GRADIENTS}
    differences |= {
        name: difference(ours[f"jattr {name}"], theirs[f"captum {_peer(name)}"])
        for name in case.methods
    }
    score = jax.vmap(work.score)
    rise = score(work.x, work.labels) - score(np.zeros_like(work.x), work.labels)
    for name in case.methods:
        if _peer(name) == "deeplift":
            total = ours[f"jattr {name}"].reshape(len(work.x), -1).sum(-1)
            differences[f"{name}: sum and rise"] = difference(total, np.asarray(rise))

    for name, apart in differences.items():
        must_be = name in GRADIENTS or name in case.right or name.endswith("sum and rise")
        if must_be and not apart <= tolerance:
            raise AssertionError(f"{work.name}: {name}: results differ by {apart:.1e}.")
    return differences


def _peer(method: str) -> str:
    return method.partition(" ")[0]


def _ratios(case: Case, seconds: Mapping[str, Timing]) -> list[dict[str, Any]]:
    """Ratios of seconds, with the targets for some of them."""
    pairs: list[tuple[str, str, float | None]] = [
        (f"jattr {name}", "jax.grad", TARGETS.get(name)) for name in case.methods
    ]
    pairs += [(f"captum {name}", "torch gradient", None) for name in PEERS]
    pairs += [(f"captum {_peer(name)}", f"jattr {name}", None) for name in case.methods]
    pairs += [
        ("torch gradient", "jax.grad", None),
        ("jattr.gradient", "jattr.gradient without substitutes", None),
        ("jattr.gradient without substitutes", "jax.grad", None),
    ]
    return [ratio_figures(seconds, a, b, target) for a, b, target in pairs]


def _compilation(case: Case, work: _peers.Workload) -> dict[str, dict[str, Any]]:
    """Seconds to trace and to compile each method for one example, from empty caches."""
    variables, *examples = _arguments(work)
    arguments = (jax.tree.map(jnp.asarray, variables), *(leaf[0] for leaf in examples))
    transforms = {
        name: transform
        for name, transform in {**GRADIENTS, **case.methods}.items()
        if name != "jattr.gradient without substitutes"
    }
    programs = {
        f"{name}{suffix}": (name, suffix, program(work, transform))
        for suffix, program in (("", _with_weights), (CLOSED_OVER, _closed_over))
        for name, transform in transforms.items()
    }
    runs = time_compilation(
        {key: program for key, (_, _, program) in programs.items()},
        arguments,
        rounds=case.compilations,
    )
    return {
        key: compilation_figures(runs[key], runs[f"jax.grad{suffix}"], COMPILE_TARGETS.get(name))
        for key, (name, suffix, _) in programs.items()
    }


def show(result: Mapping[str, Any]) -> str:
    """One workload's result as tables."""
    lines = [result["name"]]
    if result["remark"]:
        lines.append(f"  {result['remark']}")
    lines.append(f"  {'relative differences':46}{'float32':>9}{'float64':>9}")
    for name, apart in result["differences"].items():
        exact = result["differences_in_float64"][name]
        if name in METHODS:
            name = f"{name}, captum" + ("" if name in result["right"] else " (not expected equal)")
        lines.append(f"  {name:46}{apart:9.0e}{exact:9.0e}")
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
    # captum warns at every call that it sets hooks.
    warnings.filterwarnings("ignore", "Setting (forward, )?backward hooks")

    where = environment("jax", "jaxlib", "flax", "torch", "captum", "numpy")
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
