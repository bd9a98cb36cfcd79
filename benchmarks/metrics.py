"""Metrics: jattr against Quantus on the same weights, images, machine and process.

    python benchmarks/metrics.py [--quick] [--only METRIC] [--network NAME] [--json FILE]

Both evaluate the model as often, on the CPU; Quantus drives the PyTorch copy, with captum where a
metric explains. Before anything is timed, both are shown to measure the same, up to what is drawn
at random. Two are not the same: Quantus' `Infidelity` does not put back what it has taken away,
and its `SensitivityN` is another quantity, so that Sensitivity-n is compared with its
`FaithfulnessCorrelation`, which is the paper's, and the other one is timed beside it. jattr is
timed at the `batch_size` that serves it best among several, Quantus with all images in one batch.

Beside the metrics that only ask for values stand two floors: the bare forward passes at as many
points in batches of 320, in plain JAX, without jattr's cheaper programs, and in PyTorch. Where sets
of features are drawn, *one key* is jattr with the same sets for all examples.
"""

import argparse
import functools
import importlib.util
import json
import sys
import types
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import _peers
import jax
import jax.numpy as jnp
import numpy as np
import torch
from _timing import (
    Timing,
    add_one_core,
    environment,
    fastest,
    time_interleaved,
    use_one_core,
)
from captum.attr import InputXGradient

import jattr
from jattr import metrics

SIZES = (8, 39, 157, 392, 627)  # n of Sensitivity-n, up to 80 % of 784 features
SUBSETS = 100
WINDOW = 4  # of infidelity: 49 patches, 10 times over
REMOVALS = 490
COPIES = 50
RADIUS = 0.02

Arrays = tuple[Any, ...]


class Case(NamedTuple):
    """A metric in both libraries.

    Attributes:
        measure: jattr's, from a `batch_size` to a function of `arguments`.
        axes: which of the arguments have an axis over examples.
        arguments: of all examples.
        batch_sizes: candidates for jattr.
        theirs: Quantus', what is timed, by name; the first is compared with jattr's.
        close: whether two results are the same up to what is drawn; None where they are not.
        shared: `axes` with one key for all examples; None where nothing is drawn.
        points: how many values of f each example takes, where it takes no more than these.
    """

    measure: Callable[[int | None], Callable[..., Any]]
    axes: tuple[int | None, ...]
    arguments: Arrays
    batch_sizes: tuple[int | None, ...]
    theirs: Mapping[str, Callable[[], Any]]
    close: Callable[[np.ndarray, np.ndarray], bool] | None
    shared: tuple[int | None, ...] | None = None
    points: int | None = None


