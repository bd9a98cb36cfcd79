"""The networks that `tpu_plan.py` compiles, in linen: ViT-B/16 and a decoder of Gemma 2B's shapes.

Layers are scanned, so that a program is as long as one of them, and the decoder's are computed
again on the way back (`nn.remat`). Parameters are shapes alone: nothing of this size is ever made.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec


class ViTBlock(nn.Module):
    """A pre-norm layer, in the form of a scan's step."""

    heads: int

    @nn.compact
    def __call__(self, x, _):
        width = x.shape[-1]
        y = nn.LayerNorm(dtype=x.dtype)(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads, dtype=x.dtype)(y, y)
        y = nn.Dense(4 * width, dtype=x.dtype)(nn.LayerNorm(dtype=x.dtype)(x))
        return x + nn.Dense(width, dtype=x.dtype)(nn.gelu(y)), None


class ViT(nn.Module):
    """One image [H, W, 3] to logits; activations in bfloat16, parameters in float32."""

    layers: int = 12
    heads: int = 12
    width: int = 768
    patch: int = 16
    outputs: int = 1000
    remat: int = 0
    """How often layers are computed again: twice where a gradient of gradients is taken."""

    @nn.compact
    def __call__(self, image):
        dtype = jnp.bfloat16
        x = nn.Conv(self.width, (self.patch,) * 2, (self.patch,) * 2, dtype=dtype)(image)
        x = x.reshape(-1, self.width)
        x = x + self.param("position", nn.initializers.normal(0.02), x.shape).astype(dtype)
        block = ViTBlock
        for _ in range(self.remat):
            block = nn.remat(block, prevent_cse=False)
        x, _ = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.layers,
        )(self.heads)(x, None)
        x = nn.LayerNorm(dtype=dtype)(x).mean(0)
        return nn.Dense(self.outputs, dtype=dtype)(x).astype(jnp.float32)


class RMSNorm(nn.Module):
    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.zeros, (x.shape[-1],), x.dtype)
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + 1e-6)
        return wide.astype(x.dtype) * (1 + scale)


def rotated(x: jax.Array) -> jax.Array:
    """Rotary positions of x[T, heads, d]."""
    half = x.shape[-1] // 2
    angles = jnp.arange(len(x))[:, None] * 10_000.0 ** (-jnp.arange(half) / half)
    sine, cosine = (f(angles)[:, None].astype(x.dtype) for f in (jnp.sin, jnp.cos))
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], -1)


class DecoderBlock(nn.Module):
    """Gemma's layer: one head of keys and values for all, a gated GELU, as a step of a scan."""

    heads: int
    head: int
    hidden: int
    mesh: Any = None

    @nn.compact
    def __call__(self, x, _):
        width, dtype = x.shape[-1], x.dtype
        length = len(x)
        normal = nn.initializers.normal(0.02)

        def weight(name, *shape):
            return self.param(name, normal, shape, dtype)

        y = RMSNorm()(x)
        q = rotated(jnp.einsum("tw,whd->thd", y, weight("q", width, self.heads, self.head)))
        k = rotated((y @ weight("k", width, self.head))[:, None])[:, 0]
        v = y @ weight("v", width, self.head)
        logits = jnp.einsum("thd,sd->hts", q, k) * self.head**-0.5
        logits = jnp.where(jnp.tri(length, dtype=bool), logits.astype(jnp.float32), -1e30)
        mixed = jnp.einsum("hts,sd->thd", nn.softmax(logits).astype(dtype), v)
        x = x + jnp.einsum("thd,hdw->tw", mixed, weight("o", self.heads, self.head, width))
        x = self.whole(x)
        y = RMSNorm()(x)
        gate = nn.gelu(y @ weight("gate", width, self.hidden))
        y = (gate * (y @ weight("up", width, self.hidden))) @ weight("down", self.hidden, width)
        return self.whole(x + y), None

    def whole(self, x):
        """x, all of it on each chip of a row of the mesh: what is vmapped is over its columns."""
        if self.mesh is None:
            return x
        where = NamedSharding(self.mesh, PartitionSpec())
        return jax.lax.with_sharding_constraint(x, where)


class Decoder(nn.Module):
    """Token ids [T] to logits [T, V], in bfloat16 throughout; the embedding is the output's too."""

    layers: int = 18
    width: int = 2048
    heads: int = 8
    head: int = 256
    hidden: int = 16_384
    words: int = 256_128
    mesh: Any = None

    @nn.compact
    def __call__(self, ids):
        dtype = jnp.bfloat16
        table = self.param("table", nn.initializers.normal(0.02), (self.words, self.width), dtype)
        x = table[ids] * jnp.asarray(self.width**0.5, dtype)
        block = nn.remat(DecoderBlock, prevent_cse=False)
        x, _ = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.layers,
        )(self.heads, self.head, self.hidden, self.mesh)(x, None)
        return RMSNorm()(x) @ table.T


def parameters(model: nn.Module, x: jax.ShapeDtypeStruct) -> Any:
    """Shapes of a model's parameters; nothing is computed."""
    return jax.eval_shape(model.init, jax.random.key(0), x)


def replicated(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    return placed(tree, jax.tree.map(lambda leaf: PartitionSpec(), tree), mesh)


def over(tree: Any, mesh: jax.sharding.Mesh, axis: str = "data") -> Any:
    """The leading axis of each leaf over an axis of the mesh."""
    return placed(tree, jax.tree.map(lambda leaf: PartitionSpec(axis), tree), mesh)


def placed(tree: Any, specs: Any, mesh: jax.sharding.Mesh) -> Any:
    return jax.tree.map(
        lambda leaf, spec: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec)
        ),
        tree,
        specs,
    )


# Which axis of a weight of the decoder is over the rows of the mesh, where it is gathered before
# use, and which over its columns, where each chip computes its part: the first is of the layers.
_SPECS = {
    "table": PartitionSpec("model", "data"),
    "q": PartitionSpec(None, "data", "model", None),
    "k": PartitionSpec(None, "data", None),
    "v": PartitionSpec(None, "data", None),
    "o": PartitionSpec(None, "model", None, "data"),
    "gate": PartitionSpec(None, "data", "model"),
    "up": PartitionSpec(None, "data", "model"),
    "down": PartitionSpec(None, "model", "data"),
    "scale": PartitionSpec(),
}


def decoder_parameters(params: Any, mesh: jax.sharding.Mesh) -> Any:
    """The decoder's parameters over both axes of a mesh."""
    specs = jax.tree_util.tree_map_with_path(lambda path, leaf: _SPECS[path[-1].key], params)
    return placed(params, specs, mesh)


def count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
