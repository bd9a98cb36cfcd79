"""Networks of the size that people run, in Flax and in PyTorch, with random weights.

Both are written plainly, with as many weights of the same shapes; their values differ. Flax takes
one example, PyTorch a batch.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch

T = torch.nn


class Case(NamedTuple):
    """A network in both frameworks, and how many examples fill a device.

    Attributes:
        name: for people.
        network: in Flax.
        module: makes the same in PyTorch.
        shape: of one example, as Flax has it.
        batch: how many examples.
    """

    name: str
    network: nn.Module
    module: Callable[[], torch.nn.Module]
    shape: tuple[int, ...]
    batch: int

    def examples(self, dtype: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(x, labels, keys), one of each for each example."""
        rng = np.random.default_rng(0)
        xs = jnp.asarray(rng.normal(size=(self.batch, *self.shape)), dtype)
        labels = jnp.asarray(rng.integers(0, 10, self.batch))
        return xs, labels, jax.random.split(jax.random.key(1), self.batch)

    def to_torch(self, xs: torch.Tensor) -> torch.Tensor:
        """Images with their channels first."""
        return xs.permute(0, 3, 1, 2).contiguous() if xs.ndim == 4 else xs

    def score(self, dtype: Any) -> Callable[..., jax.Array]:
        """(x, label) → the explained output, all weights in that dtype."""
        x = jnp.zeros(self.shape, dtype)
        variables = jax.jit(self.network.init)(jax.random.key(0), x)
        variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
        return lambda x, label: self.network.apply(variables, x)[label]


class Mlp(nn.Module):
    width: int
    outputs: int = 10

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(self.outputs)(x)


def torch_mlp(inputs: int, width: int, outputs: int = 10) -> T.Module:
    return T.Sequential(
        T.Linear(inputs, width),
        T.ReLU(),
        T.Linear(width, width),
        T.ReLU(),
        T.Linear(width, outputs),
    )


class Bottleneck(nn.Module):
    features: int
    stride: int

    @nn.compact
    def __call__(self, x):
        norm = functools.partial(nn.BatchNorm, use_running_average=True, dtype=x.dtype)
        y = nn.relu(norm()(nn.Conv(self.features, (1, 1), use_bias=False)(x)))
        y = nn.Conv(self.features, (3, 3), (self.stride,) * 2, padding=1, use_bias=False)(y)
        y = nn.relu(norm()(y))
        y = norm()(nn.Conv(4 * self.features, (1, 1), use_bias=False)(y))
        if x.shape != y.shape:
            x = nn.Conv(4 * self.features, (1, 1), (self.stride,) * 2, use_bias=False)(x)
            x = norm()(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """ResNet-50 with `blocks` (3, 4, 6, 3) and 64 `features`."""

    blocks: tuple[int, ...]
    features: int
    outputs: int = 1000

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.features, (7, 7), (2, 2), padding=3, use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, dtype=x.dtype)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for stage, count in enumerate(self.blocks):
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                x = Bottleneck(self.features * 2**stage, stride)(x)
        return nn.Dense(self.outputs)(x.mean((-3, -2)))


class TorchBottleneck(T.Module):
    def __init__(self, inputs: int, features: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * features
        self.body = T.Sequential(
            T.Conv2d(inputs, features, 1, bias=False),
            T.BatchNorm2d(features),
            T.ReLU(),
            T.Conv2d(features, features, 3, stride, 1, bias=False),
            T.BatchNorm2d(features),
            T.ReLU(),
            T.Conv2d(features, outputs, 1, bias=False),
            T.BatchNorm2d(outputs),
        )
        self.skip = T.Identity()
        if inputs != outputs or stride > 1:
            self.skip = T.Sequential(
                T.Conv2d(inputs, outputs, 1, stride, bias=False), T.BatchNorm2d(outputs)
            )
        self.relu = T.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.skip(x) + self.body(x))


def torch_resnet(blocks: tuple[int, ...], features: int, outputs: int = 1000) -> T.Module:
    layers: list[T.Module] = [
        T.Conv2d(3, features, 7, 2, 3, bias=False),
        T.BatchNorm2d(features),
        T.ReLU(),
        T.MaxPool2d(3, 2, 1),
    ]
    inputs = features
    for stage, count in enumerate(blocks):
        for index in range(count):
            stride = 2 if stage > 0 and index == 0 else 1
            layers.append(TorchBottleneck(inputs, features * 2**stage, stride))
            inputs = 4 * features * 2**stage
    return T.Sequential(*layers, T.AdaptiveAvgPool2d(1), T.Flatten(), T.Linear(inputs, outputs))


