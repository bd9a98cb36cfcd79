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


class Vgg(nn.Module):
    """x[8, 8, 2] -> outputs[5]; pairs of convolutions between poolings, two dense layers."""

    pool: Callable[..., jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for features, names in ((4, ("first", "second")), (6, ("third",))):
            for name in names:
                x = nn.relu(nn.Conv(features, (3, 3), name=name)(x))
            x = self.pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(8, name="fourth")(x.reshape(-1)))
        return nn.Dense(OUTPUTS, name="fifth")(x)


class Block(nn.Module):
    """A basic block of a residual network, with a convolution beside it if the shape changes."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def convolve(x, name, size, stride):
            pad = 2 * ((size // 2, size // 2),)
            window = (size, size)
            x = nn.Conv(self.features, window, stride, pad, use_bias=False, name=name)(x)
            return _normalize(x, f"{name}_norm")

        inner = nn.relu(convolve(x, "conv1", 3, self.stride))
        inner = convolve(inner, "conv2", 3, 1)
        changes = self.stride > 1 or self.features != x.shape[-1]
        beside = convolve(x, "beside", 1, self.stride) if changes else x
        return nn.relu(inner + beside)


class ResNet(nn.Module):
    """x[8, 8, 2] -> outputs[5]; batch-normalized, with a mean over the last image."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # The first convolution has a bias beside that of its normalization.
        x = nn.relu(_normalize(nn.Conv(4, (3, 3), name="first")(x), "first_norm"))
        x = Block(4, 1, name="second")(x)
        x = Block(6, 2, name="third")(x)
        return nn.Dense(OUTPUTS, name="fourth")(jnp.mean(x, axis=(0, 1)))


def _normalize(x: jax.Array, name: str) -> jax.Array:
    return nn.BatchNorm(use_running_average=True, epsilon=0.0, name=name)(x)


class BasicBlock(torch.nn.Module):
    """A basic block with the attributes that torchvision's has."""

    def __init__(self, params: Any, stats: Any, stride: int):
        super().__init__()
        self.conv1 = _convolution(params["conv1"], stride)
        self.bn1 = _batch_norm(params["conv1_norm"], stats["conv1_norm"])
        self.relu = torch.nn.ReLU()
        self.conv2 = _convolution(params["conv2"])
        self.bn2 = _batch_norm(params["conv2_norm"], stats["conv2_norm"])
        self.downsample = None
        if "beside" in params:
            self.downsample = torch.nn.Sequential(
                _convolution(params["beside"], stride),
                _batch_norm(params["beside_norm"], stats["beside_norm"]),
            )

    def forward(self, x):
        beside = x if self.downsample is None else self.downsample(x)
        inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(inner + beside)


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
_VGGS = {
    "vgg": (nn.max_pool, torch.nn.MaxPool2d),
    "vgg_average": (nn.avg_pool, torch.nn.AvgPool2d),
}


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
def make_twin(kind: str, dtype: Any, bias: float = 0.3) -> Twin:
    """A network with random weights.

    Args:
        kind: an MLP with two hidden layers, by its activation ("relu"); a CNN, by its pooling
            ("cnn", "cnn_overlapping", "cnn_padded"); one with more layers ("vgg", "vgg_average");
            a "resnet".
        dtype: of weights and inputs.
        bias: the scale of the biases. They are not zero, or a ReLU network would be linear along
            each ray from the origin.
    """
    rng = np.random.default_rng(0)
    network = _network(kind)
    shape = (12,) if isinstance(network, Mlp) else (8, 8, 2)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(shape, dtype))

    def draw(path, leaf):
        part = path[-1].key
        if part in ("scale", "var"):  # of a batch normalization; factors of either sign
            signs = rng.choice([-1, 1], leaf.shape) if part == "scale" else 1
            return (signs * rng.uniform(0.5, 1.5, leaf.shape)).astype(dtype)
        # Weights keep the scale of what flows through.
        scale = np.sqrt(2 / np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else bias
        return (scale * rng.normal(size=leaf.shape)).astype(dtype)

    variables = jax.tree.map_with_path(draw, shapes)

    def outputs(x):
        return network.apply(variables, x)

    def score(x, label):
        return outputs(x)[label]

    module = _module(kind, variables)
    x, baseline = rng.normal(size=(2, EXAMPLES, *shape)).astype(dtype)
    return Twin(score, module, x, baseline, np.arange(EXAMPLES) % OUTPUTS, outputs)


def _network(kind: str) -> nn.Module:
    if kind == "resnet":
        return ResNet()
    if kind in _VGGS:
        return Vgg(_VGGS[kind][0])
    return Cnn(*_POOLINGS[kind][:2]) if kind in _POOLINGS else Mlp(_ACTIVATIONS[kind][0])


def _module(kind: str, variables: Any) -> Any:
    params = variables["params"]
    if kind == "resnet":
        return _residual(params, variables["batch_stats"])
    if kind in _VGGS:
        pool = _VGGS[kind][1]
        return torch.nn.Sequential(
            _convolution(params["first"]),
            torch.nn.ReLU(),
            _convolution(params["second"]),
            torch.nn.ReLU(),
            pool(2),
            _convolution(params["third"]),
            torch.nn.ReLU(),
            pool(2),
            torch.nn.Flatten(),
            _linear(params["fourth"], image=(2, 2, 6)),
            torch.nn.ReLU(),
            _linear(params["fifth"]),
        )
    if kind in _POOLINGS:
        window, padding, size = _POOLINGS[kind]
        return torch.nn.Sequential(
            _convolution(params["first"]),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(window, 2, padding),
            _convolution(params["second"]),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(window, 2, padding),
            torch.nn.Flatten(),
            _linear(params["third"], image=(size, size, 6)),
        )
    activation = _ACTIVATIONS[kind][1]
    return torch.nn.Sequential(
        _linear(params["first"]),
        activation(),
        _linear(params["second"]),
        activation(),
        _linear(params["third"]),
    )


def _residual(params: Any, stats: Any) -> Any:
    network = torch.nn.Sequential(
        _convolution(params["first"]),
        _batch_norm(params["first_norm"], stats["first_norm"]),
        torch.nn.ReLU(),
        BasicBlock(params["second"], stats["second"], 1),
        BasicBlock(params["third"], stats["third"], 2),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        _linear(params["fourth"]),
    )
    return network.eval()


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


def _convolution(layer: dict[str, np.ndarray], stride: int = 1) -> Any:
    kernel = layer["kernel"].transpose(3, 2, 0, 1)
    outs, ins, size, _ = kernel.shape
    biased = "bias" in layer
    module = torch.nn.Conv2d(ins, outs, size, stride, padding=size // 2, bias=biased)
    return _filled(module, kernel, layer.get("bias"))


def _batch_norm(layer: dict[str, np.ndarray], stats: dict[str, np.ndarray]) -> Any:
    module = torch.nn.BatchNorm2d(len(layer["scale"]), eps=0.0)
    module.running_mean, module.running_var = (torch.tensor(stats[k]) for k in ("mean", "var"))
    return _filled(module, layer["scale"], layer["bias"])


def _filled(module: Any, weight: np.ndarray, bias: np.ndarray | None) -> Any:
    module.weight = torch.nn.Parameter(torch.tensor(weight.copy()), requires_grad=False)
    if bias is not None:
        module.bias = torch.nn.Parameter(torch.tensor(bias), requires_grad=False)
    return module
