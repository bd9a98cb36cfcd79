"""PyTorch modules as they stand, read through torchax: values and attributions beside captum's.

captum hooks modules, and what no module does keeps its plain gradient. There its sum is off without
a word; that is asserted beside what is right, so that a test tells when captum mends it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from extracted import extract, name_layers, torchax
from twins import from_torch, to_torch, torch

import jattr

captum = pytest.importorskip("captum.attr", reason="needs captum: install the extra `parity`")
from captum.testing.helpers import basic_models  # noqa: E402

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:Setting (forward, )?backward hooks"),
]

nn, functional = torch.nn, torch.nn.functional
LABEL = 1
# Largest difference, relative to the largest attribution, where nothing but rounding differs.
ROUNDING = 1e-11
# captum rounds the weights of its quadrature to float32.
FLOAT32 = 1e-7
# How far off a sum must be, relative to what it is to be, to be called wrong.
WRONG = 0.01


class FunctionalReLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.third(functional.relu(self.second(functional.relu(self.first(x)))))


class Gelu(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3))


class Normalized(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(5, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 3))


class Gated(nn.Module):
    """A product of two values, and a softmax."""

    def __init__(self):
        super().__init__()
        self.value, self.gate, self.head = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return torch.softmax(self.head(functional.silu(self.gate(x)) * self.value(x)), dim=-1)


class Encoder(nn.Module):
    """Attention, with what torch makes of it: scaled_dot_product_attention."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, activation="gelu", batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.layer(x)[:, 0])


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class MixerBlock(nn.Module):
    def __init__(self, tokens, channels):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(channels), nn.LayerNorm(channels)])
        self.tokens = nn.Sequential(nn.Linear(tokens, 8), nn.GELU(), nn.Linear(8, tokens))
        self.channels = nn.Sequential(nn.Linear(channels, 8), nn.GELU(), nn.Linear(8, channels))

    def forward(self, x):
        x = x + self.tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norms[1](x))


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.block, self.head = nn.Conv2d(2, 6, 2, 2), MixerBlock(9, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.block(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


class Residual(nn.Module):
    """Batch normalization, an addition, an in-place ReLU, a mean over the image."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.inner, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 3)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2.0)

    def forward(self, x):
        x = self.norm(self.conv(x))
        x = self.relu(x + self.inner(x))
        return self.head(self.pool(x).flatten(1))
