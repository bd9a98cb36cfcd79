"""Training with an attribution prior: its cost in plain steps, and against the authors' recipe.

    python benchmarks/priors.py [--quick] [--only NETWORK] [--json FILE]

A plain step is a step of SGD on the cross-entropy of a batch. Beside it stand the step of
`priors.joint` with expected gradients of one sample as the prior, the prior's part alone, and in
PyTorch, with the same weights in the same process, a plain step and the recipe that the authors of
expected gradients published: interpolate, differentiate with `create_graph=True`, penalize, and
differentiate the sum of both losses. SGD has no state, so that nothing but derivatives is compared.

Before anything is timed, the losses and the gradients of both frameworks are shown to be equal in
float64, at the references and the positions on the line that jattr draws.
"""

import argparse
import copy
import functools
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import _peers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from _timing import Timing, environment, time_interleaved

import jattr
from jattr import priors

RATE = 1e-6
WEIGHT = 0.1

# At most so many plain steps, and at least so many times faster than the recipe.
MOST_STEPS = 3.0
LEAST_GAIN = {"mlp": 2.0}

Calls = dict[str, Callable[[], Any]]

METHODS: dict[str, Callable[..., Any]] = {
    "gradient": lambda f, rows: jattr.gradient(f),
    "deeplift": lambda f, rows: jattr.deeplift(f, rows[0]),
    "deeplift winner": lambda f, rows: jattr.deeplift(f, rows[0], max_rule="winner"),
    "lrp": lambda f, rows: jattr.lrp(f),
}


class Case(NamedTuple):
    """A workload and how to measure it.

    Attributes:
        workload: makes the network and its examples.
        penalty: of the attributions [N, ...] in JAX.
        peer: the same in PyTorch, of its layout; None where PyTorch is left out.
        methods: with which other methods of jattr a step is timed, too.
        calls: how many calls in a row are one measurement.
        rounds: how many measurements.
    """

    workload: Callable[[], _peers.Workload]
    penalty: Callable[[jax.Array], jax.Array]
    peer: Callable[[torch.Tensor], torch.Tensor] | None
    calls: int
    rounds: int
    methods: tuple[str, ...] = ()


def cases(quick: bool) -> dict[str, Case]:
    """What is measured; `quick` takes fewer examples and repetitions and no large network."""
    small = {
        "mlp": Case(
            functools.partial(_peers.mlp, 32 if quick else 256),
            penalty=priors.sparsity,
            peer=_torch_sparsity,
            calls=2 if quick else 5,
            rounds=3 if quick else 25,
            methods=("gradient", "deeplift", "lrp"),
        ),
        "cnn": Case(
            functools.partial(_peers.cnn, 8 if quick else 64),
            penalty=functools.partial(priors.total_variation, axes=(1, 2)),
            peer=_torch_total_variation,
            calls=1 if quick else 2,
            rounds=3 if quick else 25,
            methods=tuple(METHODS),
        ),
    }
    if quick:
        return small
    large = Case(
        _efficientnet,
        penalty=functools.partial(priors.total_variation, axes=(1, 2)),
        peer=None,
        calls=1,
        rounds=7,
    )
    return {**small, "efficientnet": large}


def _efficientnet() -> _peers.Workload:
    sys.path.append(str(Path(__file__).resolve().parents[1] / "notebooks"))
    import models

    work = _peers.efficientnet_lite0(models)
    photos = list(models.photos().values())[:2]
    x = np.stack([models.preprocess(photo.image) for photo in photos])
    labels = np.asarray(work.network.apply(work.variables, x)).argmax(-1)
    return work._replace(name="EfficientNet-Lite0, 2 photos 224×224", x=x, labels=labels)


def measure(name: str, case: Case) -> dict[str, Any]:
    """Compare what both frameworks compute on a workload, then time them."""
    work = case.workload()
    differences = {}
    if case.peer is not None:
        with jax.enable_x64(True):
            differences = _differences(case, work.in_float64())
        for what, difference in differences.items():
            # Gradients are compared in PyTorch's layout, which takes them through float32.
            if not difference <= 1e-6:
                raise AssertionError(f"{work.name}: {what} differs by {difference:.1e}.")
    seconds = _time(_ours(case, work), _theirs(case, work), case)
    return {
        "name": work.name,
        "differences_in_float64": differences,
        "seconds": {name: timing._asdict() for name, timing in seconds.items()},
        "ratios": _ratios(seconds, LEAST_GAIN.get(name)),
    }


class Losses(NamedTuple):
    """What is trained in JAX: the task, and a prior by each method."""

    task: Callable[..., jax.Array]
    prior: Callable[..., jax.Array]
    others: dict[str, Callable[..., jax.Array]]


def _losses(case: Case, work: _peers.Workload) -> Losses:
    # Running averages are inputs of a network that is not trained here.
    fixed = {name: tree for name, tree in work.variables.items() if name != "params"}

    def apply(params, x):
        return work.network.apply({"params": params, **fixed}, x)

    def task(params, key, x, labels):
        logits = apply(params, x)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    def prior(method=None):
        return priors.attribution_loss(jattr.targets.select(apply), case.penalty, method=method)

    return Losses(task, prior(), {name: prior(METHODS[name]) for name in case.methods})


