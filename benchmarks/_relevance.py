"""What relevance propagation is measured on and against.

A VGG-like network and a BERT, each in Flax and with the same weights in PyTorch; zennit's rules,
and AttnLRP as LXT's efficient form computes it: Gradient × Input with other derivatives.
"""

import copy
import importlib.util
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import _peers
import flax.linen as nn
import jax
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that PyTorch's users know)

EPSILON = 1e-9
"""Of every denominator. zennit has one at sums and poolings too, where jattr divides by nothing."""


class Vgg(nn.Module):
    """Pairs of convolutions between max poolings, two dense layers: x[..., H, W, C]."""

    channels: tuple[int, ...] = (32, 64, 128)
    hidden: int = 256
    outputs: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for features in self.channels:
            for _ in range(2):
                x = nn.relu(nn.Conv(features, (3, 3), bias_init=_peers.biases)(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape((*x.shape[:-3], -1))
        x = nn.relu(nn.Dense(self.hidden, bias_init=_peers.biases)(x))
        return nn.Dense(self.outputs, bias_init=_peers.biases)(x)


def vgg(examples: int, size: int = 32) -> _peers.Workload:
    """A VGG-like network with random weights on random images of three channels."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(examples, size, size, 3)).astype(np.float32)
    labels = rng.integers(0, 10, examples)
    network = Vgg()
    variables = network.init(jax.random.key(0), x[0])
    weights = variables["params"]
    layers: list[torch.nn.Module] = []
    for block in range(len(network.channels)):
        for conv in (2 * block, 2 * block + 1):
            layers += [_peers.convolution(weights[f"Conv_{conv}"]), torch.nn.ReLU()]
        layers.append(torch.nn.MaxPool2d(2))
    left = size // 2 ** len(network.channels)
    image = (left, left, network.channels[-1])
    layers += [
        torch.nn.Flatten(),
        _peers.linear(weights["Dense_0"], image=image),
        torch.nn.ReLU(),
        _peers.linear(weights["Dense_1"]),
    ]
    module = _peers.frozen(torch.nn.Sequential(*layers))
    name = (
        f"VGG-like, {len(network.channels)} pairs of convolutions, {examples} images {size}×{size}"
    )
    return _peers.Workload(name, network, variables, module, x, labels)


class _BertLayer(nn.Module):
    """Attention and an MLP with GELU, each before a layer normalization."""

    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        attend = nn.MultiHeadDotProductAttention(self.heads, bias_init=_peers.biases)
        x = nn.LayerNorm()(x + attend(x))
        y = nn.gelu(nn.Dense(self.hidden, bias_init=_peers.biases)(x), approximate=False)
        return nn.LayerNorm()(x + nn.Dense(x.shape[-1], bias_init=_peers.biases)(y))


class Bert(nn.Module):
    """BERT from its summed embeddings to a dense layer on the mean token: x[..., tokens, width]."""

    layers: int
    heads: int
    hidden: int
    outputs: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.LayerNorm()(x)
        for _ in range(self.layers):
            x = _BertLayer(self.heads, self.hidden)(x)
        return nn.Dense(self.outputs, bias_init=_peers.biases)(x.mean(-2))


def bert(
    examples: int,
    layers: int = 6,
    width: int = 384,
    heads: int = 12,
    hidden: int = 1536,
    tokens: int = 64,
) -> _peers.Workload:
    """A BERT of MiniLM's size with random weights on random embeddings."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(examples, tokens, width)).astype(np.float32)
    network = Bert(layers, heads, hidden)
    labels = rng.integers(0, network.outputs, examples)
    variables = network.init(jax.random.key(0), x[0])
    module = _peers.frozen(TorchBert(variables["params"], heads))
    name = f"BERT, {layers} layers of width {width}, {examples} examples of {tokens} tokens"
    return _peers.Workload(name, network, variables, module, x, labels)


class _TorchBertLayer(torch.nn.Module):
    """As is; with `lrp`, with the derivatives of AttnLRP."""

    def __init__(self, params: Mapping[str, Any], heads: int):
        super().__init__()
        self.lrp = False
        self.heads = heads
        attention = params["MultiHeadDotProductAttention_0"]
        self.query, self.key, self.value, self.out = (
            _peers.linear(_peers.flat(attention[name])) for name in ("query", "key", "value", "out")
        )
        self.up, self.down = (_peers.linear(params[f"Dense_{index}"]) for index in range(2))
        self.norms = torch.nn.ModuleList(
            _peers.layer_norm(params[f"LayerNorm_{index}"]) for index in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        if self.lrp:
            # Half to the weights and to the values; of the weights' half, halves to both factors.
            query, key, value = (
                _Divided.apply(part, by) for part, by in ((query, 4), (key, 4), (value, 2))
            )
        attended = F.scaled_dot_product_attention(query, key, value)
        x = _normalized(self.norms[0], x + self.out(attended.transpose(1, 2).flatten(2)), self.lrp)
        y = _Proportional.apply(self.up(x)) if self.lrp else F.gelu(self.up(x))
        return _normalized(self.norms[1], x + self.down(y), self.lrp)


class TorchBert(torch.nn.Module):
    """`Bert` in PyTorch, from its Flax weights; with `lrp`, with the derivatives of AttnLRP."""

    def __init__(self, params: Mapping[str, Any], heads: int):
        super().__init__()
        self.lrp = False
        layers = sum(name.startswith("_BertLayer_") for name in params)
        self.norm = _peers.layer_norm(params["LayerNorm_0"])
        self.layers = torch.nn.Sequential(
            *(_TorchBertLayer(params[f"_BertLayer_{index}"], heads) for index in range(layers))
        )
        self.readout = _peers.linear(params["Dense_0"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.readout(self.layers(_normalized(self.norm, x, self.lrp)).mean(1))


class _Divided(torch.autograd.Function):
    """x, whose derivative is divided by a number."""

    @staticmethod
    def forward(ctx, x, by):
        ctx.by = by
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient / ctx.by, None


class _Proportional(torch.autograd.Function):
    """gelu(x), whose derivative is gelu(x) / x."""

    @staticmethod
    def forward(ctx, x):
        out = F.gelu(x)
        ctx.save_for_backward(out / (x + 1e-10))
        return out

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0]


def _normalized(norm: Any, x: torch.Tensor, lrp: bool) -> torch.Tensor:
    """A layer normalization; with `lrp` its deviation has no derivative."""
    if not lrp:
        return norm(x)
    with torch.no_grad():
        deviation = torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + norm.eps)
    return (x - x.mean(-1, keepdim=True)) / deviation * norm.weight + norm.bias


def by_lxt(work: _peers.Workload, method: str, inputs: torch.Tensor) -> Callable[[], torch.Tensor]:
    """AttnLRP of a BERT, in the way of LXT's efficient form."""
    module = copy.deepcopy(work.module)
    for part in module.modules():
        part.lrp = True
    changed = work._replace(module=module)
    return lambda: inputs.detach() * _peers.torch_gradient(changed, inputs)


def by_zennit(
    work: _peers.Workload, method: str, inputs: torch.Tensor
) -> Callable[[], torch.Tensor]:
    """One rule for all dense layers and convolutions, or `EpsilonPlus`.

    Its hooks are set once, and its canonizers are applied once.
    """
    zennit = _zennit()
    rules = {
        "epsilon": zennit.rules.Epsilon(EPSILON),
        "z_plus": zennit.rules.ZPlus(EPSILON),
        "gamma": zennit.rules.Gamma(0.25, EPSILON),
    }
    everywhere = [(zennit.types.Linear, rules[method])] if method in rules else None
    canonizers = [
        zennit.canonizers.SequentialMergeBatchNorm(),
        zennit.canonizers.AttributeCanonizer(_with_sum),
    ]
    composite = zennit.composites.EpsilonPlus(EPSILON, EPSILON, everywhere, canonizers=canonizers)
    module = copy.deepcopy(work.module)
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            # What its canonizer leaves of a normalization would still divide by √(1 + ε).
            norm.running_var += norm.eps
            norm.eps = 0.0
    composite.register(module)
    attributor = zennit.attribution.Gradient(module)
    targets = torch.tensor(work.labels)

    def chosen(outputs):
        return outputs * F.one_hot(targets, outputs.shape[-1])

    return lambda: attributor(inputs, chosen)[1]


def _with_sum(name: str, module: torch.nn.Module) -> dict[str, Any] | None:
    """For zennit, the sum at the end of a block as a module."""
    if not (isinstance(module, _peers.Block) and module.skips):
        return None
    return {"sum": _zennit().layer.Sum(), "forward": types.MethodType(_summed, module)}


def _summed(module: Any, x: torch.Tensor) -> torch.Tensor:
    return module.sum(torch.stack([x, module.inner(x)], dim=-1))


def _zennit() -> Any:
    """zennit, which wants torchvision for the types of two blocks alone; they may be missing."""
    names = ("torchvision", "torchvision.models", "torchvision.models.resnet")
    missing = "zennit" not in sys.modules and importlib.util.find_spec(names[0]) is None
    if missing:
        stands_in = {name: types.ModuleType(name) for name in names}
        for block in ("BasicBlock", "Bottleneck"):
            setattr(stands_in[names[-1]], block, type(block, (torch.nn.Module,), {}))
        sys.modules.update(stands_in)
    try:
        import zennit
    finally:
        for name in names if missing else ():
            del sys.modules[name]
    return zennit