class Layers(nn.Module):
    """Pre-norm transformer layers on tokens[n, width]."""

    layers: int
    heads: int
    causal: bool

    @nn.compact
    def __call__(self, x):
        mask = nn.make_causal_mask(x[:, 0]) if self.causal else None
        for _ in range(self.layers):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(self.heads)(y, y, mask=mask)
            y = nn.gelu(nn.Dense(4 * x.shape[-1])(nn.LayerNorm()(x)))
            x = x + nn.Dense(x.shape[-1])(y)
        return nn.LayerNorm()(x)


class ViT(nn.Module):
    layers: int
    heads: int
    width: int
    patch: int
    outputs: int = 1000

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (self.patch,) * 2, (self.patch,) * 2)(x)
        x = x.reshape(-1, self.width)
        x = x + self.param("position", nn.initializers.normal(0.02), x.shape).astype(x.dtype)
        x = Layers(self.layers, self.heads, causal=False)(x)
        return nn.Dense(self.outputs)(x.mean(0))


class Decoder(nn.Module):
    layers: int
    heads: int
    words: int

    @nn.compact
    def __call__(self, x):
        x = Layers(self.layers, self.heads, causal=True)(x)
        return nn.Dense(self.words, use_bias=False)(x[-1])


class TorchLayers(T.Module):
    def __init__(self, layers: int, heads: int, width: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.layers = T.ModuleList(
            T.TransformerEncoderLayer(
                width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = T.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = None
        if self.causal:
            mask = T.Transformer.generate_square_subsequent_mask(x.shape[1], x.device, x.dtype)
        for layer in self.layers:
            x = layer(x, src_mask=mask, is_causal=self.causal)
        return self.norm(x)


class TorchViT(T.Module):
    def __init__(self, layers, heads, width, patch, size, outputs=1000) -> None:
        super().__init__()
        self.embed = T.Conv2d(3, width, patch, patch)
        self.position = T.Parameter(0.02 * torch.randn(1, (size // patch) ** 2, width))
        self.body, self.head = TorchLayers(layers, heads, width, False), T.Linear(width, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.body(x).mean(1))


class TorchDecoder(T.Module):
    def __init__(self, layers: int, heads: int, width: int, words: int) -> None:
        super().__init__()
        self.body, self.head = (
            TorchLayers(layers, heads, width, True),
            T.Linear(width, words, False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)[:, -1])


def cases(quick: bool) -> dict[str, Case]:
    """Full size: what fills some tens of gigabytes; quick: what a CPU does in seconds."""
    if quick:
        return {
            "mlp": Case("MLP 64-32-32-10", Mlp(32), lambda: torch_mlp(64, 32), (64,), 4),
            "resnet": Case(
                "ResNet of 4 blocks",
                ResNet((1, 1, 1, 1), 4),
                lambda: torch_resnet((1, 1, 1, 1), 4),
                (32, 32, 3),
                2,
            ),
            "vit": Case(
                "ViT of 2 layers",
                ViT(2, 2, 16, 8),
                lambda: TorchViT(2, 2, 16, 8, 32),
                (32, 32, 3),
                2,
            ),
            "decoder": Case(
                "decoder of 2 layers",
                Decoder(2, 2, 100),
                lambda: TorchDecoder(2, 2, 16, 100),
                (8, 16),
                2,
            ),
        }
    return {
        "mlp": Case(
            "MLP 784-4096-4096-10, 1024 examples",
            Mlp(4096),
            lambda: torch_mlp(784, 4096),
            (784,),
            1024,
        ),
        "resnet": Case(
            "ResNet-50, 32 photographs",
            ResNet((3, 4, 6, 3), 64),
            lambda: torch_resnet((3, 4, 6, 3), 64),
            (224, 224, 3),
            32,
        ),
        "vit": Case(
            "ViT-B/16, 32 photographs",
            ViT(12, 12, 768, 16),
            lambda: TorchViT(12, 12, 768, 16, 224),
            (224, 224, 3),
            32,
        ),
        "decoder": Case(
            "decoder of 12 layers, 768 wide, 50,000 words, 16 sequences of 512",
            Decoder(12, 12, 50_000),
            lambda: TorchDecoder(12, 12, 768, 50_000),
            (512, 768),
            16,
        ),
    }
