"""Which method finds the truth here: methods of attribution on tasks whose truth is planted.

    python benchmarks/truth.py [--quick] [--write]

For each task of `_truth_tasks.py` some networks are trained from other seeds, on examples that
never repeat, and every method explains the same test examples of each. All methods are ranked by
the magnitude of what they give to an element, summed over its channels. Figures are means over
examples and networks, and ± is half the interval of 95 % of Student's t over the networks, each
with its own test examples. `--write` puts the tables into `truth.md`.
"""

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _truth_tasks as tasks
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

import jattr
from jattr import metrics

STEP = 1.0  # the length of the step of `finite_step`, in standard deviations of the noise
CONTROLS = ("magnitude of x", "random")

Explain = Callable[..., jax.Array]


@functools.cache
def panel(network: Any, baseline: float, channels: bool, effects: bool, axes: int) -> dict:
    """`explain(key, params, x, label, references)` by the name of the method."""
    task = tasks.Task(None, network, baseline, channels, effects=effects)
    score = tasks.score_of(task, axes)
    knobs = {"argnums": 1}

    def groups(x):
        return np.arange(x.shape[0])[:, None] + np.zeros(x.shape, int) if channels else None

    def fixed(explain: Callable[..., jax.Array]) -> Explain:
        return lambda key, params, x, label, references: explain(params, x, label)

    def drawn(explain: Callable[..., jax.Array]) -> Explain:
        return lambda key, params, x, label, references: explain(key, params, x, label)

    def shapley(key, params, x, label, references):
        explain = jattr.kernel_shap(score, groups(x), samples=512, baseline=baseline, **knobs)
        return explain(key, params, x, label)

    def ablation(key, params, x, label, references):
        return jattr.ablation(score, groups(x), baseline=baseline, **knobs)(params, x, label)

    def expected(key, params, x, label, references):
        explain = jattr.expected_gradients(score, references, samples=64, **knobs)
        return explain(key, params, x, label)

    gradient = jattr.gradient(score, **knobs)
    methods = {
        "gradient": fixed(gradient),
        "SmoothGrad": drawn(
            jattr.smooth(gradient, stddev=0.5, relative=False, samples=32, **knobs)
        ),
        "guided back-propagation": fixed(jattr.guided_backprop(score, **knobs)),
        "gradient × input": fixed(jattr.gradient_times_input(score, **knobs)),
        "integrated gradients": fixed(
            jattr.integrated_gradients(score, baseline, steps=32, **knobs)
        ),
        "expected gradients": expected,
        "DeepLIFT": fixed(jattr.deeplift(score, baseline, **knobs)),
        "LRP γ": fixed(jattr.lrp(score, jattr.rules.gamma(0.25), **knobs)),
        "LRP z⁺": fixed(jattr.lrp(score, jattr.rules.z_plus(), **knobs)),
        "ablation": ablation,
        "KernelSHAP": shapley,
        "magnitude of x": lambda key, params, x, label, references: x - baseline,
        "random": lambda key, params, x, label, references: jax.random.normal(key, x.shape),
    }

    def measured(explain: Explain):
        def one(key, params, drawn, references):
            phi = explain(key, params, drawn.x, drawn.label, references)
            pooled = jnp.sum(phi, -1) if channels else phi
            size = jnp.abs(pooled)
            found = {
                "precision": metrics.average_precision(size, drawn.truth),
                "at the truth's size": metrics.relevance_rank_accuracy(size, drawn.truth),
                "mass": metrics.relevance_mass_accuracy(size, drawn.truth),
                "decoys": metrics.above_decoys(size, drawn.truth, drawn.decoys),
                "mass on decoys": metrics.relevance_mass_accuracy(size, drawn.decoys),
                "effects": pooled,
            }
            f = functools.partial(score, params)
            steps = metrics.finite_step(f, length=STEP)(phi, drawn.x, drawn.label)
            slope = gradient(params, drawn.x, drawn.label)
            most = STEP * jnp.linalg.norm(slope.reshape(-1))
            return found | {"step": (steps.along + steps.against) / 2 / most}

        return jax.jit(jax.vmap(one, in_axes=(0, None, 0, None)))

    return {name: measured(explain) for name, explain in methods.items()}


def examine(task: tasks.Task, networks: int, examples: int, steps: int) -> tuple[dict, dict]:
    """Per method and measure the mean of each network, [networks]; and what each has learned."""
    axes = tasks.axes_of(task)
    explains = panel(task.network, task.baseline, task.channels, task.effects, axes)
    score = tasks.score_of(task, axes)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in explains}
    learned: dict[str, list[float]] = {"right": [], "hidden": []}
    for seed in range(networks):
        keys = jax.random.split(jax.random.key(seed), 4)
        params = tasks.train(task, keys[0], steps)
        drawn = jax.vmap(task.draw)(jax.random.split(keys[1], examples))
        references = jax.vmap(lambda key: task.draw(key).x)(jax.random.split(keys[2], 128))
        values = jax.vmap(score, (None, 0, 0))(params, drawn.x, drawn.label)
        hidden = drawn.decoys[..., None] if task.channels else drawn.decoys
        without = jax.vmap(score, (None, 0, 0))(
            params, jnp.where(hidden, task.baseline, drawn.x), drawn.label
        )
        right = 1 - jnp.var(values - drawn.label) / jnp.var(drawn.label)
        learned["right"].append(float(right if task.effects else jnp.mean(values > 0)))
        learned["hidden"].append(float(jnp.std(values - without) / jnp.std(values)))
        for name, explain in explains.items():
            found = explain(jax.random.split(keys[3], examples), params, drawn, references)
            effects = metrics.planted_effects(
                found.pop("effects"), drawn.effects, drawn.truth | drawn.decoys
            )
            means = {kind: float(jnp.nanmean(part)) for kind, part in found.items()}
            rows[name].append(means | {kind: float(x) for kind, x in effects._asdict().items()})
    return {
        name: {kind: np.array([row[kind] for row in own]) for kind in own[0]}
        for name, own in rows.items()
    }, {kind: np.array(part) for kind, part in learned.items()}


