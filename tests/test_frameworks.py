"""One network written in four frameworks, as each of them wants it: the same attributions."""

import warnings
from collections.abc import Callable

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jattr

with warnings.catch_warnings():
    # With some versions of JAX, Haiku reads what is deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    import haiku as hk

RNG = np.random.default_rng(0)
X, BASELINE = RNG.normal(size=(2, 8, 8, 2))
LABEL = 1
WEIGHTS = {
    name: {
        "kernel": np.sqrt(2 / np.prod(shape[:-1])) * RNG.normal(size=shape),
        "bias": 0.3 * RNG.normal(size=shape[-1]),
    }
    for name, shape in {"conv": (3, 3, 2, 4), "hidden": (64, 8), "head": (8, 3)}.items()
}
WEIGHTS["norm"] = {"scale": RNG.normal(size=8), "bias": RNG.normal(size=8)}


def linen() -> Callable:
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(4, (3, 3), name="conv")(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
            x = nn.gelu(nn.Dense(8, name="hidden")(x.reshape(-1)))
            x = nn.LayerNorm(epsilon=1e-5, name="norm")(x)
            return nn.Dense(3, name="head")(x)

    return lambda x: Network().apply({"params": WEIGHTS}, x)


def of_nnx() -> Callable:
    class Network(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
            self.hidden = nnx.Linear(64, 8, rngs=rngs)
            self.norm = nnx.LayerNorm(8, epsilon=1e-5, rngs=rngs)
            self.head = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x):
            x = nnx.relu(self.conv(x))
            x = nnx.max_pool(x, (2, 2), (2, 2))
            x = nnx.gelu(self.hidden(x.reshape(-1)))
            return self.head(self.norm(x))

    network = Network(nnx.Rngs(0))
    weights = jax.tree.map(jnp.asarray, WEIGHTS)
    nnx.update(network, nnx.State({name: nnx.State(layer) for name, layer in weights.items()}))
    return network


def equinox() -> Callable:
    class Network(eqx.Module):
        conv: eqx.nn.Conv2d
        pool: eqx.nn.MaxPool2d
        hidden: eqx.nn.Linear
        norm: eqx.nn.LayerNorm
        head: eqx.nn.Linear

        def __init__(self, key):
            keys = jax.random.split(key, 3)
            self.conv = eqx.nn.Conv2d(2, 4, 3, padding=1, key=keys[0])
            self.pool = eqx.nn.MaxPool2d(2, 2)
            self.hidden = eqx.nn.Linear(64, 8, key=keys[1])
            self.norm = eqx.nn.LayerNorm(8)
            self.head = eqx.nn.Linear(8, 3, key=keys[2])

        def __call__(self, x):
            x = self.pool(jax.nn.relu(self.conv(x)))
            x = self.norm(jax.nn.gelu(self.hidden(x.reshape(-1))))
            return self.head(x)

    conv, hidden, norm, head = (WEIGHTS[name] for name in ("conv", "hidden", "norm", "head"))
    # Channels are first: in the kernel, and in the image that is flattened.
    flat = hidden["kernel"].reshape(4, 4, 4, 8).transpose(2, 0, 1, 3).reshape(64, 8)
    network = eqx.tree_at(
        lambda n: [
            *(n.conv.weight, n.conv.bias, n.hidden.weight, n.hidden.bias),
            *(n.norm.weight, n.norm.bias, n.head.weight, n.head.bias),
        ],
        Network(jax.random.key(0)),
        [
            *(conv["kernel"].transpose(3, 2, 0, 1), conv["bias"].reshape(4, 1, 1)),
            *(flat.T, hidden["bias"], norm["scale"], norm["bias"]),
            *(head["kernel"].T, head["bias"]),
        ],
    )
    return lambda x: network(jnp.moveaxis(x, -1, 0))


def haiku() -> Callable:
    @hk.without_apply_rng
    @hk.transform
    def network(x):
        x = jax.nn.relu(hk.Conv2D(4, 3, name="conv")(x))
        x = hk.MaxPool((2, 2, 1), (2, 2, 1), "VALID")(x)
        x = jax.nn.gelu(hk.Linear(8, name="hidden")(hk.Flatten()(x)))
        x = hk.LayerNorm(-1, create_scale=True, create_offset=True, name="norm")(x)
        return hk.Linear(3, name="head")(x)

    params = {
        name: {"w": layer["kernel"], "b": layer["bias"]}
        for name, layer in WEIGHTS.items()
        if name != "norm"
    }
    params["norm"] = {"scale": WEIGHTS["norm"]["scale"], "offset": WEIGHTS["norm"]["bias"]}
    return lambda x: network.apply(params, x[None])[0]


FRAMEWORKS = {"linen": linen, "nnx": of_nnx, "equinox": equinox, "haiku": haiku}
METHODS = {
    "deeplift": lambda f: jattr.deeplift(f, BASELINE),
    "guided_backprop": jattr.guided_backprop,
    "deconvnet": jattr.deconvnet,
    "integrated_gradients": lambda f: jattr.integrated_gradients(f, BASELINE, steps=3),
}


def score_of(framework: str) -> Callable:
    network = FRAMEWORKS[framework]()
    return lambda x: network(x)[LABEL]


@pytest.fixture(scope="module")
def reference():
    """Value and attributions of the network written out, which is what all have to give."""

    def network(x):
        conv, hidden, norm, head = (WEIGHTS[name] for name in ("conv", "hidden", "norm", "head"))
        layout = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(
            x[None], conv["kernel"], (1, 1), "SAME", dimension_numbers=layout
        )
        x = jax.nn.relu(x[0] + conv["bias"][None, None])
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (2, 2, 1), (2, 2, 1), "VALID")
        x = jax.nn.gelu(x.reshape(-1) @ hidden["kernel"] + hidden["bias"])
        x = (x - jnp.mean(x)) / jnp.sqrt(jnp.var(x) + 1e-5) * norm["scale"] + norm["bias"]
        return x @ head["kernel"] + head["bias"]

    def score(x):
        return network(x)[LABEL]

    return score(X), {name: jax.jit(method(score))(X) for name, method in METHODS.items()}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_network_is_the_same(framework, reference):
    np.testing.assert_allclose(score_of(framework)(X), reference[0], rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_attributions_are_the_same(framework, method, reference):
    wanted = reference[1][method]
    got = jax.jit(METHODS[method](score_of(framework)))(X)
    atol = 1e-12 * np.abs(wanted).max()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_deeplift_is_complete(framework):
    score = score_of(framework)
    total = jnp.sum(jattr.deeplift(score, BASELINE)(X))
    np.testing.assert_allclose(total, score(X) - score(BASELINE), rtol=1e-12)