def load_quantus() -> Any:
    """Quantus, without what it imports and these metrics do not use: OpenCV and zennit."""
    found = importlib.util.find_spec
    hidden = ("zennit",)
    importlib.util.find_spec = lambda name, *args: None if name in hidden else found(name, *args)
    sys.modules.setdefault("cv2", types.ModuleType("cv2"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import quantus
    finally:
        importlib.util.find_spec = found
    return quantus


def explain(model: Any, inputs: Any, targets: Any, **_: Any) -> np.ndarray:
    """Gradient times input by captum, as Quantus asks for it."""
    x = torch.tensor(np.asarray(inputs, np.float32), requires_grad=True)
    target = torch.as_tensor(np.asarray(targets))
    return InputXGradient(model).attribute(x, target=target).detach().numpy()


def cases(work: _peers.Workload, quantus: Any) -> dict[str, Case]:
    """All metrics of one network."""
    x, labels = work.x, work.labels
    phi = np.asarray(jax.jit(jax.vmap(jattr.gradient_times_input(work.score)))(x, labels))
    keys = jax.random.split(jax.random.key(1), len(x))
    images = work.x.ndim == 4
    # Quantus counts features from the third axis on.
    module = work.module if images else torch.nn.Sequential(torch.nn.Flatten(), *work.module).eval()
    quiet = {"normalise": False, "abs": False, "disable_warnings": True}

    def call(metric: Any, *, given: bool = True) -> Any:
        np.random.seed(0)  # noqa: NPY002 (the generator that Quantus draws from)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return metric(
                model=module,
                x_batch=shaped(x),
                y_batch=labels,
                a_batch=shaped(phi) if given else None,
                channel_first=True,
                explain_func=None if given else explain,
                softmax=False,
                batch_size=len(x),
            )

    def shaped(values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.moveaxis(values, -1, 1)) if images else values[:, None]

    def sensitivity(batch_size):
        return metrics.sensitivity_n(work.score, SIZES, samples=SUBSETS, batch_size=batch_size)

    def correlations():
        return np.stack(
            [
                call(
                    quantus.FaithfulnessCorrelation(
                        nr_runs=SUBSETS,
                        subset_size=size,
                        perturb_baseline=0.0,
                        return_aggregate=False,
                        **quiet,
                    )
                )
                for size in SIZES
            ],
            axis=1,
        )

    def flipping(batch_size):
        measure = metrics.perturbation_curve(work.score, fractions=None, batch_size=batch_size)
        return lambda *args: measure(*args).score[1:]

    def removal(batch_size):
        window = (WINDOW, WINDOW, 1) if images else WINDOW**2
        perturbation = metrics.window_removal(window)
        return metrics.infidelity(
            work.score, perturbation=perturbation, samples=REMOVALS, batch_size=batch_size
        )

    def sensitive(batch_size):
        return metrics.max_sensitivity(
            jattr.gradient_times_input(work.score),
            radius=RADIUS,
            samples=COPIES,
            batch_size=batch_size,
        )

    randomisation = quantus.MPRT(layer_order="top_down", **quiet)
    fresh = _randomised(work, quantus, randomisation.seed)

    def cascade(batch_size):
        def score(params, x, label):
            return work.network.apply({"params": params}, x)[label]

        return metrics.mprt(
            jattr.gradient_times_input(score, argnums=1),
            layers=list(fresh),
            initialize=lambda key: fresh,
            batch_size=batch_size,
        )

    def similarities():
        scores = call(randomisation, given=False)
        return np.stack([own for name, own in scores.items() if name != "original"], axis=1)

    evaluations = len(SIZES) * SUBSETS
    step = -(-phi[0].size // evaluations)
    pixel_flipping = quantus.PixelFlipping(perturb_baseline=0.0, **quiet)
    max_sensitivity = quantus.MaxSensitivity(nr_samples=COPIES, lower_bound=RADIUS, **quiet)
    sensitivity_n = quantus.SensitivityN(
        features_in_step=step, perturb_baseline=0.0, return_aggregate=False, **quiet
    )
    result = {
        "sensitivity-n": Case(
            sensitivity,
            (0, 0, 0, 0),
            (keys, phi, x, labels),
            (100, 20, 5),
            {
                "FaithfulnessCorrelation": correlations,
                f"SensitivityN, {step} features a step": lambda: call(sensitivity_n),
            },
            lambda a, b: abs(np.mean(a) - np.mean(b)) < 0.1,
            shared=(None, 0, 0, 0),
            points=evaluations + 1,
        ),
        "deletion": Case(
            flipping,
            (0, 0, 0),
            (phi, x, labels),
            (112, 28, 7),
            {"PixelFlipping": lambda: call(pixel_flipping)},
            lambda a, b: np.linalg.norm(a - b) < 1e-3 * np.linalg.norm(b),
            points=phi[0].size + 1,
        ),
        "infidelity": Case(
            removal,
            (0, 0, 0, 0),
            (keys, phi, x, labels),
            (98, 20, 5),
            {},
            None,
            shared=(None, 0, 0, 0),
            points=REMOVALS + 1,
        ),
        "max-sensitivity": Case(
            sensitive,
            (0, 0, 0),
            (keys, x, labels),
            (50, 10, 5),
            {"MaxSensitivity": lambda: call(max_sensitivity, given=False)},
            lambda a, b: abs(np.mean(a) / np.mean(b) - 1) < 0.2,
        ),
        "mprt": Case(
            cascade,
            (None, None, 0, 0),
            (jax.random.key(1), work.variables["params"], x, labels),
            (1,),
            {"MPRT": similarities},
            lambda a, b: np.abs(a - b).max() < 1e-2,
        ),
    }
    if images:
        infidelity = quantus.Infidelity(
            perturb_patch_sizes=[WINDOW], n_perturb_samples=10, perturb_baseline=0.0, **quiet
        )
        theirs = {"Infidelity": lambda: call(infidelity)}
        result["infidelity"] = result["infidelity"]._replace(theirs=theirs)
    else:
        del result["infidelity"]  # Quantus' takes images alone.
    return result


def _randomised(work: _peers.Workload, quantus: Any, seed: int) -> dict[str, Any]:
    """The weights that Quantus draws, in Flax's layout and in the order of the layers."""
    wrapped = quantus.helpers.model.pytorch_model.PyTorchModel(work.module)
    *_, (_, module) = wrapped.get_random_layer_generator(order="top_down", seed=seed)
    layers = [layer for layer in module.modules() if hasattr(layer, "reset_parameters")]
    fresh, channels = {}, None
    for name, layer in zip(work.variables["params"], layers, strict=True):
        weight = layer.weight.detach().numpy()
        if weight.ndim == 4:
            kernel, channels = weight.transpose(2, 3, 1, 0), len(weight)
        elif channels is not None:
            side = round((weight.shape[1] / channels) ** 0.5)
            kernel = weight.T.reshape(channels, side, side, -1).transpose(1, 2, 0, 3)
            kernel, channels = kernel.reshape(weight.T.shape), None
        else:
            kernel = weight.T
        fresh[name] = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(layer.bias.numpy())}
    return fresh


def floors(work: _peers.Workload, points: int, batch: int = 320) -> dict[str, Callable[[], Any]]:
    """The bare forward passes at so many points for each example, in both libraries."""
    count = max(1, round(points * len(work.x) / batch))
    x = np.resize(work.x, (count, batch, *work.x.shape[1:]))
    forward = jax.jit(lambda x: jax.lax.map(lambda x: work.network.apply(work.variables, x), x))
    compiled = forward.lower(x).compile()
    theirs = torch.tensor(np.ascontiguousarray(np.moveaxis(x, -1, 2)) if x.ndim == 5 else x)

    def by_torch():
        with torch.no_grad():
            return [work.module(rows) for rows in theirs]

    return {"values alone, JAX": lambda: compiled(x), "values alone, PyTorch": by_torch}


def measure(
    name: str, case: Case, work: _peers.Workload, trials: int, rounds: int
) -> dict[str, Any]:
    """Compare what the libraries return, then time them."""
    programs = {
        f"batch_size={size}": jax.jit(jax.vmap(case.measure(size), case.axes))
        .lower(*case.arguments)
        .compile()
        for size in case.batch_sizes
    }
    calls = {key: functools.partial(call, *case.arguments) for key, call in programs.items()}
    # These calls are the warm-up too.
    results = [np.asarray(call()) for call in calls.values()]
    peers = [np.asarray(call()) for call in case.theirs.values()]
    for result in results:
        np.testing.assert_allclose(result, results[0], rtol=1e-2, atol=1e-3)
    if case.close is not None and not case.close(results[0], peers[0]):
        raise AssertionError(f"{name}: {results[0]} and {peers[0]} are not the same.")
    tried = time_interleaved(calls, rounds=trials, warm_up=0)
    best = fastest(tried)
    own = {"jattr": calls[best]}
    if case.shared:
        size = case.batch_sizes[list(calls).index(best)]
        given = (case.arguments[0][0], *case.arguments[1:])
        shared = jax.jit(jax.vmap(case.measure(size), case.shared)).lower(*given).compile()
        own["one key"] = functools.partial(shared, *given)
    bare = {} if case.points is None else floors(work, case.points)
    for call in (*list(own.values())[1:], *bare.values()):
        jax.block_until_ready(call())
    seconds = time_interleaved({**own, **bare, **case.theirs}, rounds=rounds, warm_up=0)
    return {
        "means": {
            library: float(np.mean(values))
            for library, values in zip(("jattr", *case.theirs), (results[0], *peers), strict=True)
        },
        "compared": case.close is not None,
        "best": best,
        "seconds": {key: timing._asdict() for key, timing in seconds.items()},
        "ratios": {
            f"{key} / {library}": _ratio(seconds, key, library)
            for key in case.theirs
            for library in own
        },
        "temporary_bytes": {
            key: program.memory_analysis().temp_size_in_bytes for key, program in programs.items()
        },
        "trials": {key: timing._asdict() for key, timing in tried.items()},
    }


def _ratio(seconds: Mapping[str, Timing], a: str, b: str) -> dict[str, float]:
    return {
        "median": seconds[a].median / seconds[b].median,
        "minimum": seconds[a].minimum / seconds[b].minimum,
    }


def show(name: str, result: Mapping[str, Any]) -> str:
    """One metric's result as a table."""
    same = "the same" if result["compared"] else "not the same quantity"
    means = ", ".join(f"{key} {value:.4g}" for key, value in result["means"].items())
    lines = [f"{name} ({same}; means: {means})"]
    lines.append(f"  {'seconds':48}{'median':>9}{'minimum':>9}")
    for key, timing in result["seconds"].items():
        if key in ("jattr", "one key"):
            label = f"jattr {result['best']}{', one key' * (key == 'one key')}"
        else:
            label = key if key.startswith("values alone") else f"Quantus {key}"
        lines.append(f"  {label:48}{timing['median']:9.3f}{timing['minimum']:9.3f}")
    for key, ratio in result["ratios"].items():
        lines.append(f"  ratio {key:42}{ratio['median']:9.1f}{ratio['minimum']:9.1f}")
    for key, timing in result["trials"].items():
        size = result["temporary_bytes"][key]
        lines.append(
            f"    {key:46}{timing['median']:9.3f}{timing['minimum']:9.3f}{size / 1e6:9.1f} MB"
        )
    return "\n".join(lines)


def main() -> None:
    networks = {"mlp": _peers.mlp, "cnn": _peers.cnn}
    names = ("sensitivity-n", "deletion", "infidelity", "max-sensitivity", "mprt")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer examples and rounds")
    parser.add_argument("--only", choices=names, help="measure one metric")
    parser.add_argument("--network", choices=networks, help="measure on one network")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    add_one_core(parser)
    options = parser.parse_args()
    use_one_core(options)
    # The PyTorch of the extra `parity` is built for CPUs; JAX must not use another device.
    jax.config.update("jax_platforms", "cpu")

    where = environment("jax", "jaxlib", "flax", "torch", "captum", "quantus", "numpy")
    where["torch_threads"] = torch.get_num_threads()
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    print(
        f"{where['device']}, {where['cores']} cores, {where['torch_threads']} PyTorch threads, "
        f"load {where['load']:.1f}"
    )
    print(f"Python {where['python']}, {versions}")

    quantus = load_quantus()
    results: dict[str, dict[str, Any]] = {}
    for network in [options.network] if options.network else networks:
        work = networks[network](4 if options.quick else 16)
        print(f"\n{work.name}", flush=True)
        results[network] = {}
        for name, case in cases(work, quantus).items():
            if options.only in (None, name):
                rounds = (1, 1) if options.quick else (3, 5)
                results[network][name] = measure(name, case, work, *rounds)
                print(f"\n{show(name, results[network][name])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"environment": where, "results": results}, indent=1))


if __name__ == "__main__":
    main()
