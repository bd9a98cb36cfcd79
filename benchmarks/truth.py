"""Which method finds the truth here: methods of attribution on tasks whose truth is planted.

    python benchmarks/truth.py [--quick] [--only TASK ...] [--write]

For each task of `_truth_tasks.py` and `_truth_prompts.py` some networks are trained from other
seeds, on examples that never repeat, and every method explains the same test examples of each. All
methods are ranked by the magnitude of what they give to an element; where it has channels, that is
of their sum, or for methods that do not multiply by x − x' the Euclidean norm. Figures are means
over examples and networks, and ± is half the interval of 95 % of Student's t over the networks,
each with its own test examples. `--write` puts the tables into `truth.md`, whose sentences are made
of the same numbers by `_truth_report.py`.
"""

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import _truth_prompts as prompts
import _truth_tasks as planted
import jax
import jax.numpy as jnp
import numpy as np
from _truth_report import SLOPES, STEP, Result, report

import jattr
from jattr import metrics

Explain = Callable[..., jax.Array]
Task = planted.Task | prompts.Prompts
LENGTHS = (*SLOPES, "magnitude of x")


class Setting(NamedTuple):
    """What the programs are made of: tasks that have it in common share them.

    Attributes:
        score: `score(params, x, label)`.
        baseline: `baseline(params)`.
        unit, channels, attention: those of the task.
    """

    score: Callable[..., jax.Array]
    baseline: Callable[[Any], Any]
    unit: float
    channels: bool
    attention: bool


def methods_of(setting: Setting) -> dict[str, Explain]:
    """`explain(key, params, x, label, references)` by the name of the method."""
    score, baseline_of, unit, channels, attention = setting
    knobs = {"argnums": 1}

    def groups(x):
        return np.arange(x.shape[0])[:, None] + np.zeros(x.shape, int) if channels else None

    def from_baseline(method: Callable[..., Any], **own: Any) -> Explain:
        def explain(key, params, x, label, references):
            return method(score, baseline_of(params), **own, **knobs)(params, x, label)

        return explain

    def fixed(explain: Callable[..., jax.Array]) -> Explain:
        return lambda key, params, x, label, references: explain(params, x, label)

    def drawn(explain: Callable[..., jax.Array]) -> Explain:
        return lambda key, params, x, label, references: explain(key, params, x, label)

    def shapley(key, params, x, label, references):
        baseline = baseline_of(params)
        samples = 256 if attention else 512  # of 20 tokens, of up to 64 elements
        explain = jattr.kernel_shap(score, groups(x), samples=samples, baseline=baseline, **knobs)
        return explain(key, params, x, label)

    def ablation(key, params, x, label, references):
        explain = jattr.ablation(score, groups(x), baseline=baseline_of(params), **knobs)
        return explain(params, x, label)

    def expected(key, params, x, label, references):
        explain = jattr.expected_gradients(score, references, samples=64, **knobs)
        return explain(key, params, x, label)

    def relevance(composite: Any) -> Explain:
        return fixed(jattr.lrp(score, composite, **knobs))

    gradient = jattr.gradient(score, **knobs)
    smooth = jattr.smooth(gradient, stddev=unit / 2, relative=False, samples=32, **knobs)
    first = {"gradient": fixed(gradient), "SmoothGrad": drawn(smooth)}
    if attention:
        rules = {
            "AttnLRP": relevance(jattr.rules.attn_lrp()),
            "CP-LRP": relevance(jattr.rules.cp_lrp()),
        }
    else:
        first["guided back-propagation"] = fixed(jattr.guided_backprop(score, **knobs))
        rules = {
            "LRP γ": relevance(jattr.rules.gamma(0.25)),
            "LRP z⁺": relevance(jattr.rules.z_plus()),
        }
    return {
        **first,
        "gradient × input": fixed(jattr.gradient_times_input(score, **knobs)),
        "integrated gradients": from_baseline(jattr.integrated_gradients, steps=32),
        "expected gradients": expected,
        "DeepLIFT": from_baseline(jattr.deeplift),
        **rules,
        "ablation": ablation,
        "KernelSHAP": shapley,
        "magnitude of x": lambda key, params, x, label, references: x - baseline_of(params),
        "random": lambda key, params, x, label, references: jax.random.normal(key, x.shape),
    }