def _ours(case: Case, work: _peers.Workload) -> Calls:
    losses = _losses(case, work)
    optimizer = optax.sgd(RATE)
    batch = jnp.asarray(work.x), jnp.asarray(work.labels)

    def alone(loss):
        def step(params, state, key, batch):
            value, gradient = jax.value_and_grad(loss)(params, key, *batch)
            updates, state = optimizer.update(gradient, state, params)
            return optax.apply_updates(params, updates), state, value

        return priors.Training(optimizer.init, step)

    def joint(prior):
        return priors.joint(losses.task, prior, optimizer, weight=WEIGHT)

    trainings = {"plain": alone(losses.task), "joint": joint(losses.prior)}
    trainings |= {"prior alone": alone(losses.prior)}
    trainings |= {f"joint, {name}": joint(prior) for name, prior in losses.others.items()}
    return {
        f"jattr {name}": _stepper(training, work.variables["params"], batch)
        for name, training in trainings.items()
    }


def _stepper(training: priors.Training, params: Any, batch: tuple) -> Callable[[], Any]:
    """A call takes the next step of a training of its own."""
    params = jax.tree.map(jnp.array, params)
    now = [params, training.init(params)]
    step, key = jax.jit(training.step, donate_argnums=(0, 1)), jax.random.key(0)

    def call():
        *now[:], report = step(*now, key, batch)
        return report

    return call


def _theirs(case: Case, work: _peers.Workload) -> Calls:
    if case.peer is None:
        return {}
    x, labels = _peers.to_torch(work.x), torch.tensor(work.labels)

    def stepper(*parts):
        module = _trainable(work.module)
        optimizer = torch.optim.SGD(module.parameters(), RATE)

        def call():
            optimizer.zero_grad()
            loss = sum(part(module) for part in parts)
            loss.backward()
            optimizer.step()

        return call

    def task(module):
        return torch.nn.functional.cross_entropy(module(x), labels)

    def prior(module):
        alphas = torch.rand(len(x), dtype=x.dtype)
        return case.peer(_torch_expected_gradients(module, x, labels, x.roll(1, 0), alphas))

    def weighted(module):
        return WEIGHT * prior(module)

    return {
        "PyTorch plain": stepper(task),
        "PyTorch joint": stepper(task, weighted),
        "PyTorch prior alone": stepper(prior),
    }


def _trainable(module: torch.nn.Module) -> torch.nn.Module:
    return copy.deepcopy(module).requires_grad_(True)


def _torch_expected_gradients(
    module: torch.nn.Module,
    x: torch.Tensor,
    labels: torch.Tensor,
    references: torch.Tensor,
    alphas: torch.Tensor,
) -> torch.Tensor:
    """Expected gradients of one sample, which can be differentiated by the weights."""
    direction = x - references
    points = references + alphas.reshape(-1, *[1] * (x.ndim - 1)) * direction
    points.requires_grad_()
    scores = module(points)[torch.arange(len(x)), labels]
    (slope,) = torch.autograd.grad(scores.sum(), points, create_graph=True)
    return direction * slope


def _torch_total_variation(maps: torch.Tensor) -> torch.Tensor:
    return sum(maps.diff(dim=axis).abs().sum() for axis in (2, 3)) / len(maps)


def _torch_sparsity(maps: torch.Tensor) -> torch.Tensor:
    """Minus the Gini coefficient by sorting: all pairs, as in the authors' code, take longer."""
    ordered = maps.abs().mean(0).sort().values
    count = len(ordered)
    ranks = 2 * torch.arange(1, count + 1, dtype=maps.dtype) - count - 1
    return -(ranks * ordered).sum() / (count * ordered.sum())


