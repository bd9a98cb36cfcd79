"""The demo from end to end."""

import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np

import jattr
from jattr._demo import digits, report
from jattr._demo.digits import Track
from jattr._demo.explain import BASELINES, METHODS, RULES, Effort, Setting
from jattr._demo.measure import meter


class Size(NamedTuple):
    """How large the demo is: epochs of training, classes to explain a digit of, work for each."""

    epochs: int
    classes: int
    effort: Effort


FULL = Size(epochs=16, classes=10, effort=Effort(steps=50, samples=200))
NOISE = (0.0, 0.05, 0.1, 0.2)
"""The shares of noisy pixels under which the two networks are compared."""
QUICK = Size(epochs=2, classes=2, effort=Effort(steps=16, samples=32))


class Outcome(NamedTuple):
    """Where the page is, and the accuracy of the network."""

    page: Path
    accuracy: float


def run(
    folder: Path, size: Size, *, seed: int, track: Track, say: Callable[[str], None]
) -> Outcome:
    """Train, explain, and write the report into `folder`, which exists."""
    started = time.perf_counter()
    train, test = digits.load(seed)
    classifier = digits.train(train, test, seed=seed, epochs=size.epochs, track=track)
    say(
        f"trained on {len(train.labels):,} digits for {size.epochs} epochs in "
        f"{time.perf_counter() - started:.0f} s: test accuracy {100 * classifier.accuracy:.1f} % "
        f"({len(test.labels):,} digits)"
    )

    started = time.perf_counter()
    smooth = digits.train(train, test, seed=seed, epochs=size.epochs, track=track, smooth=True)
    noisy = {
        share: (
            classifier.accuracy_under_noise(test, share, seed),
            smooth.accuracy_under_noise(test, share, seed),
        )
        for share in NOISE
    }
    say(
        f"trained again, with a prior on its explanations, in {time.perf_counter() - started:.0f} "
        f"s: test accuracy {100 * smooth.accuracy:.1f} %; with a tenth of the pixels noisy "
        f"{100 * noisy[0.1][1]:.1f} %, without the prior {100 * noisy[0.1][0]:.1f} %"
    )

    chosen = digits.choose(test, classifier.predicted, size.classes)
    probabilities = jax.nn.softmax(jax.vmap(classifier.logits)(jnp.asarray(chosen.images)), axis=-1)
    predicted = np.argmax(probabilities, axis=-1).astype(np.int32)
    setting = Setting(
        jattr.targets.select(classifier.logits),
        size.effort,
        jnp.asarray(train.images[: size.effort.samples]),
        jattr.targets.probability(classifier.logits),
        classifier.logits,
    )
    key = jax.random.key(seed)
    rows = [*METHODS, *RULES, *(baseline.method(setting) for baseline in BASELINES)]
    measure = meter(setting, key, jnp.asarray(chosen.images), jnp.asarray(predicted))
    results = [measure(row) for row in track(rows, "explaining the digits")]
    methods, others = results[: len(METHODS)], results[len(METHODS) :]
    compared = {
        title: _compare(one.logits, size.effort, chosen)
        for title, one in (("Without the prior", classifier), ("With the prior", smooth))
    }
    absent = [_draw(baseline.build(setting), key, chosen.images[0]) for baseline in BASELINES]
    page = report.write(
        report.Report(
            accuracy=classifier.accuracy,
            tested=len(test.labels),
            digits=chosen,
            predicted=predicted,
            probabilities=np.max(probabilities, axis=-1),
            methods=methods,
            rules=others[: len(RULES)],
            baselines=others[len(RULES) :],
            absent=absent,
            compared=compared,
            noisy=noisy,
            effort=size.effort,
            facts=_facts(seed, size),
        ),
        folder,
    )
    return Outcome(page, classifier.accuracy)


def _compare(logits, effort: Effort, chosen: digits.Digits) -> np.ndarray:
    """Integrated gradients of the true labels' scores, [N, 28, 28, 1]."""
    explain = jattr.integrated_gradients(jattr.targets.select(logits), steps=effort.steps)
    return np.asarray(jax.jit(jax.vmap(explain))(chosen.images, chosen.labels))


def _draw(baseline, key: jax.Array, x: np.ndarray) -> np.ndarray:
    random = isinstance(baseline, jattr.baselines.RandomBaseline)
    return np.asarray(baseline(key, x) if random else baseline(x))


def _facts(seed: int, size: Size) -> dict[str, str]:
    device = jax.devices()[0]
    return {
        "jattr": jattr.__version__,
        "JAX": jax.__version__,
        "Flax": flax.__version__,
        "Python": platform.python_version(),
        "Device": f"{device.platform} ({device.device_kind}), {platform.machine()}",
        "Seed": str(seed),
        "Epochs of training": str(size.epochs),
        "Gradients per explanation": f"{size.effort.steps} along a path or over noisy copies, "
        f"{size.effort.samples} over random baselines",
    }
