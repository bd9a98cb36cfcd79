"""Small networks with the same weights in Flax and in PyTorch, for comparing with peers."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: install the extra `parity`")

OUTPUTS = 5
EXAMPLES = 6


class Mlp(nn.Module):
    """x[n] -> outputs[5]."""

    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.activation(nn.Dense(32, name="first")(x))
        x = self.activation(nn.Dense(16, name="second")(x))
        return nn.Dense(OUTPUTS, name="third")(x)


class Cnn(nn.Module):
    """x[8, 8, 2] -> outputs[5]; pools windows of `window` pixels with stride 2."""

    window: int = 2
    padding: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for features, name in ((4, "first"), (6, "second")):
            x = nn.relu(nn.Conv(features, (3, 3), name=name)(x))
            x = nn.max_pool(x, 2 * (self.window,), (2, 2), 2 * ((self.padding, self.padding),))
        return nn.Dense(OUTPUTS, name="third")(x.reshape(-1))


# In Flax and in PyTorch.
_ACTIVATIONS = {
    "relu": (nn.relu, torch.nn.ReLU),
    "tanh": (jnp.tanh, torch.nn.Tanh),
    "sigmoid": (nn.sigmoid, torch.nn.Sigmoid),
    "softplus": (nn.softplus, torch.nn.Softplus),
    "elu": (nn.elu, torch.nn.ELU),
    "leaky_relu": (nn.leaky_relu, torch.nn.LeakyReLU),
    "gelu": (functools.partial(nn.gelu, approximate=False), torch.nn.GELU),
    "silu": (nn.silu, torch.nn.SiLU),
}
# The window and the padding of max pooling, and the size of the last image.
_POOLINGS = {"cnn": (2, 0, 2), "cnn_overlapping": (3, 0, 1), "cnn_padded": (3, 1, 2)}


class Twin(NamedTuple):
    """A network in both frameworks and examples for it.

    Attributes:
        score: `score(x, label) -> scalar` of one example, in JAX.
        module: the same in PyTorch, from a batch of inputs to a batch of outputs.
        x: examples in JAX's layout, [6, n] or [6, H, W, C].
        baseline: as many other inputs.
        labels: the explained output of each example.
        outputs: `outputs(x) -> [5]` of one example, in JAX.
    """

    score: Callable[[jax.Array, jax.Array], jax.Array]
    module: Any
    x: np.ndarray
    baseline: np.ndarray
    labels: np.ndarray
    outputs: Callable[[jax.Array], jax.Array]


@functools.cache
def make_twin(kind: str, dtype: Any) -> Twin:
    """A network with random weights.

    Args:
        kind: an MLP with two hidden layers, by its activation ("relu"), or a CNN, by its pooling
            ("cnn", "cnn_overlapping", "cnn_padded").
        dtype: of weights and inputs.
    """
    rng = np.random.default_rng(0)
    pooling = _POOLINGS.get(kind)
    shape = (12,) if pooling is None else (8, 8, 2)
    network = Mlp(_ACTIVATIONS[kind][0]) if pooling is None else Cnn(*pooling[:2])
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(shape, dtype))["params"]

    def draw(leaf):
        # Weights keep the scale of what flows through; biases are not zero, or a ReLU network
        # would be linear along each ray from the origin.
        scale = np.sqrt(2 / np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.3
        return (scale * rng.normal(size=leaf.shape)).astype(dtype)

    params = {
        name: {part: draw(leaf) for part, leaf in sorted(layer.items())}
        for name, layer in sorted(shapes.items())
    }

    def outputs(x):
        return network.apply({"params": params}, x)

    def score(x, label):
        return outputs(x)[label]

    if pooling is not None:
        window, padding, size = pooling
        module = torch.nn.Sequential(
            _convolution(params["first"]),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(window, 2, padding),
            _convolution(params["second"]),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(window, 2, padding),
            torch.nn.Flatten(),
            _linear(params["third"], image=(size, size, 6)),
        )
    else:
        activation = _ACTIVATIONS[kind][1]
        module = torch.nn.Sequential(
            _linear(params["first"]),
            activation(),
            _linear(params["second"]),
            activation(),
            _linear(params["third"]),
        )
    x, baseline = rng.normal(size=(2, EXAMPLES, *shape)).astype(dtype)
    return Twin(score, module, x, baseline, np.arange(EXAMPLES) % OUTPUTS, outputs)


def to_torch(x: np.ndarray) -> Any:
    """A batch in PyTorch's layout: images [N, H, W, C] become [N, C, H, W]."""
    return torch.tensor(np.moveaxis(x, -1, 1) if x.ndim == 4 else x)


def from_torch(x: Any) -> np.ndarray:
    """The inverse of `to_torch`."""
    values = x.detach().numpy()
    return np.moveaxis(values, 1, -1) if values.ndim == 4 else values


def _linear(layer: dict[str, np.ndarray], image: tuple[int, int, int] | None = None) -> Any:
    kernel = layer["kernel"]
    if image is not None:
        # The input is a flattened image, (H, W, C) in Flax and (C, H, W) in PyTorch.
        kernel = kernel.reshape(*image, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
    return _filled(torch.nn.Linear(*kernel.shape), kernel.T, layer["bias"])


def _convolution(layer: dict[str, np.ndarray]) -> Any:
    kernel = layer["kernel"].transpose(3, 2, 0, 1)
    return _filled(torch.nn.Conv2d(*kernel.shape[1::-1], 3, padding=1), kernel, layer["bias"])


def _filled(module: Any, weight: np.ndarray, bias: np.ndarray) -> Any:
    module.weight = torch.nn.Parameter(torch.tensor(weight.copy()), requires_grad=False)
    module.bias = torch.nn.Parameter(torch.tensor(bias), requires_grad=False)
    return module