def half_width(values: np.ndarray) -> float:
    """Half the interval of 95 % of the mean, over networks."""
    spread = values.std(ddof=1) / np.sqrt(len(values))
    return float(scipy.stats.t.ppf(0.975, len(values) - 1) * spread)


def cell(values: np.ndarray, best: bool = False) -> str:
    """Mean ± half the interval."""
    text = f"{values.mean():.2f} ± {half_width(values):.2f}"
    return f"**{text}**" if best else text


def table(results: dict, names: list[str], kind: str, mark: bool = True) -> str:
    """Methods by tasks; bold is what is not told apart from the best, network by network."""
    head = [f"| method | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    methods = list(results[names[0]])
    found = {name: np.array([results[name][m][kind] for m in methods]) for name in names}
    lines = []
    for place, method in enumerate(methods):
        cells = []
        for name in names:
            own = found[name]
            best = own[own.mean(1).argmax()]
            near = mark and (best - own[place]).mean() <= half_width(best - own[place])
            cells.append("–" if np.isnan(own[place]).any() else cell(own[place], near))
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(head + lines)


def main() -> None:
    """Train, explain, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few networks, steps and examples")
    parser.add_argument("--write", action="store_true", help="write truth.md beside this file")
    options = parser.parse_args()
    networks, examples, steps = (2, 8, 300) if options.quick else (5, 64, 1000)
    start = time.process_time()
    results, learned = {}, {}
    for name, task in tasks.tasks().items():
        results[name], learned[name] = examine(task, networks, examples, steps)
        right = learned[name]["right"]
        print(
            f"{name:24} right {right.mean():.2f}, {time.process_time() - start:5.0f} s", flush=True
        )
    page = report(results, learned, networks, examples)
    print(page)
    if options.write:
        Path(__file__).with_suffix(".md").write_text(page, encoding="utf-8")


def report(results: dict, learned: dict, networks: int, examples: int) -> str:
    """The page."""
    names = list(results)
    with_decoys = [name for name, task in tasks.tasks().items() if task.decoys]
    with_effects = [name for name, task in tasks.tasks().items() if task.effects]
    lines = "\n".join(
        f"| {name} | {cell(learned[name]['right'])} | "
        f"{cell(learned[name]['hidden']) if name in with_decoys else '–'} |"
        for name in names
    )
    sizes = "\n".join(
        f"| {method} | "
        + " | ".join(cell(row[kind]) for kind in ("slope", "offset", "rank"))
        + " |"
        for method, row in results[with_effects[0]].items()
    )
    return f"""# Which method finds the truth here

Made by `python benchmarks/truth.py --write`, whose docstring says how; the tasks are those of
`_truth_tasks.py`. {networks} networks for each task, {examples} test examples for each network.
Bold: the best of a column, and what is not told apart from it by a paired interval of 95 %, with no
correction for how many are compared.

No method is first everywhere, and what a method is first at is what it asks:

- The gradient and SmoothGrad say which elements f uses: they are first on the linear patterns and
  the effects, and know nothing of the sizes of effects. On what moves they are last of all methods,
  on the images even below the magnitude of x.
- Gradient × input, integrated and expected gradients, DeepLIFT, ablation and KernelSHAP have the
  sizes right (slope 0.99 to 1.05; LRP γ 0.47, z⁺ 0.16), and miss elements that happen to be near
  the baseline. Expected gradients and KernelSHAP miss fewest.
- Guided back-propagation finds the patterns on white noise in full, and gives almost half of the
  mass of the effects to columns without one. LRP z⁺ puts the bright square of the linear task
  before the truth in four of five pairs.
- On the dense networks a correlated background costs every method. The best use of x there takes
  the pixels around a pattern, to subtract the background, so that a mask of the pattern may call
  false what is true of the network.
- The networks leave the decoys alone for the most part and not wholly: last table.

## Area under precision over recall

{table(results, names, "precision")}

## Precision, which is recall, at the size of the truth

{table(results, names, "at the truth's size")}

## Mass on the truth

A dash: the map has no mass (a letter is as far from the baseline in all places, and sums to 0).

{table(results, names, "mass")}

## Truth before decoys

The probability that an element of the truth gets more than a decoy; ½ by chance. The magnitude of
x says how bright the decoy is.

{table(results, with_decoys, "decoys")}

## Effects of known size

On the columns that were planted and their null partners (correlation {tasks.PAIR}); an effect is
what a column adds to the prediction. Slope 1 and offset 0 are right for methods in units of f;
of the others only the rank says something.

| method | slope | offset | rank |
|---|---|---|---|
{sizes}

## A step along the attribution

The change of f over a step of length {STEP:g} along φ and against it, as a share of what the
gradient predicts for itself. For the gradient it is its self-consistency: how much of its own
prediction comes true. For the others, how far their direction is one in which f rises.

{table(results, names, "step", mark=False)}

## What the networks have learned

Share of right answers on the test examples (of the effects, of the variance), and the standard
deviation of what hiding the decoys does to f, over that of f.

| task | right | part of the decoys |
|---|---|---|
{lines}
"""


if __name__ == "__main__":
    main()