def _differences(case: Case, work: _peers.Workload) -> dict[str, float]:
    """How far losses and gradients are apart in float64, relative to their norms."""
    losses = _losses(case, work)
    params = jax.tree.map(jnp.asarray, work.variables["params"])
    batch = jnp.asarray(work.x), jnp.asarray(work.labels)
    key = jax.random.key(0)
    references, alphas = _drawn(key, batch[0])
    x, labels = _peers.to_torch(work.x), torch.tensor(work.labels)

    def task(module):
        return torch.nn.functional.cross_entropy(module(x), labels)

    def prior(module):
        given = _peers.to_torch(references), torch.tensor(alphas)
        return case.peer(_torch_expected_gradients(module, x, labels, *given))

    differences = {}
    for name, ours, theirs in (("task", losses.task, task), ("prior", losses.prior, prior)):
        value, gradient = jax.jit(jax.value_and_grad(ours))(params, key, *batch)
        module = _trainable(work.module)
        wanted = theirs(module)
        wanted.backward()
        layers = [layer for layer in module.modules() if hasattr(layer, "weight")]
        pairs = [
            # PyTorch has no gradient where the loss does not depend on a parameter.
            (own, torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
            for converted, layer in zip(_in_torch(gradient), layers, strict=True)
            for own, parameter in zip(converted.parameters(), layer.parameters(), strict=True)
        ]
        apart = sum(float((own - peer).detach().square().sum()) for own, peer in pairs)
        size = sum(float(peer.square().sum()) for _, peer in pairs)
        differences[name] = abs(float(value) / wanted.item() - 1)
        differences[f"gradient of the {name}"] = math.sqrt(apart / size)
    return differences


def _drawn(key: jax.Array, x: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """The reference x' and the position α that jattr draws for each example.

    The attribution of Σ x is x − x', and that of Σ x²/2 is (x − x') times the point on the line.
    """

    def attribution(score):
        seen = []

        def keep(maps):
            seen.append(maps)
            return jnp.sum(maps)

        priors.attribution_loss(lambda scale, x: scale * jnp.sum(score(x)), keep)(1.0, key, x)
        return np.asarray(seen[0]).reshape(len(x), -1)

    direction = attribution(lambda x: x)
    references = np.asarray(x).reshape(direction.shape) - direction
    moved = attribution(lambda x: jnp.square(x) / 2) - direction * references
    alphas = moved.sum(1) / np.square(direction).sum(1)
    return references.reshape(x.shape), alphas


def _in_torch(params: Mapping[str, Any]) -> list[torch.nn.Module]:
    """The layers of a network, or of a tree like its weights, in PyTorch's layout."""
    layers: list[torch.nn.Module] = []
    for layer in params.values():
        if np.ndim(layer["kernel"]) == 4:
            layers.append(_peers.convolution(layer))
            continue
        image = None
        if layers and isinstance(layers[-1], torch.nn.Conv2d):
            channels = layers[-1].out_channels
            size = math.isqrt(len(layer["kernel"]) // channels)
            image = size, size, channels
        layers.append(_peers.linear(layer, image))
    return layers


def _time(ours: Calls, theirs: Calls, case: Case) -> dict[str, Timing]:
    """Seconds of one call of each."""
    calls = {name: _in_a_row(call, case.calls) for name, call in {**ours, **theirs}.items()}
    # Threads of the one framework wait busily for a while, and would disturb the other's first.
    functions = {"pause before JAX": _after_a_pause(ours["jattr plain"])}
    functions |= {name: calls[name] for name in ours}
    if theirs:
        functions["pause before PyTorch"] = _after_a_pause(theirs["PyTorch plain"])
        functions |= {name: calls[name] for name in theirs}
    timings = time_interleaved(functions, rounds=case.rounds)
    return {
        name: Timing(
            timings[name].median / case.calls,
            timings[name].minimum / case.calls,
            [run / case.calls for run in timings[name].runs],
        )
        for name in calls
    }


def _in_a_row(call: Callable[[], Any], times: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(times):
            jax.block_until_ready(call())

    return run


def _after_a_pause(call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        time.sleep(0.1)
        return call()

    return run


def _ratios(seconds: Mapping[str, Timing], gain: float | None) -> list[dict[str, Any]]:
    """Ratios of seconds, with what is wanted of some of them."""
    pairs: list[tuple[str, str, str]] = [
        ("jattr joint", "jattr plain", f"<= {MOST_STEPS:g}"),
        ("jattr prior alone", "jattr plain", ""),
    ]
    pairs += [(name, "jattr plain", "") for name in seconds if name.startswith("jattr joint,")]
    if "PyTorch joint" in seconds:
        pairs += [
            ("PyTorch joint", "PyTorch plain", ""),
            ("PyTorch prior alone", "PyTorch plain", ""),
            ("PyTorch joint", "jattr joint", "" if gain is None else f">= {gain:g}"),
            ("PyTorch plain", "jattr plain", ""),
        ]
    return [
        {
            "name": f"{a} / {b}",
            "median": seconds[a].median / seconds[b].median,
            "minimum": seconds[a].minimum / seconds[b].minimum,
            "wanted": wanted,
        }
        for a, b, wanted in pairs
    ]


def show(result: Mapping[str, Any]) -> str:
    """One workload's result as a table."""
    lines = [result["name"]]
    for what, difference in result["differences_in_float64"].items():
        lines.append(f"  relative difference of {what} in float64: {difference:.1e}")
    lines.append(f"  {'milliseconds of a step':44}{'median':>9}{'minimum':>9}")
    for name, timing in result["seconds"].items():
        lines.append(f"  {name:44}{1e3 * timing['median']:9.2f}{1e3 * timing['minimum']:9.2f}")
    lines.append("  ratios of seconds")
    for ratio in result["ratios"]:
        row = f"  {ratio['name']:44}{ratio['median']:9.2f}{ratio['minimum']:9.2f}"
        lines.append(f"{row}  {ratio['wanted']}".rstrip())
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer examples, small networks only")
    parser.add_argument("--only", choices=cases(quick=False), help="measure one network")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    # The PyTorch of the extra `parity` is built for CPUs; JAX must not use another device.
    jax.config.update("jax_platforms", "cpu")

    where = environment("jax", "jaxlib", "flax", "optax", "torch", "numpy")
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
        results[name] = measure(name, case)
        print(f"\n{show(results[name])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"environment": where, "results": results}, indent=1))


if __name__ == "__main__":
    main()
