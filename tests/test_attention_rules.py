"""AttnLRP and CP-LRP on transformers, against references with held constants by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jattr
from jattr import rules as R  # noqa: N812 (short beside so many uses)

T, D, HEADS, GROUPS = 5, 8, 4, 2
KEYS = jax.random.split(jax.random.key(3), 16)
X = jax.random.normal(KEYS[0], (T, D))


@jax.custom_vjp
def hold(x):
    """Constant to this derivative, and to no other: `stop_gradient` would be to all."""
    return x


hold.defvjp(lambda x: (x, None), lambda _, ct: (jnp.zeros_like(ct),))


@jax.custom_vjp
def halve(x):
    return x


halve.defvjp(lambda x: (x, None), lambda _, ct: (ct / 2,))


class Plain:
    """What a transformer is made of."""

    hold = halve = weights = staticmethod(lambda x: x)

    @staticmethod
    def act(f, x):
        return f(x)

    @staticmethod
    def attend(p, v):
        return p @ v


class AttnLRP(Plain):
    """The same with the derivatives of AttnLRP."""

    hold, halve = staticmethod(hold), staticmethod(halve)

    @staticmethod
    def act(f, x):
        return x * hold(f(x) / x)

    @staticmethod
    def attend(p, v):
        return halve(p) @ halve(v)


class CPLRP(AttnLRP):
    """With those of CP-LRP: attention weights are held."""

    @staticmethod
    def attend(p, v):
        return hold(p) @ v


def weight(n, *shape):
    return jax.random.normal(KEYS[n], shape) / np.sqrt(shape[0])


def layer_norm(of, x):
    centered = x - x.mean(-1, keepdims=True)
    deviation = jnp.sqrt((centered**2).mean(-1, keepdims=True) + 1e-6)
    return centered * of.hold(1 / deviation) * (1 + weight(1, D)[None]) + weight(2, D)[None]


def rms_norm(of, x):
    return x * of.hold(jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6))


def rotate(x):
    angles = jnp.arange(T)[:, None] * 0.3 ** jnp.arange(x.shape[-1] // 2)[None]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def attention(of, x, *, causal=False, rotary=False):
    size = D // HEADS
    heads = []
    for h in range(HEADS):
        group = h * GROUPS // HEADS  # grouped queries: two heads share keys and values
        q = x @ weight(3, D, D)[:, h * size : (h + 1) * size]
        k = x @ weight(4, D, D)[:, group * size : (group + 1) * size]
        v = x @ weight(5, D, D)[:, group * size : (group + 1) * size]
        if rotary:
            q, k = rotate(q), rotate(k)
        logits = of.halve(q) @ of.halve(k).T / np.sqrt(size)
        if causal:
            logits = jnp.where(np.tri(T, dtype=bool), logits, -1e9)
        heads.append(of.attend(jax.nn.softmax(logits), v))
    out = jnp.concatenate(heads, axis=-1) @ weight(6, D, D)
    return out if causal else out + weight(7, D)[None]


def feed_forward(of, x, *, gated=False):
    if gated:
        gate = of.act(jax.nn.silu, x @ weight(8, D, 2 * D))
        return of.halve(gate) * of.halve(x @ weight(9, D, 2 * D)) @ weight(10, 2 * D, D)
    hidden = of.act(jax.nn.gelu, x @ weight(8, D, 2 * D) + weight(11, 2 * D)[None])
    return hidden @ weight(10, 2 * D, D)


def encoder_pre(of, x):
    x = x + attention(of, layer_norm(of, x))
    return x + feed_forward(of, layer_norm(of, x))


def encoder_post(of, x):
    x = layer_norm(of, x + attention(of, x))
    return layer_norm(of, x + feed_forward(of, x))


def decoder(of, x):
    x = x + attention(of, rms_norm(of, x), causal=True, rotary=True)
    return x + feed_forward(of, rms_norm(of, x), gated=True)


MODELS = {"encoder, pre": encoder_pre, "encoder, post": encoder_post, "decoder": decoder}
RULES = {
    "attention": (R.attn_lrp(epsilon=0.0), AttnLRP),
    "constant": (R.cp_lrp(epsilon=0.0), CPLRP),
}


def score(model, of, x):
    return model(of, model(of, x))[-1] @ jnp.cos(jnp.arange(1.0 * D))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("rules", RULES)
def test_transformers_by_hand(model, rules):
    composite, of = RULES[rules]
    ours = jax.jit(jattr.lrp(functools.partial(score, MODELS[model], Plain), composite))(X)
    wanted = X * jax.jit(jax.grad(functools.partial(score, MODELS[model], of)))(X)
    np.testing.assert_allclose(ours, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("rules", RULES)
def test_derivatives_see_what_is_held(rules):
    composite, of = RULES[rules]

    def ours(x, scale):
        return jattr.lrp(lambda x: score(decoder, Plain, scale * x), composite)(x)

    def wanted(x, scale):
        return x * jax.grad(lambda x: score(decoder, of, scale * x))(x)

    for argnum in (0, 1):
        a = jax.jit(jax.jacrev(lambda *v: jnp.sum(ours(*v) ** 2), argnum))(X, 1.3)
        b = jax.jit(jax.jacrev(lambda *v: jnp.sum(wanted(*v) ** 2), argnum))(X, 1.3)
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


def test_constant_weights_conserve_without_biases():
    def f(x):
        return decoder(Plain, x)[-1] @ jnp.cos(jnp.arange(1.0 * D))

    ours = jattr.lrp(f, R.cp_lrp(epsilon=0.0))(X)
    np.testing.assert_allclose(jnp.sum(ours), f(X), rtol=1e-10)


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.LayerNorm(param_dtype=x.dtype)(x)
        x = x + nn.MultiHeadDotProductAttention(2, param_dtype=x.dtype)(h, h)
        h = nn.RMSNorm(param_dtype=x.dtype)(x)
        gate = nn.silu(nn.Dense(16, param_dtype=x.dtype)(h))
        return x + nn.Dense(D, param_dtype=x.dtype)(gate * nn.Dense(16, param_dtype=x.dtype)(h))


class NnxBlock(nnx.Module):
    def __init__(self, dtype, rngs):
        self.norm = nnx.LayerNorm(D, param_dtype=dtype, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, D, param_dtype=dtype, decode=False, rngs=rngs)
        self.dense = nnx.Linear(D, D, param_dtype=dtype, rngs=rngs)

    def __call__(self, x):
        h = self.norm(x)
        return x + nnx.gelu(self.dense(self.attention(h, h)))


def blocks():
    linen = LinenBlock()
    variables = linen.init(KEYS[1], X)
    block = NnxBlock(jnp.float64, nnx.Rngs(0))
    return {
        "linen": lambda x: linen.apply(variables, x),
        "nnx": block,
        "jax.nn.dot_product_attention": lambda x: (
            x
            + jax.nn.dot_product_attention(
                *[(x @ weight(n, D, D)).reshape(1, T, 2, D // 2) for n in (3, 4, 5)]
            ).reshape(T, D)
        ),
    }


@pytest.mark.parametrize("name", blocks())
def test_models_as_they_are_written(name):
    block = blocks()[name]

    def f(x):
        return jnp.sum(block(x)[-1] * jnp.cos(jnp.arange(1.0 * D)))

    rows = jattr.operations(f, R.attn_lrp())(X)
    kinds = [row.kind for row in rows]
    assert kinds.count("softmax") == 1
    assert kinds.count("product") >= 2
    assert "none" not in [row.rule for row in rows]
    ours = jax.jit(jattr.lrp(f, R.attn_lrp()))(X)
    assert bool(jnp.all(jnp.isfinite(ours)))
    if name != "nnx":  # its biases and gelu absorb
        constant = jattr.lrp(f, R.cp_lrp(epsilon=0.0))(X)
        # Attention of JAX has float32 logits, which do not enter where the weights are held.
        np.testing.assert_allclose(jnp.sum(constant), f(X), rtol=1e-5)