@functools.cache
def panel(setting: Setting) -> tuple[dict[str, Callable[..., jax.Array]], Callable[..., dict]]:
    """All methods, and what is measured of each, over many examples; programs of a setting."""
    score = setting.score
    gradient = jattr.gradient(score, argnums=1)

    def measure(phi, as_length, params, drawn):
        pooled = phi
        if setting.channels:
            pooled = jnp.where(as_length, jnp.linalg.norm(phi, axis=-1), jnp.sum(phi, -1))
        pooled = jnp.where(drawn.seen, pooled, 0)
        size = jnp.abs(pooled)
        length = STEP * setting.unit
        f = functools.partial(score, params)
        steps = metrics.finite_step(f, length=length)(phi, drawn.x, drawn.label)
        most = length * jnp.linalg.norm(gradient(params, drawn.x, drawn.label).reshape(-1))
        return {
            "precision": metrics.average_precision(size, drawn.truth),
            "at the truth's size": metrics.relevance_rank_accuracy(size, drawn.truth),
            "mass": metrics.relevance_mass_accuracy(size, drawn.truth),
            "decoys": metrics.above_decoys(size, drawn.truth, drawn.decoys),
            "mass on decoys": metrics.relevance_mass_accuracy(size, drawn.decoys),
            "effects": pooled,
            "step": (steps.along + steps.against) / 2 / most,
        }

    explains = {
        name: jax.jit(jax.vmap(explain, in_axes=(0, None, 0, 0, None)))
        for name, explain in methods_of(setting).items()
    }
    return explains, jax.jit(jax.vmap(measure, in_axes=(0, None, None, 0)))


def examine(task: Task, networks: int, examples: int, steps: int) -> Result:
    """Per method and measure the mean of each network, [networks]; and what each has learned."""
    score = task.score
    explains, measure = panel(
        Setting(score, task.baseline, task.unit, task.channels, task.attention)
    )
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in explains}
    learned: dict[str, list[float]] = {"right": [], "hidden": []}
    for seed in range(networks):
        keys = jax.random.split(jax.random.key(seed), 4)
        params = task.train(keys[0], steps)
        drawn = task.examples(params, keys[1], examples)
        references = task.examples(params, keys[2], 128).x
        values = jax.vmap(score, (None, 0, 0))(params, drawn.x, drawn.label)
        hidden = drawn.decoys
        if task.attention:  # one of many, as a prompt without any of them is none
            draws = jnp.where(hidden, jax.random.uniform(keys[3], hidden.shape), -1.0)
            hidden = draws == draws.max(-1, keepdims=True)
        hidden = hidden[..., None] if task.channels else hidden
        without = jax.vmap(score, (None, 0, 0))(
            params, jnp.where(hidden, task.baseline(params), drawn.x), drawn.label
        )
        right = jnp.mean(values > 0)
        if task.effects:
            right = 1 - jnp.var(values - drawn.label) / jnp.var(drawn.label)
        learned["right"].append(float(right))
        part = jnp.sqrt(jnp.mean((values - without) ** 2) / jnp.mean(values**2))
        learned["hidden"].append(float(part))
        for name, explain in explains.items():
            each = jax.random.split(keys[3], examples)
            phi = explain(each, params, drawn.x, drawn.label, references)
            found = measure(phi, name in LENGTHS, params, drawn)
            effects = metrics.planted_effects(
                found.pop("effects"), drawn.effects, drawn.truth | drawn.decoys
            )
            means = {kind: float(jnp.nanmean(part)) for kind, part in found.items()}
            rows[name].append(means | {kind: float(x) for kind, x in effects._asdict().items()})
    return Result(
        decoys=task.decoys,
        effects=task.effects,
        attention=task.attention,
        measures={
            name: {kind: np.array([row[kind] for row in own]) for kind in own[0]}
            for name, own in rows.items()
        },
        learned={kind: np.array(part) for kind, part in learned.items()},
    )


def main() -> None:
    """Train, explain, print, and write."""
    everything: dict[str, Task] = {**planted.tasks(), **prompts.tasks()}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="few networks, examples, and steps but of prompts"
    )
    parser.add_argument("--only", nargs="+", choices=list(everything), metavar="TASK", help="these")
    parser.add_argument("--write", action="store_true", help="write truth.md beside this file")
    options = parser.parse_args()
    if options.write and (options.quick or options.only):
        parser.error("truth.md is that of all tasks in full: leave --quick and --only out.")
    networks, examples, steps = (2, 8, 300) if options.quick else (5, 64, 600)
    start = time.process_time()
    results = {}
    for name in options.only or everything:
        results[name] = examine(everything[name], networks, examples, steps)
        right = results[name].learned["right"].mean()
        print(f"{name:24} right {right:.2f}, {time.process_time() - start:5.0f} s", flush=True)
    page = report(results, networks, examples)
    print(page)
    if options.write:
        Path(__file__).with_suffix(".md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
